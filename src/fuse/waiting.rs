//! Requests that wait for the store, and who waits for them: so that a caller who is being killed can be let go.
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, after which the kernel sends none any more and a killed caller waits out
//! his request (fs/fuse/dev.c, `request_wait_answer`). Whether a caller is being killed is for the node plugin to say,
//! who sees his process; here stands only whom to ask for, and the way to let him go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

/// How often it is looked who waits, where somebody does.
const PULSE: Duration = Duration::from_millis(250);

/// Who is let go may have held a directory's lock, and its next holder be killed already: for so long after, everybody
/// who waits is asked for, at the pace of `HURRY`.
const AFTERMATH: Duration = Duration::from_secs(2);
const HURRY: Duration = Duration::from_millis(20);

/// All waiting requests of a connection. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Room>);

#[derive(Debug, Default)]
struct Room {
    seats: Mutex<Seats>,
    /// Told when the first sits down.
    entered: Notify,
}

#[derive(Debug, Default)]
struct Seats {
    taken: HashMap<u64, Waiter>,
    last: u64,
    /// When somebody was let go.
    let_go: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    /// A thread's id in the mounter's pid namespace.
    caller: u32,
    since: Instant,
    let_go: oneshot::Sender<()>,
}

/// A request that waits until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    waiting: Waiting,
    number: u64,
    released: oneshot::Receiver<()>,
}

impl Waiting {
    /// A request of `caller` begins to wait. 0 is a caller whom the mounter cannot see.
    pub(super) fn sit(&self, caller: u32) -> Seat {
        let (let_go, released) = oneshot::channel();
        let mut seats = self.seats();
        seats.last += 1;
        let number = seats.last;
        seats.taken.insert(number, Waiter { caller, since: Instant::now(), let_go });
        if seats.taken.len() == 1 {
            self.0.entered.notify_one();
        }
        Seat { waiting: self.clone(), number, released }
    }

    /// Who has waited for so long, each once, at most `most` of them; as soon as there is anybody.
    pub(super) async fn long(&self, patience: Duration, most: usize) -> Vec<u32> {
        loop {
            while self.seats().taken.is_empty() {
                self.0.entered.notified().await;
            }
            let hurried = self.seats().let_go.is_some_and(|at| at.elapsed() < AFTERMATH);
            let (pulse, patience) = if hurried { (HURRY, Duration::ZERO) } else { (PULSE, patience) };
            tokio::time::sleep(pulse).await;
            let callers = self.callers(patience, most);
            if !callers.is_empty() {
                return callers;
            }
        }
    }

    fn callers(&self, patience: Duration, most: usize) -> Vec<u32> {
        let seats = self.seats();
        let late = seats.taken.values().filter(|waiter| waiter.caller != 0 && waiter.since.elapsed() >= patience);
        let mut callers: Vec<u32> = late.map(|waiter| waiter.caller).collect();
        callers.sort_unstable();
        callers.dedup();
        callers.truncate(most);
        callers
    }

    /// Lets go every request of these callers.
    pub(super) fn let_go(&self, callers: &[u32]) {
        let mut seats = self.seats();
        seats.let_go = Some(Instant::now());
        let leaving = seats.taken.extract_if(|_, waiter| callers.contains(&waiter.caller));
        for (_, waiter) in leaving {
            // Answered meanwhile where nobody listens.
            let _ = waiter.let_go.send(());
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Resolves when its caller is let go, which need never happen.
    pub(super) async fn released(&mut self) {
        if (&mut self.released).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.waiting.seats().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn only_who_waits_long_is_asked_for_and_only_who_is_killed_is_let_go() {
        let waiting = Waiting::default();
        let mut seats: Vec<Seat> = [7, 8, 7, 0].map(|caller| waiting.sit(caller)).into();
        assert!(waiting.callers(Duration::from_secs(3600), 10).is_empty());
        assert_eq!(waiting.callers(Duration::ZERO, 10), [7, 8]);
        assert_eq!(waiting.callers(Duration::ZERO, 1), [7]);
        waiting.let_go(&[7, 99]);
        let released: Vec<bool> = seats.iter_mut().map(|seat| seat.released().now_or_never().is_some()).collect();
        assert_eq!(released, [true, false, true, false]);
        assert_eq!(waiting.callers(Duration::ZERO, 10), [8]);
        seats.clear();
        assert!(waiting.callers(Duration::ZERO, 10).is_empty());
    }
}
