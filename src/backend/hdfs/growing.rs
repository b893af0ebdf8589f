//! Files that others are writing, as far as reading them has told: of those the name node may know less than can be read,
//! since a writer tells it the length at the first sync within a block alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Outcome;
use super::webhdfs::{Status, WebHdfs};
use crate::backend::ErrorKind;

/// By file id: the length that could be read.
#[derive(Debug, Default)]
pub(super) struct Growing(Mutex<HashMap<u64, u64>>);

impl Growing {
    /// A reader met a file that is being written.
    pub(super) fn note(&self, id: u64) {
        self.all().entry(id).or_default();
    }

    /// Adds to what the name node says of a file what was readable of it before.
    pub(super) fn add_to(&self, status: &mut Status) {
        if let Some(length) = self.all().get(&status.file_id) {
            status.length = status.length.max(*length);
        }
    }

    /// Adds to what the name node says of the file at an absolute path what is readable of it now, or was before where no
    /// DataNode tells. Of a file that nobody was seen to write, nothing is asked.
    pub(super) async fn look(&self, web: &WebHdfs, at: &str, status: Status) -> Outcome<Status> {
        let id = status.file_id;
        if !self.all().contains_key(&id) {
            return Ok(status);
        }
        if !web.is_under_construction(at).await? {
            self.all().remove(&id);
            // It was closed since it was looked at, maybe with more.
            return web.status(at).await;
        }
        let readable = match web.readable(at, status.length).await {
            Err(failure) if failure.kind == ErrorKind::Unavailable => status.length,
            readable => readable?,
        };
        let mut all = self.all();
        let seen = all.entry(id).or_default();
        *seen = readable.max(*seen);
        Ok(Status { length: status.length.max(*seen), ..status })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
