//! Volumes from snapshots: a view, which is read-only and needs the snapshot as long as it lives, or a copy, which needs it
//! until it is whole.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::record::{State, checked_path, snapshot_at};
use super::{MOST, Snapshot, TRIES};
use crate::backend::Path;
use crate::csi::volumes::create::Wanted;
use crate::csi::volumes::record::{Record, Source, State as VolumeState, key_of, record_at};
use crate::csi::volumes::{Error, Volumes};

/// The longest that one call copies; the next one goes on where it ended.
const LONGEST_COPY: Duration = Duration::from_secs(3600);

/// Between two looks whether the volume that is being copied is still wanted.
const LOOK: Duration = Duration::from_secs(5);

impl Volumes {
    /// What is wanted of a snapshot, with what is known of that: its source, and the size where none is asked for.
    ///
    /// # Errors
    /// `Missing`, `OutOfRange` for less than the snapshot's size, the store's own.
    pub(in crate::csi::volumes) async fn with_source(&self, wanted: &Wanted) -> Result<Wanted, Error> {
        let Some(source) = &wanted.source else { return Ok(wanted.clone()) };
        let known = self.load::<Record>(&record_at(&key_of(&wanted.name))).await?.map(|(record, _)| record);
        let is_made = |record: &Record| matches!(record.state, VolumeState::Creating | VolumeState::Ready);
        let known = known.filter(is_made).and_then(|record| Some((record.source?, record.size)));
        let (source, size) = match known {
            // What was begun goes on, and what was made is given again, though the snapshot may be gone by now.
            Some((known, size)) if known.path == source.path && known.snapshot == source.snapshot => {
                (Source { view: source.view, ..known }, size)
            }
            _ => {
                let snapshot = self.snapshot(&checked_path(&source.path)?, &source.snapshot).await?;
                let snapshot = snapshot.ok_or_else(|| missing(source))?;
                if wanted.size() > 0 && wanted.size() < snapshot.size {
                    return Err(Error::OutOfRange(format!(
                        "{} bytes are asked for, and the snapshot's volume had {}: a volume made from it has that at least",
                        wanted.size(),
                        snapshot.size
                    )));
                }
                (Source { volume: snapshot.volume, ..source.clone() }, snapshot.size)
            }
        };
        let required = if wanted.size() == 0 { size } else { wanted.required };
        Ok(Wanted { source: Some(source), required, ..wanted.clone() })
    }

    /// Has the snapshot of `record`'s source named as needed by it, so that it is not removed.
    ///
    /// # Errors
    /// `Missing` where the snapshot is gone, `Full`, `Busy`, the store's own.
    pub(in crate::csi::volumes) async fn hold(&self, record: &Record, source: &Source) -> Result<(), Error> {
        let path = checked_path(&source.path)?;
        for _ in 0..TRIES {
            let snapshot = self.snapshot(&path, &source.snapshot).await?.ok_or_else(|| missing(source))?;
            let Some((mut now, tag)) = self.reload(&snapshot).await? else { continue };
            if now.state != State::Ready {
                continue;
            }
            if now.held.contains_key(&record.generation) {
                return Ok(());
            }
            if now.held.len() >= MOST {
                self.prune(&mut now).await?;
            }
            if now.held.len() >= MOST {
                return Err(Error::Full(format!("{MOST} volumes need snapshot {:?}, and no more can", now.name)));
            }
            now.held.insert(record.generation.clone(), key_of(&record.name));
            if self.swap(&snapshot_at(&key_of(&now.name)), &tag, &now).await?.is_some() {
                return Ok(());
            }
        }
        Err(keeps_changing(source))
    }

    /// `record` needs its source no more.
    pub(in crate::csi::volumes) async fn let_go(&self, record: &Record) -> Result<(), Error> {
        let Some(source) = &record.source else { return Ok(()) };
        let path = checked_path(&source.path)?;
        for _ in 0..TRIES {
            let Some(snapshot) = self.snapshot(&path, &source.snapshot).await? else { return Ok(()) };
            let Some((mut now, tag)) = self.reload(&snapshot).await? else { return Ok(()) };
            if now.held.remove(&record.generation).is_none()
                || self.swap(&snapshot_at(&key_of(&now.name)), &tag, &now).await?.is_some()
            {
                return Ok(());
            }
        }
        Err(keeps_changing(source))
    }

    /// Copies what the snapshot holds into the new volume of `record`, as long as that is still being made.
    ///
    /// # Errors
    /// `Busy` where somebody else decided otherwise, and after [`LONGEST_COPY`]; the store's own. The next call goes on.
    pub(in crate::csi::volumes) async fn copy_from_snapshot(
        &self,
        record: &Record,
        source: &Source,
        to: &Path,
    ) -> Result<(), Error> {
        let mut copying = self.taker()?.restore(&checked_path(&source.path)?, &source.snapshot, to);
        let (begun, mut looked, mut files, mut bytes) = (Instant::now(), Instant::now(), 0u64, 0u64);
        loop {
            match timeout(LOOK, copying.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(copied)) => {
                    bytes = bytes.saturating_add(copied?);
                    files += 1;
                }
                Err(_) => {}
            }
            if looked.elapsed() < LOOK {
                continue;
            }
            looked = Instant::now();
            let now = self.load::<Record>(&record_at(&key_of(&record.name))).await?.map(|(now, _)| now);
            let same = |now: &Record| now.generation == record.generation && now.state == VolumeState::Creating;
            if !now.as_ref().is_some_and(same) {
                return Err(Error::Busy(format!("volume {:?} was changed while it was being copied", record.name)));
            }
            if begun.elapsed() > LONGEST_COPY {
                return Err(Error::Busy(format!(
                    "of volume {:?} {files} files of {bytes} bytes are there by now: the copy of its snapshot goes on with \
                     the next call",
                    record.name
                )));
            }
        }
    }

    /// Takes out whoever does not need the snapshot any more.
    async fn prune(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        for (generation, key) in std::mem::take(&mut snapshot.held) {
            if self.needs(&generation, &key).await? {
                snapshot.held.insert(generation, key);
            }
        }
        Ok(())
    }
}

fn missing(source: &Source) -> Error {
    let Source { path, snapshot, .. } = source;
    Error::Missing(format!("there is no snapshot @{snapshot} of {path:?} (any more)"))
}

fn keeps_changing(source: &Source) -> Error {
    Error::Busy(format!("the record of the snapshot @{} keeps changing; try again", source.snapshot))
}
