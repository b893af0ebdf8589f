//! Whose pages the kernel likely has: files that it read whole through this process, and not long ago.
//!
//! Passthrough reads other pages than those, the ones of the file that is lent, and of these the kernel may have none: what
//! a worker wrote counts as the worker's memory and goes first. So a file whose own pages are there is better opened as it
//! was before. Nobody tells when the kernel gives pages up. What is asked for a second time shows it, and how many bytes
//! of other files went by until then.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Ino;

/// Files that are remembered at most.
const MOST: usize = 16 << 10;

/// A file is given up when more than one byte in so many of it was asked for again.
const AGAIN: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Resident(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// Bytes of all files that the kernel has read in this mount.
    read: u64,
    /// Behind so many bytes of others the kernel is taken to have given pages up.
    horizon: u64,
    files: HashMap<Ino, Span>,
}

/// What was read of one file since the kernel had nothing of it.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// What had been read of all files when that began.
    since: u64,
    read: u64,
}

impl Resident {
    /// At most `memory` bytes of pages are taken to be kept.
    pub(super) fn new(memory: u64) -> Resident {
        Resident(Mutex::new(Known { read: 0, horizon: memory, files: HashMap::new() }))
    }

    /// The kernel asked for `length` bytes of `ino`, which has `size`, to keep them.
    pub(super) fn read(&self, ino: Ino, size: u64, length: u64) {
        let mut known = self.known();
        let since = known.read;
        known.read += length;
        if known.files.len() >= MOST && !known.files.contains_key(&ino) {
            known.tidy();
        }
        let span = known.files.entry(ino).or_insert(Span { since, read: 0 });
        span.read += length;
        if span.read > size + size / AGAIN {
            let gone = since - span.since;
            *span = Span { since, read: length };
            known.horizon = known.horizon.min(gone / 2);
        }
    }

    /// The kernel reads `size` bytes by itself.
    pub(super) fn passed(&self, size: u64) {
        self.known().read += size;
    }

    /// Whether it likely has all of `ino`, which has `size`.
    pub(super) fn has(&self, ino: Ino, size: u64) -> bool {
        let known = self.known();
        known.files.get(&ino).is_some_and(|span| span.read >= size && known.read - span.since <= known.horizon)
    }

    /// It has nothing any more.
    pub(super) fn forget(&self) {
        self.known().files.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Makes room: for those beyond the horizon nothing is lost, and with that many within it little.
    fn tidy(&mut self) {
        let (read, horizon) = (self.read, self.horizon);
        self.files.retain(|_, span| read - span.since <= horizon);
        if self.files.len() >= MOST {
            self.files.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1000;

    fn read(resident: &Resident, ino: u64, times: u64) {
        for _ in 0..times * 10 {
            resident.read(Ino(ino), SIZE, SIZE / 10);
        }
    }

    #[test]
    fn a_file_is_there_once_all_of_it_was_read() {
        let resident = Resident::new(10 * SIZE);
        assert!(!resident.has(Ino(2), SIZE));
        resident.read(Ino(2), SIZE, SIZE - 1);
        assert!(!resident.has(Ino(2), SIZE));
        resident.read(Ino(2), SIZE, 1);
        assert!(resident.has(Ino(2), SIZE));
        resident.forget();
        assert!(!resident.has(Ino(2), SIZE));
    }

    #[test]
    fn it_is_gone_behind_what_fits_memory() {
        let resident = Resident::new(10 * SIZE);
        read(&resident, 2, 1);
        for other in 3..12 {
            read(&resident, other, 1);
        }
        assert!(resident.has(Ino(2), SIZE));
        resident.passed(SIZE);
        assert!(!resident.has(Ino(2), SIZE));
        assert!(resident.has(Ino(11), SIZE));
        // Nor is one that fits no memory.
        resident.read(Ino(20), 11 * SIZE, 11 * SIZE);
        assert!(!resident.has(Ino(20), 11 * SIZE));
    }

    #[test]
    fn what_is_asked_again_shows_how_much_is_kept() {
        let resident = Resident::new(100 * SIZE);
        for other in 2..10 {
            read(&resident, other, 1);
        }
        // A page or two of it were given up: no more than that.
        resident.read(Ino(2), SIZE, SIZE / 10);
        assert!(resident.has(Ino(2), SIZE));
        resident.read(Ino(2), SIZE, SIZE / 10);
        assert!(!resident.has(Ino(2), SIZE));
        // Eight files were read since it was: four are still believed.
        let there: Vec<_> = (2..10).filter(|ino| resident.has(Ino(*ino), SIZE)).collect();
        assert_eq!(there, [7, 8, 9]);
    }

    #[test]
    fn memory_is_bounded() {
        let resident = Resident::new(u64::MAX);
        for ino in 0..3 * MOST as u64 {
            resident.read(Ino(ino), 1, 1);
        }
        assert!(resident.known().files.len() <= MOST);
    }
}
