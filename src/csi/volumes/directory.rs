//! The directory of a new volume, with its own file, and the quota that the store keeps of it where it can.

use super::create::Wanted;
use super::record::{self, Record, VolumeFile};
use super::{Error, Volumes, bounded};
use crate::backend::records::{Directory, Tag};
use crate::backend::{ErrorKind, Path};

impl Volumes {
    /// Makes the directory, where nothing else lies, and in it its own file. The record with what is known by then.
    pub(super) async fn make_directory(&self, wanted: &Wanted, record: &Record, path: &Path) -> Result<Record, Error> {
        let at = record::volume_file_at(path);
        let mine = |found: Option<(VolumeFile, Tag)>| found.filter(|(file, _)| file.generation == record.generation);
        let mut there = mine(self.load(&at).await?);
        let vacant = there.is_none() && self.is_vacant(path).await?;
        if vacant && let Some(directory) = &wanted.directory {
            self.own_directory(path, directory).await?;
        }
        if there.is_none() && !vacant {
            // Another controller may have made the same file since.
            there = mine(self.load(&at).await?);
            if there.is_none() {
                return Err(occupied(path));
            }
        }
        // What is copied takes more room on its way than when it is there.
        let least = if record.source.is_some() { u64::MAX } else { record.size };
        let quota = record.size > 0 && !record.is_view() && self.keep_by_quota(path, least).await?;
        let record = Record { quota, ..record.clone() };
        let file = VolumeFile::of(&record);
        match there {
            None if self.put_new(&at, &file).await?.is_none() && mine(self.load(&at).await?).is_none() => {
                return Err(occupied(path));
            }
            // Whoever began did not know yet who keeps the limit, or may do other things than we.
            Some((old, tag)) if !old.copies(&record) => drop(self.swap(&at, &tag, &file).await?),
            _ => {}
        }
        let directory = bounded(path, async { Ok(self.records.directory(path).await?) }).await?;
        Ok(Record { directory, ..record })
    }

    async fn own_directory(&self, path: &Path, directory: &Directory) -> Result<(), Error> {
        match bounded(path, async { Ok(self.records.make_directory(path, directory).await?) }).await {
            // No retry mends it.
            Err(Error::Store(error)) if error.kind == ErrorKind::Misconfigured => {
                Err(Error::Precondition(error.message))
            }
            made => made.map(drop),
        }
    }

    /// Whether the store itself keeps the directory to `size` bytes from now on.
    async fn keep_by_quota(&self, path: &Path, size: u64) -> Result<bool, Error> {
        bounded(path, async { Ok(self.records.set_quota(path, size).await?) }).await
    }

    /// Has the store keep the directory of `record` to `size` bytes, where it keeps it to others so far.
    ///
    /// # Errors
    /// `Precondition` where the controller may not any more.
    pub(super) async fn change_quota(&self, record: &Record, path: &Path, size: u64) -> Result<(), Error> {
        if !record.quota || self.keep_by_quota(path, size).await? {
            return Ok(());
        }
        Err(Error::Precondition(format!(
            "the directory {:?} of volume {:?} has a quota in the store, and the controller is not allowed to change it \
             any more: give it that right back",
            record.path, record.name
        )))
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool, Error> {
        bounded(path, async { Ok(self.records.is_vacant(path).await?) }).await
    }

    pub(super) async fn check_vacant(&self, path: &Path) -> Result<(), Error> {
        if self.is_vacant(path).await? { Ok(()) } else { Err(occupied(path)) }
    }
}

fn occupied(path: &Path) -> Error {
    Error::Precondition(format!(
        "{:?} already holds something that no CreateVolume made; existing data is shown by a static volume \
         (volumeAttributes store and path)",
        path.to_string()
    ))
}
