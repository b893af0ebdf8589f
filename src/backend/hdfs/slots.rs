//! How many blocks a mount reads at once: the library gives each read a connection of its own, and so would as many as are
//! asked for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::Intent;
use crate::backend::turns::Turns;

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    turns: Turns,
    connections: Arc<Semaphore>,
}

/// A place in line for one body: only a guess has to have one.
#[derive(Debug)]
pub(super) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
}

/// A connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(connections: u32) -> Slots {
        let connections = connections.max(1) as usize;
        Slots { turns: Turns::new(connections), connections: Arc::new(Semaphore::new(connections)) }
    }

    /// Waits until a read for that reason may begin.
    pub(super) async fn turn(&self, why: Intent) -> Turn {
        match why {
            Intent::Demand => {
                self.turns.waits();
                Turn { _place: None }
            }
            Intent::Ahead => Turn { _place: self.turns.guess().await },
        }
    }

    /// Waits for a free connection.
    pub(super) async fn connection(&self) -> Slot {
        // It is never closed.
        Slot { _permit: self.connections.clone().acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[tokio::test(start_paused = true)]
    async fn a_guess_leaves_a_connection_to_who_waits() {
        let slots = Slots::new(2);
        // He waits again and again.
        for _ in 0..5 {
            slots.turn(Intent::Demand).await;
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        let guess = slots.turn(Intent::Ahead).now_or_never();
        assert!(guess.is_some() && slots.turn(Intent::Ahead).now_or_never().is_none());
        assert!(slots.turn(Intent::Demand).now_or_never().is_some());
    }
}
