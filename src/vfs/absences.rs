//! Names of which the store has just said that nothing lies there: the kernel looks a name up and then makes it, and the
//! second question would have the answer of the first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::changes::Ticket;
use crate::backend::Path;

/// The two requests of one open(2) come within so long. Whoever makes a name elsewhere meanwhile is met where the file is
/// put in the store: it goes there under the condition that nothing lies there.
const FRESH: Duration = Duration::from_millis(100);

/// Programs that make files at once.
const MOST: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<VecDeque<Absence>>);

#[derive(Debug)]
struct Absence {
    path: Path,
    since: Instant,
    asked: Ticket,
}

impl Absences {
    /// The store answered the question `asked` that nothing lies at `path`.
    pub(super) fn note(&self, path: &Path, asked: Ticket) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|absence| absence.since.elapsed() < FRESH && absence.path != *path);
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back(Absence { path: path.clone(), since: Instant::now(), asked });
    }

    /// Whether that was said of `path` just now, what is said may be believed for so long as `ttl`, and this mount changed
    /// nothing there since. It counts once.
    pub(super) fn take(&self, path: &Path, ttl: Duration) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|absence| absence.since.elapsed() < FRESH.min(ttl));
        let found = known.iter().position(|absence| absence.path == *path).and_then(|at| known.remove(at));
        found.is_some_and(|absence| absence.asked.changed(path).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::changes::{Changes, Outcome};

    #[tokio::test(start_paused = true)]
    async fn an_absence_counts_once_for_a_moment_and_until_a_change() {
        let (changes, absences) = (Changes::default(), Absences::default());
        let path = |text: &str| Path::parse(text).unwrap();
        let take = |text: &str| absences.take(&path(text), Duration::from_secs(1));
        absences.note(&path("a"), changes.ask());
        assert!(!take("b") && take("a") && !take("a"));
        absences.note(&path("a"), changes.ask());
        changes.record(&path("a"), Outcome::Uncertain);
        assert!(!take("a"));
        absences.note(&path("a"), changes.ask());
        tokio::time::advance(FRESH).await;
        assert!(!take("a"));
        for number in 0..2 * MOST {
            absences.note(&path(&number.to_string()), changes.ask());
        }
        assert!(!take("0") && take(&(2 * MOST - 1).to_string()));
        assert!(!absences.take(&path(&(2 * MOST - 2).to_string()), Duration::ZERO), "nothing is believed");
    }
}
