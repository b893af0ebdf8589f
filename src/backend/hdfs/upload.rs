//! Files that are written whole [`beside`] their place: appended to at their end, and renamed. Of many renames that
//! replace nothing HDFS lets one win.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::{Failure, Outcome};
use super::in_place::{self, Writing};
use super::{Hdfs, Tree, changes, version};
use crate::backend::beside::{self, Beside, Uploading};
use crate::backend::journal::{Journal, Note};
use crate::backend::{Backend, CreateOptions, ErrorKind, Meta, Node, Op, Path, Result, SetAttributes, Version};

/// `Backend::create`.
pub(super) async fn create(tree: &Arc<Tree>, path: &Path, how: CreateOptions) -> Result<Uploading<Hdfs>> {
    beside::create(Hdfs { tree: tree.clone() }, path, how).await
}

/// A file that has not got its name yet.
#[derive(Debug)]
pub(in crate::backend) struct File {
    path: Path,
    writing: Writing,
    /// What its close said of it, while nothing was changed since.
    closed: Option<Meta>,
}

async fn check(tree: &Tree, path: &Path) -> Outcome<()> {
    let (dir, _) = changes::new_name(path)?;
    tree.at(path)?;
    match tree.status(&dir).await?.kind.as_str() {
        "DIRECTORY" => Ok(()),
        _ => Err(Failure::new(ErrorKind::NotADirectory, "what lies above it is no directory")),
    }
}

async fn set(tree: &Tree, file: &mut File, set: &SetAttributes) -> Outcome<()> {
    let has = |mode: &u32| file.closed.as_ref().and_then(|meta| meta.permissions).is_some_and(|has| has.mode == *mode);
    let set = SetAttributes { mode: set.mode.filter(|mode| !has(mode)), ..*set };
    if set == SetAttributes::default() {
        return Ok(());
    }
    file.closed = None;
    changes::apply(tree, &tree.at(&file.path)?, &set).await
}

async fn place(tree: &Tree, file: &File, to: &Path, replace: bool) -> Outcome<Meta> {
    let (from, at) = (&tree.at(&file.path)?, &tree.at(to)?);
    tree.library.act("write", |client| async move { client.rename(from, at, replace).await }).await?;
    tree.limits.journal.over(Note::hidden(&file.path, None)).await;
    match &file.closed {
        // A rename changes nothing of the file itself.
        Some(closed @ Meta { node: Node::File(version), .. }) => {
            let node = Node::File(Version { path: to.clone(), ..version.clone() });
            Ok(Meta { node, ..closed.clone() })
        }
        // What became of attributes that were set HDFS alone knows.
        _ => tree.meta(to).await,
    }
}

async fn unlink(tree: &Tree, path: &Path) -> Outcome<()> {
    let at = &tree.at(path)?;
    tree.library.act("remove", |client| async move { client.delete(at, false).await }).await.map(drop)
}

#[async_trait]
impl Beside for Hdfs {
    type File = File;

    fn store(&self) -> &dyn Backend {
        self
    }

    fn journal(&self) -> &Journal {
        &self.tree.limits.journal
    }

    async fn check(&self, path: &Path) -> Result<()> {
        check(&self.tree, path).await.map_err(|failure| failure.at(Op::Write, path))
    }

    async fn begin(&self, path: &Path) -> Result<File> {
        let begun = in_place::begin(&self.tree, path, beside::MODE).await;
        let writing = begun.map_err(|failure| failure.at(Op::Write, path))?;
        Ok(File { path: path.clone(), writing, closed: None })
    }

    async fn append(&self, file: &mut File, offset: u64, data: Bytes) -> Result<()> {
        file.closed = None;
        let written = file.writing.append(offset, data).await;
        written.map(drop).map_err(|failure| failure.at(Op::Write, &file.path))
    }

    async fn seal(&self, file: &mut File) -> Result<()> {
        let closed = file.writing.close().await.map_err(|failure| failure.at(Op::Publish, &file.path))?;
        // It says nothing of a file that was closed before.
        file.closed = closed.or(file.closed.take());
        Ok(())
    }

    async fn set(&self, file: &mut File, attributes: &SetAttributes) -> Result<()> {
        set(&self.tree, file, attributes).await.map_err(|failure| failure.at(Op::Publish, &file.path))
    }

    fn which(&self, file: &File) -> Arc<str> {
        version::file(file.writing.id())
    }

    async fn place(&self, file: &File, to: &Path, replace: bool) -> Result<Meta> {
        place(&self.tree, file, to, replace).await.map_err(|failure| failure.at(Op::Publish, to))
    }

    async fn unlink(&self, path: &Path) -> Result<()> {
        unlink(&self.tree, path).await.map_err(|failure| failure.at(Op::Remove, path))
    }
}
