//! The cache over a store in memory that counts what it is asked, on a disk that can be staged.

mod damage;
mod export;
mod room;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Mutex;
use std::time::Duration;

use futures::TryStreamExt;
use tempfile::TempDir;

use super::medium::Staged;
use super::*;
use crate::backend::faulty::{Fault, Faulty};
use crate::backend::memory::Memory;
use crate::backend::{ErrorKind, Op, contract};

const MIB: u64 = 1 << 20;

/// A store in memory, and a part that may be opened again and again.
struct Rig {
    memory: Memory,
    store: Faulty,
    dir: TempDir,
    medium: Medium,
    config: Config,
    patience: Patience,
}

impl Rig {
    fn new() -> Rig {
        let memory = Memory::new();
        let store = Faulty::new(Arc::new(memory.clone()));
        let patience = Patience { call: Duration::from_secs(60), ..Patience::default() };
        let config = Config { capacity: 1 << 30, free_percent: 0 };
        Rig { memory, store, dir: tempfile::tempdir().unwrap(), medium: Medium::default(), config, patience }
    }

    fn with_capacity(capacity: u64) -> Rig {
        Rig { config: Config { capacity, free_percent: 0 }, ..Rig::new() }
    }

    /// As a worker does that starts, once it has counted what is there.
    async fn open(&self) -> Cached {
        let dir: OwnedFd = File::open(self.dir.path()).unwrap().into();
        let budget = Budget::new(256 << 20);
        let cached =
            Cached::with(Arc::new(self.store.clone()), dir, self.medium.clone(), self.config, self.patience, &budget);
        cached.settle().await;
        cached
    }

    fn put(&self, name: &str, length: u64) -> Version {
        self.memory.put(&Path::parse(name).unwrap(), content(name, length))
    }

    fn stage(&self, change: impl FnOnce(&mut Staged)) {
        change(&mut self.medium.staged.lock().unwrap());
    }

    fn requests(&self) -> u64 {
        self.store.calls(Op::Read)
    }
}

/// Bytes of which no two blocks of any two files are the same.
fn content(name: &str, length: u64) -> Bytes {
    static MADE: Mutex<BTreeMap<(String, u64), Bytes>> = Mutex::new(BTreeMap::new());
    let make = || {
        let seed = name.bytes().fold(7, |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut bytes = Vec::with_capacity(length as usize + 8);
        for at in 0..length.div_ceil(8) {
            bytes.extend_from_slice(&(seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        bytes.truncate(length as usize);
        bytes.into()
    };
    MADE.lock().unwrap().entry((name.to_owned(), length)).or_insert_with(make).clone()
}

async fn read(cached: &Cached, file: &Version, range: Range<u64>) -> Result<Vec<u8>> {
    let body = cached.read(file, range, Intent::Ahead).await?;
    body.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    })
    .await
}

/// Reads a range, which must be right.
async fn check(cached: &Cached, file: &Version, range: Range<u64>) {
    let found = read(cached, file, range.clone()).await.unwrap();
    let wanted = &content(file.path.as_str().unwrap(), file.size)[range.start as usize..range.end as usize];
    assert!(found == wanted, "{} {range:?}", file.path);
}

contract::suite!(|| async {
    let rig = Rig::new();
    let stand: contract::Stand = (Arc::new(rig.open().await), Box::new(rig));
    Some(stand)
});

/// With room for next to nothing.
mod narrow {
    use super::*;

    contract::suite!(|| async {
        let rig = Rig::with_capacity(64 << 10);
        let stand: contract::Stand = (Arc::new(rig.open().await), Box::new(rig));
        Some(stand)
    } => a_file_is_read_as_it_was_written, every_range_gives_its_bytes, a_replaced_version_is_stale,
        a_large_file_survives_odd_chunks, a_dropped_read_is_harmless, an_empty_range_gives_nothing,
        a_replacement_never_tears_a_read);
}

#[tokio::test]
async fn a_file_that_came_whole_is_read_from_the_disk_from_then_on() {
    let rig = Rig::new();
    let files: Vec<_> = [0, 1, 4096, 100_000, 300_001].map(|size| rig.put(&format!("f-{size}"), size)).into();
    let cached = rig.open().await;
    for file in &files {
        // Twice, and once at the same time as others read it.
        let fetch = || cached.fetch(&file.path, 1 << 20, None);
        let (one, _, _) = tokio::join!(fetch(), fetch(), read(&cached, file, 0..file.size));
        let Fetched::New { bytes, .. } = one.unwrap() else { panic!("it is new") };
        assert!(bytes == content(file.path.as_str().unwrap(), file.size));
    }
    cached.settle().await;
    let before = rig.requests();
    for file in &files[1..] {
        check(&cached, file, 0..file.size).await;
    }
    assert_eq!(rig.requests(), before);
    drop(cached);
    let next = rig.open().await;
    for file in &files[1..] {
        check(&next, file, 0..file.size).await;
    }
    assert_eq!(rig.requests(), before);
}

#[tokio::test]
async fn what_is_known_and_not_here_comes_with_its_proof() {
    let rig = Rig::new();
    let file = rig.put("f", 100_000);
    let cached = rig.open().await;
    for asked in 1..4 {
        assert_eq!(cached.fetch(&file.path, MIB, Some(&file)).await.unwrap(), Fetched::Same);
        check(&cached, &file, 0..file.size).await;
        assert_eq!((rig.store.calls(Op::Fetch), rig.requests()), (asked, 0));
    }
}

#[tokio::test]
async fn what_was_read_once_is_read_from_the_disk_also_by_the_next_worker() {
    let rig = Rig::new();
    let files = [rig.put("a", 3 * MIB + 77), rig.put("d/b", 100), rig.put("c", 4096)];
    let cached = rig.open().await;
    for file in &files {
        check(&cached, file, 0..file.size).await;
    }
    cached.settle().await;
    let requests = rig.requests();
    for file in &files {
        check(&cached, file, 0..file.size).await;
        check(&cached, file, 50..file.size - 1).await;
    }
    assert!(cached.used() >= files.iter().map(|file| file.size).sum());
    drop(cached);
    let cached = rig.open().await;
    for file in &files {
        check(&cached, file, 0..file.size).await;
    }
    assert_eq!((rig.requests(), cached.ailment()), (requests, None));
}

#[tokio::test]
async fn only_the_gaps_are_fetched() {
    let rig = Rig::new();
    let file = rig.put("f", 4 * MIB + 10);
    let cached = rig.open().await;
    for range in [0..4096, MIB..2 * MIB, 3 * MIB..3 * MIB + 8192] {
        check(&cached, &file, range).await;
    }
    cached.settle().await;
    let (requests, asked) = (rig.requests(), rig.store.bytes_asked());
    check(&cached, &file, 0..file.size).await;
    let there = 4096 + MIB + 8192;
    assert_eq!((rig.requests() - requests, rig.store.bytes_asked() - asked), (3, file.size - there));
    cached.settle().await;
    check(&cached, &file, 0..file.size).await;
    assert_eq!(rig.requests() - requests, 3);
}

#[tokio::test]
async fn no_more_is_fetched_than_was_asked_and_only_whole_blocks_are_kept() {
    let rig = Rig::new();
    let file = rig.put("f", 10_000);
    let cached = rig.open().await;
    check(&cached, &file, 5000..9000).await;
    cached.settle().await;
    assert_eq!(rig.store.bytes_asked(), 4000);
    check(&cached, &file, 0..10_000).await;
    cached.settle().await;
    assert_eq!(rig.store.bytes_asked(), 14_000, "the range held no whole block");
    check(&cached, &file, 0..10_000).await;
    assert_eq!(rig.store.bytes_asked(), 14_000);
}

#[tokio::test]
async fn what_several_ask_at_once_is_fetched_once() {
    let rig = Rig::new();
    let file = rig.put("f", 2 * MIB);
    let cached = rig.open().await;
    rig.store.every(Op::Read, 1, Fault::Delay(Duration::from_millis(100)));
    let readers = [0..2 * MIB, 0..2 * MIB, MIB / 2..MIB, MIB..2 * MIB].map(|range| {
        let (cached, file) = (cached.clone(), file.clone());
        tokio::spawn(async move { check(&cached, &file, range).await })
    });
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!((rig.requests(), rig.store.bytes_asked()), (1, 2 * MIB));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_a_reader_that_stopped() {
    let rig = Rig::new();
    let file = rig.put("f", 2 * MIB);
    let cached = rig.open().await;
    let mut stopped = cached.read(&file, 0..file.size, Intent::Demand).await.unwrap();
    assert!(stopped.try_next().await.unwrap().is_some());
    let begin = tokio::time::Instant::now();
    check(&cached, &file, 0..file.size).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(stopped);
    check(&cached, &file, 0..file.size).await;
}

#[tokio::test]
async fn a_reader_that_leaves_is_followed_by_the_next() {
    let rig = Rig::new();
    let file = rig.put("f", 2 * MIB);
    let cached = rig.open().await;
    rig.store.nth(Op::Read, 1, Fault::Hang);
    let leaving = {
        let (cached, file) = (cached.clone(), file.clone());
        tokio::spawn(async move { read(&cached, &file, 0..MIB).await })
    };
    while rig.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let next = {
        let (cached, file) = (cached.clone(), file.clone());
        tokio::spawn(async move { check(&cached, &file, 0..2 * MIB).await })
    };
    tokio::task::yield_now().await;
    leaving.abort();
    next.await.unwrap();
    assert_eq!(rig.store.reading(), 0);
}

#[tokio::test]
async fn a_failed_read_fails_as_it_does_without_a_cache_and_keeps_what_came() {
    let rig = Rig::new();
    let file = rig.put("f", 4 * MIB);
    let cached = rig.open().await;
    rig.store.nth(Op::Read, 1, Fault::Fail(ErrorKind::Denied));
    assert_eq!(read(&cached, &file, 0..MIB).await.unwrap_err().kind, ErrorKind::Denied);
    rig.store.nth(Op::Read, 1, Fault::Cut(2 * MIB + 5, ErrorKind::Unavailable));
    assert_eq!(read(&cached, &file, 0..4 * MIB).await.unwrap_err().kind, ErrorKind::Unavailable);
    cached.settle().await;
    let asked = rig.store.bytes_asked();
    check(&cached, &file, 0..4 * MIB).await;
    assert!(rig.store.bytes_asked() - asked <= 2 * MIB + 8192, "{}", rig.store.bytes_asked() - asked);
}

#[tokio::test]
async fn versions_of_one_name_are_kept_apart() {
    let rig = Rig::new();
    let cached = rig.open().await;
    let path = Path::parse("f").unwrap();
    let [old, new] = [1, 2].map(|byte| (rig.memory.put(&path, vec![byte; 100_000]), vec![byte; 100_000]));
    // The old one is gone before anybody read it.
    assert_eq!(read(&cached, &old.0, 0..10).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(read(&cached, &new.0, 0..100_000).await.unwrap(), new.1);
    cached.settle().await;
    let newest = rig.memory.put(&path, vec![3; 100_000]);
    assert_eq!(read(&cached, &newest, 0..100_000).await.unwrap(), vec![3; 100_000]);
    cached.settle().await;
    // Whoever holds it still reads it.
    assert_eq!(read(&cached, &new.0, 0..100_000).await.unwrap(), new.1);
    assert_eq!(read(&cached, &newest, 10..20).await.unwrap(), vec![3; 10]);
}
