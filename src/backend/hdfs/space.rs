//! What there is room for, in bytes of files: what the directory's quota leaves, where it is known to have one, else what the
//! cluster's DataNodes have; divided by what a byte takes there.
//!
//! The name node is asked once a minute at most, and by one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Tree;
use super::error::{Failure, Outcome};
use super::webhdfs::Capacity;
use crate::backend::{ErrorKind, Path, Space};

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(60);

/// What was heard last.
#[derive(Debug, Default)]
pub(super) struct Room {
    heard: Arc<Mutex<Option<Heard>>>,
    /// The directory has no quota, though it had one.
    unbound: AtomicBool,
}

/// An answer.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    told: Option<Space>,
}

/// `Backend::space`.
pub(super) async fn space(tree: &Arc<Tree>) -> Outcome<Option<Space>> {
    let asked = || Failure::new(ErrorKind::Unavailable, "the name node is just being asked");
    let mut known = tree.room.heard.clone().try_lock_owned().map_err(|_| asked())?;
    if let Some(Heard { at, told }) = *known
        && at.elapsed() < FRESH
    {
        return Ok(told);
    }
    let tree = tree.clone();
    // It is asked to the end, though whoever asks for it may not wait so long.
    let asking = tokio::spawn(async move {
        let told = ask(&tree).await?;
        *known = Some(Heard { at: Instant::now(), told });
        Ok(told)
    });
    asking.await.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Other, "the task that asked died")))
}

async fn ask(tree: &Tree) -> Outcome<Option<Space>> {
    let root = tree.at(&Path::root())?;
    if tree.limits.quota
        && !tree.room.unbound.load(Ordering::Relaxed)
        && let Some(space) = of_quota(tree, &root).await?
    {
        return Ok(Some(space));
    }
    let Some(Capacity { capacity, remaining }) = known(tree.web.capacity(&root).await)? else { return Ok(None) };
    let footprint = Footprint::of(tree, &root).await?;
    let free = footprint.held_in(remaining);
    Ok(Some(Space { total: footprint.held_in(capacity), free, available: free, files: 0, free_files: 0 }))
}

/// `None` where the name node does not tell. Where it says that there is no quota any more, it is not asked again: each
/// time it would walk the whole directory.
async fn of_quota(tree: &Tree, root: &str) -> Outcome<Option<Space>> {
    let Some(usage) = known(tree.web.quota_usage(root).await)? else { return Ok(None) };
    let of = |number: i64| u64::try_from(number).unwrap_or_default();
    let total = of(usage.space_quota);
    if total == 0 {
        tracing::warn!("the directory has no space quota any more: what the cluster has room for is told instead");
        tree.room.unbound.store(true, Ordering::Relaxed);
        return Ok(None);
    }
    let footprint = Footprint::of(tree, root).await?;
    let free = footprint.held_in(total.saturating_sub(of(usage.space_consumed)));
    let files = of(usage.quota);
    let free_files = files.saturating_sub(of(usage.file_and_directory_count));
    Ok(Some(Space { total: footprint.held_in(total), free, available: free, files, free_files }))
}

/// What nobody is told who may not ask.
fn known<T>(answer: Outcome<T>) -> Outcome<Option<T>> {
    match answer {
        Err(failure)
            if matches!(failure.kind, ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::Unsupported) =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// Bytes that are stored for bytes that files hold: replicas for one, or what an erasure coding policy adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footprint {
    stored: u64,
    held: u64,
}

impl Footprint {
    /// Of new files in a directory.
    pub(super) async fn of(tree: &Tree, at: &str) -> Outcome<Footprint> {
        let policy = known(tree.web.status(at).await)?.and_then(|status| status.ec_policy);
        let (stored, held) = match policy.as_deref().and_then(striped) {
            Some(ratio) => ratio,
            None => (tree.web.defaults(at).await?.replication.max(1), 1),
        };
        Ok(Footprint { stored, held })
    }

    /// What the smallest file holds that takes whole blocks of so many bytes.
    pub(super) fn least(self, block: u64) -> u64 {
        block.saturating_mul(self.held)
    }

    /// What is stored for files of so many bytes.
    pub(super) fn stored_for(self, bytes: u64) -> u64 {
        ratio(bytes, self.stored, self.held)
    }

    /// What files hold for which so many bytes are stored.
    fn held_in(self, bytes: u64) -> u64 {
        ratio(bytes, self.held, self.stored)
    }
}

fn ratio(bytes: u64, times: u64, by: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(times) / u128::from(by)).unwrap_or(u64::MAX)
}

/// What an erasure coding policy stores for how much it holds, by its name: of `RS-6-3-1024k` 9 for 6.
pub(super) fn striped(policy: &str) -> Option<(u64, u64)> {
    let mut parts = policy.rsplit('-').skip(1);
    let (parity, data): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (data > 0).then_some((data + parity, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_for_what_is_held_is_no_more_than_that() {
        let (thrice, striped) = (Footprint { stored: 3, held: 1 }, Footprint { stored: 9, held: 6 });
        assert_eq!((thrice.stored_for(10), thrice.held_in(30), thrice.least(7)), (30, 10, 7));
        assert_eq!((striped.stored_for(12), striped.held_in(18), striped.least(7)), (18, 12, 42));
        assert_eq!((thrice.held_in(29), thrice.stored_for(u64::MAX)), (9, u64::MAX));
    }

    #[test]
    fn a_policy_says_how_much_more_it_stores() {
        for (policy, ratio) in [
            ("RS-6-3-1024k", Some((9, 6))),
            ("RS-LEGACY-6-3-1024k", Some((9, 6))),
            ("XOR-2-1-1024k", Some((3, 2))),
            ("replication", None),
            ("RS-0-3-1024k", None),
            ("", None),
        ] {
            assert_eq!(striped(policy), ratio, "{policy}");
        }
    }
}
