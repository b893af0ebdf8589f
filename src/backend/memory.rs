//! A store held in memory: the reference of the contract, and what the layers above are tested on.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};

use super::{
    Attributes, Backend, Base, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Meta, Node, Op,
    Path, Permissions, RenameOptions, Result, Rights, SetAttributes, Space, Traits, Upload, Version,
};

/// Bytes in one chunk of a read's stream.
const CHUNK: usize = 64 << 10;
const ROOT_STAYS: &str = "the volume's own directory stays where it is";

/// A tree in memory. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Tree>>);

#[derive(Debug, Default)]
struct Tree {
    /// Everything but the root, by path: a directory's entries follow it.
    nodes: BTreeMap<Path, Held>,
    /// Numbers versions; never used twice.
    last: u64,
    /// Files are changed in place, and have owners and modes.
    in_place: bool,
    /// What it says that it has room for.
    space: Option<Space>,
}

#[derive(Debug, Clone)]
enum Held {
    File { content: Bytes, number: u64, mtime: SystemTime, own: Option<Own> },
    Directory { mtime: SystemTime },
}

impl Held {
    /// The number of a file that is changed in place.
    fn file(&self) -> Option<u64> {
        match self {
            Held::File { own, .. } => own.map(|own| own.file),
            Held::Directory { .. } => None,
        }
    }
}

/// What a file has that is changed in place.
#[derive(Debug, Clone, Copy)]
struct Own {
    /// The file's number, which stays while its bytes change.
    file: u64,
    permissions: Permissions,
}

/// Whose the files of a tree are that are changed in place.
const OWNER: u32 = 1000;

impl Memory {
    /// An empty tree.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// An empty tree whose files are changed in place, and keep owner and mode.
    pub fn in_place() -> Memory {
        Memory(Arc::new(Mutex::new(Tree { in_place: true, ..Tree::default() })))
    }

    /// Says from now on that this is what there is room for. Nothing is held to it.
    pub fn set_space(&self, space: Space) {
        self.tree().space = Some(space);
    }

    /// Puts a file there, as another client would: missing parents are made, what was there is replaced.
    pub fn put(&self, path: &Path, content: impl Into<Bytes>) -> Version {
        let mut tree = self.tree();
        let mut above = path.clone();
        while let Some((parent, _)) = above.split_last() {
            if !parent.is_root() {
                tree.nodes.entry(parent.clone()).or_insert_with(|| Held::Directory { mtime: SystemTime::now() });
            }
            above = parent;
        }
        tree.store(path, content.into())
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        // A panic of another holder leaves the tree as it was before or after one insertion: both are trees.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    fn store(&mut self, path: &Path, content: Bytes) -> Version {
        self.last += 1;
        let own = self
            .in_place
            .then_some(Own { file: self.last, permissions: Permissions { uid: OWNER, gid: OWNER, mode: 0o644 } });
        let held = Held::File { content, number: self.last, mtime: SystemTime::now(), own };
        let version = version(path, &held);
        self.nodes.insert(path.clone(), held);
        version.unwrap_or_else(|| unreachable!("a file was just stored"))
    }

    fn meta(&self, path: &Path) -> Option<Meta> {
        if path.is_root() {
            return Some(meta(path, &Held::Directory { mtime: SystemTime::UNIX_EPOCH }));
        }
        self.nodes.get(path).map(|held| self.meta_of(path, held))
    }

    fn meta_of(&self, path: &Path, held: &Held) -> Meta {
        let names =
            held.file().map_or(1, |file| self.nodes.values().filter(|other| other.file() == Some(file)).count());
        Meta { links: u32::try_from(names).unwrap_or(u32::MAX), ..meta(path, held) }
    }

    /// What changed at `path` did so under each of the file's names.
    fn spread(&mut self, path: &Path) {
        let Some(changed) = self.nodes.get(path).filter(|held| held.file().is_some()).cloned() else { return };
        self.nodes.values_mut().filter(|held| held.file() == changed.file()).for_each(|held| *held = changed.clone());
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        self.meta(path).map(|meta| meta.kind())
    }

    /// What lies directly or deeper below `dir`.
    fn below<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, &'a Held)> + 'a {
        self.nodes
            .range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded))
            // Names that continue this one's (`a.b` after `a`) stand between it and its entries (`a/x`).
            .take_while(move |(path, _)| path.as_bytes().starts_with(dir.as_bytes()))
            .filter(move |(path, _)| path.starts_with(dir))
    }

    fn needs_in_place(&self, op: Op, path: &Path) -> Result<()> {
        match self.in_place {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unsupported, op, path, "this tree keeps whole files")),
        }
    }

    /// Where a file lies now that is changed in place.
    fn path_of(&self, file: &Version) -> Option<Path> {
        let is_it = |(path, held): (&Path, &Held)| {
            version(path, held).is_some_and(|found| found.file == file.file).then(|| path.clone())
        };
        self.nodes.iter().find_map(is_it)
    }

    fn needs_parent(&self, op: Op, path: &Path) -> Result<()> {
        let parent = path.split_last().map(|(parent, _)| parent).unwrap_or_default();
        match self.kind(&parent) {
            Some(Kind::Directory) => Ok(()),
            Some(Kind::File | Kind::Symlink) => Err(Error::new(ErrorKind::NotADirectory, op, &parent, "it is a file")),
            None => Err(Error::new(ErrorKind::NotFound, op, &parent, "no such directory")),
        }
    }

    fn is_base(&self, path: &Path, base: &Base) -> bool {
        let present = self.meta(path);
        match base {
            Base::Any => present.is_none_or(|meta| meta.kind() == Kind::File),
            Base::Absent => present.is_none(),
            Base::Version(wanted) => {
                present.and_then(|meta| meta.version().cloned()).is_some_and(|found| found.bytes == wanted.bytes)
            }
        }
    }
}

fn version(path: &Path, held: &Held) -> Option<Version> {
    match held {
        Held::File { content, number, own, .. } => {
            let bytes: Arc<str> = number.to_string().into();
            let file = own.map_or_else(|| bytes.clone(), |own| format!("file {}", own.file).into());
            Some(Version { path: path.clone(), file, bytes, size: content.len() as u64 })
        }
        Held::Directory { .. } => None,
    }
}

fn meta(path: &Path, held: &Held) -> Meta {
    let (Held::File { mtime, .. } | Held::Directory { mtime }) = held;
    let node = version(path, held).map_or(Node::Directory, Node::File);
    let permissions = match held {
        Held::File { own, .. } => own.map(|own| own.permissions),
        Held::Directory { .. } => None,
    };
    Meta { node, mtime: *mtime, permissions, readable: true, links: 1 }
}

fn absent(op: Op, path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, op, path, "nothing is there")
}

#[async_trait]
impl Backend for Memory {
    fn traits(&self) -> Traits {
        let in_place = self.tree().in_place;
        Traits {
            atomic_rename: true,
            real_directories: true,
            exact_versions: true,
            read_proves_path: !in_place,
            own_permissions: in_place,
            append: in_place,
            random_write: in_place,
            hard_links: in_place,
            largest_file: 1 << 40,
        }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.tree().meta(path).ok_or_else(|| absent(Op::Stat, path))
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        let (memory, dir) = (self.clone(), dir.clone());
        stream::once(async move {
            let tree = memory.tree();
            let entries: Vec<Result<Entry>> = match tree.kind(&dir) {
                None => vec![Err(absent(Op::List, &dir))],
                Some(Kind::File | Kind::Symlink) => {
                    vec![Err(Error::new(ErrorKind::NotADirectory, Op::List, &dir, "it is a file"))]
                }
                Some(Kind::Directory) => tree
                    .below(&dir)
                    .filter_map(|(path, held)| {
                        let (parent, name) = path.split_last()?;
                        (parent == dir).then(|| Ok(Entry { name, meta: tree.meta_of(path, held) }))
                    })
                    .collect(),
            };
            stream::iter(entries)
        })
        .flatten()
        .boxed()
    }

    async fn read(&self, file: &Version, range: Range<u64>, _why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let tree = self.tree();
        let is_it = |found: Version| {
            found.file == file.file
                && (found.bytes == file.bytes
                    || file.bytes == file.file
                    // What is changed in place and longer now still has what it had.
                    || found.size > file.size)
        };
        // What is changed in place is read wherever it lies now.
        let now = tree.in_place.then(|| tree.path_of(file)).flatten();
        let path = now.as_ref().unwrap_or(&file.path);
        let found = tree.nodes.get(path).filter(|held| version(path, held).is_some_and(is_it));
        let Some(Held::File { content, .. }) = found else {
            return Err(Error::new(ErrorKind::Stale, Op::Read, &file.path, "the file was replaced or removed"));
        };
        if range.end > content.len() as u64 {
            return Err(Error::new(ErrorKind::Stale, Op::Read, &file.path, "the file is shorter now"));
        }
        let bytes = content.slice(range.start as usize..range.end as usize);
        let chunks: Vec<_> =
            (0..bytes.len()).step_by(CHUNK).map(|at| Ok(bytes.slice(at..(at + CHUNK).min(bytes.len())))).collect();
        Ok(stream::iter(chunks).boxed())
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        let tree = self.tree();
        let meta = tree.meta(path).ok_or_else(|| absent(Op::Fetch, path))?;
        let Some(Held::File { content, .. }) = tree.nodes.get(path) else {
            return Err(Error::new(ErrorKind::IsADirectory, Op::Fetch, path, "it is a directory"));
        };
        match meta.version() == known {
            true => Ok(Fetched::Same),
            false if meta.size() > longest => {
                Err(Error::new(ErrorKind::TooLarge, Op::Fetch, path, format!("it is longer than {longest} bytes")))
            }
            false => Ok(Fetched::New { bytes: content.clone(), meta }),
        }
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        let tree = self.tree();
        tree.needs_parent(Op::Write, path)?;
        if tree.kind(path) == Some(Kind::Directory) {
            return Err(Error::new(ErrorKind::IsADirectory, Op::Write, path, "it is a directory"));
        }
        Ok(Box::new(Writing { memory: self.clone(), path: path.clone(), base: how.base, content: BytesMut::new() }))
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        let mut tree = self.tree();
        if tree.kind(path).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, Op::MakeDir, path, "something is there already"));
        }
        tree.needs_parent(Op::MakeDir, path)?;
        let held = Held::Directory { mtime: SystemTime::now() };
        let made = meta(path, &held);
        tree.nodes.insert(path.clone(), held);
        Ok(made)
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        let mut tree = self.tree();
        if path.is_root() {
            return Err(Error::new(ErrorKind::Denied, Op::Remove, path, ROOT_STAYS));
        }
        match (tree.kind(path), kind) {
            (None, _) => return Err(absent(Op::Remove, path)),
            (Some(Kind::Directory), Kind::File) => {
                return Err(Error::new(ErrorKind::IsADirectory, Op::Remove, path, "it is a directory"));
            }
            (Some(Kind::File), Kind::Directory) => {
                return Err(Error::new(ErrorKind::NotADirectory, Op::Remove, path, "it is a file"));
            }
            (Some(Kind::Directory), Kind::Directory) if tree.below(path).next().is_some() => {
                return Err(Error::new(ErrorKind::NotEmpty, Op::Remove, path, "the directory is not empty"));
            }
            (Some(_), _) => tree.nodes.remove(path),
        };
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        let mut tree = self.tree();
        if from.is_root() || to.is_root() {
            return Err(Error::new(ErrorKind::Denied, Op::Rename, from, ROOT_STAYS));
        }
        let source = tree.meta(from).ok_or_else(|| absent(Op::Rename, from))?;
        if source.kind() != how.kind {
            let kind = if how.kind == Kind::File { ErrorKind::IsADirectory } else { ErrorKind::NotADirectory };
            return Err(Error::new(kind, Op::Rename, from, "it is of the other kind"));
        }
        if how.version.is_some() && source.version() != how.version.as_ref() {
            return Err(Error::new(ErrorKind::Stale, Op::Rename, from, "the file was replaced"));
        }
        tree.needs_parent(Op::Rename, to)?;
        if to.starts_with(from) && to != from {
            return Err(Error::new(ErrorKind::Unsupported, Op::Rename, to, "a directory cannot move into itself"));
        }
        let refusal = match (tree.kind(to), how.kind) {
            (Some(_), _) if !how.replace => Some((ErrorKind::AlreadyExists, "something is there already")),
            (Some(Kind::Directory), Kind::File) => Some((ErrorKind::IsADirectory, "it is a directory")),
            (Some(Kind::File), Kind::Directory) => Some((ErrorKind::NotADirectory, "it is a file")),
            (Some(Kind::Directory), Kind::Directory) if tree.below(to).next().is_some() && from != to => {
                Some((ErrorKind::NotEmpty, "the directory is not empty"))
            }
            _ => None,
        };
        if let Some((kind, message)) = refusal {
            return Err(Error::new(kind, Op::Rename, to, message));
        }
        let file = |path| tree.nodes.get(path).and_then(Held::file);
        if file(from).is_some() && file(from) == file(to) {
            return Ok(source);
        }
        let inside: Vec<Path> = tree.below(from).map(|(path, _)| path.clone()).collect();
        for path in inside.into_iter().chain([from.clone()]) {
            if let Some(held) = tree.nodes.remove(&path) {
                let rest = path.names().skip(from.names().count());
                let moved = rest.fold(to.clone(), |dir, name| dir.join(&name));
                tree.nodes.insert(moved, held);
            }
        }
        tree.meta(to).ok_or_else(|| absent(Op::Rename, to))
    }

    async fn make_file(&self, path: &Path, mode: u32) -> Result<Meta> {
        let mut tree = self.tree();
        tree.needs_in_place(Op::Write, path)?;
        tree.needs_parent(Op::Write, path)?;
        if tree.kind(path).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, Op::Write, path, "something is there already"));
        }
        tree.store(path, Bytes::new());
        if let Some(Held::File { own: Some(own), .. }) = tree.nodes.get_mut(path) {
            own.permissions.mode = mode;
        }
        tree.meta(path).ok_or_else(|| absent(Op::Write, path))
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        self.tree().needs_in_place(Op::Write, &file.path)?;
        Ok(Arc::new(WritingInPlace { memory: self.clone(), file: file.clone() }))
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> Result<Meta> {
        let mut tree = self.tree();
        tree.needs_in_place(Op::SetAttributes, path)?;
        tree.last += 1;
        let next = tree.last;
        match tree.nodes.get_mut(path) {
            None if path.is_root() => {}
            None => return Err(absent(Op::SetAttributes, path)),
            Some(Held::Directory { mtime }) => *mtime = set.mtime.unwrap_or(*mtime),
            Some(Held::File { content, number, mtime, own }) => {
                *number = next;
                if let Some(size) = set.size {
                    let mut bytes = BytesMut::from(&content[..]);
                    bytes.resize(size as usize, 0);
                    (*content, *mtime) = (bytes.freeze(), SystemTime::now());
                }
                *mtime = set.mtime.unwrap_or(*mtime);
                if let Some(Own { permissions, .. }) = own {
                    permissions.mode = set.mode.unwrap_or(permissions.mode);
                    permissions.uid = set.uid.unwrap_or(permissions.uid);
                    permissions.gid = set.gid.unwrap_or(permissions.gid);
                }
            }
        }
        tree.spread(path);
        tree.meta(path).ok_or_else(|| absent(Op::SetAttributes, path))
    }

    async fn link(&self, from: &Path, to: &Path) -> Result<Meta> {
        let mut tree = self.tree();
        tree.needs_in_place(Op::Link, from)?;
        tree.needs_parent(Op::Link, to)?;
        if tree.kind(to).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, Op::Link, to, "something is there already"));
        }
        let held = tree.nodes.get(from).cloned().ok_or_else(|| absent(Op::Link, from))?;
        if held.file().is_none() {
            return Err(Error::new(ErrorKind::IsADirectory, Op::Link, from, "it is a directory"));
        }
        tree.nodes.insert(to.clone(), held);
        tree.meta(to).ok_or_else(|| absent(Op::Link, to))
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        let there = self.tree().meta(path).ok_or_else(|| absent(Op::Access, path))?;
        // Whoever asks is the owner.
        let granted = there.permissions.map_or(Rights::ALL, |kept| Rights::of_mode(kept.mode >> 6));
        Ok(granted.and(asked))
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(self.tree().space)
    }
}

#[derive(Debug)]
struct WritingInPlace {
    memory: Memory,
    file: Version,
}

#[async_trait]
impl InPlace for WritingInPlace {
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>> {
        let mut tree = self.memory.tree();
        let Some(path) = tree.path_of(&self.file) else {
            return Err(Error::new(ErrorKind::Stale, Op::Write, &self.file.path, "the file is gone"));
        };
        tree.last += 1;
        let next = tree.last;
        if let Some(Held::File { content, number, mtime, .. }) = tree.nodes.get_mut(&path) {
            let (begin, end) = (offset as usize, offset as usize + data.len());
            let mut bytes = BytesMut::from(&content[..]);
            bytes.resize(bytes.len().max(end), 0);
            bytes[begin..end].copy_from_slice(&data);
            (*content, *number, *mtime) = (bytes.freeze(), next, SystemTime::now());
        }
        tree.spread(&path);
        Ok(tree.meta(&path))
    }

    async fn sync(&self) -> Result<Option<Meta>> {
        Ok(None)
    }
}

#[derive(Debug)]
struct Writing {
    memory: Memory,
    path: Path,
    base: Base,
    content: BytesMut,
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.content.extend_from_slice(&data);
        Ok(())
    }

    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta> {
        let mut tree = self.memory.tree();
        if !tree.is_base(&self.path, &self.base) {
            let message = "another writer's file is there now; it was kept";
            return Err(Error::new(ErrorKind::Stale, Op::Publish, &self.path, message));
        }
        tree.needs_parent(Op::Publish, &self.path)?;
        let version = tree.store(&self.path, self.content.clone().freeze());
        if let (Some(time), Some(Held::File { mtime, .. })) = (attributes.mtime, tree.nodes.get_mut(&self.path)) {
            *mtime = time;
        }
        if self.base != Base::Any {
            self.base = Base::Version(version);
        }
        tree.meta(&self.path).ok_or_else(|| absent(Op::Publish, &self.path))
    }

    fn written(&self) -> u64 {
        self.content.len() as u64
    }

    fn peek(&self, range: Range<u64>) -> Option<Bytes> {
        let end = range.end.min(self.written());
        (range.start < end).then(|| Bytes::copy_from_slice(&self.content[range.start as usize..end as usize]))
    }

    fn moved(&mut self, to: Path, version: Option<Version>) {
        self.path = to;
        if self.base != Base::Any {
            self.base = version.map_or(Base::Absent, Base::Version);
        }
    }

    async fn abort(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::contract;

    mod of_whole_files {
        use super::*;

        contract::suite!(|| async {
            let stand: contract::Stand = (Arc::new(Memory::new()), Box::new(()));
            Some(stand)
        });
    }

    mod of_files_changed_in_place {
        use super::*;

        contract::suite!(|| async {
            let stand: contract::Stand = (Arc::new(Memory::in_place()), Box::new(()));
            Some(stand)
        });
    }
}
