//! The quota that a volume's directory has in HDFS. The name node counts replicas, and a block as whole when it begins.

use super::Tree;
use super::error::Outcome;
use super::space::Footprint;
use crate::backend::{ErrorKind, Path};

/// Beside a block of the volume's own: what the control plane's file in the directory takes.
const OWN: u64 = 1 << 20;

/// The largest that HDFS takes: one more says that it stays as it is.
const LARGEST: u64 = i64::MAX as u64 - 1;

/// See [`crate::backend::records::Records::set_quota`]. Room for one block is there always.
pub(super) async fn set(tree: &Tree, path: &Path, bytes: u64) -> Outcome<bool> {
    let at = &tree.at(path)?;
    let footprint = Footprint::of(tree, at).await?;
    let least = footprint.least(tree.web.defaults(at).await?.block_size).saturating_add(OWN);
    match tree.web.set_quota(at, footprint.stored_for(bytes.max(least)).min(LARGEST)).await {
        Ok(()) => Ok(true),
        Err(failure)
            if matches!(failure.kind, ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::Unsupported) =>
        {
            tracing::debug!(%path, why = %failure, "HDFS keeps no quota for the volume");
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}
