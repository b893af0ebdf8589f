//! The inode table: what the kernel knows by number, and what lies where.
//!
//! One inode is one version of one file: where the store shows another file under a name, the name gets another inode,
//! and the old one lives on for those who hold it. What this mount itself changes or renames keeps its inode. Where the
//! store gives a file several names, they are one inode, which goes by one of them.
//!
//! Lock order: a name's lock ([`super::locks`]), an inode's [`Gate`], this table, then the log of changes or the ledger.
//! The table is never held over an await.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use super::inode::{Content, File, Inode};
use super::write::Gate;
use super::{Error, Result};
use crate::backend::{Kind, Meta, Name, Node, Path, Version};

/// An inode's number: never 0, which FUSE takes for no inode; below 2^53, which every language's numbers can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The volume's own directory (FUSE_ROOT_ID).
    pub const ROOT: Ino = Ino(1);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inodes {
    /// Each in a place of its own: the table's free slots are small.
    inodes: HashMap<Ino, Box<Inode>>,
    names: HashMap<Path, Ino>,
    /// What a file has beside its path of the names that are known; nothing for most.
    further: HashMap<Ino, Vec<Path>>,
    /// By what tells a file from others, where one may have several names.
    files: Option<HashMap<Arc<str>, Ino>>,
    /// Files being written, so that a directory finds its own among few.
    being_written: HashSet<Ino>,
    /// All of them and some that are gone, in the order in which [`Inodes::coldest`] comes by.
    round: VecDeque<Ino>,
}

impl Inodes {
    /// A table with the volume's own directory. `hard_links` is [`crate::backend::Traits`]'s.
    pub(super) fn new(hard_links: bool) -> Inodes {
        let root = Inode {
            path: Path::root(),
            links: 1,
            linked: true,
            mtime: SystemTime::UNIX_EPOCH,
            permissions: None,
            content: Content::Directory,
            lookups: 1,
            handles: 0,
            warm: true,
        };
        Inodes {
            inodes: HashMap::from([(Ino::ROOT, Box::new(root))]),
            names: HashMap::from([(Path::root(), Ino::ROOT)]),
            further: HashMap::new(),
            files: hard_links.then(HashMap::new),
            being_written: HashSet::new(),
            round: VecDeque::new(),
        }
    }

    /// # Errors
    /// `Stale` for a number that nobody was given, or that was forgotten.
    pub(super) fn get(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode).ok_or(Error::Stale)
    }

    /// # Errors
    /// `Stale`
    pub(super) fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).map(|inode| &mut **inode).ok_or(Error::Stale)
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
        let inode = |ino: &Ino| self.inodes.get(ino);
        let there =
            self.at(path).filter(|ino| inode(ino).is_some_and(|inode| inode.is_being_written() || inode.is(meta)));
        // Of a name that only a listing told of it is not known whose it is.
        let seen = there.filter(|ino| inode(ino).is_some_and(|inode| !inode.file().is_ok_and(File::unseen)));
        let known = seen.or_else(|| self.under_another_name(meta)).or(there);
        known.unwrap_or_else(|| self.free_number(path, meta.version().map(|version| &*version.file)))
    }

    /// The file of `meta`, if it is known. One that has one name was moved by another client: it is looked up there.
    fn under_another_name(&self, meta: &Meta) -> Option<Ino> {
        let version = meta.version().filter(|_| meta.links > 1)?;
        let ino = self.files.as_ref()?.get(&version.file)?;
        self.inodes.get(ino).is_some_and(|inode| inode.is(meta)).then_some(*ino)
    }

    /// Every name that is known of an inode.
    pub(super) fn names_of(&self, ino: Ino) -> Vec<Path> {
        let own = self.inodes.get(&ino).filter(|inode| inode.linked).map(|inode| inode.path.clone());
        own.into_iter().chain(self.further.get(&ino).into_iter().flatten().cloned()).collect()
    }

    /// Takes in what the store shows at `path` and counts a lookup of it. What is being written here stays as it is.
    pub(super) fn enter(&mut self, path: &Path, meta: &Meta) -> Ino {
        let ino = self.number(path, meta);
        if self.at(path) == Some(ino) || self.inodes.contains_key(&ino) {
            self.goes_by(ino, path);
        } else {
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
            inode.counted(meta.links);
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
        if let (Some(files), Some(version)) = (&mut self.files, meta.version()) {
            files.insert(version.file.clone(), ino);
        }
        ino
    }

    /// An inode that is known has this name, too, which is the one it goes by from now on: it was just seen to have it.
    pub(super) fn goes_by(&mut self, ino: Ino, path: &Path) {
        if self.at(path) != Some(ino) {
            self.detach(path);
            self.names.insert(path.clone(), ino);
        }
        let Some(inode) = self.inodes.get_mut(&ino).filter(|inode| !inode.linked || inode.path != *path) else {
            return;
        };
        let further = self.further.entry(ino).or_default();
        further.retain(|name| name != path);
        if std::mem::replace(&mut inode.linked, true) {
            further.push(inode.path.clone());
        }
        if further.is_empty() {
            self.further.remove(&ino);
        }
        inode.goes_by(path.clone());
    }

    /// Takes in what the store says of what `ino` is, wherever it lies; nothing of another file, which came there meanwhile.
    pub(super) fn take_in(&mut self, ino: Ino, meta: &Meta) {
        let Some(inode) = self.inodes.get_mut(&ino).filter(|inode| inode.is(meta)) else { return };
        inode.mtime = meta.mtime;
        inode.permissions = meta.permissions;
        inode.counted(meta.links);
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
        let file = File::begun(gate);
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
                left = file.closed();
            }
        }
        self.reap(ino);
        left
    }

    /// All that are known.
    pub(super) fn each(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        self.inodes.iter().map(|(ino, inode)| (*ino, &**inode))
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
            let mut further = self.further.remove(&ino).unwrap_or_default();
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.links = inode.links.saturating_sub(1);
                if inode.path != *path {
                    further.retain(|name| name != path);
                } else if let Some(next) = further.pop() {
                    inode.goes_by(next);
                } else {
                    inode.linked = false;
                    if let Some(hidden) = inode.file().ok().and_then(|file| file.hidden.clone()) {
                        inode.goes_by(hidden);
                    }
                }
            }
            if !further.is_empty() {
                self.further.insert(ino, further);
            }
            self.reap(ino);
        }
    }

    /// `ino` lay at `from`, and lies at `to`, with all that is known below it.
    pub(super) fn rename(&mut self, ino: Ino, from: &Path, to: &Path) {
        self.detach(to);
        if self.at(from).is_none() && self.inodes.contains_key(&ino) {
            // Somebody looked for the old name when it was gone in the store already.
            self.goes_by(ino, from);
        }
        let moved: Vec<Path> = match self.at(from).and_then(|ino| self.inodes.get(&ino)).map(|inode| inode.kind()) {
            Some(Kind::Directory) => self.names.keys().filter(|path| path.starts_with(from)).cloned().collect(),
            Some(Kind::File | Kind::Symlink) => vec![from.clone()],
            None => return,
        };
        let below = |old: &Path| old.names().skip(from.names().count()).fold(to.clone(), |path, name| path.join(&name));
        for (ino, old) in self.hidden_where(|path| path.starts_with(from)) {
            self.hide_at(ino, &old, &below(&old));
        }
        for old in moved {
            let new = below(&old);
            if let Some(ino) = self.names.remove(&old) {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    match inode.path == old {
                        true => inode.goes_by(new.clone()),
                        false => inode.goes_by(inode.path.clone()),
                    }
                }
                let further = self.further.get_mut(&ino).into_iter().flatten();
                further.filter(|name| **name == old).for_each(|name| name.clone_from(&new));
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
        (self.inodes.values().map(|inode| inode.size()).sum(), self.inodes.len() as u64)
    }

    fn insert(&mut self, ino: Ino, path: &Path, mut content: Content) {
        if let Content::File(File { stored: Some(version), .. }) = &mut content {
            // One text for all who name it.
            version.path = path.clone();
        }
        let inode = Inode {
            path: path.clone(),
            links: 1,
            linked: true,
            mtime: SystemTime::UNIX_EPOCH,
            permissions: None,
            content,
            lookups: 0,
            handles: 0,
            warm: true,
        };
        self.inodes.insert(ino, Box::new(inode));
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
            && self.inodes.get(&ino).is_some_and(|inode| unused(inode))
            && let Some(inode) = self.inodes.remove(&ino)
        {
            let Inode { path, content, .. } = *inode;
            for name in self.further.remove(&ino).into_iter().flatten().chain([path]) {
                if self.at(&name) == Some(ino) {
                    self.names.remove(&name);
                }
            }
            if let (Some(files), Content::File(File { stored: Some(version), .. })) = (&mut self.files, &content)
                && files.get(&version.file) == Some(&ino)
            {
                files.remove(&version.file);
            }
        }
    }

    /// A number that follows from what it stands for, so that a forgotten inode comes back under the same one, by whichever
    /// of its names.
    fn free_number(&self, path: &Path, file: Option<&str>) -> Ino {
        let mut hasher = DefaultHasher::new();
        let path = Some(path).filter(|_| self.files.is_none() || file.is_none());
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
        Meta { node: Node::Directory, mtime: SystemTime::UNIX_EPOCH, permissions: None, readable: true, links: 1 }
    }

    fn file(at: &str, version: &str) -> Meta {
        let version: Arc<str> = version.into();
        let version = Version { path: path(at), file: version.clone(), bytes: version, size: 10 };
        Meta { node: Node::File(version), ..directory() }
    }

    #[test]
    fn one_inode_is_one_version() {
        let mut table = Inodes::new(false);
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
        let mut table = Inodes::new(false);
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
        let mut table = Inodes::new(false);
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
        let mut table = Inodes::new(false);
        let dir = table.enter(&path("d"), &directory());
        let below = table.enter(&path("d/x/f"), &file("d/x/f", "1"));
        let beside = table.enter(&path("dx"), &file("dx", "1"));
        table.rename(dir, &path("d"), &path("e/new"));
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
        let mut table = Inodes::new(false);
        let number = table.number(&path("f"), &file("f", "1"));
        let unseen = table.enter_unseen(&path("f"), number, Kind::File);
        assert!(table.get(unseen).unwrap().file().unwrap().unseen());
        assert_eq!((unseen, table.enter(&path("f"), &file("f", "1"))), (number, number));
        assert_eq!(table.get(number).unwrap().size(), 10);
    }

    #[test]
    fn every_name_of_a_file_is_one_inode() {
        let mut table = Inodes::new(true);
        let linked = |at: &str, links| Meta { links, ..file(at, "1") };
        let ino = table.enter(&path("a"), &linked("a", 1));
        assert_eq!(table.enter(&path("d/b"), &linked("d/b", 2)), ino);
        assert_eq!((table.get(ino).unwrap().links, table.names_of(ino)), (2, vec![path("d/b"), path("a")]));
        table.rename(Ino(999), &path("d"), &path("e"));
        table.rename(ino, &path("a"), &path("c"));
        assert_eq!(
            (table.at(&path("d/b")), table.at(&path("a"))),
            (Some(ino), None),
            "what is not known does not move"
        );
        assert_eq!(table.names_of(ino), [path("d/b"), path("c")]);
        // It goes by the other when one is gone, and has none when both are.
        table.detach(&path("d/b"));
        let left = table.get(ino).unwrap();
        assert_eq!((&left.path, left.linked, left.links), (&path("c"), true, 1));
        table.detach(&path("c"));
        assert!(!table.get(ino).unwrap().linked);
        // Found again by a name of two, it is what lies there.
        assert_eq!(table.enter(&path("f"), &linked("f", 2)), ino);
        assert_eq!(table.enter(&path("g"), &linked("g", 2)), ino);
        // Another file takes one of its names.
        let other = table.enter(&path("g"), &file("g", "2"));
        assert_ne!(other, ino);
        assert_eq!(table.names_of(ino), [path("f")]);
        table.enter(&path("h"), &linked("h", 2));
        table.forget(ino, 5);
        assert!(table.get(ino).is_err() && table.at(&path("f")).is_none() && table.at(&path("h")).is_none());
        assert!(table.further.is_empty() && table.files.as_ref().is_some_and(|files| files.len() == 1));
        assert_eq!(table.enter(&path("h"), &linked("h", 2)), ino, "the number is the file's, whichever its name");
    }

    #[test]
    fn files_of_stores_without_links_share_nothing() {
        let mut table = Inodes::new(false);
        let one = table.enter(&path("a"), &Meta { links: 2, ..file("a", "1") });
        assert_ne!(table.enter(&path("b"), &Meta { links: 2, ..file("b", "1") }), one);
    }
}
