//! DeleteVolume: marks the record, removes page by page what lies in the directory, leaves a tombstone.
//!
//! The record is read again before each page, within the one deadline that covers both, so a page never outlives what
//! it rests on by more than [`super::STEP`], and a tombstone outlives every page.

use super::record::{self, Record, State};
use super::{Error, Volumes, bounded};
use crate::backend::Path;
use crate::backend::records::{Extent, Removed};
use crate::config::stores::Deletion;

/// Looks at a record that keeps changing before it is somebody else's turn.
const TRIES: usize = 8;

/// What a deletion did.
#[derive(Debug, Clone, PartialEq)]
pub struct Deleted {
    /// The volume, as it was found.
    pub record: Record,
    /// Entries that this call removed; those of earlier ones that did not end are not among them.
    pub removed: u64,
}

impl Volumes {
    /// Deletes the volume that has this path and generation, as its record says. `None` where there is none (any more).
    ///
    /// # Errors
    /// `Precondition` for another cluster's; the store's own. What was begun is gone on with by the next call, whoever
    /// makes it.
    pub async fn delete(&self, path: &Path, generation: &str) -> Result<Option<Deleted>, Error> {
        for _ in 0..TRIES {
            let Some((record, tag)) = self.find_tagged(path, generation).await? else { return Ok(None) };
            if record.cluster != self.cluster {
                return Err(Error::Precondition(format!(
                    "volume {:?} belongs to cluster {:?}, and this is {:?}; `millrace records adopt` takes it over",
                    record.name, record.cluster, self.cluster
                )));
            }
            if record.state == State::Ready {
                self.check_no_snapshots(&record, path).await?;
            }
            let next = match (record.state, record.deletion) {
                // Nobody was given it, and what lies in the directory may be another's.
                (State::Creating, _) => State::Withdrawing,
                (State::Ready, Deletion::Keep) => State::Kept,
                (State::Ready, Deletion::Current | Deletion::All) => {
                    self.check_directory(&record, path).await?;
                    State::Deleting
                }
                (State::Withdrawing, _) => {
                    self.finish_withdrawal(&record, &tag).await?;
                    continue;
                }
                (State::Deleting, deletion) => {
                    let extent = if deletion == Deletion::All { Extent::All } else { Extent::Current };
                    let removed = self.remove(&record, path, extent).await;
                    self.sum.changed();
                    let removed = removed?;
                    return Ok(Some(Deleted { record, removed }));
                }
                (State::Kept | State::Deleted | State::Withdrawn | State::Forgotten, _) => {
                    return Ok(Some(Deleted { record, removed: 0 }));
                }
            };
            self.enter(&record, &tag, next).await?;
            self.sum.changed();
        }
        Err(Error::Busy(format!("the record of the volume at {:?} keeps changing; try again", path.to_string())))
    }

    async fn remove(&self, record: &Record, path: &Path, extent: Extent) -> Result<u64, Error> {
        let mut removed = 0;
        while let Some(page) = bounded(path, self.remove_one_page(record, path, extent)).await? {
            removed += page.count;
            if page.done {
                break;
            }
        }
        self.let_go(record).await?;
        for _ in 0..TRIES {
            match self.find_tagged(path, &record.generation).await? {
                Some((now, tag)) if now.state == State::Deleting => {
                    self.enter(&now, &tag, State::Deleted).await?;
                }
                _ => return Ok(removed),
            }
        }
        Err(Error::Busy(format!("the record of volume {:?} keeps changing; try again", record.name)))
    }

    /// `None` where the volume is no longer being deleted.
    async fn remove_one_page(&self, record: &Record, path: &Path, extent: Extent) -> Result<Option<Removed>, Error> {
        let at = record::record_at(&record::key_of(&record.name));
        let now = self.load::<Record>(&at).await?.map(|(now, _)| now);
        let deleting = now.is_some_and(|now| {
            now.state == State::Deleting
                && now.generation == record.generation
                && now.cluster == self.cluster
                && path.as_str() == Some(&now.path)
        });
        if !deleting {
            return Ok(None);
        }
        self.check_directory(record, path).await?;
        Ok(Some(self.records.remove_page(path, extent).await?))
    }
}
