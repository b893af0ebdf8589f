//! Calls that make and remove names.
//!
//! Each holds the lock of its names, tells the log of changes what it did, and then the inode table: in that order,
//! so that an older answer of the store is never taken for news.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::changes::Outcome;
use super::handles::Open;
use super::inodes::Ino;
use super::ledger::Amount;
use super::read::{OpenOptions, Opened, Pages};
use super::write::Writer;
use super::{Attr, Error, Result, Vfs};
use crate::backend::{self, Base, CreateOptions, ErrorKind, Kind, Meta, Path, SetAttributes};

impl Vfs {
    /// Opens the file `name`, and makes it where nothing lies there. Counts a lookup. A new file is in the store after
    /// its first publish.
    ///
    /// # Errors
    /// `Exists` where `how.exclusive`, `IsADirectory`, `NotPermitted` for the reserved name, `ReadOnly`; as
    /// [`Vfs::open`].
    pub async fn create(&self, parent: Ino, name: &[u8], how: OpenOptions) -> Result<(Attr, Opened)> {
        self.create_with(parent, name, how, self.config.file_mode).await
    }

    /// As [`Vfs::create`], with permission bits for a new file where the store keeps them. There it lies in the store at
    /// once.
    ///
    /// # Errors
    /// As [`Vfs::create`].
    pub async fn create_with(&self, parent: Ino, name: &[u8], how: OpenOptions, mode: u32) -> Result<(Attr, Opened)> {
        self.writable()?;
        let path = self.new_name(parent, name)?;
        let locked = self.locks.lock(&path).await;
        if self.is_absent(&path).await? {
            if !self.in_place() {
                return self.create_new(&path).await;
            }
            if let Some(made) = self.make_in_place(&path, mode).await? {
                return Ok(made);
            }
        }
        if how.exclusive {
            return Err(Error::Exists);
        }
        drop(locked);
        let ino = self.enter(&path).await?;
        let opened = self.open(ino, how).await.and_then(|opened| Ok((self.getattr(ino)?, opened)));
        if opened.is_err() {
            self.forget(ino, 1);
        }
        opened
    }

    async fn create_new(&self, path: &Path) -> Result<(Attr, Opened)> {
        let base = if self.config.last_wins { Base::Any } else { Base::Absent };
        let upload = self.backend.create(path, CreateOptions { base }).await?;
        let gate = Arc::new(Mutex::new(Some(Writer::new(upload))));
        self.changes.record(path, Outcome::Uncertain);
        let mut inodes = self.inodes();
        let ino = inodes.create(path, gate);
        let attr = self.attr(ino, inodes.get(ino)?);
        let handle = self.handles.insert(Open::Writing { ino });
        Ok((attr, Opened { handle, pages: Pages::None, backing: None }))
    }

    /// Makes a directory. Counts a lookup.
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` for the reserved name, `ReadOnly`
    pub async fn mkdir(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.mkdir_with(parent, name, None).await
    }

    /// As [`Vfs::mkdir`], with permission bits where the store keeps them.
    ///
    /// # Errors
    /// As [`Vfs::mkdir`].
    pub async fn mkdir_with(&self, parent: Ino, name: &[u8], mode: Option<u32>) -> Result<Attr> {
        self.writable()?;
        let path = self.new_name(parent, name)?;
        let _locked = self.locks.lock(&path).await;
        if self.inodes().written_at(&path).is_some() {
            return Err(Error::Exists);
        }
        self.listings.forget(&path);
        let made = self.backend.make_dir(&path).await;
        self.changes.record(&path, Outcome::Uncertain);
        let mut meta = made?;
        self.counts(&path, Amount::directory(1));
        if let Some(mode) = mode.map(|mode| mode & 0o7777)
            && meta.permissions.is_some_and(|kept| kept.mode != mode)
        {
            let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
            meta = self.backend.set_attributes(&path, &set).await?;
        }
        let mut inodes = self.inodes();
        let ino = inodes.enter(&path, &meta);
        Ok(self.attr(ino, inodes.get(ino)?))
    }

    /// Makes a symbolic link. Counts a lookup.
    ///
    /// # Errors
    /// `NotPermitted` where the store has none, and for the reserved name; `Exists`, `ReadOnly`, `Denied`
    pub async fn symlink(&self, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.writable()?;
        let path = self.new_name(parent, name)?;
        let _locked = self.locks.lock(&path).await;
        let made = self.backend.make_symlink(&path, target).await;
        self.named(&path, made)
    }

    /// Gives a file another name. Counts a lookup of it.
    ///
    /// # Errors
    /// `NotPermitted` where the store gives a file one name, and for the reserved name; `Exists`, `ReadOnly`, `Denied`
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.writable()?;
        let path = self.new_name(parent, name)?;
        loop {
            let from = {
                let inodes = self.inodes();
                let inode = inodes.get(ino)?;
                if !inode.linked {
                    return Err(Error::NotFound);
                }
                inode.path.clone()
            };
            if from == path {
                return Err(Error::Exists);
            }
            let _locked = self.locks.lock_both(&from, &path).await;
            let linked = self.backend.link(&from, &path).await;
            self.record_names(ino);
            match self.named(&path, linked) {
                Err(Error::NotFound) if self.goes_by_another(ino, &from) => {}
                outcome => return outcome,
            }
        }
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for what is none, and what the store failed with.
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let path = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            if inode.kind() != Kind::Symlink {
                return Err(Error::Invalid);
            }
            inode.path.clone()
        };
        Ok(self.backend.read_symlink(&path).await?)
    }

    /// Takes in what was given the name `path`.
    fn named(&self, path: &Path, outcome: backend::Result<Meta>) -> Result<Attr> {
        self.progressed();
        self.changes.record(path, Outcome::Uncertain);
        let meta = match outcome {
            Err(error) if error.kind == ErrorKind::Unsupported => return Err(Error::NotPermitted),
            outcome => outcome?,
        };
        self.counts(path, Amount { bytes: 0, inodes: 1 });
        let mut inodes = self.inodes();
        let ino = inodes.enter(path, &meta);
        Ok(self.attr(ino, inodes.get(ino)?))
    }

    /// Removes a file. One that is being written is never published.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, `ReadOnly`, `Denied`
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let path = self.known_name(parent, name)?;
        let _locked = self.locks.lock(&path).await;
        let open = self.inodes().open_at(&path).filter(|_| self.in_place());
        if let Some(ino) = open {
            return self.remove_open(ino, &path).await;
        }
        if self.is_in_store(&path) {
            let (being_written, size, names) = {
                let inodes = self.inodes();
                let ino = inodes.at(&path);
                let is_last = ino.and_then(|ino| inodes.get(ino).ok()).is_none_or(|inode| inode.links <= 1);
                let size = inodes.stored_at(&path).filter(|_| is_last);
                let names = ino.map(|ino| inodes.names_of(ino)).unwrap_or_default();
                (inodes.written_at(&path).is_some(), size, names)
            };
            // What a listing told of the others counts this one.
            names.iter().filter(|name| **name != path).for_each(|name| self.changes.record(name, Outcome::Uncertain));
            match self.remove(&path, Kind::File).await {
                Ok(()) => self.counts(&path, Amount::file(size.unwrap_or_default(), -1)),
                Err(Error::NotFound) if being_written => {}
                Err(error) => return Err(error),
            }
        }
        self.inodes().detach(&path);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NotEmpty`, `ReadOnly`, `Denied`
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let path = self.known_name(parent, name)?;
        let _locked = self.locks.lock(&path).await;
        if self.inodes().written_at(&path).is_some() {
            return Err(Error::NotADirectory);
        }
        self.remove_directory(&path).await
    }

    pub(super) async fn remove_directory(&self, path: &Path) -> Result<()> {
        if !self.inodes().written_below(path).is_empty() {
            return Err(Error::NotEmpty);
        }
        if self.in_place() {
            self.remove_emptied(path).await?;
        } else {
            self.remove(path, Kind::Directory).await?;
        }
        self.listings.forget(path);
        self.counts(path, Amount::directory(-1));
        self.inodes().detach(path);
        Ok(())
    }

    pub(super) async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        let removed = self.backend.remove(path, kind).await;
        self.progressed();
        self.left(path, &removed);
        Ok(removed?)
    }

    /// The store has more at `path` by `amount`, or less.
    pub(super) fn counts(&self, path: &Path, amount: Amount) {
        if let Some((dir, _)) = path.split_last() {
            self.ledger().change(&dir, amount);
        }
    }

    /// Records that something left `path`, or may have.
    pub(super) fn left<T>(&self, path: &Path, outcome: &backend::Result<T>) {
        let outcome = match outcome {
            Ok(_) => Outcome::Absent,
            Err(_) => Outcome::Uncertain,
        };
        self.changes.record(path, outcome);
    }

    /// Whether the store may have something at `path`: false only for a file of ours that was never published.
    fn is_in_store(&self, path: &Path) -> bool {
        let inodes = self.inodes();
        let Some(inode) = inodes.written_at(path).and_then(|ino| inodes.get(ino).ok()) else { return true };
        inode.file().is_ok_and(|file| file.stored.is_some() || file.beneath.is_some())
    }
}
