//! Whether files are read whole, told from what became of the last ones of their kind: those of one folder whose names end
//! alike. The first read of another one may then be run ahead of as if it had gone on for long.
//!
//! Pure: no clock, no store.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::series;
use crate::backend::Path;

/// Kinds that are remembered.
const MOST: usize = 256;
/// One that is left early is undone by as many that are not, and one more.
const DOUBT: i8 = 2;
/// More of the same tells no more.
const CERTAIN: i8 = 4;
/// Files read whole that are remembered of a kind, the last ones: several readers may each go through a series.
const RECENT: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Habits {
    known: HashMap<u64, Habit>,
    files: u64,
}

#[derive(Debug, Default)]
struct Habit {
    /// Above zero where files of the kind are read whole.
    score: i8,
    /// Files of it that are believed to be read whole, and of which nobody has shown more than a first read.
    open: i8,
    /// How far ahead of the last one it was right to be, in bytes.
    reach: u64,
    recent: Vec<Path>,
    /// When a file of it was read last, counted in files.
    last: u64,
}

impl Habits {
    /// How far ahead of the first read of the file at `path` to be, until it is [`Habits::decided`] whether that was right;
    /// `None` where it has to show first that it goes on. No more files are believed at once than the score says: of many
    /// that stay open, with a header read of each, all would be fetched.
    pub(super) fn believe(&mut self, path: &Path) -> Option<u64> {
        let habit = self.known.get_mut(&kind(path)).filter(|habit| habit.score > habit.open)?;
        habit.open += 1;
        Some(habit.reach)
    }

    /// The reader of the file at `path`, who was believed, went on, or left.
    pub(super) fn decided(&mut self, path: &Path) {
        if let Some(habit) = self.known.get_mut(&kind(path)) {
            habit.open = (habit.open - 1).max(0);
        }
    }

    /// The file at `path` was read in order to its end, and at last run ahead of by `reach` bytes.
    pub(super) fn read_whole(&mut self, path: &Path, reach: u64) {
        let habit = self.habit(path);
        habit.score = (habit.score + 1).min(CERTAIN);
        habit.reach = reach;
        if habit.recent.len() == RECENT {
            habit.recent.remove(0);
        }
        habit.recent.push(path.clone());
    }

    /// What is read behind the file at `path`, and how far ahead of it to be, where that and the two files before it count,
    /// and those were read whole one after the other: of an order that nobody knows two follow each other by chance, and
    /// three hardly. Where at least half of the last ones do not follow one that was read before, it is such an order.
    pub(super) fn next(&self, path: &Path) -> Option<(Path, u64)> {
        let habit = self.known.get(&kind(path)).filter(|habit| habit.score > 0)?;
        let recent = &habit.recent;
        let before = |path: &Path, among: &[Path]| {
            among.iter().enumerate().rev().find_map(|(at, before)| Some((at, series::after(before, path)?)))
        };
        let (at, next) = before(path, recent)?;
        let follows = |at: usize| before(&recent[at], &recent[..at]).is_some();
        let following = (0..recent.len()).filter(|at| follows(*at)).count();
        (follows(at) && 2 * following >= recent.len() && !recent.contains(&next)).then_some((next, habit.reach))
    }

    /// The file at `path` was read, and left before its end.
    pub(super) fn left_early(&mut self, path: &Path) {
        self.habit(path).score = -DOUBT;
    }

    fn habit(&mut self, path: &Path) -> &mut Habit {
        self.files += 1;
        let kind = kind(path);
        if self.known.len() >= MOST
            && !self.known.contains_key(&kind)
            && let Some(oldest) = self.known.iter().min_by_key(|(_, habit)| habit.last).map(|(kind, _)| *kind)
        {
            self.known.remove(&oldest);
        }
        let habit = self.known.entry(kind).or_default();
        habit.last = self.files;
        habit
    }
}

/// A folder, and how names end.
fn kind(path: &Path) -> u64 {
    let path = path.as_bytes();
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let end = path.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > name).map_or(path.len(), |dot| dot);
    let mut hasher = DefaultHasher::new();
    (&path[..name], &path[end..]).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Path {
        Path::parse(path).unwrap()
    }

    #[test]
    fn files_are_of_a_kind_by_their_folder_and_the_end_of_their_name() {
        let mut habits = Habits::default();
        habits.read_whole(&path("set.d/a.tar"), 5);
        for (other, reach) in [
            ("set.d/b.tar", Some(5)),
            ("set.d/b.idx", None),
            ("set.d/b", None),
            ("set.d/more/b.tar", None),
            ("b.tar", None),
            ("set.d/.tar", None),
        ] {
            assert_eq!(habits.believe(&path(other)), reach, "{other}");
            habits.decided(&path(other));
        }
    }

    #[test]
    fn one_that_is_left_early_undoes_it_for_a_while() {
        let mut habits = Habits::default();
        let file = path("d/f");
        // Whether each was read whole, and what is believed of the next.
        for (whole, believed) in [
            (true, true),
            (true, true),
            (true, true),
            (false, false),
            (true, false),
            (true, false),
            (true, true),
            (false, false),
            (false, false),
            (true, false),
        ] {
            if whole {
                habits.read_whole(&file, 7);
            } else {
                habits.left_early(&file);
            }
            assert_eq!(habits.believe(&file).is_some(), believed);
            habits.decided(&file);
        }
    }

    #[test]
    fn as_many_are_believed_at_once_as_were_read_whole() {
        let mut habits = Habits::default();
        let file = path("d/f");
        for most in [1, 2, 3, 4, 4] {
            habits.read_whole(&file, 7);
            assert_eq!((0..9).filter(|_| habits.believe(&file).is_some()).count(), most);
            (0..most).for_each(|_| habits.decided(&file));
        }
    }

    #[test]
    fn the_next_of_a_series_is_known_behind_three_that_count() {
        // What was read whole, what is read, and what comes next.
        for (whole, file, next) in [
            (&["f-1", "f-2"][..], "f-3", Some("f-4")),
            (&["f-1", "g-1", "f-2", "g-2"], "f-3", Some("f-4")),
            (&["f-2"], "f-3", None),
            (&["f-2", "f-1"], "f-3", None),
            (&["f-4", "f-1", "f-2"], "f-3", None),
            (&["f-1", "f-2"], "f-4", None),
            // Of few files in any order three follow each other sooner or later.
            (&["f-9", "f-1", "f-2"], "f-3", None),
            (&["f-9", "f-6", "f-1", "f-7", "f-2"], "f-3", None),
            (&["f-9", "f-1", "f-2", "f-3"], "f-4", Some("f-5")),
        ] {
            let mut habits = Habits::default();
            whole.iter().for_each(|file| habits.read_whole(&path(file), 9));
            assert_eq!(habits.next(&path(file)), next.map(|next| (path(next), 9)), "{whole:?} {file}");
        }
        let mut habits = Habits::default();
        for file in ["f-1", "f-2"] {
            habits.read_whole(&path(file), 9);
        }
        habits.left_early(&path("f-9"));
        assert_eq!(habits.next(&path("f-3")), None);
    }

    #[test]
    fn few_kinds_are_remembered_the_last_ones() {
        let mut habits = Habits::default();
        for number in 0..2 * MOST {
            habits.read_whole(&path(&format!("{number}/f")), 1);
            assert!(habits.known.len() <= MOST);
        }
        let last = path(&format!("{}/f", 2 * MOST - 1));
        assert!(habits.believe(&path("0/f")).is_none() && habits.believe(&last).is_some());
    }
}
