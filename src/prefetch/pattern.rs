//! Who reads a file, told from what was read: a cursor for each sequential reader.
//!
//! Pure: no clock, no store. Time is the count of reads.

use std::collections::VecDeque;
use std::ops::Range;

use super::Config;
use super::covered::{Covered, LITTLE};
use super::window::{Cursor, SLACK, Usual};

/// Cursors a file may have; the one unused for longest gives way, random reads first.
const MOST: usize = 64;
/// A sequential cursor is left when it was passed over by this many reads of others, one more for each sequential cursor
/// there is, and [`PATIENCE_EACH`] for each of those that read at least [`PROVEN`] times: interleaved readers take turns.
const PATIENCE: u64 = 32;
const PATIENCE_EACH: u64 = 10;
const PROVEN: u64 = 3;
/// Requests that the kernel sends together come at most so many reads apart.
const TOGETHER: u64 = 3;
/// A copy that goes backwards through a mapping makes so many requests at most between two steps of its own.
const STEP: u64 = 12;
/// So many reads of others after its last, and twice as many as it ever let pass before it went on, a reader's run counts
/// as one of those that tell how far readers go. As many of them are remembered as `RUNS`.
const PAUSE: u64 = 8;
const RUNS: usize = 8;
/// So much of a file's beginning, and little else, was read: most likely the rest follows, whatever order it came in.
const BEGINNING: u64 = 4 << 20;
/// A run that is so many times as long as usual is none that ends where others do: pieces read at random adjoin by chance.
const EXCEPTION: u64 = 4;

/// The cursors of one file.
#[derive(Debug)]
pub(super) struct Cursors {
    known: Vec<Known>,
    reads: u64,
    /// How far the last readers went that began in the middle of the file and then paused or went elsewhere, in bytes.
    runs: VecDeque<u64>,
    read: Covered,
    /// It was read from its beginning, in whatever order.
    began: bool,
    /// Where its first read ended, which is believed to be of somebody who reads all of it and has not gone on yet.
    believed: Option<u64>,
    /// Until something is known of `runs`: what the kernel reads at once around a page fault.
    around: u64,
}

#[derive(Debug)]
struct Known {
    cursor: Cursor,
    /// The read, counted, that was its last.
    last: u64,
    /// How many were its own.
    own: u64,
    /// The read, counted, that was its first.
    first: u64,
    /// The most reads after which it went on.
    rhythm: u64,
    /// What was noted of it in `runs` when it paused.
    noted: Option<u64>,
}

impl Cursors {
    /// Of a file that nobody has read, where the kernel reads `around` bytes at once around a page fault.
    pub(super) fn new(around: u64) -> Cursors {
        let (known, runs, read) = (Vec::new(), VecDeque::new(), Covered::default());
        Cursors { known, reads: 0, runs, read, began: false, believed: None, around }
    }

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
                self.unlearn(at);
                let usual = self.usual();
                let known = &mut self.known[at];
                // Who looks elsewhere first, at a footer above all, reads pieces.
                known.cursor.at_once |= known.own == 1 && self.reads <= 1 + TOGETHER;
                known.cursor.goes_on(read);
                known.cursor.learn(usual);
                known.rhythm = known.rhythm.max(self.reads - known.last);
                known.last = self.reads;
                known.own += 1;
                self.join(at);
            }
            None => {
                for known in self.known.iter_mut().filter(|known| known.cursor.covers(read)) {
                    known.last = self.reads;
                    known.cursor.leads(read);
                }
                let cursor = Cursor::new(read, Some(self.usual()));
                self.make_room();
                self.known.push(Known { cursor, last: self.reads, own: 1, first: self.reads, rhythm: 0, noted: None });
                self.join(self.known.len() - 1);
            }
        }
        self.see_the_beginning();
        if let Some(at) = self.known.iter().position(|known| known.cursor.reads_the_file()) {
            self.pass(at);
        }
    }

    /// Who copies the file piece by piece out of a mapping, backwards or with others at once, reads it as if in order. Told
    /// once of a file.
    fn see_the_beginning(&mut self) {
        let beginning = self.read.end_at(0);
        if self.began || beginning < BEGINNING || self.read.all() > beginning + beginning / 2 {
            return;
        }
        self.began = true;
        if self.known.iter().any(|known| known.cursor.reads_the_file()) {
            return;
        }
        let within = self.known.iter().filter(|known| known.cursor.next <= beginning);
        let reach = within.map(|known| known.cursor.reach()).max().unwrap_or_default();
        let mut cursor = Cursor::new(&(0..beginning), None);
        cursor.believe(reach);
        self.known.retain(|known| known.cursor.next > beginning);
        self.make_room();
        self.known.push(Known { cursor, last: self.reads, own: PROVEN, first: self.reads, rhythm: 0, noted: None });
    }

    /// The file's first read, of its beginning, is of somebody who will most likely go on to its end, and may be run ahead
    /// of by `reach` bytes.
    pub(super) fn believe(&mut self, reach: u64) {
        if let Some(first) = self.first() {
            first.believe(reach);
            self.believed = Some(first.next);
        }
    }

    /// Whether there was one read, of the file's beginning.
    pub(super) fn is_begun(&mut self) -> bool {
        self.first().is_some()
    }

    fn first(&mut self) -> Option<&mut Cursor> {
        match (self.reads, &mut self.known[..]) {
            (1, [only]) if only.cursor.begin == 0 => Some(&mut only.cursor),
            _ => None,
        }
    }

    /// Whether somebody is believed to read all of the file who has not gone on yet.
    pub(super) fn is_believed(&self) -> bool {
        self.believed.is_some()
    }

    /// Whether whoever was believed to read all of the file goes on, by the read that was observed last; told once. Who
    /// reads elsewhere first is no longer believed.
    pub(super) fn goes_on(&mut self, read: &Range<u64>) -> Option<bool> {
        let end = self.believed?;
        let first = self.known.iter_mut().map(|known| &mut known.cursor).find(|cursor| cursor.begin == 0);
        let goes_on = first.as_ref().is_some_and(|cursor| cursor.next > end);
        // The kernel's requests come out of order.
        if !goes_on && read.start <= end + SLACK {
            return None;
        }
        self.believed = None;
        if let Some(first) = first.filter(|_| !goes_on) {
            first.doubt();
        }
        Some(goes_on)
    }

    /// Nothing was read yet, and somebody is expected who will read the file from its beginning to its end, and may be run
    /// ahead of by `reach` bytes.
    pub(super) fn expect(&mut self, reach: u64) {
        let mut cursor = Cursor::new(&(0..0), None);
        cursor.believe(reach);
        self.known.push(Known { cursor, last: self.reads, own: 0, first: self.reads, rhythm: 0, noted: None });
    }

    /// All that somebody who reads the file from its beginning has not read yet of its `size` bytes is on its way.
    pub(super) fn all_is_coming(&self, size: u64) -> bool {
        self.known.iter().any(|known| known.cursor.reads_the_file() && known.cursor.frontier >= size)
    }

    /// How many reads there were.
    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    /// How far ahead of somebody it was right to be who read the file from its beginning to `size`, its end.
    pub(super) fn reached(&self, size: u64) -> Option<u64> {
        let whole = |known: &&Known| known.cursor.reads_the_file() && known.cursor.next >= size;
        self.known.iter().find(whole).map(|known| known.cursor.reach())
    }

    /// The cursor whose furthest read ends at `end` or, for a read that came late, shortly after.
    pub(super) fn at(&mut self, end: u64) -> Option<&mut Cursor> {
        let at = self.nearest(end)?;
        Some(&mut self.known[at].cursor)
    }

    fn nearest(&self, end: u64) -> Option<usize> {
        let after = |at: &usize| {
            let Cursor { begin, next, .. } = self.known[*at].cursor;
            begin < end && end <= next && next - end <= SLACK
        };
        (0..self.known.len()).filter(after).min_by_key(|at| self.known[*at].cursor.next - end)
    }

    /// The numbers, good until the next read, of the cursors that may go on after `read`: whose it is, and those whose run
    /// it is of or that have fetched it before its turn.
    pub(super) fn concerned(&self, read: &Range<u64>) -> Vec<usize> {
        let nearest = self.nearest(read.end);
        let concerned = |at: &usize| {
            let cursor = &self.known[*at].cursor;
            nearest == Some(*at) || cursor.covers(read) || cursor.passed(read) || cursor.is_backwards_at(read)
        };
        (0..self.known.len()).filter(concerned).collect()
    }

    /// `range` is on its way for the cursor of a number, before or behind it.
    pub(super) fn fetched(&mut self, number: usize, range: &Range<u64>) {
        if let Some(cursor) = self.cursor(number) {
            if range.start >= cursor.begin {
                cursor.fetched(range.end);
            } else {
                cursor.fetched_behind(range.start);
            }
        }
    }

    /// The cursor of a number.
    pub(super) fn cursor(&mut self, number: usize) -> Option<&mut Cursor> {
        self.known.get_mut(number).map(|known| &mut known.cursor)
    }

    /// `read` had to be waited for.
    pub(super) fn stalled(&mut self, read: &Range<u64>, config: &Config) {
        for number in self.concerned(read) {
            self.known[number].cursor.stalled(config);
        }
    }

    /// Where the reader whose read ended at `end` need not be run ahead of: from there on the kernel has what others read.
    pub(super) fn stop(&mut self, end: u64) -> u64 {
        let next = self.at(end).map(|cursor| cursor.next);
        next.map_or(u64::MAX, |next| self.read.next_after(next))
    }

    /// Where a cursor need not be run ahead of. Who reads the whole file goes on behind what was read before its turn.
    pub(super) fn stop_ahead(&self, number: usize) -> u64 {
        match self.known.get(number).map(|known| &known.cursor) {
            Some(cursor) if !cursor.reads_the_file() => self.read.next_after(cursor.next),
            _ => u64::MAX,
        }
    }

    /// Where a cursor that goes backwards comes to what was read.
    pub(super) fn stop_behind(&self, number: usize) -> u64 {
        self.known.get(number).map_or(u64::MAX, |known| self.read.last_before(known.cursor.begin))
    }

    /// What of `range` was not read yet.
    pub(super) fn unread(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.read.without(range)
    }

    /// How many sequential readers there are.
    pub(super) fn sequential(&self) -> u64 {
        self.known.iter().filter(|known| known.cursor.is_sequential()).count() as u64
    }

    /// How many of them have not come to the file's end, at `size`.
    pub(super) fn going_on(&self, size: u64) -> u64 {
        let going_on = |known: &&Known| known.cursor.is_sequential() && known.cursor.next < size;
        self.known.iter().filter(going_on).count() as u64
    }

    /// Whether some reader may still come to bytes of `range`.
    pub(super) fn want(&self, range: &Range<u64>) -> bool {
        self.known.iter().any(|known| known.cursor.wants(range))
    }

    /// What was fetched ahead is gone.
    pub(super) fn restart(&mut self) {
        self.known.iter_mut().for_each(|known| known.cursor.restart());
    }

    /// Joins a cursor with the one that began where it now ends: one reader's requests that came out of order, or a copy
    /// that goes backwards.
    fn join(&mut self, at: usize) {
        let Known { cursor: Cursor { next: end, .. }, first, .. } = self.known[at];
        let cursor = &self.known[at].cursor;
        let is_young = cursor.run() <= SLACK;
        // What it left out may be read yet; and who reads the whole file passes what was read before its turn.
        let may_be_done = !cursor.reads_the_file() && self.read.end_at(cursor.begin) >= end;
        let follows = |other: &Known| {
            let age = self.reads - other.last;
            let out_of_order = other.cursor.run() <= SLACK && age <= TOGETHER;
            let backwards = may_be_done && (is_young || other.cursor.went_backwards()) && age <= STEP;
            other.cursor.begin == end && (out_of_order || backwards)
        };
        let other = (0..self.known.len()).find(|other| *other != at && follows(&self.known[*other]));
        let Some(other) = other else { return };
        let Known { cursor, first: elder, .. } = self.known.swap_remove(other);
        // What was last took its place.
        let at = if at == self.known.len() { other } else { at };
        let known = &mut self.known[at];
        known.cursor.joins(&cursor, elder < first);
        // The file's first requests came out of order.
        known.cursor.at_once |= cursor.at_once || self.reads <= 1 + TOGETHER;
        (known.last, known.first) = (self.reads, elder.min(first));
    }

    /// Who reads the whole file and comes to what was read before its turn is behind that at once, with those who read it.
    fn pass(&mut self, at: usize) {
        let cursor = &self.known[at].cursor;
        let from = cursor.next;
        // What it left out shortly before may be read yet.
        let left_out = from.saturating_sub(2 * SLACK).max(cursor.begin);
        let to = self.read.end_at(left_out);
        if to <= from {
            return;
        }
        let begin = cursor.begin;
        let passed = |other: &Known| {
            let Cursor { begin: first, next, .. } = other.cursor;
            begin < first && left_out <= first && next <= to
        };
        let frontiers = self.known.iter().filter(|known| passed(known) && known.cursor.next == to);
        let frontier = frontiers.map(|known| known.cursor.frontier).max();
        let cursor = &mut self.known[at].cursor;
        cursor.passes(to);
        cursor.fetched(frontier.unwrap_or(to));
        self.known.retain(|known| !passed(known));
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
            Some(run) => Usual { run: *run, exception: run.saturating_mul(EXCEPTION), seen: true },
            None => Usual { run: self.around, exception: 2 * self.around, seen: false },
        }
    }

    /// Takes note of how far a reader went that has paused.
    fn learn(&mut self) {
        for known in &mut self.known {
            let gained = known.cursor.gained();
            if self.reads - known.last == PAUSE.max(2 * known.rhythm) && gained >= LITTLE && known.cursor.begin > 0 {
                if self.runs.len() == RUNS {
                    self.runs.pop_front();
                }
                self.runs.push_back(gained);
                known.noted = Some(gained);
            }
        }
    }

    /// It was only a pause: others had their turn.
    fn unlearn(&mut self, at: usize) {
        if let Some(noted) = self.known[at].noted.take()
            && let Some(place) = self.runs.iter().position(|run| *run == noted)
        {
            self.runs.remove(place);
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

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn after(reads: impl IntoIterator<Item = Range<u64>>) -> Cursors {
        let mut cursors = Cursors::new(MIB);
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
            let cursor = cursors.at(64 * MIB).unwrap();
            assert_eq!((cursor.begin, cursor.reads_the_file()), (0, true), "{order:?}");
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
        let config = Config { window: 64 * MIB, part: 8 * MIB, files: 1, around: MIB };
        let (mut cursors, mut wasted) = (Cursors::new(MIB), Vec::new());
        for number in 0..200u64 {
            let at = 4 * KIB + (number * 7919 % 10_007) * 4 * MIB;
            for read in piece(at) {
                cursors.observe(&read);
                cursors.stalled(&read, &config);
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
    fn a_run_that_grows_at_its_beginning_is_read_backwards() {
        const CONFIG: Config = Config { window: 64 * MIB, part: 8 * MIB, files: 1, around: MIB };
        type Reads<'a> = &'a [Range<u64>];
        // The reads, and what is wanted then of what lies before them.
        let table: [(Reads<'_>, Option<Range<u64>>); 5] = [
            (&[14 * MIB..18 * MIB, 12 * MIB..14 * MIB], None),
            (&[14 * MIB..18 * MIB, 12 * MIB..14 * MIB, 10 * MIB..12 * MIB], Some(8 * MIB..10 * MIB)),
            // What was read already is not fetched again.
            (&[MIB..9 * MIB, 14 * MIB..18 * MIB, 12 * MIB..14 * MIB, 10 * MIB..12 * MIB], Some(9 * MIB..10 * MIB)),
            (&[2 * MIB..10 * MIB, 14 * MIB..18 * MIB, 12 * MIB..14 * MIB, 10 * MIB..12 * MIB], None),
            // Nor is anything where pieces only happen to adjoin.
            (&[14 * MIB..15 * MIB, 30 * MIB..31 * MIB, 13 * MIB..14 * MIB, 50 * MIB..51 * MIB], None),
        ];
        for (reads, wanted) in table {
            let mut cursors = after(reads.iter().cloned());
            let last = &reads[reads.len() - 1];
            (0..4).for_each(|_| cursors.stalled(last, &CONFIG));
            let behind: Vec<_> = (cursors.concerned(last).into_iter())
                .filter_map(|number| {
                    let stop = cursors.stop_behind(number);
                    cursors.cursor(number)?.behind(stop, &CONFIG)
                })
                .collect();
            assert_eq!(behind, wanted.into_iter().collect::<Vec<_>>(), "{reads:?}");
        }
    }

    #[test]
    fn who_reads_the_whole_file_passes_what_was_read_before_its_turn() {
        let mut cursors = after(in_order(0, MIB, 4).into_iter().chain(in_order(13 * MIB, MIB, 6)));
        let whole = |known: &&Known| known.cursor.reads_the_file();
        let at = |cursors: &Cursors| cursors.known.iter().find(whole).map(|known| known.cursor.next);
        assert_eq!(at(&cursors), Some(4 * MIB));
        for read in in_order(6 * MIB, MIB, 7) {
            cursors.observe(&read);
        }
        assert_eq!(at(&cursors), Some(13 * MIB), "two are left out");
        in_order(4 * MIB, MIB, 2).iter().for_each(|read| cursors.observe(read));
        assert_eq!(at(&cursors), Some(19 * MIB));
    }

    #[test]
    fn a_page_that_is_read_again_makes_nobody_forget_where_he_was() {
        let config = Config { window: 64 * MIB, part: 8 * MIB, files: 1, around: MIB };
        let mut cursors = Cursors::new(MIB);
        let mut read = |read: Range<u64>| {
            cursors.observe(&read);
            cursors.stalled(&read, &config);
            for number in cursors.concerned(&read) {
                while let Some(range) = cursors.cursor(number).and_then(|cursor| cursor.ahead(1 << 40, &config)) {
                    cursors.fetched(number, &range);
                }
            }
            cursors.known.iter().any(|known| known.cursor.reads_the_file())
        };
        for range in in_order(0, MIB, 5) {
            read(range);
        }
        // Pieces in order, each copied backwards; the kernel has let go of a page of an earlier one now and then.
        for piece in 1..20 {
            for at in (0..16).rev() {
                let at = (piece * 16 + at - 11) * MIB;
                assert!(read(at..at + MIB), "piece {piece} at {}", at / MIB);
            }
            let page = piece * 8 * MIB;
            assert!(read(page..page + 4 * KIB), "piece {piece}");
        }
    }

    #[test]
    fn a_pause_is_no_end() {
        let streams: Vec<_> = (0..8u64).map(|stream| in_order((stream + 1) << 32, MIB, 40)).collect();
        let turns = (0..40).step_by(4);
        let reads = turns.flat_map(|at| streams.iter().flat_map(move |stream| stream[at..at + 4].to_vec()));
        let cursors = after(reads);
        assert!(cursors.runs.iter().all(|run| *run == 40 * MIB), "{:?}", cursors.runs);
    }

    #[test]
    fn a_reader_that_went_elsewhere_is_left_soon() {
        let mut cursors = after(in_order(0, MIB, 10));
        cursors.at(10 * MIB).unwrap().fetched(30 * MIB);
        let reads = in_order(1 << 32, MIB, 60);
        assert!(cursors.want(&(20 * MIB..28 * MIB)));
        reads.iter().for_each(|read| cursors.observe(read));
        assert!(!cursors.want(&(20 * MIB..28 * MIB)));
        assert_eq!(cursors.sequential(), 1);
    }
}
