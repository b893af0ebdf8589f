//! The arithmetic of one mount, and of two that tell each other.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_taken_counts_until_it_is_given_back() {
    let mut ledger = Ledger::default();
    ledger.take(1 << 40).unwrap();
    ledger.give_back(1 << 40);
    ledger.set_limit(Some(100));
    ledger.change(&Path::root(), Amount::file(60, 1));
    assert_eq!((ledger.take(41), ledger.take(40)), (Err(Full), Ok(())));
    assert_eq!((ledger.take(1), ledger.take(0), ledger.used_bytes()), (Err(Full), Ok(()), 100));
    ledger.give_back(40);
    ledger.change(&Path::root(), Amount::file(60, -1));
    assert_eq!((ledger.used_bytes(), ledger.used_inodes(), ledger.take(100)), (0, 0, Ok(())));
    // A limit that is passed already stops writes and nothing else.
    ledger.set_limit(Some(10));
    assert_eq!((ledger.take(1), ledger.take(0)), (Err(Full), Ok(())));
}

#[test]
fn a_count_that_failed_changes_nothing() {
    let mut ledger = Ledger::default();
    ledger.change(&Path::root(), Amount::file(7, 1));
    ledger.begin();
    ledger.begin_directory(&Path::root());
    ledger.found(Amount::file(1000, 1));
    ledger.abandon();
    assert_eq!((ledger.used_bytes(), ledger.counted()), (7, None));
}

fn limited() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.set_limit(Some(1000));
    ledger
}

/// Two mounts tell each other.
fn exchange(one: &mut Ledger, other: &mut Ledger) {
    other.hear(one.news(false));
    one.hear(other.news(false));
}

#[test]
fn two_mounts_keep_one_limit() {
    let (mut one, mut other) = (limited(), limited());
    one.change(&dir(1), Amount::file(300, 1));
    one.take(400).unwrap();
    exchange(&mut one, &mut other);
    assert_eq!((other.used_bytes(), other.used_inodes()), (700, 1));
    assert_eq!((other.take(301), other.take(300)), (Err(Full), Ok(())));
    exchange(&mut one, &mut other);
    assert_eq!(one.take(1), Err(Full));
    // What was written is published, what the other wrote never is.
    one.change(&dir(1), Amount::file(400, 1));
    one.give_back(400);
    other.give_back(300);
    exchange(&mut one, &mut other);
    assert_eq!((one.used_bytes(), other.used_bytes(), one.used_inodes(), other.used_inodes()), (700, 700, 2, 2));
}

#[test]
fn the_first_news_tell_all_and_the_others_what_is_new() {
    let mut ledger = limited();
    let by = |bytes: i64| Amount { bytes, inodes: bytes.signum() };
    ledger.change(&dir(1), by(5));
    ledger.news(false);
    ledger.change(&dir(1), by(7));
    let news = ledger.news(true);
    assert_eq!((news.base, news.changes.len(), news.changes[0].by), (Some(by(5)), 1, by(7)));
    assert_eq!(ledger.news(false), News::default());
    // Nobody listens for long: the sum is right, and it costs no more than that.
    for number in 0..3 * UNTOLD {
        ledger.change(&Path::parse(&format!("d{number}")).unwrap(), by(1));
    }
    let changes = ledger.news(false).changes;
    assert!(changes.len() <= UNTOLD + 1);
    assert_eq!(changes.iter().map(|change| change.by.bytes).sum::<i64>(), 3 * UNTOLD as i64);
    ledger.set_limit(None);
    ledger.change(&dir(1), by(9));
    assert_eq!(ledger.news(false), News::default(), "without a limit nobody asks");
}

/// One of four directories, the root the first.
fn dir(index: usize) -> Path {
    Path::parse(["", "a", "a/b", "c"][index]).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize, u64),
    Remove(usize, usize),
    ListNext,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize, 0..3usize, 0..1000u64).prop_map(|(dir, name, size)| Step::Put(dir, name, size)),
        (0..4usize, 0..3usize).prop_map(|(dir, name)| Step::Remove(dir, name)),
        Just(Step::ListNext),
    ]
}

proptest! {
    /// Changes between the listings of directories neither count twice nor get lost, whatever the order and whichever
    /// of two mounts makes them; and both know the same.
    #[test]
    fn a_count_under_changes_is_exact(
        before in proptest::collection::vec((0..4usize, 0..3usize, 0..1000u64), 0..12),
        steps in proptest::collection::vec(steps(), 0..40),
    ) {
        let mut files: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (dir, name, size) in before {
            files.insert((dir, name), size);
        }
        let (mut ledger, mut other) = (limited(), limited());
        ledger.begin();
        let mut unlisted = vec![3, 2, 1, 0];
        let mut list = |ledger: &mut Ledger, files: &BTreeMap<(usize, usize), u64>| {
            if let Some(next) = unlisted.pop() {
                ledger.begin_directory(&dir(next));
                for ((_, _), size) in files.iter().filter(|((dir, _), _)| *dir == next) {
                    ledger.found(Amount::file(*size, 1));
                }
            }
        };
        for step in steps {
            match step {
                Step::Put(at, name, size) => {
                    let old = files.insert((at, name), size);
                    let mut by = Amount::file(size, 1);
                    if let Some(old) = old {
                        by.add(Amount::file(old, -1));
                    }
                    if name == 2 { other.change(&dir(at), by) } else { ledger.change(&dir(at), by) }
                }
                Step::Remove(at, name) => {
                    if let Some(old) = files.remove(&(at, name)) {
                        let by = Amount::file(old, -1);
                        if name == 2 { other.change(&dir(at), by) } else { ledger.change(&dir(at), by) }
                    }
                }
                Step::ListNext => list(&mut ledger, &files),
            }
            exchange(&mut ledger, &mut other);
        }
        for _ in 0..4 {
            list(&mut ledger, &files);
        }
        ledger.finish();
        exchange(&mut ledger, &mut other);
        for one in [ledger, other] {
            prop_assert_eq!(one.used_bytes(), files.values().sum::<u64>());
            prop_assert_eq!(one.used_inodes(), files.len() as u64);
            prop_assert!(one.counted().is_some());
        }
    }

    /// A directory that came to be, or went, without ever being listed.
    #[test]
    fn a_directory_that_was_never_listed_counts_as_what_is_in_it(
        old in proptest::collection::vec(0..1000u64, 0..5),
        new in proptest::collection::vec(0..1000u64, 0..5),
    ) {
        let mut went = Ledger::default();
        went.begin();
        for size in &old {
            went.change(&dir(1), Amount::file(*size, -1));
        }
        went.begin_directory(&dir(0));
        went.finish();
        prop_assert_eq!((went.used_bytes(), went.used_inodes()), (0, 0));
        let mut came = Ledger::default();
        came.begin();
        came.begin_directory(&dir(0));
        for size in &new {
            came.change(&dir(1), Amount::file(*size, 1));
        }
        came.finish();
        prop_assert_eq!(came.used_bytes(), new.iter().sum::<u64>());
    }
}
