//! The worker's one byte budget.
//!
//! Every buffer that can grow with the load (read-ahead, bodies in flight, upload parts) is paid for here, so that a
//! worker's memory has a bound. [`Budget::acquire`] waits, [`Budget::try_acquire`] does not; a [`Lease`] gives back
//! what it holds when dropped. A request larger than the whole budget is granted when nothing else is held, so that
//! nobody waits for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this many: a semaphore of tokio holds at most 2^61 permits, a permit a request at
/// most 2^32.
const UNIT: u64 = 1024;

/// A shared count of bytes. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// A budget of `bytes`, rounded up to a KiB; at most 4 TiB.
    pub fn new(bytes: u64) -> Budget {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        Budget { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits, in turn, until `bytes` are free.
    pub async fn acquire(&self, bytes: u64) -> Lease {
        match self.units.clone().acquire_many_owned(self.units_of(bytes)).await {
            Ok(permit) => Lease { permit: Some(permit) },
            // The semaphore is never closed.
            Err(_) => Lease { permit: None },
        }
    }

    /// Takes `bytes` if they are free now and nobody waits for more.
    pub fn try_acquire(&self, bytes: u64) -> Option<Lease> {
        let permit = self.units.clone().try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Lease { permit: Some(permit) })
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// Bytes not held by anybody.
    pub fn free(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total)
    }
}

/// Bytes held from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Takes `bytes`, or what there is, out as a lease of their own.
    pub fn split(&mut self, bytes: u64) -> Lease {
        let units = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        let permit = self.permit.as_mut().and_then(|permit| permit.split(units.min(permit.num_permits())));
        Lease { permit }
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let Some(permit) = &mut self.permit else { return };
        let keep = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        if keep < permit.num_permits() {
            let surplus = permit.num_permits() - keep;
            drop(permit.split(surplus));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_is_free_again() {
        let budget = Budget::new(8 * UNIT);
        let mut lease = budget.acquire(6 * UNIT).await;
        assert_eq!(budget.free(), 2 * UNIT);
        assert!(budget.try_acquire(3 * UNIT).is_none());
        lease.shrink(2 * UNIT);
        assert_eq!(budget.free(), 6 * UNIT);
        drop(lease);
        assert_eq!(budget.free(), budget.total());
    }

    #[tokio::test]
    async fn more_than_all_is_granted_alone() {
        let budget = Budget::new(4 * UNIT);
        let lease = budget.acquire(100 * UNIT).await;
        assert_eq!(budget.free(), 0);
        drop(lease);
        assert_eq!(budget.free(), 4 * UNIT);
    }
}
