//! What a worker that died left open or hidden, undone by the next one of the same volume and identity.
//!
//! A lease that is known to be the dead worker's is ended at once: the file is open, and its time is what it was when that
//! worker had opened it, which every close and every other open changes. Where that is not known, HDFS's own rule decides:
//! who asks for a lease that its holder has not renewed for a minute gets it, and a living holder's nobody gets.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use super::error::{Failure, Outcome};
use super::pipeline::Pipeline;
use super::{Tree, version};
use crate::backend::ErrorKind;
use crate::backend::journal::Note;

/// So many are undone at once.
const AT_ONCE: usize = 8;

/// Between two attempts, at first and at last.
const PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long it is tried. By then HDFS ends leases by itself (`dfs.namenode.lease-hard-limit-sec`).
const PATIENCE: Duration = Duration::from_secs(3600);

/// How long a lease is asked for that may be a living client's: twice what HDFS leaves to a dead one's
/// (`LEASE_SOFTLIMIT_PERIOD`).
const SOFT_LIMIT: Duration = Duration::from_secs(120);

enum Undone {
    /// All of it.
    Done,
    /// Not yet.
    Waits,
    /// It may be another client's.
    Doubtful,
}

/// Undoes what stands in the journal.
pub(super) async fn replay(tree: Arc<Tree>) {
    let left = tree.limits.journal.left();
    stream::iter(left).for_each_concurrent(AT_ONCE, |note| settle(&tree, note)).await;
}

async fn settle(tree: &Tree, mut note: Note) {
    let journal = &tree.limits.journal;
    let (begun, mut pause) = (Instant::now(), PAUSE);
    while journal.is_left(&note) {
        let patience = if is_known(&note) { PATIENCE } else { SOFT_LIMIT };
        match undo(tree, &note).await {
            Ok(Undone::Done) => tracing::info!(?note, "what an earlier worker left was undone"),
            Ok(Undone::Doubtful) => {
                note = journal.doubt(&note);
                continue;
            }
            Err(failure) if is_final(failure.kind) => {
                tracing::warn!(?note, why = %failure, "what an earlier worker left cannot be undone");
            }
            Ok(Undone::Waits) | Err(_) if begun.elapsed() < patience => {
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

fn is_known(note: &Note) -> bool {
    matches!(note, Note::Hidden(_) | Note::Written { since: Some(_), .. })
}

fn is_final(kind: ErrorKind) -> bool {
    use ErrorKind::{Denied, InvalidName, NotPermitted, ReadOnly};
    matches!(kind, Denied | InvalidName | NotPermitted | ReadOnly)
}

async fn undo(tree: &Tree, note: &Note) -> Outcome<Undone> {
    let undone = match note {
        Note::Hidden(path) => {
            let at = &tree.at(path)?;
            let removed = tree.library.act("remove", |client| async move { client.delete(at, false).await }).await;
            removed.map(|_| Undone::Done)
        }
        Note::Made(path) => {
            let at = &tree.at(path)?;
            match tree.web.status(at).await {
                Ok(status) if status.length == 0 => claim(tree, at).await,
                // Somebody has written to it since.
                other => other.map(|_| Undone::Done),
            }
        }
        Note::Written { id, since } => {
            let at = &version::by_id(*id);
            match since {
                Some(since) => recover(tree, at, *since).await,
                None => claim(tree, at).await,
            }
        }
    };
    match undone {
        Err(Failure { kind: ErrorKind::NotFound | ErrorKind::Stale, .. }) => Ok(Undone::Done),
        undone => undone,
    }
}

/// Has the name node end the lease of the open file `at` that was last changed then.
async fn recover(tree: &Tree, at: &str, since: u64) -> Outcome<Undone> {
    let status = tree.web.status(at).await?;
    if !tree.web.is_under_construction(at).await? {
        return Ok(Undone::Done);
    }
    if status.modification_time != since {
        return Ok(Undone::Doubtful);
    }
    let is_closed = tree.library.ask("other", |client| async move { client.recover_lease(at).await }).await?;
    Ok(if is_closed { Undone::Done } else { Undone::Waits })
}

/// Takes the lease of the open file `at` where nobody renews it, and gives it back.
async fn claim(tree: &Tree, at: &str) -> Outcome<Undone> {
    if !tree.web.is_under_construction(at).await? {
        return Ok(Undone::Done);
    }
    match tree.library.act("write", |client| async move { client.append(at).await }).await {
        Ok(writer) => {
            Pipeline::new(writer, &tree.limits.timeout).close_at_leisure().await?;
            Ok(Undone::Done)
        }
        Err(failure) if matches!(failure.kind, ErrorKind::AlreadyExists | ErrorKind::Busy) => Ok(Undone::Waits),
        Err(failure) => Err(failure),
    }
}
