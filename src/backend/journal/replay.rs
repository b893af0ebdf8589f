//! Undoing what stands in a journal, whatever the store: each note is tried until it is undone, or there is no sense in it.
//!
//! It runs beside a mount's service, which never waits for it.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use super::{Failed, Journal, Note};
use crate::backend::ErrorKind;

/// So many are undone at once.
const AT_ONCE: usize = 8;

/// Between two attempts, at first and at last.
const PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Undone {
    /// All of it is undone.
    Done,
    /// Not yet.
    Waits,
    /// It may be another client's.
    Doubtful,
    /// It is not what was noted: it stays as it is.
    Foreign,
}

/// A store that undoes what its clients note.
pub(in crate::backend) trait Undo: Sync {
    /// Why an attempt failed.
    type Failure: Failed + Send;

    /// How long it is tried, from the first attempt on.
    fn patience(&self, note: &Note) -> Duration;

    /// One attempt.
    fn undo(&self, note: &Note) -> impl Future<Output = Result<Undone, Self::Failure>> + Send;
}

/// Undoes what is left in `journal`, from which each note is struck at its end.
pub(in crate::backend) async fn replay(journal: &Journal, store: &impl Undo) {
    stream::iter(journal.left()).for_each_concurrent(AT_ONCE, |note| settle(journal, store, note)).await;
}

async fn settle(journal: &Journal, store: &impl Undo, mut note: Note) {
    let (begun, mut pause) = (Instant::now(), PAUSE);
    while journal.is_left(&note) {
        match store.undo(&note).await {
            Ok(Undone::Done) => tracing::info!(?note, "what an earlier worker left was undone"),
            Ok(Undone::Foreign) => tracing::warn!(?note, "something else lies where an earlier worker left something"),
            Ok(Undone::Doubtful) => {
                note = journal.doubt(&note);
                continue;
            }
            Err(failure) if is_final(failure.kind()) => {
                tracing::warn!(?note, why = %failure, "what an earlier worker left cannot be undone");
            }
            Ok(Undone::Waits) | Err(_) if begun.elapsed() < store.patience(&note) => {
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
                continue;
            }
            Ok(Undone::Waits) => tracing::info!(?note, "what an earlier worker left is in another client's hands"),
            Err(failure) => tracing::warn!(?note, why = %failure, "what an earlier worker left could not be undone"),
        }
        return journal.settle(&note).await;
    }
}

fn is_final(kind: ErrorKind) -> bool {
    use ErrorKind::{Denied, InvalidName, NotPermitted, ReadOnly};
    matches!(kind, Denied | InvalidName | NotPermitted | ReadOnly)
}
