//! POSIX meaning over a store: inodes, directories, open files, and when a change is in the store.
//!
//! One async method a file system call; no FUSE in here, so all of it runs in tests without a kernel. Reading goes
//! through read-ahead, everything else to the [`Backend`] directly.

mod absences;
mod access;
mod attributes;
mod changes;
mod close_to_open;
mod control;
mod count;
mod crowd;
mod dirs;
mod error;
mod few;
mod handles;
mod hidden;
mod in_place;
mod inode;
mod inodes;
mod ledger;
mod listings;
mod locks;
mod lookup;
#[cfg(test)]
mod model;
mod names;
mod neighbours;
mod news;
mod passing;
mod publish;
mod read;
mod recent;
mod reign;
mod rename;
mod repeats;
mod resident;
mod rows;
mod space;
mod succession;
#[cfg(test)]
mod tests;
mod unopened;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

pub use dirs::{Listed, Taken};
pub use error::{Error, Result};
pub use handles::Handle;
pub use inodes::Ino;
pub use news::{Amount, Change, News};
pub use passing::{Lender, Loan};
pub use read::{Answer, OpenOptions, Opened, Pages};
pub(crate) use repeats::Repeats;
pub use write::Owner;

pub use crate::backend::Space;

use crate::backend::Backend;
pub use crate::backend::{Kind, Name, Path, Rights, SetAttributes};
use crate::budget::Budget;
use crate::prefetch::ReadAhead;
use crate::tunable::Span;
use absences::Absences;
use access::Accesses;
use changes::Changes;
use control::Orders;
use crowd::Crowd;
use handles::Handles;
use inode::{Content, File, Inode};
use inodes::Inodes;
use ledger::Ledger;
use listings::Listings;
use locks::Locks;
use neighbours::Neighbours;
use passing::Passing;
use recent::Recent;
use reign::Reign;
use space::Room;
use unopened::Unopened;

/// How a volume is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Owner of everything, where the store keeps none.
    pub uid: u32,
    /// Group of everything, where the store keeps none.
    pub gid: u32,
    /// Permission bits of files, where the store keeps none.
    pub file_mode: u32,
    /// Permission bits of directories, where the store keeps none.
    pub dir_mode: u32,
    /// How long the kernel may believe attributes, entries and absences.
    pub ttl: Span,
    /// The data never changes: the kernel may believe all of it for ever.
    pub immutable: bool,
    /// Every change is refused.
    pub read_only: bool,
    /// Changes of mode, owner and time of a stored file succeed without effect; else they are refused.
    pub accept_attributes: bool,
    /// A publish replaces whatever lies there; else only what its handle began from.
    pub last_wins: bool,
    /// Programs may say in what order they will read (`.millrace/ahead`).
    pub announce: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
            ttl: Duration::from_secs(1).into(),
            immutable: false,
            read_only: false,
            accept_attributes: true,
            last_wins: false,
            announce: true,
        }
    }
}

/// What stat(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// File or directory.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has.
    pub nlink: u32,
    /// What a reader or writer best moves at once, in bytes.
    pub block: u32,
}

/// What a mount knows of its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the volume's files: as of the last count, with what this mount changed since; before the first count,
    /// of the files known here.
    pub bytes: u64,
    /// Files and directories, known in the same way.
    pub inodes: u64,
    /// The size that the files may have, in bytes.
    pub limit: Option<u64>,
    /// Since when the count is that this rests on; `None` before the first.
    pub counted: Option<Duration>,
}

/// Something that the kernel keeps and should no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// A name; what it names is to be looked up.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: Name,
    },
    /// An inode's attributes and pages.
    Inode(Ino),
    /// These inodes, as far as nobody uses them.
    Unused(Vec<Ino>),
    /// Nothing; [`Vfs::passed`] is to be told that all before it is done.
    Fence(u64),
}

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

/// A volume as a file system.
///
/// Futures that change something must be driven to their end, also when nobody waits for the answer any more; the
/// others may be dropped.
#[derive(Debug)]
pub struct Vfs {
    backend: Arc<dyn Backend>,
    read_ahead: Arc<ReadAhead>,
    budget: Budget,
    config: Config,
    inodes: Mutex<Inodes>,
    crowd: Crowd,
    handles: Handles,
    changes: Changes,
    absences: Absences,
    accesses: Accesses,
    neighbours: Neighbours,
    listings: Listings,
    orders: Orders,
    ledger: Mutex<Ledger>,
    reign: Reign,
    recent: Recent,
    passing: Passing,
    unopened: Unopened,
    fences: watch::Sender<u64>,
    last_fence: Mutex<u64>,
    locks: Locks,
    room: Room,
    progress: AtomicU64,
    invalidations: Mutex<Option<mpsc::Sender<Invalidation>>>,
}

impl Vfs {
    /// A file system over `backend`, whose files are read through `read_ahead`. Asks nothing of the store.
    pub fn new(backend: Arc<dyn Backend>, read_ahead: Arc<ReadAhead>, budget: Budget, config: Config) -> Vfs {
        let hard_links = backend.traits().hard_links;
        Vfs {
            backend,
            read_ahead,
            listings: Listings::new(budget.clone()),
            budget,
            config,
            inodes: Mutex::new(Inodes::new(hard_links)),
            crowd: Crowd::default(),
            handles: Handles::default(),
            changes: Changes::default(),
            absences: Absences::default(),
            accesses: Accesses::default(),
            neighbours: Neighbours::default(),
            orders: Orders::default(),
            ledger: Mutex::default(),
            reign: Reign::default(),
            recent: Recent::default(),
            passing: Passing::default(),
            unopened: Unopened::default(),
            fences: watch::Sender::new(0),
            last_fence: Mutex::new(0),
            locks: Locks::default(),
            room: Room::default(),
            progress: AtomicU64::new(0),
            invalidations: Mutex::default(),
        }
    }

    /// How it is shown.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the kernel should forget, from now on. No call waits for anybody to receive it.
    pub fn invalidations(&self) -> mpsc::Receiver<Invalidation> {
        let (sender, receiver) = mpsc::channel();
        *self.invalidations.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// A number that is another one whenever something was moved to or from the store since: for deadlines that count
    /// from the last progress.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed).wrapping_add(self.budget.free())
    }

    /// Attributes of a known inode, as they are known. Asks nothing of the store: a version's never change.
    ///
    /// # Errors
    /// `Stale`, also for what only a listing told the name of (the kernel looks up anew).
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        if self.is_control(ino) {
            return Ok(self.control_attr(ino));
        }
        let inodes = self.inodes();
        let inode = inodes.get(ino)?;
        if inode.linked && inode.file().is_ok_and(File::unseen) {
            return Err(Error::Stale);
        }
        Ok(self.attr(ino, inode))
    }

    /// The files that were read last since [`Vfs::succeed`], at most `most` and never many.
    pub fn last_read(&self, most: usize) -> Vec<Path> {
        self.recent.files(most)
    }

    /// The kernel gives back lookups of an inode.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        let mut inodes = self.inodes();
        inodes.forget(ino, lookups);
        self.crowd.shrink(inodes.len());
    }

    /// Where the next data, or the next hole, begins from `offset` on. Files have no holes.
    ///
    /// # Errors
    /// `NoData` at or behind the end, `BadHandle`
    pub fn seek(&self, handle: Handle, offset: u64, what: Seek) -> Result<u64> {
        let ino = self.handles.file(handle)?;
        self.seek_unopened(ino, offset, what)
    }

    /// As [`Vfs::seek`], of a file that was opened without asking.
    ///
    /// # Errors
    /// `NoData`, `Stale`
    pub fn seek_unopened(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        let size = self.inodes().get(ino)?.size();
        match what {
            _ if offset >= size => Err(Error::NoData),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    fn attr(&self, ino: Ino, inode: &Inode) -> Attr {
        let (mode, being_written) = match &inode.content {
            Content::Directory => (self.config.dir_mode, false),
            Content::File(file) if !file.readable => (0, false),
            Content::File(file) => (self.config.file_mode, file.written.is_some() || file.in_place.is_some()),
        };
        let kept = inode.permissions;
        Attr {
            ino,
            kind: inode.kind(),
            size: inode.size(),
            mtime: inode.mtime,
            mode: kept.map_or(mode, |kept| kept.mode),
            uid: kept.map_or(self.config.uid, |kept| kept.uid),
            gid: kept.map_or(self.config.gid, |kept| kept.gid),
            nlink: match inode.kind() {
                Kind::Directory => 2,
                Kind::File | Kind::Symlink => inode.links,
            },
            // Writers that ask gather this much for one write; a reader that did would fetch that much for every
            // small read at random.
            block: if being_written { 1 << 20 } else { 4096 },
        }
    }

    /// # Errors
    /// `ReadOnly`
    fn writable(&self) -> Result<()> {
        if self.config.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last lock that anybody takes.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progressed(&self) {
        self.progress.fetch_add(1 << 42, Ordering::Relaxed);
    }

    /// False where nobody listens: before the session's start, and after its end.
    fn invalidate(&self, what: Invalidation) -> bool {
        let sender = self.invalidations.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| sender.send(what).is_ok())
    }
}
