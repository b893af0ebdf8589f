//! Files being written: in order, and published whole.
//!
//! All handles that may write a file share one upload, behind the inode's [`Gate`]. It begins with the open that
//! truncates or creates, or with the first write to an empty file, and ends with the last handle that may write.
//! fsync, and the FLUSH of a lock owner that has written since the last publish, publish and report; RELEASE publishes
//! what neither did, and can only log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::changes::Outcome;
use super::handles::{Handle, Open};
use super::inodes::{File, Ino};
use super::locks::Locked;
use super::{Attr, Error, Invalidation, Result, Vfs};
use crate::backend::{Attributes, Base, CreateOptions, ErrorKind, Path, Upload};

/// Where the writers of a file meet; empty while nothing of it is being written.
pub(super) type Gate = Arc<Mutex<Option<Writer>>>;

/// Who holds a descriptor, by the kernel's scrambled `files_struct`: two processes never are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u64);

/// A file's upload.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) upload: Box<dyn Upload>,
    /// Something is to be published: bytes, or that the file is empty now.
    dirty: bool,
    /// Who wrote since the last publish.
    owners: HashSet<Owner>,
    /// Every write so far was followed by a FLUSH: as far as is known, the file is closed.
    flushed: bool,
    attributes: Attributes,
    /// Why this content can never be published.
    broken: Option<Error>,
    /// The last publish failed and was reported; RELEASE does not try again behind the writer's back.
    failed: bool,
}

impl Writer {
    pub(super) fn new(upload: Box<dyn Upload>) -> Writer {
        Writer {
            upload,
            dirty: true,
            owners: HashSet::new(),
            flushed: false,
            attributes: Attributes::default(),
            broken: None,
            failed: false,
        }
    }

    /// All of `start..end`, or nothing: a reader that got less would take the rest for a hole.
    pub(super) fn peek(&self, start: u64, end: u64) -> Option<Bytes> {
        let first = self.upload.peek(start..end)?;
        if first.len() as u64 == end - start {
            return Some(first);
        }
        let mut whole = BytesMut::from(&first[..]);
        while (whole.len() as u64) < end - start {
            let more = self.upload.peek(start + whole.len() as u64..end).filter(|more| !more.is_empty())?;
            whole.extend_from_slice(&more);
        }
        Some(whole.freeze())
    }
}

/// What asks for a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// fsync: everything, an empty file too.
    Sync,
    /// FLUSH: what this owner wrote.
    Flush(Owner),
    /// RELEASE: what nobody published, unless its writer was told that it cannot be.
    Release,
}

/// What to change about a file or directory; `None` leaves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Length in bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time; kept nowhere.
    pub atime: Option<SystemTime>,
    /// Modification time.
    pub mtime: Option<SystemTime>,
}

impl Vfs {
    /// Appends to a file.
    ///
    /// # Errors
    /// `Unsupported` for an offset other than the file's end, or where the file holds bytes that were not truncated;
    /// `TooLarge`, `NoSpace`, `Io`, `Denied`: the content is lost then, and every later publish of it fails.
    pub async fn write(&self, handle: Handle, offset: u64, data: Bytes, owner: Option<Owner>) -> Result<u32> {
        let ino = self.handles.writing(handle)?;
        let length = u32::try_from(data.len()).map_err(|_| Error::Invalid)?;
        let gate = self.gate(ino)?;
        let mut gate = gate.lock().await;
        if gate.is_none() {
            if self.inodes().get(ino)?.size() > 0 {
                return Err(Error::Unsupported);
            }
            self.begin(ino, &mut gate).await?;
        }
        let writer = gate.as_mut().ok_or(Error::Io)?;
        if let Some(error) = writer.broken {
            return Err(error);
        }
        if offset != writer.upload.written() {
            return Err(Error::Unsupported);
        }
        writer.dirty = true;
        writer.flushed = false;
        writer.owners.extend(owner);
        let outcome = writer.upload.write(data).await;
        self.progressed();
        if let Err(error) = outcome {
            let error = Error::from(error);
            writer.broken = Some(error);
            return Err(error);
        }
        let size = writer.upload.written();
        self.inodes().set_written(ino, Some(size));
        Ok(length)
    }

    /// One descriptor of an open file was closed. Publishes what `owner` wrote, and nothing where it wrote nothing:
    /// a fork's exit and a spawned program's exec close descriptors too.
    ///
    /// # Errors
    /// As [`Vfs::fsync`].
    pub async fn flush(&self, handle: Handle, owner: Owner) -> Result<()> {
        match self.handles.get(handle)? {
            Open::Writing { ino } => self.publish(ino, Why::Flush(owner)).await,
            Open::Reading { .. } => Ok(()),
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
            Open::Writing { ino } => self.publish(ino, Why::Sync).await,
            Open::Reading { .. } => Ok(()),
            Open::Directory(_) => Err(Error::BadHandle),
        }
    }

    /// The last descriptor of an open file is gone. Publishes what was not.
    ///
    /// # Errors
    /// As [`Vfs::fsync`]; nobody but the log hears of them.
    pub async fn release(&self, handle: Handle) -> Result<()> {
        match self.handles.remove(handle) {
            Some(Open::Reading { ino, .. }) => {
                self.inodes().close(ino);
                Ok(())
            }
            Some(Open::Writing { ino }) => self.release_writing(ino).await,
            Some(Open::Directory(_)) | None => Err(Error::BadHandle),
        }
    }

    async fn release_writing(&self, ino: Ino) -> Result<()> {
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
        writer.upload.abort().await;
    }

    /// Begins anew with an empty file, in place of what is stored or being written; an open with O_TRUNC, or a
    /// truncation to nothing.
    pub(super) async fn truncate(&self, ino: Ino) -> Result<()> {
        let gate = self.gate(ino)?;
        let mut gate = gate.lock().await;
        match gate.as_mut() {
            Some(writer) if writer.upload.written() == 0 && writer.broken.is_none() => {
                writer.dirty = true;
                Ok(())
            }
            _ => self.begin(ino, &mut gate).await,
        }
    }

    /// Puts a new upload behind the gate, over what the store is known to hold.
    async fn begin(&self, ino: Ino, gate: &mut Option<Writer>) -> Result<()> {
        let (path, linked, base) = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            (inode.path.clone(), inode.linked, self.base(inode.file()?))
        };
        if !linked {
            return Err(Error::Stale);
        }
        let upload = self.backend.create(&path, CreateOptions { base }).await?;
        let mut writer = Writer::new(upload);
        let old = gate.take();
        if let Some(old) = &old {
            writer.attributes = old.attributes.clone();
        }
        *gate = Some(writer);
        {
            let mut inodes = self.inodes();
            inodes.set_written(ino, Some(0));
            if let Ok(file) = inodes.get_mut(ino)?.file_mut() {
                file.pages_suspect = true;
            }
        }
        if let Some(old) = old {
            old.upload.abort().await;
        }
        Ok(())
    }

    fn base(&self, file: &File) -> Base {
        match file.stored.as_ref().or(file.beneath.as_ref()) {
            _ if self.config.last_wins => Base::Any,
            Some(version) => Base::Version(version.clone()),
            None => Base::Absent,
        }
    }

    async fn publish(&self, ino: Ino, why: Why) -> Result<()> {
        if self.inodes().get(ino)?.file()?.written.is_none() {
            return Ok(());
        }
        let gate = self.gate(ino)?;
        let (path, _locked) = self.lock_file(ino).await?;
        let mut gate = gate.lock().await;
        let Some(writer) = gate.as_mut() else { return Ok(()) };
        let wanted = match why {
            Why::Sync => writer.dirty || writer.broken.is_some(),
            Why::Flush(owner) => {
                writer.flushed = true;
                writer.owners.contains(&owner)
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

    /// The lock of the name that a file has, and that name.
    pub(super) async fn lock_file(&self, ino: Ino) -> Result<(Path, Locked)> {
        loop {
            let path = self.inodes().get(ino)?.path.clone();
            let locked = self.locks.lock(&path).await;
            // It may have been renamed while this waited.
            if self.inodes().get(ino)?.path == path {
                return Ok((path, locked));
            }
        }
    }

    pub(super) fn gate(&self, ino: Ino) -> Result<Gate> {
        let mut inodes = self.inodes();
        Ok(inodes.get_mut(ino)?.file_mut()?.gate.get_or_insert_default().clone())
    }

    /// Changes attributes. A length may only become 0, or stay what it is. Mode, owner and time of a file being
    /// written go into its metadata for other tools; shown are the volume's, and the store's time.
    ///
    /// # Errors
    /// `Unsupported` for another length, `NotPermitted` for the rest where the volume's option refuses it.
    pub async fn setattr(&self, ino: Ino, handle: Option<Handle>, set: SetAttr) -> Result<Attr> {
        self.writable()?;
        if let Some(size) = set.size {
            self.resize(ino, handle, size).await?;
        }
        let others = SetAttr { size: None, ..set };
        if others != SetAttr::default() && !self.annotate(ino, &set).await? && !self.config.accept_attributes {
            return Err(Error::NotPermitted);
        }
        self.getattr(ino)
    }

    async fn resize(&self, ino: Ino, handle: Option<Handle>, size: u64) -> Result<()> {
        let (now, dirty_content) = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            let file = inode.file()?;
            if !inode.linked && file.written.is_none() {
                return Err(Error::Stale);
            }
            (file.size(), file.written.is_some())
        };
        if size == now && (size > 0 || dirty_content || handle.is_some()) {
            return Ok(());
        }
        if size > 0 {
            return Err(Error::Unsupported);
        }
        if handle.is_some_and(|handle| self.handles.writing(handle).is_ok()) {
            return self.truncate(ino).await;
        }
        // By path: there is no close that would publish it.
        self.inodes().open(ino, true)?;
        let published = match self.truncate(ino).await {
            Ok(()) => self.publish(ino, Why::Sync).await,
            Err(error) => Err(error),
        };
        let released = self.release_writing(ino).await;
        published.and(released)
    }

    /// True where the file is being written and takes the attributes along.
    async fn annotate(&self, ino: Ino, set: &SetAttr) -> Result<bool> {
        let gate = {
            let inodes = self.inodes();
            match inodes.get(ino)?.file() {
                Ok(file) if file.written.is_some() => file.gate.clone(),
                Ok(_) | Err(_) => None,
            }
        };
        let Some(gate) = gate else { return Ok(false) };
        let mut gate = gate.lock().await;
        let Some(writer) = gate.as_mut() else { return Ok(false) };
        let kept = &mut writer.attributes;
        kept.mode = set.mode.map(|mode| mode & 0o7777).or(kept.mode);
        kept.uid = set.uid.or(kept.uid);
        kept.gid = set.gid.or(kept.gid);
        kept.mtime = set.mtime.or(kept.mtime);
        Ok(true)
    }

    /// The mount is gone: publishes the files that were closed as far as is known, and throws away what a program was
    /// in the middle of.
    pub async fn shut_down(&self) {
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
