//! Whose bytes are answered: what was read as one principal is never told once another is in force.
//!
//! A reign has a number. Whoever answers with what the store gave takes the number before it asks, and holds the reign
//! while it tells the answer; where another has begun meanwhile it throws the answer away and asks anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// The principals of a mount, one after the other.
#[derive(Debug, Default)]
pub(super) struct Reign {
    number: AtomicU64,
    telling: Arc<RwLock<()>>,
}

/// While this lives the reign lasts: for the moment in which an answer is told.
#[derive(Debug)]
pub(super) struct Held {
    _telling: OwnedRwLockReadGuard<()>,
}

impl Reign {
    /// Another one after each change.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Holds the reign `number`; `None` where it is over.
    pub(super) async fn hold(&self, number: u64) -> Option<Held> {
        let telling = self.telling.clone().read_owned().await;
        (self.number() == number).then_some(Held { _telling: telling })
    }

    /// Ends the reign while nobody tells an answer; `change` is what puts the next principal in force.
    pub(super) async fn end(&self, change: impl FnOnce()) {
        let _nobody_tells = self.telling.write().await;
        change();
        self.number.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_reign_ends_while_an_answer_is_told() {
        let reign = Reign::default();
        let first = reign.number();
        let held = reign.hold(first).await.unwrap();
        let mut ending = Box::pin(reign.end(|| {}));
        assert!(ending.as_mut().now_or_never().is_none());
        assert_eq!(reign.number(), first);
        drop(held);
        ending.await;
        assert!(reign.hold(first).await.is_none());
        assert!(reign.hold(reign.number()).await.is_some());
    }
}
