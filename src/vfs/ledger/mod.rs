//! What a volume's files take, and how much more they may: arithmetic alone.
//!
//! `used` is what the last count of the store found, plus what this mount changed since that count began, plus what is
//! written here and not in the store yet. Before the first count it is what this mount changed alone.
//!
//! A count goes through the volume a directory at a time while the mount goes on changing it. What was changed in a
//! directory before that directory was listed is in its listing, what is changed after is not: so changes are kept
//! apart by directory while a count runs. Off by as much as is changed in a directory while it is being listed, until
//! the next count.
//!
//! Where the volume has a limit, its other mounts on this node are told of all this, and tell ([`super::news`]). What
//! they change is as if this mount had changed it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::news::{Change, News};
use crate::backend::Path;

/// Directories that are kept apart; past that, what is changed in others counts as changed after their listing.
const KEPT: usize = 1_000_000;

/// Directories that are kept apart for the other mounts while nobody tells them.
const UNTOLD: usize = 1024;

/// Counts that began so near each other are one.
const SAME: Duration = Duration::from_secs(1);

/// Stands for the directories past that. It is never listed.
const FURTHER: u64 = 0;

/// Bytes and names, or a difference of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes.
    pub bytes: i64,
    /// Files and directories.
    pub inodes: i64,
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

    fn less(self, other: Amount) -> Amount {
        Amount { bytes: self.bytes.saturating_sub(other.bytes), inodes: self.inodes.saturating_sub(other.inodes) }
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
    /// What other mounts have written beyond what is in the store.
    elsewhere: u64,
    /// When the count began that `stored` rests on.
    counted: Option<Instant>,
    counting: Option<Counting>,
    /// What the other mounts have not been told yet, by directory; what is no change of one under `None`.
    untold: HashMap<Option<u64>, Amount>,
    /// Rung where there is something to tell.
    bell: Arc<Notify>,
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
        let stored = u64::try_from(self.stored.bytes).unwrap_or(0);
        stored.saturating_add(self.unpublished).saturating_add(self.elsewhere)
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
        self.bell.notify_one();
        Ok(())
    }

    /// `bytes` that were taken are published, or never will be.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.unpublished = self.unpublished.saturating_sub(bytes);
        self.bell.notify_one();
    }

    /// The store was changed by this mount, in the directory `dir`.
    pub(super) fn change(&mut self, dir: &Path, by: Amount) {
        let key = key(dir);
        self.changed(key, by);
        self.tell(Some(key), by);
    }

    fn changed(&mut self, dir: u64, by: Amount) {
        self.stored.add(by);
        if let Some(counting) = &mut self.counting
            && (counting.apart.len() < KEPT || counting.apart.contains_key(&dir))
        {
            counting.apart.entry(dir).or_default().add(by);
        }
    }

    /// Notes what the other mounts are to be told. Without a limit nobody asks.
    fn tell(&mut self, dir: Option<u64>, by: Amount) {
        if self.limit.is_some() {
            let full = self.untold.len() >= UNTOLD && !self.untold.contains_key(&dir);
            let dir = if full && dir.is_some() { Some(FURTHER) } else { dir };
            self.untold.entry(dir).or_default().add(by);
            self.bell.notify_one();
        }
    }

    /// Rung where there is something to tell, now and then without.
    pub(super) fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }

    /// What the other mounts are to be told now; all that is known, where they hear of this one for the first time.
    pub(super) fn news(&mut self, first: bool) -> News {
        let untold = std::mem::take(&mut self.untold);
        let base = first.then(|| untold.values().fold(self.stored, |base, by| base.less(*by)));
        News {
            base,
            changes: untold.into_iter().map(|(dir, by)| Change { dir, by }).collect(),
            unpublished: self.unpublished,
            counted: self.counted,
            counting: self.counting.is_some(),
        }
    }

    /// The other mounts did this.
    pub(super) fn hear(&mut self, news: News) {
        for Change { dir, by } in news.changes {
            match dir {
                Some(dir) => self.changed(dir, by),
                None => self.stored.add(by),
            }
        }
        self.elsewhere = news.unpublished;
        // An age that travels makes a count a little younger each time.
        if news.counted > self.counted.map(|counted| counted + SAME) {
            self.counted = news.counted;
        }
    }

    /// A count begins.
    pub(super) fn begin(&mut self) {
        let counting =
            Counting { began: Instant::now(), found: Amount::default(), begun: HashSet::new(), apart: HashMap::new() };
        self.counting = Some(counting);
        self.bell.notify_one();
    }

    /// The listing of `dir` is about to begin: it shows what was changed there so far.
    pub(super) fn begin_directory(&mut self, dir: &Path) {
        let key = key(dir);
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
        // No change of the volume, and so no part of a count that runs elsewhere.
        self.tell(None, stored.less(self.stored));
        self.stored = stored;
        self.counted = self.counted.max(Some(counting.began));
        self.bell.notify_one();
    }

    /// The count came to nothing: the one before stands.
    pub(super) fn abandon(&mut self) {
        self.counting = None;
        self.bell.notify_one();
    }
}

/// A directory's number, the same in all mounts. Who finds two directories of one number miscounts his own volume.
fn key(dir: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
