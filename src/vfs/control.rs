//! `.millrace/ahead`: where a program says in what order it will read.
//!
//! A directory that no listing shows lies at the volume's root, and in it one file. Whoever opens either has an order
//! of his own: paths from the root on, one a line, by [`Vfs::announce`] or, where the mount takes writes, by writing.
//! The files are fetched ahead of him in that order, from the first on that was not read; reading the descriptor tells
//! how far that is. Closing it, or beginning anew, ends it. An order takes a fixed part of the budget, so that more of
//! it is taken only as files are read.
//!
//! Nothing is learned here that the mount does not tell anyway: what cannot be fetched is passed over in silence.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use super::changes::Ticket;
use super::handles::{Handle, Open};
use super::inodes::Ino;
use super::read::{Opened, Pages};
use super::{Attr, Config, Error, Result, Vfs};
use crate::backend::{Kind, Path, RESERVED};
use crate::budget::Lease;
use crate::prefetch::{Ahead, Announced, Source, Target};

/// The directory and the file.
pub(super) const DIR: Ino = Ino(2);
pub(super) const FILE: Ino = Ino(3);
/// The file's name.
pub(super) const NAME: &str = "ahead";

/// Bytes that one order may take, and the part of the budget that all may.
const ORDER: u64 = 1 << 20;
const SHARE: u64 = 16;
/// A line that is longer is no path (PATH_MAX of Linux).
const LONGEST: usize = 4096;

/// All orders that hold.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<Source, Arc<Order>>>);

/// One program's order.
#[derive(Debug)]
pub(super) struct Order {
    /// The directory or the file, as it was opened.
    pub(super) ino: Ino,
    source: Source,
    /// From before anything was fetched for it.
    pub(super) asked: Ticket,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    announced: Announced,
    /// The beginning of a line whose end is to be written.
    tail: Vec<u8>,
    refused: u64,
    lease: Option<Lease>,
}

impl List {
    fn new() -> List {
        let most = usize::try_from(ORDER).unwrap_or(usize::MAX);
        List { announced: Announced::new(most), tail: Vec::new(), refused: 0, lease: None }
    }

    /// False where there is no room now.
    fn take(&mut self, line: &[u8]) -> bool {
        let line = line.strip_prefix(b"./").or_else(|| line.strip_prefix(b"/")).unwrap_or(line);
        if line.is_empty() {
            return true;
        }
        match std::str::from_utf8(line).ok().and_then(|text| Path::parse(text).ok()) {
            Some(path) if !path.names().any(|name| name.is_reserved()) => self.announced.push(path),
            _ => {
                self.refused += 1;
                true
            }
        }
    }
}

impl Vfs {
    /// What `name` in `parent` is, where it is the control file's.
    pub(super) fn control(&self, parent: Ino, name: &[u8]) -> Option<Attr> {
        match (parent, name) {
            _ if !self.config.announce => None,
            (Ino::ROOT, name) if name == RESERVED.as_bytes() => Some(self.control_attr(DIR)),
            (DIR, name) if name == NAME.as_bytes() => Some(self.control_attr(FILE)),
            _ => None,
        }
    }

    /// Whether `ino` is the control file's, or its directory's.
    pub(super) fn is_control(&self, ino: Ino) -> bool {
        self.config.announce && matches!(ino, DIR | FILE)
    }

    pub(super) fn control_attr(&self, ino: Ino) -> Attr {
        let (kind, mode, nlink) = match ino {
            DIR => (Kind::Directory, 0o555, 2),
            // Everybody who may read the volume may say in what order.
            _ => (Kind::File, 0o666, 1),
        };
        let Config { uid, gid, .. } = self.config;
        Attr { ino, kind, size: 0, mtime: SystemTime::UNIX_EPOCH, mode, uid, gid, nlink, block: 4096 }
    }

    /// Opens the file or its directory.
    ///
    /// # Errors
    /// `Busy` where too many orders hold already.
    pub(super) fn open_control(&self, ino: Ino) -> Result<Opened> {
        let mut orders = self.orders.lock();
        if orders.len() as u64 >= (self.budget.total() / SHARE / ORDER).max(2) {
            return Err(Error::Busy);
        }
        let order =
            Order { ino, source: self.read_ahead.source(), asked: self.changes.ask(), list: Mutex::new(List::new()) };
        let order = Arc::new(order);
        orders.insert(order.source, order.clone());
        Ok(Opened { handle: self.handles.insert(Open::Order(order)), pages: Pages::None, backing: None })
    }

    pub(super) fn close_control(&self, order: &Order) {
        self.orders.lock().remove(&order.source);
        self.read_ahead.recall(order.source);
    }

    /// Takes whole lines of `paths`, as many as there is room for now; where `anew`, in place of all before. Returns how
    /// many bytes of `paths` were taken; the last line needs no end. A line that can be no path is passed over.
    ///
    /// # Errors
    /// `BadHandle` for what is not an opened control file.
    pub fn announce(&self, handle: Handle, paths: &[u8], anew: bool) -> Result<usize> {
        let Open::Order(order) = self.handles.get(handle)? else { return Err(Error::BadHandle) };
        if anew {
            self.begin_anew(&order);
        }
        let taken = self.take_lines(&order, paths, true);
        self.fetch_announced(&order);
        Ok(taken)
    }

    /// Takes lines that were written; the end of the last may come later.
    ///
    /// # Errors
    /// `NoSpace` where there is no room before more is read.
    pub(super) fn write_control(&self, order: &Order, data: &[u8]) -> Result<u32> {
        self.writable()?;
        let taken = self.take_lines(order, data, false);
        self.fetch_announced(order);
        match taken {
            0 if !data.is_empty() => Err(Error::NoSpace),
            taken => Ok(u32::try_from(taken).unwrap_or(u32::MAX)),
        }
    }

    /// Takes the last line that was written, whose end did not come.
    pub(super) fn flush_control(&self, order: &Order) {
        if !order.list().tail.is_empty() {
            self.take_lines(order, b"\n", false);
            self.fetch_announced(order);
        }
    }

    /// Ends what was announced, and begins a new order.
    pub(super) fn begin_anew(&self, order: &Order) {
        *order.list() = List::new();
        self.read_ahead.recall(order.source);
    }

    /// How far an order is, a line each.
    pub(super) fn read_control(&self, order: &Order, offset: u64, size: u32) -> Bytes {
        let text = {
            let list = order.list();
            let progress = list.announced.progress();
            let mut text = String::new();
            for (word, value) in [
                ("announced", progress.announced),
                ("refused", list.refused),
                ("read", progress.read),
                ("position", progress.position),
                ("ahead", progress.ahead),
                ("room", progress.room),
            ] {
                let _ = writeln!(text, "{word} {value}");
            }
            Bytes::from(text)
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        text.slice(start..start.saturating_add(size as usize).min(text.len()))
    }

    /// The file at `path` is read: fetches what is announced to come next. False where it was not announced.
    pub(super) fn run_ahead_of_orders(&self, path: &Path, found: Ahead) -> bool {
        let orders: Vec<_> = self.orders.lock().values().cloned().collect();
        let mut announced = false;
        for order in orders {
            let passed = order.list().announced.read(path, found);
            let Some(passed) = passed else { continue };
            announced = true;
            let wasted = self.read_ahead.pass_over(&passed);
            if wasted > 0 {
                order.list().announced.wasted(wasted);
            }
            self.fetch_announced(&order);
        }
        announced
    }

    /// The order that `source` is the number of.
    pub(super) fn order(&self, source: Source) -> Option<Arc<Order>> {
        self.orders.lock().get(&source).cloned()
    }

    fn take_lines(&self, order: &Order, data: &[u8], whole: bool) -> usize {
        let mut list = order.list();
        if list.lease.is_none() {
            list.lease = self.budget.try_acquire(ORDER);
            if list.lease.is_none() {
                return 0;
            }
        }
        let mut taken = 0;
        while taken < data.len() {
            let rest = &data[taken..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, next) = match end {
                Some(end) => (&rest[..end], taken + end + 1),
                None => (rest, data.len()),
            };
            if end.is_none() && !whole {
                // Past that it is refused when its end comes.
                let room = (LONGEST + 1).saturating_sub(list.tail.len());
                list.tail.extend_from_slice(&line[..line.len().min(room)]);
            } else {
                let mut line = [&list.tail, line].concat();
                line.truncate(LONGEST + 1);
                let fits = line.len() <= LONGEST;
                if fits && !list.take(&line) {
                    break;
                }
                list.refused += u64::from(!fits);
                list.tail.clear();
            }
            taken = next;
        }
        taken
    }

    fn fetch_announced(&self, order: &Order) {
        let next = order.list().announced.due();
        if next.is_empty() {
            return;
        }
        let targets: Vec<_> = next.into_iter().filter_map(|path| self.target(path)).collect();
        self.read_ahead.want(order.source, targets);
    }

    /// What is known of the file at `path`; `None` for what is known not to be a file to be read.
    fn target(&self, path: Path) -> Option<Target> {
        {
            let inodes = self.inodes();
            if let Some(ino) = inodes.at(&path) {
                let inode = inodes.get(ino).ok()?;
                let file = inode.file().ok()?;
                if file.written.is_some() || !file.readable {
                    return None;
                }
                if let Some(version) = &file.stored {
                    return Some(Target::Version(version.clone()));
                }
            }
        }
        match self.listings.get(&path, self.reign.number()) {
            Some(listed) if !listed.meta.readable => None,
            Some(listed) => listed.meta.version().cloned().map(Target::Version),
            None => Some(Target::Path(path)),
        }
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Arc<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
