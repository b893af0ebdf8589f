//! What a volume's files take, and how much more they may: arithmetic alone.
//!
//! `used` is what the last count of the store found, plus what this mount changed since that count began, plus what is
//! written here and not in the store yet. Before the first count it is what this mount changed alone.
//!
//! A count goes through the volume a directory at a time while the mount goes on changing it. What was changed in a
//! directory before that directory was listed is in its listing, what is changed after is not: so changes are kept
//! apart by directory while a count runs. Off by as much as is changed in a directory while it is being listed, until
//! the next count.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use tokio::time::Instant;

use crate::backend::Path;

/// Directories that are kept apart; past that, what is changed in others counts as changed after their listing.
const KEPT: usize = 1_000_000;

/// Bytes and names, or a difference of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: i64,
    pub(super) inodes: i64,
}

impl Amount {
    /// A directory, or its absence where `by` is -1.
    pub(super) fn directory(by: i64) -> Amount {
        Amount { bytes: 0, inodes: by }
    }

    /// A file of `size` bytes, in place of one of `replaced` bytes where there was one.
    pub(super) fn published(size: u64, replaced: Option<u64>) -> Amount {
        let mut amount = Amount::file(size, 1);
        if let Some(replaced) = replaced {
            amount.add(Amount::file(replaced, -1));
        }
        amount
    }

    /// One file, or its absence where `by` is -1.
    pub(super) fn file(size: u64, by: i64) -> Amount {
        Amount { bytes: signed(size).saturating_mul(by), inodes: by }
    }

    /// Adds `more`.
    pub(super) fn add(&mut self, more: Amount) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.inodes = self.inodes.saturating_add(more.inodes);
    }
}

/// Sizes of stores are far below 2^63.
fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A write that would pass the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    limit: Option<u64>,
    /// What is in the store.
    stored: Amount,
    /// What is written here beyond what is in the store.
    unpublished: u64,
    /// When the count began that `stored` rests on.
    counted: Option<Instant>,
    counting: Option<Counting>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Counting {
    began: Instant,
    found: Amount,
    /// Directories whose listing has begun, by the hash of their path.
    begun: HashSet<u64>,
    /// What was changed in a directory since its listing began, or since the count did.
    apart: HashMap<u64, Amount>,
}

impl Ledger {
    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
    }

    pub(super) fn used_bytes(&self) -> u64 {
        u64::try_from(self.stored.bytes).unwrap_or(0).saturating_add(self.unpublished)
    }

    pub(super) fn used_inodes(&self) -> u64 {
        u64::try_from(self.stored.inodes).unwrap_or(0)
    }

    /// When the count began that the rest is built on; `None` before the first.
    pub(super) fn counted(&self) -> Option<Instant> {
        self.counted
    }

    /// `bytes` more are about to be written, in place of nothing.
    ///
    /// # Errors
    /// [`Full`]: nothing was taken.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes > 0 && self.limit.is_some_and(|limit| self.used_bytes().saturating_add(bytes) > limit) {
            return Err(Full);
        }
        self.unpublished = self.unpublished.saturating_add(bytes);
        Ok(())
    }

    /// `bytes` that were taken are published, or never will be.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.unpublished = self.unpublished.saturating_sub(bytes);
    }

    /// The store was changed by this mount, in the directory `dir`.
    pub(super) fn change(&mut self, dir: &Path, by: Amount) {
        self.stored.add(by);
        let key = self.hasher.hash_one(dir);
        if let Some(counting) = &mut self.counting
            && (counting.apart.len() < KEPT || counting.apart.contains_key(&key))
        {
            counting.apart.entry(key).or_default().add(by);
        }
    }

    /// A count begins.
    pub(super) fn begin(&mut self) {
        let counting =
            Counting { began: Instant::now(), found: Amount::default(), begun: HashSet::new(), apart: HashMap::new() };
        self.counting = Some(counting);
    }

    /// The listing of `dir` is about to begin: it shows what was changed there so far.
    pub(super) fn begin_directory(&mut self, dir: &Path) {
        let key = self.hasher.hash_one(dir);
        if let Some(counting) = &mut self.counting {
            counting.apart.remove(&key);
            if counting.begun.len() < KEPT {
                counting.begun.insert(key);
            }
        }
    }

    /// A listing showed this.
    pub(super) fn found(&mut self, what: Amount) {
        if let Some(counting) = &mut self.counting {
            counting.found.add(what);
        }
    }

    /// The whole volume was listed.
    pub(super) fn finish(&mut self) {
        let Some(counting) = self.counting.take() else { return };
        let mut stored = counting.found;
        let many = counting.begun.len() >= KEPT;
        for (dir, changed) in counting.apart {
            // One that was never listed came after its parent's listing, with all that is in it, or went before, with
            // all that was: then less than nothing was never counted.
            let was_listed = many || counting.begun.contains(&dir);
            match was_listed {
                true => stored.add(changed),
                false => stored.add(Amount { bytes: changed.bytes.max(0), inodes: changed.inodes.max(0) }),
            }
        }
        self.stored = stored;
        self.counted = Some(counting.began);
    }

    /// The count came to nothing: the one before stands.
    pub(super) fn abandon(&mut self) {
        self.counting = None;
    }
}

#[cfg(test)]
mod tests {
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
        /// Changes between the listings of directories neither count twice nor get lost, whatever the order.
        #[test]
        fn a_count_under_changes_is_exact(
            before in proptest::collection::vec((0..4usize, 0..3usize, 0..1000u64), 0..12),
            steps in proptest::collection::vec(steps(), 0..40),
        ) {
            let mut files: BTreeMap<(usize, usize), u64> = BTreeMap::new();
            for (dir, name, size) in before {
                files.insert((dir, name), size);
            }
            let mut ledger = Ledger::default();
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
                        ledger.change(&dir(at), by);
                    }
                    Step::Remove(at, name) => {
                        if let Some(old) = files.remove(&(at, name)) {
                            ledger.change(&dir(at), Amount::file(old, -1));
                        }
                    }
                    Step::ListNext => list(&mut ledger, &files),
                }
            }
            for _ in 0..4 {
                list(&mut ledger, &files);
            }
            ledger.finish();
            prop_assert_eq!(ledger.used_bytes(), files.values().sum::<u64>());
            prop_assert_eq!(ledger.used_inodes(), files.len() as u64);
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
}
