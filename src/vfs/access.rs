//! Who may do what, as access(2) and chdir(2) ask of a mount whose store decides: asked of it, and kept for as long as
//! attributes are believed. Elsewhere the kernel decides by owner and mode, and does not ask.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::close_to_open::ROOT;
use super::inode::Inode;
use super::{Error, Ino, Result, Rights, Vfs};
use crate::backend::{ErrorKind, Path};

/// Inodes of which answers are kept, at most.
const MOST: usize = 10_000;

/// What the store said.
#[derive(Debug, Default)]
pub(super) struct Accesses(Mutex<HashMap<Ino, Said>>);

/// What it said of one inode in one reign, by the rights that were asked for together.
#[derive(Debug, Default)]
struct Said {
    reign: u64,
    answers: [Option<Answer>; 8],
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    granted: bool,
    since: Instant,
}

impl Accesses {
    /// What was said last, and for how long it has been.
    fn last(&self, ino: Ino, asked: Rights, reign: u64) -> Option<(bool, Duration)> {
        let said = self.said();
        let said = said.get(&ino).filter(|said| said.reign == reign)?;
        said.answers[asked.mode() as usize].map(|answer| (answer.granted, answer.since.elapsed()))
    }

    fn note(&self, ino: Ino, asked: Rights, reign: u64, answer: Answer) {
        let mut all = self.said();
        if all.len() >= MOST && !all.contains_key(&ino) {
            all.clear();
        }
        let said = all.entry(ino).or_default();
        if said.reign != reign {
            *said = Said { reign, ..Said::default() };
        }
        said.answers[asked.mode() as usize] = Some(answer);
    }

    /// Whoever asks next asks the store: of a directory's mode hangs what lies below it.
    pub(super) fn forget(&self) {
        self.said().clear();
    }

    fn said(&self) -> MutexGuard<'_, HashMap<Ino, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// Whether the store lets the mount's identity do all that is `asked`. Of the root what it said last, or yes, where it
    /// says nothing in time.
    ///
    /// # Errors
    /// `Denied`, `ReadOnly`, `Stale`, and what the store failed with.
    pub async fn access(&self, ino: Ino, asked: Rights) -> Result<()> {
        self.getattr(ino)?;
        if self.is_control(ino) || asked == Rights::NONE || !self.backend.traits().own_permissions {
            return Ok(());
        }
        if asked.write {
            self.writable()?;
        }
        lies(self.inodes().get(ino)?)?;
        let reign = self.reign.number();
        let last = self.accesses.last(ino, asked, reign);
        let granted = match (last, ino) {
            (Some((granted, age)), _) if age < self.believed() => granted,
            (_, Ino::ROOT) => match timeout(ROOT, self.ask_access(ino, asked, reign)).await {
                Ok(answer) => answer?,
                Err(_) => last.is_none_or(|(granted, _)| granted),
            },
            _ => self.ask_access(ino, asked, reign).await?,
        };
        if granted { Ok(()) } else { Err(Error::Denied) }
    }

    async fn ask_access(&self, ino: Ino, asked: Rights, reign: u64) -> Result<bool> {
        loop {
            let path = lies(self.inodes().get(ino)?)?;
            let (ticket, since) = (self.changes.ask(), Instant::now());
            match self.backend.access(&path, asked).await {
                Ok(rights) => {
                    let granted = rights.and(asked) == asked;
                    if ticket.changed(&path).is_none() {
                        self.accesses.note(ino, asked, reign, Answer { granted, since });
                    }
                    return Ok(granted);
                }
                Err(error) if error.kind == ErrorKind::NotFound && self.goes_by_another(ino, &path) => {}
                // The kernel looks it up anew.
                Err(error) if error.kind == ErrorKind::NotFound => return Err(Error::Stale),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where a file or directory lies, hidden or not.
fn lies(inode: &Inode) -> Result<Path> {
    let hidden = inode.file().ok().and_then(|file| file.hidden.clone());
    match (inode.linked, hidden) {
        (true, _) => Ok(inode.path.clone()),
        (false, Some(hidden)) => Ok(hidden),
        (false, None) => Err(Error::Stale),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{Backend, Op};
    use crate::vfs::tests::{over, path};
    use crate::vfs::{Config, SetAttributes};

    const READ: Rights = Rights { read: true, ..Rights::NONE };
    const WRITE: Rights = Rights { write: true, ..Rights::NONE };

    fn volume(config: Config) -> (Memory, Faulty, Vfs) {
        let memory = Memory::in_place();
        memory.put(&path("f"), "content");
        let store = Faulty::new(Arc::new(memory.clone()));
        let vfs = over(Arc::new(store.clone()), config);
        (memory, store, vfs)
    }

    async fn set_mode(store: &Memory, mode: u32) {
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        store.set_attributes(&path("f"), &set).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_is_asked_once_for_as_long_as_attributes_are_believed() {
        let (memory, store, vfs) = volume(Config::default());
        let file = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        for _ in 0..10 {
            assert_eq!(vfs.access(file, READ).await, Ok(()));
            assert_eq!(vfs.access(file, Rights::ALL).await, Err(Error::Denied));
            assert_eq!(vfs.access(file, Rights::NONE).await, Ok(()));
        }
        assert_eq!(store.calls(Op::Access), 2);
        // Another client's change is seen when it is asked again.
        set_mode(&memory, 0o200).await;
        assert_eq!(vfs.access(file, READ).await, Ok(()));
        tokio::time::sleep(vfs.believed()).await;
        assert_eq!((vfs.access(file, READ).await, vfs.access(file, WRITE).await), (Err(Error::Denied), Ok(())));
        // This mount's own at once.
        let set = SetAttributes { mode: Some(0o400), ..SetAttributes::default() };
        vfs.setattr(file, None, set).await.unwrap();
        assert_eq!((vfs.access(file, READ).await, vfs.access(file, WRITE).await), (Ok(()), Err(Error::Denied)));
        assert_eq!(store.calls(Op::Access), 6);
        vfs.unlink(Ino::ROOT, b"f").await.unwrap();
        assert_eq!(vfs.access(file, READ).await, Err(Error::Stale));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_is_not_waited_for_at_the_root() {
        let (_, store, vfs) = volume(Config::default());
        let file = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        store.every(Op::Access, 1, Fault::Hang);
        let begun = Instant::now();
        assert_eq!(vfs.access(Ino::ROOT, READ).await, Ok(()));
        assert!(begun.elapsed() < 2 * ROOT);
        assert!(timeout(10 * ROOT, vfs.access(file, READ)).await.is_err(), "its caller has a deadline");
        store.heal();
        store.every(Op::Access, 1, Fault::Fail(ErrorKind::Unavailable));
        assert_eq!(vfs.access(file, READ).await, Err(Error::Io));
    }

    #[tokio::test]
    async fn what_one_principal_may_is_not_told_of_the_next() {
        let (memory, _, vfs) = volume(Config::default());
        let file = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        assert_eq!(vfs.access(file, WRITE).await, Ok(()));
        set_mode(&memory, 0o400).await;
        vfs.succeed(|| {}).await;
        assert_eq!(vfs.access(file, WRITE).await, Err(Error::Denied));
    }

    #[tokio::test]
    async fn where_nothing_is_written_or_the_store_does_not_decide_it_is_not_asked() {
        let (_, store, vfs) = volume(Config { read_only: true, ..Config::default() });
        let file = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        assert_eq!(vfs.access(file, WRITE).await, Err(Error::ReadOnly));
        assert_eq!(store.calls(Op::Access), 0);
        let store = Faulty::new(Arc::new(Memory::new()));
        let vfs = over(Arc::new(store.clone()), Config::default());
        assert_eq!((vfs.access(Ino::ROOT, Rights::ALL).await, store.calls(Op::Access)), (Ok(()), 0));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (accesses, answer) = (Accesses::default(), Answer { granted: true, since: Instant::now() });
        for number in 0..3 * MOST as u64 {
            accesses.note(Ino(number), READ, 1, answer);
            assert!(accesses.said().len() <= MOST && accesses.last(Ino(number), READ, 1).is_some());
        }
    }
}
