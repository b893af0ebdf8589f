//! The copy of a record in the volume's own `.millrace/volume.json`, which nodes read.
//!
//! The record is the truth. The file is looked at before the record and replaced only as it was seen, so that of two
//! controllers the one with the older record never has the last word: whoever changes a record writes the copy after it.
//! A controller that dies in between leaves an old copy, which the next call for the volume mends.

use super::record::{self, Record, State, VolumeFile};
use super::{Error, Volumes, bounded};
use crate::backend::records::LARGEST_RECORD;
use crate::backend::{ErrorKind, Path};

/// Looks at a file that keeps changing before it is somebody else's turn.
const TRIES: usize = 8;

/// How a volume's file compares with its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// It says, or now says, what the record does.
    Same,
    /// There is none: somebody removed the directory, or its file, without the driver.
    Gone,
    /// It is another volume's.
    Others,
    /// The volume is not (any more) one that was given out.
    NoVolume,
}

impl Volumes {
    /// Makes the copy of a volume at `path` say what its record does; `seen` is the record as it was a moment ago.
    ///
    /// # Errors
    /// `NewerFormat` of the file, `Busy` where it keeps changing, the store's own.
    pub(super) async fn copy(&self, path: &Path, seen: &Record) -> Result<Copied, Error> {
        let at = record::volume_file_at(path);
        let generation = seen.generation.as_str();
        for _ in 0..TRIES {
            let found = bounded(&at, async { Ok(self.records.get(&at).await?) }).await;
            let (text, tag) = match found {
                Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => return Ok(Copied::Gone),
                found => found?,
            };
            let file = record::read::<VolumeFile>(&at, &text);
            if file.as_ref().is_ok_and(|file| file.copies(seen)) {
                return Ok(Copied::Same);
            }
            let Some(record) = self.find(path, generation).await? else { return Ok(Copied::NoVolume) };
            if record.state != State::Ready || record.cluster != self.cluster {
                return Ok(Copied::NoVolume);
            }
            let wanted = match file {
                Ok(file) if file.copies(&record) => return Ok(Copied::Same),
                Ok(file) if file.generation != generation => return Ok(Copied::Others),
                Ok(file) => VolumeFile { unknown: file.unknown, ..VolumeFile::of(&record) },
                // The volume's own user can write there; whose directory it is stands in the record.
                Err(Error::Unreadable { .. }) => VolumeFile::of(&record),
                Err(error) => return Err(error),
            };
            if self.swap(&at, &tag, &shortened(wanted, &record)?).await?.is_some() {
                return Ok(Copied::Same);
            }
        }
        Err(Error::Busy(format!("{at} keeps changing; try again")))
    }

    /// [`Volumes::copy`] where nothing else will do.
    pub(super) async fn copy_or_refuse(&self, record: &Record, path: &Path) -> Result<(), Error> {
        let refuse = |why: &str| {
            let Record { name, path, .. } = record;
            Err(Error::Precondition(format!("the directory {path:?} of volume {name:?} {why}")))
        };
        match self.copy(path, record).await? {
            Copied::Same => Ok(()),
            Copied::Gone => refuse("holds no .millrace/volume.json: it was removed without the driver"),
            Copied::Others => refuse("is another volume's by its .millrace/volume.json"),
            Copied::NoVolume => Err(super::change::missing(path)),
        }
    }
}

/// Without words of nobody's, where these fill the file.
fn shortened(file: VolumeFile, record: &Record) -> Result<VolumeFile, Error> {
    match record::write(&file)?.len() {
        0..=LARGEST_RECORD => Ok(file),
        _ => Ok(VolumeFile::of(record)),
    }
}
