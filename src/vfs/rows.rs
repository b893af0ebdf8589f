//! The entries of one listing, compactly: names and versions lie behind each other in one text.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::few::{Few, Trust};
use crate::backend::{Entry, Kind, Meta, Name, Node, Path, Permissions, Version};
use crate::budget::Lease;
use crate::prefetch::{Ahead, Next, Runs};

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
    /// Something that was told is not kept.
    lossy: bool,
    /// All of the directory is here.
    whole: bool,
    /// Of a small directory that is all listed.
    few: Option<Few>,
    /// Of readers that go through it as the store told it.
    runs: Runs,
    /// Of those that sort the names first, where that is another order.
    by_name: Option<ByName>,
}

/// The rows in the order of their names.
#[derive(Debug)]
struct ByName {
    /// The row at each place of that order, and the place of each row.
    rows: Vec<u32>,
    places: Vec<u32>,
    runs: Runs,
}

/// One of the orders in which a listing may be gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Listed,
    ByName,
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
    links: u32,
    /// Something else may lie there now.
    pub(super) outdated: bool,
}

impl Rows {
    pub(super) fn push(&mut self, name: &Name, meta: &Meta) {
        // A row has no room to say so, and nothing is fetched ahead of one.
        if meta.kind() == Kind::Symlink {
            return self.lossy = true;
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
            return self.lossy = true;
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
            links: meta.links,
            outdated: false,
        };
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(file.as_bytes());
        self.text.extend_from_slice(own.unwrap_or_default().as_bytes());
        self.rows.push(row);
        self.lossy |= self.index.insert(self.hasher.hash_one(name.as_bytes()), at).is_some();
    }

    pub(super) fn find(&self, name: &Name) -> Option<usize> {
        let at = usize::try_from(*self.index.get(&self.hasher.hash_one(name.as_bytes()))?).ok()?;
        let row = self.rows.get(at)?;
        (self.slice(row.start, row.name.into()) == name.as_bytes()).then_some(at)
    }

    /// All of the directory is here, and has no such name.
    pub(super) fn lacks(&self, name: &Name) -> bool {
        self.whole && self.find(name).is_none()
    }

    /// All entries of `dir`, where all are here and nothing else may lie there now.
    pub(super) fn all(&self, dir: &Path) -> Option<Vec<Entry>> {
        let is_all = self.whole && !self.rows.iter().any(|row| row.outdated);
        let entry = |row| Some(Entry { name: self.name(row)?, meta: self.meta(row, dir) });
        if is_all { self.rows.iter().map(entry).collect() } else { None }
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
        Meta { node, mtime: row.mtime, permissions: row.permissions, readable: row.readable, links: row.links }
    }

    /// All rows are there: from now on who reads them sorted by name is known, too.
    pub(super) fn complete(&mut self) {
        self.whole = !self.full && !self.lossy;
        if !self.full {
            self.few = Few::of(self.rows.iter().filter_map(|row| row.size));
        }
        let name = |at: u32| self.rows.get(at as usize).map(|row| self.slice(row.start, row.name.into()));
        let mut rows: Vec<u32> = (0..).take(self.rows.len()).collect();
        // S3 tells a directory as if its name ended with a slash, and nobody reads one.
        let files = self.rows.iter().filter(|row| row.size.is_some());
        if self.by_name.is_some() || files.map(|row| self.slice(row.start, row.name.into())).is_sorted() {
            return;
        }
        rows.sort_unstable_by_key(|at| name(*at));
        let mut places = vec![0; rows.len()];
        for (place, row) in (0..).zip(&rows) {
            places[*row as usize] = place;
        }
        self.by_name = Some(ByName { rows, places, runs: Runs::default() });
    }

    /// Takes note that the row `at` is read, in each order; see [`Runs::read`].
    pub(super) fn read(&mut self, at: usize, found: Ahead, most: usize) -> Vec<(Order, Next)> {
        let length = self.rows.len();
        let mut next = vec![(Order::Listed, self.runs.read(at, length, found, most))];
        if let Some(by_name) = &mut self.by_name
            && let Some(place) = by_name.places.get(at)
        {
            next.push((Order::ByName, by_name.runs.read(*place as usize, length, found, most)));
        }
        next
    }

    /// The row `at` is read. Returns once the other files of a small directory, when they should be fetched.
    pub(super) fn rest(&mut self, at: usize, dir: &Path, trust: &mut Trust) -> Vec<Version> {
        let (Some(few), Ok(at)) = (&mut self.few, u32::try_from(at)) else { return Vec::new() };
        if !few.read(at, trust) {
            return Vec::new();
        }
        let rest = (0..).zip(&self.rows).filter(|(at, row)| row.readable && !few.has_read(*at));
        let rest: Vec<_> = rest.map(|(_, row)| *row).collect();
        rest.iter().filter_map(|row| self.meta(row, dir).version().cloned()).collect()
    }

    /// Which files whoever reads in that order most likely reads first; see [`Runs::expect`].
    pub(super) fn expect(&mut self, order: Order, window: usize, dir: &Path) -> Vec<Version> {
        let length = self.rows.len();
        // Where the names are in the order of the listing there is no other.
        let (order, runs) = match (&mut self.by_name, order) {
            (Some(by_name), Order::ByName) => (Order::ByName, &mut by_name.runs),
            _ => (Order::Listed, &mut self.runs),
        };
        let places = runs.expect(window, length);
        self.files(order, places, dir)
    }

    /// See [`Runs::wasted`].
    pub(super) fn wasted(&mut self, at: usize, files: usize) {
        self.runs.wasted(at, files);
        if let Some(by_name) = &mut self.by_name
            && let Some(place) = by_name.places.get(at)
        {
            by_name.runs.wasted(*place as usize, files);
        }
    }

    /// The names at `places` of an order.
    pub(super) fn names(&self, order: Order, places: Range<usize>) -> Vec<Name> {
        places.filter_map(|place| self.name(self.at(order, place)?)).collect()
    }

    fn at(&self, order: Order, place: usize) -> Option<&Row> {
        let at = match (&self.by_name, order) {
            (Some(by_name), Order::ByName) => *by_name.rows.get(place)? as usize,
            _ => place,
        };
        self.rows.get(at)
    }

    /// Those at `places` of an order that are files and can be read.
    pub(super) fn files(&self, order: Order, places: Range<usize>, dir: &Path) -> Vec<Version> {
        let metas = places.filter_map(|place| Some(self.meta(self.at(order, place)?, dir)));
        metas.filter(|meta| meta.readable).filter_map(|meta| meta.version().cloned()).collect()
    }

    fn slice(&self, start: usize, length: usize) -> &[u8] {
        self.text.get(start..start + length).unwrap_or_default()
    }
}
