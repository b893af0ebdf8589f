//! Calls that move names: of a file, also while it is being written, and of a directory with all below it. They tell
//! of it in the order that [`super::names`] keeps.

use super::changes::Outcome;
use super::inodes::Ino;
use super::ledger::Amount;
use super::lookup::There;
use super::{Error, Result, Vfs};
use crate::backend::{ErrorKind, Kind, Path, RenameOptions, Version};

impl Vfs {
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
            Ok(Kind::Directory) => self.rename_directory(ino, &old, &new, keep).await,
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
        // Of two names of one file rename(2) removes none.
        if self.inodes().at(new) == Some(ino) {
            return if keep { Err(Error::Exists) } else { Ok(()) };
        }
        let stored = self.inodes().get(ino)?.file()?.stored.clone();
        let lies_there = if stored.is_some() {
            let size = stored.as_ref().map_or(0, |version| version.size);
            // By name: that somebody wrote to it does not make it another file.
            let stored = stored.filter(|_| !self.in_place());
            let how = RenameOptions { kind: Kind::File, version: stored, replace: !keep };
            let moving = self.backend.rename(old, new, how);
            let open = if self.in_place() && !keep { self.inodes().hold_open_at(new) } else { None };
            // One that is open is counted off when it is hidden.
            let replaced = if open.is_some() { None } else { self.inodes().stored_at(new) };
            let moved = match open {
                Some(open) => {
                    let moved = self.replace_open(open, new, moving).await;
                    self.closed(open).await;
                    moved?
                }
                None => moving.await,
            };
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
        self.inodes().rename(ino, old, new);
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

    async fn rename_directory(&self, ino: Ino, old: &Path, new: &Path, keep: bool) -> Result<()> {
        // No file below is published while its name moves.
        let below = self.inodes().written_below(old);
        let mut written = Vec::new();
        for ino in below {
            written.push((ino, self.gate(ino)?.lock_owned().await));
        }
        if !written.is_empty() && !self.backend.traits().atomic_rename {
            return Err(Error::CrossDevice);
        }
        match self.there(new).await? {
            There::Nothing(_) => {}
            _ if keep => return Err(Error::Exists),
            There::Here(_) => return Err(Error::NotADirectory),
            There::Store(meta, _) if meta.kind() != Kind::Directory => return Err(Error::NotADirectory),
            There::Store(..) => self.remove_directory(new).await?,
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
        inodes.rename(ino, old, new);
        for (ino, gate) in &mut written {
            let inode = inodes.get(*ino)?;
            if let Some(writer) = gate.as_mut() {
                writer.upload.moved(inode.path.clone(), inode.file()?.stored.clone());
            }
        }
        Ok(())
    }
}
