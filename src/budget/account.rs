//! What is held of a budget, by whom, and who waits for it.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::clockwork::{Mutex, timeout};

/// Bytes are counted in units of this many: a semaphore of tokio holds at most 2^61 permits, a permit a request at
/// most 2^32.
pub(super) const UNIT: u64 = 1024;

/// How often those who could give way are asked while somebody waits.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Somebody who may hold bytes that nobody waits for, such as what was read ahead of a reader that went quiet.
pub trait Spare: Debug + Send + Sync {
    /// Gives back what it can do without; never waits.
    fn give_way(&self);
}

/// A shared count of bytes. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    size: Arc<Size>,
    spares: Arc<Mutex<Vec<Weak<dyn Spare>>>>,
}

#[derive(Debug)]
struct Size {
    total: AtomicU32,
    /// Units that are held beyond the total since it shrank: they are not given back to anybody.
    owed: Mutex<u32>,
}

impl Size {
    /// Takes `permit` back, and pays what is owed out of it.
    fn take_back(&self, mut permit: OwnedSemaphorePermit) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = (*owed).min(u32::try_from(permit.num_permits()).unwrap_or(u32::MAX));
        if let Some(paying) = permit.split(paid as usize).filter(|_| paid > 0) {
            paying.forget();
            *owed -= paid;
        }
        // Free before anybody else looks at what is owed.
        drop(permit);
        drop(owed);
    }
}

impl Budget {
    /// A budget of `bytes`, rounded up to a KiB; at most 4 TiB.
    pub fn new(bytes: u64) -> Budget {
        let total = whole(bytes);
        let size = Size { total: AtomicU32::new(total), owed: Mutex::new(0) };
        Budget { units: Arc::new(Semaphore::new(total as usize)), size: Arc::new(size), spares: Arc::default() }
    }

    /// From now on of `bytes`. What is held beyond that stays with its holders, and is gone when they give it back.
    pub fn resize(&self, bytes: u64) {
        let mut owed = self.size.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, total) = (self.size.total.load(Ordering::Relaxed), whole(bytes));
        self.size.total.store(total, Ordering::Relaxed);
        if total >= before {
            let more = total - before;
            let settled = more.min(*owed);
            *owed -= settled;
            self.units.add_permits((more - settled) as usize);
        } else {
            let fewer = before - total;
            let gone = self.units.forget_permits(fewer as usize);
            *owed += fewer - u32::try_from(gone).unwrap_or(fewer);
        }
    }

    /// Waits, in turn, until `bytes` are free; asks every [`Spare`] to give way meanwhile.
    pub async fn acquire(&self, bytes: u64) -> Lease {
        loop {
            if let Some(lease) = self.wait_for(self.units_of(bytes)).await {
                return lease;
            }
            self.settle();
        }
    }

    /// `None` where `units` are more than all there is since the budget shrank: they would never come.
    async fn wait_for(&self, units: u32) -> Option<Lease> {
        let mut turn = pin!(self.units.clone().acquire_many_owned(units));
        let mut patience = Duration::ZERO;
        while units <= self.size.total.load(Ordering::Relaxed) {
            match timeout(patience, turn.as_mut()).await {
                // The semaphore is never closed, so there is a permit.
                Ok(permit) => return Some(self.lease(permit.ok())),
                Err(_) => self.ask_spares(),
            }
            patience = ASK_AGAIN;
        }
        None
    }

    /// Pays what is owed out of what is free: who gave up waiting had some of it.
    fn settle(&self) {
        let mut owed = self.size.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = self.units.forget_permits(*owed as usize);
        *owed -= u32::try_from(gone).unwrap_or(*owed);
    }

    fn lease(&self, permit: Option<OwnedSemaphorePermit>) -> Lease {
        Lease { permit, size: self.size.clone() }
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
        Some(self.lease(Some(permit)))
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        u64::from(self.size.total.load(Ordering::Relaxed)) * UNIT
    }

    /// Bytes not held by anybody.
    pub fn free(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.size.total.load(Ordering::Relaxed))
    }
}

fn whole(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

/// Bytes held from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    permit: Option<OwnedSemaphorePermit>,
    size: Arc<Size>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.size.take_back(permit);
        }
    }
}

impl Lease {
    /// Takes `bytes`, or what there is, out as a lease of their own.
    pub fn split(&mut self, bytes: u64) -> Lease {
        let units = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        let permit = self.permit.as_mut().and_then(|permit| permit.split(units.min(permit.num_permits())));
        Lease { permit, size: self.size.clone() }
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let Some(permit) = &mut self.permit else { return };
        let keep = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        if keep < permit.num_permits() {
            let surplus = permit.num_permits() - keep;
            drop(Lease { permit: permit.split(surplus), size: self.size.clone() });
        }
    }
}
