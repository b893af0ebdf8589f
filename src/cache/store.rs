//! The part as a whole: which versions are known in memory, what is written, and what goes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::bits::Bits;
use super::disk::{Disk, Patience, Use};
use super::files::{Files, Found, Part};
use super::layout::Key;
use super::medium::Medium;
use super::sketch::Sketch;
use super::slot::{Claim, Slot};
use super::space::{Bounds, Missing, Space};
use crate::backend::Version;
use crate::budget::{Budget, Lease};
use crate::observability::metrics::{CACHE_EVICTED_BYTES, CACHE_SKIPPED_BYTES, CACHE_USED_BYTES, CACHE_WRITTEN_BYTES};

/// Memory that what is known of versions may take, beside those that are being read.
const KNOWN: usize = 4 << 20;
/// And how many, since each holds two descriptors.
const MOST: usize = 512;
/// How often room is made for those who share the disk.
const UPKEEP: Duration = Duration::from_secs(10);
/// How long a read is held up where the disk does not keep up with the store. Once it did not, no read is held up for
/// `BEHIND`.
const HELD_UP: Duration = Duration::from_millis(500);
const BEHIND: Duration = Duration::from_secs(10);
/// After so long, counts of visits are halved, and what is on the disk is counted anew.
const HOUR: Duration = Duration::from_secs(3600);
/// A version of at most so many bytes is read whole when it is looked for.
const SMALL: u64 = 1 << 20;
/// What a map takes on the disk, in bytes, before its first block is written.
const PAGE: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) part: Arc<Part>,
    pub(super) disk: Disk,
    pub(super) space: Space,
    sketch: Mutex<Sketch>,
    slots: Mutex<Slots>,
    /// Pays for bytes that wait to be written.
    room: Budget,
    /// What `room` is made of. None where the budget was used up at the start.
    _lease: Option<Lease>,
    /// Until then nobody waits for `room`: the disk does not keep up.
    behind: Mutex<Option<Instant>>,
    /// What is on the disk has been counted: nothing is kept before.
    surveyed: AtomicBool,
    evicting: tokio::sync::Mutex<()>,
    /// One version at a time is checked whole.
    pub(super) sealing: Semaphore,
    /// Complete versions are checked as soon as they are.
    seals: AtomicBool,
    jobs: TaskTracker,
}

#[derive(Debug, Default)]
struct Slots {
    known: HashMap<Key, (Arc<Slot>, u64)>,
    uses: u64,
}

impl Store {
    /// Takes the directory over. What waits to be written is paid from `budget`, of which an eighth, at most 16 MiB, is
    /// held from now on.
    pub(super) fn open(
        dir: OwnedFd,
        medium: Medium,
        bounds: Bounds,
        patience: Patience,
        budget: &Budget,
    ) -> Arc<Store> {
        let share = (budget.total() / 8).min(16 << 20);
        let store = Arc::new(Store {
            part: Arc::new(Part { dir, medium }),
            disk: Disk::new(patience),
            space: Space::new(bounds),
            sketch: Mutex::default(),
            slots: Mutex::default(),
            room: Budget::new(share),
            _lease: budget.try_acquire(share),
            behind: Mutex::default(),
            surveyed: AtomicBool::new(false),
            evicting: tokio::sync::Mutex::default(),
            sealing: Semaphore::new(1),
            seals: AtomicBool::new(false),
            jobs: TaskTracker::new(),
        });
        let surveying = store.clone();
        store.jobs.spawn(async move { surveying.survey().await });
        tokio::spawn(Store::keep_up(Arc::downgrade(&store)));
        store
    }

    /// Counts what is there, without a deadline: there may be millions of files, and nobody waits.
    async fn survey(self: Arc<Self>) {
        let this = self.clone();
        let first = !self.surveyed.load(Ordering::Acquire);
        let counted = tokio::task::spawn_blocking(move || this.space.survey(&this.part, first)).await;
        match counted.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(()) => self.surveyed.store(true, Ordering::Release),
            Err(error) => self.disk.failed(&error),
        }
        metrics::gauge!(CACHE_USED_BYTES).set(self.space.used() as f64);
    }

    async fn keep_up(this: Weak<Store>) {
        let mut hour = Instant::now();
        loop {
            tokio::time::sleep(UPKEEP).await;
            let Some(store) = this.upgrade() else { return };
            let hour_is_over = hour.elapsed() >= HOUR;
            if hour_is_over {
                hour = Instant::now();
                store.sketch().fade();
            }
            if hour_is_over || !store.surveyed.load(Ordering::Acquire) {
                store.clone().survey().await;
            }
            let asked = store.clone();
            if let Some(missing) = store.disk.call(Use::Read, move || asked.space.missing(&asked.part, 0)).await
                && missing != Missing::NOTHING
                && store.space.used() > 0
            {
                store.evict(None, missing).await;
            }
        }
    }

    /// What is known of a version; looks at the disk where nothing is. `None` where that cannot be looked at.
    pub(super) async fn slot(&self, version: &Version) -> Option<Arc<Slot>> {
        self.look_at(version, false).await.map(|(slot, _)| slot)
    }

    /// As [`Store::slot`], for whoever reads it: with all bytes of a small one that nothing was known of and that is there,
    /// which to ask for apart would take as long again.
    pub(super) async fn read(&self, version: &Version) -> Option<(Arc<Slot>, Option<Bytes>)> {
        self.look_at(version, true).await
    }

    async fn look_at(&self, version: &Version, is_read: bool) -> Option<(Arc<Slot>, Option<Bytes>)> {
        let slot = self.slots().of(version);
        if slot.lock().looked {
            return Some((slot, None));
        }
        let alone = slot.opening.lock().await;
        if slot.lock().looked {
            drop(alone);
            return Some((slot, None));
        }
        let (part, key, version) = (self.part.clone(), slot.key, version.clone());
        let (writes, count) = (is_read && self.disk.is_open(Use::Write), slot.layout.count());
        let look = move || {
            let Some((files, present)) = Files::open(&part, key, &version)? else { return Ok(None) };
            let touched = if writes && files.writable && files.is_to_touch() { files.touch() } else { Ok(()) };
            let comes_along = is_read && version.size <= SMALL && present.all();
            let whole = comes_along.then(|| files.read(&(0..count))).transpose()?;
            Ok(Some((files, present, whole, touched)))
        };
        let mut whole = None;
        match self.disk.call(Use::Read, look).await? {
            Some((files, present, found, touched)) => {
                slot.opened(Arc::new(files), present);
                if let Err(error) = touched {
                    self.disk.failed(&error);
                }
                // What is wrong with it is found, and mended, when it is asked for apart.
                whole = if let Some(Found::Right(bytes)) = found { Some(bytes) } else { None };
            }
            None => slot.lock().looked = true,
        }
        self.slots().weigh();
        drop(alone);
        Some((slot, whole))
    }

    /// Notes that the version is read from `start` on.
    pub(super) fn visit(self: &Arc<Self>, slot: &Slot, start: u64) {
        if !slot.visit(start) {
            return;
        }
        self.sketch().visit(slot.key.number());
        if let Some(files) = slot.lock().files.clone().filter(|files| files.writable && files.is_to_touch()) {
            let store = self.clone();
            self.jobs.spawn(async move { store.disk.call(Use::Write, move || files.touch()).await });
        }
    }

    /// Whether what is fetched of a version is to be kept now.
    pub(super) fn keeps(&self, slot: &Slot) -> bool {
        let may = {
            let state = slot.lock();
            !state.shut && state.lent == 0 && state.files.as_ref().is_none_or(|files| files.writable)
        };
        may && self.surveyed.load(Ordering::Acquire) && self.disk.is_open(Use::Write)
    }

    /// Writes the blocks of `claim`, whose bytes these are, in the background.
    pub(super) fn keep(self: &Arc<Self>, claim: Claim, pieces: Vec<Bytes>, paid: Lease) {
        let store = self.clone();
        self.jobs.spawn(async move {
            let slot = claim.slot.clone();
            if store.write(&claim, &Arc::new(pieces)).await.is_none() {
                slot.lock().shut = true;
            }
            // Their bytes are there, or nobody's: whoever waits for them looks.
            drop(claim);
            drop(paid);
        });
    }

    async fn write(self: &Arc<Self>, claim: &Claim, pieces: &Arc<Vec<Bytes>>) -> Option<()> {
        for _ in 0..2 {
            match self.try_write(claim, pieces.clone()).await? {
                Missing::NOTHING => return Some(()),
                missing => self.make_room(&claim.slot, missing).await?,
            }
        }
        None
    }

    /// Writes, to files that are made where there are none, if there is room; else returns what is missing.
    async fn try_write(self: &Arc<Self>, claim: &Claim, pieces: Arc<Vec<Bytes>>) -> Option<Missing> {
        let slot = &claim.slot;
        let known = slot.lock().files.clone();
        let alone = if known.is_none() { Some(slot.opening.lock().await) } else { None };
        // Somebody else may have made them just now.
        let known = known.or_else(|| slot.lock().files.clone());
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let price = if known.is_some() { bytes } else { bytes + PAGE };
        let (store, there, key, version) = (self.clone(), known.clone(), slot.key, slot.version.clone());
        let first = claim.blocks.start;
        let write = move || {
            let missing = store.space.reserve(&store.part, price)?;
            if missing != Missing::NOTHING {
                return Ok(Err(missing));
            }
            let written = || {
                let files = match there {
                    Some(files) => files,
                    None => Arc::new(Files::create(&store.part, key, &version)?),
                };
                files.write(first, &pieces)?;
                Ok(files)
            };
            written().inspect_err(|_| store.space.gave(price)).map(Ok)
        };
        let files = match self.disk.call(Use::Write, write).await? {
            Ok(files) => files,
            Err(missing) => return Some(missing),
        };
        if known.is_none() {
            slot.opened(files.clone(), Bits::none(slot.layout.count()));
            self.slots().weigh();
        }
        drop(alone);
        if !slot.arrived(&files, claim.blocks.clone()) {
            // They were removed meanwhile, and went with their files.
            self.space.gave(bytes);
        } else if self.seals.load(Ordering::Relaxed) && slot.lock().is_complete() {
            self.seal(slot.clone());
        }
        metrics::counter!(CACHE_WRITTEN_BYTES).increment(bytes);
        metrics::gauge!(CACHE_USED_BYTES).set(self.space.used() as f64);
        Some(Missing::NOTHING)
    }

    /// Makes room for more of a version, if what is there was visited less often.
    async fn make_room(self: &Arc<Self>, slot: &Arc<Slot>, missing: Missing) -> Option<()> {
        let _alone = self.evicting.lock().await;
        let gone = self.evict(Some(slot.key), missing).await?;
        if gone >= missing.bytes() {
            return Some(());
        }
        // Else what is there is wanted more than what was to come.
        if missing.floor > 0 || self.space.used() == 0 {
            self.disk.is_full("there is no room beyond what is to stay free, and it is not this cache that took it");
        }
        None
    }

    /// Removes what is too much, in favour of one version where there is one. Whoever shares the disk is always in the
    /// right.
    async fn evict(self: &Arc<Self>, favoured: Option<Key>, missing: Missing) -> Option<u64> {
        let rank = favoured.map(|key| self.sketch().count(key.number()));
        let store = self.clone();
        let evict = move || {
            let may_go = |key: Key, least: u8| {
                let colder = || rank.is_none_or(|rank| store.sketch().count(key.number()).max(least) < rank);
                favoured != Some(key) && (missing.floor > 0 || colder())
            };
            let gone = |key: Key| store.slots().removed(key);
            store.space.evict(&store.part, missing.bytes() + store.space.batch(), may_go, gone)
        };
        let gone = self.disk.call(Use::Write, evict).await?;
        metrics::counter!(CACHE_EVICTED_BYTES).increment(gone);
        metrics::gauge!(CACHE_USED_BYTES).set(self.space.used() as f64);
        Some(gone)
    }

    /// Pays for bytes until they are written. `None` where the disk does not keep up with the store: they are fetched
    /// again when they are read again.
    pub(super) async fn pay(&self, bytes: u64) -> Option<Lease> {
        let lease = match self.room.try_acquire(bytes) {
            None if self.is_worth_waiting() => tokio::time::timeout(HELD_UP, self.room.acquire(bytes)).await.ok(),
            lease => lease,
        };
        if lease.is_none() {
            metrics::counter!(CACHE_SKIPPED_BYTES).increment(bytes);
            self.behind().get_or_insert_with(|| Instant::now() + BEHIND);
        }
        lease
    }

    fn is_worth_waiting(&self) -> bool {
        let mut behind = self.behind();
        *behind = behind.filter(|until| *until > Instant::now());
        behind.is_none()
    }

    fn behind(&self) -> MutexGuard<'_, Option<Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Complete versions are to be read by the kernel itself: they are checked as soon as they are complete.
    pub(super) fn seal_from_now_on(&self) {
        self.seals.store(true, Ordering::Relaxed);
    }

    /// Does something in the background that [`Store::settle`] waits for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.jobs.spawn(work);
    }

    /// Waits until all that was to be written is, or was given up.
    pub(super) async fn settle(&self) {
        self.jobs.close();
        self.jobs.wait().await;
        self.jobs.reopen();
    }

    fn sketch(&self) -> MutexGuard<'_, Sketch> {
        self.sketch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn of(&mut self, version: &Version) -> Arc<Slot> {
        self.uses += 1;
        let (key, now) = (Key::of(version), self.uses);
        let known = self.known.entry(key).or_insert_with(|| (Arc::new(Slot::new(key, version.clone())), now));
        known.1 = now;
        known.0.clone()
    }

    /// Forgets what was not read for longest and is not being read, where much is known. Its files are found again.
    fn weigh(&mut self) {
        // Looking at all of it is not for each new one.
        if self.known.len() <= MOST && !self.uses.is_multiple_of(64) {
            return;
        }
        let weight = |slot: &Slot| slot.lock().weight();
        let all: usize = self.known.values().map(|(slot, _)| weight(slot)).sum();
        if all <= KNOWN && self.known.len() <= MOST {
            return;
        }
        let mut idle: Vec<_> = self.known.values().filter(|(slot, _)| Arc::strong_count(slot) == 1).collect();
        idle.sort_by_key(|(_, used)| *used);
        let idle: Vec<Key> = idle.iter().take(idle.len().div_ceil(2)).map(|(slot, _)| slot.key).collect();
        idle.iter().for_each(|key| drop(self.known.remove(key)));
    }

    /// The version's files are about to be removed. False where they must not be.
    fn removed(&mut self, key: Key) -> bool {
        self.known.get(&key).is_none_or(|(slot, _)| slot.removed())
    }
}
