//! Hides a store's latency: reads ahead of sequential readers, and fetches exactly what random ones ask.
//!
//! [`ReadAhead`] is one a worker, a [`FileReader`] one an open file version, shared by all its handles. `window` is
//! the pure part: it tells from what was read how many sequential readers a file has and how far ahead of each to be.
//! `part` is one ranged read of the store and the bytes that came of it so far; what it holds is paid for from the
//! worker's budget.

mod part;
mod reader;
mod window;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};

pub use reader::FileReader;

use crate::backend::{Backend, Version};
use crate::budget::Budget;

/// How far and in what pieces to read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The furthest that a sequential reader is run ahead of, in bytes.
    pub window: u64,
    /// The largest single read of the store, in bytes.
    pub part: u64,
}

impl Config {
    /// What suits a worker with `budget` bytes: a window of 64 MiB, or a quarter of a small budget, in 8 MiB parts (8
    /// parts in flight filled 8 connections of 100 MB/s at 15 ms to nine tenths; 1 MiB parts to half).
    pub fn for_budget(budget: u64) -> Config {
        let window = (64 << 20).min(budget / 4);
        Config { window, part: (window / 8).clamp(1 << 20, 8 << 20) }
    }
}

/// Opens files for reading through one store, one budget.
#[derive(Debug)]
pub struct ReadAhead {
    backend: Arc<dyn Backend>,
    budget: Budget,
    config: Config,
    /// Who may hold bytes that nobody waits for.
    readers: Mutex<Vec<Weak<FileReader>>>,
}

impl ReadAhead {
    /// Reads through `backend`, paying from `budget`.
    pub fn new(backend: Arc<dyn Backend>, budget: Budget, config: Config) -> Arc<ReadAhead> {
        Arc::new(ReadAhead { backend, budget, config, readers: Mutex::default() })
    }

    /// A reader of exactly this version. Asks nothing of the store yet. Dropping it cancels what it has in flight.
    pub fn open(self: &Arc<Self>, version: Version) -> Arc<FileReader> {
        let reader = Arc::new(FileReader::new(self.clone(), version));
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|other| other.strong_count() > 0);
        readers.push(Arc::downgrade(&reader));
        reader
    }

    /// Gives up what was read ahead and nobody waits for, in every file.
    fn give_way(&self) {
        let readers: Vec<_> = {
            let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.iter().filter_map(Weak::upgrade).collect()
        };
        for reader in readers {
            reader.give_way();
        }
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
