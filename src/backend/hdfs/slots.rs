//! How many blocks a mount reads at once: the library gives each read a connection of its own, and so would as many as are
//! asked for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::together::Together;
use crate::backend::turns::Turns;

/// See the module.
pub(super) struct Slots {
    turns: Turns,
    together: Together,
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Slots").field(&self.connections.available_permits()).finish()
    }
}

/// A connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(connections: u32) -> Slots {
        let connections = connections.max(1) as usize;
        let (turns, together) = (Turns::new(connections), Together::new(connections));
        Slots { turns, together, connections: Arc::new(Semaphore::new(connections)) }
    }

    /// Somebody waits for a read.
    pub(super) fn waits(&self) {
        self.turns.waits();
    }

    /// Waits until a guess may go. It is another's turn when this is dropped.
    pub(super) async fn guess(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.guess().await
    }

    /// Where the reads that somebody waits for become fewer.
    pub(super) fn together(&self) -> &Together {
        &self.together
    }

    /// Waits for a free connection.
    pub(super) async fn connection(&self) -> Slot {
        // It is never closed.
        Slot { _permit: self.connections.clone().acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn as_many_read_at_once_as_there_are_connections() {
        let slots = Slots::new(2);
        let first = slots.connection().now_or_never();
        let second = slots.connection().now_or_never();
        assert!(first.is_some() && second.is_some() && slots.connection().now_or_never().is_none());
        drop(first);
        assert!(slots.connection().now_or_never().is_some());
    }
}
