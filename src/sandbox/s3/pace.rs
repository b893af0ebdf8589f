//! Bandwidth: who has sent too much waits until the wire would have carried it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What a wire that was idle may carry at once; also makes up for sleeps that last too long.
const CREDIT: Duration = Duration::from_millis(10);

/// One wire.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits until the wire has carried what came before, and books `bytes` at `rate` bytes a second.
    pub(super) async fn carry(&self, bytes: u64, rate: Option<u64>) {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        let until = {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now() - CREDIT;
            let begin = free.map_or(earliest, |free| free.max(earliest));
            let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free = Some(end);
            end
        };
        sleep_until(until).await;
    }
}
