//! What HDFS lets the mount's user do, as the name node says (CHECKACCESS of WebHDFS): by its modes, its lists of access, and
//! who its superusers are.

use super::Tree;
use super::error::{Failure, Outcome};
use crate::backend::{ErrorKind, Path, Rights};

/// `Backend::access`.
pub(super) async fn access(tree: &Tree, path: &Path, asked: Rights) -> Outcome<Rights> {
    if asked.write && tree.is_in_snapshot(path) {
        return Err(Failure::in_snapshot());
    }
    let at = &tree.at(path)?;
    if has(tree, at, asked).await? {
        return Ok(asked);
    }
    let mut granted = Rights::NONE;
    // Of several at once it does not say which.
    for one in asked.each().filter(|one| *one != asked) {
        if has(tree, at, one).await? {
            granted = Rights::of_mode(granted.mode() | one.mode());
        }
    }
    Ok(granted)
}

async fn has(tree: &Tree, at: &str, asked: Rights) -> Outcome<bool> {
    match tree.web.check_access(at, asked).await {
        Ok(()) => Ok(true),
        Err(failure) if failure.kind == ErrorKind::Denied => Ok(false),
        Err(failure) => Err(failure),
    }
}
