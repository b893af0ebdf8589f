//! How an object is cut into parts: pure arithmetic over S3's limits.
//!
//! Limits (S3 User Guide, "Amazon S3 multipart upload limits"): 10,000 parts of 5 MiB to 5 GiB, the last one of any
//! size, so 48.8 TiB an object.

use std::ops::Range;

/// Parts of one upload.
pub(super) const MOST_PARTS: u32 = 10_000;
/// The smallest part that is not the last.
pub(super) const SMALLEST: u64 = 5 << 20;
/// The largest part, and the largest object of one PUT or CopyObject.
pub(super) const LARGEST: u64 = 5 << 30;

/// The usual size of the first parts.
const USUAL: u64 = 8 << 20;
/// Parts double in size each time so many have gone.
const STEP: u32 = 500;
/// The source of a copy is taken in ranges of about this size, so that several run at once.
const COPY_RANGE: u64 = 1 << 30;
/// Copies leave most part numbers to what is appended.
const MOST_COPIES: u64 = 1_000;

/// Sizes of the parts of a file whose length nobody knows yet.
///
/// They grow, so that much data needs few parts, up to half of the memory budget: one part fills while another is on
/// its way. The budget thereby bounds the largest file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    first: u64,
    cap: u64,
    largest: u64,
    memory: u64,
}

impl Schedule {
    /// For a budget of `memory` bytes.
    pub(super) fn new(memory: u64) -> Schedule {
        let cap = (memory / 2).clamp(SMALLEST, LARGEST);
        let mut schedule = Schedule { first: USUAL.min(cap), cap, largest: 0, memory };
        schedule.largest = (1..=MOST_PARTS).map(|number| schedule.part(number)).sum();
        schedule
    }

    /// Whether it is the one for a budget of `memory` bytes.
    pub(super) fn is_for(&self, memory: u64) -> bool {
        self.memory == memory
    }

    /// The size of the part with this number, from 1.
    pub(super) fn part(&self, number: u32) -> u64 {
        let doublings = number.saturating_sub(1) / STEP;
        self.first.checked_shl(doublings).unwrap_or(self.cap).min(self.cap)
    }

    /// The longest file that its parts hold.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }
}

/// The ranges in which `size` bytes (at least [`SMALLEST`], but for a copy's only part) are copied.
pub(super) fn copies(size: u64) -> Vec<Range<u64>> {
    let count = size.div_ceil(COPY_RANGE).clamp(1, MOST_COPIES).max(size.div_ceil(LARGEST));
    (0..count).map(|at| at_share(size, at, count)..at_share(size, at + 1, count)).collect()
}

/// Where the share `at` of `count` equal ones begins. No overflow: sizes are below 2^46, counts below 2^14.
fn at_share(size: u64, at: u64, count: u64) -> u64 {
    size * at / count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_bounds_the_parts_and_parts_the_file() {
        for memory in [1 << 20, 16 << 20, 256 << 20, 4 << 30, 64 << 30] {
            let schedule = Schedule::new(memory);
            let sizes: Vec<u64> = (1..=MOST_PARTS).map(|number| schedule.part(number)).collect();
            assert!(sizes.is_sorted() && sizes[0] >= SMALLEST && *sizes.last().unwrap() <= LARGEST);
            assert!(*sizes.last().unwrap() <= (memory / 2).max(SMALLEST));
        }
        assert!(Schedule::new(256 << 20).largest() > 1 << 40);
        assert!(Schedule::new(4 << 30).largest() > 5 << 40);
        assert_eq!(Schedule::new(256 << 20).part(1), 8 << 20);
    }

    proptest! {
        #[test]
        fn copies_cover_the_source_in_legal_parts(size in SMALLEST..50_000_000_000_000_u64) {
            let ranges = copies(size);
            prop_assert!(ranges.len() <= MOST_PARTS as usize);
            prop_assert_eq!(ranges[0].start, 0);
            prop_assert_eq!(ranges.last().unwrap().end, size);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            for range in &ranges {
                let length = range.end - range.start;
                prop_assert!((SMALLEST..=LARGEST).contains(&length));
            }
        }
    }
}
