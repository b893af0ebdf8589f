//! Calls that make, remove and move names.
//!
//! Each holds the lock of its names, tells the log of changes what it did, and then the inode table: in that order,
//! so that an older answer of the store is never taken for news.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::changes::{Outcome, Ticket};
use super::handles::Open;
use super::inodes::Ino;
use super::ledger::Amount;
use super::listings::Remembered;
use super::read::{OpenOptions, Opened, Pages};
use super::write::Writer;
use super::{Attr, Error, Result, Vfs};
use crate::backend::{
    self, Base, CreateOptions, ErrorKind, Kind, Meta, Name, Path, RenameOptions, SetAttributes, Version,
};
use crate::prefetch::Target;

/// For ever, as far as a kernel's lifetime goes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What lies under a name.
enum There {
    /// A file being written here: the store decides nothing.
    Here(Ino),
    /// What the store says, and from when on a change of ours makes that old.
    Store(Meta, Ticket),
}

impl Vfs {
    /// What lies under `name`. Counts a lookup.
    ///
    /// # Errors
    /// `NotFound`, `NameTooLong`, `Io`, `Denied`
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.look_up(parent, name).await.map(|(attr, _)| attr)
    }

    /// As [`Vfs::lookup`], with how long it may be believed from now on.
    ///
    /// # Errors
    /// As [`Vfs::lookup`].
    pub async fn look_up(&self, parent: Ino, name: &[u8]) -> Result<(Attr, Duration)> {
        if let Some(attr) = self.control(parent, name) {
            return Ok((attr, self.believed()));
        }
        if self.is_control(parent) {
            return Err(Error::NotFound);
        }
        let path = self.known_name(parent, name)?;
        if let Some((ino, believed)) = self.enter_remembered(&path).await {
            return Ok((self.getattr(ino)?, believed));
        }
        let ino = self.enter(&path).await?;
        Ok((self.getattr(ino)?, self.believed()))
    }

    /// How long what the store says now may be believed.
    pub fn believed(&self) -> Duration {
        if self.config.immutable { FOR_EVER } else { self.config.ttl.get() }
    }

    /// Takes in what a listing, or a file fetched ahead, has told of `path`, while that is believed, and counts a
    /// lookup of it.
    async fn enter_remembered(&self, path: &Path) -> Option<(Ino, Duration)> {
        let ttl = self.believed();
        let listed = self.listings.get(path, self.reign.number());
        if let Some(Remembered { meta, pass }) = &listed
            && let Some(left) = pass.left(ttl)
        {
            return self.take_in(path, meta, &pass.asked).map(|ino| (ino, left));
        }
        let seen = self.read_ahead.seen_at(path).await?;
        let left = ttl.checked_sub(seen.since.elapsed()).filter(|left| !left.is_zero())?;
        let ino = match (&seen.meta, listed) {
            (Some(meta), _) => self.take_in(path, meta, &self.order(seen.source)?.asked),
            (None, Some(Remembered { meta, pass })) => {
                // The listing's attributes, of the version that was found there since.
                let same = meta.version().is_some_and(|version| seen.what == Target::Version(version.clone()));
                if same { self.take_in(path, &meta, &pass.asked) } else { None }
            }
            (None, None) => None,
        }?;
        Some((ino, left))
    }

    /// Takes in what was learned of `path` after `asked`, and counts a lookup of it; `None` where this mount changed it
    /// since.
    fn take_in(&self, path: &Path, meta: &Meta, asked: &Ticket) -> Option<Ino> {
        let mut inodes = self.inodes();
        // Asked under the table's lock: a change is recorded before the table learns of it.
        if inodes.written_at(path).is_some() || asked.changed(path).is_some() {
            return None;
        }
        let ino = inodes.enter(path, meta);
        self.thin_out(&mut inodes);
        Some(ino)
    }

    /// Asks the store what lies at `path`, takes it in and counts a lookup of it.
    async fn enter(&self, path: &Path) -> Result<Ino> {
        self.listings.outdate(path);
        loop {
            let there = match self.there(path).await {
                Ok(there) => there,
                Err(Error::NotFound) => {
                    // What a file here was begun as is not undone by an absence that was asked before.
                    let mut inodes = self.inodes();
                    if inodes.written_at(path).is_some() {
                        continue;
                    }
                    inodes.detach(path);
                    return Err(Error::NotFound);
                }
                Err(error) => return Err(error),
            };
            let mut inodes = self.inodes();
            match there {
                There::Here(ino) if inodes.at(path) == Some(ino) => {
                    inodes.count(ino);
                    return Ok(ino);
                }
                // Asked under the table's lock: a change is recorded before the table learns of it.
                There::Store(meta, asked) if asked.changed(path).is_none() => {
                    self.listings.confirm(path, &meta);
                    let ino = inodes.enter(path, &meta);
                    self.thin_out(&mut inodes);
                    return Ok(ino);
                }
                There::Here(_) | There::Store(..) => {}
            }
        }
    }

    /// Asks what lies at `path`, again where this mount changed it meanwhile.
    async fn there(&self, path: &Path) -> Result<There> {
        loop {
            if let Some(ino) = self.inodes().written_at(path) {
                return Ok(There::Here(ino));
            }
            let asked = self.changes.ask();
            let answer = self.backend.stat(path).await;
            if asked.changed(path).is_none() {
                return Ok(There::Store(answer?, asked));
            }
        }
    }

    async fn there_or_nothing(&self, path: &Path) -> Result<Option<There>> {
        match self.there(path).await {
            Ok(there) => Ok(Some(there)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

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
        if self.there_or_nothing(&path).await?.is_none() {
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

    /// Gives a file another name. Counts a lookup of it: each name is an inode of its own here.
    ///
    /// # Errors
    /// `NotPermitted` where the store gives a file one name, and for the reserved name; `Exists`, `ReadOnly`, `Denied`
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.writable()?;
        let path = self.new_name(parent, name)?;
        let from = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            if !inode.linked {
                return Err(Error::NotFound);
            }
            inode.path.clone()
        };
        let _locked = self.locks.lock_both(&from, &path).await;
        let linked = self.backend.link(&from, &path).await;
        self.named(&path, linked)
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
            return self.hide(ino, &path).await;
        }
        if self.is_in_store(&path) {
            let (being_written, size) = {
                let inodes = self.inodes();
                (inodes.written_at(&path).is_some(), inodes.stored_at(&path))
            };
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

    async fn remove_directory(&self, path: &Path) -> Result<()> {
        if !self.inodes().written_below(path).is_empty() {
            return Err(Error::NotEmpty);
        }
        self.remove(path, Kind::Directory).await?;
        self.listings.forget(path);
        self.counts(path, Amount::directory(-1));
        self.inodes().detach(path);
        Ok(())
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
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

    /// Moves a file or a directory; replaces a file at the new name, or an empty directory by a directory. What moves
    /// keeps its inode; a file that is being written is published under its new name.
    ///
    /// # Errors
    /// `Exists` where `keep` and something lies at the new name; `CrossDevice` for a directory that this store cannot
    /// move in one step; `NotFound`, `NotEmpty`, `IsADirectory`, `NotADirectory`, `NotPermitted`, `ReadOnly`; `Stale`
    /// where another client replaced the file (the kernel looks up anew).
    pub async fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), keep: bool) -> Result<()> {
        self.writable()?;
        let old = self.known_name(from.0, from.1)?;
        let new = self.new_name(to.0, to.1)?;
        if old == new {
            return Ok(());
        }
        if new.starts_with(&old) {
            return Err(Error::Invalid);
        }
        let _locked = self.locks.lock_both(&old, &new).await;
        // Held by this call alone where the kernel does not know it.
        let known = self.inodes().count_at(&old);
        let ino = match known {
            Some(ino) => ino,
            None => self.enter(&old).await?,
        };
        let kind = self.inodes().get(ino).map(|inode| inode.kind());
        let moved = match kind {
            Ok(Kind::Directory) => self.rename_directory(&old, &new, keep).await,
            Ok(Kind::File | Kind::Symlink) => self.rename_file(ino, &old, &new, keep).await,
            Err(error) => Err(error),
        };
        self.forget(ino, 1);
        moved
    }

    async fn rename_file(&self, ino: Ino, old: &Path, new: &Path, keep: bool) -> Result<()> {
        // No upload begins, ends or is published while the name moves.
        let gate = self.gate(ino)?;
        let mut gate = gate.lock().await;
        if keep && self.inodes().written_at(new).is_some() {
            return Err(Error::Exists);
        }
        let stored = self.inodes().get(ino)?.file()?.stored.clone();
        let lies_there = if stored.is_some() {
            let size = stored.as_ref().map_or(0, |version| version.size);
            let open = self.inodes().open_at(new).filter(|_| self.in_place() && !keep);
            if let Some(open) = open {
                self.hide(open, new).await?;
            }
            // By name: that somebody wrote to it does not make it another file.
            let stored = stored.filter(|_| !self.in_place());
            let replaced = self.inodes().stored_at(new);
            let how = RenameOptions { kind: Kind::File, version: stored, replace: !keep };
            let moved = self.backend.rename(old, new, how).await;
            self.progressed();
            self.changes.record(new, Outcome::Uncertain);
            self.left(old, &moved);
            let moved = moved?;
            self.counts(old, Amount::file(size, -1));
            self.counts(new, Amount::published(size, replaced));
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            if let Some(version) = moved.version() {
                inode.mtime = moved.mtime;
                inode.file_mut()?.store(version.clone());
            }
            moved.version().cloned()
        } else {
            // Nothing of it is in the store yet: only what it will replace has to be known.
            let there = self.beneath(new, keep).await?;
            self.changes.record(new, Outcome::Uncertain);
            self.changes.record(old, Outcome::Uncertain);
            self.inodes().get_mut(ino)?.file_mut()?.beneath.clone_from(&there);
            there
        };
        if let Some(writer) = gate.as_mut() {
            writer.upload.moved(new.clone(), lies_there);
        }
        self.inodes().rename(old, new);
        Ok(())
    }

    /// What lies in the store at the new name of a file that is not there yet.
    async fn beneath(&self, new: &Path, keep: bool) -> Result<Option<Version>> {
        match self.backend.stat(new).await {
            Ok(_) if keep => Err(Error::Exists),
            Ok(meta) => meta.version().cloned().map(Some).ok_or(Error::IsADirectory),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn rename_directory(&self, old: &Path, new: &Path, keep: bool) -> Result<()> {
        // No file below is published while its name moves.
        let below = self.inodes().written_below(old);
        let mut written = Vec::new();
        for ino in below {
            written.push((ino, self.gate(ino)?.lock_owned().await));
        }
        if !written.is_empty() && !self.backend.traits().atomic_rename {
            return Err(Error::CrossDevice);
        }
        match self.there_or_nothing(new).await? {
            None => {}
            Some(_) if keep => return Err(Error::Exists),
            Some(There::Here(_)) => return Err(Error::NotADirectory),
            Some(There::Store(meta, _)) if meta.kind() != Kind::Directory => return Err(Error::NotADirectory),
            Some(There::Store(..)) => self.remove_directory(new).await?,
        }
        let how = RenameOptions { kind: Kind::Directory, version: None, replace: false };
        let moved = self.backend.rename(old, new, how).await;
        self.progressed();
        self.changes.record(new, Outcome::Uncertain);
        self.left(old, &moved);
        match moved {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Unsupported => return Err(Error::CrossDevice),
            Err(error) => return Err(error.into()),
        }
        self.listings.forget(old);
        self.listings.forget(new);
        self.counts(old, Amount::directory(-1));
        self.counts(new, Amount::directory(1));
        let mut inodes = self.inodes();
        inodes.rename(old, new);
        for (ino, gate) in &mut written {
            let inode = inodes.get(*ino)?;
            if let Some(writer) = gate.as_mut() {
                writer.upload.moved(inode.path.clone(), inode.file()?.stored.clone());
            }
        }
        Ok(())
    }

    /// Whether the store may have something at `path`: false only for a file of ours that was never published.
    fn is_in_store(&self, path: &Path) -> bool {
        let inodes = self.inodes();
        let Some(inode) = inodes.written_at(path).and_then(|ino| inodes.get(ino).ok()) else { return true };
        inode.file().is_ok_and(|file| file.stored.is_some() || file.beneath.is_some())
    }

    /// The path of a name that exists, or may.
    fn known_name(&self, parent: Ino, name: &[u8]) -> Result<Path> {
        let name = Name::new(name)?;
        if self.is_control(parent) {
            return Err(Error::NotPermitted);
        }
        let parent = self.inodes().directory(parent)?;
        if name.is_reserved() || name.is_hidden() {
            return Err(Error::NotFound);
        }
        Ok(parent.join(&name))
    }

    /// The path of a name that something is to get.
    fn new_name(&self, parent: Ino, name: &[u8]) -> Result<Path> {
        let name = Name::new(name)?;
        if self.is_control(parent) {
            return Err(Error::NotPermitted);
        }
        let parent = self.inodes().directory(parent)?;
        if name.is_reserved() || name.is_hidden() {
            return Err(Error::NotPermitted);
        }
        Ok(parent.join(&name))
    }
}
