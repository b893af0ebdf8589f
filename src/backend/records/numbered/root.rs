//! What the roots of stores with directories have alike: the directory of the control plane's own, which users must not
//! be able to write, and how what lies in a directory is told.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};

use super::look::LONGEST_VERSION;
use super::{Item, fail};
use crate::backend::{Backend, Entry, ErrorKind, Fetched, Limits, Path, RESERVED, Result, reading};

/// The deadline of one call.
pub(in crate::backend) const TIMEOUT: Duration = Duration::from_secs(10);

/// Permission bits of the control plane's own directory, and of one that is not a volume's yet.
pub(in crate::backend) const OWN: u32 = 0o700;

/// Those of directories above volumes.
const ABOVE: u32 = 0o755;

/// Limits of a client of the controller's.
pub(in crate::backend) fn limits() -> Limits {
    Limits::alone(4 << 20, TIMEOUT)
}

/// The control plane's own directory.
pub(in crate::backend) fn own() -> Path {
    Path::parse(RESERVED).unwrap_or_default()
}

/// Permission bits of a directory that is made on the way: the own one may have been removed since it was prepared.
pub(in crate::backend) fn mode_of(dir: &Path) -> u32 {
    if *dir == own() { OWN } else { ABOVE }
}

/// A directory as a store shows it.
#[derive(Debug)]
pub(in crate::backend) struct Shown<'a> {
    pub(in crate::backend) is_directory: bool,
    /// Whose it is, in words.
    pub(in crate::backend) owner: &'a str,
    /// The controller's user, in the same words.
    pub(in crate::backend) controller: &'a str,
    /// Permission bits.
    pub(in crate::backend) mode: u32,
}

/// Checks the control plane's own directory, which users must not be able to write.
///
/// # Errors
/// `Misconfigured`, with the reason and the cure.
pub(in crate::backend) fn check_own(found: &Shown<'_>) -> Result<()> {
    let Shown { is_directory, owner, controller, mode } = found;
    let wrong =
        |why: &str| Err(fail(ErrorKind::Misconfigured, &own(), &format!("{RESERVED} in the store's root {why}")));
    if !is_directory {
        return wrong("is no directory: remove it");
    }
    if owner != controller {
        return wrong(&format!(
            "belongs to {owner}, and the controller is {controller}: whoever made it could forge records. Remove it, or \
             give the controller that user"
        ));
    }
    match mode & 0o077 {
        0 => Ok(()),
        _ => wrong(&format!("has mode {mode:04o}, so that others get at the records: chmod 0700")),
    }
}

/// Why users can write a store's root of that mode, which belongs to a `stranger` or else to whom it may.
pub(in crate::backend) fn exposure(stranger: Option<&str>, mode: u32) -> Option<String> {
    let why = match (stranger, mode & 0o022, mode & 0o1000) {
        (Some(owner), ..) => format!("it belongs to {owner}, which is not the controller's user"),
        (None, 0, _) => return None,
        (None, _, 0) => format!("its mode is {mode:04o}"),
        (None, _, _) => format!("its mode is {mode:04o}, so that users make directories where volumes are to lie"),
    };
    Some(format!("users can write the store's root: {why}. They could put theirs in the place of a volume"))
}

impl From<Entry> for Item {
    fn from(Entry { name, meta }: Entry) -> Item {
        Item { name, kind: meta.kind(), size: meta.size(), since: meta.mtime }
    }
}

/// See [`super::Directories::entries`].
pub(in crate::backend) fn items(entries: BoxStream<'static, Result<Entry>>) -> BoxStream<'static, Result<Item>> {
    entries.map_ok(Item::from).boxed()
}

/// See [`super::Directories::read`].
pub(in crate::backend) async fn read(store: &dyn Backend, file: &Path) -> Result<Bytes> {
    match reading::fetch(store, file, LONGEST_VERSION, None).await? {
        Fetched::New { bytes, .. } => Ok(bytes),
        Fetched::Same => Err(fail(ErrorKind::Corrupt, file, "nothing was known to be the same as")),
    }
}
