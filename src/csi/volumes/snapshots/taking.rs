//! CreateSnapshot and DeleteSnapshot.

use std::time::SystemTime;

use super::record::{State, checked_path, snapshot_at};
use super::{MOST, Snapshot, TRIES};
use crate::backend::Path;
use crate::backend::records::Tag;
use crate::csi::volume_id::Generation;
use crate::csi::volumes::change::keeps_changing;
use crate::csi::volumes::record::{FORMAT, Record, key_of, record_at, timestamp};
use crate::csi::volumes::{Error, Volumes, bounded};

impl Snapshot {
    fn new(name: &str, volume: &Record, cluster: &str) -> Snapshot {
        Snapshot {
            format: FORMAT,
            name: name.to_owned(),
            generation: Generation::random().to_string(),
            state: State::Creating,
            path: volume.path.clone(),
            volume: volume.generation.clone(),
            cluster: cluster.to_owned(),
            size: volume.size,
            at: None,
            held: Default::default(),
            unknown: Default::default(),
        }
    }

    /// Whether the snapshot that has this name is what is asked for.
    fn check_is_of(&self, path: &Path, generation: &str, cluster: &str) -> Result<(), Error> {
        let Snapshot { name, path: other, .. } = self;
        if self.cluster != cluster {
            let of = &self.cluster;
            return Err(Error::Exists(format!("snapshot {name:?} already exists and belongs to cluster {of:?}")));
        }
        match path.as_str() == Some(other) && self.volume == generation {
            true => Ok(()),
            false => Err(Error::Exists(format!("snapshot {name:?} already exists, of another volume (at {other:?})"))),
        }
    }
}

impl Volumes {
    /// Takes the snapshot called `name` of the volume that has this path and generation, or returns the one that has its
    /// name and is of that volume.
    ///
    /// # Errors
    /// `Missing` where there is no such volume, `Exists`, `Invalid` for a volume that is itself a view of a snapshot,
    /// `Precondition`, `Full`, `Busy`, the store's own.
    pub async fn take_snapshot(&self, name: &str, path: &Path, generation: &str) -> Result<Snapshot, Error> {
        self.prove_exclusion().await?;
        let taker = self.taker()?;
        let at = snapshot_at(&key_of(name));
        for _ in 0..TRIES {
            let old = self.load::<Snapshot>(&at).await?;
            let (snapshot, tag) = match old {
                Some((old, tag)) if matches!(old.state, State::Creating | State::Ready) => {
                    old.check_is_of(path, generation, &self.cluster)?;
                    (old, tag)
                }
                Some((old, tag)) if old.state == State::Deleting => {
                    self.finish_discarding(&old, &tag).await?;
                    continue;
                }
                old => {
                    let (volume, _) = self.find_ready(path, generation).await?;
                    if volume.is_view() {
                        let name = &volume.name;
                        return Err(Error::Invalid(format!(
                            "volume {name:?} is a read-only view of a snapshot and never changes: that one can be used again"
                        )));
                    }
                    let new = Snapshot::new(name, &volume, &self.cluster);
                    let made = match &old {
                        Some((old, _)) if old.state == State::Forgotten => None,
                        Some((old, tag)) => {
                            // Who ended it may have died before that.
                            self.unname_in_source(&checked_path(&old.path)?, &old.volume, &old.generation).await?;
                            self.swap(&at, tag, &new).await?
                        }
                        None => self.put_new(&at, &new).await?,
                    };
                    let Some(tag) = made else { continue };
                    (new, tag)
                }
            };
            if snapshot.state == State::Ready {
                return Ok(snapshot);
            }
            let volume = match self.name_in_source(&snapshot, path).await {
                Ok(volume) => volume,
                Err(error @ (Error::Missing(_) | Error::Full(_))) => {
                    // It can never be taken, and would keep its name.
                    let deleting = Snapshot { state: State::Deleting, ..snapshot };
                    if let Some(tag) = self.swap(&at, &tag, &deleting).await? {
                        self.finish_discarding(&deleting, &tag).await?;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            bounded(path, async { Ok(taker.take(path, &snapshot.generation).await?) }).await?;
            let taken = Some(timestamp(SystemTime::now()));
            let ready = Snapshot { state: State::Ready, size: volume.size, at: taken, ..snapshot };
            if self.swap(&at, &tag, &ready).await?.is_some() {
                return Ok(ready);
            }
        }
        Err(Error::Busy(format!("the record of snapshot {name:?} keeps changing; try again")))
    }

    /// Removes the snapshot of the directory `path` that has this generation; fine where there is none (any more).
    ///
    /// # Errors
    /// `Precondition` where volumes need it and for another cluster's, `Busy`, the store's own. What was begun is gone on
    /// with by the next call.
    pub async fn discard_snapshot(&self, path: &Path, generation: &str) -> Result<(), Error> {
        for _ in 0..TRIES {
            let Some((volume, key)) = self.source_of(path, generation).await? else { return Ok(()) };
            self.check_ours(&volume)?;
            let at = snapshot_at(&key);
            let found = self.load::<Snapshot>(&at).await?.filter(|(found, _)| found.generation == generation);
            match found {
                Some((snapshot, tag)) if matches!(snapshot.state, State::Creating | State::Ready) => {
                    self.check_not_needed(&snapshot).await?;
                    let deleting = Snapshot { state: State::Deleting, ..snapshot };
                    self.swap(&at, &tag, &deleting).await?;
                }
                Some((snapshot, tag)) if snapshot.state == State::Deleting => {
                    return self.finish_discarding(&snapshot, &tag).await;
                }
                // Its record says that it is gone, or is another's by now.
                _ => return self.unname_in_source(path, &volume.generation, generation).await,
            }
        }
        Err(Error::Busy(format!("the record of a snapshot of {:?} keeps changing; try again", path.to_string())))
    }

    /// Removes what is being deleted; every step may have been taken already.
    async fn finish_discarding(&self, snapshot: &Snapshot, tag: &Tag) -> Result<(), Error> {
        let path = checked_path(&snapshot.path)?;
        let taker = self.taker()?;
        bounded(&path, async { Ok(taker.discard(&path, &snapshot.generation).await?) }).await?;
        let ended = Some(timestamp(SystemTime::now()));
        let deleted = Snapshot { state: State::Deleted, at: ended, held: Default::default(), ..snapshot.clone() };
        self.swap(&snapshot_at(&key_of(&snapshot.name)), tag, &deleted).await?;
        self.unname_in_source(&path, &snapshot.volume, &snapshot.generation).await
    }

    /// Has the record of the snapshot's source name it, so that the source is not deleted. The source's record.
    async fn name_in_source(&self, snapshot: &Snapshot, path: &Path) -> Result<Record, Error> {
        let key = key_of(&snapshot.name);
        for _ in 0..TRIES {
            let (volume, tag) = self.find_ready(path, &snapshot.volume).await?;
            if volume.snapshots.get(&snapshot.generation) == Some(&key) {
                return Ok(volume);
            }
            if volume.snapshots.len() >= MOST {
                let name = &volume.name;
                return Err(Error::Full(format!("volume {name:?} has {MOST} snapshots, and can have no more of them")));
            }
            let mut naming = volume.clone();
            naming.snapshots.insert(snapshot.generation.clone(), key.clone());
            if self.swap(&record_at(&key_of(&volume.name)), &tag, &naming).await?.is_some() {
                return Ok(naming);
            }
        }
        Err(keeps_changing(path))
    }

    async fn unname_in_source(&self, path: &Path, volume: &str, snapshot: &str) -> Result<(), Error> {
        for _ in 0..TRIES {
            let Some((mut volume, tag)) = self.find_tagged(path, volume).await? else { return Ok(()) };
            if volume.snapshots.remove(snapshot).is_none() {
                return Ok(());
            }
            if self.swap(&record_at(&key_of(&volume.name)), &tag, &volume).await?.is_some() {
                return Ok(());
            }
        }
        Err(keeps_changing(path))
    }

    async fn check_not_needed(&self, snapshot: &Snapshot) -> Result<(), Error> {
        for (generation, key) in &snapshot.held {
            if self.needs(generation, key).await? {
                let name = &snapshot.name;
                return Err(Error::Precondition(format!(
                    "snapshot {name:?} is needed by the volume of generation {generation}, which was made from it and shows \
                     it, or is still being copied from it: delete that volume first"
                )));
            }
        }
        Ok(())
    }
}
