//! WRITEs that the server may still lose, kept until it vouches for them (RFC 1813, sections 3.3.7 and 3.3.21).
//!
//! An UNSTABLE write lies in the server's memory. Its answer carries a verifier that changes when the server restarts;
//! a COMMIT whose verifier is another one means that what was written before may be gone, and it is sent again.

use std::time::Duration;

use bytes::Bytes;
use nfs3_types::nfs3::{fattr3, nfs_fh3, stable_how, writeverf3};

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use crate::backend::ErrorKind;
use crate::budget::Lease;

/// How often what was written is sent again to a server that keeps restarting.
const ATTEMPTS: usize = 5;

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
    verifier: writeverf3,
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
        mounted: &Mounted,
        file: &nfs_fh3,
        offset: u64,
        data: Bytes,
        mut lease: Option<Lease>,
    ) -> Outcome<Option<fattr3>> {
        let mut written = Written::default();
        let outcome = send(mounted, file, offset, data, self.patience, &mut written).await;
        for (offset, data, verifier) in written.unstable {
            let lease = lease.as_mut().map(|lease| lease.split(data.len() as u64));
            self.kept.push(Kept { offset, data, verifier, _lease: lease });
        }
        outcome.map(|()| written.attributes)
    }

    /// Makes all of it lasting; the file's attributes after it, where there was anything to do.
    pub(super) async fn commit(&mut self, mounted: &Mounted, file: &nfs_fh3) -> Outcome<Option<fattr3>> {
        for _ in 0..ATTEMPTS {
            if self.kept.is_empty() {
                return Ok(None);
            }
            let committed = mounted.server.commit(file, self.patience).await?;
            if self.kept.iter().all(|kept| kept.verifier == committed.verf) {
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
                send(mounted, file, kept.offset, kept.data.clone(), self.patience, &mut written).await?;
                // Where its parts fell into two lives of the server, the first decides: the next COMMIT tells.
                kept.verifier = written.unstable.first().map_or(committed.verf, |(_, _, verifier)| *verifier);
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "the server restarted again and again before it committed"))
    }
}

#[derive(Default)]
struct Written {
    unstable: Vec<(u64, Bytes, writeverf3)>,
    attributes: Option<fattr3>,
}

/// Writes all of `data`, in as many WRITEs as the server's sizes ask for.
async fn send(
    mounted: &Mounted,
    file: &nfs_fh3,
    mut offset: u64,
    mut rest: Bytes,
    patience: Option<Duration>,
    written: &mut Written,
) -> Outcome<()> {
    while !rest.is_empty() {
        let most = rest.len().min(mounted.write_size as usize);
        let wrote = mounted.server.write(file, offset, rest.slice(..most), patience).await?;
        if wrote.count == 0 {
            return Err(Failure::new(ErrorKind::Other, "the server wrote nothing of what it was given"));
        }
        let data = rest.split_to(wrote.count as usize);
        written.attributes = option(wrote.file_wcc.after);
        if wrote.committed == stable_how::UNSTABLE {
            written.unstable.push((offset, data, wrote.verf));
        }
        offset += u64::from(wrote.count);
    }
    Ok(())
}
