//! The entries of one listing, compactly: names and versions lie behind each other in one text.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use crate::backend::{Kind, Meta, Name, Node, Path, Permissions, Version};
use crate::budget::Lease;
use crate::prefetch::Runs;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Names and versions, one behind the other.
    text: Vec<u8>,
    pub(super) rows: Vec<Row>,
    /// By a name's hash. Of two names with one hash, the first is not found.
    index: HashMap<u64, u32>,
    hasher: RandomState,
    pub(super) leases: Vec<Lease>,
    /// What comes now is not kept: memory was short.
    pub(super) full: bool,
    pub(super) runs: Runs,
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    start: usize,
    name: u8,
    /// Lengths of the version's two halves; the second is the first where it has none of its own.
    file: u16,
    bytes: Option<u16>,
    /// `None` for a directory.
    size: Option<u64>,
    mtime: SystemTime,
    permissions: Option<Permissions>,
    pub(super) readable: bool,
    /// Something else may lie there now.
    pub(super) outdated: bool,
}

impl Rows {
    pub(super) fn push(&mut self, name: &Name, meta: &Meta) {
        // A row has no room to say so, and nothing is fetched ahead of one.
        if meta.kind() == Kind::Symlink {
            return;
        }
        let version = meta.version();
        let (file, bytes) = version.map_or(("", ""), |version| (&*version.file, &*version.bytes));
        let own = (bytes != file).then_some(bytes);
        let lengths = (
            u8::try_from(name.as_bytes().len()),
            u16::try_from(file.len()),
            own.map(str::len).map(u16::try_from).transpose(),
        );
        // Longer than anything a store is known to have.
        let (Ok(name_length), Ok(file_length), Ok(own_length), Ok(at)) =
            (lengths.0, lengths.1, lengths.2, u32::try_from(self.rows.len()))
        else {
            return;
        };
        let row = Row {
            start: self.text.len(),
            name: name_length,
            file: file_length,
            bytes: own_length,
            size: version.map(|version| version.size),
            mtime: meta.mtime,
            permissions: meta.permissions,
            readable: meta.readable,
            outdated: false,
        };
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(file.as_bytes());
        self.text.extend_from_slice(own.unwrap_or_default().as_bytes());
        self.rows.push(row);
        self.index.insert(self.hasher.hash_one(name.as_bytes()), at);
    }

    pub(super) fn find(&self, name: &Name) -> Option<usize> {
        let at = usize::try_from(*self.index.get(&self.hasher.hash_one(name.as_bytes()))?).ok()?;
        let row = self.rows.get(at)?;
        (self.slice(row.start, row.name.into()) == name.as_bytes()).then_some(at)
    }

    pub(super) fn name(&self, row: &Row) -> Option<Name> {
        Name::new(self.slice(row.start, row.name.into())).ok()
    }

    pub(super) fn meta(&self, row: &Row, dir: &Path) -> Meta {
        let node = match (row.size, self.name(row)) {
            (Some(size), Some(name)) => {
                let start = row.start + usize::from(row.name);
                let text = |start, length| -> Arc<str> { String::from_utf8_lossy(self.slice(start, length)).into() };
                let file = text(start, row.file.into());
                let bytes =
                    row.bytes.map_or_else(|| file.clone(), |own| text(start + usize::from(row.file), own.into()));
                Node::File(Version { path: dir.join(&name), file, bytes, size })
            }
            _ => Node::Directory,
        };
        Meta { node, mtime: row.mtime, permissions: row.permissions, readable: row.readable }
    }

    /// Those at `places` that are files and can be read.
    pub(super) fn files(&self, places: Range<usize>, dir: &Path) -> Vec<Version> {
        let metas = places.filter_map(|at| Some(self.meta(self.rows.get(at)?, dir)));
        metas.filter(|meta| meta.readable).filter_map(|meta| meta.version().cloned()).collect()
    }

    fn slice(&self, start: usize, length: usize) -> &[u8] {
        self.text.get(start..start + length).unwrap_or_default()
    }
}
