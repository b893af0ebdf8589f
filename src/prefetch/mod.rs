//! Hides a store's latency: reads ahead of sequential readers, and fetches exactly what random ones ask.
//!
//! [`ReadAhead`] is one a worker, a [`FileReader`] one an open file version, shared by all its handles. The pure parts
//! are `pattern`, which tells from what was read (`covered`) how many sequential readers a file has, `window`, which says how far
//! ahead of each to be, `habits`, which tells from the last files of a kind whether the next is read whole, `series`, which tells its name, and `order`,
//! which tells in what order those of a directory are read. `part` is one ranged read of the store and the bytes that
//! came of it so far, `files` are the files fetched before anybody reads them, `prepared` the large ones of those, and `link` is what was measured of the
//! store: a small file, by that measure, is fetched whole by the first read of it.
//!
//! All of it is paid for from the worker's budget, of which a reserve is kept for reads that somebody waits for: what
//! is paid from it is exactly what a reader asked, leaves with that reader, and so never blocks the next. Nothing is
//! taken from a reader that goes on; one that went quiet gives up what was fetched ahead of it as soon as somebody
//! needs the memory.

mod announced;
mod covered;
mod files;
mod habits;
mod link;
mod order;
mod part;
mod pattern;
mod prepared;
mod reader;
mod series;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

pub use announced::{Announced, Progress};
pub use files::{Seen, Source, Target};
pub use order::{Ahead, Next, Runs};
pub use reader::FileReader;

use crate::backend::{Backend, Version};
use crate::budget::{Budget, Lease, Spare};
use files::Files;
use habits::Habits;
use link::Link;
use prepared::Prepared;

/// A reader that has not read for so long may lose what was fetched ahead of it.
const QUIET: Duration = Duration::from_secs(2);
/// How long a count of the readers holds.
const RECOUNT: Duration = Duration::from_millis(10);

/// How far and in what pieces to read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The furthest that a sequential reader is run ahead of, in bytes; less where several share the budget.
    pub window: u64,
    /// The largest single read of the store, in bytes.
    pub part: u64,
    /// Files on their way at once before anybody reads them.
    pub files: usize,
    /// What the kernel reads at once around a page fault, in bytes: its read-ahead, and at least 1 MiB.
    pub around: u64,
}

impl Config {
    /// What suits a worker with `budget` bytes: a window of 128 MiB, or half of a small budget, in 8 MiB parts. Eight of
    /// them fill 8 connections of 100 MB/s at 15 ms to nine tenths (1 MiB parts to half), if others wait behind them:
    /// those that began together end together.
    pub fn for_budget(budget: u64) -> Config {
        let window = (128 << 20).min(budget / 2);
        Config { window, part: (window / 8).clamp(1 << 20, 8 << 20), files: 64, around: 1 << 20 }
    }

    /// As it is, for a kernel that reads ahead by `kib` KiB.
    pub fn beside(self, kib: u32) -> Config {
        Config { around: (u64::from(kib) << 10).max(1 << 20), ..self }
    }
}

/// Opens files for reading through one store, one budget.
#[derive(Debug)]
pub struct ReadAhead {
    backend: Arc<dyn Backend>,
    budget: Budget,
    /// For reads that somebody waits for, when the budget is held by others.
    reserve: Budget,
    /// What the reserve is made of. None where the budget was used up at the start.
    _reserved: Option<Lease>,
    config: Mutex<Config>,
    link: Arc<Link>,
    files: Files,
    /// Locked before a reader's state, never after.
    prepared: Prepared,
    /// Locked last.
    habits: Mutex<Habits>,
    /// Locked after a reader's state, never before.
    readers: Mutex<Readers>,
    /// Somebody could not be run ahead of for want of memory.
    short: AtomicBool,
    /// What was fetched before this became another number is nobody's.
    era: AtomicU64,
}

/// The files that may hold bytes nobody waits for.
#[derive(Debug)]
struct Readers {
    known: HashMap<u64, Weak<FileReader>>,
    last_id: u64,
    counted: Option<Instant>,
    /// Bytes that each sequential reader may be run ahead of, at the last count.
    share: u64,
}

impl ReadAhead {
    /// Reads through `backend`, paying from `budget`, of which an eighth, at most 16 MiB, is held from now on.
    pub fn new(backend: Arc<dyn Backend>, budget: Budget, config: Config) -> Arc<ReadAhead> {
        let reserve = (budget.total() / 8).min(16 << 20);
        let readers = Readers { known: HashMap::new(), last_id: 0, counted: None, share: budget.total() };
        let ahead = Arc::new(ReadAhead {
            backend,
            reserve: Budget::new(reserve),
            _reserved: budget.try_acquire(reserve),
            budget,
            config: Mutex::new(config),
            link: Arc::default(),
            files: Files::default(),
            prepared: Prepared::default(),
            habits: Mutex::default(),
            readers: Mutex::new(readers),
            short: AtomicBool::new(false),
            era: AtomicU64::new(0),
        });
        let spare: Arc<dyn Spare> = ahead.clone();
        ahead.budget.lends_to(Arc::downgrade(&spare));
        ahead.reserve.lends_to(Arc::downgrade(&spare));
        ahead
    }

    /// Reads ahead as `config` says from now on: where the budget has another size. The reserve stays.
    pub fn resize(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Gives out nothing more of what was fetched so far, from when this returns. A read that is under way may.
    pub fn forget(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.files.clear();
        self.prepared.clear();
        let known: Vec<_> = self.readers().known.values().filter_map(Weak::upgrade).collect();
        known.iter().for_each(|reader| reader.forget());
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// A reader of exactly this version, and how far the file had been fetched ahead of it. Asks nothing of the store
    /// yet. Dropping it cancels what it has in flight.
    pub fn open(self: &Arc<Self>, version: Version) -> (Arc<FileReader>, Ahead) {
        if let Some(reader) = self.take_prepared(&version) {
            return (reader, Ahead::There);
        }
        // Before what was fetched is taken: else it could pass for one of the next era.
        let era = self.era();
        let (beginning, found) = self.take_file(&version);
        let reader = self.reader(version, era);
        if let Some(part) = beginning {
            reader.adopt(part);
        }
        (reader, found)
    }

    fn reader(self: &Arc<Self>, version: Version, era: u64) -> Arc<FileReader> {
        let id = {
            let mut readers = self.readers();
            readers.last_id += 1;
            readers.last_id
        };
        Arc::new_cyclic(|itself| FileReader::new(self.clone(), version, id, itself.clone(), era))
    }

    fn config(&self) -> Config {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pays for bytes that a reader waits for.
    async fn pay(&self, bytes: u64) -> Lease {
        if let Some(lease) = self.budget.try_acquire(bytes) {
            return lease;
        }
        if self.files.give_up(bytes)
            && let Some(lease) = self.budget.try_acquire(bytes)
        {
            return lease;
        }
        self.give_way();
        match self.budget.try_acquire(bytes) {
            Some(lease) => lease,
            None => self.reserve.acquire(bytes).await,
        }
    }

    /// How far ahead of each reader to be, as many as there are. Where memory was short, those that went quiet give
    /// way.
    ///
    /// Locks every reader in turn: none may be locked by the caller.
    fn fair(&self) -> Config {
        let known: Vec<_> = {
            let mut readers = self.readers();
            if readers.counted.is_none_or(|at| at.elapsed() >= RECOUNT) {
                readers.counted = Some(Instant::now());
                readers.known.values().filter_map(Weak::upgrade).collect()
            } else {
                Vec::new()
            }
        };
        if !known.is_empty() {
            if self.short.swap(false, Ordering::Relaxed) {
                known.iter().for_each(|reader| reader.give_way());
            }
            let count = known.iter().map(|reader| reader.count()).sum::<u64>();
            // A quarter is left to files being written and to random reads.
            self.readers().share = self.budget.total() / 4 * 3 / count.max(1);
        }
        let config = self.config();
        let part = (self.link.part() >> 20 << 20).max(1 << 20).min(config.part);
        Config { window: config.window.min(self.readers().share), part, ..config }
    }

    fn habits(&self) -> MutexGuard<'_, Habits> {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare for ReadAhead {
    /// Takes from every reader that went quiet what was fetched ahead of it, and half of what was fetched of files that
    /// nobody reads yet.
    fn give_way(&self) {
        self.files.give_way();
        let known: Vec<_> = self.readers().known.values().filter_map(Weak::upgrade).collect();
        known.iter().for_each(|reader| reader.give_way());
    }
}

impl From<Bytes> for Data {
    fn from(one: Bytes) -> Data {
        Data(vec![one])
    }
}

/// Bytes of a file in order, in the pieces in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data(Vec<Bytes>);

impl Data {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there are none: the read began at or after the end.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in their order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    /// The bytes in one piece; copies where they came in several.
    pub fn into_bytes(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.0) {
            Ok([one]) => one,
            Err(many) => {
                let mut whole = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                for piece in &many {
                    whole.extend_from_slice(piece);
                }
                whole.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests;
