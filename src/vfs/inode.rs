//! What is known of one file or directory.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::SystemTime;

use super::in_place::Writing;
use super::write::Gate;
use super::{Error, Result};
use crate::backend::{Kind, Meta, Node, Path, Permissions, Version};
use crate::prefetch::FileReader;

/// A file or directory that somebody knows by number.
#[derive(Debug)]
pub(super) struct Inode {
    /// Where it lies, or last lay: of several names the one that was looked up last.
    pub(super) path: Path,
    /// Names that it has, here and elsewhere.
    pub(super) links: u32,
    /// Whether it is still what lies there.
    pub(super) linked: bool,
    pub(super) mtime: SystemTime,
    pub(super) permissions: Option<Permissions>,
    pub(super) content: Content,
    pub(super) lookups: u64,
    pub(super) handles: u64,
    /// It was looked up since [`Inodes::coldest`] came by.
    pub(super) warm: bool,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory,
    File(File),
}

/// A file's states. It is *being written* from the open that truncated or the write that began it until its last
/// writing handle is released; in that time the store decides nothing about its name here.
///
/// Most files are only looked at: what those have that are used lies apart, and reads as nothing where there is none.
#[derive(Debug, Default)]
pub(super) struct File {
    /// What of this file lies in the store; `None` before the first publish.
    pub(super) stored: Option<Version>,
    /// Whether the store can give the bytes now.
    pub(super) readable: bool,
    /// The kernel may hold pages that are not `stored`'s.
    pub(super) pages_suspect: bool,
    /// It is a symbolic link, and has nothing else of what is here.
    pub(super) symlink: bool,
    pub(super) used: Option<Box<Used>>,
}

/// What a file has that is open, or was written.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// What else lies at its path, which the first publish is to replace: a file renamed over another before it was
    /// ever published.
    pub(super) beneath: Option<Version>,
    /// Its size while it is being written.
    pub(super) written: Option<u64>,
    /// Where writers meet; made by the first.
    pub(super) gate: Option<Gate>,
    /// Handles that may write.
    pub(super) writers: u64,
    /// Reads what is stored; shared by all handles, dropped with the last.
    pub(super) reader: Option<Arc<FileReader>>,
    /// What writers share where files are changed in place.
    pub(super) in_place: Option<Box<Writing>>,
    /// Its name was removed here while it was open: where it lies, hidden, until its last handle is gone.
    pub(super) hidden: Option<Path>,
}

static UNUSED: Used =
    Used { beneath: None, written: None, gate: None, writers: 0, reader: None, in_place: None, hidden: None };

impl Deref for File {
    type Target = Used;

    fn deref(&self) -> &Used {
        self.used.as_deref().unwrap_or(&UNUSED)
    }
}

impl DerefMut for File {
    fn deref_mut(&mut self) -> &mut Used {
        self.used.get_or_insert_default()
    }
}

impl Inode {
    pub(super) fn kind(&self) -> Kind {
        match &self.content {
            Content::Directory => Kind::Directory,
            Content::File(file) if file.symlink => Kind::Symlink,
            Content::File(_) => Kind::File,
        }
    }

    /// # Errors
    /// `IsADirectory`
    pub(super) fn file(&self) -> Result<&File> {
        match &self.content {
            Content::File(file) => Ok(file),
            Content::Directory => Err(Error::IsADirectory),
        }
    }

    /// # Errors
    /// `IsADirectory`
    pub(super) fn file_mut(&mut self) -> Result<&mut File> {
        match &mut self.content {
            Content::File(file) => Ok(file),
            Content::Directory => Err(Error::IsADirectory),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.size(),
            Content::Directory => 0,
        }
    }

    /// The store counts so many names, a hidden one too.
    pub(super) fn counted(&mut self, links: u32) {
        let hidden = self.file().is_ok_and(|file| file.hidden.is_some());
        let others = links.saturating_sub(u32::from(hidden));
        if self.linked {
            self.links = others.max(1);
        } else if hidden {
            self.links = others;
        }
    }

    /// It is `path` that names it from now on.
    pub(super) fn goes_by(&mut self, path: Path) {
        if let Content::File(file) = &mut self.content {
            file.moved(&path);
        }
        self.path = path;
    }

    pub(super) fn is_being_written(&self) -> bool {
        matches!(&self.content, Content::File(file) if file.written.is_some())
    }

    pub(super) fn is_open_in_place(&self) -> bool {
        matches!(&self.content, Content::File(file) if file.in_place.is_some())
    }

    /// Whether `meta` shows this very file or directory.
    pub(super) fn is(&self, meta: &Meta) -> bool {
        match (&self.content, &meta.node) {
            (Content::Directory, Node::Directory) => true,
            (Content::File(file), Node::File(version) | Node::Symlink(version)) => {
                file.symlink == (meta.kind() == Kind::Symlink)
                    && file.stored.as_ref().map_or_else(|| file.unseen(), |stored| stored.file == version.file)
            }
            (Content::Directory, Node::File(_) | Node::Symlink(_)) | (Content::File(_), Node::Directory) => false,
        }
    }
}

impl File {
    pub(super) fn size(&self) -> u64 {
        self.written.unwrap_or_else(|| self.stored.as_ref().map_or(0, |version| version.size))
    }

    /// Whether only the name and kind of it are known, from a listing.
    pub(super) fn unseen(&self) -> bool {
        self.stored.is_none() && self.written.is_none()
    }

    /// The size of what a publish of it replaces in the store, or a removal of its name removes there.
    pub(super) fn in_store(&self) -> Option<u64> {
        self.stored.as_ref().or(self.beneath.as_ref()).map(|version| version.size)
    }

    /// One that is not in the store yet, being written through one handle.
    pub(super) fn begun(gate: Gate) -> File {
        let used = Used { written: Some(0), gate: Some(gate), writers: 1, ..Used::default() };
        File { readable: true, used: Some(Box::new(used)), ..File::default() }
    }

    /// The store has `version` of it now.
    pub(super) fn store(&mut self, version: Version) {
        let other = self.stored.as_ref() != Some(&version);
        if let Some(used) = &mut self.used {
            used.beneath = None;
            if other {
                used.reader = None;
            }
        }
        if other {
            if self.stored.as_ref().is_some_and(|stored| stored.bytes != version.bytes) {
                self.pages_suspect = true;
            }
            self.stored = Some(version);
        }
    }

    /// It has `size` bytes at least, of which the store says nothing.
    pub(super) fn reaches(&mut self, size: u64) {
        if let Some(stored) = self.stored.as_mut().filter(|stored| stored.size < size) {
            stored.size = size;
        }
    }

    /// It lies at `path` from now on.
    pub(super) fn moved(&mut self, path: &Path) {
        if let Some(version) = self.stored.as_mut().filter(|version| version.path != *path) {
            version.path = path.clone();
            if let Some(used) = &mut self.used {
                used.reader = None;
            }
        }
    }

    /// Nobody has it open any more. Where it lies, if it is hidden.
    pub(super) fn closed(&mut self) -> Option<Path> {
        let used = self.used.as_mut()?;
        used.reader = None;
        let hidden = used.hidden.take();
        let Used { beneath, written, gate, writers, in_place, .. } = &**used;
        if beneath.is_none() && written.is_none() && gate.is_none() && *writers == 0 && in_place.is_none() {
            self.used = None;
        }
        hidden
    }
}
