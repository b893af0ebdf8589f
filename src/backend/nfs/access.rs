//! What the server lets the mount's user do, as it says itself (RFC 1813, section 3.3.4): who may is a matter of its users,
//! squashing and lists of access, which no client knows.

use nfs3_types::nfs3::{ACCESS3_DELETE, ACCESS3_EXECUTE, ACCESS3_EXTEND, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_READ};

use super::calls::Outcome;
use super::tree::Tree;
use crate::backend::{ErrorKind, Path, Rights};

/// `Backend::access`.
pub(super) async fn access(tree: &Tree, path: &Path, asked: Rights) -> Outcome<Rights> {
    let found = tree.lookup(path).await?;
    let needs = needs(found.is_directory());
    let wanted = needs.iter().filter(|(right, _)| right.and(asked) == *right).fold(0, |all, (_, bits)| all | bits);
    let granted = match tree.mounted().await?.server.access(&found.handle, wanted).await {
        Ok(told) => told.access,
        // What it is used for decides then.
        Err(failure) if failure.kind == ErrorKind::Unsupported => wanted,
        Err(failure) => return Err(failure),
    };
    let has = |(_, bits): &&(Rights, u32)| granted & bits == *bits;
    let mode = needs.iter().filter(has).fold(0, |mode, (right, _)| mode | right.mode());
    Ok(Rights::of_mode(mode).and(asked))
}

/// What the server must grant for each right.
fn needs(is_directory: bool) -> [(Rights, u32); 3] {
    let [read, write, execute] = [4, 2, 1].map(Rights::of_mode);
    match is_directory {
        true => {
            [(read, ACCESS3_READ), (write, ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE), (execute, ACCESS3_LOOKUP)]
        }
        false => [(read, ACCESS3_READ), (write, ACCESS3_MODIFY | ACCESS3_EXTEND), (execute, ACCESS3_EXECUTE)],
    }
}
