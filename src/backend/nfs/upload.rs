//! A file written whole and in order: into a file of the backend's own beside it, which then takes its name.
//!
//! What is to lie at no other's place gets its name by LINK, of which the server lets one of many win. What replaces a
//! known version is compared with it first, which another client's change between the two can slip through; NFSv3 has no
//! condition for it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use nfs3_types::nfs3::{Nfs3Option, createhow3, nfs_fh3, nfstime3, sattr3, set_mtime};

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use super::tree::{Found, Tree};
use super::unstable::Unstable;
use super::{read, version};
use crate::backend::{Attributes, Base, CreateOptions, ErrorKind, Meta, Name, Op, Path, Result, Upload, Version};

/// Bytes gathered for one write.
const GATHER: usize = 1 << 20;

/// Bytes that are written and not committed at most.
const UNCOMMITTED: u64 = 8 << 20;

/// Permission bits of a new file.
const MODE: u32 = 0o644;

/// `Backend::create`.
pub(super) async fn create(tree: &Arc<Tree>, path: &Path, how: CreateOptions) -> Outcome<Uploading> {
    let Some((dir, name)) = path.split_last() else {
        return Err(Failure::new(ErrorKind::IsADirectory, "it is the volume's own directory"));
    };
    // A parent that is no directory is told as such.
    tree.directory(&dir).await?;
    if tree.lookup_any(path).await?.is_some_and(|found| found.is_directory()) {
        return Err(Failure::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    Ok(Uploading {
        tree: tree.clone(),
        dir,
        name,
        base: how.base,
        written: 0,
        tail: BytesMut::new(),
        temporary: None,
        published: None,
    })
}

/// See the module.
#[derive(Debug)]
pub(super) struct Uploading {
    tree: Arc<Tree>,
    dir: Path,
    name: Name,
    base: Base,
    written: u64,
    /// The last of what was written, as far as it was not sent.
    tail: BytesMut,
    /// The file that has not got its name yet.
    temporary: Option<Temporary>,
    /// What was last published, while nothing was sent since: all but the tail.
    published: Option<Version>,
}

#[derive(Debug)]
struct Temporary {
    tree: Arc<Tree>,
    dir: Path,
    name: Name,
    handle: nfs_fh3,
    /// Bytes that were sent.
    length: u64,
    unstable: Unstable,
    /// It took the file's name.
    placed: bool,
}

impl Temporary {
    async fn new(tree: &Arc<Tree>, dir: &Path) -> Outcome<Temporary> {
        let name = Name::hidden();
        let text = name.as_bytes();
        let handle = tree.in_directory(dir, |mounted, dir| async move { new_file(&mounted, &dir, text).await }).await?;
        let (unstable, length, placed) = (Unstable::default(), 0, false);
        Ok(Temporary { tree: tree.clone(), dir: dir.clone(), name, handle, length, unstable, placed })
    }

    async fn append(&mut self, data: Bytes) -> Outcome<()> {
        let mounted = self.tree.mounted().await?;
        let length = data.len() as u64;
        let lease = self.tree.limits.budget.try_acquire(length);
        let unpaid = lease.is_none();
        self.unstable.write(&mounted, &self.handle, self.length, data, lease).await?;
        self.length += length;
        if unpaid || self.unstable.bytes() > UNCOMMITTED {
            self.unstable.commit(&mounted, &self.handle).await?;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        // Without a runtime it stays, hidden, until a listing finds it old enough.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (tree, dir, name) = (self.tree.clone(), self.dir.clone(), self.name.clone());
        runtime.spawn(async move { discard(&tree, &dir, &name).await });
    }
}

/// Removes a file of the backend's own.
pub(super) async fn discard(tree: &Tree, dir: &Path, name: &Name) {
    let removed = tree
        .in_directory(dir, |mounted, dir| async move {
            mounted.server.remove(&dir, name.as_bytes()).await.outcome.map(drop)
        })
        .await;
    match removed {
        Err(failure) if failure.kind != ErrorKind::NotFound => {
            tracing::warn!(%dir, %name, why = %failure, "a file of the driver's own could not be removed");
        }
        _ => {}
    }
}

/// Makes a file under a name that nobody else uses.
async fn new_file(mounted: &Mounted, dir: &nfs_fh3, name: &[u8]) -> Outcome<nfs_fh3> {
    let attributes = sattr3 { mode: Nfs3Option::Some(MODE), ..sattr3::default() };
    let made = mounted.server.create(dir, name, createhow3::GUARDED(attributes)).await;
    match made.outcome {
        Ok(made) => match option(made.obj) {
            Some(handle) => Ok(handle),
            None => Ok(mounted.server.lookup(dir, name).await?.object),
        },
        // The first sending made it.
        Err(failure) if failure.kind == ErrorKind::AlreadyExists && made.resent => {
            Ok(mounted.server.lookup(dir, name).await?.object)
        }
        Err(failure) => Err(failure),
    }
}

impl Uploading {
    fn path(&self) -> Path {
        self.dir.join(&self.name)
    }

    /// Sends the tail, behind all that was written before it.
    async fn send(&mut self) -> Outcome<()> {
        let temporary = match &mut self.temporary {
            Some(temporary) => temporary,
            None => {
                let mut temporary = Temporary::new(&self.tree, &self.dir).await?;
                if let Some(published) = &self.published {
                    copy(&self.tree, published, &mut temporary).await?;
                }
                self.temporary.insert(temporary)
            }
        };
        if !self.tail.is_empty() {
            temporary.append(self.tail.clone().freeze()).await?;
            self.tail.clear();
        }
        Ok(())
    }

    async fn put_there(&mut self, attributes: &Attributes) -> Outcome<Meta> {
        if self.published.is_some() && self.temporary.is_none() && self.tail.is_empty() {
            return self.as_published(attributes).await;
        }
        self.send().await?;
        let path = self.path();
        let there = self.tree.lookup_any(&path).await?;
        let Some(temporary) = &mut self.temporary else { return Err(Failure::corrupt("there is nothing to publish")) };
        let mounted = self.tree.mounted().await?;
        temporary.unstable.commit(&mounted, &temporary.handle).await?;
        let mut set = wanted(attributes);
        if let (Nfs3Option::None, Some(there)) = (&set.mode, &there) {
            set.mode = Nfs3Option::Some(there.attributes.mode & 0o7777);
        }
        if !unchanging(&set) {
            mounted.server.setattr(&temporary.handle, set).await?;
        }
        place(temporary, &self.dir, &self.name, &self.base, there.as_ref()).await?;
        temporary.placed = true;
        let attributes = mounted.server.getattr(&temporary.handle).await?;
        let meta = version::meta(&path, &temporary.handle, &attributes);
        self.temporary = None;
        self.published = meta.version().cloned();
        if let (false, Some(version)) = (self.base == Base::Any, &self.published) {
            self.base = Base::Version(version.clone());
        }
        Ok(meta)
    }

    /// Nothing was written since the last publish: what it left there.
    async fn as_published(&mut self, attributes: &Attributes) -> Outcome<Meta> {
        let path = self.path();
        let found = self.tree.lookup_any(&path).await?;
        let is_base = |found: &Found| match &self.base {
            Base::Version(base) => version::version(&path, &found.handle, &found.attributes).bytes == base.bytes,
            _ => !found.is_directory(),
        };
        let Some(mut found) = found.filter(is_base) else { return Err(overtaken()) };
        let set = wanted(attributes);
        if !unchanging(&set) {
            let mounted = self.tree.mounted().await?;
            mounted.server.setattr(&found.handle, set).await?;
            found.attributes = mounted.server.getattr(&found.handle).await?;
        }
        let meta = version::meta(&path, &found.handle, &found.attributes);
        self.published = meta.version().cloned();
        if let (Base::Version(base), Some(version)) = (&mut self.base, &self.published) {
            base.clone_from(version);
        }
        Ok(meta)
    }
}

/// Gives the file its name.
async fn place(temporary: &Temporary, dir: &Path, name: &Name, base: &Base, there: Option<&Found>) -> Outcome<()> {
    let tree = &temporary.tree;
    match (base, there) {
        // A reply was lost, and it has the name already.
        (_, Some(found)) if found.handle == temporary.handle => {}
        (Base::Version(base), Some(found)) => {
            let path = dir.join(name);
            if version::version(&path, &found.handle, &found.attributes).bytes != base.bytes {
                return Err(overtaken());
            }
        }
        (Base::Version(_), None) | (Base::Absent, Some(_)) => return Err(overtaken()),
        (Base::Any, Some(found)) if found.is_directory() => {
            return Err(Failure::new(ErrorKind::IsADirectory, "it is a directory"));
        }
        (Base::Any, _) | (Base::Absent, None) => {}
    }
    if *base == Base::Absent {
        let linked = tree
            .in_directory(dir, |mounted, dir| async move {
                mounted.server.link(&temporary.handle, &dir, name.as_bytes()).await.outcome.map(drop)
            })
            .await;
        match linked {
            Ok(()) => {}
            Err(failure) if failure.kind == ErrorKind::AlreadyExists => {
                let there = tree.lookup_any(&dir.join(name)).await?;
                if there.is_none_or(|there| there.handle != temporary.handle) {
                    return Err(overtaken());
                }
            }
            Err(failure) => return Err(failure),
        }
        discard(tree, &temporary.dir, &temporary.name).await;
        return Ok(());
    }
    let to = &tree.directory(dir).await?;
    tree.in_directory(&temporary.dir, |mounted, from| async move {
        let (from, to) = ((&from, temporary.name.as_bytes()), (to, name.as_bytes()));
        let renamed = mounted.server.rename(from, to).await;
        match renamed.outcome {
            // The first sending did it.
            Err(failure) if failure.kind == ErrorKind::NotFound && renamed.resent => Ok(()),
            outcome => outcome.map(drop),
        }
    })
    .await
}

/// Copies the published bytes to the beginning of a new file.
async fn copy(tree: &Arc<Tree>, published: &Version, to: &mut Temporary) -> Outcome<()> {
    let unread = |error: crate::backend::Error| match error.kind {
        ErrorKind::Stale => overtaken(),
        kind => Failure::new(kind, error.message),
    };
    let mut body = read::read(tree, published, 0..published.size).await.map_err(unread)?;
    while let Some(piece) = body.try_next().await.map_err(unread)? {
        to.append(piece).await?;
    }
    Ok(())
}

fn overtaken() -> Failure {
    Failure::new(ErrorKind::Stale, "another writer's file is there now, or the file is gone; it was left as it is")
}

/// Attributes as the protocol has them.
fn wanted(attributes: &Attributes) -> sattr3 {
    let given = |value: Option<u32>| value.map_or(Nfs3Option::None, Nfs3Option::Some);
    let mtime = attributes.mtime.and_then(|time| nfstime3::try_from(time).ok());
    sattr3 {
        mode: given(attributes.mode),
        uid: given(attributes.uid),
        gid: given(attributes.gid),
        mtime: mtime.map_or(set_mtime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME),
        ..sattr3::default()
    }
}

fn unchanging(set: &sattr3) -> bool {
    set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && matches!(set.mtime, set_mtime::DONT_CHANGE)
}

#[async_trait]
impl Upload for Uploading {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.tail.extend_from_slice(&data);
        self.written += data.len() as u64;
        if self.tail.len() >= GATHER {
            self.send().await.map_err(|failure| failure.at(Op::Write, &self.path()))?;
        }
        Ok(())
    }

    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta> {
        self.put_there(attributes).await.map_err(|failure| failure.at(Op::Publish, &self.path()))
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn peek(&self, range: Range<u64>) -> Option<Bytes> {
        let begin = self.written - self.tail.len() as u64;
        let (start, end) = (range.start.checked_sub(begin)?, range.end.min(self.written));
        (range.start < end).then(|| Bytes::copy_from_slice(&self.tail[start as usize..(end - begin) as usize]))
    }

    fn moved(&mut self, to: Path, version: Option<Version>) {
        if let Some((dir, name)) = to.split_last() {
            (self.dir, self.name) = (dir, name);
        }
        if let (Some(published), Some(version)) = (&mut self.published, &version) {
            published.clone_from(version);
        }
        if self.base != Base::Any {
            self.base = version.map_or(Base::Absent, Base::Version);
        }
    }

    async fn abort(self: Box<Self>) {
        let Some(mut temporary) = self.temporary else { return };
        temporary.placed = true;
        discard(&temporary.tree, &temporary.dir, &temporary.name).await;
    }
}
