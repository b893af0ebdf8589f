//! Who reads a file, told from what was read: a cursor for each sequential reader.
//!
//! Pure: no clock, no store. Time is the count of reads.

use std::collections::VecDeque;
use std::ops::Range;

use super::Config;
use super::window::{Cursor, SLACK, Usual};

/// Cursors a file may have; the one unused for longest gives way, random reads first.
const MOST: usize = 64;
/// A sequential cursor is left when it was passed over by this many reads of others, one more for each sequential cursor
/// there is, and [`PATIENCE_EACH`] for each of those that read at least [`PROVEN`] times: interleaved readers take turns.
const PATIENCE: u64 = 32;
const PATIENCE_EACH: u64 = 4;
const PROVEN: u64 = 3;
/// Requests that the kernel sends together come at most so many reads apart.
const TOGETHER: u64 = 3;
/// So many reads of others after its last, a reader's run counts as one of those that tell how far readers go. As many of
/// them are remembered as `RUNS`.
const PAUSE: u64 = 8;
const RUNS: usize = 8;
/// Until something is known of that: what the kernel reads at once around a page fault, where its read-ahead is as wide as
/// the default of a volume.
const AROUND: u64 = 4 << 20;
/// A run that is so many times as long as usual is none that ends where others do: pieces read at random adjoin by chance.
const EXCEPTION: u64 = 4;
/// Of what was read so many ranges are remembered, the longest. Shorter ones than `LITTLE` stop nobody.
const RANGES: usize = 256;
const LITTLE: u64 = 256 << 10;

/// The cursors of one file.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    known: Vec<Known>,
    reads: u64,
    /// How far the last readers went that began in the middle of the file and then paused or went elsewhere, in bytes.
    runs: VecDeque<u64>,
    read: Read,
}

#[derive(Debug)]
struct Known {
    cursor: Cursor,
    /// The read, counted, that was its last.
    last: u64,
    /// How many were its own.
    own: u64,
}

impl Cursors {
    /// Takes note of a read: it belongs to the nearest cursor that it may follow, or begins one.
    pub(super) fn observe(&mut self, read: &Range<u64>) {
        self.reads += 1;
        self.read.add(read);
        self.learn();
        self.retire();
        let distances = self.known.iter().enumerate();
        let nearest = distances.filter_map(|(at, known)| Some((known.cursor.distance(read.start)?, at))).min();
        match nearest {
            Some((_, at)) => {
                let known = &mut self.known[at];
                // Who looks elsewhere first, at a footer above all, reads pieces.
                known.cursor.at_once |= known.own == 1 && self.reads <= 1 + TOGETHER;
                known.cursor.goes_on(read);
                self.known[at].last = self.reads;
                self.known[at].own += 1;
                self.join(at);
            }
            None => {
                // A reader that begins at the beginning most likely goes on to the end.
                let usual = Some(self.usual());
                self.make_room();
                self.known.push(Known { cursor: Cursor::new(read, usual), last: self.reads, own: 1 });
                self.join(self.known.len() - 1);
            }
        }
    }

    /// The cursor whose furthest read ends at `end` or, for a read that came late, shortly after.
    pub(super) fn at(&mut self, end: u64) -> Option<&mut Cursor> {
        let after = |cursor: &&mut Cursor| cursor.begin < end && end <= cursor.next && cursor.next - end <= SLACK;
        self.known.iter_mut().map(|known| &mut known.cursor).filter(after).min_by_key(|cursor| cursor.next - end)
    }

    /// The reader whose read ended at `end` had to wait for it.
    pub(super) fn stalled(&mut self, end: u64, config: &Config) {
        if let Some(cursor) = self.at(end) {
            cursor.stalled(config);
        }
    }

    /// Where the reader whose read ended at `end` need not be run ahead of: from there on the kernel has what others read.
    pub(super) fn stop(&mut self, end: u64) -> u64 {
        let next = self.at(end).map(|cursor| cursor.next);
        next.map_or(u64::MAX, |next| self.read.next_after(next))
    }

    /// How many sequential readers there are.
    pub(super) fn sequential(&self) -> u64 {
        self.known.iter().filter(|known| known.cursor.is_sequential()).count() as u64
    }

    /// Whether some reader may still come to bytes of `range`.
    pub(super) fn want(&self, range: &Range<u64>) -> bool {
        self.known.iter().any(|known| known.cursor.wants(range))
    }

    /// What was fetched ahead is gone.
    pub(super) fn restart(&mut self) {
        self.known.iter_mut().for_each(|known| known.cursor.restart());
    }

    /// Joins a cursor with a young one that began where it now ends: one reader's requests that came out of order.
    fn join(&mut self, at: usize) {
        let end = self.known[at].cursor.next;
        let follows = |other: &Known| {
            other.cursor.begin == end && other.cursor.run() <= SLACK && self.reads - other.last <= TOGETHER
        };
        let Some(other) = self.known.iter().position(follows).filter(|other| *other != at) else {
            return;
        };
        let Cursor { next, frontier, .. } = self.known[other].cursor;
        let first = &mut self.known[at].cursor;
        first.goes_on(&(end..next));
        first.fetched(frontier);
        self.known.swap_remove(other);
    }

    /// Leaves the readers that went elsewhere while others read on. Random reads hold nothing, and stay until
    /// there is no room.
    fn retire(&mut self) {
        let each = |known: &Known| match (known.cursor.is_sequential(), known.own >= PROVEN) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => PATIENCE_EACH,
        };
        let patience = PATIENCE + self.known.iter().map(each).sum::<u64>();
        let now = self.reads;
        let left = |known: &Known| known.cursor.is_sequential() && now - known.last > patience;
        self.known.retain(|known| !left(known));
    }

    /// How far readers go that begin in the middle: half of the last ones did not go further.
    fn usual(&self) -> Usual {
        let mut runs: Vec<_> = self.runs.iter().copied().collect();
        runs.sort_unstable();
        match runs.get(runs.len().saturating_sub(1) / 2) {
            Some(run) => Usual { run: *run, exception: run.saturating_mul(EXCEPTION) },
            None => Usual { run: AROUND, exception: 2 * AROUND },
        }
    }

    /// Takes note of how far a reader went that has paused.
    fn learn(&mut self) {
        for known in &self.known {
            let run = known.cursor.run();
            if self.reads - known.last == PAUSE && run >= LITTLE && known.cursor.begin > 0 {
                if self.runs.len() == RUNS {
                    self.runs.pop_front();
                }
                self.runs.push_back(run);
            }
        }
    }

    fn make_room(&mut self) {
        if self.known.len() < MOST {
            return;
        }
        let order = |known: &Known| (known.cursor.is_sequential(), known.last);
        if let Some(oldest) = (0..self.known.len()).min_by_key(|at| order(&self.known[*at])) {
            self.known.swap_remove(oldest);
        }
    }
}

/// What was read of a file, and so lies in the kernel's page cache.
#[derive(Debug, Default)]
struct Read(Vec<Range<u64>>);

impl Read {
    fn add(&mut self, read: &Range<u64>) {
        let ranges = &mut self.0;
        let first = ranges.partition_point(|range| range.end < read.start);
        let after = ranges.partition_point(|range| range.start <= read.end);
        let (mut joined, mut again) = (read.clone(), 0);
        for range in ranges.drain(first..after) {
            again += range.end.min(read.end).saturating_sub(range.start.max(read.start));
            joined = joined.start.min(range.start)..joined.end.max(range.end);
        }
        // The kernel has dropped it, or never kept it.
        if again * 2 >= read.end - read.start {
            joined = read.clone();
        }
        ranges.insert(first, joined);
        if ranges.len() > RANGES
            && let Some(shortest) = (0..ranges.len()).min_by_key(|at| ranges[*at].end - ranges[*at].start)
        {
            ranges.remove(shortest);
        }
    }

    /// Where what was read begins again, from `at` on.
    fn next_after(&self, at: u64) -> u64 {
        let after = self.0.partition_point(|range| range.end <= at);
        let next = self.0[after..].iter().find(|range| range.end - range.start.max(at) >= LITTLE);
        next.map_or(u64::MAX, |range| range.start.max(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn after(reads: impl IntoIterator<Item = Range<u64>>) -> Cursors {
        let mut cursors = Cursors::default();
        reads.into_iter().for_each(|read| cursors.observe(&read));
        cursors
    }

    fn in_order(from: u64, step: u64, count: u64) -> Vec<Range<u64>> {
        (0..count).map(|at| from + at * step..from + (at + 1) * step).collect()
    }

    #[test]
    fn adjoining_reads_are_one_reader() {
        let mut cursors = after(in_order(0, 128 * KIB, 100));
        assert_eq!((cursors.known.len(), cursors.sequential()), (1, 1));
        assert_eq!(cursors.at(100 * 128 * KIB).unwrap().begin, 0);
    }

    #[test]
    fn requests_out_of_order_are_one_reader_from_the_first_on() {
        for order in [[0, 1, 2, 3], [1, 0, 3, 2], [0, 3, 2, 1], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let reads = in_order(0, MIB, 64);
            let mut cursors = after(reads.chunks(4).flat_map(|four| order.map(|turn| four[turn].clone())));
            assert_eq!(cursors.sequential(), 1, "{order:?}");
            assert_eq!(cursors.at(64 * MIB).unwrap().begin, 0, "{order:?}");
        }
    }

    #[test]
    fn random_reads_are_no_reader() {
        let cursors = after((0..2000u64).map(|at| (at * 7_919_999_983) % (1 << 40)).map(|at| at..at + 4096));
        assert_eq!(cursors.sequential(), 0);
        assert!(cursors.known.len() <= MOST);
    }

    #[test]
    fn strides_are_no_reader() {
        let cursors = after((0..100u64).map(|at| at * 64 * KIB..at * 64 * KIB + 4096));
        assert_eq!(cursors.sequential(), 0);
    }

    #[test]
    fn interleaved_readers_each_have_a_cursor() {
        for (count, turn) in [(2, 1), (8, 1), (60, 1), (8, 2), (16, 2), (8, 3), (40, 4)] {
            let streams: Vec<_> = (0..count).map(|stream| in_order(stream << 32, 128 * KIB, 48)).collect();
            let turns = (0..48).step_by(turn);
            let reads = turns.flat_map(|at| streams.iter().flat_map(move |stream| stream[at..at + turn].to_vec()));
            assert_eq!(after(reads).sequential(), count, "{turn}");
        }
    }

    #[test]
    fn readers_of_pieces_are_run_ahead_of_to_the_end_of_a_piece() {
        // As a 1 MiB read arrives that does not begin with a page of its own.
        let piece = |at: u64| [at..at + MIB, at + MIB..at + MIB + 4 * KIB];
        let config = Config { window: 64 * MIB, part: 8 * MIB, files: 1 };
        let (mut cursors, mut wasted) = (Cursors::default(), Vec::new());
        for number in 0..200u64 {
            let at = 4 * KIB + (number * 7919 % 10_007) * 4 * MIB;
            for read in piece(at) {
                cursors.observe(&read);
                cursors.stalled(read.end, &config);
                if let Some(cursor) = cursors.at(read.end)
                    && let Some(ahead) = cursor.ahead(1 << 40, &config)
                {
                    cursor.fetched(ahead.end);
                    wasted.push(number);
                }
            }
        }
        assert!(wasted.len() < 25, "{wasted:?}");
    }

    #[test]
    fn a_reader_that_went_elsewhere_is_left_soon() {
        let mut cursors = after(in_order(0, MIB, 10));
        cursors.at(10 * MIB).unwrap().fetched(30 * MIB);
        let reads = in_order(1 << 32, MIB, 50);
        assert!(cursors.want(&(20 * MIB..28 * MIB)));
        reads.iter().for_each(|read| cursors.observe(read));
        assert!(!cursors.want(&(20 * MIB..28 * MIB)));
        assert_eq!(cursors.sequential(), 1);
    }
}
