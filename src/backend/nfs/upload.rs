//! Files that are written whole [`beside`] their place: UNSTABLE, committed, and given their name by RENAME, or by LINK
//! where nothing may lie there, of which the server lets one of many win. NFSv3 has no condition for what a RENAME
//! replaces.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nfs3_types::nfs3::{Nfs3Option, createhow3, nfs_fh3, sattr3};

use super::calls::{Outcome, option};
use super::mounting::Mounted;
use super::tree::{Found, Tree, look};
use super::unstable::{Target, Unstable};
use super::{Nfs, changes, in_place, version};
use crate::backend::beside::{self, Beside, Uploading};
use crate::backend::journal::{Journal, Note};
use crate::backend::{Backend, CreateOptions, ErrorKind, Meta, Name, Op, Path, Result, SetAttributes};

/// Bytes that are written and not committed at most.
const UNCOMMITTED: u64 = 8 << 20;

/// `Backend::create`.
pub(super) async fn create(tree: &Arc<Tree>, path: &Path, how: CreateOptions) -> Result<Uploading<Nfs>> {
    beside::create(Nfs { tree: tree.clone() }, path, how).await
}

/// A file that has not got its name yet.
#[derive(Debug)]
pub(in crate::backend) struct File {
    path: Path,
    handle: nfs_fh3,
    /// As [`Version::file`](crate::backend::Version::file) says.
    which: Arc<str>,
    unstable: Unstable,
}

async fn begin(tree: &Tree, path: &Path) -> Outcome<Found> {
    let (dir, name) = changes::new_name(path)?;
    let name = &name;
    tree.in_directory(&dir, |mounted, dir| async move { new_file(&mounted, &dir, name).await }).await
}

/// Makes a file under a name that nobody else uses.
async fn new_file(mounted: &Mounted, dir: &nfs_fh3, name: &Name) -> Outcome<Found> {
    let attributes = sattr3 { mode: Nfs3Option::Some(beside::MODE), ..sattr3::default() };
    let made = mounted.server.create(dir, name.as_bytes(), createhow3::GUARDED(attributes)).await;
    match made.outcome {
        Ok(made) => match option(made.obj).zip(option(made.obj_attributes)) {
            Some((handle, attributes)) => Ok(Found { handle, attributes }),
            None => look(mounted, dir, name).await,
        },
        // The first sending made it.
        Err(failure) if failure.kind == ErrorKind::AlreadyExists && made.resent => look(mounted, dir, name).await,
        Err(failure) => Err(failure),
    }
}

async fn append(tree: &Tree, file: &mut File, offset: u64, data: Bytes) -> Outcome<()> {
    let target = Target { tree, path: &file.path, handle: &file.handle };
    let lease = tree.limits.budget.try_acquire(data.len() as u64);
    let unpaid = lease.is_none();
    file.unstable.write(target, offset, data, lease).await?;
    if unpaid || file.unstable.bytes() > UNCOMMITTED {
        file.unstable.commit(target).await?;
    }
    Ok(())
}

async fn seal(tree: &Tree, file: &mut File) -> Outcome<()> {
    let target = Target { tree, path: &file.path, handle: &file.handle };
    file.unstable.commit(target).await.map(drop)
}

async fn set(tree: &Tree, file: &File, set: &SetAttributes) -> Outcome<()> {
    if *set == SetAttributes::default() {
        return Ok(());
    }
    let set = &in_place::wanted(set)?;
    let setting =
        |mounted: Arc<Mounted>| async move { mounted.server.setattr(&file.handle, set.clone()).await.map(drop) };
    tree.by_handle(&file.path, &file.handle, setting).await
}

/// Gives the file its name: the only one where it replaces something, else one more.
async fn name(tree: &Tree, file: &File, to: &Path, replace: bool) -> Outcome<()> {
    let ((from_dir, from_name), (to_dir, to_name)) = (changes::new_name(&file.path)?, changes::new_name(to)?);
    match replace {
        true => {
            let to_dir = tree.directory(&to_dir).await?;
            changes::rename_over(tree, (&from_dir, &from_name), (&to_dir, &to_name)).await?;
            tree.limits.journal.over(Note::hidden(&file.path, None)).await;
            Ok(())
        }
        false => changes::add_name(tree, &file.handle, (&to_dir, &to_name)).await,
    }
}

async fn unlink(tree: &Tree, path: &Path) -> Outcome<()> {
    let (dir, name) = changes::new_name(path)?;
    let name = name.as_bytes();
    tree.in_directory(&dir, |mounted, dir| async move { mounted.server.remove(&dir, name).await.outcome.map(drop) })
        .await
}

#[async_trait]
impl Beside for Nfs {
    type File = File;

    fn store(&self) -> &dyn Backend {
        self
    }

    fn journal(&self) -> &Journal {
        &self.tree.limits.journal
    }

    async fn check(&self, path: &Path) -> Result<()> {
        let (dir, _) = changes::new_name(path).map_err(|failure| failure.at(Op::Write, path))?;
        self.tree.directory(&dir).await.map(drop).map_err(|failure| failure.at(Op::Write, path))
    }

    async fn begin(&self, path: &Path) -> Result<File> {
        let made = begin(&self.tree, path).await.map_err(|failure| failure.at(Op::Write, path))?;
        let which = version::file(&made.handle, &made.attributes);
        Ok(File { path: path.clone(), handle: made.handle, which, unstable: Unstable::default() })
    }

    async fn append(&self, file: &mut File, offset: u64, data: Bytes) -> Result<()> {
        append(&self.tree, file, offset, data).await.map_err(|failure| failure.at(Op::Write, &file.path))
    }

    async fn seal(&self, file: &mut File) -> Result<()> {
        seal(&self.tree, file).await.map_err(|failure| failure.at(Op::Publish, &file.path))
    }

    async fn set(&self, file: &mut File, attributes: &SetAttributes) -> Result<()> {
        set(&self.tree, file, attributes).await.map_err(|failure| failure.at(Op::Publish, &file.path))
    }

    fn which(&self, file: &File) -> Arc<str> {
        file.which.clone()
    }

    async fn place(&self, file: &File, to: &Path, replace: bool) -> Result<Meta> {
        let told = |failure: super::error::Failure| failure.at(Op::Publish, to);
        name(&self.tree, file, to, replace).await.map_err(told)?;
        if !replace {
            beside::discard(self, &file.path).await;
        }
        // Its new name changed its ctime.
        let mounted = self.tree.mounted().await.map_err(told)?;
        let attributes = mounted.server.getattr(&file.handle).await.map_err(told)?;
        Ok(version::meta(to, &file.handle, &attributes))
    }

    async fn unlink(&self, path: &Path) -> Result<()> {
        unlink(&self.tree, path).await.map_err(|failure| failure.at(Op::Remove, path))
    }
}
