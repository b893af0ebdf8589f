//! Snapshots: what lay in a directory at one moment, kept by the store itself. A small trait of the control plane beside
//! [`super::records::Records`], which few stores have.
//!
//! Paths are relative to the store's root. The controller's own credential stands behind every call.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{Path, Result};

/// Snapshots of a store's directories. Every call has a deadline of its own, after which it is `Unavailable`.
#[async_trait]
pub trait Snapshots: std::fmt::Debug + Send + Sync + 'static {
    /// Whether the store lets the credential have them taken.
    async fn permitted(&self) -> Result<bool>;

    /// Takes one of `dir` under `name`. Fine where one of that name is there already.
    async fn take(&self, dir: &Path, name: &str) -> Result<()>;

    /// Removes the one of that name. Fine where there is none.
    async fn discard(&self, dir: &Path, name: &str) -> Result<()>;

    /// The names of all of `dir`, whoever took them.
    async fn names(&self, dir: &Path) -> Result<Vec<String>>;

    /// Copies what lay in `dir` when `name` was taken into the directory `to`, in which nobody else writes: with owners and
    /// modes, and without what is the driver's own. What an earlier call has copied is left as it is.
    ///
    /// Yields the bytes of each file that is there now. Dropping the stream ends it.
    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, Result<u64>>;
}
