//! Keeps what was read of a store on the node's disk: a backend over a backend.
//!
//! [`Cached`] is given a directory of its own, a *part*, by descriptor, and holds versions in blocks there: what was
//! read once is read from the disk from then on, also by the next worker that is given the part. A version's bytes never
//! change, so nothing there is ever out of date; whether the version is still what lies at its path is asked of the store
//! as without a cache. A part is of one volume and one identity, and is opened only after the store accepted that
//! identity's credential: both are its owner's affair.
//!
//! Nothing here fails. What the disk cannot give or take is read from the store, counted, and told by
//! [`Cached::ailment`]; nobody waits for a disk that does not answer. Every block is compared with its checksum each time
//! it is read.
//!
//! The pure parts are `layout` (blocks, checksums), `bits` and `sketch` (who was visited how often). `files` is one
//! version on the disk, `slot` what is known of it in memory, `space` who gives way; `store` joins them; `reading` and
//! `keeping` are one read and what is kept of it; every call of the disk goes through `medium`, and waits in `disk`.

mod bits;
mod disk;
mod files;
mod keeping;
mod layout;
mod medium;
mod reading;
mod sealing;
mod sketch;
mod slot;
mod space;
mod store;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::backend::{
    Backend, CreateOptions, Entry, Fetched, InPlace, Intent, Kind, Meta, Path, RenameOptions, Result, Rights,
    SetAttributes, Space, Traits, Upload, Version,
};
use crate::budget::Budget;
use crate::observability::metrics::CACHE_READ_BYTES;
pub use sealing::LocalFile;

use disk::{Patience, Use};
use keeping::Keeping;
use medium::Medium;
use reading::Reading;
use slot::Step;
use space::Bounds;
use store::Store;

/// How much of the disk to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes that the part may take.
    pub capacity: u64,
    /// Of a hundred bytes of the disk, how many stay free, whoever takes the others.
    pub free_percent: u8,
}

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Cached {
    inner: Arc<dyn Backend>,
    store: Arc<Store>,
}

impl Cached {
    /// Keeps what is read of `inner` in `part`, a directory that this process may read and write and nobody else uses.
    /// Within a tokio runtime; an eighth of `budget`, at most 16 MiB, is held from now on.
    pub fn new(inner: Arc<dyn Backend>, part: OwnedFd, config: Config, budget: &Budget) -> Cached {
        Cached::with(inner, part, Medium::default(), config, Patience::default(), budget)
    }

    fn with(
        inner: Arc<dyn Backend>,
        part: OwnedFd,
        medium: Medium,
        config: Config,
        patience: Patience,
        budget: &Budget,
    ) -> Cached {
        let bounds = Bounds { capacity: config.capacity, free_percent: config.free_percent };
        Cached { inner, store: Store::open(part, medium, bounds, patience, budget) }
    }

    /// What is wrong with the disk, in words for the person who looks after the node; `None` while it is well.
    pub fn ailment(&self) -> Option<String> {
        self.store.disk.ailment()
    }

    /// Files are to be read by the kernel itself: what is complete is made ready for [`Cached::local`] at once.
    pub fn prepare_local(&self) {
        self.store.seal_from_now_on();
    }

    /// The file of the part that holds exactly `version`, if all of it is there and was found right. Where it is there and
    /// was not looked at, that begins now.
    pub async fn local(&self, version: &Version) -> Option<LocalFile> {
        self.store.local(version).await
    }

    /// Keeps the bytes of a file that came whole and is new. False where some of it is not kept.
    async fn take(&self, path: &Path, meta: &Meta, bytes: &Bytes) -> bool {
        let whole = |version: &&Version| version.size > 0 && version.size == bytes.len() as u64;
        let Some(version) = meta.version().filter(whole) else { return false };
        let any = self.inner.traits().append && version.bytes == version.file;
        if any || path.names().any(|name| name.is_reserved()) || !self.store.disk.is_open(Use::Write) {
            return false;
        }
        let Some(slot) = self.store.slot(version).await else { return false };
        self.store.visit(&slot, 0);
        let mut kept = true;
        for step in slot.plan(&(0..version.size), self.store.keeps(&slot), true) {
            match step {
                Step::Missing(range, Some(claim)) => {
                    let piece = bytes.slice(range.start as usize..range.end as usize);
                    Keeping::of(&self.store, claim, range.start).take(&piece).await;
                }
                Step::Missing(_, None) => kept = false,
                Step::Cached(_) | Step::Awaited(_) => {}
            }
        }
        kept
    }

    /// All of `version` is on the disk, or on its way there.
    async fn holds(&self, version: &Version) -> bool {
        if !self.store.disk.is_open(Use::Read) {
            return false;
        }
        let Some(slot) = self.store.slot(version).await else { return false };
        !slot.plan(&(0..version.size), false, false).iter().any(|step| matches!(step, Step::Missing(..)))
    }

    /// Bytes that the part takes on the disk.
    pub fn used(&self) -> u64 {
        self.store.space.used()
    }

    /// Waits until all that was read so far is on the disk, or was given up.
    pub async fn settle(&self) {
        self.store.settle().await;
    }
}

/// The paths of some files, at most `most`, of which anything is kept in `part`. Asks the disk, on this thread; none where
/// it cannot be asked.
pub fn some_files(part: &OwnedFd, most: usize) -> Vec<Path> {
    space::some_files(part, most).unwrap_or_default()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Cached {
    fn traits(&self) -> Traits {
        // What is on the disk is read without asking.
        Traits { read_proves_path: false, ..self.inner.traits() }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        self.inner.list(dir)
    }

    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        let within = range.start < range.end && range.end <= file.size;
        // Whatever bytes the file holds now are no version's.
        let any = self.inner.traits().append && file.bytes == file.file;
        if within
            && !any
            && self.store.disk.is_open(Use::Read)
            && let Some((slot, whole)) = self.store.read(file).await
        {
            self.store.visit(&slot, range.start);
            if let Some(whole) = whole {
                let bytes = whole.slice(range.start as usize..range.end as usize);
                metrics::counter!(CACHE_READ_BYTES).increment(bytes.len() as u64);
                return Ok(stream::once(async { Ok(bytes) }).boxed());
            }
            let reading = Reading { store: self.store.clone(), inner: self.inner.clone(), slot, why };
            return reading.begin(range, false).await;
        }
        self.inner.read(file, range, why).await
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        // What is known and not here will be read next: the request that proves it brings it, too.
        let wanted = match known.filter(|known| known.size <= longest) {
            Some(known) => !self.holds(known).await,
            None => false,
        };
        let fetched = self.inner.fetch(path, longest, known.filter(|_| !wanted)).await?;
        if let Fetched::New { meta, bytes } = &fetched {
            let kept = self.take(path, meta, bytes).await;
            if wanted && kept && meta.version() == known {
                return Ok(Fetched::Same);
            }
        }
        Ok(fetched)
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        self.inner.create(path, how).await
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        self.inner.make_dir(path).await
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        self.inner.remove(path, kind).await
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        self.inner.rename(from, to, how).await
    }

    async fn make_file(&self, path: &Path, mode: u32) -> Result<Meta> {
        self.inner.make_file(path, mode).await
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        self.inner.open_write(file).await
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> Result<Meta> {
        self.inner.set_attributes(path, set).await
    }

    async fn make_symlink(&self, path: &Path, target: &[u8]) -> Result<Meta> {
        self.inner.make_symlink(path, target).await
    }

    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        self.inner.read_symlink(path).await
    }

    async fn link(&self, from: &Path, to: &Path) -> Result<Meta> {
        self.inner.link(from, to).await
    }

    async fn access(&self, path: &Path, asked: Rights) -> Result<Rights> {
        self.inner.access(path, asked).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.inner.space().await
    }
}
