mod files;
mod mapping;
mod series;
mod streams;
mod traces;

use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::backend::faulty::{Fault, Faulty};
use crate::backend::memory::Memory;
use crate::backend::{ErrorKind, Op, Path};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Bytes in which every position can be told from its neighbours; at most 32 MiB.
fn pattern(length: u64) -> Bytes {
    static WHOLE: LazyLock<Bytes> =
        LazyLock::new(|| (0..32 * MIB).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<_>>().into());
    WHOLE.slice(..length as usize)
}

struct Rig {
    memory: Memory,
    store: Faulty,
    budget: Budget,
    ahead: Arc<ReadAhead>,
    reader: Arc<FileReader>,
    content: Bytes,
}

fn rig(content: impl Into<Bytes>, budget: u64) -> Rig {
    configured(content, Config::for_budget(budget), budget)
}

/// Where the kernel reads `around` bytes at once around a page fault.
fn beside(content: impl Into<Bytes>, around: u64) -> Rig {
    configured(content, Config::for_budget(256 * MIB).beside((around >> 10) as u32), 256 * MIB)
}

fn configured(content: impl Into<Bytes>, config: Config, budget: u64) -> Rig {
    let (memory, content) = (Memory::new(), content.into());
    let version = memory.put(&Path::parse("file").unwrap(), content.clone());
    let store = Faulty::new(Arc::new(memory.clone()));
    let budget = Budget::new(budget);
    let ahead = ReadAhead::new(Arc::new(store.clone()), budget.clone(), config);
    let (reader, _) = ahead.open(version);
    Rig { memory, store, budget, ahead, reader, content }
}

impl Rig {
    async fn check(&self, range: Range<u64>) {
        check(&self.reader, &self.content, range).await;
    }

    async fn in_order(&self, from: u64, step: u64, count: u64) {
        for at in 0..count {
            self.check(from + at * step..from + (at + 1) * step).await;
        }
    }

    /// What parts hold, paid from the reserve or not.
    fn held(&self) -> u64 {
        self.budget.total() - self.budget.free() - self.ahead.reserve.free()
    }
}

async fn check(reader: &FileReader, content: &Bytes, range: Range<u64>) {
    let found = reader.read(range.clone()).await.unwrap().into_bytes();
    let end = range.end.min(content.len() as u64);
    assert!(found == content[range.start.min(end) as usize..end as usize], "{range:?}");
}

#[tokio::test]
async fn a_beginning_that_ends_inside_a_page_gives_no_byte_twice() {
    for read in [MIB..2 * MIB, MIB + 100..MIB + 4000, MIB - 10..3 * MIB + 5, MIB + 700..MIB + 702] {
        let rig = rig(pattern(3 * MIB + 5), 256 * MIB);
        let lease = rig.budget.try_acquire(MIB + 701).unwrap();
        rig.reader.adopt(part::Part::of(pattern(MIB + 701), lease));
        rig.check(read.clone()).await;
        rig.check(read).await;
    }
}

#[tokio::test]
async fn a_whole_file_is_fetched_once_and_nothing_stays() {
    for step in [128 * KIB, MIB] {
        let rig = rig(pattern(30 * MIB + 123), 256 * MIB);
        rig.in_order(0, step, 31 * MIB / step).await;
        assert_eq!(rig.store.bytes_asked(), rig.content.len() as u64);
        assert!(rig.store.calls(Op::Read) < 24, "{}", rig.store.calls(Op::Read));
        assert_eq!(rig.held(), 0);
    }
}

#[tokio::test]
async fn requests_sent_together_are_fetched_once() {
    for order in [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]] {
        let rig = rig(pattern(16 * MIB), 256 * MIB);
        for at in (0..16 * MIB).step_by(512 << 10) {
            let four = order.map(|turn| at + turn * 128 * KIB).map(|at| rig.check(at..at + 128 * KIB));
            futures::future::join_all(four).await;
        }
        assert_eq!(rig.store.bytes_asked(), rig.content.len() as u64);
        assert_eq!(rig.held(), 0);
    }
}

#[tokio::test]
async fn a_random_read_fetches_its_pages_and_equal_ones_are_one() {
    let rig = rig(pattern(32 * MIB), 256 * MIB);
    rig.check(10_000_000..10_000_100).await;
    assert_eq!(rig.store.bytes_asked(), 4096);
    rig.store.every(Op::Read, 1, Fault::Delay(Duration::from_millis(5)));
    let equal = (0..8).map(|_| rig.check(20_000_000..20_000_100));
    futures::future::join_all(equal).await;
    assert_eq!((rig.store.bytes_asked(), rig.store.calls(Op::Read)), (2 * 4096, 2));
    assert_eq!(rig.held(), 0);
}

#[tokio::test]
async fn small_unaligned_reads_in_order_are_few_requests() {
    let rig = rig(pattern(2 * MIB), 256 * MIB);
    rig.in_order(MIB + 1, 1000, 500).await;
    assert!(rig.store.calls(Op::Read) < 12, "{}", rig.store.calls(Op::Read));
}

#[tokio::test]
async fn reading_past_the_end_is_short() {
    let rig = rig(pattern(1000), 256 * MIB);
    rig.check(900..2000).await;
    rig.check(1000..2000).await;
    rig.check(5000..6000).await;
    assert_eq!(rig.store.calls(Op::Read), 1);
}

#[tokio::test]
async fn a_failed_guess_is_asked_again_by_who_needs_it() {
    for cut in [0, 1000, 300_000] {
        let rig = rig(pattern(16 * MIB), 64 * MIB);
        rig.in_order(0, MIB, 2).await;
        // What is in flight by now is fetched ahead, whatever it was.
        for nth in 1..4 {
            rig.store.nth(Op::Read, nth, Fault::Cut(cut, ErrorKind::Unavailable));
        }
        let mut at = 2;
        while at < 16 {
            match rig.reader.read(at * MIB..(at + 1) * MIB).await {
                Ok(found) => {
                    assert!(found.into_bytes() == rig.content[(at * MIB) as usize..((at + 1) * MIB) as usize]);
                    at += 1;
                }
                // Only what the read itself asked for may fail it.
                Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable),
            }
        }
        assert_eq!(rig.held(), 0);
    }
}

#[tokio::test]
async fn a_failed_read_is_told_once_and_the_next_one_asks_again() {
    let rig = rig(pattern(8 * MIB), 64 * MIB);
    rig.store.nth(Op::Read, 1, Fault::Cut(5000, ErrorKind::Unavailable));
    assert_eq!(rig.reader.read(0..MIB).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(rig.store.calls(Op::Read), 1);
    rig.check(0..MIB).await;
    rig.memory.put(&Path::parse("file").unwrap(), "another");
    assert_eq!(rig.reader.read(4 * MIB..5 * MIB).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(rig.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_fails_who_waits_for_it_at_once() {
    let rig = rig(pattern(8 * MIB), 64 * MIB);
    rig.store.nth(Op::Read, 1, Fault::Panic);
    assert_eq!(rig.reader.read(0..MIB).await.unwrap_err().kind, ErrorKind::Other);
    rig.check(0..MIB).await;
    // So does one that somebody said comes next, known or not.
    for (op, target) in [
        (Op::Read, Target::Version(rig.reader.version().clone())),
        (Op::Fetch, Target::Path(rig.reader.version().path.clone())),
    ] {
        rig.store.nth(op, 1, Fault::Panic);
        rig.ahead.want(rig.ahead.source(), [target]);
        assert_eq!(rig.ahead.seen_at(&rig.reader.version().path).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_nobody_waits_for_any_more_is_cancelled() {
    let rig = rig(pattern(8 * MIB), 64 * MIB);
    rig.store.every(Op::Read, 1, Fault::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(60), rig.reader.read(0..MIB)).await.is_err());
    assert_eq!(rig.held(), 0);
    tokio::task::yield_now().await;
    assert_eq!(rig.store.reading(), 0);
}

#[tokio::test]
async fn dropping_a_reader_gives_everything_back_at_once() {
    let Rig { budget, ahead, reader, store, .. } = rig(vec![0; 64 << 20], 64 * MIB);
    for at in 0..20 {
        reader.read(at * MIB..(at + 1) * MIB).await.unwrap();
    }
    assert!(budget.free() < budget.total() - 16 * MIB);
    store.every(Op::Read, 1, Fault::Hang);
    drop(reader);
    assert_eq!(budget.free(), budget.total() - ahead.reserve.total());
    drop(ahead);
    assert_eq!(budget.free(), budget.total());
    tokio::task::yield_now().await;
    assert_eq!(store.reading(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_seeks_away_leaves_nothing_behind() {
    let rig = rig(vec![0; 1 << 30], 256 * MIB);
    // Only who waits is run far ahead of.
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    rig.in_order(0, MIB, 40).await;
    assert!(rig.held() > 48 * MIB);
    rig.in_order(800 * MIB, 64 * KIB, 60).await;
    assert!(rig.held() < 4 * MIB, "{}", rig.held());
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_while_others_hold_the_whole_budget() {
    let rig = rig(pattern(8 * MIB), 8 * MIB);
    let _all = rig.budget.try_acquire(rig.budget.free()).unwrap();
    rig.in_order(0, MIB, 4).await;
    let many = (4..8).map(|at| rig.check(at * MIB..(at + 1) * MIB));
    futures::future::join_all(many).await;
    assert_eq!(rig.held(), rig.budget.total() - rig.ahead.reserve.total());
}

#[tokio::test(start_paused = true)]
async fn what_the_reserve_paid_leaves_with_the_read() {
    let rig = rig(pattern(8 * MIB), 8 * MIB);
    let _all = rig.budget.try_acquire(rig.budget.free()).unwrap();
    let others: Vec<_> = (0..300).map(|_| rig.ahead.open(rig.reader.version().clone()).0).collect();
    let begin = Instant::now();
    for other in &others {
        // Two reads in order, of which a page is left over that a third would want.
        check(other, &rig.content, MIB + 1..MIB + 3000).await;
        check(other, &rig.content, MIB + 3000..MIB + 5000).await;
    }
    assert_eq!((rig.ahead.reserve.free(), begin.elapsed()), (rig.ahead.reserve.total(), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_reader_gives_way_and_an_active_one_does_not() {
    let rig = rig(vec![0; 512 << 20], 64 * MIB);
    rig.in_order(0, MIB, 32).await;
    let held = rig.held();
    assert!(held > 16 * MIB);
    let rest = rig.budget.total() - rig.ahead.reserve.total();
    let mut writing = std::pin::pin!(rig.budget.acquire(rest));
    assert!(tokio::time::timeout(QUIET / 2, writing.as_mut()).await.is_err());
    assert_eq!(rig.held(), rest, "the waiting writer has the rest, the reader what it had");
    let asked = rig.store.bytes_asked();
    rig.in_order(32 * MIB, MIB, 8).await;
    assert_eq!(rig.store.bytes_asked(), asked);
    let lease = tokio::time::timeout(QUIET * 2, writing).await.expect("the reader went quiet");
    rig.in_order(40 * MIB, MIB, 2).await;
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_new_reader_gets_what_a_quiet_one_held() {
    let rig = rig(vec![0; 64 << 20], 16 * MIB);
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    rig.in_order(0, MIB, 16).await;
    assert!(rig.held() > 6 * MIB);
    tokio::time::sleep(QUIET).await;
    let (other, _) = rig.ahead.open(rig.reader.version().clone());
    for at in 0..16 {
        check(&other, &rig.content, at * MIB..(at + 1) * MIB).await;
    }
    drop(rig.reader);
    assert!(rig.budget.free() < 8 * MIB, "{}", rig.budget.free());
}

#[tokio::test]
async fn many_readers_share_a_small_budget_without_waste() {
    for budget in [4 * MIB, 24 * MIB] {
        let Rig { store, budget, ahead, reader, content, .. } = rig(pattern(6 * MIB), budget);
        let readers = (0..12).map(|_| {
            let (reader, content) = (ahead.open(reader.version().clone()).0, content.clone());
            tokio::spawn(async move {
                for at in (0..6 * MIB).step_by(128 << 10) {
                    check(&reader, &content, at..at + 128 * KIB).await;
                    tokio::task::yield_now().await;
                }
            })
        });
        for reader in futures::future::join_all(readers).await {
            reader.unwrap();
        }
        assert_eq!(store.bytes_asked(), 12 * 6 * MIB);
        assert_eq!(budget.free(), budget.total() - ahead.reserve.total());
    }
}

/// Nobody takes the turns of the others for his end: the windows open.
#[tokio::test]
async fn long_interleaved_streams_cost_few_requests() {
    const STREAM: u64 = 64 * MIB;
    let rig = rig(vec![0; 8 * STREAM as usize], 256 * MIB);
    for turn in (0..STREAM).step_by(4 << 20) {
        for stream in 0..8 {
            for at in 0..4 {
                let at = stream * STREAM + turn + at * MIB;
                rig.check(at..at + MIB).await;
            }
        }
    }
    let calls = rig.store.calls(Op::Read);
    assert!(calls <= 260, "{calls}");
    assert_eq!(rig.store.bytes_asked(), 8 * STREAM);
}

/// In the test's own time, which only the store spends: 15 ms to the first byte, 100 MB/s a connection.
#[tokio::test(start_paused = true)]
async fn files_that_are_read_whole_one_after_the_other_lose_little_at_their_beginnings() {
    const SIZE: u64 = 32 * MIB;
    let Rig { memory, store, ahead, content, .. } = rig(pattern(SIZE), 256 * MIB);
    store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let open = |name: &str| ahead.open(memory.put(&Path::parse(name).unwrap(), content.clone())).0;
    let mut took = Vec::new();
    for number in 0..4 {
        let (begin, reader) = (Instant::now(), open(&format!("set/{number}.tar")));
        for at in (0..SIZE).step_by(128 << 10) {
            check(&reader, &content, at..at + 128 * KIB).await;
        }
        took.push(begin.elapsed().as_millis());
    }
    assert_eq!(store.bytes_asked(), 4 * SIZE);
    assert!(took[1..].iter().all(|took| *took < 120) && took[0] > 150, "{took:?}");
    // Of one that is read elsewhere no more is fetched than of others, and the next one has to show it again.
    let reader = open("set/5.tar");
    check(&reader, &content, SIZE - 100..SIZE).await;
    check(&reader, &content, 0..100).await;
    drop(reader);
    assert_eq!(store.bytes_asked(), 4 * SIZE + 2 * 4096);
    check(&open("set/6.tar"), &content, 0..100).await;
    assert_eq!(store.bytes_asked(), 4 * SIZE + 3 * 4096);
}

/// Eight streams of one file whose turns are mixed up, as a busy machine does it.
#[tokio::test]
async fn interleaved_streams_whose_requests_come_late_are_fetched_once() {
    const STREAM: u64 = 16 * MIB;
    for late in [0, 20, 60] {
        let rig = rig(vec![0; 8 * STREAM as usize], 256 * MIB);
        let mut chance = 1u64;
        let mut reads = Vec::new();
        for turn in 0..STREAM / (4 * MIB) {
            for stream in 0..8 {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let when = (turn * 8 + stream) * 4 + (chance >> 33) % (late + 1);
                reads.extend((0..4).map(|at| (when, stream * STREAM + turn * 4 * MIB + at * MIB)));
            }
        }
        reads.sort_by_key(|(when, _)| *when);
        for (_, at) in reads {
            rig.check(at..at + MIB).await;
        }
        let fetched = rig.store.bytes_asked() as f64 / rig.content.len() as f64;
        assert!(fetched <= 1.05, "{late}: {fetched:.3}");
    }
}

/// In the test's own time, which only the store spends: 15 ms to the first byte, 100 MB/s a connection.
#[tokio::test(start_paused = true)]
async fn a_sequential_reader_gets_what_eight_connections_give() {
    const SIZE: u64 = 256 * MIB;
    let rig = rig(vec![0; SIZE as usize], 256 * MIB);
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let begin = Instant::now();
    for at in (0..SIZE).step_by(4 << 20) {
        // As the kernel asks: several at once, the next ones when the last were answered.
        let four = (0..4).map(|turn| rig.reader.read(at + turn * MIB..at + (turn + 1) * MIB));
        futures::future::try_join_all(four).await.unwrap();
    }
    let took = begin.elapsed().as_secs_f64();
    let raw = SIZE as f64 / (8.0 * (8 << 20) as f64 / (0.015 + (8 << 20) as f64 / 100_000_000.0));
    assert!(rig.store.most_reading() <= 18, "{}", rig.store.most_reading());
    assert!(raw / took > 0.8, "{took} s, raw {raw} s");
    assert_eq!(rig.store.bytes_asked(), SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_by_whom_is_right(
        size in 1..3 * MIB,
        fail in prop::sample::select(vec![0u64, 3]),
        budget in prop::sample::select(vec![256 * KIB, 2 * MIB, 64 * MIB]),
        tasks in prop::collection::vec(prop::collection::vec((0.0..1.0f64, 1..300_000u64, 0..3u8), 1..40), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Arc::new(rig(pattern(size), budget));
            if fail > 0 {
                rig.store.every(Op::Read, fail, Fault::Cut(5000, ErrorKind::Unavailable));
            }
            let tasks = tasks.into_iter().map(|reads| {
                let rig = rig.clone();
                tokio::spawn(async move {
                    let (mut begin, mut next) = (0, 0);
                    for (at, length, way) in reads {
                        // On, back, or elsewhere.
                        let start = match way {
                            0 => next,
                            1 => begin - length.min(begin),
                            _ => (at * rig.content.len() as f64) as u64,
                        };
                        let stop = if way == 1 && begin > 0 { begin } else { start + length };
                        (begin, next) = (start, stop);
                        match rig.reader.read(start..stop).await {
                            Ok(found) => {
                                let end = stop.min(rig.content.len() as u64);
                                assert!(found.into_bytes() == rig.content[start.min(end) as usize..end as usize]);
                            }
                            Err(error) => assert!(fail > 0 && error.kind == ErrorKind::Unavailable),
                        }
                    }
                })
            });
            for task in futures::future::join_all(tasks).await {
                task.unwrap();
            }
            let budget = rig.budget.clone();
            drop(Arc::into_inner(rig).unwrap());
            assert_eq!(budget.free(), budget.total());
        });
    }
}
