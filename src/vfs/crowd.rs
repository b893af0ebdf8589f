//! How many inodes there may be: they are paid for from the budget, and past their share the kernel is asked to give back
//! those that nobody has looked up for longest. It gives them back by forgetting them, and keeps what is in use.

use std::sync::{Mutex, PoisonError};

use super::inodes::Inodes;
use super::{Invalidation, Vfs};
use crate::budget::{Budget, Lease};

/// What an inode takes, a name of usual length and the tables' slack included, in bytes. A test counts it.
const INODE: u64 = 360;
/// Inodes that are paid for at once.
const BLOCK: usize = 512;
/// The part of the budget that they may take.
const SHARE: u64 = 4;
/// The kernel is asked for so many back at once, each time that so many more than it may hold have come.
const BATCH: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    leases: Vec<Lease>,
    /// When there are more, some are asked for back.
    most: usize,
}

impl Crowd {
    /// There are so many by now: what pays for others is given back. Some are left over, so that one more or less
    /// changes nothing.
    pub(super) fn shrink(&self, count: usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while state.leases.len() > count.div_ceil(BLOCK) + 1 {
            state.leases.pop();
        }
        state.most = state.most.min(count + BATCH / 2);
    }

    /// How many inodes are too many now.
    fn surplus(&self, count: usize, budget: &Budget) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |blocks: usize| (blocks * BLOCK) as u64 * INODE <= budget.total() / SHARE;
        while state.leases.len() * BLOCK < count
            && fits(state.leases.len() + 1)
            && let Some(lease) = budget.try_acquire(BLOCK as u64 * INODE)
        {
            state.leases.push(lease);
        }
        let paid = state.leases.len() * BLOCK;
        if count <= paid.max(state.most) {
            return 0;
        }
        state.most = count + BATCH / 2;
        count - paid + BATCH
    }
}

impl Vfs {
    /// Has the kernel give inodes back where there are too many.
    pub(super) fn thin_out(&self, inodes: &mut Inodes) {
        let surplus = self.crowd.surplus(inodes.len(), &self.budget);
        if surplus > 0 {
            for some in inodes.coldest(surplus).chunks(BATCH) {
                self.invalidate(Invalidation::Unused(some.to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_paid_for_up_to_their_share_and_given_back() {
        let budget = Budget::new(8 << 20);
        let crowd = Crowd::default();
        let most = (budget.total() / SHARE / INODE) as usize / BLOCK * BLOCK;
        for count in 0..=most {
            assert_eq!(crowd.surplus(count, &budget), 0, "{count}");
        }
        assert!(budget.total() - budget.free() <= budget.total() / SHARE);
        assert_eq!(crowd.surplus(most + 1, &budget), BATCH + 1);
        // Not for every one that comes then.
        let asked: usize = (0..1000).map(|more| usize::from(crowd.surplus(most + 2 + more, &budget) > 0)).sum();
        assert!((2..=4).contains(&asked), "{asked}");
        crowd.shrink(10);
        assert!(budget.total() - budget.free() <= 2 * BLOCK as u64 * INODE);
        assert_eq!(crowd.surplus(most, &budget), 0);
    }

    #[test]
    fn where_others_have_the_budget_there_may_be_fewer() {
        let budget = Budget::new(8 << 20);
        let _all = budget.try_acquire(budget.total());
        assert_eq!(Crowd::default().surplus(1, &budget), 1 + BATCH);
    }
}
