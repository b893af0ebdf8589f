//! A file written whole and in order: into a file of the backend's own beside it, which then takes its name.
//!
//! What is to lie at no other's place gets its name by a rename that replaces nothing, of which HDFS lets one of many
//! win. What replaces a known version is compared with it first, which another client's change between the two can slip
//! through.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::error::{Failure, Outcome};
use super::in_place::{self, Writing};
use super::webhdfs::Status;
use super::{Tree, changes, read, version};
use crate::backend::{
    Attributes, Base, CreateOptions, ErrorKind, Meta, Name, Op, Path, Result, SetAttributes, Upload, Version,
};

/// Bytes gathered for one write.
const GATHER: usize = 1 << 20;

/// Permission bits of a new file.
const MODE: u32 = 0o644;

/// A file of the driver's own is in use for so long at most.
const LEFT_BEHIND: Duration = Duration::from_secs(7 * 24 * 3600);

/// `Backend::create`.
pub(super) async fn create(tree: &Arc<Tree>, path: &Path, how: CreateOptions) -> Outcome<Uploading> {
    let is_directory = || Failure::new(ErrorKind::IsADirectory, "it is a directory");
    let (dir, name) = path.split_last().ok_or_else(is_directory)?;
    tree.at(path)?;
    // A parent that is no directory is told as such.
    if tree.status(&dir).await?.kind != "DIRECTORY" {
        return Err(Failure::new(ErrorKind::NotADirectory, "what lies above it is no directory"));
    }
    if tree.status_any(path).await?.is_some_and(|status| status.kind == "DIRECTORY") {
        return Err(is_directory());
    }
    let (tree, tail) = (tree.clone(), BytesMut::new());
    Ok(Uploading { tree, dir, name, base: how.base, written: 0, tail, temporary: None, published: None })
}

/// Whether nobody can still be using a file of the driver's own.
pub(super) fn is_left_behind(name: &Name) -> bool {
    name.hidden_since().is_some_and(|age| age > LEFT_BEHIND)
}

/// Removes files of the driver's own that somebody left behind who died.
pub(super) fn sweep(tree: &Arc<Tree>, dir: &Path, names: Vec<Name>) {
    if names.is_empty() {
        return;
    }
    let (tree, dir) = (tree.clone(), dir.clone());
    tokio::spawn(async move {
        for name in names {
            discard(&tree, &dir.join(&name)).await;
        }
    });
}

async fn discard(tree: &Tree, path: &Path) {
    let Ok(at) = &tree.at(path) else { return };
    match tree.library.act("remove", |client| async move { client.delete(at, false).await }).await {
        Err(failure) if failure.kind != ErrorKind::NotFound => {
            tracing::warn!(%path, why = %failure, "a file of the driver's own could not be removed");
        }
        _ => {}
    }
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
    path: Path,
    at: String,
    writing: Writing,
    /// Bytes that were sent.
    length: u64,
    /// It took the file's name.
    placed: bool,
}

impl Temporary {
    async fn new(tree: &Arc<Tree>, dir: &Path) -> Outcome<Temporary> {
        let path = dir.join(&Name::hidden());
        let (at, writing) = (tree.at(&path)?, in_place::begin(tree, &path, MODE).await?);
        Ok(Temporary { tree: tree.clone(), path, at, writing, length: 0, placed: false })
    }

    async fn append(&mut self, data: Bytes) -> Outcome<()> {
        let length = data.len() as u64;
        self.writing.append(self.length, data).await?;
        self.length += length;
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
        let (tree, path) = (self.tree.clone(), self.path.clone());
        runtime.spawn(async move { discard(&tree, &path).await });
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
        let there = self.tree.status_any(&path).await?;
        let Some(temporary) = &mut self.temporary else { return Err(Failure::corrupt("there is nothing to publish")) };
        temporary.writing.close().await?;
        let mut set = wanted(attributes);
        if let (None, Some(there)) = (set.mode, &there) {
            set.mode = u32::from_str_radix(&there.permission, 8).ok();
        }
        changes::apply(&self.tree, &temporary.at, &set).await?;
        place(temporary, &self.tree.at(&path)?, &path, &self.base, there.as_ref()).await?;
        temporary.placed = true;
        let meta = self.tree.meta(&path).await?;
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
        let there = self.tree.status_any(&path).await?.filter(|there| there.kind == "FILE").ok_or_else(overtaken)?;
        if let Base::Version(base) = &self.base
            && version::version(&path, &there).bytes != base.bytes
        {
            return Err(overtaken());
        }
        changes::apply(&self.tree, &self.tree.at(&path)?, &wanted(attributes)).await?;
        let meta = self.tree.meta(&path).await?;
        self.published = meta.version().cloned();
        if let (Base::Version(base), Some(version)) = (&mut self.base, &self.published) {
            base.clone_from(version);
        }
        Ok(meta)
    }
}

/// Gives the file its name.
async fn place(temporary: &Temporary, to: &str, path: &Path, base: &Base, there: Option<&Status>) -> Outcome<()> {
    match (base, there) {
        (Base::Version(base), Some(there)) if version::version(path, there).bytes == base.bytes => {}
        (Base::Version(_), _) | (Base::Absent, Some(_)) => return Err(overtaken()),
        (Base::Any, Some(there)) if there.kind == "DIRECTORY" => {
            return Err(Failure::new(ErrorKind::IsADirectory, "it is a directory"));
        }
        (Base::Any, _) | (Base::Absent, None) => {}
    }
    let (from, replace) = (temporary.at.as_str(), *base != Base::Absent);
    let library = &temporary.tree.library;
    let moved = library.act("write", |client| async move { client.rename(from, to, replace).await }).await;
    moved.map_err(|failure| if failure.kind == ErrorKind::AlreadyExists { overtaken() } else { failure })
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

fn wanted(attributes: &Attributes) -> SetAttributes {
    let Attributes { mode, uid, gid, mtime } = *attributes;
    SetAttributes { mode, uid, gid, mtime, ..SetAttributes::default() }
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
        discard(&temporary.tree, &temporary.path).await;
    }
}
