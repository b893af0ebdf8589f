//! A backend whose identity may change under those who use it: a backend over one client after the other.
//!
//! From the moment of a [`Swappable::swap`] every request is made by the new client. A question that the old one has
//! not answered by then is asked anew, and an answer that comes too late is thrown away; a body or a listing of the old
//! one ends with an error, since what its reader holds already is the old identity's. What was begun to be changed, an
//! upload above all, ends as whoever began it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    Backend, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Meta, Op, Path, RenameOptions,
    Result, Rights, SetAttributes, Space, Traits, Upload, Version,
};

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Swappable(Arc<ArcSwap<Seat>>);

/// A client, for as long as it is the one in force.
#[derive(Debug)]
struct Seat {
    backend: Arc<dyn Backend>,
    over: CancellationToken,
}

impl Seat {
    fn new(backend: Arc<dyn Backend>) -> Arc<Seat> {
        Arc::new(Seat { backend, over: CancellationToken::new() })
    }
}

impl Swappable {
    /// Passes everything to `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Swappable {
        Swappable(Arc::new(ArcSwap::new(Seat::new(backend))))
    }

    /// From when this returns, nothing that the client before was asked is answered. Of the same volume, or the
    /// contract is broken.
    pub fn swap(&self, backend: Arc<dyn Backend>) {
        let before = self.0.swap(Seat::new(backend));
        before.over.cancel();
    }

    /// Asks the client in force, and whoever follows it where it is no longer when it answers.
    async fn ask<T, F>(&self, question: impl Fn(Arc<dyn Backend>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            let seat = self.0.load_full();
            let answer = tokio::select! {
                biased;
                () = seat.over.cancelled() => continue,
                answer = question(seat.backend.clone()) => answer,
            };
            if !seat.over.is_cancelled() {
                return answer;
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Swappable {
    fn traits(&self) -> Traits {
        self.0.load().backend.traits()
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.ask(|backend| async move { backend.stat(path).await }).await
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        let seat = self.0.load_full();
        Ending::of(seat.backend.list(dir), &seat, Op::List, dir)
    }

    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        loop {
            let seat = self.0.load_full();
            let body = tokio::select! {
                biased;
                () = seat.over.cancelled() => continue,
                body = seat.backend.read(file, range.clone(), why) => body,
            };
            if !seat.over.is_cancelled() {
                return Ok(Ending::of(body?, &seat, Op::Read, &file.path));
            }
        }
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        self.ask(|backend| async move { backend.fetch(path, longest, known).await }).await
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        self.0.load_full().backend.create(path, how).await
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        self.0.load_full().backend.make_dir(path).await
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        self.0.load_full().backend.remove(path, kind).await
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        self.0.load_full().backend.rename(from, to, how).await
    }

    async fn make_file(&self, path: &Path, mode: u32) -> Result<Meta> {
        self.0.load_full().backend.make_file(path, mode).await
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        self.0.load_full().backend.open_write(file).await
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> Result<Meta> {
        self.0.load_full().backend.set_attributes(path, set).await
    }

    async fn make_symlink(&self, path: &Path, target: &[u8]) -> Result<Meta> {
        self.0.load_full().backend.make_symlink(path, target).await
    }

    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        self.ask(|backend| async move { backend.read_symlink(path).await }).await
    }

    async fn link(&self, from: &Path, to: &Path) -> Result<Meta> {
        self.0.load_full().backend.link(from, to).await
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        self.ask(|backend| async move { backend.access(path, asked).await }).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.ask(|backend| async move { backend.space().await }).await
    }
}

/// What one client gives, up to its end or to that client's.
struct Ending<T> {
    items: Option<BoxStream<'static, Result<T>>>,
    over: CancellationToken,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    error: Option<Error>,
}

impl<T: Send + 'static> Ending<T> {
    fn of(items: BoxStream<'static, Result<T>>, seat: &Seat, op: Op, path: &Path) -> BoxStream<'static, Result<T>> {
        let over = seat.over.clone();
        let why = "the volume's credential was replaced by another identity's in the middle of it";
        let error = Some(Error::new(ErrorKind::Unavailable, op, path, why));
        Ending { items: Some(items), end: Box::pin(over.clone().cancelled_owned()), over, error }.boxed()
    }
}

impl<T> Stream for Ending<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        let next = items.poll_next_unpin(cx);
        // Looked at last: what came before the end and is given after it would be the old identity's.
        if self.over.is_cancelled() || (next.is_pending() && self.end.as_mut().poll(cx).is_ready()) {
            self.items = None;
            return Poll::Ready(self.error.take().map(Err));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::TryStreamExt;

    use super::*;
    use crate::backend::contract;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{Attributes, Base};

    contract::suite!(|| async {
        let memory: Arc<dyn Backend> = Arc::new(Memory::new());
        let swappable = Swappable::new(Arc::new(Faulty::new(memory.clone())));
        swappable.swap(memory);
        let stand: contract::Stand = (Arc::new(swappable), Box::new(()));
        Some(stand)
    });

    /// Two clients of two trees in which a file of one name and version has other bytes.
    fn rig() -> (Faulty, Faulty, Swappable, Version) {
        let [old, new] = [b'o', b'n'].map(|byte| {
            let memory = Memory::new();
            let version = memory.put(&Path::parse("file").unwrap(), vec![byte; 300_000]);
            (Faulty::new(Arc::new(memory)), version)
        });
        let swappable = Swappable::new(Arc::new(old.0.clone()));
        (old.0, new.0, swappable, old.1)
    }

    async fn first(body: &mut BoxStream<'static, Result<Bytes>>) -> u8 {
        body.try_next().await.unwrap().unwrap()[0]
    }

    #[tokio::test]
    async fn a_question_without_an_answer_is_asked_anew() {
        for op in [Op::Stat, Op::Fetch, Op::Read] {
            let (old, new, swappable, version) = rig();
            old.every(op, 1, Fault::Hang);
            let (asking, path) = (swappable.clone(), version.path.clone());
            let asked = tokio::spawn(async move {
                match op {
                    Op::Stat => asking.stat(&path).await.map(drop),
                    Op::Fetch => asking.fetch(&path, 1 << 20, None).await.map(drop),
                    _ => asking.read(&version, 0..10, Intent::Demand).await.map(drop),
                }
            });
            while old.calls(op) == 0 {
                tokio::task::yield_now().await;
            }
            swappable.swap(Arc::new(new.clone()));
            asked.await.unwrap().unwrap();
            assert_eq!(new.calls(op), 1, "{op:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_too_late_is_thrown_away() {
        let (old, new, swappable, version) = rig();
        old.every(Op::Stat, 1, Fault::Fail(ErrorKind::Denied));
        new.every(Op::Stat, 1, Fault::Delay(Duration::from_secs(1)));
        assert_eq!(swappable.stat(&version.path).await.unwrap_err().kind, ErrorKind::Denied);
        swappable.swap(Arc::new(new));
        assert!(swappable.stat(&version.path).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_and_a_listing_of_the_old_identity_end() {
        let (_, new, swappable, version) = rig();
        let mut body = swappable.read(&version, 0..300_000, Intent::Ahead).await.unwrap();
        let mut list = swappable.list(&Path::root());
        assert_eq!(first(&mut body).await, b'o');
        swappable.swap(Arc::new(new));
        assert_eq!(body.try_next().await.unwrap_err().kind, ErrorKind::Unavailable);
        assert!(body.try_next().await.unwrap().is_none());
        assert_eq!(list.try_next().await.unwrap_err().kind, ErrorKind::Unavailable);
        let mut body = swappable.read(&version, 0..300_000, Intent::Ahead).await.unwrap();
        assert_eq!(first(&mut body).await, b'n');
    }

    #[tokio::test]
    async fn a_body_that_hangs_ends_with_its_identity() {
        let (old, new, swappable, version) = rig();
        old.every(Op::Read, 1, Fault::Pace(Duration::ZERO, 1));
        let mut body = swappable.read(&version, 0..300_000, Intent::Ahead).await.unwrap();
        let reading = tokio::spawn(async move {
            while body.try_next().await?.is_some() {}
            Ok::<_, Error>(())
        });
        tokio::task::yield_now().await;
        swappable.swap(Arc::new(new));
        assert_eq!(reading.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn an_upload_ends_as_whoever_began_it() {
        let (old, new, swappable, _) = rig();
        let at = Path::parse("new").unwrap();
        let mut upload = swappable.create(&at, CreateOptions { base: Base::Absent }).await.unwrap();
        swappable.swap(Arc::new(new.clone()));
        upload.write("x".into()).await.unwrap();
        upload.publish(&Attributes::default()).await.unwrap();
        assert!(old.stat(&at).await.is_ok());
        assert_eq!(swappable.stat(&at).await.unwrap_err().kind, ErrorKind::NotFound);
    }
}
