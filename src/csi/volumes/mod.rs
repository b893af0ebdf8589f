//! The volumes of one store, as the control plane keeps them: made and deleted step by step, so that a controller may
//! die between any two steps and another may go on.
//!
//! Truth is the [`Record`], changed only under the condition that it is what was read. Everything else follows from
//! it: an owner whose record says otherwise owns nothing, a directory whose record is a tombstone is nobody's.
//!
//! ```text
//!               owner, recheck, volume.json               pages
//!   creating ----------------------------> ready -> deleting ----> deleted
//!      |                                     |                        |
//!      v                                     v                        |
//!   withdrawing -> withdrawn                kept --(release)--> withdrawn --> forgotten --> nothing
//! ```
//!
//! What was sent before a record became a tombstone may still arrive after it. So a tombstone is built over only when
//! this process has seen it for [`TOMBSTONE`], which is longer than the [`STEP`] that bounds every step; no clock of
//! another machine counts.

mod change;
mod copy;
mod create;
mod delete;
mod directory;
mod health;
mod listing;
mod owner;
pub mod placement;
pub mod record;
pub mod snapshots;
mod upkeep;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use change::Room;
pub use create::Wanted;
pub use delete::Deleted;
pub use health::{Severity, Trouble};
pub use listing::Page;
pub use record::{Claim, Record, Source, State, VolumeFile};
pub use upkeep::Listed;

use crate::auth::{Credential, keys};
use crate::backend::records::apart::Clerks;
use crate::backend::records::{Records, Tag};
use crate::backend::snapshots::Snapshots;
use crate::backend::{self, ErrorKind, Op, Path};
use crate::config::stores::{ControllerKey, Store};

/// The longest that a step (a look at the record and the change that rests on it) may take.
pub const STEP: Duration = Duration::from_secs(15);
/// How long a tombstone keeps its name and its path, from when this process first saw it.
pub const TOMBSTONE: Duration = Duration::from_secs(25);
/// How long CreateVolume waits for a name or path that is about to be free.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a volume could not be made, found or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be met by any store.
    #[error("{0}")]
    Invalid(String),
    /// There is no such volume (any more).
    #[error("{0}")]
    Missing(String),
    /// More bytes than the store or the request allows.
    #[error("{0}")]
    OutOfRange(String),
    /// The name or the path belongs to another volume.
    #[error("{0}")]
    Exists(String),
    /// Something must be changed first.
    #[error("{0}")]
    Precondition(String),
    /// As many as there can be are there.
    #[error("{0}")]
    Full(String),
    /// Somebody else is at work there.
    #[error("{0}")]
    Busy(String),
    /// Written by a newer version.
    #[error("{at} has format {format}, and this version of millrace knows format 1: update it")]
    NewerFormat {
        /// Which record.
        at: Path,
        /// Its format.
        format: u32,
    },
    /// Not what it should be.
    #[error("{at} is not a record: {why}")]
    Unreadable {
        /// Which record.
        at: Path,
        /// What was found.
        why: String,
    },
    /// The store's own error, met with the controller credential and with nobody else's.
    #[error("with the controller's own credential: {0}")]
    Store(#[from] backend::Error),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// The volumes of one store.
#[derive(Debug)]
pub struct Volumes {
    records: Arc<dyn Records>,
    /// Where the store has such.
    snapshots: Option<Arc<dyn Snapshots>>,
    cluster: String,
    proved: OnceCell<()>,
    /// Whether the store lets the controller take snapshots.
    permitted: OnceCell<bool>,
    /// Tombstones, and when this process first saw them.
    seen: Mutex<HashMap<(Path, Tag), Instant>>,
    /// The limits of all volumes together.
    sum: change::Sum,
    /// What the last count of a volume found, by generation.
    counts: Mutex<HashMap<String, health::Count>>,
}

impl Volumes {
    /// The volumes of `store`, with its controller credential as the file has it now. Asks nothing of the store. Where its
    /// client cannot share a process with another one's, `clerks` start one for it.
    ///
    /// # Errors
    /// `Precondition` where the store names no such credential or the file gives none; `Store` where no client can be
    /// built.
    pub fn open(store: &Store, cluster: &str, clerks: Option<&Clerks>) -> Result<Volumes, Error> {
        let (records, snapshots) = kept(store, clerks)?;
        Ok(Volumes { snapshots, ..Volumes::new(records, cluster) })
    }

    /// The volumes that `records` hold, for the controller of `cluster`. Asks nothing of the store.
    pub fn new(records: Arc<dyn Records>, cluster: impl Into<String>) -> Volumes {
        Volumes {
            records,
            snapshots: None,
            cluster: cluster.into(),
            proved: OnceCell::new(),
            permitted: OnceCell::new(),
            seen: Mutex::default(),
            sum: change::Sum::default(),
            counts: Mutex::default(),
        }
    }

    /// The volume that has this path and generation, in whatever state; `None` where there is none.
    ///
    /// # Errors
    /// The store's, and what is wrong with its records.
    pub async fn find(&self, path: &Path, generation: &str) -> Result<Option<Record>, Error> {
        Ok(self.find_tagged(path, generation).await?.map(|(record, _)| record))
    }

    async fn find_tagged(&self, path: &Path, generation: &str) -> Result<Option<(Record, Tag)>, Error> {
        let Some((owner, _)) = self.load::<record::Owner>(&record::owner_at(path)).await? else { return Ok(None) };
        if owner.generation != generation {
            return Ok(None);
        }
        let found = self.load::<Record>(&record::record_at(&owner.record)).await?;
        Ok(found.filter(|(record, _)| record.generation == generation && path.as_str() == Some(&record.path)))
    }

    /// Whether the directory of `record` is the one that CreateVolume made, or none is there any more.
    async fn check_directory(&self, record: &Record, path: &Path) -> Result<(), Error> {
        let Some(made) = &record.directory else { return Ok(()) };
        match bounded(path, async { Ok(self.records.directory(path).await?) }).await? {
            Some(there) if there != *made => {
                let Record { name, path, .. } = record;
                Err(Error::Precondition(format!(
                    "another directory lies at {path:?} than the one that was made for volume {name:?}: it was replaced \
                     without the driver, which leaves it alone"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Proves once that the store keeps two controllers apart, and says so where it does not.
    async fn prove_exclusion(&self) -> Result<(), Error> {
        let prove = async || {
            if !bounded(&Path::root(), async { Ok(self.records.excludes().await?) }).await? {
                tracing::warn!(
                    "the store ignores If-None-Match, so it cannot keep two controllers apart: run one replica only"
                );
            }
            Ok::<_, Error>(())
        };
        self.proved.get_or_try_init(prove).await.copied()
    }

    async fn load<T: DeserializeOwned>(&self, at: &Path) -> Result<Option<(T, Tag)>, Error> {
        match bounded(at, async { Ok(self.records.get(at).await?) }).await {
            Ok((text, tag)) => Ok(Some((record::read(at, &text)?, tag))),
            Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates; `None` where something is there already.
    async fn put_new<T: Serialize>(&self, at: &Path, form: &T) -> Result<Option<Tag>, Error> {
        let body = record::write(form)?;
        match bounded(at, async { Ok(self.records.create(at, body).await?) }).await {
            Ok(tag) => Ok(Some(tag)),
            Err(Error::Store(error)) if error.kind == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces what is still in state `tag`; `None` where it is not.
    async fn swap<T: Serialize>(&self, at: &Path, tag: &Tag, form: &T) -> Result<Option<Tag>, Error> {
        let body = record::write(form)?;
        match bounded(at, async { Ok(self.records.replace(at, tag, body).await?) }).await {
            Ok(tag) => Ok(Some(tag)),
            Err(Error::Store(error)) if error.kind == ErrorKind::Stale => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a record into another state; `None` where it changed meanwhile.
    async fn enter(&self, record: &Record, tag: &Tag, state: State) -> Result<Option<(Record, Tag)>, Error> {
        let ended = if state.is_tombstone() { Some(record::timestamp(SystemTime::now())) } else { None };
        let next = Record { state, ended, ..record.clone() };
        let at = record::record_at(&record::key_of(&record.name));
        let Some(tag) = self.swap(&at, tag, &next).await? else { return Ok(None) };
        if state.is_tombstone() {
            self.free_at(&at, &tag);
        }
        Ok(Some((next, tag)))
    }

    /// When the tombstone at `at` has been seen for long enough.
    fn free_at(&self, at: &Path, tag: &Tag) -> Instant {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is asked for again after an hour is waited for once more.
        seen.retain(|_, first| now.duration_since(*first) < Duration::from_secs(3600));
        *seen.entry((at.clone(), tag.clone())).or_insert(now) + TOMBSTONE
    }

    /// Finishes giving way: what CreateVolume wrote into the directory goes, then the record says so. `None` where the
    /// record changed meanwhile.
    async fn finish_withdrawal(&self, record: &Record, tag: &Tag) -> Result<Option<(Record, Tag)>, Error> {
        self.tidy(record).await?;
        self.let_go(record).await?;
        self.enter(record, tag, State::Withdrawn).await
    }

    /// Removes the file that CreateVolume put into the directory of `record`'s generation, and nothing else.
    async fn tidy(&self, record: &Record) -> Result<(), Error> {
        let at = record::volume_file_at(&path_of(record)?);
        bounded(&at, async {
            match self.records.get(&at).await {
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.into()),
                Ok((text, _)) => match record::read::<VolumeFile>(&at, &text) {
                    Ok(file) if file.generation == record.generation => Ok(self.records.remove(&at).await?),
                    _ => Ok(()),
                },
            }
        })
        .await
    }
}

/// The control plane's view of `store`, with its controller credential as the file has it now. Asks nothing of the store.
///
/// # Errors
/// As [`Volumes::open`].
pub fn records(store: &Store, clerks: Option<&Clerks>) -> Result<Arc<dyn Records>, Error> {
    Ok(kept(store, clerks)?.0)
}

/// And what takes snapshots there, where the backend has such.
fn kept(store: &Store, clerks: Option<&Clerks>) -> Result<Kept, Error> {
    let (config, credential) = (&store.backend, controller_credential(store)?);
    match (config, clerks) {
        (backend::Config::Hdfs(_), Some(clerks)) => {
            let (records, snapshots) = clerks.open(config, &credential);
            Ok((records, Some(snapshots)))
        }
        _ => Ok((backend::records(config, &credential)?, backend::snapshots(config, &credential)?)),
    }
}

type Kept = (Arc<dyn Records>, Option<Arc<dyn Snapshots>>);

/// The store's own key for the control plane, read anew each time, so that it can be rotated.
///
/// # Errors
/// `Precondition`.
pub fn controller_credential(store: &Store) -> Result<Credential, Error> {
    let name = &store.name;
    match &store.controller_credential {
        None => {
            let word = match store.backend {
                _ if store.backend.realm().is_some() => "controllerCredential",
                backend::Config::S3(_) => "controllerCredential",
                backend::Config::Hdfs(_) | backend::Config::Nfs(_) => "controllerUser",
            };
            Err(Error::Precondition(format!(
                "store {name:?} has no {word} in the stores file, so it serves static volumes only"
            )))
        }
        Some(ControllerKey::User(credential)) => Ok(credential.clone()),
        Some(ControllerKey::File(file)) => {
            let read = match store.backend.realm() {
                Some(realm) => keys::kerberos_at(file, &realm.name),
                None => keys::s3_at(file),
            };
            read.map_err(|why| Error::Precondition(format!("the controllerCredential of store {name:?}: {why}")))
        }
    }
}

/// The record's own path, checked like any other.
fn path_of(record: &Record) -> Result<Path, Error> {
    let path = crate::csi::volume_id::parse_path(&record.path, crate::csi::volume_id::LONGEST_ID);
    path.map_err(|error| Error::Internal(format!("the record of {:?} has no good path: {error}", record.name)))
}

/// `step` within [`STEP`].
async fn bounded<T>(at: &Path, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(STEP, step).await {
        Ok(result) => result,
        Err(_) => Err(late(at, STEP)),
    }
}

/// What a store is that did not answer.
pub(super) fn late(at: &Path, after: Duration) -> Error {
    let message = format!("the store did not answer within {} s", after.as_secs());
    backend::Error::new(ErrorKind::Unavailable, Op::Record, at, message).into()
}

#[cfg(test)]
mod tests;
