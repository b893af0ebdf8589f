//! What the control plane asks of a store: small records changed only under a condition, and the removal of a tree.
//!
//! Paths are relative to the *store's* root (the bucket's prefix), not to a volume. The controller's own credential
//! stands behind every call; no user's does. Every implementation passes the suite in `contract`.

pub mod apart;
#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) mod memory;
pub(super) mod numbered;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use numbered::fetch;

use super::{Error, ErrorKind, Name, Op, Path, RESERVED, Result};

/// A record's state, as the store names it (an ETag on S3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(pub String);

/// The largest record in bytes.
pub const LARGEST_RECORD: usize = 64 << 10;

/// Records and trees of a store.
///
/// Every call has a deadline of its own, after which it is `Unavailable`; the control plane counts on none being in
/// flight for longer.
#[async_trait]
pub trait Records: std::fmt::Debug + Send + Sync + 'static {
    /// Whether the store keeps two writers apart: proved once by two exclusive creates of a key of the driver's own
    /// (`.millrace/proof/<random>`), which is removed again. Where it does not, `create` and `replace` look before they
    /// write, which is right as long as nobody but this value writes.
    async fn excludes(&self) -> Result<bool>;

    /// Creates a record, and the directories above it where a store has such. `AlreadyExists` where one is there. At
    /// most [`LARGEST_RECORD`] bytes, whole or not at all.
    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag>;

    /// A record and its tag. `NotFound`.
    ///
    /// A mount reads one by [`fetch`] with its own credential.
    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)>;

    /// Replaces a record that is still in state `tag`; `Stale` where it is not, or is gone.
    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag>;

    /// Removes a record, whatever its state; fine where it is gone.
    async fn remove(&self, at: &Path) -> Result<()>;

    /// The records below `dir`, at any depth, as paths from the store's root, in the order of their bytes; of them only
    /// those after `after`, where it is given, which need not be there itself.
    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>>;

    /// How much lies on one page (1,000 entries) of what is below `dir`, the driver's own `.millrace` at its top apart.
    /// Begins where an earlier page said that the next one does, or at the first.
    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured>;

    /// Whether nothing at all lies at `path` or below it: neither a file of that name nor anything under it, empty
    /// directories apart.
    async fn is_vacant(&self, path: &Path) -> Result<bool>;

    /// Removes up to one page (1,000 entries) of what lies below `dir`, never `dir`'s siblings or parents. Returns
    /// how many went and whether the tree is now empty. Called until empty; safe to call again at any time. Refuses
    /// what [`removable`] refuses.
    async fn remove_page(&self, dir: &Path, extent: Extent) -> Result<Removed>;

    /// Makes a volume's directory and those above it, or takes one that is there and holds nothing, and gives it this
    /// owner and mode. Returns what tells it from every other that may lie there later; `None` where directories are only
    /// prefixes, of which nothing is made.
    async fn make_directory(&self, _at: &Path, _how: &Directory) -> Result<Option<String>> {
        Ok(None)
    }

    /// What tells the directory at `at` from others, as [`Records::make_directory`] returned it; `None` where no
    /// directory lies there, and where they are only prefixes.
    async fn directory(&self, _at: &Path) -> Result<Option<String>> {
        Ok(None)
    }

    /// Has the store itself keep what lies below a volume's directory to so many bytes, whoever writes it. False where it
    /// keeps no such quota, or does not let this credential set one.
    async fn set_quota(&self, _at: &Path, _bytes: u64) -> Result<bool> {
        Ok(false)
    }

    /// Why users could change what the control plane rests on, as far as the store tells; `None` where they cannot.
    async fn exposure(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Why the store takes no changes just now, though it answers; `None` where it takes them, or does not say.
    async fn halted(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Removes what records that are gone have left, where they leave anything. Returns how many; takes a minute.
    async fn clear(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Whose a volume's directory is, where the store keeps owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// How much of a directory a removal takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// What is there now. A versioned store keeps its old versions.
    Current,
    /// Versions, delete markers and unfinished uploads too.
    All,
}

/// What one page of a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes of its files.
    pub bytes: u64,
    /// Where the next page begins, in the store's own words; `None` after the last.
    pub next: Option<String>,
}

/// What one page of a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Entries removed.
    pub count: u64,
    /// Nothing is left.
    pub done: bool,
}

/// The driver's own directory at the top of a volume's.
pub(super) fn own_directory(dir: &Path) -> Path {
    Name::new(RESERVED.as_bytes()).map_or_else(|_| dir.clone(), |name| dir.join(&name))
}

/// Whether `dir` may be removed as a tree: neither the store's root nor anything in the driver's own directory.
///
/// # Errors
/// `InvalidName`.
pub fn removable(dir: &Path) -> Result<()> {
    if dir.is_root() || dir.names().any(|name| name.is_reserved()) {
        return Err(Error::new(ErrorKind::InvalidName, Op::Record, dir, "this is not a volume's directory"));
    }
    Ok(())
}
