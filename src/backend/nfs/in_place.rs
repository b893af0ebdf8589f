//! Files changed in place: real random writes, made lasting by COMMIT.
//!
//! A WRITE whose caller was told that the server does not answer is still on its way, and a later one of the same file
//! waits for it, whoever opened the file: else a server that goes on after a freeze could carry out the older one last.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nfs3_types::nfs3::{Nfs3Option, createhow3, createverf3, fattr3, nfs_fh3, nfstime3, sattr3, set_atime, set_mtime};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use super::rpc::Trouble;
use super::tree::{Found, Tree, look};
use super::unstable::{Target, Unstable};
use super::{changes, version};
use crate::backend::{ErrorKind, InPlace, Meta, Op, Path, Result, SetAttributes, Version};

/// How long a WRITE or COMMIT waits for its answer, whoever waits for it meanwhile.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Bytes of one file that are written and not committed at most, where the budget has them.
const UNCOMMITTED: u64 = 64 << 20;

/// `Backend::make_file`.
pub(super) async fn make_file(tree: &Tree, path: &Path, mode: u32) -> Outcome<Meta> {
    let (dir, name) = changes::new_name(path)?;
    let name = &name;
    let verifier = createverf3(rand::random());
    let found = tree
        .in_directory(&dir, |mounted, dir| async move {
            let made = mounted.server.create(&dir, name.as_bytes(), createhow3::EXCLUSIVE(verifier)).await.outcome?;
            let handle = match option(made.obj) {
                Some(handle) => handle,
                None => look(&mounted, &dir, name).await?.handle,
            };
            // Some servers keep the verifier in the times until they are set.
            let set = sattr3 {
                mode: Nfs3Option::Some(mode & 0o7777),
                atime: set_atime::SET_TO_SERVER_TIME,
                mtime: set_mtime::SET_TO_SERVER_TIME,
                ..sattr3::default()
            };
            let set = mounted.server.setattr(&handle, set).await?;
            let attributes = match option(set.obj_wcc.after) {
                Some(attributes) => attributes,
                None => mounted.server.getattr(&handle).await?,
            };
            Ok(Found { handle, attributes })
        })
        .await?;
    Ok(version::meta(path, &found.handle, &found.attributes))
}

/// `Backend::open_write`. Asks nothing of the server, which looks at every write who makes it.
pub(super) fn open_write(tree: &Arc<Tree>, file: &Version) -> Outcome<Writing> {
    let handle = version::handle(file).ok_or_else(|| Failure::new(ErrorKind::Stale, "a version of another store"))?;
    let open = || {
        let unstable = Arc::new(Mutex::new(Unstable::patient(PATIENCE)));
        Open { tree: tree.clone(), handle, unstable }
    };
    Ok(Writing { open: tree.writers.get_or(&file.file, open), path: file.path.clone() })
}

/// `Backend::set_attributes`.
pub(super) async fn set_attributes(tree: &Tree, path: &Path, set: &SetAttributes) -> Outcome<Meta> {
    let set_all = wanted(set)?;
    let quiet = match set.size {
        Some(_) => quiet(tree, path).await?,
        None => None,
    };
    let setting = |mounted: Arc<Mounted>, handle| {
        let set_all = set_all.clone();
        async move {
            let done = mounted.server.setattr(&handle, set_all).await?;
            let attributes = match option(done.obj_wcc.after) {
                Some(attributes) => attributes,
                None => mounted.server.getattr(&handle).await?,
            };
            Ok(Found { handle, attributes })
        }
    };
    let found = tree.at_path(path, setting).await?;
    if let (Some(mut unstable), Some(size)) = (quiet, set.size) {
        unstable.cut(size);
    }
    Ok(version::meta(path, &found.handle, &found.attributes))
}

/// Waits until nothing is on its way to the file at `path` that could make it longer again, and keeps it so until what this
/// gives is dropped.
async fn quiet(tree: &Tree, path: &Path) -> Outcome<Option<OwnedMutexGuard<Unstable>>> {
    let Found { handle, attributes } = tree.lookup(path).await?;
    let Some(open) = tree.writers.get(&version::file(&handle, &attributes)) else { return Ok(None) };
    let path = path.clone();
    let quieting = async move {
        let mut unstable = open.unstable.clone().lock_owned().await;
        match unstable.commit(open.target(&path)).await {
            // Something may still be on its way.
            Err(failure) if failure.kind == ErrorKind::Unavailable => Err(failure),
            // A file that its server has no room for is cut all the same.
            _ => Ok(Some(unstable)),
        }
    };
    to_its_end(tree.limits.timeout.get(), quieting).await
}

/// Does `work` to its end, and waits for that end as long as a call may take.
async fn to_its_end<T, F>(patience: Duration, work: F) -> Outcome<T>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    match timeout(patience, tokio::spawn(work)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Failure::new(ErrorKind::Other, "the task that wrote the file died")),
        Err(_) => Err(Trouble::Late(patience, None).into()),
    }
}

/// Attributes as the protocol has them.
pub(super) fn wanted(set: &SetAttributes) -> Outcome<sattr3> {
    let given = |value: Option<u32>| value.map_or(Nfs3Option::None, Nfs3Option::Some);
    let time = |time: std::time::SystemTime| {
        nfstime3::try_from(time).map_err(|_| Failure::new(ErrorKind::InvalidName, "NFSv3 has no time before 1970"))
    };
    Ok(sattr3 {
        mode: given(set.mode),
        uid: given(set.uid),
        gid: given(set.gid),
        size: set.size.map_or(Nfs3Option::None, Nfs3Option::Some),
        atime: set.atime.map(time).transpose()?.map_or(set_atime::DONT_CHANGE, set_atime::SET_TO_CLIENT_TIME),
        mtime: set.mtime.map(time).transpose()?.map_or(set_mtime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME),
    })
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    open: Arc<Open>,
    /// Where it lay when it was opened.
    path: Path,
}

/// What all share who write one file.
#[derive(Debug)]
pub(super) struct Open {
    tree: Arc<Tree>,
    handle: nfs_fh3,
    unstable: Arc<Mutex<Unstable>>,
}

impl Open {
    fn target<'a>(&'a self, path: &'a Path) -> Target<'a> {
        Target { tree: &self.tree, path, handle: &self.handle }
    }

    async fn write(&self, path: &Path, offset: u64, data: Bytes) -> Outcome<Option<fattr3>> {
        let mut unstable = self.unstable.lock().await;
        let lease = self.tree.limits.budget.try_acquire(data.len() as u64);
        let unpaid = lease.is_none();
        let attributes = unstable.write(self.target(path), offset, data, lease).await?;
        if unpaid || unstable.bytes() > UNCOMMITTED {
            return Ok(unstable.commit(self.target(path)).await?.or(attributes));
        }
        Ok(attributes)
    }

    async fn sync(&self, path: &Path) -> Outcome<Option<fattr3>> {
        self.unstable.lock().await.commit(self.target(path)).await
    }
}

impl Writing {
    async fn wait<F>(&self, op: Op, work: F) -> Result<Option<Meta>>
    where
        F: Future<Output = Outcome<Option<fattr3>>> + Send + 'static,
    {
        let outcome = to_its_end(self.open.tree.limits.timeout.get(), work).await;
        let meta = |attributes| version::meta(&self.path, &self.open.handle, &attributes);
        outcome.map(|attributes| attributes.map(meta)).map_err(|failure| failure.at(op, &self.path))
    }
}

#[async_trait]
impl InPlace for Writing {
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>> {
        let (open, path) = (self.open.clone(), self.path.clone());
        self.wait(Op::Write, async move { open.write(&path, offset, data).await }).await
    }

    async fn sync(&self) -> Result<Option<Meta>> {
        let (open, path) = (self.open.clone(), self.path.clone());
        self.wait(Op::Publish, async move { open.sync(&path).await }).await
    }
}
