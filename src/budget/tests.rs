use std::sync::{Arc, Mutex};

use super::account::{ASK_AGAIN, UNIT};
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
async fn a_budget_grows_and_shrinks_under_its_holders() {
    let budget = Budget::new(8 * UNIT);
    let (first, mut second) = (budget.acquire(4 * UNIT).await, budget.acquire(3 * UNIT).await);
    budget.resize(2 * UNIT);
    assert_eq!((budget.total(), budget.free()), (2 * UNIT, 0));
    // Five units are held too many: those are gone when they are given back.
    drop(first);
    assert_eq!(budget.free(), 0);
    second.shrink(2 * UNIT);
    assert_eq!(budget.free(), 0);
    budget.resize(3 * UNIT);
    assert_eq!(budget.free(), UNIT);
    drop(second);
    assert_eq!((budget.free(), budget.total()), (3 * UNIT, 3 * UNIT));
    budget.resize(8 * UNIT);
    assert_eq!(budget.free(), 8 * UNIT);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_more_than_is_left_is_granted_all_of_it() {
    let budget = Budget::new(8 * UNIT);
    let held = budget.acquire(UNIT).await;
    let (waiting, other) = (budget.clone(), budget.clone());
    let waiting = tokio::spawn(async move { waiting.acquire(8 * UNIT).await });
    tokio::time::sleep(ASK_AGAIN * 2).await;
    budget.resize(4 * UNIT);
    drop(held);
    let lease = waiting.await.unwrap();
    assert_eq!(other.free(), 0);
    drop(lease);
    assert_eq!(other.free(), 4 * UNIT);
}

#[tokio::test]
async fn more_than_all_is_granted_alone() {
    let budget = Budget::new(4 * UNIT);
    let lease = budget.acquire(100 * UNIT).await;
    assert_eq!(budget.free(), 0);
    drop(lease);
    assert_eq!(budget.free(), 4 * UNIT);
}
