//! Writing files, in order, where the store keeps whole files; where it changes them in place, see
//! [`super::in_place`].
//!
//! All handles that may write a file share one upload, behind the inode's [`Gate`]. It begins with the open that
//! truncates or creates, or with the first write to an empty file, and ends with the last handle that may write.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::handles::{Handle, Open};
use super::inode::File;
use super::inodes::Ino;
use super::ledger::Full;
use super::locks::Locked;
use super::{Error, Result, Vfs};
use crate::backend::{Attributes, Base, CreateOptions, Path, Upload};

/// Where the writers of a file meet; empty while nothing of it is being written.
pub(super) type Gate = Arc<Mutex<Option<Writer>>>;

/// Who holds a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// By the kernel's scrambled `files_struct`: two processes never are the same.
    Files(u64),
    /// By its thread's id, where a request tells no more: that of an ftruncate.
    Thread(u32),
}

/// A file's upload.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) upload: Box<dyn Upload>,
    /// Something is to be published: bytes, or that the file is empty now.
    pub(super) dirty: bool,
    /// Who wrote since the last publish.
    pub(super) owners: HashSet<Owner>,
    /// Every write so far was followed by a FLUSH: as far as is known, the file is closed.
    pub(super) flushed: bool,
    pub(super) attributes: Attributes,
    /// Why this content can never be published.
    pub(super) broken: Option<Error>,
    /// Bytes of the volume's limit that are taken for what is not in the store yet.
    pub(super) taken: u64,
    /// The last publish failed and was reported; RELEASE does not try again behind the writer's back.
    pub(super) failed: bool,
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
            taken: 0,
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

impl Vfs {
    /// As [`Vfs::write`], through a handle that only appends. `offset` is the end as the kernel has heard of it; where files
    /// are changed in place, by others too, it may be another since.
    ///
    /// # Errors
    /// As [`Vfs::write`].
    pub async fn append(&self, handle: Handle, offset: u64, data: Bytes, owner: Option<Owner>) -> Result<u32> {
        let end = match self.handles.writing(handle) {
            Ok(ino) if self.in_place() => self.inodes().get(ino)?.size(),
            _ => offset,
        };
        self.write(handle, end, data, owner).await
    }

    /// Writes to a file: at its end, or, where files are changed in place, at any offset that the store takes.
    ///
    /// # Errors
    /// `Unsupported` for an offset other than the file's end, or where the file holds bytes that were not truncated;
    /// `NoSpace` where the volume's limit would be passed: nothing is written, and what was before stays. `TooLarge`,
    /// `Io`, `Denied`, and `NoSpace` of the store's own: the content is lost then, and every later publish of it fails.
    pub async fn write(&self, handle: Handle, offset: u64, data: Bytes, owner: Option<Owner>) -> Result<u32> {
        if let Open::Order(order) = self.handles.get(handle)? {
            return self.write_control(&order, &data);
        }
        let ino = self.handles.writing(handle)?;
        if self.in_place() {
            return self.write_in_place(ino, offset, data, owner).await;
        }
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
        self.take_room(ino, writer, length)?;
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

    /// Takes of the volume's limit what `more` bytes need. What they replace in the store is taken already.
    fn take_room(&self, ino: Ino, writer: &mut Writer, more: u32) -> Result<()> {
        let replaced = self.inodes().get(ino)?.file()?.in_store().unwrap_or_default();
        let needed = (writer.upload.written() + u64::from(more)).saturating_sub(replaced);
        let missing = needed.saturating_sub(writer.taken);
        self.ledger().take(missing).map_err(|Full| Error::NoSpace)?;
        writer.taken += missing;
        Ok(())
    }

    /// Begins anew with an empty file, in place of what is stored or being written; an open with O_TRUNC, or a
    /// truncation to nothing. The close of `owner` publishes it.
    pub(super) async fn truncate(&self, ino: Ino, owner: Option<Owner>) -> Result<()> {
        let gate = self.gate(ino)?;
        let mut gate = gate.lock().await;
        match gate.as_mut() {
            Some(writer) if writer.upload.written() == 0 && writer.broken.is_none() => writer.dirty = true,
            _ => self.begin(ino, &mut gate).await?,
        }
        if let Some(writer) = gate.as_mut() {
            writer.owners.extend(owner);
        }
        Ok(())
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
            self.ledger().give_back(old.taken);
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
}
