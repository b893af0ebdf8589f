//! What others did to files that are changed in place: it is asked for when a file is opened and when its attributes are, and
//! else believed for the volume's `ttl`.

use std::time::Duration;

use super::inodes::Ino;
use super::{Attr, Error, Invalidation, Result, Vfs};
use crate::backend::{ErrorKind, Path, Version};

/// So long a silent store is waited for by who asks about the root: what is entered there may need nothing of it.
pub(super) const ROOT: Duration = Duration::from_millis(500);

/// So long an open waits for the kernel, which waits for pages that others are reading.
const FORGETTING: Duration = Duration::from_secs(1);

impl Vfs {
    /// Attributes of an inode as the store has them now, where files are changed in place. Of the root those that are known,
    /// where the store says nothing in time: `df` looks at it first.
    ///
    /// # Errors
    /// As [`Vfs::getattr`], and what the store failed with.
    pub async fn getattr_now(&self, ino: Ino) -> Result<Attr> {
        match ino {
            Ino::ROOT => {
                tokio::time::timeout(ROOT, self.ask_attributes(ino)).await.unwrap_or_else(|_| self.getattr(ino))
            }
            _ => self.ask_attributes(ino).await,
        }
    }

    /// What others closed before this is seen by who opens the file now. True where they changed it.
    ///
    /// # Errors
    /// `Stale` where its name is another file's by now, or nobody's: the kernel looks it up anew.
    pub(super) async fn refresh(&self, ino: Ino) -> Result<bool> {
        let stored = || Ok::<_, Error>(self.inodes().get(ino)?.file()?.stored.clone());
        let known = stored()?;
        if !self.is_there(ino).await? {
            return Err(Error::Stale);
        }
        Ok(stored()? != known)
    }

    /// Waits until the kernel has forgotten what it was told of `ino` before, above all its length.
    pub(super) async fn have_forgotten(&self, ino: Ino) {
        self.invalidate(Invalidation::Inode(ino));
        let _ = tokio::time::timeout(FORGETTING, self.forgotten()).await;
    }

    async fn ask_attributes(&self, ino: Ino) -> Result<Attr> {
        self.is_there(ino).await?;
        self.getattr(ino)
    }

    /// Asks the store for `ino`, and takes in what it says. False where it has it under no name that is known.
    async fn is_there(&self, ino: Ino) -> Result<bool> {
        loop {
            let (path, writes) = {
                let inodes = self.inodes();
                let inode = inodes.get(ino)?;
                if !inode.linked {
                    return Ok(false);
                }
                (inode.path.clone(), inode.file().map(|file| file.in_place.as_ref().map(|writing| writing.writes)))
            };
            let asked = self.changes.ask();
            let it_is = match self.backend.stat(&path).await {
                Ok(_) if asked.changed(&path).is_some() => true,
                Ok(meta) => {
                    let mut inodes = self.inodes();
                    let now = inodes.get(ino)?.file().map(|file| file.in_place.as_ref().map(|writing| writing.writes));
                    let it_is = inodes.number(&path, &meta) == ino;
                    if it_is && now == writes {
                        inodes.take_in(ino, &meta);
                    }
                    it_is
                }
                Err(error) if error.kind == ErrorKind::NotFound => false,
                Err(error) => return Err(error.into()),
            };
            // Its only name went: the kernel hears of that when it looks it up.
            if it_is || !self.goes_by_another(ino, &path) {
                return Ok(it_is);
            }
        }
    }

    /// The store does not have the file under `path`: it goes by another of its names. False where none is known.
    pub(super) fn goes_by_another(&self, ino: Ino, path: &Path) -> bool {
        let mut inodes = self.inodes();
        if inodes.names_of(ino).len() < 2 || inodes.at(path) != Some(ino) {
            return false;
        }
        inodes.detach(path);
        if let Some((parent, name)) = path.split_last()
            && let Some(parent) = inodes.at(&parent)
        {
            self.invalidate(Invalidation::Entry { parent, name });
        }
        true
    }

    /// Whether what lies at `path` is the file `ino` still, of which the store no longer has `version`: then its new
    /// version is known from now on.
    pub(super) async fn is_still(&self, ino: Ino, path: &Path, version: &Version) -> bool {
        let Ok(meta) = self.backend.stat(path).await else { return false };
        let same = meta.version().is_some_and(|now| now.file == version.file && now.bytes != version.bytes);
        if same {
            self.changed_here(ino, &meta);
            self.invalidate(Invalidation::Inode(ino));
        }
        same
    }
}
