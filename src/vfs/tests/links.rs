//! Files with several names, over a store that changes files in place: whatever the order of calls, what is shown follows
//! from a small model.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;

const NAMES: &[&str] = &["a", "b", "c", "d/a", "d/b"];

#[derive(Debug, Clone)]
enum Call {
    Create(usize, Vec<u8>),
    Link(usize, usize),
    Unlink(usize),
    Rename(usize, usize, bool),
    Open(usize, bool),
    Write(usize, u64, Vec<u8>),
    Cut(usize, u64),
    Close(usize),
    /// By another client.
    TheirLink(usize, usize),
    TheirUnlink(usize),
    /// The kernel forgets what it looked up.
    Forget,
}

fn calls() -> impl Strategy<Value = Call> {
    let name = 0..NAMES.len();
    let data = proptest::collection::vec(any::<u8>(), 1..5);
    prop_oneof![
        2 => (name.clone(), data.clone()).prop_map(|(name, data)| Call::Create(name, data)),
        4 => (name.clone(), name.clone()).prop_map(|(from, to)| Call::Link(from, to)),
        3 => name.clone().prop_map(Call::Unlink),
        3 => (name.clone(), name.clone(), any::<bool>()).prop_map(|(from, to, keep)| Call::Rename(from, to, keep)),
        3 => (name.clone(), any::<bool>()).prop_map(|(name, write)| Call::Open(name, write)),
        3 => (0..4usize, 0..20_u64, data).prop_map(|(open, at, data)| Call::Write(open, at, data)),
        1 => (name.clone(), 0..20_u64).prop_map(|(name, size)| Call::Cut(name, size)),
        2 => (0..4usize).prop_map(Call::Close),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Call::TheirLink(from, to)),
        1 => name.prop_map(Call::TheirUnlink),
        1 => Just(Call::Forget),
    ]
}

struct Open {
    handle: Handle,
    file: usize,
    writes: bool,
}

/// What should be shown.
#[derive(Default)]
struct Model {
    names: BTreeMap<&'static str, usize>,
    files: Vec<Vec<u8>>,
    open: Vec<Open>,
}

impl Model {
    fn links(&self, file: usize) -> usize {
        self.names.values().filter(|other| **other == file).count()
    }
}

struct Volume {
    memory: Memory,
    vfs: Vfs,
    dir: Ino,
    /// What the kernel knows, and will give back.
    looked_up: Vec<Ino>,
}

impl Volume {
    async fn new() -> Volume {
        let memory = Memory::in_place();
        let vfs = over(Arc::new(memory.clone()), Config::default());
        let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
        Volume { memory, vfs, dir, looked_up: Vec::new() }
    }

    fn at(&self, name: &'static str) -> (Ino, &'static [u8]) {
        match name.strip_prefix("d/") {
            Some(inside) => (self.dir, inside.as_bytes()),
            None => (Ino::ROOT, name.as_bytes()),
        }
    }

    async fn lookup(&mut self, name: &'static str) -> Result<Attr> {
        let (parent, last) = self.at(name);
        let found = self.vfs.lookup(parent, last).await;
        self.looked_up.extend(found.iter().map(|attr| attr.ino));
        found
    }

    fn forget(&mut self) {
        self.looked_up.drain(..).for_each(|ino| self.vfs.forget(ino, 1));
    }

    async fn apply(&mut self, model: &mut Model, call: Call) {
        match call {
            Call::Create(name, data) => {
                let (name, how) = (NAMES[name], OpenOptions { exclusive: true, ..NEW });
                let (parent, last) = self.at(name);
                let made = self.vfs.create(parent, last, how).await;
                if model.names.contains_key(name) {
                    return assert_eq!(made.err(), Some(Error::Exists));
                }
                let (attr, opened) = made.unwrap();
                self.looked_up.push(attr.ino);
                self.vfs.write(opened.handle, 0, data.clone().into(), Some(ME)).await.unwrap();
                self.vfs.release(opened.handle).await.unwrap();
                model.names.insert(name, model.files.len());
                model.files.push(data);
            }
            Call::Link(from, to) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                let Ok(attr) = self.lookup(from).await else { return };
                let (parent, last) = self.at(to);
                let linked = self.vfs.link(attr.ino, parent, last).await;
                if model.names.contains_key(to) {
                    return assert_eq!(linked.err(), Some(Error::Exists));
                }
                let linked = linked.unwrap();
                self.looked_up.push(linked.ino);
                assert_eq!(linked.ino, attr.ino);
                model.names.insert(to, model.names[from]);
            }
            Call::Unlink(name) => {
                let name = NAMES[name];
                let _ = self.lookup(name).await;
                let (parent, last) = self.at(name);
                let expected = model.names.remove(name).map(drop).ok_or(Error::NotFound);
                assert_eq!(self.vfs.unlink(parent, last).await, expected);
            }
            Call::Rename(from, to, keep) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                if from == to {
                    return;
                }
                for name in [from, to] {
                    let _ = self.lookup(name).await;
                }
                let renamed = self.vfs.rename(self.at(from), self.at(to), keep).await;
                let Some(file) = model.names.get(from).copied() else {
                    return assert_eq!(renamed, Err(Error::NotFound));
                };
                match model.names.get(to) {
                    Some(_) if keep => assert_eq!(renamed, Err(Error::Exists)),
                    Some(there) if *there == file => renamed.unwrap(),
                    _ => {
                        renamed.unwrap();
                        model.names.remove(from);
                        model.names.insert(to, file);
                    }
                }
            }
            Call::Open(name, writes) => {
                let name = NAMES[name];
                let Ok(attr) = self.lookup(name).await else { return };
                let opened = self.vfs.open(attr.ino, if writes { WRITE } else { READ }).await.unwrap();
                model.open.push(Open { handle: opened.handle, file: model.names[name], writes });
            }
            Call::Write(open, at, data) => {
                let Some(open) = model.open.get(open).filter(|open| open.writes) else { return };
                let content = &mut model.files[open.file];
                let (begin, end) = (at as usize, at as usize + data.len());
                content.resize(content.len().max(end), 0);
                content[begin..end].copy_from_slice(&data);
                self.vfs.write(open.handle, at, data.into(), Some(ME)).await.unwrap();
            }
            Call::Cut(name, size) => {
                let name = NAMES[name];
                let Ok(attr) = self.lookup(name).await else { return };
                let set = SetAttributes { size: Some(size), ..SetAttributes::default() };
                assert_eq!(self.vfs.setattr(attr.ino, None, set).await.unwrap().size, size);
                model.files[model.names[name]].resize(size as usize, 0);
            }
            Call::Close(open) => {
                if open < model.open.len() {
                    self.vfs.release(model.open.remove(open).handle).await.unwrap();
                }
            }
            Call::TheirLink(from, to) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                if let (Some(file), false) = (model.names.get(from).copied(), model.names.contains_key(to)) {
                    self.memory.link(&path(from), &path(to)).await.unwrap();
                    model.names.insert(to, file);
                }
            }
            Call::TheirUnlink(name) => {
                let name = NAMES[name];
                let Some(file) = model.names.get(name).copied() else { return };
                // Nobody else keeps a file for who has it open here.
                if model.links(file) > 1 || model.open.iter().all(|open| open.file != file) {
                    self.memory.remove(&path(name), Kind::File).await.unwrap();
                    model.names.remove(name);
                }
            }
            Call::Forget => self.forget(),
        }
    }

    async fn compare(&mut self, model: &Model) {
        let mut shown: HashMap<usize, Ino> = HashMap::new();
        for name in NAMES {
            let found = self.lookup(name).await;
            let Some(file) = model.names.get(name) else {
                assert_eq!(found.err(), Some(Error::NotFound), "{name}");
                continue;
            };
            let attr = found.unwrap();
            assert_eq!(attr.size, model.files[*file].len() as u64, "{name}");
            assert_eq!(attr.nlink as usize, model.links(*file), "{name}");
            assert_eq!(*shown.entry(*file).or_insert(attr.ino), attr.ino, "{name}");
            assert_eq!(self.vfs.getattr_now(attr.ino).await.unwrap(), attr, "{name}");
            assert_eq!(read(&self.vfs, attr.ino).await.unwrap(), model.files[*file], "{name}");
        }
        let mut numbers: Vec<Ino> = shown.values().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), shown.len(), "two files are one");
        for open in &model.open {
            assert_eq!(self.vfs.read(open.handle, 0, 1 << 20).await.unwrap(), model.files[open.file]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn every_name_of_a_file_shows_the_file(calls in proptest::collection::vec(calls(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut volume, mut model) = (Volume::new().await, Model::default());
            for call in calls {
                volume.apply(&mut model, call).await;
                volume.compare(&model).await;
            }
            for open in std::mem::take(&mut model.open) {
                volume.vfs.release(open.handle).await.unwrap();
            }
            volume.compare(&model).await;
            for dir in [Path::root(), path("d")] {
                let there: Vec<_> = volume.memory.list(&dir).try_collect().await.unwrap();
                assert!(!there.iter().any(|entry| entry.name.is_hidden()), "{there:?}");
            }
            volume.forget();
            assert_eq!(volume.vfs.inodes().len(), 2, "the root, and the directory");
        });
    }
}
