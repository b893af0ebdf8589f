//! What a worker that died left open or hidden, undone by the next one of the same volume and identity.
//!
//! A lease that is known to be the dead worker's is ended at once: the file is open, and its time is what it was when that
//! worker had opened it, which every close and every other open changes. Where that is not known, HDFS's own rule decides:
//! who asks for a lease that its holder has not renewed for a minute gets it, and a living holder's nobody gets.

use std::time::Duration;

use super::error::{Failure, Outcome};
use super::pipeline::Pipeline;
use super::{Tree, version};
use crate::backend::ErrorKind;
use crate::backend::journal::Note;
use crate::backend::journal::replay::{Undo, Undone};

/// How long it is tried. By then HDFS ends leases by itself (`dfs.namenode.lease-hard-limit-sec`).
const PATIENCE: Duration = Duration::from_secs(3600);

/// How long a lease is asked for that may be a living client's: twice what HDFS leaves to a dead one's
/// (`LEASE_SOFTLIMIT_PERIOD`).
const SOFT_LIMIT: Duration = Duration::from_secs(120);

impl Undo for Tree {
    type Failure = Failure;

    fn patience(&self, note: &Note) -> Duration {
        match note {
            Note::Hidden { .. } | Note::Written { since: Some(_), .. } => PATIENCE,
            Note::Made(_) | Note::Written { since: None, .. } => SOFT_LIMIT,
        }
    }

    async fn undo(&self, note: &Note) -> Outcome<Undone> {
        undo(self, note).await
    }
}

async fn undo(tree: &Tree, note: &Note) -> Outcome<Undone> {
    let undone = match note {
        Note::Hidden { path, file } => remove(tree, &tree.at(path)?, file.as_deref()).await,
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

/// Removes what lies `at`, where it is that file.
async fn remove(tree: &Tree, at: &str, file: Option<&str>) -> Outcome<Undone> {
    if let Some(file) = file
        && *version::file(tree.web.status(at).await?.file_id) != *file
    {
        return Ok(Undone::Foreign);
    }
    tree.library.act("remove", |client| async move { client.delete(at, false).await }).await.map(|_| Undone::Done)
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
