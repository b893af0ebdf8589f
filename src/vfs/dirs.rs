//! Reading directories: lazily, and so that an offset means the same entry for as long as the stream lasts.
//!
//! A stream keeps the names that it gave out, compactly, and whole entries only of what was fetched and not yet passed.
//! So entries that are removed shift nothing, and seekdir goes back without asking the store. Going back to the start
//! asks it anew.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{Mutex, mpsc};

use super::changes::{Outcome, Ticket};
use super::handles::{Handle, Open};
use super::inodes::Ino;
use super::listings::Pass;
use super::{Attr, Error, Result, Vfs, control};
use crate::backend::{self, Entry, Kind, Meta, Name, Path};

/// Entries fetched ahead of a reader.
const AHEAD: usize = 1000;
/// A program that looks up a name and then lists the directory does so within that time. Who lists it later sees what is new,
/// though he need not.
const JUST_NOW: Duration = Duration::from_secs(1);

/// An entry of a directory as the kernel is given it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name: `.`, `..`, or one of the store's.
    pub name: Vec<u8>,
    /// The number it has, or gets when it is looked up.
    pub ino: Ino,
    /// File or directory.
    pub kind: Kind,
    /// The offset from which reading goes on behind it.
    pub next: u64,
    known: Known,
}

/// What a listing knows of an entry beside its name.
#[derive(Debug, Clone)]
enum Known {
    /// The store's word, unless this mount changed the name since it was asked.
    Store { path: Path, meta: Meta, asked: Arc<Ticket> },
    /// A file being written here.
    Here,
    /// Its kind: the kernel has to look it up.
    Kind,
    /// It is `.` or `..`.
    Above,
}

/// What the kernel may be told of an entry beside its name and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its attributes.
    pub attr: Attr,
    /// Whether they may be believed for a while; else it has to look up before every use.
    pub sure: bool,
    /// Whether a lookup was counted, which the kernel does not do for `.` and `..`.
    pub counted: bool,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    ino: Ino,
    listing: Mutex<Listing>,
}

/// One pass over a directory.
#[derive(Default)]
struct Listing {
    /// Entries behind the window.
    passed: Passed,
    /// Entries fetched and not yet passed.
    window: VecDeque<Listed>,
    source: Option<Source>,
    started: bool,
    /// Whose listing it is.
    reign: u64,
    /// What the store failed with behind the last entry.
    failed: Option<Error>,
}

struct Source {
    entries: mpsc::Receiver<backend::Result<Entry>>,
    path: Path,
    /// From before the store was asked.
    asked: Arc<Ticket>,
    /// Files being written when the pass began; they came first.
    here: HashSet<Name>,
    /// What was given out of a pass before this one.
    told: HashSet<Name>,
    /// What is remembered of it.
    pass: Arc<Pass>,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("passed", &self.passed.len()).finish_non_exhaustive()
    }
}

impl Listing {
    /// The offset behind the last entry fetched.
    fn end(&self) -> u64 {
        self.passed.len() + self.window.len() as u64
    }

    fn push(&mut self, name: &[u8], ino: Ino, kind: Kind, known: Known) {
        let next = self.end() + 1;
        self.window.push_back(Listed { name: name.to_vec(), ino, kind, next, known });
    }

    /// Drops what lies before `offset` down to names.
    fn pass(&mut self, offset: u64) {
        while self.passed.len() < offset
            && let Some(entry) = self.window.pop_front()
        {
            self.passed.push(&entry);
        }
    }

    /// Entries from `offset` on, as far as they are here, and at most `limit`.
    fn take(&self, offset: u64, limit: usize) -> Vec<Listed> {
        let old = (offset..self.passed.len()).filter_map(|index| self.passed.get(index));
        let skip = usize::try_from(offset.saturating_sub(self.passed.len())).unwrap_or(usize::MAX);
        old.chain(self.window.iter().skip(skip).cloned()).take(limit).collect()
    }
}

/// Names that were given out, some 30 bytes each.
#[derive(Debug, Default)]
struct Passed {
    names: Vec<u8>,
    entries: Vec<PassedEntry>,
}

#[derive(Debug, Clone, Copy)]
struct PassedEntry {
    /// Where its name ends in `names`.
    end: u64,
    ino: Ino,
    kind: Kind,
}

impl Passed {
    fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    fn push(&mut self, entry: &Listed) {
        self.names.extend_from_slice(&entry.name);
        let end = self.names.len() as u64;
        self.entries.push(PassedEntry { end, ino: entry.ino, kind: entry.kind });
    }

    fn get(&self, index: u64) -> Option<Listed> {
        let at = usize::try_from(index).ok()?;
        let entry = self.entries.get(at)?;
        let begin = at.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |before| before.end);
        let name = self.names.get(usize::try_from(begin).ok()?..usize::try_from(entry.end).ok()?)?;
        Some(Listed { name: name.to_vec(), ino: entry.ino, kind: entry.kind, next: index + 1, known: Known::Kind })
    }
}

impl Vfs {
    /// Opens a directory for reading. Asks the store nothing.
    ///
    /// # Errors
    /// `NotADirectory`, `NotFound`, `Stale`
    pub fn open_dir(&self, ino: Ino) -> Result<Handle> {
        if self.is_control(ino) {
            return if ino == control::DIR { Ok(self.open_control(ino)?.handle) } else { Err(Error::NotADirectory) };
        }
        let mut inodes = self.inodes();
        inodes.directory(ino)?;
        inodes.open(ino, false)?;
        let directory = Directory { ino, listing: Mutex::default() };
        Ok(self.handles.insert(Open::Directory(Arc::new(directory))))
    }

    /// Entries from `offset` on: at least one unless the directory ends there, at most `limit`, and no more than are
    /// here without waiting once there is one. Offset 0 begins a new pass.
    ///
    /// # Errors
    /// What the store failed with; `NotFound` for a directory that is gone.
    pub async fn read_dir(&self, handle: Handle, mut offset: u64, limit: usize) -> Result<Vec<Listed>> {
        if let Open::Order(order) = self.handles.get(handle)? {
            return Ok(if order.ino == control::DIR && offset == 0 { vec![Listed::control()] } else { Vec::new() });
        }
        let directory = self.handles.directory(handle)?;
        let mut listing = directory.listing.lock().await;
        if offset == 0 || !listing.started {
            *listing = self.begin_listing(directory.ino)?;
        }
        loop {
            if listing.reign != self.reign.number() {
                self.go_on_listing(&mut listing, directory.ino, offset)?;
            }
            let fetched = self.fetch(&mut listing, offset, limit).await;
            if listing.reign != self.reign.number() {
                continue;
            }
            fetched?;
            let fetched = listing.take(offset, limit);
            let Some(last) = fetched.last() else { return Ok(fetched) };
            offset = last.next;
            let shown: Vec<Listed> = fetched.into_iter().filter(Listed::is_there).collect();
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }

    /// Fills the window to `limit` entries from `offset` on, and waits for the first of them only.
    async fn fetch(&self, listing: &mut Listing, offset: u64, limit: usize) -> Result<()> {
        listing.pass(offset);
        while listing.end() < offset.saturating_add(limit as u64) {
            let wait = listing.end() <= offset;
            let Some(source) = &mut listing.source else {
                return listing.failed.filter(|_| wait).map_or(Ok(()), Err);
            };
            let next = if wait {
                source.entries.recv().await
            } else {
                match source.entries.try_recv() {
                    Ok(next) => Some(next),
                    Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                }
            };
            match next {
                Some(Ok(entry)) => {
                    if let Some((ino, known)) = self.listed(source, &entry) {
                        listing.push(entry.name.as_bytes(), ino, entry.meta.kind(), known);
                        listing.pass(offset);
                    }
                }
                Some(Err(error)) => {
                    listing.source = None;
                    listing.failed = Some(error.into());
                }
                None => {
                    if let Some(source) = listing.source.take() {
                        self.listings.done(&source.pass);
                    }
                }
            }
        }
        Ok(())
    }

    /// Closes a directory.
    ///
    /// # Errors
    /// `BadHandle`
    pub fn close_dir(&self, handle: Handle) -> Result<()> {
        if let Open::Order(order) = self.handles.get(handle)? {
            self.handles.remove(handle);
            self.close_control(&order);
            return Ok(());
        }
        let directory = self.handles.directory(handle)?;
        self.handles.remove(handle);
        self.inodes().close(directory.ino);
        Ok(())
    }

    /// Counts a lookup of an entry that was listed in `dir`, and tells its attributes.
    ///
    /// # Errors
    /// `NotFound` for a directory that is gone.
    pub fn take_listed(&self, dir: Ino, listed: &Listed) -> Result<Taken> {
        if self.is_control(listed.ino) {
            // Nobody counts lookups of it.
            return Ok(Taken { attr: self.control_attr(listed.ino), sure: true, counted: false });
        }
        let mut inodes = self.inodes();
        let (ino, sure) = match &listed.known {
            // Asked under the table's lock: a change is recorded before the table learns of it.
            Known::Store { path, meta, asked } if asked.changed(path).is_none() => (inodes.enter(path, meta), true),
            Known::Above => {
                let attr = self.attr(listed.ino, inodes.get(listed.ino).or_else(|_| inodes.get(dir))?);
                return Ok(Taken { attr: Attr { ino: listed.ino, ..attr }, sure: true, counted: false });
            }
            Known::Store { .. } | Known::Here | Known::Kind => {
                let path = inodes.directory(dir)?.join(&Name::new(&listed.name)?);
                (inodes.enter_unseen(&path, listed.ino, listed.kind), false)
            }
        };
        let attr = self.attr(ino, inodes.get(ino)?);
        self.thin_out(&mut inodes);
        Ok(Taken { attr, sure, counted: true })
    }

    fn begin_listing(&self, ino: Ino) -> Result<Listing> {
        let reign = self.reign.number();
        // Before the files written here are looked through: one that is finished after that counts as changed.
        let asked = self.changes.ask();
        let inodes = self.inodes();
        let path = inodes.directory(ino)?;
        let parent = path.split_last().and_then(|(parent, _)| inodes.at(&parent)).unwrap_or(Ino::ROOT);
        let here = inodes.written_in(&path);
        drop(inodes);
        let mut listing = Listing { started: true, reign, ..Listing::default() };
        listing.push(b".", ino, Kind::Directory, Known::Above);
        listing.push(b"..", parent, Kind::Directory, Known::Above);
        for (name, ino) in &here {
            listing.push(name.as_bytes(), *ino, Kind::File, Known::Here);
        }
        let asked = Arc::new(asked);
        listing.source = Some(Source {
            pass: self.listings.begin(&path, asked.clone(), reign, self.read_ahead.source(), self.believed()),
            asked,
            entries: fetch_ahead(self.list(&path, reign)),
            path,
            here: here.into_iter().map(|(name, _)| name).collect(),
            told: HashSet::new(),
        });
        Ok(listing)
    }

    /// What lies in `dir`: as it was listed just now, where that never changes, or as the store says.
    fn list(&self, dir: &Path, reign: u64) -> BoxStream<'static, backend::Result<Entry>> {
        match self.listings.all(dir, reign, JUST_NOW).filter(|_| self.config.immutable) {
            Some(entries) => stream::iter(entries.into_iter().map(Ok)).boxed(),
            None => self.backend.list(dir),
        }
    }

    /// Another principal came to be in force: what was fetched and not given out is fetched anew, without what was.
    fn go_on_listing(&self, listing: &mut Listing, ino: Ino, offset: u64) -> Result<()> {
        listing.pass(offset);
        let Listing { passed, window, .. } = std::mem::take(listing);
        drop(window);
        let told: HashSet<Name> =
            (0..passed.len()).filter_map(|index| Name::new(&passed.get(index)?.name).ok()).collect();
        *listing = self.begin_listing(ino)?;
        listing.passed = passed;
        listing.window.clear();
        if let Some(path) = listing.source.as_ref().map(|source| source.path.clone()) {
            for (name, ino) in self.inodes().written_in(&path).into_iter().filter(|(name, _)| !told.contains(name)) {
                listing.push(name.as_bytes(), ino, Kind::File, Known::Here);
            }
        }
        if let Some(source) = &mut listing.source {
            source.told = told;
        }
        Ok(())
    }

    /// What of a store's entry is shown; `None` where it is not.
    fn listed(&self, source: &Source, entry: &Entry) -> Option<(Ino, Known)> {
        if entry.name.is_reserved() || entry.name.is_hidden() || source.here.contains(&entry.name) {
            return None;
        }
        self.listings.push(&source.pass, &entry.name, &entry.meta);
        if source.told.contains(&entry.name) {
            return None;
        }
        let path = source.path.join(&entry.name);
        let inodes = self.inodes();
        if let Some(ino) = inodes.written_at(&path) {
            return Some((ino, Known::Here));
        }
        let number = inodes.number(&path, &entry.meta);
        match source.asked.changed(&path) {
            Some(Outcome::Absent) => None,
            Some(Outcome::Uncertain) => Some((number, Known::Kind)),
            None => {
                let known = Known::Store { path, meta: entry.meta.clone(), asked: source.asked.clone() };
                Some((number, known))
            }
        }
    }
}

impl Listed {
    /// The only entry of the control file's directory.
    fn control() -> Listed {
        let name = control::NAME.as_bytes().to_vec();
        Listed { name, ino: control::FILE, kind: Kind::File, next: 1, known: Known::Above }
    }

    /// False for what this mount removed after it was fetched.
    fn is_there(&self) -> bool {
        match &self.known {
            Known::Store { path, asked, .. } => asked.changed(path) != Some(Outcome::Absent),
            Known::Here | Known::Kind | Known::Above => true,
        }
    }
}

/// Drives a listing in a task of its own, so that a request begun is also finished while nobody reads.
fn fetch_ahead(mut list: BoxStream<'static, backend::Result<Entry>>) -> mpsc::Receiver<backend::Result<Entry>> {
    let (sender, entries) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = list.next() => next,
                () = sender.closed() => None,
            };
            let Some(next) = next else { return };
            if sender.send(next).await.is_err() {
                return;
            }
        }
    });
    entries
}
