//! Writing files in place, where the store can: every write is in the store when it returns, and lasting when the file is
//! synced or closed.
//!
//! Such a file is a stored file all the time. While it is open for writing here its version is what the store said after
//! the last write; what other clients write meanwhile is seen when it is asked for, as far as no write of ours came
//! between the question and its answer. A name that is removed or replaced while its file is open is renamed to a hidden
//! one, and goes with the last handle.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Mutex;

use super::changes::Outcome;
use super::handles::Open;
use super::inodes::Ino;
use super::ledger::{Amount, Full};
use super::read::{Opened, Pages};
use super::write::Owner;
use super::{Attr, Error, Result, Vfs};
use crate::backend::{ErrorKind, InPlace, Meta, Path, SetAttributes};

/// A file that is open to be changed in place.
#[derive(Debug)]
pub(super) struct Writing {
    file: Arc<dyn InPlace>,
    /// Something was written that is not known to be lasting.
    dirty: bool,
    /// Something was written since the store was last told that it is the end.
    open: bool,
    /// Who wrote it.
    owners: HashSet<Owner>,
    /// Writes so far: what the store answered before the last one is old.
    pub(super) writes: u64,
    /// The file's mode, from the last close on.
    mode: Option<u32>,
    /// Held by who makes lasting what was written: nobody takes his word for it before the store has given its own.
    turn: Arc<Mutex<()>>,
}

impl Writing {
    fn new(file: Arc<dyn InPlace>) -> Writing {
        let (owners, turn) = Default::default();
        Writing { file, dirty: false, open: false, owners, writes: 0, mode: None, turn }
    }
}

/// The owner may write.
const WRITABLE: u32 = 0o200;

impl Vfs {
    /// Whether files are changed in place, by others too.
    pub fn in_place(&self) -> bool {
        self.backend.traits().append
    }

    /// What was asked before about any name of the file is old.
    pub(super) fn record_names(&self, ino: Ino) {
        let names = self.inodes().names_of(ino);
        names.iter().for_each(|name| self.changes.record(name, Outcome::Uncertain));
    }

    /// Makes the file `path`, which was seen not to be there, and opens it. Counts a lookup. `None` where somebody else
    /// made it meanwhile.
    pub(super) async fn make_in_place(&self, path: &Path, mode: u32) -> Result<Option<(Attr, Opened)>> {
        // Whoever makes a file may write it whatever its mode, and some stores ask for the right at every beginning to write.
        let traits = self.backend.traits();
        let later = (mode & WRITABLE == 0 && traits.own_permissions && !traits.random_write).then_some(mode);
        let made = self.backend.make_file(path, later.map_or(mode, |mode| mode | WRITABLE)).await;
        self.progressed();
        self.changes.record(path, Outcome::Uncertain);
        let meta = match made {
            Ok(meta) => meta,
            Err(error) if error.kind == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.counts(path, Amount::file(0, 1));
        let ino = {
            let mut inodes = self.inodes();
            let ino = inodes.enter(path, &meta);
            inodes.open(ino, true)?;
            ino
        };
        match self.open_in_place(ino, false).await.and_then(|opened| Ok((self.getattr(ino)?, opened))) {
            Ok(made) => {
                if let Some(writing) = self.inodes().get_mut(ino)?.file_mut()?.in_place.as_mut() {
                    writing.mode = later;
                }
                Ok(Some(made))
            }
            Err(error) => {
                self.forget(ino, 1);
                Err(error)
            }
        }
    }

    /// Opens a file to be written, which becomes empty where `truncate`. Its handle is counted already, and no longer where it
    /// cannot be opened.
    pub(super) async fn open_in_place(&self, ino: Ino, truncate: bool) -> Result<Opened> {
        match self.begin_in_place(ino, truncate).await {
            Ok(()) => {
                Ok(Opened { handle: self.handles.insert(Open::Writing { ino }), pages: Pages::None, backing: None })
            }
            Err(error) => {
                // What others wrote is theirs to hear of.
                let _ = self.release_in_place(ino).await;
                Err(error)
            }
        }
    }

    async fn begin_in_place(&self, ino: Ino, truncate: bool) -> Result<()> {
        let stored = self.inodes().get(ino)?.file()?.stored.clone().ok_or(Error::Stale)?;
        let begun = self.backend.open_write(&stored).await?;
        if truncate {
            self.set_in_place(ino, SetAttributes { size: Some(0), ..SetAttributes::default() }).await?;
        }
        let mut inodes = self.inodes();
        let file = inodes.get_mut(ino)?.file_mut()?;
        // All who write share what is not lasting yet.
        if file.in_place.is_none() {
            file.reader = None;
            file.in_place = Some(Box::new(Writing::new(begun)));
        }
        Ok(())
    }

    /// Writes at any offset that the store takes.
    pub(super) async fn write_in_place(&self, ino: Ino, offset: u64, data: Bytes, owner: Option<Owner>) -> Result<u32> {
        let length = u32::try_from(data.len()).map_err(|_| Error::Invalid)?;
        let end = offset.checked_add(u64::from(length)).ok_or(Error::TooLarge)?;
        let (file, grows) = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let grows = end.saturating_sub(inode.size());
            let writing = inode.file_mut()?.in_place.as_mut().ok_or(Error::BadHandle)?;
            (writing.dirty, writing.open) = (true, true);
            writing.owners.extend(owner);
            (writing.file.clone(), grows)
        };
        self.ledger().take(grows).map_err(|Full| Error::NoSpace)?;
        let wrote = file.write(offset, data).await;
        self.progressed();
        self.ledger().give_back(grows);
        let told = wrote?;
        let path = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let path = inode.path.clone();
            let file = inode.file_mut()?;
            // A store's clock may stand still between two writes, and the version with it.
            file.reader = None;
            if let Some(writing) = file.in_place.as_mut() {
                writing.writes += 1;
            }
            path
        };
        self.counts(&path, Amount { bytes: grows.cast_signed(), inodes: 0 });
        match told {
            Some(meta) => self.changed_here(ino, &meta),
            // It is written, whatever can be learned of it now.
            None => {
                self.backend.stat(&path).await.iter().for_each(|meta| self.changed_here(ino, meta));
                self.inodes().get_mut(ino)?.file_mut()?.reaches(end);
            }
        }
        Ok(length)
    }

    /// A descriptor was closed: makes lasting what was written, where `owner` wrote of it. A fork's exit and a spawned
    /// program's exec close descriptors too, and have nothing to wait for.
    pub(super) async fn flush_in_place(&self, ino: Ino, owners: &[Owner]) -> Result<()> {
        let wrote = {
            let inodes = self.inodes();
            let writing = inodes.get(ino)?.file()?.in_place.as_ref();
            writing.is_some_and(|writing| owners.iter().any(|owner| writing.owners.contains(owner)))
        };
        if wrote { self.make_lasting(ino, true).await } else { Ok(()) }
    }

    /// Makes lasting what was written through any handle.
    pub(super) async fn sync_in_place(&self, ino: Ino) -> Result<()> {
        self.make_lasting(ino, false).await
    }

    /// As [`Vfs::sync_in_place`]; `closing`, where it is for a descriptor that is closed: behind the last of them no more
    /// is expected to be written.
    async fn make_lasting(&self, ino: Ino, closing: bool) -> Result<()> {
        let turn = match &self.inodes().get(ino)?.file()?.in_place {
            Some(writing) => writing.turn.clone(),
            None => return Ok(()),
        };
        let _turn = turn.lock().await;
        let (file, owners, last) = {
            let mut inodes = self.inodes();
            let file = inodes.get_mut(ino)?.file_mut()?;
            let last = closing && file.writers <= 1;
            let Some(writing) = file.in_place.as_mut() else { return Ok(()) };
            // What is written from now on need not be in it.
            let something = writing.dirty || (last && writing.open);
            if !something {
                return Ok(());
            }
            (writing.dirty, writing.open) = (false, writing.open && !last);
            // Who wrote waits at his close for the end, too.
            let owners = if last { std::mem::take(&mut writing.owners) } else { HashSet::new() };
            (writing.file.clone(), owners, last)
        };
        let synced = if last { file.finish().await } else { file.sync().await };
        self.progressed();
        match synced {
            Ok(told) => {
                if let Some(meta) = told {
                    self.changed_here(ino, &meta);
                }
                Ok(())
            }
            Err(error) => {
                if let Some(writing) = self.inodes().get_mut(ino)?.file_mut()?.in_place.as_mut() {
                    (writing.dirty, writing.open) = (true, true);
                    writing.owners.extend(owners);
                }
                Err(error.into())
            }
        }
    }

    /// The mount is gone: as far as can be, what was written lasts.
    pub(super) async fn sync_all_in_place(&self) {
        let open = self.inodes().all_in_place();
        for outcome in join_all(open.into_iter().map(|ino| self.make_lasting(ino, true))).await {
            if let Err(error) = outcome {
                tracing::error!(%error, "what was written to a file may be lost: it could not be made lasting");
            }
        }
    }

    /// The last descriptor of a handle that may write is gone.
    pub(super) async fn release_in_place(&self, ino: Ino) -> Result<()> {
        let synced = self.make_lasting(ino, true).await;
        let (path, mode) = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let path = inode.path.clone();
            let file = inode.file_mut()?;
            file.writers = file.writers.saturating_sub(1);
            let ended = if file.writers == 0 { file.in_place.take() } else { None };
            if ended.is_some() {
                file.reader = None;
            }
            (path, ended.and_then(|writing| writing.mode))
        };
        if let Some(mode) = mode
            && let Err(error) =
                self.set_in_place(ino, SetAttributes { mode: Some(mode), ..SetAttributes::default() }).await
        {
            tracing::warn!(%path, ?error, "a file that was made to be read only can still be written by its owner");
        }
        if let Err(error) = synced {
            tracing::error!(%path, %error, "what was written to a file may be lost: it could not be made lasting");
        }
        // What was asked while it was written may be answered with what it was before.
        self.changes.record(&path, Outcome::Uncertain);
        self.record_names(ino);
        self.closed(ino).await;
        synced
    }

    /// Changes attributes of what lies in the store.
    pub(super) async fn set_in_place(&self, ino: Ino, set: SetAttributes) -> Result<Attr> {
        loop {
            let (path, _locked) = self.lock_file(ino).await?;
            match self.set_by_name(ino, &path, set).await {
                Err(Error::NotFound) if self.goes_by_another(ino, &path) => {}
                outcome => return outcome,
            }
        }
    }

    async fn set_by_name(&self, ino: Ino, path: &Path, set: SetAttributes) -> Result<Attr> {
        let before = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            if set.size.is_some() {
                inode.file()?;
            }
            if !inode.linked && inode.file().is_ok_and(|file| file.hidden.is_none()) {
                return Err(Error::Stale);
            }
            inode.size()
        };
        if let Some(size) = set.size {
            // What another client put there meanwhile is not for who has the old one open to cut.
            let there = self.backend.stat(path).await?;
            if !self.inodes().get(ino)?.is(&there) {
                return Err(Error::Stale);
            }
            let grows = size.saturating_sub(before);
            self.ledger().take(grows).map_err(|Full| Error::NoSpace)?;
            self.ledger().give_back(grows);
            // What is sent again after a restart of the server must not make a file longer that was cut meanwhile.
            self.sync_in_place(ino).await?;
        }
        let wanted = SetAttributes { mode: set.mode.map(|mode| mode & 0o7777), ..set };
        if set.mode.is_some()
            && let Ok(file) = self.inodes().get_mut(ino)?.file_mut()
            && let Some(writing) = &mut file.in_place
        {
            writing.mode = None;
        }
        let outcome = self.backend.set_attributes(path, &wanted).await;
        self.progressed();
        self.changes.record(path, Outcome::Uncertain);
        self.accesses.forget();
        self.record_names(ino);
        let meta = outcome?;
        if let Some(size) = set.size {
            let bytes = size.cast_signed().saturating_sub(before.cast_signed());
            self.counts(path, Amount { bytes, inodes: 0 });
        }
        self.changed_here(ino, &meta);
        self.getattr(ino)
    }

    /// Takes in what the store says of a file or directory that is the one that `ino` is.
    pub(super) fn changed_here(&self, ino: Ino, meta: &Meta) {
        self.inodes().take_in(ino, meta);
    }
}
