//! Files that were removed or replaced while they are open, in a store that would forget them: each keeps a hidden name in its
//! directory until its last handle is gone, and a directory that shows nothing else goes from around it.

use std::time::Duration;

use futures::StreamExt;

use super::inodes::Ino;
use super::ledger::Amount;
use super::{Error, Result, Vfs};
use crate::backend::{ErrorKind, Kind, Name, Path, RenameOptions};

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
    pub(super) async fn hide(&self, ino: Ino, path: &Path) -> Result<()> {
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
        let is_open = {
            let mut inodes = self.inodes();
            let open = inodes.get_mut(ino).ok().filter(|inode| inode.handles > 0);
            let is_open = match open {
                Some(inode) => {
                    inode.file_mut()?.hidden = Some(hidden.clone());
                    true
                }
                None => false,
            };
            inodes.detach(path);
            inodes.take_in(ino, &moved);
            is_open
        };
        // It was closed while it was being renamed: nobody else comes to it.
        if !is_open {
            self.remove_hidden(&hidden).await;
        }
        Ok(())
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
