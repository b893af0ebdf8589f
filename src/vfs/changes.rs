//! What this mount changed while it waited for the store.
//!
//! An answer to a question that was asked before a change of ours may describe the time before it. So whoever asks the
//! store about names takes a [`Ticket`] first, and whoever changed a name records it: a name changed since the ticket
//! is not decided by the answer.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::Path;

/// Changes kept while somebody waits; past that, the oldest tickets learn only that anything may have changed.
const KEPT: usize = 100_000;

/// What a change left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Something, or it is not known what: to be asked anew.
    Uncertain,
    /// Nothing.
    Absent,
}

/// The changes that somebody's answer may not know of. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    now: u64,
    /// Times of open tickets, with how many there are of each.
    asked: BTreeMap<u64, usize>,
    /// By the hash of a path: when it last changed, and what is there now.
    recent: HashMap<u64, (u64, Outcome)>,
    /// Changes up to here are no longer kept one by one.
    forgotten: u64,
    hasher: RandomState,
}

impl Changes {
    /// To be taken before the store is asked.
    pub(super) fn ask(&self) -> Ticket {
        let mut log = self.lock();
        let at = log.now;
        *log.asked.entry(at).or_default() += 1;
        Ticket { changes: self.clone(), at }
    }

    /// To be told when a change of `path` is done, or failed without its outcome being known.
    pub(super) fn record(&self, path: &Path, outcome: Outcome) {
        let mut log = self.lock();
        if log.asked.is_empty() {
            return;
        }
        if log.recent.len() >= KEPT {
            log.forgotten = log.now;
            log.recent.clear();
        }
        log.now += 1;
        let (at, key) = (log.now, log.hasher.hash_one(path));
        log.recent.insert(key, (at, outcome));
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment before a question to the store.
#[derive(Debug)]
pub(super) struct Ticket {
    changes: Changes,
    at: u64,
}

impl Ticket {
    /// What a change of ours since then left at `path`; `None` where there was none and the store's answer counts.
    pub(super) fn changed(&self, path: &Path) -> Option<Outcome> {
        let log = self.changes.lock();
        match log.recent.get(&log.hasher.hash_one(path)) {
            Some((at, outcome)) if *at > self.at => Some(*outcome),
            _ if self.at < log.forgotten => Some(Outcome::Uncertain),
            _ => None,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut log = self.changes.lock();
        if let Some(count) = log.asked.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                log.asked.remove(&self.at);
            }
        }
        if log.asked.is_empty() {
            log.recent = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn only_later_changes_count() {
        let changes = Changes::default();
        let other = changes.ask();
        changes.record(&path("a"), Outcome::Absent);
        let ticket = changes.ask();
        assert_eq!(ticket.changed(&path("a")), None);
        changes.record(&path("b"), Outcome::Absent);
        changes.record(&path("b"), Outcome::Uncertain);
        assert_eq!(ticket.changed(&path("b")), Some(Outcome::Uncertain));
        assert_eq!(other.changed(&path("a")), Some(Outcome::Absent));
        assert_eq!(ticket.changed(&path("c")), None);
    }

    #[test]
    fn nothing_is_kept_when_nobody_waits() {
        let changes = Changes::default();
        let ticket = changes.ask();
        changes.record(&path("a"), Outcome::Absent);
        drop(ticket);
        changes.record(&path("b"), Outcome::Absent);
        assert!(changes.lock().recent.is_empty());
        assert_eq!(changes.ask().changed(&path("a")), None);
    }

    #[test]
    fn memory_is_bounded_and_no_change_is_missed() {
        let changes = Changes::default();
        let ticket = changes.ask();
        for i in 0..KEPT + 10 {
            changes.record(&path(&i.to_string()), Outcome::Absent);
        }
        assert!(changes.lock().recent.len() <= KEPT);
        assert_eq!(ticket.changed(&path("0")), Some(Outcome::Uncertain));
        assert_eq!(ticket.changed(&path(&(KEPT + 9).to_string())), Some(Outcome::Absent));
    }
}
