//! How far ahead of one sequential reader to be, and in what pieces to fetch it.
//!
//! Pure: no clock, no store.

use std::ops::Range;

use super::Config;

/// The kernel sends a reader's requests several at once and out of order: one that begins this near to the end of the
/// furthest is still the same reader's.
pub(super) const SLACK: u64 = 4 << 20;
/// Where the window of a file that is read from its beginning begins.
const FIRST: u64 = 1 << 20;
/// The smallest piece fetched ahead.
const SMALLEST: u64 = 256 << 10;
/// A run that grew so often at its beginning is read backwards. Once may be chance, or two requests out of order.
const BACKWARDS: u32 = 2;

/// How far readers go, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usual {
    /// Most of them so far.
    pub(super) run: u64,
    /// One that went so far is not like them.
    pub(super) exception: u64,
    /// It was seen, and is not what is believed of files in general.
    pub(super) seen: bool,
}

/// A reader that goes through the file in order, as far as it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Where its run began.
    pub(super) begin: u64,
    /// The end of the furthest read.
    pub(super) next: u64,
    /// The end of what was fetched for it; never before `next`.
    pub(super) frontier: u64,
    /// The start of what was fetched for it towards the file's beginning; never behind `begin`.
    floor: u64,
    /// How far it went forwards from where it began to do so: of its run what lies before `next`.
    gained: u64,
    /// How many times its run grew at its beginning: a copy out of a mapping may go backwards.
    back: u32,
    /// The end of the furthest read of what was fetched ahead of it, made before its turn.
    lead: u64,
    /// How many reads it was that each went on where the one before ended.
    reads: u32,
    /// The second followed the first before others came.
    pub(super) at_once: bool,
    /// How far ahead to be at most: as much as keeps it from waiting.
    reach: u64,
    /// How far readers of this file go that began elsewhere.
    usual: Option<Usual>,
    /// It goes on to the end of the file, as others of its kind did.
    believed: bool,
}

impl Cursor {
    /// A reader that began with `first`.
    pub(super) fn new(first: &Range<u64>, usual: Option<Usual>) -> Cursor {
        Cursor {
            begin: first.start,
            next: first.end,
            frontier: first.end,
            floor: first.start,
            gained: first.end - first.start,
            back: 0,
            lead: 0,
            reads: 1,
            at_once: false,
            reach: FIRST,
            usual,
            believed: false,
        }
    }

    /// Files of this kind are read whole, and it is right to be `reach` bytes ahead of who does.
    pub(super) fn believe(&mut self, reach: u64) {
        (self.believed, self.at_once, self.reads) = (true, true, self.reads.max(2));
        self.reach = self.reach.max(reach);
    }

    /// It does not go on as others of its kind did: what is ahead of it is for nobody.
    pub(super) fn doubt(&mut self) {
        (self.believed, self.at_once, self.reads) = (false, false, 1);
        (self.frontier, self.reach) = (self.next, FIRST);
    }

    /// How far ahead of it to be at most, as it showed.
    pub(super) fn reach(&self) -> u64 {
        self.reach
    }

    /// It had to wait: it should be run further ahead of, when it may. Where it was kept back by its share of the memory
    /// already, that it waits tells no more.
    pub(super) fn stalled(&mut self, config: &Config) {
        if self.reach <= config.window.max(FIRST) {
            self.reach = self.reach.saturating_mul(2);
        }
    }

    /// It began at the beginning and went on at once: most likely to the end.
    pub(super) fn reads_the_file(&self) -> bool {
        self.begin == 0 && self.at_once
    }

    /// How long its run is.
    pub(super) fn run(&self) -> u64 {
        self.next - self.begin
    }

    /// How far it went forwards.
    pub(super) fn gained(&self) -> u64 {
        self.gained
    }

    pub(super) fn is_sequential(&self) -> bool {
        self.reads > 1
    }

    /// How far readers of this file go is known better by now.
    pub(super) fn learn(&mut self, usual: Usual) {
        // After a restart it has nothing to go by but itself.
        if self.usual.is_some() {
            self.usual = Some(usual);
        }
    }

    /// How far from this reader a read that begins at `start` is, if it may be its next. A single read is followed by
    /// nothing but what adjoins it.
    pub(super) fn distance(&self, start: u64) -> Option<u64> {
        let from = self.next.saturating_sub(SLACK).max(self.begin);
        // Nor is a leap that is long beside the run.
        let leap = if self.is_sequential() { SLACK.min(self.run() / 2) } else { 0 };
        let to = self.next.saturating_add(leap);
        (from..=to).contains(&start).then(|| self.next.abs_diff(start))
    }

    /// Takes note of a read of its own.
    pub(super) fn goes_on(&mut self, read: &Range<u64>) {
        if read.end > self.next {
            self.gained += read.end - self.next;
            self.next = read.end;
            self.fetched(read.end);
            self.reads = self.reads.saturating_add(1);
        }
    }

    /// What follows it was read before, up to `end`.
    pub(super) fn passes(&mut self, end: u64) {
        self.next = self.next.max(end);
        self.fetched(end);
    }

    /// Takes over the run of `other`, which began where this one ends by now. `backwards` where this one is the younger.
    pub(super) fn joins(&mut self, other: &Cursor, backwards: bool) {
        if backwards {
            // Which way it went forwards, and what is known of it, is of the elder.
            let Cursor { begin, floor, reads, at_once, .. } = *self;
            *self = Cursor { begin, floor: floor.min(other.floor), at_once, back: other.back + 1, ..other.clone() };
            self.reads = self.reads.saturating_add(reads);
            return;
        }
        if other.back == 0 || other.run() <= SLACK {
            self.goes_on(&(self.next..other.next));
            return self.fetched(other.frontier);
        }
        // A piece was copied backwards, down to where it began.
        let Cursor { next, .. } = *other;
        let (reads, gained, back, reach) = (1, 0, 0, self.reach.max(other.reach));
        *self = Cursor { begin: next, next, frontier: next, floor: next, reads, gained, back, reach, ..self.clone() };
    }

    /// `read`, of what it covers, was made before its turn: so much further is it run ahead of.
    pub(super) fn leads(&mut self, read: &Range<u64>) {
        self.lead = self.lead.max(read.end);
    }

    /// Something within what was fetched ahead of it is read before what lies between.
    pub(super) fn covers(&self, read: &Range<u64>) -> bool {
        self.is_sequential() && self.next <= read.start && read.end <= self.frontier
    }

    /// Everything before `end` is fetched, or on its way.
    pub(super) fn fetched(&mut self, end: u64) {
        self.frontier = self.frontier.max(end);
    }

    /// What was ahead of it is gone: it begins anew from where it is.
    pub(super) fn restart(&mut self) {
        (self.begin, self.frontier, self.floor) = (self.next, self.next, self.next);
        (self.gained, self.back, self.reads, self.usual, self.believed) = (0, 0, 1, None, false);
    }

    /// How far ahead to be. As much again as was read in order: a run that ends has cost at most its own length. A
    /// file that is read from its beginning will most likely be read to its end, so twice that.
    fn window(&self, config: &Config) -> u64 {
        let run = self.run();
        // Two reads of pieces at random adjoin by chance; but who reads the beginning and at once goes on reads the file.
        let enough = if self.reads_the_file() { 2 } else { 3 };
        let window = match (self.reads >= enough, self.reads_the_file()) {
            (false, _) => 0,
            (true, true) if self.believed => self.reach,
            (true, true) => run.saturating_mul(2).max(FIRST),
            // Behind where others were seen to stop, it has to earn it anew.
            (true, false) => match self.usual {
                Some(usual) if usual.seen && self.gained > usual.exception => self.gained - usual.exception,
                _ => run,
            },
        };
        window.min(self.reach).min(config.window)
    }

    /// Where to stop for now: where others did, until it is an exception.
    fn limit(&self) -> u64 {
        match self.usual {
            Some(usual) if !self.reads_the_file() && self.gained <= usual.exception => {
                (self.next - self.gained).saturating_add(usual.run).max(self.next)
            }
            _ => u64::MAX,
        }
    }

    /// How much to ask of the store at once. Who has gone far will go on, so that larger parts are no risk.
    fn part(&self, config: &Config) -> u64 {
        let window = self.window(config);
        let parts = if self.run() >= 2 * window { 2 } else { 4 };
        (window / parts).max(SMALLEST).min(config.part)
    }

    /// How much a read that has to be waited for asks for, at least.
    pub(super) fn stretch(&self, config: &Config) -> u64 {
        self.part(config).min(self.window(config)).min(self.limit() - self.next)
    }

    /// The next range to fetch ahead. Only whole parts that fit the window, but for the file's last.
    pub(super) fn ahead(&self, size: u64, config: &Config) -> Option<Range<u64>> {
        let stop = self.limit().min(size);
        let window = self.window(config);
        // Half as much again at most, lest reads before their turn draw it on and on.
        let from = self.next.max(self.lead.min(self.next.saturating_add(window / 2)));
        let limit = from.saturating_add(window).min(stop);
        let end = self.frontier.saturating_add(self.part(config)).min(stop);
        (self.frontier < limit && end <= limit).then_some(self.frontier..end)
    }

    /// The next range to fetch of what lies before its run, for one that goes backwards; never before `stop`. As much
    /// again as was read so, as ahead.
    pub(super) fn behind(&self, stop: u64, config: &Config) -> Option<Range<u64>> {
        if self.back < BACKWARDS {
            return None;
        }
        let window = self.run().min(self.reach).min(config.window);
        let limit = self.begin.saturating_sub(window).max(stop);
        let part = (window / 4).max(SMALLEST).min(config.part);
        let start = self.floor.saturating_sub(part).max(stop);
        (limit < self.floor && limit <= start).then_some(start..self.floor)
    }

    /// Everything from `start` to its run is fetched, or on its way.
    pub(super) fn fetched_behind(&mut self, start: u64) {
        self.floor = self.floor.min(start);
    }

    /// Something that it left out, or that it came to by what was read before its turn.
    pub(super) fn passed(&self, read: &Range<u64>) -> bool {
        self.reads_the_file() && read.end <= self.next
    }

    /// It goes backwards, and `read` is where it is, or within what was fetched for it so.
    pub(super) fn is_backwards_at(&self, read: &Range<u64>) -> bool {
        self.back > 0 && self.floor <= read.start && read.start.saturating_sub(self.begin) <= SLACK
    }

    /// Its run was read backwards, the last time it grew.
    pub(super) fn went_backwards(&self) -> bool {
        self.back > 0
    }

    /// The start of what was fetched towards the file's beginning.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether it may still come to bytes of `range`.
    pub(super) fn wants(&self, range: &Range<u64>) -> bool {
        let ahead = self.next.saturating_sub(SLACK) < range.end && range.start < self.frontier;
        self.is_sequential() && (ahead || self.floor < range.end && range.start < self.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const CONFIG: Config = Config { window: 64 * MIB, part: 8 * MIB, files: 64, around: MIB };

    /// Reads on in steps of `step`; returns what may be fetched ahead after each.
    fn walk(cursor: &mut Cursor, size: u64, step: u64, count: u64) -> Vec<Range<u64>> {
        let mut ahead = Vec::new();
        for _ in 0..count {
            cursor.goes_on(&(cursor.next..(cursor.next + step).min(size)));
            cursor.stalled(&CONFIG);
            while let Some(range) = cursor.ahead(size, &CONFIG) {
                cursor.fetched(range.end);
                ahead.push(range);
            }
        }
        ahead
    }

    #[test]
    fn a_first_read_wants_nothing_more() {
        let cursor = Cursor::new(&(0..4096), None);
        assert_eq!((cursor.ahead(1 << 30, &CONFIG), cursor.stretch(&CONFIG)), (None, 0));
    }

    #[test]
    fn the_window_grows_with_the_run_up_to_its_limit() {
        // Where the run began, how long it is, the window, the part.
        for (begin, run, window, part) in [
            (0, 8 * KIB, MIB, 256 * KIB),
            (0, 2 * MIB, 4 * MIB, MIB),
            (0, 16 * MIB, 32 * MIB, 8 * MIB),
            (0, 1 << 30, 64 * MIB, 8 * MIB),
            (4096, 8 * KIB, 8 * KIB, 256 * KIB),
            (MIB, 4 * MIB, 4 * MIB, MIB),
            (MIB, 1 << 30, 64 * MIB, 8 * MIB),
        ] {
            let mut cursor = Cursor::new(&(begin..begin + run / 4), None);
            cursor.at_once = true;
            cursor.goes_on(&(begin + run / 4..begin + run / 2));
            cursor.goes_on(&(begin + run / 2..begin + run));
            (0..6).for_each(|_| cursor.stalled(&CONFIG));
            assert_eq!((cursor.window(&CONFIG), cursor.part(&CONFIG)), (window, part), "{begin} {run}");
            assert!(cursor.stretch(&CONFIG) <= window);
        }
    }

    #[test]
    fn what_is_fetched_ahead_has_no_gaps_and_ends_with_the_file() {
        for size in [3 * MIB, 50 * MIB + 17, 300 * MIB] {
            let mut cursor = Cursor::new(&(0..MIB), None);
            cursor.at_once = true;
            let ahead = walk(&mut cursor, size, MIB, size / MIB);
            assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start), "{ahead:?}");
            assert_eq!(ahead.last().unwrap().end, size);
        }
    }

    #[test]
    fn a_run_in_the_middle_costs_at_most_its_length() {
        for count in 2..200 {
            let mut cursor = Cursor::new(&(1 << 30..(1 << 30) + 128 * KIB), None);
            walk(&mut cursor, 1 << 40, 128 * KIB, count - 1);
            assert!(cursor.frontier - cursor.next <= cursor.next - cursor.begin);
        }
    }

    #[test]
    fn who_never_waits_is_run_ahead_of_by_little() {
        let mut cursor = Cursor::new(&(0..MIB), None);
        cursor.at_once = true;
        cursor.goes_on(&(MIB..100 * MIB));
        assert_eq!(cursor.window(&CONFIG), FIRST);
        for (waits, window) in [(1, 2 * MIB), (2, 8 * MIB), (10, 64 * MIB)] {
            (0..waits).for_each(|_| cursor.stalled(&CONFIG));
            assert_eq!(cursor.window(&CONFIG), window);
        }
    }

    #[test]
    fn where_others_stopped_it_stops_until_it_goes_on() {
        let begin = 100 * MIB;
        let mut cursor =
            Cursor::new(&(begin..begin + 128 * KIB), Some(Usual { run: MIB, exception: 2 * MIB, seen: true }));
        let ahead = walk(&mut cursor, 1 << 30, 128 * KIB, 7);
        assert_eq!((cursor.next, ahead.last().unwrap().end, cursor.stretch(&CONFIG)), (begin + MIB, begin + MIB, 0));
        // As far again is no news.
        assert!(walk(&mut cursor, 1 << 30, 128 * KIB, 8).is_empty());
        assert!(!walk(&mut cursor, 1 << 30, 128 * KIB, 3).is_empty());
    }

    #[test]
    fn a_restart_has_to_be_earned_again() {
        let mut cursor = Cursor::new(&(0..MIB), None);
        walk(&mut cursor, 1 << 30, MIB, 20);
        cursor.restart();
        assert!(!cursor.is_sequential() && !cursor.wants(&(21 * MIB..22 * MIB)));
        assert_eq!(cursor.ahead(1 << 30, &CONFIG), None);
        assert!(walk(&mut cursor, 1 << 30, MIB, 1).is_empty());
        assert_eq!(walk(&mut cursor, 1 << 30, MIB, 1)[0].start, 23 * MIB);
    }
}
