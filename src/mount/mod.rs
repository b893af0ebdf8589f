//! Makes a path be a mounted volume, and un-makes it: idempotent, and true after a restart of ours.
//!
//! [`Mounter`] is what the CSI node service sees; [`Workers`] is the real one, which gives every mount a worker process
//! of its own and shows it at all targets that may share it. `handover`, `tally`, `dialing` and `confine` are also the
//! worker's: the words of the two, what the workers of a volume tell each other of its use, how one is given connections
//! that it may not make, and how it gives up what its parent had.
//! The mount table and the state directory hold the truth; what is remembered beside them is only what
//! makes a live worker quicker to reach.

mod accounts;
mod broker;
mod cgroup;
mod claims;
pub mod confine;
mod conversation;
pub mod dialing;
mod faults;
pub mod handover;
mod health;
mod journals;
mod kernel;
pub mod line;
mod live;
mod namespaces;
mod overview;
mod pace;
mod parts;
mod process;
mod recover;
mod renew;
mod shared;
mod sharing;
mod start;
mod state;
mod table;
mod takedown;
pub mod tally;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use faults::{Fault, Trouble};
pub use overview::Shown;
pub use parts::CacheDir;
pub use workers::Workers;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::auth::Credential;
use crate::backend::{ErrorKind, Space};
use crate::config::VolumeSpec;

/// Publishes volumes at target paths.
#[async_trait]
pub trait Mounter: std::fmt::Debug + Send + Sync + 'static {
    /// Makes `request.target` show the volume. Once is enough: the same arguments again are `Ok` without a second
    /// mount. Another credential is proved and then in force for the mount that is there.
    async fn publish(&self, request: Publish) -> Result<Done, Error>;

    /// Makes `target` be nothing again; `Ok` where it already is.
    async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Error>;

    /// What the mount at `target` knows of its use, without listing anything. Answers within a second.
    async fn usage(&self, volume_id: &str, target: &Path) -> Result<Usage, Error>;

    /// For whom a volume was published at `target`, and as whom, as far as that is known. Does not wait long for a
    /// publish or unpublish there.
    async fn whose(&self, target: &Path) -> Whose;

    /// The hash that stands for the principal of `credential` on this node.
    fn identity(&self, credential: &Credential) -> String;

    /// Makes what the volume's own file says now count at once. Returns what `usage` then does.
    async fn reload(&self, volume_id: &str, target: &Path) -> Result<Usage, Error>;

    /// Removes what is kept of the content of volumes that nobody uses any more, and of all that nobody uses now of stores
    /// that `may_stay` says no to, by their names.
    async fn collect_caches(&self, may_stay: Arc<MayStay>);

    /// What ails the volume on this node, at one target or at all: what is known and what its workers say, without
    /// asking a store. Answers within seconds.
    async fn health(&self, volume_id: &str, target: Option<&Path>) -> Result<Vec<Ailment>, Error>;
}

/// Whether content of the store of this name may be kept on this node.
pub type MayStay = dyn Fn(&str) -> bool + Send + Sync;

/// What a publish that succeeded did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The target shows the volume now.
    Mounted,
    /// It did before, and another credential is in force.
    Renewed,
    /// All was as it should be.
    Nothing,
}

/// Something that is not as it should be, told for the person who looks after the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ailment {
    /// The mount's worker ended; programs get ENOTCONN.
    WorkerGone(String),
    /// The mount's worker does not answer; programs wait.
    WorkerSilent(String),
    /// The last publish failed.
    PublishFailed(String),
    /// The store refuses the credential.
    CredentialRefused(String),
    /// A changed credential is not in force yet, and why.
    CredentialWaits(String),
    /// The store does not answer the worker, or is set up wrongly.
    StoreFails(String),
    /// The volume's own file cannot be read or understood.
    VolumeFileUnreadable(String),
    /// The volume's files could not be counted.
    CountFailed(String),
    /// The volume has no disk cache, though it wants one, or one in trouble.
    CacheFails(String),
}

/// One NodePublishVolume, understood.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where the pod will look.
    pub target: PathBuf,
    /// The volume and how to show it.
    pub spec: VolumeSpec,
    /// The identity. A repeated call may bring another.
    pub credential: Credential,
    /// A hash of everything that two calls for one target must agree on (capability, context, flags; not secrets and
    /// tokens).
    pub arguments: String,
    /// SINGLE_NODE_SINGLE_WRITER: no second target on this node.
    pub single_writer: bool,
    /// The pod's namespace; `None` where nothing is known of the pod, which then shares its worker with none.
    pub namespace: Option<String>,
    /// Whom it is shown to, for people who look: nothing is decided by it.
    pub consumer: Consumer,
    /// The pod's name, as far as it is known.
    pub pod: Option<String>,
    /// The pod's service account, as far as it is known.
    pub service_account: Option<String>,
    /// The pod's fsGroup, which is in `spec.options` already. Pods of different ones share no worker.
    pub fs_group: Option<u32>,
}

/// Whom a volume is shown to, as far as that is known; a word that is not is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The PersistentVolume's name; `inline` for every inline volume.
    pub persistent_volume: String,
}

/// For whom a volume is published, and as whom. What is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's service account.
    pub service_account: Option<String>,
    /// The store's name.
    pub store: Option<String>,
    /// The volume's directory below the store's root.
    pub path: Option<String>,
    /// Whether the mount refuses changes.
    pub read_only: Option<bool>,
    /// The hash that stands for the principal whose credential is in force.
    pub identity: Option<String>,
}

/// How workers are run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records and private mount points are kept, on a file system that outlives this process.
    pub state_dir: PathBuf,
    /// The program that is started as `<program> worker`.
    pub program: PathBuf,
    /// The first uid that workers may have.
    pub worker_uid_base: u32,
    /// How many uids from there on.
    pub worker_uid_count: u32,
    /// Without an answer for so long, a worker is killed.
    pub ping_deadline: Duration,
    /// Workers get uids of their own and mounts their kernel read-ahead. Off in a user namespace with one uid.
    pub isolate: bool,
    /// The workers' log filter.
    pub log_filter: String,
    /// Workers log JSON.
    pub log_json: bool,
    /// Where volumes that want a disk cache have it; `None` for none.
    pub cache: Option<CacheDir>,
}

/// What a mount knows of its use and of its well-being.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of the volume's files as of the last count and what this mount changed since; before the first count, and
    /// where a volume without a limit is never counted, of the files this mount has seen or written.
    pub used_bytes: u64,
    /// Files and directories, known in the same way.
    pub used_inodes: u64,
    /// The size that the volume may have, in bytes.
    pub limit: Option<u64>,
    /// What the store's file system has, where it has such.
    pub space: Option<Space>,
    /// Seconds since the count began that `used_bytes` rests on; `None` before the first.
    pub counted_s: Option<u64>,
    /// What is not well.
    pub health: Health,
}

/// What is not well with a mount that serves: each a sentence for the person who looks after it, `None` where it is
/// well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The store refuses the credential.
    pub credential: Option<String>,
    /// The store does not answer, or is set up wrongly.
    pub store: Option<String>,
    /// The volume's own file cannot be read or understood: what it said before, or the volume's context, is in force.
    pub volume_file: Option<String>,
    /// The last count of the volume's files failed.
    pub count: Option<String>,
    /// There is no disk cache, though the volume wants one, or its disk is in trouble.
    #[serde(default)]
    pub cache: Option<String>,
}

/// Why a mount could not be made, unmade or asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else is published at the target.
    #[error("{0}")]
    AlreadyPublished(String),
    /// The target has brought a credential that is not in force, because others of the mount have not.
    #[error("{0}")]
    NotInForce(String),
    /// The store refused a changed credential: the one before is in force.
    #[error("{message}")]
    ChangeRefused {
        /// What the store's error was.
        kind: ErrorKind,
        /// For the pod's events.
        message: String,
    },
    /// A changed credential may or may not be in force by now; the same call again tells.
    #[error("{0}")]
    Unfinished(String),
    /// The volume allows one target on a node and has another.
    #[error("{0}")]
    SecondWriter(String),
    /// Nothing of ours is at the target.
    #[error("{0}")]
    NotMounted(String),
    /// The store refused, or does not answer: the worker's own words.
    #[error("{message}")]
    Store {
        /// What the store's error was.
        kind: ErrorKind,
        /// For the pod's events.
        message: String,
    },
    /// The volume's directory is not the one that CreateVolume made.
    #[error("{0}")]
    NoSuchVolume(String),
    /// The worker died or did not answer.
    #[error("{0}")]
    Worker(String),
    /// A system call on this node failed.
    #[error("{0}")]
    System(String),
}
