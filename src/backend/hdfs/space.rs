//! What a cluster has room for, in bytes of files: what its DataNodes have, divided by what a byte takes there.
//!
//! The name node is asked once a minute at most, and by one at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Tree;
use super::error::{Failure, Outcome};
use crate::backend::{ErrorKind, Path, Space};

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(60);

/// What was heard last.
#[derive(Debug, Default)]
pub(super) struct Room(Arc<Mutex<Option<Heard>>>);

/// An answer.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    told: Option<Space>,
}

/// `Backend::space`.
pub(super) async fn space(tree: &Arc<Tree>) -> Outcome<Option<Space>> {
    let asked = || Failure::new(ErrorKind::Unavailable, "the name node is just being asked");
    let mut known = tree.room.0.clone().try_lock_owned().map_err(|_| asked())?;
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
    let status = match tree.web.capacity(&root).await {
        Ok(status) => status,
        // Then nobody knows.
        Err(failure)
            if matches!(failure.kind, ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::Unsupported) =>
        {
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    let policy = tree.web.status(&root).await?.ec_policy;
    let (stored, held) = match policy.as_deref().and_then(striped) {
        Some(ratio) => ratio,
        None => (tree.web.replication(&root).await?.max(1), 1),
    };
    let of = |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(held) / u128::from(stored)).unwrap_or(u64::MAX);
    let free = of(status.remaining);
    Ok(Some(Space { total: of(status.capacity), free, available: free, files: 0, free_files: 0 }))
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
