//! Walks over a store's directories: the records below one in the order of their bytes, what files take, whether
//! anything lies there, and the removal of a tree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::HEXLOWER;
use futures::future::{join_all, try_join_all};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::look::{State, Versions, versions};
use super::{Directories, Item, fail};
use crate::backend::records::{Measured, Removed, own_directory};
use crate::backend::{Error, ErrorKind, Kind, Name, Path, Result};

/// Entries of one page of a count or a removal.
const PAGE: usize = 1000;

/// Looks, or removals, that are made at once.
const AT_ONCE: usize = 16;

/// Directories that may lie where nothing lies.
const MOST_EMPTY: usize = 1000;

/// How often in a row others may have removed all that was listed.
const MOST_IDLE: usize = 16;

/// Counts that are gone on with later.
const MOST_WALKS: usize = 16;

fn is_absent(error: &Error) -> bool {
    error.kind == ErrorKind::NotFound
}

/// A search for records, whose next find is the smallest key of its queue.
struct Search<D> {
    store: Arc<D>,
    after: Option<Path>,
    /// By the bytes of a path; those of a directory that is no record have a slash behind them, as its records' have.
    queue: BTreeMap<Vec<u8>, Step>,
}

enum Step {
    /// What it is has not been looked at.
    Unknown(Path),
    Record(Path),
    Directory(Path, Vec<Name>),
}

/// See [`super::Records::list`].
pub(super) fn records<D: Directories>(
    store: Arc<D>,
    dir: &Path,
    after: Option<&Path>,
) -> BoxStream<'static, Result<Path>> {
    let (dir, after) = (dir.clone(), after.cloned());
    let search = async move {
        store.prepare().await?;
        let mut search = Search { store, after, queue: BTreeMap::new() };
        if let Some(found) = versions(&*search.store, &dir).await? {
            search.open(&dir, found.below);
        }
        Ok(stream::try_unfold(search, async |mut search| Ok(search.next().await?.map(|path| (path, search)))))
    };
    stream::once(search).try_flatten().boxed()
}

impl<D: Directories> Search<D> {
    async fn next(&mut self) -> Result<Option<Path>> {
        loop {
            let Some((_, step)) = self.queue.pop_first() else { return Ok(None) };
            match step {
                Step::Record(path) if self.after.as_ref().is_none_or(|after| path.as_bytes() > after.as_bytes()) => {
                    return Ok(Some(path));
                }
                Step::Record(_) => {}
                Step::Directory(path, below) => self.open(&path, below),
                Step::Unknown(path) => self.look(path).await?,
            }
        }
    }

    fn open(&mut self, dir: &Path, below: Vec<Name>) {
        for name in below {
            let path = dir.join(&name);
            // Neither it nor anything below it comes after: '0' follows '/'.
            let end = [path.as_bytes(), b"0"].concat();
            if self.after.as_ref().is_none_or(|after| end.as_slice() > after.as_bytes()) {
                self.queue.insert(path.as_bytes().to_vec(), Step::Unknown(path));
            }
        }
    }

    /// Finds out what `path` is, and what the next ones are with it.
    async fn look(&mut self, path: Path) -> Result<()> {
        let is_unknown = |(_, step): &(&Vec<u8>, &Step)| matches!(step, Step::Unknown(_));
        let next: Vec<Vec<u8>> =
            self.queue.iter().filter(is_unknown).take(AT_ONCE - 1).map(|(key, _)| key.clone()).collect();
        let mut looked_at = vec![path];
        for key in next {
            if let Some(Step::Unknown(path)) = self.queue.remove(&key) {
                looked_at.push(path);
            }
        }
        let found = try_join_all(looked_at.iter().map(|path| versions(&*self.store, path))).await?;
        for (path, found) in looked_at.into_iter().zip(found) {
            let key = path.as_bytes();
            match found {
                Some(found) if found.is_record() && found.state() == State::Present => {
                    self.queue.insert(key.to_vec(), Step::Record(path));
                }
                // Nothing lies below a record that is gone.
                Some(found) => {
                    self.queue.insert([key, b"/"].concat(), Step::Directory(path, found.below));
                }
                None => {}
            }
        }
        Ok(())
    }
}

type Sizes = BoxStream<'static, Result<u64>>;

/// Counts whose next page may be asked for.
#[derive(Default)]
pub(super) struct Walks(Mutex<VecDeque<(String, Sizes)>>);

impl Walks {
    /// See [`super::Records::measure`].
    pub(super) async fn page<D: Directories>(
        &self,
        store: &Arc<D>,
        dir: &Path,
        from: Option<String>,
    ) -> Result<Measured> {
        let mut sizes = match from {
            None => sizes(store.clone(), dir),
            Some(from) => self
                .taken(&from)
                .ok_or_else(|| fail(ErrorKind::Stale, dir, "that count was given up: begin a new one"))?,
        };
        let (mut bytes, mut entries) = (0u64, 0);
        while let Some(size) = sizes.try_next().await? {
            bytes = bytes.saturating_add(size);
            entries += 1;
            if entries == PAGE {
                return Ok(Measured { bytes, next: Some(self.kept(sizes)) });
            }
        }
        Ok(Measured { bytes, next: None })
    }

    fn taken(&self, name: &str) -> Option<Sizes> {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = walks.iter().position(|(known, _)| known == name)?;
        walks.remove(at).map(|(_, sizes)| sizes)
    }

    fn kept(&self, sizes: Sizes) -> String {
        let name = HEXLOWER.encode(&rand::random::<[u8; 8]>());
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        walks.push_back((name.clone(), sizes));
        if walks.len() > MOST_WALKS {
            walks.pop_front();
        }
        name
    }
}

/// The length of each entry below `dir`, the driver's own directory at its top apart.
fn sizes<D: Directories>(store: Arc<D>, dir: &Path) -> Sizes {
    let (own, first) = (own_directory(dir), store.entries(dir));
    let walk = (store, dir.clone(), first, Vec::<Path>::new());
    stream::try_unfold(walk, move |(store, mut dir, mut entries, mut unlisted)| {
        let own = own.clone();
        async move {
            loop {
                match entries.try_next().await {
                    Ok(Some(Item { name, kind: Kind::Directory, .. })) => {
                        unlisted.extend(Some(dir.join(&name)).filter(|path| *path != own));
                        return Ok(Some((0, (store, dir, entries, unlisted))));
                    }
                    Ok(Some(Item { size, kind, .. })) => {
                        let size = if kind == Kind::File { size } else { 0 };
                        return Ok(Some((size, (store, dir, entries, unlisted))));
                    }
                    // It went meanwhile.
                    Err(error) if !is_absent(&error) => return Err(error),
                    Ok(None) | Err(_) => {}
                }
                let Some(next) = unlisted.pop() else { return Ok(None) };
                (entries, dir) = (store.entries(&next), next);
            }
        }
    })
    .boxed()
}

/// See [`super::Records::is_vacant`]: directories that hold nothing are nothing, and so is what a record left behind.
pub(super) async fn is_vacant(store: &dyn Directories, path: &Path) -> Result<bool> {
    let (mut unlisted, mut listed) = (vec![path.clone()], 0);
    while let Some(dir) = unlisted.pop() {
        let Versions { others, ref below, .. } = match versions(store, &dir).await {
            Ok(Some(found)) if found.is_record() && found.state() == State::Present => return Ok(false),
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) if error.kind == ErrorKind::NotADirectory => return Ok(false),
            Err(error) => return Err(error),
        };
        listed += 1;
        if others || listed > MOST_EMPTY {
            return Ok(false);
        }
        unlisted.extend(below.iter().map(|name| dir.join(name)));
    }
    Ok(true)
}

/// See [`super::Records::remove_page`]. Goes down to what is deepest first, and takes each directory when it is empty.
pub(super) async fn remove_page(store: &dyn Directories, dir: &Path) -> Result<Removed> {
    let (mut above, mut count, mut refused, mut idle) = (vec![dir.clone()], 0u64, 0, 0);
    while let Some(at) = above.last().cloned() {
        let listed: Result<Vec<Item>> = store.entries(&at).take(PAGE).try_collect().await;
        let items = match listed {
            // Gone already; or what lies there is no directory, so that nothing is below it.
            Err(error) if is_absent(&error) || error.kind == ErrorKind::NotADirectory => {
                above.pop();
                continue;
            }
            items => items?,
        };
        if items.is_empty() {
            match store.remove(&at, Kind::Directory).await {
                Ok(()) => count += 1,
                Err(error) if is_absent(&error) => {}
                // Somebody wrote there just now.
                Err(error) if error.kind == ErrorKind::NotEmpty && refused < 2 => {
                    refused += 1;
                    continue;
                }
                Err(error) => return removed_so_far(count, error),
            }
            above.pop();
            continue;
        }
        let (dirs, files): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| item.kind == Kind::Directory);
        let before = count;
        for some in files.chunks(AT_ONCE) {
            let removals = some.iter().map(async |item| store.remove(&at.join(&item.name), item.kind).await);
            for outcome in join_all(removals).await {
                match outcome {
                    Ok(()) => count += 1,
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return removed_so_far(count, error),
                }
            }
        }
        if count >= PAGE as u64 {
            return Ok(Removed { count, done: false });
        }
        // Somebody else may remove them just now, but not for ever.
        idle = if files.is_empty() || count > before { 0 } else { idle + 1 };
        if idle > MOST_IDLE {
            return removed_so_far(count, fail(ErrorKind::Unavailable, &at, "what is listed there is not there"));
        }
        above.extend(dirs.into_iter().map(|item| at.join(&item.name)));
    }
    Ok(Removed { count, done: true })
}

/// What failed is tried again with the next page, as long as something goes.
fn removed_so_far(count: u64, error: Error) -> Result<Removed> {
    if count == 0 { Err(error) } else { Ok(Removed { count, done: false }) }
}
