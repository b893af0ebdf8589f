//! What was read of a file, and so lies in the kernel's page cache.

use std::ops::Range;

/// Of what was read so many ranges are remembered, the longest. Shorter ones than `LITTLE` stop nobody.
const RANGES: usize = 256;
pub(super) const LITTLE: u64 = 256 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Covered {
    ranges: Vec<Range<u64>>,
    /// Bytes that came again since it was last found not to be there.
    again: u64,
}

impl Covered {
    pub(super) fn add(&mut self, read: &Range<u64>) {
        let ranges = &mut self.ranges;
        let first = ranges.partition_point(|range| range.end < read.start);
        let after = ranges.partition_point(|range| range.start <= read.end);
        let (mut joined, mut again) = (read.clone(), 0);
        for range in ranges.drain(first..after) {
            again += range.end.min(read.end).saturating_sub(range.start.max(read.start));
            joined = joined.start.min(range.start)..joined.end.max(range.end);
        }
        // The kernel has dropped it, or never kept it. Some pages it may have dropped alone.
        if again * 2 >= read.end - read.start {
            self.again += again;
            if self.again >= LITTLE {
                self.again = 0;
                joined = read.clone();
            }
        }
        ranges.insert(first, joined);
        if ranges.len() > RANGES
            && let Some(shortest) = (0..ranges.len()).min_by_key(|at| ranges[*at].end - ranges[*at].start)
        {
            ranges.remove(shortest);
        }
    }

    /// How much was read.
    pub(super) fn all(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Where what was read begins again, from `at` on.
    pub(super) fn next_after(&self, at: u64) -> u64 {
        let after = self.ranges.partition_point(|range| range.end <= at);
        let next = self.ranges[after..].iter().find(|range| range.end - range.start.max(at) >= LITTLE);
        next.map_or(u64::MAX, |range| range.start.max(at))
    }

    /// Where what was read ends, before `at`.
    pub(super) fn last_before(&self, at: u64) -> u64 {
        let before = self.ranges.partition_point(|range| range.start < at);
        let last = self.ranges[..before].iter().rfind(|range| range.end.min(at) - range.start >= LITTLE);
        last.map_or(0, |range| range.end.min(at))
    }

    /// Where what was read ends, of which `at` is the end or in the middle.
    pub(super) fn end_at(&self, at: u64) -> u64 {
        let first = self.ranges.partition_point(|range| range.end < at);
        self.ranges.get(first).filter(|range| range.start <= at).map_or(at, |range| range.end)
    }

    /// `range` without what was read.
    pub(super) fn without(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut rest, mut at) = (Vec::new(), range.start);
        let first = self.ranges.partition_point(|read| read.end <= range.start);
        for read in self.ranges[first..].iter().take_while(|read| read.start < range.end) {
            if read.end - read.start < LITTLE {
                continue;
            }
            if at < read.start {
                rest.push(at..read.start);
            }
            at = read.end;
        }
        if at < range.end {
            rest.push(at..range.end);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn in_order(step: u64, count: u64) -> impl Iterator<Item = Range<u64>> {
        (0..count).map(move |at| at * step..(at + 1) * step)
    }

    #[test]
    fn what_is_read_again_is_no_longer_there() {
        for step in [4 * KIB, 128 * KIB, MIB] {
            let mut read = Covered::default();
            in_order(step, 8 * MIB / step).for_each(|range| read.add(&range));
            assert_eq!(read.without(0..8 * MIB), []);
            in_order(step, 512 * KIB / step + 1).for_each(|range| read.add(&range));
            assert!(!read.without(4 * MIB..8 * MIB).is_empty(), "{step}");
        }
    }
}
