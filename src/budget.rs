//! The worker's one byte budget.
//!
//! Every buffer that can grow with the load (read-ahead, bodies in flight, upload parts) is paid for here, so that a
//! worker's memory has a bound. [`Budget::acquire`] waits, [`Budget::try_acquire`] does not; a [`Lease`] gives back
//! what it holds when dropped. A request larger than the whole budget is granted when nothing else is held, and who
//! holds what nobody waits for is asked to give way ([`Spare`]), so that nobody waits for ever.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes are counted in units of this many: a semaphore of tokio holds at most 2^61 permits, a permit a request at
/// most 2^32.
const UNIT: u64 = 1024;

/// How often those who could give way are asked while somebody waits.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Somebody who may hold bytes that nobody waits for, such as what was read ahead of a reader that went quiet.
pub trait Spare: Debug + Send + Sync {
    /// Gives back what it can do without; never waits.
    fn give_way(&self);
}

/// A shared count of bytes. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    spares: Arc<Mutex<Vec<Weak<dyn Spare>>>>,
}

impl Budget {
    /// A budget of `bytes`, rounded up to a KiB; at most 4 TiB.
    pub fn new(bytes: u64) -> Budget {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        Budget { units: Arc::new(Semaphore::new(total as usize)), total, spares: Arc::default() }
    }

    /// Waits, in turn, until `bytes` are free; asks every [`Spare`] to give way meanwhile.
    pub async fn acquire(&self, bytes: u64) -> Lease {
        let mut turn = pin!(self.units.clone().acquire_many_owned(self.units_of(bytes)));
        let mut patience = Duration::ZERO;
        loop {
            match timeout(patience, turn.as_mut()).await {
                // The semaphore is never closed, so there is a permit.
                Ok(permit) => return Lease { permit: permit.ok() },
                Err(_) => self.ask_spares(),
            }
            patience = ASK_AGAIN;
        }
    }

    /// From now on `spare` is asked to give way whenever somebody waits for bytes.
    pub fn lends_to(&self, spare: Weak<dyn Spare>) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|other| other.strong_count() > 0);
        spares.push(spare);
    }

    fn ask_spares(&self) {
        let spares: Vec<_> = {
            let spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
            spares.iter().filter_map(Weak::upgrade).collect()
        };
        spares.iter().for_each(|spare| spare.give_way());
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

    #[derive(Debug)]
    struct Hoard(Mutex<Option<Lease>>);

    impl Spare for Hoard {
        fn give_way(&self) {
            self.0.lock().unwrap().take();
        }
    }

    #[tokio::test]
    async fn who_waits_is_given_way() {
        let budget = Budget::new(4 * UNIT);
        let hoard = Arc::new(Hoard(Mutex::new(budget.try_acquire(4 * UNIT))));
        let spare: Arc<dyn Spare> = hoard.clone();
        budget.lends_to(Arc::downgrade(&spare));
        assert!(budget.try_acquire(UNIT).is_none() && hoard.0.lock().unwrap().is_some());
        let _lease = budget.acquire(3 * UNIT).await;
        assert_eq!(budget.free(), UNIT);
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
