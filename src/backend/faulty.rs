//! Failure injection: a backend over a backend that counts what is asked, and fails, cuts, delays, hangs or paces what
//! it was told to. With nothing told it is the backend below.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;

use super::{
    Attributes, Backend, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Meta, Op, Path,
    RenameOptions, Result, Rights, SetAttributes, Space, Traits, Upload, Version,
};

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// It fails at once; nothing is done below.
    Fail(ErrorKind),
    /// It is done below, and fails all the same: a lost reply. A read or a listing fails after its last piece.
    LoseReply(ErrorKind),
    /// The body of a read ends in an error after so many bytes; any other operation is left alone.
    Cut(u64, ErrorKind),
    /// It begins late.
    Delay(Duration),
    /// It never ends.
    Hang,
    /// A read or a fetch panics.
    Panic,
    /// A read's first byte comes late, and the others at so many bytes a second.
    Pace(Duration, u64),
}

/// A backend that misbehaves as told. Cloning shares what was told and counted.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn Backend>,
    ledger: Arc<Mutex<Ledger>>,
    /// Reads that there may be at once; others wait for their turn.
    connections: Arc<Semaphore>,
    prefixes: bool,
    proves: bool,
}

#[derive(Debug, Default)]
struct Ledger {
    calls: HashMap<Op, u64>,
    orders: Vec<Order>,
    asked: u64,
    reading: usize,
    most_reading: usize,
}

#[derive(Debug)]
struct Order {
    op: Op,
    /// The call it comes to, counted from the first of all.
    at: u64,
    /// It comes again after so many calls; 0 for never.
    period: u64,
    fault: Fault,
}

impl Faulty {
    /// Passes everything to `inner` until told otherwise.
    pub(crate) fn new(inner: Arc<dyn Backend>) -> Faulty {
        let connections = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Faulty { inner, ledger: Arc::default(), connections, prefixes: false, proves: true }
    }

    /// Says of itself that directories are no more than prefixes of names.
    pub(crate) fn with_prefixes(self) -> Faulty {
        Faulty { prefixes: true, ..self }
    }

    /// Says of itself that what is read may lie elsewhere by now.
    pub(crate) fn without_proof(self) -> Faulty {
        Faulty { proves: false, ..self }
    }

    /// So many reads go on at once, and others wait for their turn.
    pub(crate) fn with_connections(self, count: usize) -> Faulty {
        Faulty { connections: Arc::new(Semaphore::new(count)), ..self }
    }

    /// The `nth` call of `op` from now on (1 is the next) meets `fault`.
    pub(crate) fn nth(&self, op: Op, nth: u64, fault: Fault) {
        self.order(op, nth, 0, fault);
    }

    /// Every `period`th call of `op` from now on meets `fault`.
    pub(crate) fn every(&self, op: Op, period: u64, fault: Fault) {
        self.order(op, period, period, fault);
    }

    /// Forgets what it was told.
    pub(crate) fn heal(&self) {
        self.ledger().orders.clear();
    }

    /// Calls of `op` so far. [`Op::Write`] counts `create` and `write`.
    pub(crate) fn calls(&self, op: Op) -> u64 {
        self.ledger().calls.get(&op).copied().unwrap_or_default()
    }

    /// Bytes that reads asked for so far.
    pub(crate) fn bytes_asked(&self) -> u64 {
        self.ledger().asked
    }

    /// Reads that hold a body which was not dropped yet.
    pub(crate) fn reading(&self) -> usize {
        self.ledger().reading
    }

    /// The most of them there were at once.
    pub(crate) fn most_reading(&self) -> usize {
        self.ledger().most_reading
    }

    fn order(&self, op: Op, after: u64, period: u64, fault: Fault) {
        let mut ledger = self.ledger();
        let at = ledger.calls.get(&op).copied().unwrap_or_default() + after;
        ledger.orders.push(Order { op, at, period, fault });
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Counts a call; tells what happens to it. Of several faults the one told last.
    fn count(&self, op: Op) -> Option<Fault> {
        let mut ledger = self.ledger();
        let calls = ledger.calls.entry(op).or_default();
        *calls += 1;
        let now = *calls;
        let meets = |order: &Order| {
            order.op == op
                && (order.at == now
                    || (order.period > 0 && now > order.at && (now - order.at).is_multiple_of(order.period)))
        };
        ledger.orders.iter().rev().find(|order| meets(order)).map(|order| order.fault)
    }

    /// Does `work` as the fault has it.
    async fn meet<T>(&self, op: Op, path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.count(op) {
            Some(Fault::Fail(kind)) => Err(staged(kind, op, path)),
            Some(Fault::LoseReply(kind)) => {
                work.await?;
                Err(staged(kind, op, path))
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::Hang) => future::pending().await,
            Some(Fault::Panic) => panic!("staged by a test"),
            Some(Fault::Cut(..) | Fault::Pace(..)) | None => work.await,
        }
    }
}

fn staged(kind: ErrorKind, op: Op, path: &Path) -> Error {
    Error::new(kind, op, path, "staged by a test")
}

/// Counts a read while it lives.
#[derive(Debug)]
struct Reading(Faulty);

impl Reading {
    fn begin(faulty: &Faulty) -> Reading {
        let mut ledger = faulty.ledger();
        ledger.reading += 1;
        ledger.most_reading = ledger.most_reading.max(ledger.reading);
        Reading(faulty.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.ledger().reading -= 1;
    }
}

fn cut(body: BoxStream<'static, Result<Bytes>>, after: u64, error: Error) -> BoxStream<'static, Result<Bytes>> {
    let kept = body.scan(after, |left, piece| {
        let kept = piece.map(|mut piece| {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            piece
        });
        future::ready(kept.as_ref().is_ok_and(|piece| !piece.is_empty()).then_some(kept))
    });
    kept.chain(stream::iter([Err(error)])).boxed()
}

fn pace(body: BoxStream<'static, Result<Bytes>>, per_second: u64) -> BoxStream<'static, Result<Bytes>> {
    let begin = tokio::time::Instant::now();
    let mut sent = 0;
    body.then(move |piece| {
        sent += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let due = begin + Duration::from_secs_f64(sent as f64 / per_second as f64);
        async move {
            tokio::time::sleep_until(due).await;
            piece
        }
    })
    .boxed()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Faulty {
    fn traits(&self) -> Traits {
        let traits = self.inner.traits();
        Traits {
            real_directories: traits.real_directories && !self.prefixes,
            read_proves_path: traits.read_proves_path && self.proves,
            ..traits
        }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.meet(Op::Stat, path, self.inner.stat(path)).await
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        let (faulty, dir) = (self.clone(), dir.clone());
        stream::once(async move {
            let fault = faulty.count(Op::List);
            let entries = faulty.inner.list(&dir);
            match fault {
                Some(Fault::Fail(kind)) => stream::iter([Err(staged(kind, Op::List, &dir))]).boxed(),
                Some(Fault::LoseReply(kind)) => {
                    entries.chain(stream::iter([Err(staged(kind, Op::List, &dir))])).boxed()
                }
                Some(Fault::Delay(time)) => {
                    tokio::time::sleep(time).await;
                    entries
                }
                Some(Fault::Hang) => stream::pending().boxed(),
                Some(Fault::Cut(..) | Fault::Pace(..) | Fault::Panic) | None => entries,
            }
        })
        .flatten()
        .boxed()
    }

    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        let fault = self.count(Op::Read);
        self.ledger().asked += range.end - range.start;
        let reading = Reading::begin(self);
        let connection = self.connections.clone().acquire_owned().await;
        // No store answers before it is waited for.
        tokio::task::yield_now().await;
        match fault {
            Some(Fault::Fail(kind)) => return Err(staged(kind, Op::Read, &file.path)),
            Some(Fault::Delay(time) | Fault::Pace(time, _)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => future::pending().await,
            Some(Fault::Panic) => panic!("staged by a test"),
            Some(Fault::Cut(..) | Fault::LoseReply(_)) | None => {}
        }
        let length = range.end - range.start;
        let body = self.inner.read(file, range, why).await?;
        let body = match fault {
            Some(Fault::Cut(after, kind)) => cut(body, after.min(length), staged(kind, Op::Read, &file.path)),
            Some(Fault::LoseReply(kind)) => cut(body, length, staged(kind, Op::Read, &file.path)),
            Some(Fault::Pace(_, per_second)) => pace(body, per_second),
            _ => body,
        };
        Ok(body
            .inspect(move |_| {
                let _ = (&reading, &connection);
            })
            .boxed())
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        self.meet(Op::Fetch, path, self.inner.fetch(path, longest, known)).await
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        let upload = self.meet(Op::Write, path, self.inner.create(path, how)).await?;
        Ok(Box::new(FaultyUpload { faulty: self.clone(), path: path.clone(), upload }))
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        self.meet(Op::MakeDir, path, self.inner.make_dir(path)).await
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        self.meet(Op::Remove, path, self.inner.remove(path, kind)).await
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        self.meet(Op::Rename, from, self.inner.rename(from, to, how)).await
    }

    async fn make_file(&self, path: &Path, mode: u32) -> Result<Meta> {
        self.meet(Op::Write, path, self.inner.make_file(path, mode)).await
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        let writing = self.meet(Op::Write, &file.path, self.inner.open_write(file)).await?;
        Ok(Arc::new(FaultyInPlace { faulty: self.clone(), path: file.path.clone(), writing }))
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> Result<Meta> {
        self.meet(Op::SetAttributes, path, self.inner.set_attributes(path, set)).await
    }

    async fn make_symlink(&self, path: &Path, target: &[u8]) -> Result<Meta> {
        self.meet(Op::Link, path, self.inner.make_symlink(path, target)).await
    }

    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        self.meet(Op::Link, path, self.inner.read_symlink(path)).await
    }

    async fn link(&self, from: &Path, to: &Path) -> Result<Meta> {
        self.meet(Op::Link, from, self.inner.link(from, to)).await
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        self.meet(Op::Access, path, self.inner.access(path, asked)).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.meet(Op::Space, &Path::root(), self.inner.space()).await
    }
}

#[derive(Debug)]
struct FaultyInPlace {
    faulty: Faulty,
    path: Path,
    writing: Arc<dyn InPlace>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl InPlace for FaultyInPlace {
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>> {
        self.faulty.meet(Op::Write, &self.path, self.writing.write(offset, data)).await
    }

    async fn sync(&self) -> Result<Option<Meta>> {
        self.faulty.meet(Op::Publish, &self.path, self.writing.sync()).await
    }

    async fn finish(&self) -> Result<Option<Meta>> {
        self.faulty.meet(Op::Publish, &self.path, self.writing.finish()).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    faulty: Faulty,
    path: Path,
    upload: Box<dyn Upload>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.faulty.meet(Op::Write, &self.path, self.upload.write(data)).await
    }

    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta> {
        self.faulty.meet(Op::Publish, &self.path, self.upload.publish(attributes)).await
    }

    fn written(&self) -> u64 {
        self.upload.written()
    }

    fn peek(&self, range: Range<u64>) -> Option<Bytes> {
        self.upload.peek(range)
    }

    fn moved(&mut self, to: Path, version: Option<Version>) {
        self.path = to.clone();
        self.upload.moved(to, version);
    }

    async fn abort(self: Box<Self>) {
        self.upload.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::backend::contract;
    use crate::backend::memory::Memory;

    contract::suite!(|| async {
        let stand: contract::Stand = (Arc::new(Faulty::new(Arc::new(Memory::new()))), Box::new(()));
        Some(stand)
    });

    fn rig(length: usize) -> (Faulty, Version) {
        let memory = Memory::new();
        let version = memory.put(&Path::parse("file").unwrap(), vec![7; length]);
        (Faulty::new(Arc::new(memory)), version)
    }

    async fn read(store: &Faulty, version: &Version) -> (u64, Option<ErrorKind>) {
        let mut body = match store.read(version, 0..version.size, Intent::Demand).await {
            Ok(body) => body,
            Err(error) => return (0, Some(error.kind)),
        };
        let mut length = 0;
        loop {
            match body.try_next().await {
                Ok(Some(piece)) => length += piece.len() as u64,
                Ok(None) => return (length, None),
                Err(error) => return (length, Some(error.kind)),
            }
        }
    }

    #[tokio::test]
    async fn the_call_that_was_named_fails_and_no_other() {
        let (store, version) = rig(10);
        assert_eq!(read(&store, &version).await, (10, None));
        store.nth(Op::Read, 2, Fault::Fail(ErrorKind::Unavailable));
        store.every(Op::Stat, 2, Fault::Fail(ErrorKind::Denied));
        assert_eq!(read(&store, &version).await, (10, None));
        assert_eq!(read(&store, &version).await, (0, Some(ErrorKind::Unavailable)));
        assert_eq!(read(&store, &version).await, (10, None));
        let stats = [store.stat(&version.path).await, store.stat(&version.path).await, store.stat(&version.path).await];
        assert_eq!(stats.map(|outcome| outcome.is_ok()), [true, false, true]);
        store.heal();
        assert!(store.stat(&version.path).await.is_ok());
        assert_eq!((store.calls(Op::Read), store.calls(Op::Stat), store.bytes_asked()), (4, 4, 40));
    }

    #[tokio::test]
    async fn a_body_is_cut_where_told() {
        let (store, version) = rig(200_000);
        for after in [0, 1, 65_536, 70_000, 199_999] {
            store.nth(Op::Read, 1, Fault::Cut(after, ErrorKind::Unavailable));
            assert_eq!(read(&store, &version).await, (after, Some(ErrorKind::Unavailable)));
        }
        assert_eq!(store.reading(), 0);
    }

    #[tokio::test]
    async fn a_lost_reply_was_an_act() {
        let (store, version) = rig(10);
        store.every(Op::Remove, 1, Fault::LoseReply(ErrorKind::Unavailable));
        assert_eq!(store.remove(&version.path, Kind::File).await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(store.stat(&version.path).await.unwrap_err().kind, ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_body_takes_its_time_and_a_hanging_one_all() {
        let (store, version) = rig(1_000_000);
        store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 1_000_000));
        let begin = tokio::time::Instant::now();
        assert_eq!(read(&store, &version).await, (1_000_000, None));
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1_015) && took < Duration::from_millis(1_030), "{took:?}");
        store.nth(Op::Stat, 1, Fault::Delay(Duration::from_secs(7)));
        let begin = tokio::time::Instant::now();
        store.stat(&version.path).await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 7);
        store.nth(Op::Read, 1, Fault::Hang);
        assert!(tokio::time::timeout(Duration::from_secs(1000), read(&store, &version)).await.is_err());
        assert_eq!((store.reading(), store.most_reading()), (0, 1));
    }
}
