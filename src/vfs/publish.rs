//! When what was written is in the store.
//!
//! fsync, and the FLUSH of a lock owner that has written since the last publish, publish and report; RELEASE publishes
//! what neither did, and can only log.

use std::sync::PoisonError;

use super::changes::Outcome;
use super::handles::{Handle, Open};
use super::inodes::Ino;
use super::ledger::Amount;
use super::write::Owner;
use super::{Error, Invalidation, Result, Vfs};
use crate::backend::ErrorKind;

/// What asks for a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why<'a> {
    /// fsync: everything, an empty file too.
    Sync,
    /// FLUSH: what any of these wrote, who are one.
    Flush(&'a [Owner]),
    /// RELEASE: what nobody published, unless its writer was told that it cannot be.
    Release,
}

impl Vfs {
    /// One descriptor of an open file was closed by whom `owners` name in every way that is known. Publishes what he
    /// wrote, and nothing where he wrote nothing: a fork's exit and a spawned program's exec close descriptors too.
    ///
    /// # Errors
    /// As [`Vfs::fsync`].
    pub async fn flush(&self, handle: Handle, owners: &[Owner]) -> Result<()> {
        match self.handles.get(handle)? {
            Open::Writing { ino } if self.in_place() => self.flush_in_place(ino, owners).await,
            Open::Writing { ino } => self.publish(ino, Why::Flush(owners)).await,
            Open::Reading { .. } => Ok(()),
            Open::Order(order) => {
                self.flush_control(&order);
                Ok(())
            }
            Open::Directory(_) => Err(Error::BadHandle),
        }
    }

    /// Publishes the file as of now.
    ///
    /// # Errors
    /// `Stale` where another client changed the file meanwhile: its content stays, this one's is lost. Otherwise what
    /// the store failed with; a later fsync may succeed.
    pub async fn fsync(&self, handle: Handle) -> Result<()> {
        match self.handles.get(handle)? {
            Open::Writing { ino } if self.in_place() => self.sync_in_place(ino).await,
            Open::Writing { ino } => self.publish(ino, Why::Sync).await,
            Open::Reading { .. } | Open::Order(_) => Ok(()),
            Open::Directory(_) => Err(Error::BadHandle),
        }
    }

    /// The last descriptor of an open file is gone. Publishes what was not.
    ///
    /// # Errors
    /// As [`Vfs::fsync`]; nobody but the log hears of them.
    pub async fn release(&self, handle: Handle) -> Result<()> {
        match self.handles.remove(handle) {
            Some(Open::Reading { ino, seated, .. }) => {
                if seated {
                    self.passing.leave(ino);
                }
                self.closed(ino).await;
                Ok(())
            }
            Some(Open::Writing { ino }) if self.in_place() => self.release_in_place(ino).await,
            Some(Open::Writing { ino }) => self.release_writing(ino).await,
            Some(Open::Order(order)) => {
                self.close_control(&order);
                Ok(())
            }
            Some(Open::Directory(_)) | None => Err(Error::BadHandle),
        }
    }

    pub(super) async fn release_writing(&self, ino: Ino) -> Result<()> {
        let last = self.leave(ino)?;
        let published = if last { self.publish(ino, Why::Release).await } else { Ok(()) };
        if let Err(error) = published {
            let path = self.inodes().get(ino).map(|inode| inode.path.clone()).unwrap_or_default();
            tracing::error!(%path, %error, "a file could not be published after its last close: its content is lost");
        }
        self.end(ino).await;
        self.inodes().close(ino);
        published
    }

    /// Gives back a writing handle that came to nothing.
    pub(super) async fn forsake(&self, ino: Ino) {
        if self.leave(ino).is_ok() {
            self.end(ino).await;
            self.inodes().close(ino);
        }
    }

    /// One writer less; true for the last.
    fn leave(&self, ino: Ino) -> Result<bool> {
        let mut inodes = self.inodes();
        let file = inodes.get_mut(ino)?.file_mut()?;
        file.writers = file.writers.saturating_sub(1);
        Ok(file.writers == 0)
    }

    /// Ends a file's upload unless somebody opened it for writing meanwhile.
    async fn end(&self, ino: Ino) {
        let Ok(gate) = self.gate(ino) else { return };
        let mut gate = gate.lock().await;
        let writer = {
            let mut inodes = self.inodes();
            let Ok(inode) = inodes.get_mut(ino) else { return };
            let (linked, path) = (inode.linked, inode.path.clone());
            let Ok(file) = inode.file_mut() else { return };
            if file.writers > 0 {
                return;
            }
            let Some(writer) = gate.take() else { return };
            if writer.dirty {
                // What the kernel saw while it was written never came to be.
                file.pages_suspect = true;
                self.invalidate(Invalidation::Inode(ino));
            }
            if linked && file.stored.is_none() {
                if let Some((parent, name)) = path.split_last()
                    && let Some(parent) = inodes.at(&parent)
                {
                    self.invalidate(Invalidation::Entry { parent, name });
                }
                inodes.detach(&path);
            }
            inodes.set_written(ino, None);
            writer
        };
        self.ledger().give_back(writer.taken);
        writer.upload.abort().await;
    }

    pub(super) async fn publish(&self, ino: Ino, why: Why<'_>) -> Result<()> {
        if self.inodes().get(ino)?.file()?.written.is_none() {
            return Ok(());
        }
        let gate = self.gate(ino)?;
        let (path, _locked) = self.lock_file(ino).await?;
        let mut gate = gate.lock().await;
        let Some(writer) = gate.as_mut() else { return Ok(()) };
        let wanted = match why {
            Why::Sync => writer.dirty || writer.broken.is_some(),
            Why::Flush(owners) => {
                writer.flushed = true;
                owners.iter().any(|owner| writer.owners.contains(owner))
            }
            Why::Release => writer.dirty && writer.broken.is_none() && !writer.failed,
        };
        if !wanted {
            return Ok(());
        }
        if !self.inodes().get(ino)?.linked {
            writer.owners.clear();
            return Ok(());
        }
        if let Some(error) = writer.broken {
            return Err(error);
        }
        let outcome = writer.upload.publish(&writer.attributes).await;
        self.progressed();
        self.changes.record(&path, Outcome::Uncertain);
        let mut inodes = self.inodes();
        let inode = inodes.get_mut(ino)?;
        inode.file_mut()?.pages_suspect = true;
        match outcome {
            Ok(meta) => {
                if let Some((dir, _)) = path.split_last() {
                    let mut ledger = self.ledger();
                    ledger.change(&dir, Amount::published(meta.size(), inode.file()?.in_store()));
                    ledger.give_back(std::mem::take(&mut writer.taken));
                }
                writer.dirty = false;
                writer.failed = false;
                writer.owners.clear();
                inode.mtime = meta.mtime;
                if let Some(version) = meta.version() {
                    inode.file_mut()?.store(version.clone());
                }
                Ok(())
            }
            Err(error) => {
                writer.failed = true;
                if error.kind == ErrorKind::Stale {
                    writer.broken = Some(Error::Stale);
                }
                Err(error.into())
            }
        }
    }

    /// The mount is gone: publishes the files that were closed as far as is known, and throws away what a program was
    /// in the middle of.
    pub async fn shut_down(&self) {
        *self.invalidations.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.sync_all_in_place().await;
        self.read_ahead.forget();
        let written = self.inodes().all_written();
        for ino in written {
            let Ok(gate) = self.gate(ino) else { continue };
            let closed = gate.lock().await.as_ref().is_some_and(|writer| writer.flushed);
            if closed && let Err(error) = self.publish(ino, Why::Release).await {
                tracing::error!(%error, "a closed file could not be published");
            }
            if let Ok(file) = self.inodes().get_mut(ino).and_then(|inode| inode.file_mut()) {
                file.writers = 0;
            }
            self.end(ino).await;
        }
    }
}
