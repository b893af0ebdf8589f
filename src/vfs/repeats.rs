//! What fails in the same way again and again is told whole once, and then counted: of a store that is away thousands of
//! reads a second fail, and who looks for the reason would find nothing else in the log.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of one kind.
const SPAN: Duration = Duration::from_secs(5);

/// Counts what repeats itself, by kind.
pub(crate) struct Repeats<K> {
    runs: Mutex<HashMap<K, Run>>,
    /// Tells how many of a kind were counted.
    tell: fn(K, u64),
}

impl<K> Debug for Repeats<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeats").finish_non_exhaustive()
    }
}

impl<K: Copy + Eq + Hash + Send + 'static> Repeats<K> {
    pub(crate) fn new(tell: fn(K, u64)) -> Repeats<K> {
        Repeats { runs: Mutex::default(), tell }
    }

    /// Whether one more of this kind is to be told whole. Otherwise it is counted, and the count told within the span; where
    /// no runtime is, with the next one that is told whole.
    pub(crate) fn is_news(&'static self, kind: K) -> bool {
        match self.run(kind, |run| run.one_more(Instant::now())) {
            Turn::Whole { untold } => {
                self.tell(kind, untold);
                true
            }
            Turn::Counted { wait } => {
                if let (Some(wait), Ok(runtime)) = (wait, tokio::runtime::Handle::try_current()) {
                    runtime.spawn(async move {
                        tokio::time::sleep(wait).await;
                        self.tell(kind, self.run(kind, |run| run.close(Instant::now())));
                    });
                }
                false
            }
        }
    }

    fn run<T>(&self, kind: K, act: impl FnOnce(&mut Run) -> T) -> T {
        act(self.runs.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default())
    }

    fn tell(&self, kind: K, untold: u64) {
        if untold > 0 {
            (self.tell)(kind, untold);
        }
    }
}

/// One kind's.
#[derive(Debug, Default)]
struct Run {
    /// Whatever comes before is only counted.
    until: Option<Instant>,
    /// How many were counted and not told.
    untold: u64,
}

#[derive(Debug, PartialEq)]
enum Turn {
    /// It is told whole, and before it that so many were not.
    Whole { untold: u64 },
    /// It is counted. Who counts the first one closes the span, after so long.
    Counted { wait: Option<Duration> },
}

impl Run {
    fn one_more(&mut self, now: Instant) -> Turn {
        match self.until {
            Some(until) if now < until => {
                self.untold += 1;
                Turn::Counted { wait: (self.untold == 1).then(|| until - now) }
            }
            _ => {
                self.until = Some(now + SPAN);
                Turn::Whole { untold: std::mem::take(&mut self.untold) }
            }
        }
    }

    /// How many were counted and are told now. Where there were any it goes on, so that those of the next span are counted.
    fn close(&mut self, now: Instant) -> u64 {
        if self.untold > 0 {
            self.until = Some(now + SPAN);
        }
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn the_first_is_told_whole_and_the_rest_as_a_count_a_span() {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let (mut run, whole) = (Run::default(), |untold| Turn::Whole { untold });
        let counted = |millis: Option<u64>| Turn::Counted { wait: millis.map(Duration::from_millis) };
        assert_eq!(run.one_more(at(0)), whole(0));
        assert_eq!(run.one_more(at(1_000)), counted(Some(4_000)));
        assert_eq!((run.one_more(at(1_001)), run.one_more(at(4_999))), (counted(None), counted(None)));
        assert_eq!(run.close(at(5_000)), 3);
        // It goes on, and only the count is told.
        assert_eq!(run.one_more(at(5_001)), counted(Some(4_999)));
        assert_eq!(run.close(at(10_000)), 1);
        // Nothing for a whole span: the next one is news.
        assert_eq!(run.one_more(at(15_000)), whole(0));
        // Nobody closed the span: what was counted is told before.
        assert_eq!(run.one_more(at(15_001)), counted(Some(4_999)));
        assert_eq!(run.one_more(at(20_000)), whole(1));
        assert_eq!(run.close(at(20_001)), 0);
        assert_eq!(run.one_more(at(25_000)), whole(0));
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_are_counted_apart_and_told_when_their_span_is_over() {
        static TOLD: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
        static REPEATS: LazyLock<Repeats<usize>> = LazyLock::new(|| {
            Repeats::new(|kind: usize, untold| {
                TOLD[kind].fetch_add(untold, Ordering::Relaxed);
            })
        });
        assert!(REPEATS.is_news(0) && REPEATS.is_news(1));
        assert!((0..1000).all(|_| !REPEATS.is_news(0)) && !REPEATS.is_news(1));
        let told = || [&TOLD[0], &TOLD[1]].map(|told| told.load(Ordering::Relaxed));
        assert_eq!(told(), [0, 0]);
        tokio::time::sleep(2 * SPAN).await;
        assert_eq!(told(), [1000, 1]);
    }
}
