//! Bandwidth: who has sent too much waits until the wire would have carried it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How late a sender may come back from its sleep and still be on time. A wire that was idle for longer saves nothing up.
const LATE: Duration = Duration::from_millis(10);

/// One wire.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits until the wire has carried what came before, and books `bytes` at `rate` bytes a second.
    pub(super) async fn carry(&self, bytes: u64, rate: Option<u64>) {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        let until = {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = free.filter(|free| *free + LATE >= now).unwrap_or(now);
            let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free = Some(end);
            end
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn carried(pace: &Pace) -> Duration {
        let begun = Instant::now();
        pace.carry(1000, Some(1000)).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn lateness_is_made_up_and_idleness_is_not() {
        let (pace, late) = (Pace::default(), Duration::from_millis(4));
        let second = Duration::from_secs(1);
        assert_eq!(carried(&pace).await, second);
        tokio::time::advance(late).await;
        assert_eq!(carried(&pace).await, second - late);
        tokio::time::advance(Duration::from_millis(15)).await;
        assert_eq!(carried(&pace).await, second);
    }
}
