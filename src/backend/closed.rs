//! A store that is closed to somebody: everything that is asked is refused with one answer.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::{
    Backend, CreateOptions, Entry, Error, ErrorKind, Fetched, InPlace, Intent, Kind, Meta, Op, Path, RenameOptions,
    Result, Rights, SetAttributes, Space, Traits, Upload, Version,
};

/// See the module.
#[derive(Debug)]
pub struct Closed {
    traits: Traits,
    kind: ErrorKind,
    why: String,
}

impl Closed {
    /// In the place of a store with these `traits`.
    pub fn new(traits: Traits, kind: ErrorKind, why: impl Into<String>) -> Closed {
        Closed { traits, kind, why: why.into() }
    }

    fn refuse<T>(&self, op: Op, path: &Path) -> Result<T> {
        Err(Error::new(self.kind, op, path, self.why.clone()))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Closed {
    fn traits(&self) -> Traits {
        self.traits
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        self.refuse(Op::Stat, path)
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        stream::iter([self.refuse(Op::List, dir)]).boxed()
    }

    async fn read(&self, file: &Version, _: Range<u64>, _: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.refuse(Op::Read, &file.path)
    }

    async fn fetch(&self, path: &Path, _: u64, _: Option<&Version>) -> Result<Fetched> {
        self.refuse(Op::Fetch, path)
    }

    async fn create(&self, path: &Path, _: CreateOptions) -> Result<Box<dyn Upload>> {
        self.refuse(Op::Write, path)
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        self.refuse(Op::MakeDir, path)
    }

    async fn remove(&self, path: &Path, _: Kind) -> Result<()> {
        self.refuse(Op::Remove, path)
    }

    async fn rename(&self, from: &Path, _: &Path, _: RenameOptions) -> Result<Meta> {
        self.refuse(Op::Rename, from)
    }

    async fn make_file(&self, path: &Path, _: u32) -> Result<Meta> {
        self.refuse(Op::Write, path)
    }

    async fn open_write(&self, file: &Version) -> Result<Arc<dyn InPlace>> {
        self.refuse(Op::Write, &file.path)
    }

    async fn set_attributes(&self, path: &Path, _: &SetAttributes) -> Result<Meta> {
        self.refuse(Op::SetAttributes, path)
    }

    async fn make_symlink(&self, path: &Path, _: &[u8]) -> Result<Meta> {
        self.refuse(Op::Link, path)
    }

    async fn read_symlink(&self, path: &Path) -> Result<Bytes> {
        self.refuse(Op::Link, path)
    }

    async fn link(&self, from: &Path, _: &Path) -> Result<Meta> {
        self.refuse(Op::Link, from)
    }

    async fn access(&self, path: &Path, _: Rights) -> Result<Rights> {
        self.refuse(Op::Access, path)
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.refuse(Op::Space, &Path::root())
    }
}
