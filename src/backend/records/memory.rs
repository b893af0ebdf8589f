//! Records in memory, for tests of what stands above: one flat map of keys, as S3 has. With quotas and snapshots, which S3
//! has not.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{Extent, Measured, Records, Removed, Tag, own_directory, removable};
use crate::backend::snapshots::Snapshots;
use crate::backend::{Error, ErrorKind, Op, Path, Result};

/// Keys, their content and the number of the write that made it.
#[derive(Debug, Default)]
pub(crate) struct MemoryRecords {
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    keys: BTreeMap<Path, (Bytes, u64)>,
    writes: u64,
    /// Where the store keeps any.
    quotas: Option<BTreeMap<Path, u64>>,
    /// What lay below a directory, by paths from there, when the snapshot of that name was taken.
    snapshots: BTreeMap<(Path, String), BTreeMap<Vec<u8>, Bytes>>,
}

impl Store {
    fn put(&mut self, at: &Path, body: Bytes) -> Tag {
        self.writes += 1;
        self.keys.insert(at.clone(), (body, self.writes));
        Tag(self.writes.to_string())
    }

    fn below(&self, dir: &Path) -> Vec<Path> {
        self.keys.keys().filter(|key| *key != dir && key.starts_with(dir)).cloned().collect()
    }
}

impl MemoryRecords {
    /// Puts a key there, as a user with another tool would.
    pub(crate) fn put(&self, key: &str) {
        self.store.lock().unwrap().put(&Path::parse(key).unwrap(), Bytes::from_static(b"data"));
    }

    /// Has it keep quotas, or let nobody set them any more.
    pub(crate) fn keep_quotas(&self, keep: bool) {
        self.store.lock().unwrap().quotas = keep.then(BTreeMap::new);
    }

    /// The quota of a directory.
    pub(crate) fn quota(&self, dir: &str) -> Option<u64> {
        self.store.lock().unwrap().quotas.as_ref()?.get(&Path::parse(dir).unwrap()).copied()
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.store.lock().unwrap().keys.keys().map(Path::to_string).collect()
    }
}

fn fail<T>(kind: ErrorKind, at: &Path) -> Result<T> {
    Err(Error::new(kind, Op::Record, at, format!("{kind:?}")))
}

#[async_trait]
impl Records for MemoryRecords {
    async fn excludes(&self) -> Result<bool> {
        Ok(true)
    }

    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag> {
        let mut store = self.store.lock().unwrap();
        if store.keys.contains_key(at) {
            return fail(ErrorKind::AlreadyExists, at);
        }
        Ok(store.put(at, body))
    }

    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)> {
        match self.store.lock().unwrap().keys.get(at) {
            Some((body, write)) => Ok((body.clone(), Tag(write.to_string()))),
            None => fail(ErrorKind::NotFound, at),
        }
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag> {
        let mut store = self.store.lock().unwrap();
        match store.keys.get(at) {
            Some((_, write)) if write.to_string() == tag.0 => Ok(store.put(at, body)),
            _ => fail(ErrorKind::Stale, at),
        }
    }

    async fn remove(&self, at: &Path) -> Result<()> {
        self.store.lock().unwrap().keys.remove(at);
        Ok(())
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>> {
        let mut found = self.store.lock().unwrap().below(dir);
        found.retain(|at| after.is_none_or(|after| at.as_bytes() > after.as_bytes()));
        found.sort_by(|one, two| one.as_bytes().cmp(two.as_bytes()));
        stream::iter(found.into_iter().map(Ok)).boxed()
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured> {
        const PAGE: usize = 1000;
        let store = self.store.lock().unwrap();
        let own = own_directory(dir);
        let all: Vec<_> = store.below(dir).into_iter().filter(|at| !at.starts_with(&own)).collect();
        let begin: usize = from.map_or(0, |from| from.parse().unwrap());
        let bytes = all.iter().skip(begin).take(PAGE).map(|at| store.keys[at].0.len() as u64).sum();
        Ok(Measured { bytes, next: (all.len() > begin + PAGE).then(|| (begin + PAGE).to_string()) })
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool> {
        let store = self.store.lock().unwrap();
        Ok(!store.keys.contains_key(path) && store.below(path).is_empty())
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> Result<bool> {
        let mut store = self.store.lock().unwrap();
        Ok(store.quotas.as_mut().map(|quotas| quotas.insert(at.clone(), bytes)).is_some())
    }

    async fn remove_page(&self, dir: &Path, _extent: Extent) -> Result<Removed> {
        removable(dir)?;
        let mut store = self.store.lock().unwrap();
        let mut page = store.below(dir);
        let done = page.len() <= 1000;
        page.truncate(1000);
        for key in &page {
            store.keys.remove(key);
        }
        Ok(Removed { count: page.len() as u64, done })
    }
}

#[async_trait]
impl Snapshots for MemoryRecords {
    async fn permitted(&self) -> Result<bool> {
        Ok(true)
    }

    async fn take(&self, dir: &Path, name: &str) -> Result<()> {
        let mut store = self.store.lock().unwrap();
        let inside = |key: &Path| key.as_bytes()[dir.as_bytes().len() + 1..].to_vec();
        let taken = store.below(dir).into_iter().map(|key| (inside(&key), store.keys[&key].0.clone())).collect();
        store.snapshots.entry((dir.clone(), name.to_owned())).or_insert(taken);
        Ok(())
    }

    async fn discard(&self, dir: &Path, name: &str) -> Result<()> {
        self.store.lock().unwrap().snapshots.remove(&(dir.clone(), name.to_owned()));
        Ok(())
    }

    async fn names(&self, dir: &Path) -> Result<Vec<String>> {
        let store = self.store.lock().unwrap();
        Ok(store.snapshots.keys().filter(|(of, _)| of == dir).map(|(_, name)| name.clone()).collect())
    }

    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, Result<u64>> {
        let mut store = self.store.lock().unwrap();
        let Some(taken) = store.snapshots.get(&(dir.clone(), name.to_owned())).cloned() else {
            return stream::iter([fail(ErrorKind::NotFound, dir)]).boxed();
        };
        let mut copied = Vec::new();
        for (key, body) in taken {
            let key = String::from_utf8(key).unwrap();
            let at = Path::parse(&format!("{to}/{key}")).unwrap();
            if !key.starts_with(".millrace/") {
                copied.push(Ok(body.len() as u64));
                store.put(&at, body);
            }
        }
        stream::iter(copied).boxed()
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let store = MemoryRecords::default();
    super::contract::records(&store, &super::contract::Same(&store)).await;
}
