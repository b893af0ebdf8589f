//! What the mounts of one volume on a node tell each other of its use, so that they keep one limit together.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Vfs;
pub use super::ledger::Amount;

/// What became of a volume's use since the last time: of this mount for the others, or of all others for this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// What was known before `changes`, where the others hear of this mount for the first time.
    pub base: Option<Amount>,
    /// What was changed, by directory.
    pub changes: Vec<Change>,
    /// Bytes that are written and not in the store yet: all of them.
    pub unpublished: u64,
    /// When the count began that the sum rests on; `None` before the first.
    pub counted: Option<Instant>,
    /// The volume is being counted.
    pub counting: bool,
}

/// A change in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Stands for the directory; `None` where not the volume has changed but what is known of it.
    pub dir: Option<u64>,
    /// By how much.
    pub by: Amount,
}

impl Vfs {
    /// Rung where there is something to tell the other mounts, now and then without.
    pub fn bell(&self) -> Arc<Notify> {
        self.ledger().bell()
    }

    /// What the other mounts are to be told now, and never again; all that is known, where this is the `first` time.
    pub fn news(&self, first: bool) -> News {
        self.ledger().news(first)
    }

    /// The other mounts did this.
    pub fn hear(&self, news: News) {
        self.ledger().hear(news);
    }
}
