//! The floor of the data path: one trait that every store implements, and the words it speaks.
//!
//! [`Backend`] is the seam. Whatever lies above it (read-ahead, VFS, FUSE) cannot tell which store it reads, and a
//! wrapper of a backend (a cache, failure injection) is a backend. Every implementation and every wrapper passes the
//! suite in [`contract`]. The control plane's own small traits, [`records::Records`] and [`snapshots::Snapshots`], stand
//! beside it.
//!
//! Retry lives in each store's folder and nowhere above.

mod beside;
mod closed;
#[cfg(test)]
pub(crate) mod contract;
mod dial;
mod error;
#[cfg(test)]
pub(crate) mod faulty;
pub mod hdfs;
pub mod journal;
pub mod memory;
mod meter;
mod name;
pub mod nfs;
mod reading;
pub mod records;
mod rights;
pub mod s3;
pub mod snapshots;
mod swappable;
mod together;
mod turns;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::auth;

pub use closed::Closed;
pub use error::{Error, ErrorKind, Op, Result};
pub use name::{BadName, Name, Path, RESERVED};
pub use rights::Rights;
pub use swappable::Swappable;

/// A store seen as a tree of files and directories.
///
/// Paths are relative to the volume's own directory; the empty path is that directory, which always exists.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// The few facts in which stores differ; constant for the life of the value.
    fn traits(&self) -> Traits;

    /// What lies at `path`. `NotFound` where nothing does, `NotADirectory` never: a path below a file is `NotFound`.
    async fn stat(&self, path: &Path) -> Result<Meta>;

    /// The entries of a directory, each name once, `.millrace` included, in any order that is stable while the
    /// directory does not change. Lazy: nothing is asked of the store before the first poll, and no more than a page
    /// ahead of it. A missing directory is `NotFound` or, where directories are only prefixes, empty.
    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>>;

    /// Exactly the bytes `range` of exactly this version, or `Stale`. The range lies within `file.size`; the stream
    /// yields `range.end - range.start` bytes in order, in chunks of the store's choosing, or one error and ends.
    /// Dropping the stream cancels the request.
    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>>;

    /// A small file, whole, in one request: nothing of it where it still is `known`, but for what a cache would have to
    /// ask for again. Another one of more than `longest` bytes is `TooLarge`, of which no more than that is read. `NotFound`, also for a directory that is only a prefix;
    /// else `IsADirectory`. Where the names of a file and a directory may be the same, it is the file's content.
    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched>;

    /// Begins to write the whole content of a file. Nothing in the store changes before the first
    /// [`Upload::publish`].
    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>>;

    /// Makes a directory. `AlreadyExists` where anything lies at `path`.
    async fn make_dir(&self, path: &Path) -> Result<Meta>;

    /// Removes a file, a symbolic link (as [`Kind::File`], too) or an empty directory. `NotFound`, `IsADirectory`, `NotADirectory`, `NotEmpty`.
    async fn remove(&self, path: &Path, kind: Kind) -> Result<()>;

    /// Moves a file, or a directory that is empty where `atomic_rename` is false (`Unsupported` for a full one).
    /// Returns what now lies at `to`. A file at `to` is replaced, unless `how.replace` is false (`AlreadyExists`).
    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta>;

    /// Makes an empty file with these permission bits, at once. `AlreadyExists` where anything lies at `path`: of many
    /// who ask, one makes it. `Unsupported` without [`Traits::append`].
    async fn make_file(&self, path: &Path, _mode: u32) -> Result<Meta> {
        Err(Error::new(ErrorKind::Unsupported, Op::Write, path, "this store keeps whole files"))
    }

    /// Opens the file that `file` is a version of, whatever bytes it holds now, to change it in place. `Unsupported`
    /// without [`Traits::append`].
    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        Err(Error::new(ErrorKind::Unsupported, Op::Write, &file.path, "this store keeps whole files"))
    }

    /// Changes attributes of what lies at `path`, and returns what then lies there. A length needs
    /// [`Traits::random_write`]. `Unsupported` without [`Traits::own_permissions`]; `NotPermitted` for who may not.
    async fn set_attributes(&self, path: &Path, _set: &SetAttributes) -> Result<Meta> {
        Err(Error::new(ErrorKind::Unsupported, Op::SetAttributes, path, "this store keeps no attributes"))
    }

    /// Makes a symbolic link with this text. `AlreadyExists`; `Unsupported` where the store has none.
    async fn make_symlink(&self, path: &Path, _target: &[u8]) -> Result<Meta> {
        Err(Error::new(ErrorKind::Unsupported, Op::Link, path, "this store has no symbolic links"))
    }

    /// The text of a symbolic link.
    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        Err(Error::new(ErrorKind::Unsupported, Op::Link, path, "this store has no symbolic links"))
    }

    /// Gives the file at `from` another name, `to`. `AlreadyExists`; `Unsupported` where a file has one name.
    async fn link(&self, from: &Path, _to: &Path) -> Result<Meta> {
        Err(Error::new(ErrorKind::Unsupported, Op::Link, from, "a file has one name in this store"))
    }

    /// Which of the rights that are `asked` for the mount's identity has to what lies at `path`, as the store says; `NotFound`.
    /// All of them where it does not tell: then it decides when they are used.
    async fn access(&self, _path: &Path, asked: Rights) -> Result<Rights> {
        Ok(asked)
    }

    /// What the store's file system holds and has room for; `None` where the store has no such bound.
    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// A file that is changed in place: every write is in the store when it returns.
///
/// Whether it lasts when the store's machine fails then is known after the next [`InPlace::sync`].
#[async_trait]
pub trait InPlace: Debug + Send + Sync + 'static {
    /// Writes all of `data` at `offset`; a gap before it reads as zeros. `Unsupported` for another offset than the
    /// file's end where the store has no [`Traits::random_write`]. What lies there then, where the store says so; in its
    /// version the path is the one that the file was opened by.
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>>;

    /// Makes every write so far lasting. What lies there then, where the store says so.
    async fn sync(&self) -> Result<Option<Meta>>;

    /// As [`InPlace::sync`], where nobody is expected to write on: the store keeps nothing for the writer, who may write
    /// on all the same.
    async fn finish(&self) -> Result<Option<Meta>> {
        self.sync().await
    }
}

/// A file that is being written in order.
///
/// Dropping an upload without [`Upload::abort`] leaves at most an unfinished upload, invisible to readers.
#[async_trait]
pub trait Upload: Debug + Send + 'static {
    /// Appends `data` to what was written so far. May wait for the memory budget or for parts in flight. `TooLarge`
    /// as soon as the store's largest object would be passed.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Makes all that was written so far the file's content, whole or not at all, and returns it. The upload goes on:
    /// a later `write` continues after these bytes and a later `publish` replaces them. `Stale` where the file is no
    /// longer the version this upload began from or last published.
    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta>;

    /// Bytes written so far.
    fn written(&self) -> u64;

    /// Bytes of `range` as far as they are still in memory from its start on; `None` where the first is not.
    fn peek(&self, range: Range<u64>) -> Option<Bytes>;

    /// The file was renamed here while it was being written: the next publish goes to `to`, over `version` (what the
    /// rename left there), or over nothing where the file had not been published.
    fn moved(&mut self, to: Path, version: Option<Version>);

    /// Throws away what was not published.
    async fn abort(self: Box<Self>);
}

/// Facts about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Rename is one atomic step, of directories too. On S3 it is copy, then delete.
    pub atomic_rename: bool,
    /// Directories exist by themselves; else they are prefixes of names, with or without a marker.
    pub real_directories: bool,
    /// `Stale` is exact; else a changed file of equal size and time may be taken for the old one.
    pub exact_versions: bool,
    /// Bytes of a version that were read prove that it lay at its path then; else a read may find it elsewhere, or
    /// ask no store. A read of no bytes proves nothing.
    pub read_proves_path: bool,
    /// The store keeps owner and mode of its own, and decides by the mount's identity.
    pub own_permissions: bool,
    /// Files are changed in place, by others too: their two halves of a version differ, and they can be appended to
    /// ([`Backend::open_write`]). Else a file is replaced whole.
    pub append: bool,
    /// Files that are changed in place can be written at any offset, and cut.
    pub random_write: bool,
    /// A file may have several names ([`Backend::link`]), under each of which it is the *same file*.
    pub hard_links: bool,
    /// The largest file, in bytes.
    pub largest_file: u64,
}

/// Why a read happens. Demand goes before ahead wherever something is scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// A reader waits for it.
    Demand,
    /// It is guessed to be needed soon.
    Ahead,
}

/// What kind of thing a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// One state of one file's bytes.
///
/// Two halves: *same file* (`file`) decides the inode, *same bytes* (`bytes`) decides caches and kept pages. On S3
/// both are the ETag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Where the file lay when this version was seen.
    pub path: Path,
    /// Equal while it is the same file.
    pub file: Arc<str>,
    /// Equal while it holds the same bytes.
    pub bytes: Arc<str>,
    /// Length in bytes.
    pub size: u64,
}

impl Version {
    /// The same file with whatever bytes it holds: never `Stale` for another client's changes in place.
    pub fn any_bytes(&self) -> Version {
        Version { bytes: self.file.clone(), ..self.clone() }
    }
}

/// What a store says about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// File or symbolic link, with its version, or directory.
    pub node: Node,
    /// Last modification. A directory without one of its own has [`SystemTime::UNIX_EPOCH`], always the same.
    pub mtime: SystemTime,
    /// Owner and mode, where the store keeps them ([`Traits::own_permissions`]).
    pub permissions: Option<Permissions>,
    /// False where the store cannot give the bytes now (an S3 archive class): mode 000, EACCES at open.
    pub readable: bool,
    /// Names that the file has; 1 where the store has no [`Traits::hard_links`].
    pub links: u32,
}

/// What [`Backend::fetch`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The version that was known.
    Same,
    /// Another one.
    New {
        /// The file's.
        meta: Meta,
        /// All of its content.
        bytes: Bytes,
    },
}

/// A file's version, a directory, or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file and its present version.
    File(Version),
    /// A directory.
    Directory,
    /// A symbolic link; its version is that of its target's text.
    Symlink(Version),
}

impl Meta {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self.node {
            Node::File(_) => Kind::File,
            Node::Directory => Kind::Directory,
            Node::Symlink(_) => Kind::Symlink,
        }
    }

    /// The version of a file or a symbolic link; `None` for a directory.
    pub fn version(&self) -> Option<&Version> {
        match &self.node {
            Node::File(version) | Node::Symlink(version) => Some(version),
            Node::Directory => None,
        }
    }

    /// Length in bytes; 0 for a directory.
    pub fn size(&self) -> u64 {
        self.version().map_or(0, |version| version.size)
    }
}

/// POSIX owner and mode bits (`0o7777`) as a store keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What a file system holds and has room for, as statfs(2) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that whoever asks may still write.
    pub available: u64,
    /// Files in all; 0 where the store does not say.
    pub files: u64,
    /// Files that can still be made; 0 where the store does not say.
    pub free_files: u64,
}

/// Files, and on which machines their bytes lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Located {
    /// How many files.
    pub files: u64,
    /// Their bytes, each counted once.
    pub bytes: u64,
    /// Who has most of them first.
    pub hosts: Vec<Host>,
}

/// A machine with bytes of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As the store calls it.
    pub name: String,
    /// Its rack, as the store calls that.
    pub rack: String,
    /// Bytes that it has a copy of.
    pub bytes: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the directory.
    pub name: Name,
    /// What it is.
    pub meta: Meta,
}

/// What a new upload may replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing may lie there: the first publish is `Stale` otherwise.
    Absent,
    /// Exactly this version: the first publish is `Stale` otherwise.
    Version(Version),
    /// Whatever lies there (`overwrite: last-wins`); later publishes are unconditional too.
    Any,
}

/// How a file is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// What it may replace.
    pub base: Base,
}

/// How a file or directory is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenameOptions {
    /// What lies at the source.
    pub kind: Kind,
    /// The source must still be this version (`Stale` otherwise); `None` takes what is there.
    pub version: Option<Version>,
    /// Whether a file at the destination may be replaced.
    pub replace: bool,
}

/// POSIX attributes of a file being written, kept beside the object for other tools where the store can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Modification time.
    pub mtime: Option<SystemTime>,
}

/// What to change about a file or directory in the store; `None` leaves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Length in bytes; what is added reads as zeros.
    pub size: Option<u64>,
    /// Permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SystemTime>,
    /// Modification time.
    pub mtime: Option<SystemTime>,
}

/// How to reach a store: the configuration of one of the backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "lowercase")]
pub enum Config {
    /// An S3 bucket, or a prefix of one.
    S3(s3::Config),
    /// An HDFS, or a directory of one.
    Hdfs(hdfs::Config),
    /// An NFSv3 export, or a directory of one.
    Nfs(nfs::Config),
}

impl Config {
    /// The word for the backend in a stores file.
    pub fn word(&self) -> &'static str {
        match self {
            Config::S3(_) => "s3",
            Config::Hdfs(_) => "hdfs",
            Config::Nfs(_) => "nfs",
        }
    }

    /// Whether its clients note what is to be undone where their process dies ([`journal`]).
    pub fn keeps_journals(&self) -> bool {
        match self {
            Config::Hdfs(_) | Config::Nfs(_) => true,
            Config::S3(_) => false,
        }
    }

    /// Where whoever uses the store has to log in by Kerberos.
    pub fn realm(&self) -> Option<&hdfs::kerberos::Realm> {
        match self {
            Config::Hdfs(config) => config.kerberos.as_ref(),
            Config::S3(_) | Config::Nfs(_) => None,
        }
    }

    /// Where the server wants privileged source ports.
    pub fn privileged(&self) -> Option<&nfs::Config> {
        match self {
            Config::Nfs(config) => Some(config).filter(|config| config.privileged_ports),
            Config::S3(_) | Config::Hdfs(_) => None,
        }
    }
}

/// A client of one volume: the directory `root` of the store that `config` names, used as `credential`.
///
/// Asks nothing of the store. `limits` are the mount's own. Every request is made with the credential that is in force
/// when it is made.
///
/// # Errors
/// `Misconfigured` for words no client can be built from (an unreadable CA bundle, a bad endpoint), `Unauthenticated`
/// for a credential of another kind of store.
pub fn connect(
    config: &Config,
    credential: impl Into<auth::Current>,
    root: &Path,
    limits: Limits,
) -> Result<Arc<dyn Backend>> {
    match config {
        Config::S3(config) => Ok(Arc::new(s3::S3::connect(config, credential.into(), root, limits)?)),
        Config::Hdfs(config) => Ok(Arc::new(hdfs::Hdfs::connect(config, &credential.into(), root, limits)?)),
        Config::Nfs(config) => Ok(Arc::new(nfs::Nfs::connect(config, &credential.into(), root, limits)?)),
    }
}

/// The control plane's view of a whole store, used as `credential`.
///
/// Asks nothing of the store.
///
/// # Errors
/// As [`connect`].
pub fn records(config: &Config, credential: &auth::Credential) -> Result<Arc<dyn records::Records>> {
    match config {
        Config::S3(config) => Ok(Arc::new(s3::S3Records::connect(config, credential)?)),
        Config::Nfs(config) => {
            Ok(Arc::new(records::numbered::Numbered::new(Arc::new(nfs::Root::connect(config, credential)?))))
        }
        Config::Hdfs(config) => {
            Ok(Arc::new(records::numbered::Numbered::new(Arc::new(hdfs::Root::connect(config, credential)?))))
        }
    }
}

/// What takes snapshots of a store's directories, used as `credential`; `None` where the backend has none.
///
/// Asks nothing of the store.
///
/// # Errors
/// As [`connect`].
pub fn snapshots(config: &Config, credential: &auth::Credential) -> Result<Option<Arc<dyn snapshots::Snapshots>>> {
    match config {
        Config::Hdfs(config) => Ok(Some(Arc::new(hdfs::Taking::connect(config, credential)?))),
        Config::S3(_) | Config::Nfs(_) => Ok(None),
    }
}

/// Where a mount finds what lay in the directory `dir` when its snapshot `name` was taken.
///
/// # Errors
/// `Unsupported` where the backend has none, `InvalidName` for a name that no snapshot has.
pub fn snapshot_of(config: &Config, dir: &Path, name: &str) -> Result<Path> {
    match config {
        Config::Hdfs(_) => hdfs::snapshot_of(dir, name),
        Config::S3(_) | Config::Nfs(_) => {
            let why = format!("a store of backend {} has no snapshots", config.word());
            Err(Error::new(ErrorKind::Unsupported, Op::Connect, dir, why))
        }
    }
}

/// Asks without a credential whether the store is there.
///
/// # Errors
/// `Unavailable` where no answer came within `deadline`, `Throttled` where the answer was that the store is in trouble,
/// `Misconfigured` as [`connect`].
pub async fn reach(config: &Config, deadline: std::time::Duration) -> Result<()> {
    match config {
        Config::S3(config) => s3::reach(config, deadline).await,
        Config::Hdfs(config) => hdfs::reach(config, deadline).await,
        Config::Nfs(config) => nfs::reach(config, deadline).await,
    }
}

/// Where the bytes lie of a file, or of all files below a directory, `path` from the store's root: a hint for who chooses
/// where to run. Walks the whole directory.
///
/// # Errors
/// As [`connect`]; `NotFound`; `Unsupported` for a store that does not tell.
pub async fn locate(config: &Config, credential: &auth::Credential, path: &Path) -> Result<Located> {
    match config {
        Config::Hdfs(config) => hdfs::locate(config, credential, path).await,
        Config::S3(_) | Config::Nfs(_) => {
            let why = "only a store of backend hdfs tells on which machines bytes lie";
            Err(Error::new(ErrorKind::Unsupported, Op::Stat, path, why))
        }
    }
}

/// Undoes what stands in the journal of `limits`: what an earlier client of the same volume and identity left when its process
/// died. Done when all of it is undone, or no more of it can be.
///
/// # Errors
/// As [`connect`].
pub fn replay(
    config: &Config,
    credential: impl Into<auth::Current>,
    root: &Path,
    limits: Limits,
) -> Result<BoxFuture<'static, ()>> {
    match config {
        Config::Hdfs(config) => hdfs::replay(config, &credential.into(), root, limits),
        Config::Nfs(config) => nfs::replay(config, &credential.into(), root, limits),
        Config::S3(_) => Ok(Box::pin(async {})),
    }
}

/// What one client may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Pays for upload parts and whatever else a backend holds in memory.
    pub budget: crate::budget::Budget,
    /// Deadline of a request, and of progress in one that moves bytes.
    pub timeout: crate::tunable::Span,
    /// The store keeps the directory to a quota of its own ([`records::Records::set_quota`]), so that what it has room for
    /// is what that leaves.
    pub quota: bool,
    /// Makes connections where the store wants privileged source ports; `None` where this process does that itself.
    pub dialer: Option<Arc<dyn nfs::Dialer>>,
    /// Where it notes what is to be undone where its process dies.
    pub journal: journal::Journal,
}

impl Limits {
    /// A budget of `memory` bytes of its own.
    pub fn alone(memory: u64, timeout: Duration) -> Limits {
        let (budget, journal) = (crate::budget::Budget::new(memory), journal::Journal::default());
        Limits { budget, timeout: timeout.into(), quota: false, dialer: None, journal }
    }
}
