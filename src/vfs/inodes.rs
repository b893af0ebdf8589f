//! The inode table: what the kernel knows by number, and what lies where.
//!
//! One inode is one version of one file: where the store shows another file under a name, the name gets another inode,
//! and the old one lives on for those who hold it. What this mount itself changes or renames keeps its inode.
//!
//! Lock order: a name's lock ([`super::locks`]), an inode's [`Gate`], this table, then the log of changes or the ledger.
//! The table is never held over an await.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use super::in_place::Writing;
use super::write::Gate;
use super::{Error, Result};
use crate::backend::{Kind, Meta, Name, Node, Path, Permissions, Version};
use crate::prefetch::FileReader;

/// An inode's number: never 0, which FUSE takes for no inode; below 2^53, which every language's numbers can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The volume's own directory (FUSE_ROOT_ID).
    pub const ROOT: Ino = Ino(1);
}

/// A file or directory that somebody knows by number.
#[derive(Debug)]
pub(super) struct Inode {
    /// Where it lies, or last lay.
    pub(super) path: Path,
    /// Whether it is still what lies there.
    pub(super) linked: bool,
    pub(super) mtime: SystemTime,
    pub(super) permissions: Option<Permissions>,
    pub(super) content: Content,
    lookups: u64,
    handles: u64,
    /// It was looked up since [`Inodes::coldest`] came by.
    warm: bool,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory,
    File(File),
}

/// A file's states. It is *being written* from the open that truncated or the write that began it until its last
/// writing handle is released; in that time the store decides nothing about its name here.
#[derive(Debug, Default)]
pub(super) struct File {
    /// What of this file lies in the store; `None` before the first publish.
    pub(super) stored: Option<Version>,
    /// What else lies at its path, which the first publish is to replace: a file renamed over another before it was
    /// ever published.
    pub(super) beneath: Option<Version>,
    /// Whether the store can give the bytes now.
    pub(super) readable: bool,
    /// Its size while it is being written.
    pub(super) written: Option<u64>,
    /// Where writers meet; made by the first.
    pub(super) gate: Option<Gate>,
    /// Handles that may write.
    pub(super) writers: u64,
    /// Reads `stored`; shared by all handles, dropped with the last.
    pub(super) reader: Option<Arc<FileReader>>,
    /// The kernel may hold pages that are not `stored`'s.
    pub(super) pages_suspect: bool,
    /// What writers share where files are changed in place.
    pub(super) in_place: Option<Box<Writing>>,
    /// It is a symbolic link, and has nothing else of what is here.
    pub(super) symlink: bool,
    /// Its name was removed here while it was open: where it lies, hidden, until its last handle is gone.
    pub(super) hidden: Option<Path>,
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

    fn is_being_written(&self) -> bool {
        matches!(&self.content, Content::File(file) if file.written.is_some())
    }

    fn is_open_in_place(&self) -> bool {
        matches!(&self.content, Content::File(file) if file.in_place.is_some())
    }

    /// Whether `meta` shows this very file or directory.
    fn is(&self, meta: &Meta) -> bool {
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

    /// The store has `version` of it now.
    pub(super) fn store(&mut self, version: Version) {
        if self.stored.as_ref() != Some(&version) {
            if self.stored.as_ref().is_some_and(|stored| stored.bytes != version.bytes) {
                self.pages_suspect = true;
            }
            self.reader = None;
            self.stored = Some(version);
        }
        self.beneath = None;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inodes {
    inodes: HashMap<Ino, Inode>,
    names: HashMap<Path, Ino>,
    /// Files being written, so that a directory finds its own among few.
    being_written: HashSet<Ino>,
    /// All of them and some that are gone, in the order in which [`Inodes::coldest`] comes by.
    round: VecDeque<Ino>,
}

impl Inodes {
    /// A table with the volume's own directory.
    pub(super) fn new() -> Inodes {
        let root = Inode {
            path: Path::root(),
            linked: true,
            mtime: SystemTime::UNIX_EPOCH,
            permissions: None,
            content: Content::Directory,
            lookups: 1,
            handles: 0,
            warm: true,
        };
        Inodes {
            inodes: HashMap::from([(Ino::ROOT, root)]),
            names: HashMap::from([(Path::root(), Ino::ROOT)]),
            being_written: HashSet::new(),
            round: VecDeque::new(),
        }
    }

    /// # Errors
    /// `Stale` for a number that nobody was given, or that was forgotten.
    pub(super) fn get(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Error::Stale)
    }

    /// # Errors
    /// `Stale`
    pub(super) fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Error::Stale)
    }

    /// The path of a directory that still is one.
    ///
    /// # Errors
    /// `Stale`, `NotADirectory`, `NotFound` for one that was removed.
    pub(super) fn directory(&self, ino: Ino) -> Result<Path> {
        let inode = self.get(ino)?;
        match (inode.kind(), inode.linked) {
            (Kind::File | Kind::Symlink, _) => Err(Error::NotADirectory),
            (Kind::Directory, false) => Err(Error::NotFound),
            (Kind::Directory, true) => Ok(inode.path.clone()),
        }
    }

    /// What is known to lie at `path`.
    pub(super) fn at(&self, path: &Path) -> Option<Ino> {
        self.names.get(path).copied()
    }

    /// The size of the file that the store is known to have at `path`.
    pub(super) fn stored_at(&self, path: &Path) -> Option<u64> {
        self.inodes.get(&self.at(path)?)?.file().ok()?.in_store()
    }

    /// The file being written at `path`.
    pub(super) fn written_at(&self, path: &Path) -> Option<Ino> {
        self.at(path).filter(|ino| self.being_written.contains(ino))
    }

    /// The files being written in the directory `dir`.
    pub(super) fn written_in(&self, dir: &Path) -> Vec<(Name, Ino)> {
        let inside = |ino: &Ino| {
            let inode = self.inodes.get(ino).filter(|inode| inode.linked)?;
            let (parent, name) = inode.path.split_last()?;
            (parent == *dir).then_some((name, *ino))
        };
        self.being_written.iter().filter_map(inside).collect()
    }

    /// The files being written at any depth below the directory `dir`.
    pub(super) fn written_below(&self, dir: &Path) -> Vec<Ino> {
        let below = |ino: &&Ino| self.inodes.get(ino).is_some_and(|inode| inode.linked && inode.path.starts_with(dir));
        let mut found: Vec<Ino> = self.being_written.iter().filter(below).copied().collect();
        found.sort_unstable();
        found
    }

    /// All files being written.
    pub(super) fn all_written(&self) -> Vec<Ino> {
        self.being_written.iter().copied().collect()
    }

    /// The number that `meta` at `path` has, or would get.
    pub(super) fn number(&self, path: &Path, meta: &Meta) -> Ino {
        match self.at(path) {
            Some(ino) if self.inodes.get(&ino).is_some_and(|inode| inode.is_being_written() || inode.is(meta)) => ino,
            _ => self.free_number(path, meta.version().map(|version| &*version.file)),
        }
    }

    /// Takes in what the store shows at `path` and counts a lookup of it. What is being written here stays as it is.
    pub(super) fn enter(&mut self, path: &Path, meta: &Meta) -> Ino {
        let ino = self.number(path, meta);
        if self.at(path) != Some(ino) {
            self.detach(path);
            let content = match &meta.node {
                Node::Directory => Content::Directory,
                Node::File(version) => Content::File(File { stored: Some(version.clone()), ..File::default() }),
                Node::Symlink(version) => {
                    Content::File(File { stored: Some(version.clone()), symlink: true, ..File::default() })
                }
            };
            self.insert(ino, path, content);
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
            inode.warm = true;
            // What is changed in place here is what its last write left; the store may have been asked before that.
            if !inode.is_being_written() && !inode.is_open_in_place() {
                inode.mtime = meta.mtime;
                inode.permissions = meta.permissions;
                if let (Content::File(file), Some(version)) = (&mut inode.content, meta.version()) {
                    file.readable = meta.readable;
                    file.store(version.clone());
                }
            }
        }
        ino
    }

    /// Takes in what the store says of what `ino` is, wherever it lies.
    pub(super) fn take_in(&mut self, ino: Ino, meta: &Meta) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.mtime = meta.mtime;
        inode.permissions = meta.permissions;
        let path = inode.path.clone();
        if let (Content::File(file), Some(version)) = (&mut inode.content, meta.version()) {
            file.readable = meta.readable;
            file.store(Version { path, ..version.clone() });
        }
    }

    /// Counts a lookup of what lies at `path`, of which only a number and a kind are known unless it is in the table.
    pub(super) fn enter_unseen(&mut self, path: &Path, ino: Ino, kind: Kind) -> Ino {
        let ino = match self.at(path) {
            Some(known) => known,
            None => {
                let ino = if self.inodes.contains_key(&ino) { self.free_number(path, None) } else { ino };
                let content = match kind {
                    Kind::Directory => Content::Directory,
                    Kind::File => Content::File(File { readable: true, ..File::default() }),
                    Kind::Symlink => Content::File(File { readable: true, symlink: true, ..File::default() }),
                };
                self.insert(ino, path, content);
                ino
            }
        };
        self.count(ino);
        ino
    }

    /// A new file at `path`, not in the store yet, being written through one handle; counts a lookup and the handle.
    pub(super) fn create(&mut self, path: &Path, gate: Gate) -> Ino {
        self.detach(path);
        let ino = self.free_number(path, None);
        let file = File { readable: true, written: Some(0), gate: Some(gate), writers: 1, ..File::default() };
        self.insert(ino, path, Content::File(file));
        self.being_written.insert(ino);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.mtime = SystemTime::now();
            inode.lookups = 1;
            inode.handles = 1;
        }
        ino
    }

    /// Counts a lookup.
    pub(super) fn count(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
            inode.warm = true;
        }
    }

    /// Counts a lookup of what is known to lie at `path`.
    pub(super) fn count_at(&mut self, path: &Path) -> Option<Ino> {
        let ino = self.at(path)?;
        self.count(ino);
        Some(ino)
    }

    /// The kernel gives back `lookups` of an inode.
    pub(super) fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
        }
        self.reap(ino);
    }

    /// Counts a handle; one that may write where `writes`.
    pub(super) fn open(&mut self, ino: Ino, writes: bool) -> Result<()> {
        let inode = self.get_mut(ino)?;
        inode.handles += 1;
        if writes {
            inode.file_mut()?.writers += 1;
        }
        Ok(())
    }

    /// Gives back a handle. A writing one was taken off `writers` before. Where a hidden file lies that nobody has open
    /// any more, if it is one.
    pub(super) fn close(&mut self, ino: Ino) -> Option<Path> {
        let mut left = None;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles = inode.handles.saturating_sub(1);
            if inode.handles == 0
                && let Content::File(file) = &mut inode.content
            {
                file.reader = None;
                left = file.hidden.take();
            }
        }
        self.reap(ino);
        left
    }

    /// The file at `path`, where somebody has it open.
    pub(super) fn open_at(&self, path: &Path) -> Option<Ino> {
        let is_open = |ino: &Ino| self.inodes.get(ino).is_some_and(|inode| inode.handles > 0 && inode.file().is_ok());
        self.at(path).filter(is_open)
    }

    /// Files that are open to be changed in place.
    pub(super) fn all_in_place(&self) -> Vec<Ino> {
        let open = self.inodes.iter().filter(|(_, inode)| inode.is_open_in_place());
        open.map(|(ino, _)| *ino).collect()
    }

    /// The size a file being written has now, or `None` for one that no longer is.
    pub(super) fn set_written(&mut self, ino: Ino, size: Option<u64>) {
        if let Ok(inode) = self.get_mut(ino)
            && let Content::File(file) = &mut inode.content
        {
            if size.is_some() {
                inode.mtime = SystemTime::now();
            }
            file.written = size;
            file.reader = None;
        }
        match size {
            Some(_) => self.being_written.insert(ino),
            None => self.being_written.remove(&ino),
        };
        self.reap(ino);
    }

    /// What lay at `path` does so no longer. Its inode lives on for those who hold it.
    pub(super) fn detach(&mut self, path: &Path) {
        if let Some(ino) = self.names.remove(path) {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.linked = false;
            }
            self.reap(ino);
        }
    }

    /// What lay at `from`, and all that is known below it, lies at `to`.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        self.detach(to);
        let moved: Vec<Path> = match self.at(from).and_then(|ino| self.inodes.get(&ino)).map(Inode::kind) {
            Some(Kind::Directory) => self.names.keys().filter(|path| path.starts_with(from)).cloned().collect(),
            Some(Kind::File | Kind::Symlink) => vec![from.clone()],
            None => return,
        };
        for old in moved {
            let new = old.names().skip(from.names().count()).fold(to.clone(), |path, name| path.join(&name));
            if let Some(ino) = self.names.remove(&old) {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.path = new.clone();
                    if let Content::File(File { stored: Some(version), reader, .. }) = &mut inode.content
                        && version.path != new
                    {
                        version.path = new.clone();
                        *reader = None;
                    }
                }
                self.names.insert(new, ino);
            }
        }
    }

    /// Every number that is known. The kernel's pages of none of them may be used again.
    pub(super) fn suspect_all(&mut self) -> Vec<Ino> {
        for inode in self.inodes.values_mut() {
            if let Content::File(file) = &mut inode.content {
                file.pages_suspect = true;
            }
        }
        self.inodes.keys().copied().collect()
    }

    /// Bytes of the files known here, and how many inodes.
    pub(super) fn usage(&self) -> (u64, u64) {
        (self.inodes.values().map(Inode::size).sum(), self.inodes.len() as u64)
    }

    fn insert(&mut self, ino: Ino, path: &Path, content: Content) {
        let inode = Inode {
            path: path.clone(),
            linked: true,
            mtime: SystemTime::UNIX_EPOCH,
            permissions: None,
            content,
            lookups: 0,
            handles: 0,
            warm: true,
        };
        self.inodes.insert(ino, inode);
        self.names.insert(path.clone(), ino);
        self.round.push_back(ino);
        if self.round.len() > 2 * self.inodes.len() + 64 {
            let mut seen = HashSet::new();
            self.round.retain(|ino| self.inodes.contains_key(ino) && seen.insert(*ino));
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Up to `most` that nobody has open and that were not looked up since this came by last.
    pub(super) fn coldest(&mut self, most: usize) -> Vec<Ino> {
        let mut found = Vec::new();
        // Who is looked up all the time is passed by, and that costs something.
        for _ in 0..self.round.len().min(8 * most) {
            let Some(ino) = self.round.pop_front() else { break };
            let Some(inode) = self.inodes.get_mut(&ino) else { continue };
            self.round.push_back(ino);
            let warm = std::mem::take(&mut inode.warm);
            if !warm && inode.handles == 0 && !inode.is_being_written() {
                found.push(ino);
                if found.len() == most {
                    break;
                }
            }
        }
        found
    }

    fn reap(&mut self, ino: Ino) {
        let unused = |inode: &Inode| inode.lookups == 0 && inode.handles == 0 && !inode.is_being_written();
        if ino != Ino::ROOT
            && self.inodes.get(&ino).is_some_and(unused)
            && let Some(inode) = self.inodes.remove(&ino)
            && self.at(&inode.path) == Some(ino)
        {
            self.names.remove(&inode.path);
        }
    }

    /// A number that follows from what it stands for, so that a forgotten inode comes back under the same one.
    fn free_number(&self, path: &Path, file: Option<&str>) -> Ino {
        let mut hasher = DefaultHasher::new();
        (path, file).hash(&mut hasher);
        let mut number = hasher.finish() >> 11;
        while number <= super::control::FILE.0 || self.inodes.contains_key(&Ino(number)) {
            number = (number + 1) % (1 << 53);
        }
        Ino(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    fn directory() -> Meta {
        Meta { node: Node::Directory, mtime: SystemTime::UNIX_EPOCH, permissions: None, readable: true }
    }

    fn file(at: &str, version: &str) -> Meta {
        let version: Arc<str> = version.into();
        let version = Version { path: path(at), file: version.clone(), bytes: version, size: 10 };
        Meta { node: Node::File(version), ..directory() }
    }

    #[test]
    fn one_inode_is_one_version() {
        let mut table = Inodes::new();
        let first = table.enter(&path("f"), &file("f", "1"));
        assert_eq!(table.enter(&path("f"), &file("f", "1")), first);
        let second = table.enter(&path("f"), &file("f", "2"));
        assert_ne!(first, second);
        assert!(!table.get(first).unwrap().linked && table.get(second).unwrap().linked);
        assert_eq!(table.at(&path("f")), Some(second));
        // The old one is kept for as long as it was counted.
        table.forget(first, 1);
        assert!(table.get(first).is_ok());
        table.forget(first, 1);
        assert!(table.get(first).is_err());
        assert_eq!(table.enter(&path("f"), &directory()), table.at(&path("f")).unwrap());
        assert!(!table.get(second).unwrap().linked);
    }

    #[test]
    fn what_is_open_or_being_written_outlives_its_lookups() {
        let mut table = Inodes::new();
        let ino = table.enter(&path("f"), &file("f", "1"));
        table.open(ino, false).unwrap();
        table.forget(ino, 1);
        assert!(table.get(ino).is_ok());
        table.close(ino);
        assert!(table.get(ino).is_err());

        let ino = table.create(&path("g"), Gate::default());
        table.forget(ino, 1);
        table.close(ino);
        assert_eq!(table.written_in(&Path::root()).len(), 1);
        assert_eq!(table.enter(&path("g"), &file("g", "theirs")), ino);
        table.forget(ino, 1);
        table.set_written(ino, None);
        assert!(table.get(ino).is_err() && table.at(&path("g")).is_none());
        table.forget(Ino::ROOT, u64::MAX);
        assert!(table.get(Ino::ROOT).is_ok());
    }

    #[test]
    fn the_coldest_are_those_that_were_not_looked_up_again() {
        let mut table = Inodes::new();
        let names: Vec<_> = (0..100).map(|number| format!("f{number:02}")).collect();
        let inos: Vec<_> = names.iter().map(|name| table.enter(&path(name), &file(name, "1"))).collect();
        assert!(table.coldest(100).is_empty(), "each is new");
        table.open(inos[3], false).unwrap();
        table.enter(&path("f05"), &file("f05", "1"));
        table.forget(inos[0], 1);
        let cold = table.coldest(100);
        assert_eq!(cold.len(), 97, "{cold:?}");
        assert!([0, 3, 5].iter().all(|at| !cold.contains(&inos[*at])));
        for _ in 0..1000 {
            let ino = table.enter(&path("again"), &file("again", "1"));
            table.forget(ino, 1);
        }
        assert!(table.round.len() < 400, "{}", table.round.len());
    }

    #[test]
    fn a_directory_takes_what_is_below_it_along() {
        let mut table = Inodes::new();
        let dir = table.enter(&path("d"), &directory());
        let below = table.enter(&path("d/x/f"), &file("d/x/f", "1"));
        let beside = table.enter(&path("dx"), &file("dx", "1"));
        table.rename(&path("d"), &path("e/new"));
        assert_eq!(table.directory(dir).unwrap(), path("e/new"));
        let moved = table.get(below).unwrap();
        assert_eq!(
            (&moved.path, &moved.file().unwrap().stored.as_ref().unwrap().path),
            (&path("e/new/x/f"), &path("e/new/x/f"))
        );
        assert_eq!((table.at(&path("d/x/f")), table.at(&path("dx"))), (None, Some(beside)));
    }

    #[test]
    fn a_name_known_from_a_listing_is_filled_in_later() {
        let mut table = Inodes::new();
        let number = table.number(&path("f"), &file("f", "1"));
        let unseen = table.enter_unseen(&path("f"), number, Kind::File);
        assert!(table.get(unseen).unwrap().file().unwrap().unseen());
        assert_eq!((unseen, table.enter(&path("f"), &file("f", "1"))), (number, number));
        assert_eq!(table.get(number).unwrap().size(), 10);
    }
}
