//! What the store keeps of a snapshot: its record, `.millrace/snapshots/<sha256 of the name, hex>` below the store's root.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backend::Path;
use crate::csi::volumes::Error;
use crate::csi::volumes::record::own;

/// A snapshot that CreateSnapshot took or is taking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The format of this record: 1.
    pub format: u32,
    /// The name in CreateSnapshot, whole.
    pub name: String,
    /// Tells it from every other snapshot that ever had this source; the store's own name of it.
    pub generation: String,
    /// How far it is.
    pub state: State,
    /// Its source's directory below the store's root.
    pub path: String,
    /// Its source's generation.
    pub volume: String,
    /// The cluster whose controller took it.
    pub cluster: String,
    /// The most bytes that its source might hold when it was taken; 0 for no limit.
    pub size: u64,
    /// When it was taken, or what is left of it ended: RFC 3339 in UTC with milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The volumes that were made from it and may need it: the keys of their records, by their generations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, String>,
    /// Words of newer versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// CreateSnapshot is at work or died at it; nobody was given the snapshot.
    Creating,
    /// It was given out.
    Ready,
    /// It is being removed.
    Deleting,
    /// A tombstone: it is gone, and its name is free.
    Deleted,
    /// A tombstone that is itself about to be removed.
    Forgotten,
}

/// Where all records of snapshots lie.
pub(super) fn snapshots() -> Path {
    own(&["snapshots"])
}

/// Where the record called `key` lies.
pub(super) fn snapshot_at(key: &str) -> Path {
    own(&["snapshots", key])
}

/// The path of a source, checked like any other.
pub(super) fn checked_path(path: &str) -> Result<Path, Error> {
    use crate::csi::volume_id::{LONGEST_ID, parse_path};
    parse_path(path, LONGEST_ID).map_err(|why| Error::Internal(format!("a snapshot's source {path:?}: {why}")))
}
