//! Whose turn it is where connections are few: guessed reads leave some of them to reads that somebody waits for, and take
//! those too where nobody has waited for a while.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Whoever waits comes again within that time, if he is not run ahead of.
const QUIET: Duration = Duration::from_millis(300);
/// One in so many connections is left to those who wait.
const LEFT: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    guesses: Arc<Semaphore>,
    left: Arc<Semaphore>,
    /// When somebody waited last.
    waited: Mutex<Option<Instant>>,
}

impl Turns {
    /// For a client with so many connections.
    pub(super) fn new(connections: usize) -> Turns {
        let connections = connections.max(1);
        let guesses = (connections - connections / LEFT).clamp(1, connections.max(2) - 1);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Turns { guesses: semaphore(guesses), left: semaphore(connections - guesses), waited: Mutex::default() }
    }

    /// Somebody waits for a read.
    pub(super) fn waits(&self) {
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits until a guess may go. It is another's turn when this is dropped.
    pub(super) async fn guess(&self) -> Option<OwnedSemaphorePermit> {
        // Who waits here keeps his place.
        let mut turn = pin!(self.guesses.clone().acquire_owned());
        loop {
            let waited = *self.waited.lock().unwrap_or_else(PoisonError::into_inner);
            let free_from = waited.map(|waited| waited + QUIET).filter(|from| *from > Instant::now());
            // Neither is ever closed.
            tokio::select! {
                biased;
                turn = &mut turn => return turn.ok(),
                turn = self.left.clone().acquire_owned(), if free_from.is_none() => return turn.ok(),
                () = tokio::time::sleep_until(free_from.unwrap_or_else(Instant::now)), if free_from.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn all(turns: &Turns) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| turns.guess().now_or_never().flatten()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_take_what_is_left_to_nobody() {
        for (connections, guesses) in [(1, 1), (2, 1), (8, 7), (64, 56)] {
            let turns = Turns::new(connections);
            assert_eq!(all(&turns).len(), connections);
            turns.waits();
            assert_eq!(all(&turns).len(), guesses, "{connections}");
            tokio::time::advance(QUIET).await;
            assert_eq!(all(&turns).len(), connections);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guess_that_was_held_back_goes_when_nobody_waits_any_more() {
        let turns = Turns::new(8);
        turns.waits();
        let taken = all(&turns);
        let begun = Instant::now();
        let last = turns.guess().await;
        assert!(last.is_some() && begun.elapsed() >= QUIET && begun.elapsed() < 2 * QUIET);
        assert!(turns.guess().now_or_never().is_none());
        drop(taken);
        assert!(turns.guess().now_or_never().is_some());
    }
}
