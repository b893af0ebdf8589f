//! What a worker is told: one volume of one store, and how to show it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend;

/// All that a worker needs to serve one mount, but the credential. It names secrets nowhere.
///
/// Handed over as JSON on the worker's socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The CSI volume id: for logs and for the mount's source name.
    pub volume_id: String,
    /// The store's name.
    pub store: String,
    /// How to reach the store, already at the store's root.
    pub backend: backend::Config,
    /// The volume's directory below the store's root; empty for the root itself.
    pub path: String,
    /// The generation that `.millrace/volume.json` must carry, for volumes that CreateVolume made; another one, or
    /// none, is NOT_FOUND.
    pub generation: Option<String>,
    /// The snapshot that is shown in the place of the directory's own content.
    #[serde(default)]
    pub snapshot: Option<SnapshotSpec>,
    /// The store keeps the directory to a quota of its own, and tells what of it is used.
    #[serde(default)]
    pub quota: bool,
    /// The mount refuses every change with EROFS.
    pub read_only: bool,
    /// The most that `options.memory` may become while the mount is served, in bytes: the store's `limits.memory`.
    pub most_memory: u64,
    /// The options a StorageClass or a volume's attributes may set.
    pub options: VolumeOptions,
}

/// A snapshot of another volume of the same store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// That volume's directory below the store's root.
    pub path: String,
    /// The generation that its `.millrace/volume.json` carried when the snapshot was taken.
    pub generation: String,
    /// The snapshot's name in the store.
    pub name: String,
}

/// Options of a volume: the same words in StorageClass parameters and in `volumeAttributes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeOptions {
    /// Owner of everything shown.
    pub uid: u32,
    /// Group of everything shown.
    pub gid: u32,
    /// Permission bits of files (octal word `fileMode`).
    pub file_mode: u32,
    /// Permission bits of directories (octal word `dirMode`).
    pub dir_mode: u32,
    /// The kernel decides by owner and mode too, where the store decides by the mount's identity (word `enforceModes`).
    pub enforce_modes: bool,
    /// Deadline of a request (word `timeout`); for writes that move bytes, since the last progress.
    pub timeout: Duration,
    /// How long attributes, entries and absences are believed (word `ttl`).
    pub ttl: Duration,
    /// The worker's byte budget (word `memory`).
    pub memory: u64,
    /// The kernel's read-ahead of this mount in KiB (word `readAheadKb`).
    pub read_ahead_kb: u32,
    /// The data never changes: believed for ever (word `immutable`).
    pub immutable: bool,
    /// The kernel opens files without asking, instead of reading cached ones by itself; of immutable volumes (word
    /// `skipOpens`).
    pub skip_opens: bool,
    /// Programs may say in what order they will read, by `.millrace/ahead` (word `announce`).
    pub announce: bool,
    /// Whether what was read is kept on the node (word `cache`).
    pub cache: CacheMode,
    /// Bytes that the node's disk may hold of it, for each identity (word `cacheSize`).
    pub cache_size: u64,
    /// How often the worker proves again that its identity may read (word `authTtl`).
    pub auth_ttl: Duration,
    /// How long what the node holds is given out while the store does not answer (word `authGrace`).
    pub auth_grace: Duration,
    /// What chmod, chown and utimens do on stored objects (word `attributes`).
    pub attributes: AttributeChanges,
    /// Who wins when two write one file (word `overwrite`).
    pub overwrite: Overwrite,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
            enforce_modes: false,
            timeout: Duration::from_secs(60),
            ttl: Duration::from_secs(1),
            memory: 256 << 20,
            read_ahead_kb: 1024,
            immutable: false,
            skip_opens: false,
            announce: true,
            cache: CacheMode::None,
            cache_size: 16 << 30,
            auth_ttl: Duration::from_secs(60),
            auth_grace: Duration::from_secs(600),
            attributes: AttributeChanges::Accepted,
            overwrite: Overwrite::Conditional,
        }
    }
}

/// Where what was read is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// In memory only.
    None,
    /// On the node's disk too.
    Disk,
}

/// What a change of mode, owner or time of a stored object does, where the store keeps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttributeChanges {
    /// Succeeds without effect, as tar, rsync and git need.
    Accepted,
    /// EPERM.
    Refused,
}

/// Whose bytes stay when a file changed while it was being written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// The other's: ESTALE here at fsync or close.
    Conditional,
    /// The last publish.
    LastWins,
}
