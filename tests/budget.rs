//! The byte budget under a scheduler that looks for an order of events in which somebody waits for ever, or bytes are
//! lost. A seed that fails is printed and can be replayed (`shuttle::replay`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../src/budget/account.rs"]
#[expect(unreachable_pub, reason = "a module of the library, of which the model needs a part")]
mod account;

mod clockwork {
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use futures::future::poll_fn;
    pub(super) use shuttle::sync::Mutex;

    /// Time passes when the scheduler says so.
    pub(super) async fn timeout<T>(_: Duration, future: impl Future<Output = T>) -> Result<T, ()> {
        let mut future = pin!(future);
        loop {
            let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
            match polled {
                Poll::Ready(value) => return Ok(value),
                Poll::Pending if shuttle::rand::Rng::gen_bool(&mut shuttle::rand::thread_rng(), 0.3) => return Err(()),
                Poll::Pending => shuttle::future::yield_now().await,
            }
        }
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use account::{Budget, Lease, Spare, UNIT};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::Rng;

const SCHEDULES: usize = 500;
const TOTAL: u64 = 8 * UNIT;

fn below(most: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(1..=most)
}

async fn pause() {
    for _ in 0..below(3) {
        yield_now().await;
    }
}

#[test]
fn everybody_is_served_within_the_total_and_nothing_is_lost() {
    shuttle::check_random(
        || {
            let (budget, held) = (Budget::new(TOTAL), Arc::new(AtomicU64::new(0)));
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let (budget, held) = (budget.clone(), held.clone());
                    spawn(async move {
                        for _ in 0..3 {
                            let units = below(10).min(8);
                            let mut lease = budget.acquire(units * UNIT).await;
                            let now = held.fetch_add(units, Ordering::SeqCst) + units;
                            assert!(now * UNIT <= TOTAL, "{now} units are held");
                            pause().await;
                            let part = lease.split(UNIT);
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(part);
                            pause().await;
                            held.fetch_sub(units - 1, Ordering::SeqCst);
                            lease.shrink(0);
                        }
                    })
                })
                .collect();
            block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            assert_eq!(budget.free(), TOTAL);
        },
        SCHEDULES,
    );
}

#[test]
fn who_gives_up_waiting_leaves_nothing_behind() {
    shuttle::check_random(
        || {
            let budget = Budget::new(TOTAL);
            let patient = {
                let budget = budget.clone();
                spawn(async move { drop(budget.acquire(TOTAL).await) })
            };
            let fickle = {
                let budget = budget.clone();
                spawn(async move {
                    for _ in 0..3 {
                        let _ = clockwork::timeout(std::time::Duration::ZERO, budget.acquire(6 * UNIT)).await;
                    }
                })
            };
            let small = {
                let budget = budget.clone();
                spawn(async move {
                    let _lease = budget.acquire(3 * UNIT).await;
                    pause().await;
                })
            };
            block_on(async {
                for task in [patient, fickle, small] {
                    task.await.unwrap();
                }
            });
            assert_eq!(budget.free(), TOTAL);
        },
        SCHEDULES,
    );
}

#[test]
fn a_budget_that_changes_under_its_holders_serves_all_and_ends_whole() {
    shuttle::check_random(
        || {
            let budget = Budget::new(TOTAL);
            let mut tasks: Vec<_> = (0..3)
                .map(|_| {
                    let budget = budget.clone();
                    spawn(async move {
                        for _ in 0..2 {
                            let _lease = budget.acquire(below(8) * UNIT).await;
                            pause().await;
                        }
                    })
                })
                .collect();
            let changed = budget.clone();
            tasks.push(spawn(async move {
                for units in [2, 12, 1, 8] {
                    changed.resize(units * UNIT);
                    pause().await;
                }
            }));
            block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            assert_eq!((budget.total(), budget.free()), (TOTAL, TOTAL));
        },
        SCHEDULES,
    );
}

/// Holds what nobody waits for, and gives it back when asked.
#[derive(Debug, Default)]
struct Hoard(shuttle::sync::Mutex<Vec<Lease>>);

impl Spare for Hoard {
    fn give_way(&self) {
        drop(self.0.lock().unwrap().pop());
    }
}

#[test]
fn hoarders_give_way_and_take_no_more_than_is_left() {
    shuttle::check_random(
        || {
            let (budget, hoard) = (Budget::new(TOTAL), Arc::new(Hoard::default()));
            let spare: Arc<dyn Spare> = hoard.clone();
            budget.lends_to(Arc::downgrade(&spare));
            let hoarding = {
                let (budget, hoard) = (budget.clone(), hoard.clone());
                spawn(async move {
                    for _ in 0..20 {
                        let lease = budget.try_acquire(UNIT);
                        hoard.0.lock().unwrap().extend(lease);
                        yield_now().await;
                    }
                })
            };
            let waiting: Vec<_> = (0..2)
                .map(|_| {
                    let budget = budget.clone();
                    spawn(async move { drop(budget.acquire(7 * UNIT).await) })
                })
                .collect();
            block_on(async {
                for task in waiting {
                    task.await.unwrap();
                }
                hoarding.await.unwrap();
            });
            hoard.0.lock().unwrap().clear();
            assert_eq!(budget.free(), TOTAL);
        },
        SCHEDULES,
    );
}

/// As read-ahead does: a read that somebody waits for is paid from the budget, else from a reserve that only such reads
/// use and give back as they end.
#[test]
fn every_reader_goes_on_while_others_hold_the_budget() {
    shuttle::check_random(
        || {
            let (budget, reserve) = (Budget::new(TOTAL), Budget::new(2 * UNIT));
            let held = budget.try_acquire(TOTAL);
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    let (budget, reserve) = (budget.clone(), reserve.clone());
                    spawn(async move {
                        for _ in 0..3 {
                            let bytes = below(3) * UNIT;
                            let paid = match budget.try_acquire(bytes) {
                                Some(lease) => lease,
                                None => reserve.acquire(bytes).await,
                            };
                            pause().await;
                            drop(paid);
                        }
                    })
                })
                .collect();
            block_on(async {
                for reader in readers {
                    reader.await.unwrap();
                }
            });
            drop(held);
            assert_eq!((budget.free(), reserve.free()), (TOTAL, 2 * UNIT));
        },
        SCHEDULES,
    );
}
