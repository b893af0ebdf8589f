//! Snapshots of volumes, in a store that has such: taken, listed and removed step by step, so that a controller may die
//! between any two steps.
//!
//! A snapshot has a record of its own, and its source's record names it. That is one line of one record, changed only as it
//! was read, as is the step by which a volume begins to be deleted: so no volume with snapshots is deleted, and of one
//! that is being deleted none is taken. Likewise a snapshot's record names the volumes that need it.
//!
//! ```text
//!              source's record, the store                   the store
//!   creating ------------------------------> ready -> deleting -------> deleted, source's record
//! ```

pub mod record;
mod restoring;
mod taking;
mod upkeep;

use std::time::Duration;

use tokio::time::timeout;

pub use self::record::Snapshot;
use self::record::{State, snapshot_at};
use super::record::{Owner, Record, State as VolumeState, key_of, owner_at, record_at};
use super::{Error, Volumes, bounded};
use crate::backend::Path;
use crate::backend::records::Tag;
use crate::backend::snapshots::Snapshots;

/// How long a store may take to say whether it lets the controller take snapshots.
const PROBE: Duration = Duration::from_secs(3);

/// Snapshots that a volume may have, and volumes that may rest on a snapshot: what fits into a record.
const MOST: usize = 500;

/// Looks at a record that keeps changing before it is somebody else's turn.
const TRIES: usize = 8;

/// Some of this cluster's snapshots.
#[derive(Debug)]
pub struct Page {
    /// They, in the order of [`key_of`] their names.
    pub snapshots: Vec<Snapshot>,
    /// There are others after them.
    pub more: bool,
}

impl Volumes {
    /// Whether the store has snapshots, and lets the controller take them. Where it does not answer, it is believed to.
    pub async fn takes_snapshots(&self) -> bool {
        let Some(snapshots) = &self.snapshots else { return false };
        let asking = self.permitted.get_or_try_init(|| async { snapshots.permitted().await });
        match timeout(PROBE, asking).await {
            Ok(Ok(permitted)) => *permitted,
            outcome => {
                tracing::debug!(?outcome, "the store does not say whether it lets the controller take snapshots");
                true
            }
        }
    }

    /// The snapshot of the directory `path` that has this generation, where it was given out.
    ///
    /// # Errors
    /// The store's, and what is wrong with its records.
    pub async fn snapshot(&self, path: &Path, generation: &str) -> Result<Option<Snapshot>, Error> {
        let Some((volume, key)) = self.source_of(path, generation).await? else { return Ok(None) };
        let found = self.load::<Snapshot>(&snapshot_at(&key)).await?.map(|(snapshot, _)| snapshot);
        let is_it = |snapshot: &Snapshot| snapshot.generation == generation && snapshot.volume == volume.generation;
        Ok(found.filter(|snapshot| is_it(snapshot) && self.gave_out(snapshot)))
    }

    /// Those of one volume that were given out, in the order of [`key_of`] their names.
    ///
    /// # Errors
    /// As [`Volumes::snapshot`].
    pub async fn snapshots_of(&self, path: &Path, generation: &str) -> Result<Vec<Snapshot>, Error> {
        let Some(volume) = self.find(path, generation).await? else { return Ok(Vec::new()) };
        let mut named: Vec<_> = volume.snapshots.iter().collect();
        named.sort_by_key(|(_, key)| *key);
        let mut found = Vec::new();
        for (own, key) in named {
            let snapshot = self.load::<Snapshot>(&snapshot_at(key)).await?.map(|(snapshot, _)| snapshot);
            found.extend(snapshot.filter(|snapshot| snapshot.generation == *own && self.gave_out(snapshot)));
        }
        Ok(found)
    }

    /// Up to `most` snapshots of this cluster that were given out, whose records' keys come after `after`. A record that
    /// cannot be read is told in the log and left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn page_of_snapshots(&self, after: Option<&str>, most: usize) -> Result<Page, Error> {
        let after = after.map(snapshot_at);
        let is_shown = |snapshot: &Snapshot| self.gave_out(snapshot);
        let (snapshots, more) =
            self.page_of("a snapshot", &record::snapshots(), after.as_ref(), most, is_shown).await?;
        Ok(Page { snapshots, more })
    }

    /// Refuses to delete a volume that has snapshots, also such as others took.
    pub(super) async fn check_no_snapshots(&self, volume: &Record, path: &Path) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Precondition(format!("volume {:?} {why}", volume.name)));
        if let Some(generation) = volume.snapshots.keys().next() {
            let (count, path) = (volume.snapshots.len(), &volume.path);
            return refuse(format!(
                "has {count} snapshots, one of them the snapshot @{generation} of {path:?}: delete them first"
            ));
        }
        let Some(snapshots) = &self.snapshots else { return Ok(()) };
        match bounded(path, async { Ok(snapshots.names(path).await?) }).await?.first() {
            Some(name) => refuse(format!(
                "has a snapshot {name:?} in the store that this driver does not know: remove it with the store's own tools"
            )),
            None => Ok(()),
        }
    }

    /// The volume whose record names that snapshot, and the key of the snapshot's own.
    async fn source_of(&self, path: &Path, generation: &str) -> Result<Option<(Record, String)>, Error> {
        let Some((owner, _)) = self.load::<Owner>(&owner_at(path)).await? else { return Ok(None) };
        let found = self.load::<Record>(&record_at(&owner.record)).await?.map(|(volume, _)| volume);
        let is_it = |volume: &Record| volume.generation == owner.generation && path.as_str() == Some(&volume.path);
        Ok(found.filter(is_it).and_then(|volume| {
            let key = volume.snapshots.get(generation)?.clone();
            Some((volume, key))
        }))
    }

    fn gave_out(&self, snapshot: &Snapshot) -> bool {
        snapshot.state == State::Ready && snapshot.cluster == self.cluster
    }

    /// Whether a volume may need the snapshot still: it shows it, or is being copied from it.
    async fn needs(&self, generation: &str, key: &str) -> Result<bool, Error> {
        let found = self.load::<Record>(&record_at(key)).await?.map(|(volume, _)| volume);
        let Some(volume) = found.filter(|volume| volume.generation == generation) else { return Ok(false) };
        Ok(match volume.state {
            VolumeState::Creating => true,
            VolumeState::Ready | VolumeState::Deleting => volume.is_view(),
            VolumeState::Kept
            | VolumeState::Withdrawing
            | VolumeState::Deleted
            | VolumeState::Withdrawn
            | VolumeState::Forgotten => false,
        })
    }

    /// What takes snapshots in this store.
    fn taker(&self) -> Result<&dyn Snapshots, Error> {
        let none = || Error::Invalid("the store has no snapshots".to_owned());
        self.snapshots.as_deref().ok_or_else(none)
    }

    /// A snapshot's record as it is now, where it is still the same one.
    async fn reload(&self, snapshot: &Snapshot) -> Result<Option<(Snapshot, Tag)>, Error> {
        let found = self.load::<Snapshot>(&snapshot_at(&key_of(&snapshot.name))).await?;
        Ok(found.filter(|(now, _)| now.generation == snapshot.generation))
    }
}
