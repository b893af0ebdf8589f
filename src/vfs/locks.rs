//! One change of a name at a time.
//!
//! The kernel orders calls in one directory, but a call that passed its deadline was answered and goes on: what
//! follows on the same name waits for it here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::backend::Path;

type Held = Arc<Mutex<HashMap<Path, Arc<AsyncMutex<()>>>>>;

/// The names that are being changed.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: Held,
}

impl Locks {
    /// Waits until nobody else changes `path`.
    pub(super) async fn lock(&self, path: &Path) -> Locked {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.entry(path.clone()).or_default().clone()
        };
        // Made before the wait, so that a wait that is given up cleans up as well.
        let mut locked = Locked { held: self.held.clone(), path: path.clone(), guard: None };
        locked.guard = Some(lock.lock_owned().await);
        locked
    }

    /// Both, in an order that is the same for everybody.
    pub(super) async fn lock_both(&self, one: &Path, other: &Path) -> (Locked, Locked) {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let first = self.lock(first).await;
        (first, self.lock(second).await)
    }
}

/// A name that nobody else changes until this is dropped.
#[derive(Debug)]
pub(super) struct Locked {
    held: Held,
    path: Path,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // The table's own reference, and nobody's who holds or waits.
        if held.get(&self.path).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            held.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let locks = Locks::default();
        let (a, b) = (Path::parse("a").unwrap(), Path::parse("b").unwrap());
        let first = locks.lock(&a).await;
        assert!(locks.lock(&a).now_or_never().is_none());
        let other = locks.lock(&b).now_or_never().unwrap();
        drop(first);
        drop(other);
        drop(locks.lock_both(&b, &a).now_or_never().unwrap());
        assert!(locks.held.lock().unwrap().is_empty());
    }
}
