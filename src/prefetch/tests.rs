use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use proptest::prelude::*;

use super::*;
use crate::backend::memory::Memory;
use crate::backend::{
    CreateOptions, Entry, Error, ErrorKind, Intent, Kind, Meta, Op, Path, RenameOptions, Result, Traits, Upload,
};

/// Counts what is read through it, and fails every `fail`th read (0: none) after some bytes.
#[derive(Debug)]
struct Watched {
    inner: Memory,
    fetched: AtomicU64,
    reads: AtomicU64,
    fail: u64,
}

#[async_trait]
impl Backend for Watched {
    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.fetched.fetch_add(range.end - range.start, Ordering::Relaxed);
        let number = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        let whole = self.inner.read(file, range, why).await?;
        tokio::task::yield_now().await;
        if self.fail > 0 && number.is_multiple_of(self.fail) {
            let broken = Error::new(ErrorKind::Unavailable, Op::Read, &file.path, "staged");
            return Ok(whole.take(1).chain(futures::stream::iter([Err(broken)])).boxed());
        }
        Ok(whole)
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }
    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.inner.stat(path).await
    }
    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        self.inner.list(dir)
    }
    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        self.inner.create(path, how).await
    }
    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        self.inner.make_dir(path).await
    }
    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        self.inner.remove(path, kind).await
    }
    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        self.inner.rename(from, to, how).await
    }
}

const MIB: u64 = 1 << 20;

fn pattern(length: u64) -> Bytes {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<_>>().into()
}

struct Rig {
    store: Arc<Watched>,
    budget: Budget,
    reader: Arc<FileReader>,
    content: Bytes,
}

fn rig(size: u64, budget: u64, fail: u64) -> Rig {
    let (memory, content) = (Memory::new(), pattern(size));
    let version = memory.put(&Path::parse("file").unwrap(), content.clone());
    let store = Arc::new(Watched { inner: memory, fetched: AtomicU64::new(0), reads: AtomicU64::new(0), fail });
    let budget = Budget::new(budget);
    let ahead = ReadAhead::new(store.clone(), budget.clone(), Config::for_budget(budget.total()));
    Rig { store, budget, reader: ahead.open(version), content }
}

impl Rig {
    async fn check(&self, range: Range<u64>) {
        let found = self.reader.read(range.clone()).await.unwrap().into_bytes();
        let end = range.end.min(self.content.len() as u64);
        assert!(found == self.content[range.start.min(end) as usize..end as usize], "{range:?}");
    }

    fn fetched(&self) -> u64 {
        self.store.fetched.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_file_read_in_order_is_fetched_once_and_nothing_stays() {
    let rig = rig(50 * MIB + 123, 256 * MIB, 0);
    for at in (0..51 * MIB).step_by(MIB as usize) {
        rig.check(at..at + MIB).await;
    }
    assert_eq!(rig.fetched(), rig.content.len() as u64);
    assert!(rig.store.reads.load(Ordering::Relaxed) < 20);
    assert_eq!(rig.budget.free(), rig.budget.total());
}

#[tokio::test]
async fn requests_sent_together_are_fetched_once() {
    let rig = rig(32 * MIB, 256 * MIB, 0);
    for at in (0..32 * MIB).step_by(4 << 20) {
        let four = [1, 0, 3, 2].map(|turn| rig.check(at + turn * MIB..at + (turn + 1) * MIB));
        futures::future::join_all(four).await;
    }
    assert!(rig.fetched() <= rig.content.len() as u64 * 102 / 100, "{}", rig.fetched());
}

#[tokio::test]
async fn a_random_read_fetches_its_pages_and_equal_ones_are_one() {
    let rig = rig(32 * MIB, 256 * MIB, 0);
    rig.check(10_000_000..10_000_100).await;
    assert_eq!(rig.fetched(), 4096);
    let equal = (0..8).map(|_| rig.check(20_000_000..20_000_100));
    futures::future::join_all(equal).await;
    assert!(rig.fetched() <= 3 * 4096, "{}", rig.fetched());
}

#[tokio::test]
async fn reading_past_the_end_is_short() {
    let rig = rig(1000, 256 * MIB, 0);
    rig.check(900..2000).await;
    rig.check(1000..2000).await;
    rig.check(5000..6000).await;
}

#[tokio::test]
async fn a_failed_fetch_is_asked_once_more_and_then_told() {
    let good = rig(8 * MIB, 64 * MIB, 2);
    for at in (0..8 * MIB).step_by(MIB as usize) {
        good.check(at..at + MIB).await;
    }
    let bad = rig(8 * MIB, 64 * MIB, 1);
    assert_eq!(bad.reader.read(0..MIB).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn dropping_a_reader_gives_everything_back() {
    let rig = rig(64 * MIB, 64 * MIB, 0);
    for at in 0..8 {
        rig.check(at * MIB..(at + 1) * MIB).await;
    }
    assert!(rig.budget.free() < rig.budget.total());
    let budget = rig.budget.clone();
    drop(rig);
    // The cancelled tasks drop their share when they are next polled.
    while budget.free() < budget.total() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_while_others_hold_the_whole_budget() {
    let rig = rig(8 * MIB, 8 * MIB, 0);
    let _all = rig.budget.acquire(8 * MIB).await;
    rig.check(0..MIB).await;
    rig.check(MIB..2 * MIB).await;
}

#[tokio::test]
async fn many_readers_share_a_small_budget() {
    let (memory, content) = (Memory::new(), pattern(6 * MIB));
    let version = memory.put(&Path::parse("file").unwrap(), content.clone());
    let budget = Budget::new(4 * MIB);
    let ahead = ReadAhead::new(Arc::new(memory), budget.clone(), Config::for_budget(budget.total()));
    let readers = (0..12).map(|_| {
        let (reader, content) = (ahead.open(version.clone()), content.clone());
        tokio::spawn(async move {
            for at in (0..6 * MIB).step_by(128 << 10) {
                let found = reader.read(at..at + (128 << 10)).await.unwrap().into_bytes();
                assert!(found == content[at as usize..(at + (128 << 10)) as usize]);
            }
        })
    });
    for reader in futures::future::join_all(readers).await {
        reader.unwrap();
    }
    assert!(budget.total() <= 4 * MIB);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_by_whom_is_right(
        size in 1..6 * MIB,
        fail in prop::sample::select(vec![0u64, 3]),
        tasks in prop::collection::vec(prop::collection::vec((0.0..1.0f64, 1..300_000u64, any::<bool>()), 1..20), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Arc::new(rig(size, 2 * MIB, fail));
            let tasks = tasks.into_iter().map(|reads| {
                let rig = rig.clone();
                tokio::spawn(async move {
                    let mut next = 0;
                    for (at, length, in_order) in reads {
                        let start = if in_order { next } else { (at * rig.content.len() as f64) as u64 };
                        next = start + length;
                        match rig.reader.read(start..next).await {
                            Ok(found) => {
                                let end = next.min(rig.content.len() as u64);
                                assert!(found.into_bytes() == rig.content[start.min(end) as usize..end as usize]);
                            }
                            Err(error) => assert!(rig.store.fail > 0 && error.kind == ErrorKind::Unavailable),
                        }
                    }
                })
            });
            for task in futures::future::join_all(tasks).await {
                task.unwrap();
            }
        });
    }
}
