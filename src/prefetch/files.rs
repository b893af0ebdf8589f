//! The beginnings of files that are likely to be read next, small files whole, fetched before anybody reads them.
//!
//! Who knows an order of files says what comes next ([`ReadAhead::want`]); as many as [`Config::files`] are on their
//! way at once, and what waits for its reader takes at most a quarter of the budget. The first read of a file takes
//! over what is here, on its way or not, so that no file is fetched twice. Whoever else needs the memory gets it: the
//! file that is furthest ahead goes first.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::order::Ahead;
use super::part::{Part, Stay, Wanted, survive};
use super::reader::PAGE;
use super::{Config, ReadAhead};
use crate::backend::{self, Fetched, Intent, Meta, Op, Path, Version};
use crate::budget::Lease;

/// What nobody came to for so long leaves where the room is needed for others: its reader went elsewhere.
const ABANDONED: Duration = Duration::from_secs(10);
/// Files that wait for their turn to be fetched: past that, who says what comes next says too much.
const MOST_WAITING: usize = 4096;

/// Who said that files come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(u64);

/// A file that is likely to be read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its version is known.
    Version(Version),
    /// Its version was known, and is no longer believed: where reading it would not prove it, the store is asked first.
    Unsure(Version),
    /// Only where it lies: it is fetched whole where it is small, and so found.
    Path(Path),
}

/// What the store proved to have at a path when it was fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it said.
    pub what: Target,
    /// With all attributes, where only the path was known before.
    pub meta: Option<Meta>,
    /// It was so then, or later.
    pub since: Instant,
    /// Who said that it comes next.
    pub source: Source,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Files {
    shelf: Mutex<Shelf>,
    /// A file that was on its way is here, or will not come.
    found: Notify,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Here or on their way.
    slots: HashMap<Path, Slot>,
    waiting: VecDeque<Waiting>,
    /// The numbers of those in `waiting` that nobody came to meanwhile, by where they lie. The others' turn is passed over.
    awaited: HashMap<Path, u64>,
    /// How many of `slots` are on their way.
    coming: usize,
    /// Bytes that `slots` take.
    held: u64,
    last_turn: u64,
    last_source: u64,
    last_waiting: u64,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    target: Target,
    number: u64,
}

#[derive(Debug)]
struct Slot {
    source: Source,
    what: Target,
    meta: Option<Meta>,
    /// That it is here proves that it lies there.
    proves: bool,
    /// `None` for an empty file, and while it is being found.
    part: Option<Arc<Part>>,
    /// Finds it.
    _finding: Option<AbortOnDropHandle<()>>,
    /// What it takes.
    bytes: u64,
    asked: Instant,
    /// The later, the further ahead.
    turn: u64,
    coming: bool,
    /// Somebody looked for it while it was coming.
    waited_for: bool,
}

impl Target {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Target::Version(version) | Target::Unsure(version) => &version.path,
            Target::Path(path) => path,
        }
    }

    fn version(&self) -> Option<&Version> {
        match self {
            Target::Version(version) | Target::Unsure(version) => Some(version),
            Target::Path(_) => None,
        }
    }
}

impl ReadAhead {
    /// A number for who says what comes next.
    pub fn source(&self) -> Source {
        let mut shelf = self.files.lock();
        shelf.last_source += 1;
        Source(shelf.last_source)
    }

    /// These files are likely to be read next, in this order. What is known already is passed over, and what is known to
    /// be empty: there is nothing to fetch, which would prove nothing.
    pub fn want(self: &Arc<Self>, source: Source, files: impl IntoIterator<Item = Target>) {
        {
            let mut shelf = self.files.lock();
            for target in files {
                let is_empty = target.version().is_some_and(|version| version.size == 0);
                if !is_empty && !shelf.has(&target) && !self.prepares(target.path()) {
                    shelf.wait(source, target);
                }
            }
        }
        self.fetch_files();
    }

    /// What `source` said counts no longer; what nobody came to of it is given up.
    pub fn recall(self: &Arc<Self>, source: Source) {
        {
            let mut shelf = self.files.lock();
            let Shelf { waiting, awaited, .. } = &mut *shelf;
            waiting.retain(|waiting| waiting.source != source);
            awaited.retain(|_, number| waiting.binary_search_by_key(number, |waiting| waiting.number).is_ok());
            let gone = shelf.slots.iter().filter(|(_, slot)| slot.source == source);
            let gone: Vec<_> = gone.map(|(path, _)| path.clone()).collect();
            gone.iter().for_each(|path| drop(shelf.remove(path)));
        }
        self.files.found.notify_waiters();
        self.fetch_files();
    }

    /// Gives up what was fetched of these files and not read. Returns of how many there was any.
    pub fn pass_over<'a>(&self, files: impl IntoIterator<Item = &'a Path>) -> usize {
        let mut shelf = self.files.lock();
        let mut gone = 0;
        for path in files {
            shelf.awaited.remove(path);
            gone += usize::from(shelf.remove(path).is_some());
        }
        drop(shelf);
        self.files.found.notify_waiters();
        gone
    }

    /// What the store was proved to have at `path` when it was fetched ahead. Waits for one that is on its way: that is
    /// asked already.
    pub async fn seen_at(&self, path: &Path) -> Option<Seen> {
        loop {
            let found = self.files.found.notified();
            tokio::pin!(found);
            // Registered before the look, so that nothing that is found after it is missed.
            found.as_mut().enable();
            {
                let mut shelf = self.files.lock();
                let slot = shelf.slots.get_mut(path).filter(|slot| slot.proves)?;
                if !slot.coming {
                    let Slot { source, what, meta, asked, .. } = slot;
                    return Some(Seen { what: what.clone(), meta: meta.clone(), since: *asked, source: *source });
                }
                slot.waited_for = true;
            }
            found.await;
        }
    }

    /// What was fetched ahead of a file, for its first reader.
    pub(super) fn take_file(self: &Arc<Self>, version: &Version) -> (Option<Arc<Part>>, Ahead) {
        let slot = {
            let mut shelf = self.files.lock();
            shelf.awaited.remove(&version.path);
            let known = shelf.slots.get(&version.path).and_then(|slot| slot.what.version());
            if known == Some(version) { shelf.remove(&version.path) } else { None }
        };
        let Some(slot) = slot else { return (None, Ahead::Nothing) };
        self.files.found.notify_waiters();
        self.fetch_files();
        let is_there = slot.part.as_ref().map_or(!slot.coming, |part| part.is_there());
        // Who had to wait when it was looked up had to wait.
        let found = if is_there && !slot.waited_for { Ahead::There } else { Ahead::Coming };
        (slot.part, found)
    }

    /// Sends off what waits, as far as it is allowed.
    fn fetch_files(self: &Arc<Self>) {
        let config = self.config();
        let (longest, room) = (self.beginning(&config), self.budget.total() / 4);
        let read_proves = self.backend.traits().read_proves_path;
        let mut shelf = self.files.lock();
        while shelf.coming < config.files
            && let Some(Waiting { source, target, number }) = shelf.next_waiting()
        {
            let bytes = target.version().map_or(longest, |version| version.size.min(longest));
            while shelf.held + bytes > room && shelf.give_up_oldest() {}
            let lease = if shelf.held + bytes <= room { self.budget.try_acquire(bytes) } else { None };
            let Some(lease) = lease else {
                // Whoever takes one makes room, and comes here again.
                shelf.awaited.insert(target.path().clone(), number);
                shelf.waiting.push_front(Waiting { source, target, number });
                break;
            };
            let path = target.path().clone();
            drop(shelf.remove(&path));
            shelf.last_turn += 1;
            let turn = shelf.last_turn;
            let what = match target {
                Target::Unsure(version) if read_proves => Target::Version(version),
                other => other,
            };
            let (part, finding) = match &what {
                Target::Version(version) => (Some(self.fetch_version(version, bytes, lease, turn)), None),
                Target::Unsure(_) | Target::Path(_) => (None, Some(self.find(&what, bytes, lease, turn))),
            };
            let (asked, proves) = (Instant::now(), read_proves || finding.is_some());
            let slot = Slot {
                source,
                what,
                meta: None,
                proves,
                part,
                _finding: finding,
                bytes,
                asked,
                turn,
                coming: true,
                waited_for: false,
            };
            shelf.coming += 1;
            shelf.held += bytes;
            shelf.slots.insert(path, slot);
        }
    }

    fn fetch_version(self: &Arc<Self>, version: &Version, length: u64, lease: Lease, turn: u64) -> Arc<Part> {
        let (ahead, path) = (Arc::downgrade(self), version.path.clone());
        let landed = move || {
            if let Some(ahead) = ahead.upgrade() {
                ahead.landed(&path, turn);
            }
        };
        let wanted = Wanted { range: 0..length, why: Intent::Ahead, lease: Some(lease), stay: Stay::ForAnybody };
        Part::fetch(&self.backend, &self.link, version, wanted, landed)
    }

    fn find(self: &Arc<Self>, what: &Target, longest: u64, lease: Lease, turn: u64) -> AbortOnDropHandle<()> {
        let (ahead, backend) = (Arc::downgrade(self), self.backend.clone());
        let (path, known) = (what.path().clone(), what.version().cloned());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = survive(backend.fetch(&path, longest, known.as_ref()), Op::Fetch, &path).await;
            if let Some(ahead) = ahead.upgrade() {
                ahead.found(&path, outcome, lease, turn);
            }
        }))
    }

    /// A file of a known version is here, or cannot be had.
    fn landed(self: &Arc<Self>, path: &Path, turn: u64) {
        {
            let mut shelf = self.files.lock();
            if let Some(slot) = shelf.slots.get_mut(path).filter(|slot| slot.turn == turn) {
                if slot.part.as_ref().is_some_and(|part| part.is_there()) {
                    slot.coming = false;
                    shelf.coming -= 1;
                } else {
                    // Its reader asks himself, and is told why.
                    drop(shelf.remove(path));
                }
            }
        }
        self.files.found.notify_waiters();
        self.fetch_files();
    }

    /// A file of which only the path was known is here, or is none, or not a small one; or one is still what it was, and
    /// is read now.
    fn found(self: &Arc<Self>, path: &Path, outcome: backend::Result<Fetched>, mut lease: Lease, turn: u64) {
        {
            let mut shelf = self.files.lock();
            let held = shelf.held;
            if let Some(slot) = shelf.slots.get_mut(path).filter(|slot| slot.turn == turn) {
                match (outcome, slot.what.version().cloned()) {
                    (Ok(Fetched::Same), Some(version)) => {
                        slot.part = Some(self.fetch_version(&version, slot.bytes, lease, turn));
                        slot.what = Target::Version(version);
                    }
                    (Ok(Fetched::New { meta, bytes }), _) if meta.version().is_some() => {
                        lease.shrink(bytes.len() as u64);
                        let held = held - slot.bytes + bytes.len() as u64;
                        slot.bytes = bytes.len() as u64;
                        slot.part = (!bytes.is_empty()).then(|| Part::of(bytes, lease));
                        if let Some(version) = meta.version() {
                            slot.what = Target::Version(version.clone());
                        }
                        slot.meta = Some(meta);
                        slot.coming = false;
                        shelf.held = held;
                        shelf.coming -= 1;
                    }
                    // Who looks it up asks himself, and is told why.
                    _ => drop(shelf.remove(path)),
                }
            }
        }
        self.files.found.notify_waiters();
        self.fetch_files();
    }

    /// How much of a file is fetched before it is read: all of a small one.
    pub(super) fn beginning(&self, config: &Config) -> u64 {
        let most = (self.budget.total() / 64).clamp(1 << 20, 4 << 20);
        // Whole pages, as all that is fetched: the part that follows begins with a page.
        self.link.product().clamp(128 << 10, most).min(config.window) / PAGE * PAGE
    }
}

impl Files {
    /// Gives up at least `bytes` of what nobody came to, if there are as many; what is furthest ahead first. False
    /// where there is nothing.
    pub(super) fn give_up(&self, bytes: u64) -> bool {
        let mut shelf = self.lock();
        let mut last: Vec<_> = shelf.slots.iter().map(|(path, slot)| (slot.turn, path.clone())).collect();
        last.sort_unstable_by_key(|(turn, _)| Reverse(*turn));
        let enough = shelf.held.saturating_sub(bytes);
        for (_, path) in &last {
            if shelf.held <= enough {
                break;
            }
            drop(shelf.remove(path));
        }
        drop(shelf);
        self.found.notify_waiters();
        !last.is_empty()
    }

    /// Gives up half of what nobody came to.
    pub(super) fn give_way(&self) {
        let held = self.lock().held;
        self.give_up(held.div_ceil(2));
    }

    /// Gives up everything.
    pub(super) fn clear(&self) {
        let mut shelf = self.lock();
        let Shelf { last_turn, last_source, last_waiting, .. } = *shelf;
        *shelf = Shelf { last_turn, last_source, last_waiting, ..Shelf::default() };
        drop(shelf);
        self.found.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn has(&self, target: &Target) -> bool {
        let known = self.slots.get(target.path());
        known.is_some_and(|slot| target.version().is_none_or(|version| slot.what.version() == Some(version)))
    }

    /// Has `target` wait for its turn, unless it does.
    fn wait(&mut self, source: Source, target: Target) {
        if self.waiting.len() < MOST_WAITING && !self.awaited.contains_key(target.path()) {
            self.last_waiting += 1;
            let number = self.last_waiting;
            self.awaited.insert(target.path().clone(), number);
            self.waiting.push_back(Waiting { source, target, number });
        }
    }

    /// Whose turn it is.
    fn next_waiting(&mut self) -> Option<Waiting> {
        while let Some(waiting) = self.waiting.pop_front() {
            let path = waiting.target.path();
            if self.awaited.get(path) == Some(&waiting.number) {
                self.awaited.remove(path);
                if !self.has(&waiting.target) {
                    return Some(waiting);
                }
            }
        }
        None
    }

    /// Gives up the file that waits longest for its reader; false where none does for long.
    fn give_up_oldest(&mut self) -> bool {
        let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.turn);
        let abandoned = oldest.filter(|(_, slot)| slot.asked.elapsed() >= ABANDONED).map(|(path, _)| path.clone());
        abandoned.is_some_and(|path| self.remove(&path).is_some())
    }

    fn remove(&mut self, path: &Path) -> Option<Slot> {
        let slot = self.slots.remove(path)?;
        self.held -= slot.bytes;
        self.coming -= usize::from(slot.coming);
        Some(slot)
    }
}
