//! The whole of it over files in memory, where the answer to a rename may get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::TryStreamExt;

use super::*;
use crate::backend::memory::Memory;
use crate::backend::{InPlace, RenameOptions};

#[derive(Debug, Clone)]
struct Store {
    memory: Memory,
    journal: Journal,
    /// The next file that is placed takes its name, and nobody is told.
    loses: Arc<AtomicBool>,
}

#[derive(Debug)]
struct File {
    path: Path,
    version: Version,
    writing: Arc<dyn InPlace>,
}

#[async_trait]
impl Beside for Store {
    type File = File;

    fn store(&self) -> &dyn Backend {
        &self.memory
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    async fn check(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    async fn begin(&self, path: &Path) -> Result<File> {
        let version = self.memory.make_file(path, MODE).await?.version().unwrap().clone();
        let writing = self.memory.open_write(&version).await?;
        Ok(File { path: path.clone(), version, writing })
    }

    async fn append(&self, file: &mut File, offset: u64, data: Bytes) -> Result<()> {
        file.writing.write(offset, data).await.map(drop)
    }

    async fn seal(&self, file: &mut File) -> Result<()> {
        file.writing.sync().await.map(drop)
    }

    async fn set(&self, file: &mut File, set: &SetAttributes) -> Result<()> {
        self.memory.set_attributes(&file.path, set).await.map(drop)
    }

    fn which(&self, file: &File) -> Arc<str> {
        file.version.file.clone()
    }

    async fn place(&self, file: &File, to: &Path, replace: bool) -> Result<Meta> {
        let how = RenameOptions { kind: Kind::File, version: None, replace };
        let placed = self.memory.rename(&file.path, to, how).await?;
        self.journal.over(Note::hidden(&file.path, None)).await;
        match self.loses.swap(false, Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, Op::Rename, to, "no answer")),
            false => Ok(placed),
        }
    }

    async fn unlink(&self, path: &Path) -> Result<()> {
        self.memory.remove(path, Kind::File).await
    }
}

impl Store {
    fn new() -> Store {
        Store { memory: Memory::in_place(), journal: Journal::default(), loses: Arc::default() }
    }

    async fn create(&self, base: Base) -> Uploading<Store> {
        create(self.clone(), &at("file"), CreateOptions { base }).await.unwrap()
    }

    async fn content(&self, version: &Version) -> Vec<u8> {
        let body = self.memory.read(version, 0..version.size, Intent::Demand).await.unwrap();
        let pieces: Vec<Bytes> = body.try_collect().await.unwrap();
        pieces.concat()
    }

    async fn names(&self) -> Vec<String> {
        self.memory.list(&Path::root()).map_ok(|entry| entry.name.to_string()).try_collect().await.unwrap()
    }
}

fn at(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn mode(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), ..Attributes::default() }
}

#[tokio::test]
async fn a_publish_whose_answer_was_lost_is_made_again() {
    for replaces in [false, true] {
        for last_wins in [false, true] {
            let store = Store::new();
            let there = replaces.then(|| store.memory.put(&at("file"), "old"));
            let base = match there {
                _ if last_wins => Base::Any,
                Some(there) => Base::Version(there),
                None => Base::Absent,
            };
            let mut upload = store.create(base).await;
            upload.write("new".into()).await.unwrap();
            store.loses.store(true, Ordering::SeqCst);
            let error = upload.publish(&mode(0o640)).await.unwrap_err();
            assert_eq!((error.kind, error.op, &error.path), (ErrorKind::Unavailable, Op::Publish, &at("file")));

            let meta = upload.publish(&mode(0o600)).await.unwrap();
            assert_eq!(store.content(meta.version().unwrap()).await, b"new");
            assert_eq!((meta.permissions.unwrap().mode, store.names().await), (0o600, vec!["file".to_owned()]));

            upload.write(", and more".into()).await.unwrap();
            let meta = upload.publish(&Attributes::default()).await.unwrap();
            assert_eq!(store.content(meta.version().unwrap()).await, b"new, and more");
            assert_eq!((meta.permissions.unwrap().mode, store.names().await), (0o600, vec!["file".to_owned()]));
        }
    }
}

#[tokio::test]
async fn another_writers_file_is_never_taken_for_the_one_that_was_lost() {
    for base in [Base::Absent, Base::Version(Store::new().memory.put(&at("file"), "of another tree"))] {
        let store = Store::new();
        let mut upload = store.create(base).await;
        upload.write("mine".into()).await.unwrap();
        store.memory.put(&at("file"), "theirs");
        let theirs = store.memory.put(&at("file"), "theirs, the second");
        assert_eq!(upload.publish(&Attributes::default()).await.unwrap_err().kind, ErrorKind::Stale);
        assert_eq!(store.content(&theirs).await, b"theirs, the second");
        Box::new(upload).abort().await;
        assert_eq!(store.names().await, ["file"]);
    }
}

#[tokio::test]
async fn what_lies_under_a_hidden_name_is_noted_until_it_does_no_more() {
    for lost in [false, true] {
        let (store, kept) = (Store::new(), tempfile::tempfile().unwrap());
        store.journal.keep_in(kept.try_clone().unwrap(), Vec::new()).unwrap();
        let noted = || {
            let journal = Journal::default();
            journal.keep_in(kept.try_clone().unwrap(), Vec::new()).unwrap();
            journal.left()
        };
        let mut upload = store.create(Base::Absent).await;
        upload.write(vec![7; GATHER].into()).await.unwrap();
        let (name, file) = {
            let temporary = upload.temporary.as_ref().unwrap();
            (temporary.path.clone(), temporary.file.version.file.clone())
        };
        assert_eq!(noted(), [Note::Hidden { path: name, file: Some(file) }]);
        store.loses.store(lost, Ordering::SeqCst);
        let published = upload.publish(&Attributes::default()).await;
        assert_eq!(published.is_err(), lost);
        if lost {
            upload.publish(&Attributes::default()).await.unwrap();
        }
        assert_eq!((noted(), store.names().await), (vec![], vec!["file".to_owned()]));

        upload.write(vec![8; GATHER].into()).await.unwrap();
        assert_eq!(noted().len(), 1);
        Box::new(upload).abort().await;
        assert_eq!((noted(), store.names().await), (vec![], vec!["file".to_owned()]));
    }
}

#[tokio::test]
async fn what_nobody_can_be_writing_any_more_is_swept() {
    let store = Store::new();
    let old = Name::new(b".millrace.tmp-5f5e1000-x").unwrap();
    let names = [old, Name::hidden(), Name::new(b"users").unwrap()];
    for name in &names {
        store.memory.put(&Path::root().join(name), "");
    }
    sweep(&store, &Path::root(), names.clone());
    while store.names().await.len() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.names().await, [names[1].to_string(), names[2].to_string()]);
}
