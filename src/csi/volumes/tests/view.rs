//! A controller's view of a shared store, in which it dies, is slow or meets another.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::*;

/// How a call may go wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The controller dies before its request is sent.
    Before,
    /// It dies after the store has done it.
    After,
}

/// A controller's view of a shared store: it dies at a call, is slow in a way that a seed decides, or another comes
/// between two calls.
pub(super) struct View {
    pub(super) store: Arc<MemoryRecords>,
    /// Calls until the other comes, and what it does.
    pub(super) other: std::sync::Mutex<Option<(u32, BoxFuture<'static, ()>)>>,
    /// Calls left to live.
    pub(super) lives: AtomicI64,
    pub(super) end: End,
    pub(super) seed: AtomicU64,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

impl View {
    pub(super) fn of(store: &Arc<MemoryRecords>) -> View {
        View {
            store: store.clone(),
            other: Default::default(),
            lives: AtomicI64::new(i64::MAX),
            end: End::Before,
            seed: AtomicU64::new(0),
        }
    }

    pub(super) fn dying(store: &Arc<MemoryRecords>, lives: i64, end: End) -> View {
        View { lives: AtomicI64::new(lives), end, ..View::of(store) }
    }

    pub(super) fn slow(store: &Arc<MemoryRecords>, seed: u64) -> View {
        View { seed: AtomicU64::new(seed | 1), ..View::of(store) }
    }

    pub(super) fn disturbed(
        store: &Arc<MemoryRecords>,
        after: u32,
        other: impl Future<Output = ()> + Send + 'static,
    ) -> View {
        View { other: Some((after, other.boxed())).into(), ..View::of(store) }
    }

    /// Lets the other do what it does, when it is its turn.
    pub(super) async fn disturb(&self) {
        let other = {
            let mut other = self.other.lock().unwrap();
            match other.take() {
                Some((0, does)) => Some(does),
                Some((calls, does)) => {
                    *other = Some((calls - 1, does));
                    None
                }
                None => None,
            }
        };
        if let Some(other) = other {
            other.await;
        }
    }

    pub(super) fn dead<T>() -> backend::Result<T> {
        Err(backend::Error::new(ErrorKind::Unavailable, Op::Record, &Path::root(), "the controller is dead"))
    }

    pub(super) async fn pause(&self) {
        // xorshift
        let next = |x: u64| {
            let x = x ^ (x << 13);
            let x = x ^ (x >> 7);
            x ^ (x << 17)
        };
        let before = self.seed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(next(x))).unwrap();
        for _ in 0..(before >> 20) % 7 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn call<T>(&self, call: impl Future<Output = backend::Result<T>>) -> backend::Result<T> {
        self.disturb().await;
        self.pause().await;
        let left = self.lives.fetch_sub(1, Ordering::SeqCst);
        if left < 0 || (left == 0 && matches!(self.end, End::Before)) {
            return View::dead();
        }
        let result = call.await;
        self.pause().await;
        if left == 0 { View::dead() } else { result }
    }
}

#[async_trait]
impl Records for View {
    async fn excludes(&self) -> backend::Result<bool> {
        self.call(self.store.excludes()).await
    }

    async fn create(&self, at: &Path, body: Bytes) -> backend::Result<Tag> {
        self.call(self.store.create(at, body)).await
    }

    async fn get(&self, at: &Path) -> backend::Result<(Bytes, Tag)> {
        self.call(self.store.get(at)).await
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> backend::Result<Tag> {
        self.call(self.store.replace(at, tag, body)).await
    }

    async fn remove(&self, at: &Path) -> backend::Result<()> {
        self.call(self.store.remove(at)).await
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, backend::Result<Path>> {
        if self.lives.load(Ordering::SeqCst) < 0 {
            return futures::stream::iter([View::dead()]).boxed();
        }
        self.store.list(dir, after)
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> backend::Result<Measured> {
        self.call(self.store.measure(dir, from)).await
    }

    async fn is_vacant(&self, path: &Path) -> backend::Result<bool> {
        self.call(self.store.is_vacant(path)).await
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> backend::Result<bool> {
        self.call(self.store.set_quota(at, bytes)).await
    }

    async fn remove_page(&self, dir: &Path, extent: Extent) -> backend::Result<Removed> {
        self.call(self.store.remove_page(dir, extent)).await
    }
}

#[async_trait]
impl Snapshots for View {
    async fn permitted(&self) -> backend::Result<bool> {
        self.call(self.store.permitted()).await
    }

    async fn take(&self, dir: &Path, name: &str) -> backend::Result<()> {
        self.call(self.store.take(dir, name)).await
    }

    async fn discard(&self, dir: &Path, name: &str) -> backend::Result<()> {
        self.call(self.store.discard(dir, name)).await
    }

    async fn names(&self, dir: &Path) -> backend::Result<Vec<String>> {
        self.call(self.store.names(dir)).await
    }

    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, backend::Result<u64>> {
        match self.lives.fetch_sub(1, Ordering::SeqCst) {
            0.. => self.store.restore(dir, name, to),
            _ => futures::stream::iter([View::dead()]).boxed(),
        }
    }
}
