//! The journals of workers that write: what is to be undone where one dies ([`journal`]), for the next worker of the same
//! volume, identity, pods' namespace, fsGroup and options.
//!
//! ```text
//! <state>/journals/<owner>.<mount>   one worker's; locked (flock) for as long as it runs
//! ```
//!
//! The node plugin opens them and hands them over: a worker sees its own and those that earlier ones left, which carry the
//! lock with them. What nobody uses goes when nothing is to be undone by it, or when it is so old that the store's own
//! limits have done it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Error;
use super::state::{MountId, absent_is_fine};
use crate::backend::journal;

/// By then a listing has removed what a journal names, and HDFS has ended its leases.
const OLD: Duration = Duration::from_secs(14 * 24 * 3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Journals {
    dir: PathBuf,
    /// Nobody collects one that is just being made.
    turn: Mutex<()>,
}

impl Journals {
    /// Makes the directory where it is missing.
    pub(super) fn open(state: &Path) -> Result<Journals, Error> {
        let dir = state.join("journals");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| Error::System(format!("the journals {}: {error}", dir.display())))?;
        Ok(Journals { dir, turn: Mutex::default() })
    }

    /// A new journal for the worker of `mount`, and behind it those that earlier workers of `owner` left; each carries its
    /// lock. Waits for the disk.
    pub(super) fn lend(&self, owner: &str, mount: &MountId) -> io::Result<Vec<File>> {
        let _turn = self.turn();
        let left = self.all()?.into_iter().filter(|path| path.file_stem().is_some_and(|stem| stem == owner));
        let left = left.filter_map(|path| unused(&path).transpose()).collect::<io::Result<Vec<_>>>()?;
        let path = self.dir.join(format!("{owner}.{mount}"));
        let own = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        own.try_lock()?;
        Ok(std::iter::once(own).chain(left).collect())
    }

    /// Removes those that nobody uses and that are of no more use. Waits for the disk.
    pub(super) fn collect(&self) -> io::Result<()> {
        let _turn = self.turn();
        for path in self.all()? {
            let Some(file) = unused(&path)? else { continue };
            let is_old = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= OLD);
            if is_old || journal::is_empty(file)? {
                absent_is_fine(fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path())).collect()
    }
}

/// A journal, locked; `None` where somebody uses it, or it is gone.
fn unused(path: &Path) -> io::Result<Option<File>> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::journal::{Journal, Note};

    const NOTE: Note = Note::Written { id: 7, since: Some(1) };

    fn lend(journals: &Journals, owner: &str) -> Vec<File> {
        journals.lend(owner, &MountId::random()).unwrap()
    }

    /// A worker that has begun with these.
    fn kept(mut lent: Vec<File>) -> Journal {
        let (journal, left) = (Journal::default(), lent.split_off(1));
        journal.keep_in(lent.remove(0), left).unwrap();
        journal
    }

    #[tokio::test]
    async fn a_journal_is_its_owners_and_left_to_the_next_worker() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path()).unwrap();
        let count = || journals.all().unwrap().len();
        let first = kept(lend(&journals, "one"));
        first.note(NOTE).await;
        let idle = lend(&journals, "one");
        assert_eq!(idle.len(), 1, "the other is in use");
        journals.collect().unwrap();
        assert_eq!(count(), 2);
        drop(idle);
        journals.collect().unwrap();
        assert_eq!(count(), 1, "nothing stood in it");
        drop(first);
        journals.collect().unwrap();
        assert_eq!(lend(&journals, "other").len(), 1);
        let next = kept(lend(&Journals::open(dir.path()).unwrap(), "one"));
        assert_eq!(next.left(), [NOTE]);
        journals.collect().unwrap();
        assert_eq!(count(), 1, "what was taken over is gone, and so is what nothing stood in");
    }

    #[tokio::test]
    async fn one_that_nobody_wanted_for_long_goes() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path()).unwrap();
        let lent = lend(&journals, "one");
        let file = lent[0].try_clone().unwrap();
        kept(lent).note(NOTE).await;
        file.set_modified(std::time::SystemTime::now() - OLD).unwrap();
        journals.collect().unwrap();
        assert_eq!(journals.all().unwrap().len(), 1, "somebody has it open");
        drop(file);
        journals.collect().unwrap();
        assert!(journals.all().unwrap().is_empty());
    }
}
