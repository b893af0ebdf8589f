//! Large files one after the other: the next one is on its way before it is opened, and an order that nobody knows costs
//! nothing.

use super::*;
use crate::backend::{Backend, Version};

const SIZE: u64 = 24 * MIB;

struct Shards {
    memory: Memory,
    store: Faulty,
    ahead: Arc<ReadAhead>,
}

fn shards(count: usize) -> Shards {
    let memory = Memory::new();
    for number in 0..count {
        memory.put(&shard(number), pattern(SIZE));
    }
    let store = Faulty::new(Arc::new(memory.clone()));
    store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let ahead = ReadAhead::new(Arc::new(store.clone()), Budget::new(256 * MIB), Config::for_budget(256 * MIB));
    Shards { memory, store, ahead }
}

fn shard(number: usize) -> Path {
    Path::parse(&format!("set/shard-{number:03}.tar")).unwrap()
}

impl Shards {
    async fn version(&self, number: usize) -> Version {
        self.memory.stat(&shard(number)).await.unwrap().version().unwrap().clone()
    }

    /// Reads one whole; how long its first read took.
    async fn read(&self, number: usize) -> Duration {
        let (reader, _) = self.ahead.open(self.version(number).await);
        let begun = Instant::now();
        check(&reader, &pattern(SIZE), 0..64 * KIB).await;
        let first = begun.elapsed();
        for at in (64 * KIB..SIZE).step_by(64 << 10) {
            check(&reader, &pattern(SIZE), at..at + 64 * KIB).await;
            // As long as a program takes.
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
        first
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_of_a_series_is_there_when_it_is_opened_and_nothing_is_fetched_twice() {
    let shards = shards(8);
    let mut firsts = Vec::new();
    for number in 0..8 {
        firsts.push(shards.read(number).await);
    }
    assert!(firsts[..3].iter().all(|first| *first >= Duration::from_millis(15)), "{firsts:?}");
    assert!(firsts[3..].iter().all(|first| *first < Duration::from_millis(1)), "{firsts:?}");
    assert_eq!(shards.store.bytes_asked(), 8 * SIZE);
    let budget = &shards.ahead.budget;
    assert_eq!(budget.free(), budget.total() - shards.ahead.reserve.total());
}

#[tokio::test(start_paused = true)]
async fn files_in_an_order_that_nobody_knows_are_not_run_ahead_of() {
    let shards = shards(10);
    for number in [3, 7, 8, 1, 5, 0, 9, 2, 6, 4] {
        shards.read(number).await;
    }
    assert_eq!(shards.store.bytes_asked(), 10 * SIZE);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_since_is_read_as_it_is() {
    let shards = shards(5);
    for number in 0..3 {
        shards.read(number).await;
    }
    let other = pattern(SIZE + MIB).slice(MIB as usize..);
    let version = shards.memory.put(&shard(3), other.clone());
    let (reader, _) = shards.ahead.open(version);
    check(&reader, &other, 0..SIZE).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_identity_was_run_ahead_of_is_not_given_to_the_next() {
    let shards = shards(4);
    for number in 0..3 {
        shards.read(number).await;
    }
    let asked = shards.store.bytes_asked();
    assert!(asked > 3 * SIZE);
    shards.ahead.forget();
    shards.read(3).await;
    assert_eq!(shards.store.bytes_asked(), asked + SIZE);
}

/// In the test's own time: a quarter of the bytes and of the rate that a volume has by default.
#[tokio::test(start_paused = true)]
async fn a_series_keeps_few_connections_busy() {
    const SIZE: u64 = 32 * MIB;
    const RATE: u64 = 25_000_000;
    let memory = Memory::new();
    for number in 0..12 {
        memory.put(&shard(number), pattern(SIZE));
    }
    let store = Faulty::new(Arc::new(memory.clone())).with_connections(8);
    store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), RATE));
    let ahead = ReadAhead::new(Arc::new(store.clone()), Budget::new(64 * MIB), Config::for_budget(64 * MIB));
    let shards = Shards { memory, store, ahead };
    let (mut took, mut open) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let (reader, _) = shards.ahead.open(shards.version(number).await);
        let begun = Instant::now();
        for at in (0..SIZE).step_by(256 << 10) {
            check(&reader, &pattern(SIZE), at..at + 256 * KIB).await;
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        took.push(begun.elapsed());
        // Programs do not always close what they have read.
        open.push(reader);
    }
    let raw = 8.0 * (2 << 20) as f64 / (0.015 + (2 << 20) as f64 / RATE as f64);
    let share = 8.0 * SIZE as f64 / took[4..].iter().sum::<Duration>().as_secs_f64() / raw;
    assert!(share > 0.95, "{share:.2} of raw: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn headers_of_many_files_that_stay_open_do_not_fetch_them_all() {
    // Whether something else of each is read behind the header.
    for more in [false, true] {
        let shards = shards(40);
        shards.read(0).await;
        let asked = shards.store.bytes_asked();
        let mut open = Vec::new();
        for number in 1..40 {
            let (reader, _) = shards.ahead.open(shards.version(number).await);
            check(&reader, &pattern(SIZE), 0..64 * KIB).await;
            if more {
                check(&reader, &pattern(SIZE), 20 * MIB..20 * MIB + 64 * KIB).await;
            }
            open.push(reader);
        }
        // The first of them was believed.
        let headers = 39 * if more { 128 * KIB } else { 64 * KIB };
        let most = headers + SIZE;
        assert!(shards.store.bytes_asked() - asked <= most, "{}", shards.store.bytes_asked() - asked);
        let held = shards.ahead.budget.total() - shards.ahead.budget.free() - shards.ahead.reserve.total();
        assert!(held <= if more { 0 } else { SIZE }, "{held}");
    }
}
