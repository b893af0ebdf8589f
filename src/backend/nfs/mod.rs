//! NFSv3 in user space as a backend, over TCP with AUTH_SYS.
//!
//! NFS is close-to-open: what another client changes is seen when a file is looked up again, and a version is compared
//! with the attributes that come with every answer. Two changes within the server's clock tick look like one.

mod access;
mod calls;
mod changes;
mod error;
mod in_place;
mod lengths;
mod list;
mod meter;
mod mounting;
mod privileged;
mod read;
mod records;
mod replay;
mod rpc;
#[cfg(test)]
pub(crate) mod tests;
mod tree;
mod unstable;
mod upload;
mod version;
mod writers;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use self::error::Failure;
pub use self::privileged::{Dialer, MayNot, Service, dial, source_ports};
pub(super) use self::records::Root;
use self::tree::Tree;
use crate::auth;
use crate::backend::{
    Backend, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Limits, Meta, Op, Path,
    RenameOptions, Result, Rights, SetAttributes, Space, Traits, Upload, Version, journal, reading,
};

/// The most connections to one server.
pub const MOST_CONNECTIONS: u32 = 8;

/// Groups that AUTH_SYS has room for, beside the first (RFC 5531, appendix A).
pub const MOST_GROUPS: usize = 16;

/// How to reach an export, or a directory of it: the administrator's words, no identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name or address of the server, an IPv6 address without brackets.
    pub server: String,
    /// The exported directory, as the server names it: an absolute path.
    pub export: String,
    /// The store's root below the export, without leading or trailing slash; empty for all of it.
    pub prefix: String,
    /// Where NFS listens; `None` asks the server's portmapper.
    pub port: Option<u16>,
    /// Where MOUNT listens; `None` asks the server's portmapper.
    pub mount_port: Option<u16>,
    /// TCP connections of one mount, 1 to [`MOST_CONNECTIONS`].
    pub connections: u32,
    /// The server finds a user's groups by itself and looks at none that AUTH_SYS carries, so that there may be more
    /// than [`MOST_GROUPS`].
    pub server_groups: bool,
    /// The server takes calls from source ports below 1024 alone.
    #[serde(default)]
    pub privileged_ports: bool,
}

impl Config {
    /// All of an export at given ports; everything else as a stores file leaves it out.
    pub fn at(server: &str, export: &str, port: u16, mount_port: u16) -> Config {
        Config {
            server: server.to_owned(),
            export: export.to_owned(),
            prefix: String::new(),
            port: Some(port),
            mount_port: Some(mount_port),
            connections: 4,
            server_groups: false,
            privileged_ports: false,
        }
    }
}

/// One volume of an export, used as one identity.
#[derive(Debug, Clone)]
pub(super) struct Nfs {
    tree: Arc<Tree>,
}

impl Nfs {
    /// See [`crate::backend::connect`].
    pub(super) fn connect(config: &Config, credential: &auth::Current, root: &Path, limits: Limits) -> Result<Nfs> {
        Ok(Nfs { tree: Arc::new(tree_of(config, &credential.get().credential, root, limits)?) })
    }
}

/// The directory `root` of a store, as whoever `credential` is.
fn tree_of(config: &Config, credential: &auth::Credential, root: &Path, limits: Limits) -> Result<Tree> {
    let wrong = |kind, why: String| Error::new(kind, Op::Connect, root, why);
    let auth::Credential::Sys { uid, gid, groups } = credential else {
        let why = "a store of backend nfs is used as a uid and gid, and the credential is of another kind";
        return Err(wrong(ErrorKind::Unauthenticated, why.into()));
    };
    if groups.len() > MOST_GROUPS && !config.server_groups {
        let why = format!("{} groups, and AUTH_SYS has room for {MOST_GROUPS}", groups.len());
        return Err(wrong(ErrorKind::Misconfigured, why));
    }
    let prefix = Path::parse(&config.prefix)
        .map_err(|why| wrong(ErrorKind::Misconfigured, format!("prefix {:?}: {why}", config.prefix)))?;
    let root = root.names().fold(prefix, |dir, name| dir.join(&name));
    let credential = rpc::Credential::Sys { uid: *uid, gid: *gid, groups: groups.clone() };
    Ok(Tree::new(config, credential, root, limits))
}

#[async_trait]
impl Backend for Nfs {
    fn traits(&self) -> Traits {
        Traits {
            atomic_rename: true,
            real_directories: true,
            exact_versions: false,
            read_proves_path: false,
            own_permissions: true,
            append: true,
            random_write: true,
            hard_links: true,
            // The server's own limit comes as NFS3ERR_FBIG.
            largest_file: i64::MAX as u64,
        }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        let found = self.tree.lookup(path).await.map_err(|failure| failure.at(Op::Stat, path))?;
        Ok(version::meta(path, &found.handle, &found.attributes))
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        list::list(self.tree.clone(), dir)
    }

    async fn read(&self, file: &Version, range: Range<u64>, _why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        read::read(&self.tree, file, range).await
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
        let outcome = in_place::set_attributes(&self.tree, path, set).await;
        outcome.map_err(|failure| failure.at(Op::SetAttributes, path))
    }

    async fn make_symlink(&self, path: &Path, target: &[u8]) -> Result<Meta> {
        changes::make_symlink(&self.tree, path, target).await.map_err(|failure| failure.at(Op::Link, path))
    }

    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        changes::read_symlink(&self.tree, path).await.map_err(|failure| failure.at(Op::Link, path))
    }

    async fn link(&self, from: &Path, to: &Path) -> Result<Meta> {
        changes::link(&self.tree, from, to).await.map_err(|failure| failure.at(Op::Link, from))
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        access::access(&self.tree, path, asked).await.map_err(|failure| failure.at(Op::Access, path))
    }

    async fn space(&self) -> Result<Option<Space>> {
        let stat = |mounted: Arc<mounting::Mounted>, dir| async move { mounted.server.fsstat(&dir).await };
        let told = self.tree.in_directory(&Path::root(), stat).await;
        let told = told.map_err(|failure| failure.at(Op::Space, &Path::root()))?;
        Ok(Some(Space {
            total: told.tbytes,
            free: told.fbytes,
            available: told.abytes,
            files: told.tfiles,
            free_files: told.afiles,
        }))
    }
}

/// See [`crate::backend::replay`].
pub(super) fn replay(
    config: &Config,
    credential: &auth::Current,
    root: &Path,
    limits: Limits,
) -> Result<BoxFuture<'static, ()>> {
    // Beside the mount's own.
    let config = Config { connections: 1, ..config.clone() };
    let tree = tree_of(&config, &credential.get().credential, root, limits)?;
    Ok(Box::pin(async move { journal::replay::replay(&tree.limits.journal, &tree).await }))
}

/// See [`crate::backend::reach`].
pub(super) async fn reach(config: &Config, deadline: Duration) -> Result<()> {
    mounting::answers(config, deadline).await.map_err(|failure: Failure| failure.at(Op::Connect, &Path::root()))
}
