//! Who may wait for the disk: a few threads, and nobody for long. A disk that is slow, full or failing is left alone for
//! a while, in which the volume is read as if there were no cache.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::observability::metrics::CACHE_FAILURES;

/// Reads of the disk at once. Each may hold a thread for as long as the disk takes.
const READS: usize = 16;
/// And writes: more would only queue up in the disk, before the reads.
const WRITES: usize = 4;

/// How the disk is dealt with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A call that takes longer is not waited for, and the disk is slow.
    pub(super) call: Duration,
    /// How long a slow or failing disk is left alone, and nothing is written to a full one.
    pub(super) rest: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { call: Duration::from_secs(3), rest: Duration::from_secs(30) }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until then nothing is asked of it.
    quiet: Option<Instant>,
    /// Until then nothing is written to it.
    unwritten: Option<Instant>,
    /// What ails it; until something succeeds that failed before.
    ailment: Option<String>,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Disk {
    pub(super) fn new(patience: Patience) -> Disk {
        let (reads, writes) = (Arc::new(Semaphore::new(READS)), Arc::new(Semaphore::new(WRITES)));
        Disk { reads, writes, patience, state: Mutex::default() }
    }

    /// Whether it may be asked now.
    pub(super) fn is_open(&self, to: Use) -> bool {
        let state = self.lock();
        is_over(state.quiet) && (to == Use::Read || is_over(state.unwritten))
    }

    /// What ails it, for the person who looks after the node.
    pub(super) fn ailment(&self) -> Option<String> {
        self.lock().ailment.clone()
    }

    /// Makes a call on a thread that may wait. `None` where it fails or is not made: why is noted.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        to: Use,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        if !self.is_open(to) {
            return None;
        }
        let turns = if to == Use::Read { self.reads.clone() } else { self.writes.clone() };
        let work = async move {
            // Never closed. The turn is over when the thread is free, however long that takes.
            let turn = turns.acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                call()
            });
            work.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
        };
        match tokio::time::timeout(self.patience.call, work).await {
            Ok(Ok(done)) => {
                self.succeeded(to);
                Some(done)
            }
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                let waited = self.patience.call;
                self.suffer("slow", &format!("it did not answer for {waited:?}"), Use::Read);
                None
            }
        }
    }

    /// Notes that there is no room for what is to be kept.
    pub(super) fn is_full(&self, why: &str) {
        self.suffer("full", why, Use::Write);
    }

    /// Notes what went wrong.
    pub(super) fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => self.is_full(&error.to_string()),
            ReadOnlyFilesystem => self.suffer("read-only", &error.to_string(), Use::Write),
            _ => self.suffer("failed", &error.to_string(), Use::Read),
        }
    }

    fn suffer(&self, how: &'static str, why: &str, to: Use) {
        metrics::counter!(CACHE_FAILURES, "reason" => how).increment(1);
        let until = Some(Instant::now() + self.patience.rest);
        let mut state = self.lock();
        match to {
            Use::Read => state.quiet = until,
            Use::Write => state.unwritten = until,
        }
        let text = format!("the node's cache disk is {}: {why}", if how == "failed" { "failing" } else { how });
        if state.ailment.as_ref() != Some(&text) {
            tracing::warn!(rest = ?self.patience.rest, "{text}; the volume is read from its store");
        }
        state.ailment = Some(text);
    }

    fn succeeded(&self, to: Use) {
        let mut state = self.lock();
        let is_proof = to == Use::Write || state.unwritten.is_none();
        // A call that began before the trouble did proves nothing.
        if state.ailment.is_some() && is_proof && is_over(state.quiet) && is_over(state.unwritten) {
            tracing::info!("the node's cache disk is well again");
            *state = State::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_none_or(|until| until <= Instant::now())
}
