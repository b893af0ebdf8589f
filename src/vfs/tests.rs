mod ahead;
mod in_place;
mod links;
mod looks;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::*;
use crate::backend::faulty::Faulty;
use crate::backend::memory::Memory;
use crate::backend::{
    self, CreateOptions, Entry, Fetched, InPlace, Intent, Meta, Op, Path, RenameOptions, Traits, Upload, Version,
};
use crate::prefetch;

pub(super) const ME: Owner = Owner::Files(1);
pub(super) const OTHER: Owner = Owner::Files(2);
pub(super) const NEW: OpenOptions = OpenOptions { write: true, truncate: true, exclusive: false };
const READ: OpenOptions = OpenOptions { write: false, truncate: false, exclusive: false };
const WRITE: OpenOptions = OpenOptions { write: true, truncate: false, exclusive: false };

/// A store whose answers come when the test says so. What an answer says is settled before it waits.
#[derive(Debug, Clone)]
pub(super) struct Slow {
    inner: Memory,
    answers: Arc<Semaphore>,
    moves: Arc<Semaphore>,
}

impl Slow {
    pub(super) fn new(inner: &Memory) -> Slow {
        let [answers, moves] = [(); 2].map(|()| Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)));
        Slow { inner: inner.clone(), answers, moves }
    }

    /// What moves a name has done so, and does not say so.
    fn hold_moves(&self) {
        self.moves.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn let_moves_go(&self) {
        self.moves.add_permits(1_000_000);
    }

    pub(super) fn hold(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn let_go(&self) {
        self.answers.add_permits(1_000_000);
    }

    async fn wait(&self) {
        drop(self.answers.acquire().await);
    }
}

#[async_trait]
impl Backend for Slow {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    async fn stat(&self, path: &Path) -> backend::Result<Meta> {
        let answer = self.inner.stat(path).await;
        self.wait().await;
        answer
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, backend::Result<Entry>> {
        let (this, dir) = (self.clone(), dir.clone());
        futures::stream::once(async move {
            let entries: Vec<_> = this.inner.list(&dir).collect().await;
            this.wait().await;
            futures::stream::iter(entries)
        })
        .flatten()
        .boxed()
    }

    async fn read(
        &self,
        file: &Version,
        range: Range<u64>,
        why: Intent,
    ) -> backend::Result<BoxStream<'static, backend::Result<Bytes>>> {
        self.inner.read(file, range, why).await
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> backend::Result<Fetched> {
        self.inner.fetch(path, longest, known).await
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> backend::Result<Box<dyn Upload>> {
        self.inner.create(path, how).await
    }

    async fn make_dir(&self, path: &Path) -> backend::Result<Meta> {
        self.inner.make_dir(path).await
    }

    async fn remove(&self, path: &Path, kind: Kind) -> backend::Result<()> {
        self.inner.remove(path, kind).await
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> backend::Result<Meta> {
        let answer = self.inner.rename(from, to, how).await;
        drop(self.moves.acquire().await);
        answer
    }

    async fn make_file(&self, path: &Path, mode: u32) -> backend::Result<Meta> {
        self.inner.make_file(path, mode).await
    }

    async fn open_write(&self, file: &Version) -> backend::Result<Arc<dyn InPlace>> {
        self.inner.open_write(file).await
    }

    async fn set_attributes(&self, path: &Path, set: &SetAttributes) -> backend::Result<Meta> {
        self.inner.set_attributes(path, set).await
    }
}

pub(super) fn over(backend: Arc<dyn Backend>, config: Config) -> Vfs {
    let budget = Budget::new(16 << 20);
    let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(16 << 20));
    Vfs::new(backend, ahead, budget, config)
}

pub(super) fn volume() -> (Memory, Vfs) {
    volume_with(Config::default())
}

pub(super) fn volume_with(config: Config) -> (Memory, Vfs) {
    let memory = Memory::new();
    let vfs = over(Arc::new(memory.clone()), config);
    (memory, vfs)
}

/// Of data that never changes.
fn immutable() -> Config {
    Config { immutable: true, read_only: true, ..Config::default() }
}

pub(super) fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

pub(super) async fn stored(store: &Memory, name: &str) -> Option<Vec<u8>> {
    let version = store.stat(&path(name)).await.ok()?.version()?.clone();
    let mut stream = store.read(&version, 0..version.size, Intent::Demand).await.ok()?;
    let mut content = Vec::new();
    while let Some(chunk) = stream.next().await {
        content.extend_from_slice(&chunk.ok()?);
    }
    Some(content)
}

async fn write(vfs: &Vfs, handle: Handle, offset: u64, data: &'static [u8]) -> Result<u32> {
    vfs.write(handle, offset, Bytes::from_static(data), Some(ME)).await
}

pub(super) async fn read(vfs: &Vfs, ino: Ino) -> Result<Vec<u8>> {
    let opened = vfs.open(ino, READ).await?;
    let content = vfs.read(opened.handle, 0, 1 << 20).await;
    vfs.release(opened.handle).await?;
    Ok(content?.to_vec())
}

pub(super) async fn names(vfs: &Vfs, dir: Ino) -> Result<Vec<String>> {
    let handle = vfs.open_dir(dir)?;
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let listed = match vfs.read_dir(handle, offset, 3).await {
            Ok(listed) => listed,
            Err(error) => {
                vfs.close_dir(handle)?;
                return Err(error);
            }
        };
        let Some(last) = listed.last() else { break };
        offset = last.next;
        for entry in &listed {
            names.push(String::from_utf8(entry.name.clone()).unwrap());
            let taken = vfs.take_listed(dir, entry)?;
            if taken.counted {
                vfs.forget(taken.attr.ino, 1);
            }
        }
    }
    vfs.close_dir(handle)?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn an_answer_from_before_a_removal_brings_nothing_back() {
    let memory = Memory::new();
    memory.put(&path("f"), "x");
    let slow = Slow::new(&memory);
    let vfs = over(Arc::new(slow.clone()), Config::default());
    slow.hold();
    let mut lookup = Box::pin(vfs.lookup(Ino::ROOT, b"f"));
    assert!(lookup.as_mut().now_or_never().is_none());
    let dir = vfs.open_dir(Ino::ROOT).unwrap();
    let mut list = Box::pin(vfs.read_dir(dir, 2, 100));
    assert!(list.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    vfs.unlink(Ino::ROOT, b"f").await.unwrap();
    slow.let_go();
    assert_eq!(lookup.await, Err(Error::NotFound));
    assert!(list.await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_just_looked_up_in_vain_is_made_without_asking_again() {
    let memory = Memory::new();
    let store = Faulty::new(Arc::new(memory.clone()));
    let vfs = over(Arc::new(store.clone()), Config::default());
    for name in ["a", "b"] {
        assert_eq!(vfs.lookup(Ino::ROOT, name.as_bytes()).await, Err(Error::NotFound));
    }
    let asked = store.calls(Op::Stat);
    let exclusive = OpenOptions { exclusive: true, ..NEW };
    let (_, opened) = vfs.create(Ino::ROOT, b"a", exclusive).await.unwrap();
    assert_eq!(store.calls(Op::Stat), asked);
    // It counts once, and not where something was made since.
    assert_eq!(vfs.create(Ino::ROOT, b"a", exclusive).await.unwrap_err(), Error::Exists);
    vfs.write(opened.handle, 0, Bytes::from_static(b"x"), Some(ME)).await.unwrap();
    vfs.fsync(opened.handle).await.unwrap();
    memory.put(&path("b"), "theirs");
    assert!(vfs.lookup(Ino::ROOT, b"b").await.is_ok());
    assert_eq!(vfs.create(Ino::ROOT, b"b", exclusive).await.unwrap_err(), Error::Exists);
}

#[tokio::test]
async fn an_answer_from_before_a_publish_does_not_replace_it() {
    let memory = Memory::new();
    memory.put(&path("f"), "old");
    let slow = Slow::new(&memory);
    let vfs = over(Arc::new(slow.clone()), Config::default());
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let dir = vfs.open_dir(Ino::ROOT).unwrap();
    slow.hold();
    let mut lookup = Box::pin(vfs.lookup(Ino::ROOT, b"f"));
    assert!(lookup.as_mut().now_or_never().is_none());
    let mut list = Box::pin(vfs.read_dir(dir, 2, 100));
    assert!(list.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    let handle = vfs.open(ino, NEW).await.unwrap().handle;
    write(&vfs, handle, 0, b"newer").await.unwrap();
    vfs.flush(handle, &[ME]).await.unwrap();
    vfs.release(handle).await.unwrap();
    slow.let_go();
    let found = lookup.await.unwrap();
    assert_eq!((found.ino, found.size), (ino, 5));
    let listed = list.await.unwrap();
    let taken = vfs.take_listed(Ino::ROOT, &listed[0]).unwrap();
    assert_eq!((taken.attr.ino, taken.attr.size, taken.sure), (ino, 5, false));
    assert_eq!(read(&vfs, ino).await.unwrap(), b"newer");
}

#[tokio::test]
async fn the_close_of_who_cut_a_file_to_nothing_publishes_it() {
    let (memory, vfs) = volume();
    memory.put(&path("f"), "old");
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let handle = vfs.open(ino, WRITE).await.unwrap().handle;
    let (me, another) = (Owner::Thread(1), Owner::Thread(2));
    let nothing = SetAttributes { size: Some(0), ..SetAttributes::default() };
    assert_eq!(vfs.setattr(ino, Some((handle, Some(me))), nothing).await.unwrap().size, 0);
    vfs.flush(handle, &[ME, another]).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"old");
    vfs.flush(handle, &[ME, me]).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"");
    vfs.release(handle).await.unwrap();
}

#[tokio::test]
async fn a_listing_fetched_before_a_change_is_checked_when_it_is_used() {
    let (memory, vfs) = volume();
    memory.put(&path("f"), "old");
    let dir = vfs.open_dir(Ino::ROOT).unwrap();
    let listed = vfs.read_dir(dir, 2, 100).await.unwrap();
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let handle = vfs.open(ino, NEW).await.unwrap().handle;
    write(&vfs, handle, 0, b"newer").await.unwrap();
    vfs.fsync(handle).await.unwrap();
    vfs.release(handle).await.unwrap();
    let taken = vfs.take_listed(Ino::ROOT, &listed[0]).unwrap();
    assert_eq!((taken.attr.ino, taken.attr.size, taken.sure), (ino, 5, false));
    assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, ino);
}

#[tokio::test]
async fn flush_publishes_for_who_wrote() {
    let (memory, vfs) = volume();
    let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    let handle = opened.handle;
    assert_eq!(opened.pages, Pages::None);
    vfs.flush(handle, &[ME]).await.unwrap();
    assert_eq!(stored(&memory, "f").await, None);
    write(&vfs, handle, 0, b"a").await.unwrap();
    vfs.flush(handle, &[OTHER]).await.unwrap();
    assert_eq!(stored(&memory, "f").await, None);
    vfs.flush(handle, &[ME]).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"a");
    vfs.write(handle, 1, Bytes::from_static(b"b"), Some(OTHER)).await.unwrap();
    vfs.flush(handle, &[ME]).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"a");
    vfs.release(handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"ab");
    assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, attr.ino);
}

#[tokio::test]
async fn two_handles_write_one_file() {
    let (memory, vfs) = volume();
    let (attr, first) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    let second = vfs.open(attr.ino, WRITE).await.unwrap();
    write(&vfs, first.handle, 0, b"a").await.unwrap();
    write(&vfs, second.handle, 1, b"b").await.unwrap();
    assert_eq!(write(&vfs, first.handle, 1, b"c").await, Err(Error::Unsupported));
    vfs.release(first.handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await, None);
    vfs.release(second.handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"ab");
    // The later truncation wins, and the earlier writer's place is gone.
    let first = vfs.open(attr.ino, NEW).await.unwrap();
    write(&vfs, first.handle, 0, b"first").await.unwrap();
    let second = vfs.open(attr.ino, NEW).await.unwrap();
    assert_eq!(write(&vfs, first.handle, 5, b"more").await, Err(Error::Unsupported));
    write(&vfs, second.handle, 0, b"2nd").await.unwrap();
    vfs.release(first.handle).await.unwrap();
    vfs.release(second.handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"2nd");
}

#[tokio::test]
async fn opening_for_writing_changes_nothing_by_itself() {
    let (memory, vfs) = volume();
    let before = memory.put(&path("f"), "content");
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let handle = vfs.open(ino, WRITE).await.unwrap().handle;
    assert_eq!(vfs.read(handle, 3, 100).await.unwrap(), &b"tent"[..]);
    assert_eq!(write(&vfs, handle, 0, b"x").await, Err(Error::Unsupported));
    vfs.fsync(handle).await.unwrap();
    vfs.flush(handle, &[ME]).await.unwrap();
    vfs.release(handle).await.unwrap();
    assert_eq!(memory.stat(&path("f")).await.unwrap().version(), Some(&before));
}

#[tokio::test]
async fn pages_are_kept_for_one_version_only() {
    let (memory, vfs) = volume();
    memory.put(&path("f"), "one");
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let pages = async |expected| {
        let opened = vfs.open(ino, READ).await.unwrap();
        assert_eq!(opened.pages, expected);
        vfs.release(opened.handle).await.unwrap();
    };
    pages(Pages::Keep).await;
    let writer = vfs.open(ino, NEW).await.unwrap().handle;
    pages(Pages::None).await;
    write(&vfs, writer, 0, b"two").await.unwrap();
    vfs.fsync(writer).await.unwrap();
    pages(Pages::None).await;
    vfs.release(writer).await.unwrap();
    pages(Pages::Drop).await;
    pages(Pages::Keep).await;
    // A publish that fails drops them as well.
    let writer = vfs.open(ino, NEW).await.unwrap().handle;
    write(&vfs, writer, 0, b"three").await.unwrap();
    memory.put(&path("f"), "theirs");
    assert_eq!(vfs.fsync(writer).await, Err(Error::Stale));
    assert_eq!(vfs.fsync(writer).await, Err(Error::Stale));
    vfs.release(writer).await.unwrap();
    pages(Pages::Drop).await;
}

#[tokio::test]
async fn last_wins_where_the_volume_says_so() {
    let memory = Memory::new();
    let vfs = over(Arc::new(memory.clone()), Config { last_wins: true, ..Config::default() });
    let (_, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    write(&vfs, opened.handle, 0, b"mine").await.unwrap();
    memory.put(&path("f"), "theirs");
    vfs.fsync(opened.handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"mine");
}

#[tokio::test]
async fn what_is_forgotten_comes_back_under_its_number() {
    let (memory, vfs) = volume();
    memory.put(&path("d/f"), "x");
    let dir = vfs.lookup(Ino::ROOT, b"d").await.unwrap().ino;
    let file = vfs.lookup(dir, b"f").await.unwrap().ino;
    assert_eq!(vfs.usage().inodes, 3);
    vfs.forget(file, 1);
    vfs.forget(dir, 1);
    assert_eq!(vfs.usage(), Usage { bytes: 0, inodes: 1, limit: None, counted: None });
    assert_eq!(vfs.getattr(file), Err(Error::Stale));
    let again = vfs.lookup(Ino::ROOT, b"d").await.unwrap().ino;
    assert_eq!((again, vfs.lookup(again, b"f").await.unwrap().ino), (dir, file));
    // Another version is another number.
    memory.put(&path("d/f"), "y");
    assert_ne!(vfs.lookup(dir, b"f").await.unwrap().ino, file);
    assert_eq!(vfs.open(file, READ).await, Err(Error::Stale));
}

#[tokio::test]
async fn a_files_end_is_the_mounts_end_only_where_it_was_closed() {
    let (memory, vfs) = volume();
    let (_, closed) = vfs.create(Ino::ROOT, b"closed", NEW).await.unwrap();
    vfs.flush(closed.handle, &[ME]).await.unwrap();
    let (_, open) = vfs.create(Ino::ROOT, b"open", NEW).await.unwrap();
    write(&vfs, open.handle, 0, b"in the middle of").await.unwrap();
    vfs.shut_down().await;
    assert_eq!(stored(&memory, "closed").await.unwrap(), b"");
    assert_eq!(stored(&memory, "open").await, None);
}

#[tokio::test]
async fn attributes_travel_with_a_file_being_written() {
    let (memory, vfs) = volume();
    let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    vfs.setattr(attr.ino, None, SetAttributes { mtime: Some(mtime), ..SetAttributes::default() }).await.unwrap();
    write(&vfs, opened.handle, 0, b"x").await.unwrap();
    vfs.release(opened.handle).await.unwrap();
    assert_eq!(memory.stat(&path("f")).await.unwrap().mtime, mtime);
}

#[tokio::test]
async fn what_the_store_cannot_give_now_is_shown_without_rights() {
    let (memory, vfs) = volume();
    memory.put(&path("f"), "x");
    let meta = memory.stat(&path("f")).await.unwrap();
    let ino = vfs.inodes().enter(&path("f"), &Meta { readable: false, ..meta });
    assert_eq!(vfs.getattr(ino).unwrap().mode, 0);
    assert_eq!(vfs.open(ino, READ).await, Err(Error::Denied));
    assert_eq!(vfs.open(ino, WRITE).await, Err(Error::Denied));
    let handle = vfs.open(ino, NEW).await.unwrap().handle;
    vfs.release(handle).await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"");
}
