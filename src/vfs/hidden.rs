//! Files that were removed or replaced while they are open, in a store that would forget them: each keeps a hidden name in its
//! directory until its last handle is gone, and a directory that shows nothing else goes from around it.

use std::time::Duration;

use futures::StreamExt;

use super::changes::Outcome;
use super::inode::Inode;
use super::inodes::{Ino, Inodes};
use super::ledger::Amount;
use super::{Error, Result, Vfs};
use crate::backend::{self, ErrorKind, Kind, Meta, Name, Path, RenameOptions};

/// Between two looks whether a directory is empty by now: close(2) does not wait until a hidden file has gone.
const EMPTYING: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

impl Vfs {
    /// A handle is gone, and with the last one a file whose name was removed.
    pub(super) async fn closed(&self, ino: Ino) {
        let hidden = self.inodes().close(ino);
        if let Some(hidden) = hidden {
            self.remove_hidden(&hidden).await;
        }
    }

    async fn remove_hidden(&self, hidden: &Path) {
        match self.backend.remove(hidden, Kind::File).await {
            Err(error) if error.kind != ErrorKind::NotFound => {
                tracing::warn!(%error, "a file that was removed while it was open stays hidden for now");
            }
            _ => {}
        }
    }

    /// Removes the name `path` of the open file `ino`, which is kept under a hidden one. So it is where it has other
    /// names, which another client may remove.
    pub(super) async fn remove_open(&self, ino: Ino, path: &Path) -> Result<()> {
        if let Some(unkept) = self.hide(ino, path).await? {
            self.remove_hidden(&unkept).await;
        }
        Ok(())
    }

    /// Has `replacing` put something in the place of the file `ino`, held open, whose name is `path`. It keeps a hidden name,
    /// and gets its own back where nothing came.
    pub(super) async fn replace_open<T>(
        &self,
        ino: Ino,
        path: &Path,
        replacing: impl Future<Output = backend::Result<T>>,
    ) -> Result<backend::Result<T>> {
        let unkept = self.hide(ino, path).await?;
        let replaced = replacing.await;
        match (replaced.is_ok(), unkept) {
            (true, Some(unkept)) => self.remove_hidden(&unkept).await,
            (true, None) => {}
            (false, unkept) => self.show(ino, path, unkept).await,
        }
        Ok(replaced)
    }

    /// Renames what `path` names, which should be the open file `ino`, to a hidden name. Where that is, if nobody has it open.
    async fn hide(&self, ino: Ino, path: &Path) -> Result<Option<Path>> {
        let Some((dir, _)) = path.split_last() else { return Err(Error::NotPermitted) };
        let hidden = dir.join(&Name::hidden());
        let how = RenameOptions { kind: Kind::File, version: None, replace: true };
        let moved = self.backend.rename(path, &hidden, how).await;
        self.progressed();
        self.record_names(ino);
        self.left(path, &moved);
        let moved = moved?;
        let size = if moved.links > 1 { 0 } else { moved.size() };
        self.counts(path, Amount::file(size, -1));
        let is_kept = self.inodes().hide(ino, path, &hidden, &moved);
        Ok((!is_kept).then_some(hidden))
    }

    /// Gives what [`hide`](Self::hide) hid its name back.
    async fn show(&self, ino: Ino, path: &Path, unkept: Option<Path>) {
        let kept = || self.inodes().get(ino).ok()?.file().ok()?.hidden.clone();
        let is_kept = unkept.is_none();
        let Some(hidden) = unkept.or_else(kept) else { return };
        let how = RenameOptions { kind: Kind::File, version: None, replace: false };
        let shown = self.backend.rename(&hidden, path, how).await;
        self.progressed();
        self.record_names(ino);
        self.changes.record(path, Outcome::Uncertain);
        match shown {
            Ok(meta) => {
                self.counts(path, Amount::file(if meta.links > 1 { 0 } else { meta.size() }, 1));
                if is_kept {
                    self.inodes().show(ino, path, &meta);
                }
            }
            // What was to replace it did, and the answer was lost.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::error!(%path, %hidden, %error, "a file could neither be replaced nor keep its name: it has a hidden one");
                if let Ok(file) = self.inodes().get_mut(ino).and_then(Inode::file_mut) {
                    // It does not go with its last handle.
                    file.hidden = None;
                }
            }
        }
    }

    /// Removes the directory `path` where it shows nothing. What lies hidden in it is open here, and then moves up; or was closed
    /// just now, and is about to go; or is another node's.
    pub(super) async fn remove_emptied(&self, path: &Path) -> Result<()> {
        for pause in EMPTYING {
            match self.remove(path, Kind::Directory).await {
                Err(Error::NotEmpty) => {}
                outcome => return outcome,
            }
            let mut entries = self.backend.list(path);
            while let Some(entry) = entries.next().await {
                if !entry?.name.is_hidden() {
                    return Err(Error::NotEmpty);
                }
            }
            let hidden = self.inodes().hidden_in(path);
            for (ino, old) in hidden {
                self.move_up(ino, &old, path).await?;
            }
            tokio::time::sleep(pause).await;
        }
        self.remove(path, Kind::Directory).await
    }

    /// Moves the file `ino`, hidden at `old` in the directory `dir`, to where that lies.
    async fn move_up(&self, ino: Ino, old: &Path, dir: &Path) -> Result<()> {
        let Some((above, _)) = dir.split_last() else { return Err(Error::NotPermitted) };
        let new = above.join(&Name::hidden());
        let _locked = self.locks.lock(old).await;
        let how = RenameOptions { kind: Kind::File, version: None, replace: true };
        match self.backend.rename(old, &new, how).await {
            Ok(_) => {}
            // It was closed meanwhile.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if !self.inodes().hide_at(ino, old, &new) {
            self.remove_hidden(&new).await;
        }
        Ok(())
    }
}

impl Inodes {
    /// Counts one more handle of the file at `path`, where somebody has it open and no hidden name keeps it.
    pub(super) fn hold_open_at(&mut self, path: &Path) -> Option<Ino> {
        let ino = self.open_at(path)?;
        self.open(ino, false).ok().map(|()| ino)
    }

    /// The file at `path`, where somebody has it open and no hidden name keeps it.
    pub(super) fn open_at(&self, path: &Path) -> Option<Ino> {
        let inode = |ino: &Ino| self.get(*ino).ok().filter(|inode| inode.handles > 0);
        self.at(path).filter(|ino| inode(ino).is_some_and(|inode| inode.file().is_ok_and(|file| file.hidden.is_none())))
    }

    /// The open files that lie hidden in the directory `dir`, and where.
    pub(super) fn hidden_in(&self, dir: &Path) -> Vec<(Ino, Path)> {
        self.hidden_where(|path| path.split_last().is_some_and(|(above, _)| above == *dir))
    }

    pub(super) fn hidden_where(&self, lies: impl Fn(&Path) -> bool) -> Vec<(Ino, Path)> {
        let hidden = |inode: &Inode| inode.file().ok().and_then(|file| file.hidden.clone());
        self.each().filter_map(|(ino, inode)| Some((ino, hidden(inode).filter(|path| lies(path))?))).collect()
    }

    /// The open file `ino`, which had the name `path`, lies at `hidden` from now on. False where it is closed by now, or is
    /// another file than `moved` shows.
    pub(super) fn hide(&mut self, ino: Ino, path: &Path, hidden: &Path, moved: &Meta) -> bool {
        let open = self.get_mut(ino).ok().filter(|inode| inode.handles > 0 && inode.is(moved));
        let is_kept =
            open.and_then(|inode| inode.file_mut().ok()).map(|file| file.hidden = Some(hidden.clone())).is_some();
        if self.at(path) == Some(ino) {
            self.detach(path);
        }
        // Somebody may have looked for the name before this, when it was gone in the store already.
        if let Some(inode) = self.get_mut(ino).ok().filter(|inode| is_kept && !inode.linked) {
            inode.goes_by(hidden.clone());
        }
        self.take_in(ino, moved);
        is_kept
    }

    /// A file that was hidden has the name `path` again.
    pub(super) fn show(&mut self, ino: Ino, path: &Path, meta: &Meta) {
        if let Ok(file) = self.get_mut(ino).and_then(Inode::file_mut) {
            file.hidden = None;
            self.goes_by(ino, path);
            self.take_in(ino, meta);
        }
    }

    /// An open file that lay hidden at `old` does so at `new`. False where it is closed by now.
    pub(super) fn hide_at(&mut self, ino: Ino, old: &Path, new: &Path) -> bool {
        let Ok(inode) = self.get_mut(ino) else { return false };
        if inode.path == *old {
            inode.goes_by(new.clone());
        }
        match inode.file_mut() {
            Ok(file) if file.hidden.as_ref() == Some(old) => {
                file.hidden = Some(new.clone());
                true
            }
            _ => false,
        }
    }
}
