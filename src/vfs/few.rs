//! Small directories: the rest of one is fetched once some of its files were read, in whatever order. An import reads a
//! package's modules as they name each other.
//!
//! Pure: no clock, no store.

use std::collections::BTreeSet;

/// The files of a directory are fetched with some of them where all take no more than that: what the wire carries while it
/// waits for some first bytes.
const SMALL: u64 = 2 << 20;
/// One of so many was read by then, and so many: of files here and there hardly as many are of one directory.
const PART: usize = 4;
const SEVERAL: usize = 3;
/// So many directories were read nearly whole before the first file of another is enough.
const ENOUGH_TRUST: u32 = 2;
/// A package's import begins those of others before it ends: so many may be begun on trust.
const MOST_TRUST: u32 = 8;

/// What was read of the files of one small directory.
#[derive(Debug)]
pub(super) struct Few {
    files: usize,
    read: BTreeSet<u32>,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Rest,
    /// The rest, after the first file.
    RestOnTrust,
}

/// Whether small directories are read whole here, as far as was seen.
#[derive(Debug, Default)]
pub(super) struct Trust(u32);

impl Few {
    /// Of a directory whose files have these sizes, if it is a small one.
    pub(super) fn of(sizes: impl Iterator<Item = u64>) -> Option<Few> {
        let (files, bytes) = sizes.fold((0, 0), |(files, bytes), size| (files + 1, size.saturating_add(bytes)));
        (files >= SEVERAL && bytes <= SMALL).then(|| Few { files, read: BTreeSet::new(), told: Told::Nothing })
    }

    /// The row `at` is read. True once: when the rest should be fetched.
    pub(super) fn read(&mut self, at: u32, trust: &mut Trust) -> bool {
        if !self.read.insert(at) {
            return false;
        }
        if self.read.len() == (self.files * 3).div_ceil(4) {
            trust.found_whole(self.told == Told::RestOnTrust);
        }
        self.told = match self.told {
            Told::Nothing if self.read.len() >= (self.files / PART).max(SEVERAL) => Told::Rest,
            Told::Nothing if trust.take() => Told::RestOnTrust,
            _ => return false,
        };
        true
    }

    pub(super) fn has_read(&self, at: u32) -> bool {
        self.read.contains(&at)
    }
}

impl Trust {
    /// A directory is begun on trust, which comes back when it was read.
    fn take(&mut self) -> bool {
        let trusts = self.0 >= ENOUGH_TRUST;
        self.0 -= u32::from(trusts);
        trusts
    }

    fn found_whole(&mut self, on_trust: bool) {
        self.0 = (self.0 + 1 + u32::from(on_trust)).min(MOST_TRUST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many of `files` the rest is fetched, if `reads` of them are read.
    fn told(files: usize, reads: u32, trust: &mut Trust) -> Option<u32> {
        let mut few = Few::of((0..files).map(|_| 10_000))?;
        let told: Vec<_> = (0..reads).filter(|at| few.read(*at, trust)).collect();
        assert!(told.len() <= 1);
        told.first().map(|at| at + 1)
    }

    #[test]
    fn a_part_of_a_small_directory_is_enough() {
        for (files, enough) in [(2, None), (3, Some(3)), (10, Some(3)), (20, Some(5)), (200, Some(50)), (210, None)] {
            assert_eq!(told(files, files as u32, &mut Trust::default()), enough, "{files}");
        }
    }

    #[test]
    fn where_they_are_read_whole_the_first_file_is_enough() {
        let mut trust = Trust::default();
        let all: Vec<_> = (0..6).map(|_| told(16, 12, &mut trust)).collect();
        assert_eq!(all, [Some(4), Some(4), Some(1), Some(1), Some(1), Some(1)]);
        // Others are begun before the first ends.
        let begun: Vec<_> = (0..6).map(|_| told(16, 1, &mut trust)).collect();
        assert_eq!(begun, [Some(1), Some(1), Some(1), Some(1), Some(1), None]);
    }

    #[test]
    fn where_they_are_not_it_is_soon_forgotten() {
        let mut trust = Trust::default();
        for _ in 0..100 {
            told(16, 12, &mut trust);
        }
        let early = (0..100).filter(|_| told(16, 3, &mut trust).is_some()).count();
        assert_eq!(early, 7);
        assert_eq!(told(16, 11, &mut trust), Some(4));
    }

    #[test]
    fn what_is_read_again_says_nothing_new() {
        let (mut few, mut trust) = (Few::of([1, 2, 3].into_iter()).unwrap(), Trust::default());
        assert!((0..20).all(|_| !few.read(1, &mut trust)));
        assert!(few.has_read(1) && !few.has_read(2));
    }
}
