//! Whatever the order of calls, this mount's view and the store's content follow from the rules of a small model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{ME, NEW, OTHER, names, path, read, stored, volume_with};
use super::*;
use crate::backend::memory::Memory;

#[derive(Debug, Clone)]
enum Call {
    Create(usize, bool),
    Truncate(usize),
    Write(usize, Vec<u8>),
    Flush(usize, bool),
    Sync(usize),
    Close(usize),
    Unlink(usize),
    Rename(usize, usize, bool),
    MakeDir(usize),
    RemoveDir(usize),
    Others(usize, Vec<u8>),
}

const NAMES: &[&str] = &["a", "b", "d", "d/a", "d/b", "e", "e/a", "e/b"];

fn calls() -> impl Strategy<Value = Call> {
    let name = 0..NAMES.len();
    let data = proptest::collection::vec(any::<u8>(), 0..5);
    prop_oneof![
        3 => (name.clone(), any::<bool>()).prop_map(|(name, exclusive)| Call::Create(name, exclusive)),
        1 => name.clone().prop_map(Call::Truncate),
        4 => (0..4usize, data.clone()).prop_map(|(file, data)| Call::Write(file, data)),
        2 => (0..4usize, any::<bool>()).prop_map(|(file, mine)| Call::Flush(file, mine)),
        1 => (0..4usize).prop_map(Call::Sync),
        2 => (0..4usize).prop_map(Call::Close),
        2 => name.clone().prop_map(Call::Unlink),
        3 => (name.clone(), name.clone(), any::<bool>()).prop_map(|(from, to, keep)| Call::Rename(from, to, keep)),
        2 => name.clone().prop_map(Call::MakeDir),
        1 => name.clone().prop_map(Call::RemoveDir),
        1 => (name, data).prop_map(|(name, data)| Call::Others(name, data)),
    ]
}

/// What lies in the store: a number for each version, and its content.
type Files = BTreeMap<String, (u64, Vec<u8>)>;

#[derive(Debug, Clone)]
struct Writing {
    handle: Handle,
    ino: Ino,
    /// `None` once it was unlinked.
    name: Option<String>,
    content: Vec<u8>,
    /// The version that a publish replaces.
    base: Option<u64>,
    /// Whether `base` is this file's own and not another's beneath it.
    own: bool,
    dirty: bool,
    wrote: bool,
    broken: bool,
}

#[derive(Debug, Default)]
struct Model {
    last: u64,
    files: Files,
    dirs: BTreeSet<String>,
    open: Vec<Writing>,
}

impl Model {
    fn store(&mut self, name: &str, content: Vec<u8>) -> u64 {
        self.last += 1;
        self.files.insert(name.into(), (self.last, content));
        self.last
    }

    fn written(&self, name: &str) -> Option<usize> {
        self.open.iter().position(|file| file.name.as_deref() == Some(name))
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        if self.written(name).is_some() || self.files.contains_key(name) {
            return Some(Kind::File);
        }
        self.dirs.contains(name).then_some(Kind::Directory)
    }

    fn is_empty(&self, dir: &str) -> bool {
        let inside = |name: &String| name.starts_with(&format!("{dir}/"));
        !self.files.keys().chain(&self.dirs).any(inside)
            && !self.open.iter().filter_map(|file| file.name.as_ref()).any(inside)
    }

    fn publish(&mut self, index: usize) -> Result<()> {
        let file = self.open[index].clone();
        let Some(name) = &file.name else { return Ok(()) };
        if file.broken || self.files.get(name).map(|(version, _)| *version) != file.base {
            self.open[index].broken = true;
            return Err(Error::Stale);
        }
        let version = self.store(name, file.content);
        let file = &mut self.open[index];
        (file.base, file.own, file.dirty, file.wrote) = (Some(version), true, false, false);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, keep: bool) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let kind = self.kind(from).ok_or(Error::NotFound)?;
        if to.starts_with(&format!("{from}/")) {
            return Err(Error::Invalid);
        }
        let writing = self.written(from);
        if kind == Kind::File && keep && self.written(to).is_some() {
            return Err(Error::Exists);
        }
        // What is in the store is moved, if it is what this mount believes it to be.
        if let Some(file) = writing.map(|index| &self.open[index]).filter(|file| file.own) {
            match self.files.get(from) {
                None => return Err(Error::NotFound),
                Some((version, _)) if Some(*version) != file.base => return Err(Error::Stale),
                Some(_) => {}
            }
        }
        match (kind, self.kind(to)) {
            (_, Some(_)) if keep => return Err(Error::Exists),
            (Kind::File, Some(Kind::Directory)) => return Err(Error::IsADirectory),
            (Kind::Directory, Some(Kind::File)) => return Err(Error::NotADirectory),
            (Kind::Directory, Some(Kind::Directory)) if !self.is_empty(to) => return Err(Error::NotEmpty),
            _ => {}
        }
        if kind == Kind::Directory {
            let moved = |name: &str| {
                name.strip_prefix(from).filter(|rest| rest.starts_with('/')).map(|rest| format!("{to}{rest}"))
            };
            let dirs = std::mem::take(&mut self.dirs);
            self.dirs = dirs.into_iter().map(|name| moved(&name).unwrap_or(name)).collect();
            self.dirs.remove(from);
            self.dirs.insert(to.into());
            let files = std::mem::take(&mut self.files);
            self.files = files.into_iter().map(|(name, file)| (moved(&name).unwrap_or(name), file)).collect();
            for file in &mut self.open {
                if let Some(new) = file.name.as_deref().and_then(moved) {
                    file.name = Some(new);
                }
            }
            return Ok(());
        }
        if let Some(index) = writing.filter(|index| !self.open[*index].own) {
            self.bury(to);
            self.open[index].base = self.files.get(to).map(|(version, _)| *version);
            self.open[index].name = Some(to.into());
            return Ok(());
        }
        let Some(file) = self.files.remove(from) else { return Err(Error::NotFound) };
        self.bury(to);
        self.files.insert(to.into(), file);
        if let Some(index) = writing {
            self.open[index].name = Some(to.into());
        }
        Ok(())
    }

    /// What was being written under `name` is never published.
    fn bury(&mut self, name: &str) {
        if let Some(index) = self.written(name) {
            self.open[index].name = None;
        }
    }
}

/// Finds `name` as the kernel would, and forgets all but the last part on the way.
async fn find(vfs: &Vfs, name: &str) -> Result<(Ino, String)> {
    match name.split_once('/') {
        None => Ok((Ino::ROOT, name.into())),
        Some((dir, rest)) => {
            let attr = vfs.lookup(Ino::ROOT, dir.as_bytes()).await?;
            if attr.kind == Kind::File {
                return Err(Error::NotADirectory);
            }
            Ok((attr.ino, rest.into()))
        }
    }
}

async fn apply(vfs: &Vfs, store: &Memory, model: &mut Model, call: &Call) {
    match call {
        Call::Create(name, exclusive) => {
            let name = NAMES[*name];
            if model.written(name).is_some() {
                return;
            }
            let Ok((dir, last)) = find(vfs, name).await else { return };
            let made = vfs.create(dir, last.as_bytes(), OpenOptions { exclusive: *exclusive, ..NEW }).await;
            match (model.kind(name), *exclusive) {
                (Some(_), true) => assert_eq!(made.err(), Some(Error::Exists)),
                (Some(Kind::Directory), false) => assert_eq!(made.err(), Some(Error::IsADirectory)),
                (Some(Kind::File | Kind::Symlink) | None, _) => {
                    let (attr, opened) = made.unwrap();
                    let base = model.files.get(name).map(|(version, _)| *version);
                    model.open.push(Writing {
                        handle: opened.handle,
                        ino: attr.ino,
                        name: Some(name.into()),
                        content: Vec::new(),
                        base,
                        own: base.is_some(),
                        dirty: true,
                        wrote: false,
                        broken: false,
                    });
                }
            }
        }
        Call::Truncate(name) => {
            let name = NAMES[*name];
            if model.written(name).is_some() || model.kind(name) != Some(Kind::File) {
                return;
            }
            let (dir, last) = find(vfs, name).await.unwrap();
            let ino = vfs.lookup(dir, last.as_bytes()).await.unwrap().ino;
            let attr =
                vfs.setattr(ino, None, SetAttributes { size: Some(0), ..SetAttributes::default() }).await.unwrap();
            assert_eq!(attr.size, 0);
            model.store(name, Vec::new());
        }
        Call::Write(file, data) => {
            let Some(file) = model.open.get_mut(*file) else { return };
            let at = file.content.len() as u64;
            let wrote = vfs.write(file.handle, at, Bytes::copy_from_slice(data), Some(ME)).await;
            if file.broken {
                assert_eq!(wrote, Err(Error::Stale));
                return;
            }
            assert_eq!(wrote, Ok(data.len() as u32));
            assert_eq!(
                vfs.write(file.handle, at + 100, Bytes::from_static(b"x"), Some(ME)).await,
                Err(Error::Unsupported)
            );
            file.content.extend_from_slice(data);
            (file.dirty, file.wrote) = (true, true);
        }
        Call::Flush(file, mine) => {
            let Some(open) = model.open.get(*file).cloned() else { return };
            let flushed = vfs.flush(open.handle, &[if *mine { ME } else { OTHER }]).await;
            let expected = if *mine && open.wrote { model.publish(*file) } else { Ok(()) };
            assert_eq!(flushed, expected);
        }
        Call::Sync(file) => {
            let Some(open) = model.open.get(*file).cloned() else { return };
            let synced = vfs.fsync(open.handle).await;
            let expected = if open.dirty || open.broken { model.publish(*file) } else { Ok(()) };
            assert_eq!(synced, expected);
        }
        Call::Close(file) => {
            let Some(open) = model.open.get(*file).cloned() else { return };
            let released = vfs.release(open.handle).await;
            let expected = if open.dirty && !open.broken { model.publish(*file) } else { Ok(()) };
            assert_eq!(released, expected);
            vfs.forget(open.ino, 1);
            model.open.remove(*file);
        }
        Call::Unlink(name) => {
            let name = NAMES[*name];
            let Ok((dir, last)) = find(vfs, name).await else { return };
            let known = vfs.lookup(dir, last.as_bytes()).await;
            let unlinked = vfs.unlink(dir, last.as_bytes()).await;
            known.iter().for_each(|attr| vfs.forget(attr.ino, 1));
            match model.kind(name) {
                None => assert_eq!(unlinked, Err(Error::NotFound)),
                Some(Kind::Directory) => assert_eq!(unlinked, Err(Error::IsADirectory)),
                Some(Kind::File | Kind::Symlink) => {
                    unlinked.unwrap();
                    match model.written(name) {
                        // What another client put where this file was never published is not seen here.
                        Some(index) if model.open[index].base.is_none() => {}
                        _ => drop(model.files.remove(name)),
                    }
                    model.bury(name);
                }
            }
        }
        Call::Rename(from, to, keep) => {
            let (from, to) = (NAMES[*from], NAMES[*to]);
            let (Ok(old), Ok(new)) = (find(vfs, from).await, find(vfs, to).await) else { return };
            let known = [vfs.lookup(old.0, old.1.as_bytes()).await, vfs.lookup(new.0, new.1.as_bytes()).await];
            let renamed = vfs.rename((old.0, old.1.as_bytes()), (new.0, new.1.as_bytes()), *keep).await;
            known.iter().flatten().for_each(|attr| vfs.forget(attr.ino, 1));
            assert_eq!(renamed, model.rename(from, to, *keep), "{from} -> {to}");
        }
        Call::MakeDir(name) => {
            let name = NAMES[*name];
            let Ok((dir, last)) = find(vfs, name).await else { return };
            let made = vfs.mkdir(dir, last.as_bytes()).await;
            match model.kind(name) {
                Some(_) => assert_eq!(made.err(), Some(Error::Exists)),
                None => {
                    assert_eq!(made.unwrap().kind, Kind::Directory);
                    model.dirs.insert(name.into());
                }
            }
        }
        Call::RemoveDir(name) => {
            let name = NAMES[*name];
            let Ok((dir, last)) = find(vfs, name).await else { return };
            let removed = vfs.rmdir(dir, last.as_bytes()).await;
            match model.kind(name) {
                None => assert_eq!(removed, Err(Error::NotFound)),
                Some(Kind::File | Kind::Symlink) => assert_eq!(removed, Err(Error::NotADirectory)),
                Some(Kind::Directory) if !model.is_empty(name) => assert_eq!(removed, Err(Error::NotEmpty)),
                Some(Kind::Directory) => {
                    removed.unwrap();
                    model.dirs.remove(name);
                }
            }
        }
        Call::Others(name, data) => {
            let name = NAMES[*name];
            let parent = name.split_once('/').map(|(parent, _)| parent);
            if model.dirs.contains(name) || parent.is_some_and(|parent| !model.dirs.contains(parent)) {
                return;
            }
            store.put(&path(name), data.clone());
            model.store(name, data.clone());
        }
    }
}

async fn compare(vfs: &Vfs, store: &Memory, model: &Model) {
    for name in NAMES {
        assert_eq!(stored(store, name).await, model.files.get(*name).map(|(_, content)| content.clone()), "{name}");
        let Ok((dir, last)) = find(vfs, name).await else { continue };
        let found = vfs.lookup(dir, last.as_bytes()).await;
        assert_eq!(found.map(|attr| attr.kind).ok(), model.kind(name), "{name}");
        let Ok(attr) = found else { continue };
        if attr.kind == Kind::File {
            let expected = match model.written(name) {
                Some(index) => &model.open[index].content,
                None => &model.files[*name].1,
            };
            assert_eq!(attr.size, expected.len() as u64, "{name}");
            assert_eq!(&read(vfs, attr.ino).await.unwrap(), expected, "{name}");
        }
        vfs.forget(attr.ino, 1);
    }
    for dir in ["", "d", "e"] {
        if !dir.is_empty() && model.kind(dir) != Some(Kind::Directory) {
            continue;
        }
        let ino = match dir {
            "" => Ino::ROOT,
            _ => vfs.lookup(Ino::ROOT, dir.as_bytes()).await.unwrap().ino,
        };
        let inside = |name: &&&str| match name.split_once('/') {
            Some((parent, _)) => parent == dir,
            None => dir.is_empty(),
        };
        let there = NAMES.iter().filter(inside).filter(|name| model.kind(name).is_some());
        let mut expected: Vec<String> = there.map(|name| name.rsplit('/').next().unwrap().to_owned()).collect();
        expected.extend([".".into(), "..".into()]);
        expected.sort();
        assert_eq!(names(vfs, ino).await.unwrap(), expected, "in {dir:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_calls_follows_the_model(calls in proptest::collection::vec(calls(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, vfs) = volume_with(Config { ttl: Duration::ZERO.into(), ..Config::default() });
            let mut model = Model::default();
            for call in &calls {
                apply(&vfs, &store, &mut model, call).await;
                compare(&vfs, &store, &model).await;
            }
        });
    }

    /// What this mount changes is known without another count, and nothing stays taken for what is closed.
    #[test]
    fn use_is_what_a_count_would_find(calls in proptest::collection::vec(calls(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, vfs) = volume_with(Config { ttl: Duration::ZERO.into(), ..Config::default() });
            let mut model = Model::default();
            vfs.count().await.unwrap();
            for call in calls.iter().filter(|call| !matches!(call, Call::Others(..))) {
                apply(&vfs, &store, &mut model, call).await;
            }
            while !model.open.is_empty() {
                apply(&vfs, &store, &mut model, &Call::Close(0)).await;
            }
            let known = vfs.usage();
            let bytes: usize = model.files.values().map(|(_, content)| content.len()).sum();
            assert_eq!(known.bytes, bytes as u64);
            vfs.count().await.unwrap();
            let counted = vfs.usage();
            assert_eq!((known.bytes, known.inodes), (counted.bytes, counted.inodes));
        });
    }
}
