//! What the store has just not answered until the deadline. The kernel asks twice, and whoever opens or reads would wait
//! twice: a name that it knew is looked up again as one that it does not know (`fuse_dentry_revalidate`, then `fuse_lookup`,
//! Linux 6.18), and a page that did not come by read-ahead is read alone (`filemap_get_pages`).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The second question comes within so long. A program that tries again so soon is told the same once more.
const FRESH: Duration = Duration::from_millis(20);
/// What fails sooner costs little to ask again.
const LONG: Duration = Duration::from_secs(1);
/// Programs that wait at once.
const MOST: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Silences<T>(Mutex<VecDeque<(T, Instant)>>);

impl<T> Default for Silences<T> {
    fn default() -> Silences<T> {
        Silences(Mutex::default())
    }
}

impl<T> Silences<T> {
    /// The question about `what` that was asked at `asked` failed now.
    pub(super) fn note(&self, what: T, asked: Instant) {
        if asked.elapsed() < LONG {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, since)| since.elapsed() < FRESH);
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((what, Instant::now()));
    }

    /// Whether that was so just now of what `is_it`. It counts once for each that waited.
    pub(super) fn take(&self, is_it: impl Fn(&T) -> bool) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, since)| since.elapsed() < FRESH);
        let found = known.iter().position(|(known, _)| is_it(known));
        found.is_some_and(|at| known.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_counts_once_for_each_that_waited_and_for_a_moment() {
        let silences = Silences::default();
        let asked = Instant::now();
        silences.note("soon", asked);
        assert!(!silences.take(|known| *known == "soon"));
        tokio::time::sleep(LONG).await;
        for text in ["a", "a", "b", "c"] {
            silences.note(text, asked);
        }
        let taken = ["a", "a", "a", "b", "b", "d"].map(|text| silences.take(|known| *known == text));
        assert_eq!(taken, [true, true, false, true, false, false]);
        tokio::time::sleep(FRESH).await;
        assert!(!silences.take(|known| *known == "c"));
    }
}
