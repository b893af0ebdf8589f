//! What the store's file system has room for, told soon whether or not the store answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Vfs;
use crate::backend::Space;

/// How long an answer is believed, or that there was none.
const FRESH: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(5);

/// How long is waited for one.
const PATIENCE: Duration = Duration::from_millis(400);

/// What the store said last.
#[derive(Debug, Default)]
pub(super) struct Room {
    asking: tokio::sync::Mutex<()>,
    last: Mutex<Last>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Last {
    told: Option<Space>,
    /// When to ask again.
    again: Option<Instant>,
}

impl Room {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// What the store's file system holds and has room for; as it was last heard of, where the store does not answer soon.
    /// `None` where it has no bound, or never answered.
    pub async fn space(&self) -> Option<Space> {
        // Who waited for the answer that another one got takes that.
        let asking = timeout(PATIENCE, self.room.asking.lock()).await;
        let Last { told, again } = *self.room.last();
        if asking.is_err() || again.is_some_and(|again| Instant::now() < again) {
            return told;
        }
        let now = match timeout(PATIENCE, self.backend.space()).await {
            Ok(Ok(told)) => Last { told, again: Some(Instant::now() + FRESH) },
            outcome => {
                tracing::debug!(?outcome, "the store does not say what it has room for");
                Last { told, again: Some(Instant::now() + SILENT) }
            }
        };
        *self.room.last() = now;
        now.told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{ErrorKind, Op};
    use crate::budget::Budget;
    use crate::prefetch::{self, ReadAhead};
    use crate::vfs::Config;

    #[tokio::test(start_paused = true)]
    async fn what_was_last_heard_is_told_soon() {
        let memory = Memory::new();
        let space = Space { total: 100, free: 50, available: 40, files: 9, free_files: 3 };
        let store = Faulty::new(Arc::new(memory.clone()));
        let budget = Budget::new(32 << 20);
        let read_ahead =
            ReadAhead::new(Arc::new(store.clone()), budget.clone(), prefetch::Config::for_budget(32 << 20));
        let vfs = Vfs::new(Arc::new(store.clone()), read_ahead, budget, Config::default());
        assert_eq!(vfs.space().await, None);
        memory.set_space(space);
        tokio::time::sleep(FRESH).await;
        assert_eq!(vfs.space().await, Some(space));
        for fault in [Fault::Hang, Fault::Fail(ErrorKind::Unavailable)] {
            tokio::time::sleep(SILENT).await;
            store.every(Op::Space, 1, fault);
            let (begun, asked) = (Instant::now(), store.calls(Op::Space));
            let told = futures::future::join_all((0..10).map(|_| vfs.space())).await;
            assert!(told.iter().all(|told| *told == Some(space)) && begun.elapsed() < 2 * PATIENCE);
            assert_eq!((vfs.space().await, store.calls(Op::Space)), (Some(space), asked + 1));
            store.heal();
        }
    }
}
