//! In what order files are read, told from where they stand in a list: a directory's listing.
//!
//! A reader that goes through a list is a [`Runs`] entry, as a sequential reader of a file is a cursor. Several may go
//! through one list, and several readers that share the work are one. Pure: no clock, no store; positions are those of
//! the list.

use std::ops::Range;

/// Runs that a list may have; the one that was quiet for longest gives way.
const MOST: usize = 16;
/// A run this long is run ahead of.
const BELIEVED: usize = 3;
/// A run this long is still one when it leaves some out, or when some come late: as parallel readers do.
const ESTABLISHED: usize = 4;
/// How far from its head a read may be and still belong to an established run.
const SLACK: usize = 512;
/// Files that a run is ahead at first.
const FIRST: usize = 4;

/// The readers that go through one list.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    reads: u64,
}

#[derive(Debug)]
struct Run {
    /// Where it began.
    begin: usize,
    /// Behind the furthest that was read.
    next: usize,
    /// How many were read.
    length: usize,
    /// Behind the furthest that was asked for ahead.
    frontier: usize,
    /// Before this, what was asked for ahead and not read was given up.
    passed: usize,
    /// How far ahead to be.
    window: usize,
    last: u64,
}

/// What a read of a list's file found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing was fetched ahead.
    Nothing,
    /// It was on its way.
    Coming,
    /// It was there.
    There,
}

/// What follows from a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// To be fetched ahead, in this order.
    pub ahead: Range<usize>,
    /// Passed over: what of it was fetched ahead and not read will hardly be.
    pub passed: Range<usize>,
    /// How many more than the list has are to be fetched ahead, from the beginning of the list that comes after it.
    pub beyond: Option<usize>,
}

impl Runs {
    /// Takes note that the file at `at` of a list of `length` is read, and how far ahead of that it had been fetched.
    /// Never more than `most` files are to be fetched ahead.
    pub fn read(&mut self, at: usize, length: usize, found: Ahead, most: usize) -> Next {
        self.reads += 1;
        // Who comes to where a run began goes through the list again.
        if let Some(over) = self.runs.iter().position(|run| run.begin == at && run.next > at + 1) {
            self.runs.swap_remove(over);
            self.begin(at);
            return Next::default();
        }
        let near = |run: &Run| run.distance(at);
        let nearest = (0..self.runs.len()).filter_map(|run| Some((near(&self.runs[run])?, run))).min();
        let Some((_, index)) = nearest else {
            self.begin(at);
            return Next::default();
        };
        let index = self.join(index, at);
        let begins = self.runs.iter().map(|run| run.begin);
        // What another run has read already.
        let end = begins.filter(|begin| *begin > at).min().unwrap_or(length).min(length);
        let run = &mut self.runs[index];
        run.last = self.reads;
        run.grow(found, most);
        run.frontier = run.frontier.max(run.next);
        let ahead = run.frontier..run.next.saturating_add(run.window).min(end).max(run.frontier);
        run.frontier = ahead.end;
        let passed = run.passed..run.next.saturating_sub(SLACK).max(run.passed);
        run.passed = passed.end;
        let beyond = run.next.saturating_add(run.window).checked_sub(length).filter(|more| *more > 0 && end == length);
        Next { ahead, passed, beyond }
    }

    /// Whoever read the list before this one to its end most likely reads this one next: returns which of its first
    /// `window` files, of `length`, are still to be fetched ahead.
    pub fn expect(&mut self, window: usize, length: usize) -> Range<usize> {
        let at = self.runs.iter().position(|run| run.begin == 0).unwrap_or_else(|| {
            self.begin(0);
            let run = self.runs.len() - 1;
            // It has read nothing yet, and is believed as far as it is run ahead of.
            (self.runs[run].next, self.runs[run].frontier, self.runs[run].passed) = (0, 0, 0);
            run
        });
        let run = &mut self.runs[at];
        if run.next > 0 {
            return 0..0;
        }
        (run.length, run.window) = (run.length.max(window).max(ESTABLISHED), run.window.max(window));
        let ahead = run.frontier..window.min(length).max(run.frontier);
        run.frontier = ahead.end;
        ahead
    }

    /// So many of the files that were passed over had been fetched for nothing: the run that read `at` goes slower.
    pub fn wasted(&mut self, at: usize, files: usize) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.begin <= at && at < run.next) {
            run.window = run.window.saturating_sub(files);
            run.length = run.length.min(ESTABLISHED);
        }
    }

    /// Adds the file at `at` to a run, and the run that began behind it: readers that share the work come out of order.
    fn join(&mut self, index: usize, at: usize) -> usize {
        let run = &mut self.runs[index];
        run.length += 1;
        run.next = run.next.max(at + 1);
        let next = run.next;
        let Some(other) = (0..self.runs.len()).find(|other| self.runs[*other].begin == next && *other != index) else {
            return index;
        };
        let Run { next, length, frontier, .. } = self.runs[other];
        let run = &mut self.runs[index];
        run.next = next;
        run.length += length;
        run.frontier = run.frontier.max(frontier);
        self.runs.swap_remove(other);
        // What was last took its place.
        if index == self.runs.len() { other } else { index }
    }

    fn begin(&mut self, at: usize) {
        if self.runs.len() >= MOST
            && let Some(oldest) = (0..self.runs.len()).min_by_key(|run| self.runs[*run].last)
        {
            self.runs.swap_remove(oldest);
        }
        let next = at + 1;
        self.runs.push(Run { begin: at, next, length: 1, frontier: next, passed: next, window: 0, last: self.reads });
    }
}

impl Run {
    /// How far from its head a read at `at` is, if it may be its own.
    fn distance(&self, at: usize) -> Option<usize> {
        let distance = self.next.abs_diff(at);
        let slack = if self.length >= ESTABLISHED { SLACK } else { 0 };
        (distance <= slack && at >= self.begin).then_some(distance)
    }

    /// Further ahead where the reader had to wait, never by more than it has shown to read.
    fn grow(&mut self, found: Ahead, most: usize) {
        let wanted = match found {
            Ahead::There => self.window,
            Ahead::Nothing | Ahead::Coming => self.window.saturating_mul(2).max(FIRST),
        };
        // In a shuffled list two follow each other by chance.
        self.window = if self.length < BELIEVED { 0 } else { wanted.min(self.length.saturating_mul(2)).min(most) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_AHEAD: usize = 128;

    /// Reads `order` of a list of `length`. What was asked for ahead is there `late` reads later, and on its way until
    /// then. Returns what was fetched ahead, in order, and how many reads had to wait.
    fn walk(order: impl IntoIterator<Item = usize>, length: usize, late: usize) -> (Vec<usize>, usize) {
        let (mut runs, mut fetched, mut waits) = (Runs::default(), Vec::<(usize, usize)>::new(), 0);
        for (now, at) in order.into_iter().enumerate() {
            let found = match fetched.iter().find(|(file, _)| *file == at) {
                None => Ahead::Nothing,
                Some((_, since)) if now - since < late => Ahead::Coming,
                Some(_) => Ahead::There,
            };
            waits += usize::from(found != Ahead::There);
            let next = runs.read(at, length, found, MOST_AHEAD);
            fetched.extend(next.ahead.map(|file| (file, now)));
        }
        (fetched.into_iter().map(|(file, _)| file).collect(), waits)
    }

    fn shuffled(length: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..length).collect();
        let mut seed = 42_u64;
        for at in (1..length).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(at, (seed >> 33) as usize % (at + 1));
        }
        order
    }

    #[test]
    fn in_order_each_is_fetched_once_and_few_are_waited_for() {
        for late in [1, 4, 40] {
            let (fetched, waits) = walk(0..1000, 1000, late);
            assert!(fetched.is_sorted() && fetched.windows(2).all(|pair| pair[0] < pair[1]), "{late}");
            assert_eq!(fetched.last(), Some(&999));
            assert!(fetched.len() >= 997 && waits < 4 * late.max(3), "{late} {} {waits}", fetched.len());
        }
    }

    #[test]
    fn a_list_is_run_ahead_of_again_however_short() {
        for length in [50, 1000] {
            let mut runs = Runs::default();
            for _ in 0..3 {
                let read = |at| runs.read(at, length, Ahead::Coming, MOST_AHEAD).ahead.len();
                assert_eq!((0..length).map(read).sum::<usize>(), length - BELIEVED);
            }
        }
    }

    #[test]
    fn readers_that_share_the_work_are_one_run() {
        let order = (0..125).flat_map(|eight| [2, 0, 1, 4, 3, 7, 5, 6].map(|turn| eight * 8 + turn));
        let (mut fetched, waits) = walk(order, 1000, 4);
        let many = fetched.len();
        fetched.sort_unstable();
        fetched.dedup();
        assert!(fetched.len() == many && many > 950 && waits < 50, "{many} {waits}");
    }

    #[test]
    fn readers_that_share_the_work_may_drift_apart() {
        // Each of eight takes every eighth file; one of them is a hundred files behind.
        let late = |at: usize| if at % 8 == 5 { at + 100 } else { at };
        let mut order: Vec<_> = (0..2000).collect();
        order.sort_by_key(|at| late(*at));
        let (mut fetched, _) = walk(order, 2000, 4);
        let many = fetched.len();
        fetched.sort_unstable();
        fetched.dedup();
        assert!(fetched.len() == many && many > 1900, "{many}");
    }

    #[test]
    fn readers_of_a_stretch_each_are_runs_and_end_where_the_next_began() {
        let order = (0..125).flat_map(|at| (0..8).map(move |reader| reader * 125 + at));
        let (mut fetched, _) = walk(order, 1000, 4);
        let many = fetched.len();
        fetched.sort_unstable();
        fetched.dedup();
        assert!(fetched.len() == many && many > 900, "{many}");
    }

    #[test]
    fn an_unknown_order_costs_little() {
        let (fetched, _) = walk(shuffled(1000), 1000, 4);
        assert!(fetched.len() < 100, "{}", fetched.len());
        let (fetched, _) = walk(shuffled(20_000).into_iter().take(5000), 20_000, 4);
        assert!(fetched.len() < 50, "{}", fetched.len());
    }

    #[test]
    fn a_run_that_ends_has_cost_at_most_twice_its_length() {
        for length in 1..300 {
            let (fetched, _) = walk(500..500 + length, 1000, 40);
            let unread = fetched.iter().filter(|file| **file >= 500 + length).count();
            assert!(unread <= 2 * length && unread <= MOST_AHEAD, "{length} {unread}");
        }
    }

    #[test]
    fn what_was_passed_over_is_given_up_and_slows_the_run() {
        let mut runs = Runs::default();
        for at in 0..700 {
            runs.read(at, 10_000, Ahead::Coming, MOST_AHEAD);
        }
        assert_eq!(runs.runs[0].window, MOST_AHEAD);
        let next = runs.read(730, 10_000, Ahead::There, MOST_AHEAD);
        assert_eq!(next.passed.end, 731 - SLACK);
        runs.wasted(730, 30);
        assert_eq!(runs.runs[0].window, MOST_AHEAD - 30);
    }
}
