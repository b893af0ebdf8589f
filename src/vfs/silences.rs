//! Names of which the store has just not answered until the deadline. The kernel looks a name up that it knew, and when that
//! fails looks it up again as one that it does not know (`fuse_dentry_revalidate`, then `fuse_lookup`, Linux 6.18): whoever
//! opens it would wait twice.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Path;

/// The second look comes within so long. A program that tries again so soon is told the same once more.
const FRESH: Duration = Duration::from_millis(20);
/// What fails sooner costs little to ask again.
const LONG: Duration = Duration::from_secs(1);
/// Programs that wait at once.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Silences(Mutex<VecDeque<(Path, Instant)>>);

impl Silences {
    /// A look at `path` that was asked at `asked` failed now.
    pub(super) fn note(&self, path: &Path, asked: Instant) {
        if asked.elapsed() < LONG {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, since)| since.elapsed() < FRESH);
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((path.clone(), Instant::now()));
    }

    /// Whether that was so of `path` just now. It counts once for each that waited.
    pub(super) fn take(&self, path: &Path) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, since)| since.elapsed() < FRESH);
        let found = known.iter().position(|(known, _)| known == path);
        found.is_some_and(|at| known.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_counts_once_for_each_that_waited_and_for_a_moment() {
        let (silences, path) = (Silences::default(), |text: &str| Path::parse(text).unwrap());
        let asked = Instant::now();
        silences.note(&path("soon"), asked);
        assert!(!silences.take(&path("soon")));
        tokio::time::sleep(LONG).await;
        for name in ["a", "a", "b", "c"] {
            silences.note(&path(name), asked);
        }
        let taken = ["a", "a", "a", "b", "b", "d"].map(|name| silences.take(&path(name)));
        assert_eq!(taken, [true, true, false, true, false, false]);
        tokio::time::sleep(FRESH).await;
        assert!(!silences.take(&path("c")));
    }
}
