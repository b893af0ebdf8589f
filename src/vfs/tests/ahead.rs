//! Files fetched before anybody reads them. Time is the test's own, which only the store spends: 15 ms to the first
//! byte, 100 MB/s a connection, as many connections as are asked for.

use tokio::time::Instant;

use super::*;
use crate::backend::faulty::{Fault, Faulty};
use crate::backend::{ErrorKind, Op};

const FILES: usize = 1000;
const SIZE: usize = 100_000;

struct Rig {
    memory: Memory,
    store: Faulty,
    vfs: Arc<Vfs>,
    budget: Budget,
}

/// A directory `d` of [`FILES`] files, each filled with a byte of its own.
fn rig(config: Config, memory_budget: u64) -> Rig {
    let memory = Memory::new();
    rig_of(Faulty::new(Arc::new(memory.clone())), memory, config, memory_budget)
}

fn rig_of(store: Faulty, memory: Memory, config: Config, memory_budget: u64) -> Rig {
    for file in 0..FILES {
        memory.put(&path(&format!("d/{file:05}")), vec![file as u8; SIZE]);
    }
    store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    store.every(Op::Stat, 1, Fault::Delay(Duration::from_millis(15)));
    let budget = Budget::new(memory_budget);
    let backend: Arc<dyn Backend> = Arc::new(store.clone());
    let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(memory_budget));
    let vfs = Arc::new(Vfs::new(backend, ahead, budget.clone(), config));
    Rig { memory, store, vfs, budget }
}

impl Rig {
    async fn dir(&self) -> Ino {
        self.vfs.lookup(Ino::ROOT, b"d").await.unwrap().ino
    }

    /// Reads whole files as a program does, and checks every byte.
    async fn read(&self, dir: Ino, order: &[usize]) {
        for file in order {
            let attr = self.vfs.lookup(dir, format!("{file:05}").as_bytes()).await.unwrap();
            let opened = self.vfs.open(attr.ino, READ).await.unwrap();
            let mut at = 0;
            while at < attr.size {
                let bytes = self.vfs.read(opened.handle, at, 128 << 10).await.unwrap();
                assert!(bytes.iter().all(|byte| *byte == *file as u8), "{file} at {at}");
                at += bytes.len() as u64;
            }
            assert_eq!(at, SIZE as u64);
            self.vfs.release(opened.handle).await.unwrap();
        }
    }

    /// Files a second.
    async fn rate(&self, dir: Ino, order: &[usize]) -> f64 {
        let begun = Instant::now();
        self.read(dir, order).await;
        order.len() as f64 / begun.elapsed().as_secs_f64()
    }
}

fn in_order() -> Vec<usize> {
    (0..FILES).collect()
}

fn shuffled() -> Vec<usize> {
    let mut order = in_order();
    let mut seed = 7_u64;
    for at in (1..FILES).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (seed >> 33) as usize % (at + 1));
    }
    order
}

#[tokio::test(start_paused = true)]
async fn files_in_listing_order_are_fetched_ahead_once_each_and_nothing_else_is_asked() {
    let rig = rig(immutable(), 256 << 20);
    let dir = rig.dir().await;
    assert_eq!(names(&rig.vfs, dir).await.unwrap().len(), FILES + 2);
    let (stats, lists) = (rig.store.calls(Op::Stat), rig.store.calls(Op::List));
    let rate = rig.rate(dir, &in_order()).await;
    // 16 ms a file where each is waited for: 62.5 files/s.
    assert!(rate > 20.0 * 62.5, "{rate}");
    assert_eq!(rig.store.calls(Op::Read), FILES as u64);
    assert_eq!((rig.store.calls(Op::Stat), rig.store.calls(Op::List)), (stats, lists));
    assert_eq!(rig.store.bytes_asked(), (FILES * SIZE) as u64);
    assert!(rig.store.most_reading() <= 65, "{}", rig.store.most_reading());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_order_is_as_fast_as_on_demand_and_costs_little() {
    let rig = rig(immutable(), 256 << 20);
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    let rate = rig.rate(dir, &shuffled()).await;
    assert!(rate > 0.9 * 62.5, "{rate}");
    let reads = rig.store.calls(Op::Read);
    assert!(reads < FILES as u64 * 11 / 10, "{reads}");
}

#[tokio::test(start_paused = true)]
async fn eight_readers_that_share_the_order_are_run_ahead_of() {
    let rig = Arc::new(rig(immutable(), 256 << 20));
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    let begun = Instant::now();
    let readers = (0..8).map(|reader| {
        let rig = rig.clone();
        tokio::spawn(async move {
            for file in (reader..FILES).step_by(8) {
                rig.read(dir, &[file]).await;
            }
        })
    });
    for reader in futures::future::join_all(readers).await {
        reader.unwrap();
    }
    let rate = FILES as f64 / begun.elapsed().as_secs_f64();
    assert!(rate > 1000.0, "{rate}");
    assert_eq!(rig.store.calls(Op::Read), FILES as u64);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_may_change_needs_no_look_at_what_was_just_fetched() {
    let rig = rig(Config { ttl: Duration::from_millis(500).into(), ..Config::default() }, 256 << 20);
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    // Past its time the listing is only an order.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let dir = rig.dir().await;
    let stats = rig.store.calls(Op::Stat);
    rig.read(dir, &in_order()).await;
    assert_eq!(rig.store.calls(Op::Read), FILES as u64);
    let looks = rig.store.calls(Op::Stat) - stats;
    assert!(looks < 30, "{looks}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_behind_the_guess_is_read_as_it_is() {
    let rig = rig(Config { ttl: Duration::from_millis(500).into(), ..Config::default() }, 256 << 20);
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let dir = rig.dir().await;
    rig.read(dir, &(0..50).collect::<Vec<_>>()).await;
    // Fetched ahead by now; past its time that is no longer believed.
    for file in 50..100 {
        rig.memory.put(&path(&format!("d/{file:05}")), vec![file as u8; SIZE]);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rig.memory.clone();
    for file in 50..100_usize {
        let now = before.stat(&path(&format!("d/{file:05}"))).await.unwrap();
        let attr = rig.vfs.lookup(dir, format!("{file:05}").as_bytes()).await.unwrap();
        let known = rig.vfs.inodes().get(attr.ino).unwrap().file().unwrap().stored.clone();
        assert_eq!(known.as_ref(), now.version(), "{file}");
    }
    rig.read(dir, &(50..100).collect::<Vec<_>>()).await;
}

/// A store that reads files wherever they lie now, and a listing that is no longer believed.
async fn unproven(memory: Memory) -> (Rig, Ino) {
    let config = Config { ttl: Duration::from_millis(500).into(), ..Config::default() };
    let store = Faulty::new(Arc::new(memory.clone())).without_proof();
    let rig = rig_of(store, memory, config, 256 << 20);
    rig.store.every(Op::Fetch, 1, Fault::Delay(Duration::from_millis(15)));
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let dir = rig.dir().await;
    (rig, dir)
}

#[tokio::test(start_paused = true)]
async fn where_a_read_proves_nothing_the_store_is_asked_ahead_of_the_reader() {
    let (rig, dir) = unproven(Memory::new()).await;
    let stats = rig.store.calls(Op::Stat);
    let rate = rig.rate(dir, &in_order()).await;
    assert!(rate > 10.0 * 62.5, "{rate}");
    let looks = rig.store.calls(Op::Stat) - stats;
    assert!(looks < 30, "{looks}");
    assert_eq!((rig.store.calls(Op::Read), rig.store.bytes_asked()), (FILES as u64, (FILES * SIZE) as u64));
    let asked = rig.store.calls(Op::Fetch);
    assert!(asked > FILES as u64 - 30 && asked <= FILES as u64, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_replaced_since_it_was_listed_is_read_as_it_is() {
    let (rig, dir) = unproven(Memory::in_place()).await;
    let how = RenameOptions { kind: Kind::File, version: None, replace: true };
    for file in 50..FILES {
        let at = path(&format!("d/{file:05}"));
        rig.memory.rename(&at, &path(&format!("old-{file:05}")), how.clone()).await.unwrap();
        rig.memory.put(&at, vec![!(file as u8); SIZE]);
    }
    rig.read(dir, &(0..50).collect::<Vec<_>>()).await;
    for file in 50..200 {
        let ino = rig.vfs.lookup(dir, format!("{file:05}").as_bytes()).await.unwrap().ino;
        assert!(read(&rig.vfs, ino).await.unwrap() == vec![!(file as u8); SIZE], "{file}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_looked_up_since_nothing_of_it_is_read() {
    let config = Config { ttl: Duration::from_millis(500).into(), ..Config::default() };
    let rig = rig(config, 256 << 20);
    for file in (20..FILES).step_by(5) {
        rig.memory.put(&path(&format!("d/{file:05}")), "");
    }
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for file in (20..FILES).step_by(5) {
        rig.memory.put(&path(&format!("d/{file:05}")), vec![file as u8; SIZE]);
    }
    let dir = rig.dir().await;
    rig.read(dir, &(0..100).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_guess_that_fails_is_asked_again_by_the_reader() {
    let rig = rig(immutable(), 256 << 20);
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    rig.read(dir, &[0, 1]).await;
    rig.store.heal();
    rig.store.every(Op::Read, 3, Fault::Cut(1000, ErrorKind::Unavailable));
    let mut failed = 0;
    for file in 2..300 {
        let attr = rig.vfs.lookup(dir, format!("{file:05}").as_bytes()).await.unwrap();
        let handle = rig.vfs.open(attr.ino, READ).await.unwrap().handle;
        match rig.vfs.read(handle, 0, SIZE as u32).await {
            Ok(bytes) => assert!(bytes.len() == SIZE && bytes.iter().all(|byte| *byte == file as u8)),
            Err(error) => {
                assert_eq!(error, Error::Io);
                failed += 1;
            }
        }
        rig.vfs.release(handle).await.unwrap();
    }
    // Only who asked himself and was refused is told.
    assert!(failed < 80, "{failed}");
}

#[tokio::test(start_paused = true)]
async fn what_readers_left_behind_makes_room_for_others() {
    // A quarter of the budget holds what is ahead of one reader, and not of four.
    let rig = rig(immutable(), 64 << 20);
    for dir in ["e", "f", "g"] {
        for file in 0..FILES {
            rig.memory.put(&path(&format!("{dir}/{file:05}")), vec![file as u8; SIZE]);
        }
    }
    let mut rates = Vec::new();
    for name in [b"d", b"e", b"f", b"g"] {
        let dir = rig.vfs.lookup(Ino::ROOT, name).await.unwrap().ino;
        names(&rig.vfs, dir).await.unwrap();
        rates.push(rig.rate(dir, &(0..500).collect::<Vec<_>>()).await);
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(rates.iter().all(|rate| *rate > 0.7 * rates[0]), "{rates:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_of_files_gives_way_to_who_needs_the_memory() {
    let rig = rig(immutable(), 32 << 20);
    let dir = rig.dir().await;
    names(&rig.vfs, dir).await.unwrap();
    rig.read(dir, &(0..100).collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (free, total) = (rig.budget.free(), rig.budget.total());
    assert!(free < total - (4 << 20) - total / 8, "{free} of {total}: nothing was fetched ahead");
    let lease = tokio::time::timeout(Duration::from_secs(10), rig.budget.acquire(total - total / 8 - (1 << 20))).await;
    // Reading goes on, by what is left and the reserve.
    rig.read(dir, &(100..150).collect::<Vec<_>>()).await;
    drop(lease.expect("nobody gave way"));
    rig.read(dir, &(150..300).collect::<Vec<_>>()).await;
}
