//! Whose turn it is where connections are few: guessed reads leave some of them to reads that somebody waits for again and
//! again, and take those too where that is not so. Who waits once has the next connection that is free.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Who is not run ahead of waits so often within that time. Whoever begins with a file does so once, and a connection that
/// was kept for him would be idle until the next one comes.
const OFTEN: usize = 3;
const QUIET: Duration = Duration::from_millis(200);
/// Reads that the kernel sends together are waited for once.
const TOGETHER: Duration = Duration::from_millis(5);
/// One in so many connections is left to those who wait.
const LEFT: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    guesses: Arc<Semaphore>,
    left: Arc<Semaphore>,
    /// When somebody waited, the last times, the earliest first.
    waited: Mutex<VecDeque<Instant>>,
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
        let (mut waited, now) = (self.waited(), Instant::now());
        if waited.back().is_some_and(|last| now - *last < TOGETHER) {
            return;
        }
        if waited.len() == OFTEN {
            waited.pop_front();
        }
        waited.push_back(now);
    }

    /// Until when connections are kept for those who wait; `None` where they need not be.
    fn kept(&self) -> Option<Instant> {
        let waited = self.waited();
        let first = waited.front().filter(|_| waited.len() == OFTEN)?;
        Some(*first + QUIET).filter(|until| *until > Instant::now())
    }

    fn waited(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a guess may go. It is another's turn when this is dropped.
    pub(super) async fn guess(&self) -> Option<OwnedSemaphorePermit> {
        // Who waits here keeps his place.
        let mut turn = pin!(self.guesses.clone().acquire_owned());
        loop {
            let kept = self.kept();
            // Neither is ever closed.
            tokio::select! {
                biased;
                turn = &mut turn => return turn.ok(),
                turn = self.left.clone().acquire_owned(), if kept.is_none() => return turn.ok(),
                () = tokio::time::sleep_until(kept.unwrap_or_else(Instant::now)), if kept.is_some() => {}
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

    /// Somebody waits so many times, one after the other.
    async fn wait(turns: &Turns, times: usize) {
        for _ in 0..times {
            turns.waits();
            tokio::time::advance(TOGETHER).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_take_what_is_left_to_nobody() {
        for (connections, guesses) in [(1, 1), (2, 1), (8, 7), (64, 56)] {
            let turns = Turns::new(connections);
            assert_eq!(all(&turns).len(), connections);
            wait(&turns, OFTEN).await;
            assert_eq!(all(&turns).len(), guesses, "{connections}");
            tokio::time::advance(QUIET).await;
            assert_eq!(all(&turns).len(), connections);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_now_and_then_has_nothing_kept_for_him() {
        let turns = Turns::new(8);
        for _ in 0..20 {
            // As many at once as the kernel sends at the beginning of a file.
            (0..4).for_each(|_| turns.waits());
            assert_eq!(all(&turns).len(), 8);
            tokio::time::advance(QUIET / 2).await;
        }
        wait(&turns, OFTEN).await;
        assert_eq!(all(&turns).len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guess_that_was_held_back_goes_when_nobody_waits_any_more() {
        let turns = Turns::new(8);
        wait(&turns, OFTEN).await;
        let taken = all(&turns);
        let begun = Instant::now();
        let last = turns.guess().await;
        assert!(last.is_some() && begun.elapsed() > QUIET / 2 && begun.elapsed() < 2 * QUIET);
        assert!(turns.guess().now_or_never().is_none());
        drop(taken);
        assert!(turns.guess().now_or_never().is_some());
    }
}
