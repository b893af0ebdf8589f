//! HDFS as a backend: Hadoop's RPC and data transfer by the `hdfs-native` library, and WebHDFS for what it leaves out.
//!
//! What lies at a path is asked of WebHDFS, which gives file ids; a file is then read by its id, so that what is read is
//! the file that was seen, or `Stale`. A file takes bytes at its end alone.

mod access;
mod calls;
mod changes;
mod error;
mod growing;
mod identity;
mod in_place;
pub mod kerberos;
mod list;
mod locations;
mod open;
mod owners;
mod pipeline;
mod quota;
mod read;
mod records;
mod replay;
mod restoring;
mod slots;
mod snapshots;
mod space;
mod taking;
#[cfg(test)]
mod tests;
mod upload;
mod version;
mod webhdfs;
mod writers;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use self::calls::Library;
use self::error::{Failure, Outcome};
use self::growing::Growing;
use self::identity::Identity;
use self::kerberos::Realm;
use self::read::Readers;
use self::slots::Slots;
use self::space::Room;
use self::webhdfs::{Status, WebHdfs};
use self::writers::Writers;
use crate::auth;
use crate::backend::{
    Backend, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Limits, Located, Meta, Op, Path,
    RenameOptions, Result, Rights, SetAttributes, Space, Traits, Upload, Version, journal, reading,
};

pub use owners::{NOBODY, Owners};
pub(super) use records::Root;
pub(super) use snapshots::snapshot_of;
pub(super) use taking::Taking;

/// How to reach a cluster, or a directory of it: the administrator's words, no identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `host:port` of each name node's RPC.
    pub namenodes: Vec<String>,
    /// `http://host:port` or `https://host:port` of each name node.
    pub webhdfs: Vec<String>,
    /// The store's root, without leading or trailing slash; empty for all of it.
    pub prefix: String,
    /// CA certificates in PEM form, where WebHDFS' are not signed by a public one.
    pub ca_bundle: Option<String>,
    /// Numbers of users and groups.
    pub owners: Owners,
    /// More of Hadoop's own words, as far as a stores file may give them.
    pub options: BTreeMap<String, String>,
    /// Where users prove who they are; without it the cluster believes what it is told.
    #[serde(default)]
    pub kerberos: Option<Realm>,
    /// The most blocks that a mount reads at once, each over a connection to a DataNode.
    #[serde(default = "usual_connections")]
    pub connections: u32,
}

/// What a mount reads at once where nobody says.
pub fn usual_connections() -> u32 {
    64
}

impl Config {
    /// All of a cluster with one name node; everything else as a stores file leaves it out.
    pub fn at(namenode: &str, webhdfs: &str) -> Config {
        Config {
            namenodes: vec![namenode.to_owned()],
            webhdfs: vec![webhdfs.to_owned()],
            prefix: String::new(),
            ca_bundle: None,
            owners: Owners::default(),
            options: BTreeMap::new(),
            kerberos: None,
            connections: usual_connections(),
        }
    }
}

/// One volume of a cluster, used as one user.
#[derive(Debug, Clone)]
pub(super) struct Hdfs {
    tree: Arc<Tree>,
}

/// What all of a volume's operations need.
#[derive(Debug)]
struct Tree {
    library: Library,
    web: WebHdfs,
    owners: Owners,
    /// The volume's directory, absolute, without a slash at its end.
    root: String,
    limits: Limits,
    readers: Readers,
    slots: Slots,
    writers: Writers,
    growing: Growing,
    room: Room,
}

impl Hdfs {
    /// See [`crate::backend::connect`].
    pub(super) fn connect(config: &Config, credential: &auth::Current, root: &Path, limits: Limits) -> Result<Hdfs> {
        Ok(Hdfs { tree: Arc::new(Tree::new(config, credential, root, limits)?) })
    }
}

impl Tree {
    /// The directory `root` of a store, used as `credential`. Asks nothing of it.
    fn new(config: &Config, credential: impl Into<auth::Current>, root: &Path, limits: Limits) -> Result<Tree> {
        let wrong = |kind, why: String| Error::new(kind, Op::Connect, root, why);
        let identity = Identity::new(config, credential.into()).map_err(|failure| failure.at(Op::Connect, root))?;
        if config.namenodes.is_empty() || config.webhdfs.is_empty() {
            return Err(wrong(ErrorKind::Misconfigured, "a store of backend hdfs without a name node".into()));
        }
        let prefix = Path::parse(&config.prefix)
            .map_err(|why| wrong(ErrorKind::Misconfigured, format!("prefix {:?}: {why}", config.prefix)))?;
        let dir = root.names().fold(prefix, |dir, name| dir.join(&name));
        let root = absolute("", &dir).map_err(|failure| failure.at(Op::Connect, root))?;
        let web = WebHdfs::new(config, identity.clone(), limits.timeout.clone())
            .map_err(|why| wrong(ErrorKind::Misconfigured, why))?;
        let library = Library::new(config, identity, limits.timeout.clone());
        let (readers, writers, growing, room) = Default::default();
        let (owners, slots) = (config.owners.clone(), Slots::new(config.connections));
        Ok(Tree { library, web, owners, root, limits, readers, slots, writers, growing, room })
    }

    /// The absolute path of `path`. `InvalidName` for names that HDFS does not have.
    fn at(&self, path: &Path) -> Outcome<String> {
        match absolute(&self.root, path)? {
            root if root.is_empty() => Ok("/".to_owned()),
            path => Ok(path),
        }
    }

    /// What lies at `path`, with what was written here and is on its way. `NotFound`, also for names that HDFS cannot have.
    async fn status(&self, path: &Path) -> Outcome<Status> {
        let at = self.at(path).map_err(|failure| match failure.kind {
            ErrorKind::InvalidName => Failure::absent(),
            _ => failure,
        })?;
        let mut status = self.web.status(&at).await?;
        if self.is_in_snapshot(path) {
            return Ok(status);
        }
        if self.limits.journal.is_held(status.file_id) {
            // Its length is about to become another.
            let _ = timeout(self.limits.timeout.get(), self.limits.journal.is_free(status.file_id)).await;
            status = self.web.status(&at).await?;
        }
        let mut status = self.growing.look(&self.web, &at, status).await?;
        self.writers.add_to(&mut status);
        Ok(status)
    }

    /// What lies at `path`, if anything does.
    async fn status_any(&self, path: &Path) -> Outcome<Option<Status>> {
        match self.status(path).await {
            Ok(status) => Ok(Some(status)),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn meta(&self, path: &Path) -> Outcome<Meta> {
        Ok(version::meta(path, &self.status(path).await?, &self.owners))
    }
}

/// `path` below `root`, which has no slash at its end.
fn absolute(root: &str, path: &Path) -> Outcome<String> {
    let bad = |why: &str| Err(Failure::new(ErrorKind::InvalidName, why));
    match path.as_str() {
        Some("") => Ok(root.to_owned()),
        Some(text) if text.contains(':') => bad("HDFS takes no name with a colon (':')"),
        Some(text) => Ok(format!("{root}/{text}")),
        None => bad("names in HDFS are UTF-8"),
    }
}

#[async_trait]
impl Backend for Hdfs {
    fn traits(&self) -> Traits {
        Traits {
            atomic_rename: true,
            real_directories: true,
            exact_versions: true,
            read_proves_path: false,
            own_permissions: true,
            append: true,
            random_write: false,
            hard_links: false,
            largest_file: i64::MAX as u64,
        }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.tree.meta(path).await.map_err(|failure| failure.at(Op::Stat, path))
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        list::list(self.tree.clone(), dir)
    }

    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        read::read(&self.tree, file, range, why).await
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        reading::fetch(self, path, longest, known).await
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        Ok(Box::new(upload::create(&self.tree, path, how).await?))
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        changes::make_dir(&self.tree, path).await.map_err(|failure| failure.at(Op::MakeDir, path))
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        changes::remove(&self.tree, path, kind).await.map_err(|failure| failure.at(Op::Remove, path))
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        changes::rename(&self.tree, from, to, how).await.map_err(|failure| failure.at(Op::Rename, from))
    }

    async fn make_file(&self, path: &Path, mode: u32) -> Result<Meta> {
        in_place::make_file(&self.tree, path, mode).await.map_err(|failure| failure.at(Op::Write, path))
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        match in_place::open_write(&self.tree, file) {
            Ok(writing) => Ok(Arc::new(writing)),
            Err(failure) => Err(failure.at(Op::Write, &file.path)),
        }
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> Result<Meta> {
        changes::set_attributes(&self.tree, path, set).await.map_err(|failure| failure.at(Op::SetAttributes, path))
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        access::access(&self.tree, path, asked).await.map_err(|failure| failure.at(Op::Access, path))
    }

    async fn space(&self) -> Result<Option<Space>> {
        space::space(&self.tree).await.map_err(|failure| failure.at(Op::Space, &Path::root()))
    }
}

/// See [`crate::backend::replay`].
pub(super) fn replay(
    config: &Config,
    credential: &auth::Current,
    root: &Path,
    limits: Limits,
) -> Result<BoxFuture<'static, ()>> {
    let tree = Tree::new(config, credential, root, limits)?;
    Ok(Box::pin(async move { journal::replay::replay(&tree.limits.journal, &tree).await }))
}

/// See [`crate::backend::reach`].
pub(super) async fn reach(config: &Config, deadline: Duration) -> Result<()> {
    webhdfs::answers(config, deadline).await.map_err(|failure| failure.at(Op::Connect, &Path::root()))
}

/// See [`crate::backend::locate`].
pub(super) async fn locate(config: &Config, credential: &auth::Credential, path: &Path) -> Result<Located> {
    let limits = Limits::alone(0, Duration::from_secs(30));
    let tree = Arc::new(Tree::new(config, credential, &Path::root(), limits)?);
    locations::locate(&tree, path).await.map_err(|failure| failure.at(Op::Stat, path))
}
