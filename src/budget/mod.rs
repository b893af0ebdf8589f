//! The worker's one byte budget.
//!
//! Every buffer that can grow with the load (read-ahead, bodies in flight, upload parts) is paid for here, so that a
//! worker's memory has a bound. [`Budget::acquire`] waits, [`Budget::try_acquire`] does not; a [`Lease`] gives back
//! what it holds when dropped. A request larger than the whole budget is granted when nothing else is held, and who
//! holds what nobody waits for is asked to give way ([`Spare`]), so that nobody waits for ever.

//!
//! A model test (`tests/budget.rs`) puts the same code under a scheduler that looks for an order of events in which
//! somebody waits for ever or bytes are lost.

mod account;
#[cfg(test)]
mod tests;

pub use account::{Budget, Lease, Spare};

/// What the model test replaces by its own.
mod clockwork {
    pub(super) use std::sync::Mutex;

    pub(super) use tokio::time::timeout;
}
