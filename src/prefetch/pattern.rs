//! Who reads a file, told from what was read: a cursor for each sequential reader.
//!
//! Pure: no clock, no store. Time is the count of reads.

use std::ops::Range;

use super::window::{Cursor, SLACK};

/// Cursors a file may have; the one unused for longest gives way, random reads first.
const MOST: usize = 64;
/// A sequential cursor is left when it was passed over by this many reads of others, and by [`PATIENCE_EACH`] for each
/// cursor there is: interleaved readers take turns.
const PATIENCE: u64 = 16;
const PATIENCE_EACH: u64 = 4;

/// The cursors of one file.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    known: Vec<Known>,
    reads: u64,
}

#[derive(Debug)]
struct Known {
    cursor: Cursor,
    /// The read, counted, that was its last.
    last: u64,
}

impl Cursors {
    /// Takes note of a read: it belongs to the nearest cursor that it may follow, or begins one.
    pub(super) fn observe(&mut self, read: &Range<u64>) {
        self.reads += 1;
        self.retire();
        let distances = self.known.iter().enumerate();
        let nearest = distances.filter_map(|(at, known)| Some((known.cursor.distance(read.start)?, at))).min();
        match nearest {
            Some((_, at)) => {
                self.known[at].cursor.goes_on(read);
                self.known[at].last = self.reads;
                self.join(at);
            }
            None => {
                self.make_room();
                self.known.push(Known { cursor: Cursor::new(read), last: self.reads });
                self.join(self.known.len() - 1);
            }
        }
    }

    /// The cursor whose furthest read ends at `end` or, for a read that came late, shortly after.
    pub(super) fn at(&mut self, end: u64) -> Option<&mut Cursor> {
        let after = |cursor: &&mut Cursor| cursor.begin < end && end <= cursor.next && cursor.next - end <= SLACK;
        self.known.iter_mut().map(|known| &mut known.cursor).filter(after).min_by_key(|cursor| cursor.next - end)
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
        let follows = |other: &Cursor| other.begin == end && other.next - other.begin <= SLACK;
        let Some(other) = self.known.iter().position(|known| follows(&known.cursor)).filter(|other| *other != at)
        else {
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
        let patience = PATIENCE + PATIENCE_EACH * self.known.len() as u64;
        let now = self.reads;
        self.known.retain(|known| !known.cursor.is_sequential() || now - known.last <= patience);
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
        for count in [2, 8, 60] {
            let streams: Vec<_> = (0..count).map(|stream| in_order(stream << 32, 128 * KIB, 50)).collect();
            let turns = (0..50).flat_map(|at| streams.iter().map(move |stream| stream[at].clone()));
            assert_eq!(after(turns).sequential(), count);
        }
    }

    #[test]
    fn a_reader_that_went_elsewhere_is_left_soon() {
        let mut cursors = after(in_order(0, MIB, 10));
        cursors.at(10 * MIB).unwrap().fetched(30 * MIB);
        let reads = in_order(1 << 32, MIB, 30);
        assert!(cursors.want(&(20 * MIB..28 * MIB)));
        reads.iter().for_each(|read| cursors.observe(read));
        assert!(!cursors.want(&(20 * MIB..28 * MIB)));
        assert_eq!(cursors.sequential(), 1);
    }
}
