//! Open files that the kernel reads itself, past this process (FUSE passthrough).
//!
//! A file that it read before through this process and still has in its pages is opened so again ([`super::resident`]).
//!
//! While an inode has an open handle the kernel allows one way to read it, for all of its handles: through one file of
//! the node, or through this process. So the first open of an inode decides, and the decision holds until its last handle
//! is released. Who may not use what was decided, since somebody else has come to be in force meanwhile, gets ESTALE,
//! and the name another inode.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::resident::Resident;
use super::{Error, Ino, Invalidation, Result, Vfs};
use crate::backend::Version;

/// Who has files of the node to read in the place of stored ones.
#[async_trait]
pub trait Lender: Debug + Send + Sync + 'static {
    /// A file that holds exactly `version`, known to the kernel; `None` where there is none.
    async fn lend(&self, version: &Version) -> Option<Box<dyn Loan>>;
}

/// A file that the kernel reads from, given back when this is dropped.
pub trait Loan: Debug + Send + Sync {
    /// How the kernel calls it (a FUSE backing id).
    fn id(&self) -> u32;
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Passing {
    lender: OnceLock<(Arc<dyn Lender>, Resident)>,
    seats: Mutex<HashMap<Ino, Arc<Seat>>>,
    /// What was lent before this became another number is not for whoever is in force.
    era: AtomicU64,
}

/// The way to read one inode, while it has handles.
#[derive(Debug)]
struct Seat {
    handles: AtomicU64,
    era: u64,
    loan: OnceCell<Option<Box<dyn Loan>>>,
}

impl Passing {
    /// Whoever is in force by now gets nothing that was lent before.
    pub(super) fn forget(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        if let Some((_, resident)) = self.lender.get() {
            resident.forget();
        }
    }

    /// The kernel reads `length` bytes of `ino`, which has `size`, through this process, and keeps them.
    pub(super) fn read(&self, ino: Ino, size: u64, length: u64) {
        if let Some((_, resident)) = self.lender.get() {
            resident.read(ino, size, length);
        }
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// One handle less.
    pub(super) fn leave(&self, ino: Ino) {
        let mut seats = self.seats();
        let is_last = seats.get(&ino).is_some_and(|seat| seat.handles.fetch_sub(1, Ordering::AcqRel) == 1);
        let seat = if is_last { seats.remove(&ino) } else { None };
        drop(seats);
        // The loan ends with it, for which no lock is held.
        drop(seat);
    }

    fn enter(&self, ino: Ino) -> Arc<Seat> {
        let mut seats = self.seats();
        let era = self.era();
        let begin = || Arc::new(Seat { handles: AtomicU64::new(0), era, loan: OnceCell::new() });
        let seat = seats.entry(ino).or_insert_with(begin);
        seat.handles.fetch_add(1, Ordering::AcqRel);
        seat.clone()
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// From now on files are read past this process where `lender` has them, and the kernel, which keeps at most `memory`
    /// bytes of pages, does not have them by itself. For mounts that are read-only, before any file is opened.
    pub fn pass_by(&self, lender: Arc<dyn Lender>, memory: u64) {
        let _ = self.passing.lender.set((lender, Resident::new(memory)));
    }

    /// The way in which a handle of `ino`, being opened, is read: the kernel's own where that has an id. Until
    /// [`Passing::leave`], if the first of the answer is true.
    ///
    /// # Errors
    /// `Stale`
    pub(super) async fn pass(&self, ino: Ino) -> Result<(bool, Option<u32>)> {
        // What others change in place would be seen by nobody who is read past.
        let Some((lender, resident)) = self.passing.lender.get().filter(|_| !self.in_place()) else {
            return Ok((false, None));
        };
        let version = self.inodes().get(ino)?.file()?.stored.clone();
        let seat = self.passing.enter(ino);
        let lend = async || {
            let version = version.as_ref()?;
            if resident.has(ino, version.size) { None } else { lender.lend(version).await }
        };
        let loan = seat.loan.get_or_init(lend).await;
        match loan {
            Some(_) if seat.era != self.passing.era() => {
                self.passing.leave(ino);
                self.rename_inode(ino);
                Err(Error::Stale)
            }
            Some(loan) => {
                if let Some(version) = &version {
                    // Nobody sees when it is read.
                    self.recent.note(&version.path);
                    resident.passed(version.size);
                }
                Ok((true, Some(loan.id())))
            }
            None => Ok((true, None)),
        }
    }

    /// The name of `ino` is to be looked up anew, and gets another inode.
    fn rename_inode(&self, ino: Ino) {
        let mut inodes = self.inodes();
        let Ok(inode) = inodes.get(ino) else { return };
        if !inode.linked {
            return;
        }
        let path = inode.path.clone();
        inodes.detach(&path);
        if let Some((parent, name)) = path.split_last()
            && let Some(parent) = inodes.at(&parent)
        {
            self.invalidate(Invalidation::Entry { parent, name });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    use super::*;
    use crate::backend::Backend;
    use crate::backend::memory::Memory;
    use crate::budget::Budget;
    use crate::prefetch::{self, ReadAhead};
    use crate::vfs::tests::path;
    use crate::vfs::{Config, Handle, OpenOptions, Pages};

    #[derive(Debug, Default)]
    struct Shelf {
        lent: Arc<Mutex<Vec<u32>>>,
        next: AtomicU32,
        empty: AtomicBool,
    }

    #[derive(Debug)]
    struct Book(u32, Arc<Mutex<Vec<u32>>>);

    impl Loan for Book {
        fn id(&self) -> u32 {
            self.0
        }
    }

    impl Drop for Book {
        fn drop(&mut self) {
            self.1.lock().unwrap().retain(|id| *id != self.0);
        }
    }

    #[async_trait]
    impl Lender for Shelf {
        async fn lend(&self, _: &Version) -> Option<Box<dyn Loan>> {
            tokio::task::yield_now().await;
            let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            self.lent.lock().unwrap().push(id);
            (!self.empty.load(Ordering::Relaxed)).then(|| Box::new(Book(id, self.lent.clone())) as Box<dyn Loan>)
        }
    }

    fn rig(shelf: Shelf) -> (Arc<Vfs>, Arc<Shelf>) {
        let memory = Memory::new();
        memory.put(&path("f"), "content");
        let (backend, budget): (Arc<dyn Backend>, _) = (Arc::new(memory), Budget::new(32 << 20));
        let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(32 << 20));
        let vfs = Arc::new(Vfs::new(backend, ahead, budget, Config { read_only: true, ..Config::default() }));
        let shelf = Arc::new(shelf);
        vfs.pass_by(shelf.clone(), 1 << 20);
        (vfs, shelf)
    }

    async fn open(vfs: &Vfs, ino: Ino) -> Result<crate::vfs::Opened> {
        vfs.open(ino, OpenOptions::default()).await
    }

    #[tokio::test]
    async fn all_handles_of_an_inode_are_read_in_one_way_until_the_last_has_gone() {
        let (vfs, shelf) = rig(Shelf::default());
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let (one, other) = tokio::join!(open(&vfs, ino), open(&vfs, ino));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.backing, other.backing), (Some(1), Some(1)));
        vfs.release(one.handle).await.unwrap();
        assert_eq!(open(&vfs, ino).await.unwrap().backing, Some(1));
        assert_eq!(*shelf.lent.lock().unwrap(), [1]);
        for handle in [other.handle, Handle(other.handle.0 + 1)] {
            vfs.release(handle).await.unwrap();
        }
        assert!(shelf.lent.lock().unwrap().is_empty(), "it is given back");
        assert_eq!(open(&vfs, ino).await.unwrap().backing, Some(2));
    }

    #[tokio::test]
    async fn what_was_begun_through_this_process_goes_on_so() {
        let (vfs, shelf) = rig(Shelf { empty: true.into(), ..Shelf::default() });
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        for _ in 0..3 {
            assert_eq!(open(&vfs, ino).await.unwrap().backing, None);
        }
        assert_eq!(shelf.lent.lock().unwrap().len(), 1, "it was decided once");
    }

    #[tokio::test]
    async fn what_the_kernel_has_already_is_not_lent() {
        let (vfs, shelf) = rig(Shelf { empty: true.into(), ..Shelf::default() });
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let first = open(&vfs, ino).await.unwrap();
        assert_eq!(vfs.read(first.handle, 0, 100).await.unwrap(), "content");
        vfs.release(first.handle).await.unwrap();
        shelf.empty.store(false, Ordering::Relaxed);
        let again = open(&vfs, ino).await.unwrap();
        assert_eq!((again.backing, again.pages), (None, Pages::Keep));
        vfs.release(again.handle).await.unwrap();
        // Its pages are dropped with it.
        vfs.succeed(|| ()).await;
        assert_eq!(open(&vfs, ino).await.unwrap().backing, Some(2));
    }

    #[tokio::test]
    async fn who_may_not_use_what_was_lent_gets_another_inode() {
        let (vfs, _) = rig(Shelf::default());
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let old = open(&vfs, ino).await.unwrap();
        vfs.succeed(|| ()).await;
        assert_eq!(open(&vfs, ino).await.unwrap_err(), Error::Stale);
        let new = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        assert_ne!(new, ino);
        assert_eq!(open(&vfs, new).await.unwrap().backing, Some(2));
        vfs.release(old.handle).await.unwrap();
    }
}
