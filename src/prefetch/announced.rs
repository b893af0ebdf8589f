//! An order of files that somebody announced: how far ahead of its reader to be, and what became of it.
//!
//! Pure: no clock, no store. The same file may stand in it several times.

use std::collections::{HashMap, VecDeque};

use super::order::Ahead;
use crate::backend::Path;

/// Files ahead of the reader, at first and at most.
const FIRST: usize = 32;
const MOST: usize = 256;
/// Readers that share the work may come so many files late.
const SLACK: u64 = 512;
/// What a place takes beside its path, in bytes.
const PLACE: usize = 96;

/// See the module.
#[derive(Debug)]
pub struct Announced {
    /// What was neither read nor passed over, from number `first` on.
    places: VecDeque<Place>,
    first: u64,
    /// The numbers of the unread places of a file, ascending.
    numbers: HashMap<Path, VecDeque<u64>>,
    /// Behind the last that was asked for ahead, and behind the furthest that was read.
    asked: u64,
    reached: u64,
    read: u64,
    window: usize,
    cost: usize,
    most: usize,
}

#[derive(Debug)]
struct Place {
    path: Path,
    read: bool,
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Files announced so far.
    pub announced: u64,
    /// Files of them that were read.
    pub read: u64,
    /// The number, from 0, behind the furthest file that was read.
    pub position: u64,
    /// The number behind the last file that was asked for.
    pub ahead: u64,
    /// Bytes of paths that are taken now, for paths of usual length.
    pub room: u64,
}

impl Announced {
    /// An empty list that may take `most` bytes.
    pub fn new(most: usize) -> Announced {
        let (places, numbers) = (VecDeque::new(), HashMap::new());
        Announced { places, first: 0, numbers, asked: 0, reached: 0, read: 0, window: FIRST, cost: 0, most }
    }

    /// `path` comes next. False where there is no room until more is read.
    pub fn push(&mut self, path: Path) -> bool {
        let cost = cost(&path);
        if self.cost + cost > self.most {
            return false;
        }
        self.cost += cost;
        let number = self.first + self.places.len() as u64;
        self.numbers.entry(path.clone()).or_default().push_back(number);
        self.places.push_back(Place { path, read: false });
        true
    }

    /// A file is read, ahead of which it had been fetched as far as `found`. Says what was passed over by now; `None`
    /// for a file that was not announced, or that is read more often than it was.
    pub fn read(&mut self, path: &Path, found: Ahead) -> Option<Vec<Path>> {
        let numbers = self.numbers.get_mut(path)?;
        let number = numbers.pop_front()?;
        if numbers.is_empty() {
            self.numbers.remove(path);
        }
        let place = usize::try_from(number - self.first).ok().and_then(|at| self.places.get_mut(at));
        if let Some(place) = place {
            place.read = true;
        }
        self.read += 1;
        if found != Ahead::There {
            self.window = (self.window * 2).min(MOST);
        }
        self.reached = self.reached.max(number + 1);
        let mut passed = Vec::new();
        while let Some(place) = self.places.front()
            && (place.read || self.first + SLACK < self.reached)
        {
            let number = self.first;
            self.first += 1;
            self.cost -= cost(&place.path);
            let Some(place) = self.places.pop_front() else { break };
            if !place.read {
                self.forget(&place.path, number);
                passed.push(place.path);
            }
        }
        Some(passed)
    }

    /// So many of the files passed over had been fetched for nothing.
    pub fn wasted(&mut self, files: usize) {
        self.window = self.window.saturating_sub(files).max(FIRST);
    }

    /// What is to be fetched now, in this order.
    pub fn due(&mut self) -> Vec<Path> {
        let end = (self.first + self.places.len() as u64).min(self.reached + self.window as u64);
        let from = self.asked.max(self.first);
        self.asked = self.asked.max(end);
        let unread = |number: u64| {
            let place = usize::try_from(number - self.first).ok().and_then(|at| self.places.get(at));
            place.filter(|place| !place.read).map(|place| place.path.clone())
        };
        (from..end).filter_map(unread).collect()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            announced: self.first + self.places.len() as u64,
            read: self.read,
            position: self.reached,
            ahead: self.asked,
            room: ((self.most - self.cost) / 2) as u64,
        }
    }

    fn forget(&mut self, path: &Path, number: u64) {
        if let Some(numbers) = self.numbers.get_mut(path) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.numbers.remove(path);
            }
        }
    }
}

fn cost(path: &Path) -> usize {
    // Once in its place, once as a key.
    2 * path.as_bytes().len() + PLACE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> Path {
        Path::parse(&format!("d/{number}")).unwrap()
    }

    fn list(numbers: impl IntoIterator<Item = usize>) -> Announced {
        let mut list = Announced::new(1 << 20);
        assert!(numbers.into_iter().all(|number| list.push(path(number))));
        list
    }

    #[test]
    fn each_is_fetched_once_and_in_order() {
        let mut list = list(0..1000);
        let mut fetched = list.due();
        for number in 0..1000 {
            assert!(fetched.contains(&path(number)));
            assert_eq!(list.read(&path(number), Ahead::There), Some(Vec::new()));
            fetched.extend(list.due());
            assert_eq!(fetched.len(), (number + 1 + FIRST).min(1000));
        }
        assert_eq!(fetched, (0..1000).map(path).collect::<Vec<_>>());
        let progress = list.progress();
        assert_eq!((progress.announced, progress.read, progress.position, progress.ahead), (1000, 1000, 1000, 1000));
        assert_eq!((list.cost, list.places.len(), list.numbers.len()), (0, 0, 0));
    }

    #[test]
    fn a_reader_who_waits_is_run_further_ahead_of_and_waste_slows() {
        let mut list = list(0..2000);
        assert_eq!(list.due().len(), FIRST);
        list.read(&path(0), Ahead::Coming);
        assert_eq!(list.due().len(), FIRST + 1);
        for number in 1..10 {
            list.read(&path(number), Ahead::Coming);
        }
        assert_eq!(list.window, MOST);
        list.wasted(MOST - FIRST - 5);
        assert_eq!(list.window, FIRST + 5);
        list.wasted(1000);
        assert_eq!(list.window, FIRST);
    }

    #[test]
    fn who_comes_late_is_waited_for_and_who_never_comes_is_passed_over() {
        let mut list = list(0..2000);
        for number in 0..1000 {
            // Every tenth belongs to a slow reader.
            if number % 10 != 3 {
                let passed = list.read(&path(number), Ahead::There).unwrap();
                assert!(passed.iter().all(|passed| (0..=number - SLACK as usize).any(|old| *passed == path(old))));
            }
        }
        assert_eq!(list.read(&path(993), Ahead::There), Some(Vec::new()));
        assert_eq!(list.read(&path(3), Ahead::There), None, "passed over long ago");
        assert!(list.places.len() as u64 <= 1000 + SLACK + 1);
    }

    #[test]
    fn a_file_may_come_again() {
        let mut list = list([1, 2, 1, 1, 3]);
        assert_eq!(list.due().len(), 5);
        for number in [1, 1, 2, 1] {
            assert!(list.read(&path(number), Ahead::There).is_some(), "{number}");
        }
        assert_eq!(list.read(&path(1), Ahead::There), None);
        assert_eq!(list.progress().position, 4);
        assert_eq!(list.read(&path(9), Ahead::There), None);
    }

    #[test]
    fn it_takes_no_more_than_it_may_and_goes_on_when_some_is_read() {
        let mut list = Announced::new(10 * (PLACE + 8));
        let taken = (10..30).take_while(|number| list.push(path(*number))).count();
        assert_eq!((taken, list.progress().room), (10, 0));
        list.read(&path(10), Ahead::There);
        assert!(list.push(path(30)) && !list.push(path(31)));
    }
}
