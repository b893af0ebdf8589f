//! Removing what is left of records that are gone.
//!
//! A writer who saw a gone record may be about to make its next version, which must not happen in a directory that goes
//! or was made anew. So that number is taken first, by a version that closes the record: who lost it, or comes later,
//! finds it closed. The directory goes when [`SETTLED`] is over, which is longer than any request that began before
//! lasts, and in it the closing version last, so that no older one ever counts again.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::Directories;
use super::look::{CLOSED, State, Versions, name_of, versions};
use crate::backend::{ErrorKind, Kind, Path, RESERVED, Result};

/// How long a record stays closed, by this process's own clock, before it goes.
const SETTLED: Duration = Duration::from_secs(30);

/// See [`super::Records::clear`]. A call that dies leaves closed records, which the next one takes away.
pub(super) async fn clear(store: &dyn Directories) -> Result<u64> {
    let mut closed = Vec::new();
    let mut unlisted = vec![Path::parse(RESERVED).unwrap_or_default()];
    while let Some(dir) = unlisted.pop() {
        let Some(found) = versions(store, &dir).await? else { continue };
        match (found.is_record(), found.state()) {
            (false, _) => unlisted.extend(found.below.iter().map(|name| dir.join(name))),
            (true, State::Present) => {}
            (true, State::Closed) => closed.push(dir),
            (true, State::Gone) => {
                let file = dir.join(&name_of(found.next()));
                match store.place(&file, Bytes::from_static(CLOSED.as_bytes())).await {
                    Ok(()) => closed.push(dir),
                    // It was made anew, or another controller closed it.
                    Err(error) if matches!(error.kind, ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if !closed.is_empty() {
        tokio::time::sleep(SETTLED).await;
    }
    let mut removed = 0;
    for dir in &closed {
        // Another controller may have been faster.
        if let Some(found) = versions(store, dir).await?.filter(|found| found.state() == State::Closed) {
            take_away(store, dir, &found).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

async fn take_away(store: &dyn Directories, dir: &Path, found: &Versions) -> Result<()> {
    for name in found.hidden.iter().chain(found.names()) {
        remove(store, &dir.join(name), Kind::File).await?;
    }
    remove(store, dir, Kind::Directory).await?;
    // And the directories above it that hold nothing any more, up to the driver's own ones.
    let mut above = dir.split_last();
    while let Some((at, _)) = above.filter(|(at, _)| at.names().count() > 2) {
        if store.entries(&at).try_next().await?.is_some() {
            break;
        }
        remove(store, &at, Kind::Directory).await?;
        above = at.split_last();
    }
    Ok(())
}

async fn remove(store: &dyn Directories, at: &Path, kind: Kind) -> Result<()> {
    match store.remove(at, kind).await {
        // Whoever makes it anew has begun already.
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotEmpty) => Ok(()),
        outcome => outcome,
    }
}
