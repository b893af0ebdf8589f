//! What a worker that died left under hidden names, removed by the next one of the same volume and identity.
//!
//! Whoever may write the directory may have put another file there meanwhile, which stays. A file that the journal does
//! not know yet was just made, and is empty.

use std::time::Duration;

use nfs3_types::nfs3::ftype3;

use super::calls::Outcome;
use super::error::Failure;
use super::tree::{Found, Tree};
use super::{changes, version};
use crate::backend::journal::Note;
use crate::backend::journal::replay::{Undo, Undone};
use crate::backend::{ErrorKind, Kind, beside};

impl Undo for Tree {
    type Failure = Failure;

    /// A listing removes it then.
    fn patience(&self, _note: &Note) -> Duration {
        beside::LEFT_BEHIND
    }

    async fn undo(&self, note: &Note) -> Outcome<Undone> {
        // An NFS client notes nothing else.
        let Note::Hidden { path, file } = note else { return Ok(Undone::Foreign) };
        match self.lookup_any(path).await? {
            None => Ok(Undone::Done),
            Some(found) if !is_it(&found, file.as_deref()) => Ok(Undone::Foreign),
            Some(_) => match changes::remove_one(self, path, Kind::File).await {
                Err(failure) if failure.kind != ErrorKind::NotFound => Err(failure),
                _ => Ok(Undone::Done),
            },
        }
    }
}

fn is_it(found: &Found, file: Option<&str>) -> bool {
    match file {
        Some(file) => *version::file(&found.handle, &found.attributes) == *file,
        None => found.attributes.type_ == ftype3::NF3REG && found.attributes.size == 0,
    }
}
