//! Who reads a file, told from what was read: a cursor for each sequential reader, and how far ahead of it to be.
//!
//! Pure: no clock, no store. Time is the count of reads.

use std::ops::Range;

use super::Config;

/// Reads this near a cursor, before or after, are its own: the kernel sends a reader's requests several at once and
/// out of order.
const SLACK: u64 = 4 << 20;
/// Where a window begins once a reader has shown itself sequential.
const FIRST: u64 = 4 << 20;
/// Cursors a file may have; the one unused for longest gives way.
const MOST: usize = 64;
/// A cursor that was passed over by this many reads of others is gone.
const PATIENCE: u64 = 256;

/// The cursors of one file.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    cursors: Vec<Cursor>,
    reads: u64,
}

/// A reader that goes through the file in order, as far as it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Where its reading began.
    begin: u64,
    /// The end of the furthest read.
    next: u64,
    /// The end of what was fetched for it.
    frontier: u64,
    /// How far ahead of `next` to be; 0 until it is sequential.
    window: u64,
    /// When it last read.
    last: u64,
}

impl Cursors {
    /// Takes note of a read; returns the cursor it belongs to, and the ranges that nobody will read any more.
    pub(super) fn observe(&mut self, range: &Range<u64>, config: &Config) -> (&mut Cursor, Vec<Range<u64>>) {
        self.reads += 1;
        let now = self.reads;
        let gone = self.retire(now);
        let near = |cursor: &Cursor| {
            let from = cursor.next.saturating_sub(SLACK).max(cursor.begin);
            (from <= range.start && range.start <= cursor.next.saturating_add(SLACK.min(cursor.reach())))
                .then(|| cursor.next.abs_diff(range.start))
        };
        let nearest = self.cursors.iter().enumerate().filter_map(|(at, cursor)| Some((near(cursor)?, at))).min();
        let at = match nearest {
            Some((_, at)) => {
                self.cursors[at].goes_on(range, config);
                at
            }
            None => {
                let (begin, next) = (range.start, range.end);
                self.cursors.push(Cursor { begin, next, frontier: next, window: 0, last: now });
                self.cursors.len() - 1
            }
        };
        self.cursors[at].last = now;
        let at = self.join(at, config);
        (&mut self.cursors[at], gone)
    }

    /// Joins a cursor with a young one that began where it now ends: requests of one reader that came out of order.
    fn join(&mut self, at: usize, config: &Config) -> usize {
        let end = self.cursors[at].next;
        let begun_there = |other: &Cursor| other.begin == end && other.next - other.begin <= SLACK;
        let Some(other) = self.cursors.iter().position(begun_there).filter(|other| *other != at) else { return at };
        let other_cursor = self.cursors[other].clone();
        self.cursors[at].goes_on(&(other_cursor.begin..other_cursor.next), config);
        self.cursors[at].fetched(other_cursor.frontier);
        self.cursors.swap_remove(other);
        if at == self.cursors.len() { other } else { at }
    }

    /// Removes cursors that went quiet while others read.
    fn retire(&mut self, now: u64) -> Vec<Range<u64>> {
        let mut gone = Vec::new();
        self.cursors.retain(|cursor| {
            let stays = now - cursor.last <= PATIENCE;
            if !stays {
                gone.push(cursor.next..cursor.frontier);
            }
            stays
        });
        if self.cursors.len() == MOST
            && let Some(oldest) = (0..MOST).min_by_key(|at| self.cursors[*at].last)
        {
            let cursor = self.cursors.swap_remove(oldest);
            gone.push(cursor.next..cursor.frontier);
        }
        gone
    }

    /// The cursor whose furthest read ends at `end` or, for a read that came late, shortly after.
    pub(super) fn at(&mut self, end: u64) -> Option<&mut Cursor> {
        let after = |cursor: &&mut Cursor| cursor.begin < end && end <= cursor.next && cursor.next - end <= SLACK;
        self.cursors.iter_mut().filter(after).min_by_key(|cursor| cursor.next - end)
    }

    /// Whether some cursor still wants bytes of `range`.
    pub(super) fn want(&self, range: &Range<u64>) -> bool {
        self.cursors.iter().any(|cursor| cursor.next < range.end && range.start < cursor.frontier)
    }

    /// What was read ahead is given up: every cursor begins its window anew from where it reads.
    pub(super) fn forget_ahead(&mut self) {
        for cursor in &mut self.cursors {
            cursor.frontier = cursor.next;
            cursor.window = cursor.window.min(FIRST);
        }
    }
}

impl Cursor {
    /// How far after `next` a read may begin and still be this reader's: a single read is a reader of nothing but
    /// what follows it.
    fn reach(&self) -> u64 {
        if self.is_sequential() { SLACK } else { 0 }
    }

    pub(super) fn is_sequential(&self) -> bool {
        self.window > 0
    }

    fn goes_on(&mut self, range: &Range<u64>, config: &Config) {
        if range.end <= self.next {
            return;
        }
        self.next = range.end;
        self.frontier = self.frontier.max(self.next);
        self.window = if self.window == 0 { FIRST } else { self.window.saturating_mul(2) }.min(config.window);
    }

    /// How much to ask of the store at once, as the window stands.
    pub(super) fn part(&self, config: &Config) -> u64 {
        (self.window / 4).clamp(1 << 20, config.part)
    }

    /// The next range to fetch ahead, if one fits the window. Only whole parts, but for the file's last.
    pub(super) fn ahead(&self, size: u64, config: &Config) -> Option<Range<u64>> {
        if !self.is_sequential() || self.frontier >= size {
            return None;
        }
        let end = self.frontier.saturating_add(self.part(config)).min(size);
        (end <= self.next.saturating_add(self.window) || end == size && self.frontier < self.next + self.window)
            .then_some(self.frontier..end)
    }

    /// `end` is fetched, or on its way.
    pub(super) fn fetched(&mut self, end: u64) {
        self.frontier = self.frontier.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const CONFIG: Config = Config { window: 64 * MIB, part: 8 * MIB };

    /// Plays reads; after each, takes everything that may be fetched ahead. Returns that, and what was given up.
    fn play(cursors: &mut Cursors, size: u64, reads: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let (mut ahead, mut gone) = (Vec::new(), Vec::new());
        for read in reads {
            let (cursor, given_up) = cursors.observe(read, &CONFIG);
            gone.extend(given_up);
            while let Some(range) = cursor.ahead(size, &CONFIG) {
                cursor.fetched(range.end);
                ahead.push(range);
            }
        }
        (ahead, gone)
    }

    fn in_order(from: u64, step: u64, count: u64) -> Vec<Range<u64>> {
        (0..count).map(|at| from + at * step..from + (at + 1) * step).collect()
    }

    #[test]
    fn a_first_read_fetches_nothing_more() {
        let (ahead, _) = play(&mut Cursors::default(), 1 << 30, &[0..4096]);
        assert_eq!(ahead, []);
    }

    #[test]
    fn a_sequential_reader_gets_a_window_that_grows_to_its_limit() {
        let mut cursors = Cursors::default();
        let reads = in_order(0, MIB, 64);
        let (ahead, _) = play(&mut cursors, 1 << 30, &reads);
        assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start), "{ahead:?}");
        assert_eq!(ahead[0], 2 * MIB..3 * MIB);
        let last = ahead.last().unwrap();
        assert_eq!(last.end - last.start, 8 * MIB);
        assert!(last.end <= 64 * MIB + 64 * MIB && last.end > 64 * MIB + 48 * MIB);
    }

    #[test]
    fn requests_out_of_order_are_one_reader() {
        let mut reads = in_order(0, 128 * 1024, 400);
        for four in reads.chunks_exact_mut(4) {
            four.swap(1, 3);
        }
        let mut cursors = Cursors::default();
        let (ahead, _) = play(&mut cursors, 50 * MIB, &reads);
        assert_eq!(cursors.cursors.len(), 1);
        assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(ahead.last().unwrap().end, 50 * MIB);
    }

    #[test]
    fn nothing_is_fetched_beyond_the_end() {
        let size = 5 * MIB + 17;
        let (ahead, _) = play(&mut Cursors::default(), size, &in_order(0, MIB, 5));
        assert_eq!(ahead.last().unwrap().end, size);
    }

    #[test]
    fn random_reads_stay_random() {
        let reads: Vec<_> = (0..2000u64).map(|at| (at * 7_919_999_983) % (1 << 40)).map(|at| at..at + 4096).collect();
        let mut cursors = Cursors::default();
        let (ahead, _) = play(&mut cursors, 1 << 40, &reads);
        assert_eq!(ahead, []);
        assert!(cursors.cursors.len() <= MOST);
    }

    #[test]
    fn interleaved_readers_each_have_a_cursor() {
        let streams: Vec<_> = (0..8).map(|stream| in_order(stream << 32, 128 * 1024, 100)).collect();
        let reads: Vec<_> = (0..100).flat_map(|at| streams.iter().map(move |stream| stream[at].clone())).collect();
        let mut cursors = Cursors::default();
        let (ahead, gone) = play(&mut cursors, 1 << 40, &reads);
        assert_eq!((cursors.cursors.len(), gone), (8, vec![]));
        assert!((0..8).all(|stream| ahead.iter().any(|range| range.start >> 32 == stream)));
    }

    #[test]
    fn what_an_abandoned_reader_would_have_read_is_given_up() {
        let mut cursors = Cursors::default();
        play(&mut cursors, 1 << 40, &in_order(0, MIB, 10));
        let elsewhere: Vec<_> = (1..1000u64).map(|at| (at << 30)..(at << 30) + 4096).collect();
        let (_, gone) = play(&mut cursors, 1 << 40, &elsewhere);
        assert!(gone.iter().any(|range| range.start == 10 * MIB && range.end > 10 * MIB), "{gone:?}");
        assert!(!cursors.want(&(11 * MIB..12 * MIB)));
    }
}
