//! Who stays when there is not room for all, and a disk in trouble.

use rustix::io::Errno;

use super::*;
use crate::observability::metrics::{CACHE_SKIPPED_BYTES, ProcessRecorder};

const SIZE: u64 = 64 << 10;

fn set(rig: &Rig, name: &str, count: u64) -> Vec<Version> {
    (0..count).map(|number| rig.put(&format!("{name}/{number}"), SIZE)).collect()
}

/// Reads all in order; returns how many were asked of the store.
async fn pass(rig: &Rig, cached: &Cached, files: &[Version]) -> u64 {
    let before = rig.requests();
    for file in files {
        check(cached, file, 0..file.size).await;
        // As slow as a reader is who does something with it.
        cached.settle().await;
    }
    assert!(cached.used() <= rig.config.capacity, "{} of {}", cached.used(), rig.config.capacity);
    rig.requests() - before
}

#[tokio::test]
async fn one_pass_over_more_than_fits_displaces_nothing() {
    let rig = Rig::with_capacity(20 * (SIZE + 8192));
    let (hot, scan) = (set(&rig, "hot", 16), set(&rig, "scan", 100));
    let cached = rig.open().await;
    for expected in [16, 0] {
        assert_eq!(pass(&rig, &cached, &hot).await, expected);
    }
    pass(&rig, &cached, &scan).await;
    assert_eq!(pass(&rig, &cached, &hot).await, 0);
}

#[tokio::test]
async fn of_what_is_read_again_and_again_and_does_not_fit_a_part_stays() {
    let rig = Rig::with_capacity(50 * (SIZE + 8192));
    let files = set(&rig, "f", 100);
    let cached = rig.open().await;
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(pass(&rig, &cached, &files).await);
    }
    // Also where the next worker remembers nothing.
    let cached = rig.open().await;
    asked.push(pass(&rig, &cached, &files).await);
    assert!(asked[0] == 100 && asked[1..].iter().all(|asked| *asked <= 60), "{asked:?}");
}

#[tokio::test]
async fn what_is_read_now_takes_the_place_of_what_was() {
    let rig = Rig::with_capacity(20 * (SIZE + 8192));
    let (old, new) = (set(&rig, "old", 20), set(&rig, "new", 16));
    let cached = rig.open().await;
    pass(&rig, &cached, &old).await;
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(pass(&rig, &cached, &new).await);
    }
    assert_eq!(asked[3], 0, "{asked:?}");
}

#[tokio::test]
async fn of_a_file_larger_than_the_cache_the_beginning_stays() {
    let rig = Rig::with_capacity(4 * MIB);
    let file = rig.put("f", 16 * MIB);
    let cached = rig.open().await;
    for _ in 0..3 {
        for at in 0..16 {
            check(&cached, &file, at * MIB..(at + 1) * MIB).await;
            cached.settle().await;
        }
        assert!(cached.used() <= 4 * MIB);
    }
    let asked = rig.store.bytes_asked();
    check(&cached, &file, 0..3 * MIB).await;
    assert_eq!(rig.store.bytes_asked(), asked);
}

#[tokio::test]
async fn what_is_to_stay_free_stays_free() {
    let rig = Rig { config: Config { capacity: 1 << 40, free_percent: 100 }, ..Rig::new() };
    let file = rig.put("f", MIB);
    let cached = rig.open().await;
    for _ in 0..2 {
        check(&cached, &file, 0..MIB).await;
        cached.settle().await;
    }
    assert_eq!(rig.requests(), 2);
    assert!(cached.ailment().unwrap().contains("full"), "{:?}", cached.ailment());
}

#[tokio::test(start_paused = true)]
async fn who_shares_the_disk_is_given_room() {
    let mut rig = Rig::new();
    let files = set(&rig, "f", 8);
    pass(&rig, &rig.open().await, &files).await;
    rig.config.free_percent = 100;
    let cached = rig.open().await;
    assert!(cached.used() > 8 * SIZE);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cached.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_in_trouble_is_done_without_and_taken_back_when_it_is_well() {
    for (errno, word) in
        [(Errno::NOSPC, "full"), (Errno::DQUOT, "full"), (Errno::ROFS, "read-only"), (Errno::IO, "failing")]
    {
        let rig = Rig::new();
        let (old, new) = (rig.put("old", MIB), rig.put("new", MIB));
        let cached = rig.open().await;
        check(&cached, &old, 0..MIB).await;
        cached.settle().await;
        rig.stage(|staged| staged.refuse = Some(errno));
        for _ in 0..3 {
            check(&cached, &new, 0..MIB).await;
            check(&cached, &old, 0..MIB).await;
            cached.settle().await;
        }
        assert!(cached.ailment().unwrap().contains(word), "{errno}: {:?}", cached.ailment());
        let mut changes = 0;
        rig.stage(|staged| changes = staged.changes);
        check(&cached, &new, 0..MIB).await;
        cached.settle().await;
        rig.stage(|staged| {
            assert_eq!(staged.changes, changes, "{errno}: it is left alone");
            staged.refuse = None;
        });
        tokio::time::sleep(Duration::from_secs(40)).await;
        for file in [&new, &old] {
            check(&cached, file, 0..MIB).await;
            cached.settle().await;
        }
        let requests = rig.requests();
        check(&cached, &new, 0..MIB).await;
        check(&cached, &old, 0..MIB).await;
        assert_eq!((rig.requests(), cached.ailment()), (requests, None), "{errno}");
    }
}

#[tokio::test]
async fn a_slow_disk_is_not_waited_for() {
    let patience = Patience { call: Duration::from_millis(200), rest: Duration::from_millis(1500) };
    let rig = Rig { patience, ..Rig::new() };
    let file = rig.put("f", MIB);
    check(&rig.open().await, &file, 0..MIB).await;
    let cached = rig.open().await;
    rig.stage(|staged| staged.slow = Duration::from_secs(2));
    let begin = std::time::Instant::now();
    for _ in 0..20 {
        check(&cached, &file, 0..MIB).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(cached.ailment().unwrap().contains("slow"), "{:?}", cached.ailment());
    rig.stage(|staged| staged.slow = Duration::ZERO);
    let deadline = begin + Duration::from_secs(60);
    while cached.ailment().is_some() {
        assert!(std::time::Instant::now() < deadline, "{:?}", cached.ailment());
        tokio::time::sleep(Duration::from_millis(100)).await;
        check(&cached, &file, 0..MIB).await;
        cached.settle().await;
    }
}

#[tokio::test]
async fn what_the_disk_does_not_take_in_time_is_not_kept() {
    let rig = Rig::new();
    let file = rig.put("f", 40 * MIB);
    let cached = rig.open().await;
    let recorder = ProcessRecorder::default();
    let _counting = metrics::set_default_local_recorder(&recorder);
    rig.stage(|staged| staged.slow = Duration::from_secs(2));
    check(&cached, &file, 0..file.size).await;
    let skipped: u64 = recorder.numbers().of(CACHE_SKIPPED_BYTES).iter().map(|(_, bytes)| *bytes).sum();
    assert!(skipped > 0 && skipped < file.size, "{skipped}");
    assert_eq!(cached.ailment(), None);
}
