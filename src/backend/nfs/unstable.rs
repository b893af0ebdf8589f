//! WRITEs that the server may still lose, kept until it vouches for them (RFC 1813, sections 3.3.7 and 3.3.21).
//!
//! An UNSTABLE write lies in the server's memory. Its answer carries a verifier that changes when the server restarts;
//! a COMMIT whose verifier is another one means that what was written before may be gone, and it is sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nfs3_types::nfs3::{COMMIT3resok, fattr3, nfs_fh3, stable_how, writeverf3};

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use super::tree::Tree;
use crate::backend::{ErrorKind, Path};
use crate::budget::Lease;

/// How often what was written is sent again to a server that keeps restarting.
const ATTEMPTS: usize = 5;

/// The file that is written.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) tree: &'a Tree,
    /// Where it lay when its handle was learnt.
    pub(super) path: &'a Path,
    pub(super) handle: &'a nfs_fh3,
}

/// What was written to one file and not committed yet.
#[derive(Debug, Default)]
pub(super) struct Unstable {
    kept: Vec<Kept>,
    /// How long a call may take; as long as any other without it.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Kept {
    offset: u64,
    data: Bytes,
    /// `None` where the server vouched for it when it was sent again.
    verifier: Option<writeverf3>,
    /// Pays for `data`.
    _lease: Option<Lease>,
}

impl Unstable {
    /// One whose calls wait longer for their answers than others.
    pub(super) fn patient(patience: Duration) -> Unstable {
        Unstable { patience: Some(patience), ..Unstable::default() }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.data.len() as u64).sum()
    }

    /// Writes `data` at `offset`; the file's attributes after it. `lease` pays for what has to be kept of it.
    pub(super) async fn write(
        &mut self,
        file: Target<'_>,
        offset: u64,
        data: Bytes,
        mut lease: Option<Lease>,
    ) -> Outcome<Option<fattr3>> {
        let mut written = Written::default();
        let outcome = file.send(offset, data, self.patience, &mut written).await;
        for (offset, data, verifier) in written.parts {
            if verifier.is_some() {
                let lease = lease.as_mut().map(|lease| lease.split(data.len() as u64));
                self.kept.push(Kept { offset, data, verifier, _lease: lease });
            }
        }
        outcome.map(|()| written.attributes)
    }

    /// Makes all of it lasting; the file's attributes after it, where there was anything to do.
    pub(super) async fn commit(&mut self, file: Target<'_>) -> Outcome<Option<fattr3>> {
        for _ in 0..ATTEMPTS {
            if self.kept.is_empty() {
                return Ok(None);
            }
            let committed = file.commit(self.patience).await?;
            if self.kept.iter().all(|kept| kept.verifier.is_none_or(|verifier| verifier == committed.verf)) {
                self.kept.clear();
                return Ok(option(committed.file_wcc.after));
            }
            tracing::info!(
                writes = self.kept.len(),
                "the server restarted: what it had not committed is written again"
            );
            // All of it, in the order in which it was written: what was lost may lie beneath what was not.
            for kept in &mut self.kept {
                let mut written = Written::default();
                file.send(kept.offset, kept.data.clone(), self.patience, &mut written).await?;
                // Where its parts fell into two lives of the server, the first decides: the next COMMIT tells.
                kept.verifier = written.parts.iter().find_map(|(_, _, verifier)| *verifier);
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "the server restarted again and again before it committed"))
    }
}

#[derive(Default)]
struct Written {
    /// Offset, data, and the verifier of what the server may still lose.
    parts: Vec<(u64, Bytes, Option<writeverf3>)>,
    attributes: Option<fattr3>,
}

impl Target<'_> {
    /// Writes all of `data`, in as many WRITEs as the server's sizes ask for.
    async fn send(
        self,
        mut offset: u64,
        mut rest: Bytes,
        patience: Option<Duration>,
        written: &mut Written,
    ) -> Outcome<()> {
        let most = self.tree.mounted().await?.write_size as usize;
        while !rest.is_empty() {
            let data = &rest.slice(..rest.len().min(most));
            let writing = |mounted: Arc<Mounted>| async move {
                mounted.server.write(self.handle, offset, data.clone(), patience).await
            };
            let wrote = self.tree.by_handle(self.path, self.handle, writing).await?;
            if wrote.count == 0 {
                return Err(Failure::new(ErrorKind::Other, "the server wrote nothing of what it was given"));
            }
            let data = rest.split_to(wrote.count as usize);
            written.attributes = option(wrote.file_wcc.after);
            let is_unstable = wrote.committed == stable_how::UNSTABLE;
            written.parts.push((offset, data, is_unstable.then_some(wrote.verf)));
            offset += u64::from(wrote.count);
        }
        Ok(())
    }

    async fn commit(self, patience: Option<Duration>) -> Outcome<COMMIT3resok> {
        let committing = |mounted: Arc<Mounted>| async move { mounted.server.commit(self.handle, patience).await };
        self.tree.by_handle(self.path, self.handle, committing).await
    }
}
