//! Opening files and reading them.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::handles::{Handle, Open};
use super::inodes::Ino;
use super::reign::Held;
use super::write::Gate;
use super::{Error, Invalidation, Result, Vfs, control};
use crate::backend::{self, ErrorKind, Intent, Path, Version};
use crate::prefetch::{Ahead, Data, FileReader};

/// How often a read begins anew because its file was changed in place meanwhile.
const PINNED: usize = 3;

/// The kernel keeps file content in pages of this many bytes.
const PAGE: u64 = 4096;

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The handle may write.
    pub write: bool,
    /// The file becomes empty.
    pub truncate: bool,
    /// Only a file that this call makes will do.
    pub exclusive: bool,
}

/// What the kernel may keep of a file opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// None; every read and write comes here. A shared writable mapping is refused.
    None,
    /// Those it has, and those it reads.
    Keep,
    /// Those it reads; what it has may be of another version.
    Drop,
}

/// An opened file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub handle: Handle,
    /// What the kernel may keep.
    pub pages: Pages,
    /// The file of the node that the kernel reads instead of asking here (a FUSE backing id).
    pub backing: Option<u32>,
}

/// What was read, while it may be told: nobody else comes to be in force before this is dropped. Not to be kept.
#[derive(Debug)]
pub struct Answer {
    /// The bytes.
    pub data: Data,
    _held: Held,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    Handle(Handle),
    /// A file that the kernel opened without asking.
    Unopened(Ino),
}

enum Source {
    Written(Gate),
    /// With how far the file had been fetched ahead, where this is the first to read it.
    Stored(Version, Arc<FileReader>, Option<Ahead>),
}

impl Vfs {
    /// Opens a file.
    ///
    /// # Errors
    /// `Stale` where another version lies there now (the kernel looks up anew), `Denied` for an object in an archive
    /// class, `ReadOnly`, `IsADirectory`.
    pub async fn open(&self, ino: Ino, how: OpenOptions) -> Result<Opened> {
        let writes = how.write || how.truncate;
        if writes {
            self.writable()?;
        }
        if self.is_control(ino) {
            return if ino == control::FILE { self.open_control(ino) } else { Err(Error::IsADirectory) };
        }
        let (in_place, mut is_news) = (self.in_place(), false);
        {
            // Its name is not removed or given to another file before it counts as open, and so is hidden then.
            let _locked = if in_place { Some(self.lock_file(ino).await?) } else { None };
            if in_place && !self.config.immutable {
                is_news = self.refresh(ino).await?;
            }
            let mut inodes = self.inodes();
            let inode = inodes.get(ino)?;
            if !inode.linked || inode.file()?.unseen() {
                return Err(Error::Stale);
            }
            if !inode.file()?.readable && !how.truncate {
                return Err(Error::Denied);
            }
            inodes.open(ino, writes)?;
        }
        if is_news {
            self.have_forgotten(ino).await;
        }
        if in_place && writes {
            return self.open_in_place(ino, how.truncate).await;
        }
        if how.truncate
            && let Err(error) = self.truncate(ino, None).await
        {
            // Others may have opened it meanwhile; the one that leaves last ends it.
            self.forsake(ino).await;
            return Err(error);
        }
        if writes {
            return Ok(Opened {
                handle: self.handles.insert(Open::Writing { ino }),
                pages: Pages::None,
                backing: None,
            });
        }
        let passed = self.pass(ino).await.inspect_err(|_| drop(self.inodes().close(ino)));
        let (seated, backing) = passed?;
        let pages = {
            let mut inodes = self.inodes();
            let file = inodes.get_mut(ino)?.file_mut()?;
            match (file.written, file.pages_suspect) {
                (Some(_), _) => Pages::None,
                (None, true) => {
                    file.pages_suspect = false;
                    Pages::Drop
                }
                (None, false) => Pages::Keep,
            }
        };
        let handle = self.handles.insert(Open::Reading { ino, cached: pages != Pages::None, seated });
        Ok(Opened { handle, pages, backing })
    }

    /// As [`Vfs::read`], for who tells the kernel.
    ///
    /// # Errors
    /// As [`Vfs::read`].
    pub async fn answer(&self, handle: Handle, offset: u64, size: u32) -> Result<Answer> {
        self.answer_of(Of::Handle(handle), offset, size).await
    }

    pub(super) async fn answer_of(&self, what: Of, offset: u64, size: u32) -> Result<Answer> {
        loop {
            let reign = self.reign.number();
            let outcome = self.read_in_one_reign(what, offset, size).await;
            // Else it is another principal's, failure or not.
            if let Some(held) = self.reign.hold(reign).await {
                return outcome.map(|data| Answer { data, _held: held });
            }
        }
    }

    /// Bytes of a file from `offset` on: `size` of them, or fewer at its end.
    ///
    /// # Errors
    /// `Stale` where the store no longer has this version, `Busy` for written bytes that are no longer in memory,
    /// `Io`, `Denied`.
    pub async fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Bytes> {
        Ok(self.answer(handle, offset, size).await?.data.into_bytes())
    }

    async fn read_in_one_reign(&self, what: Of, offset: u64, size: u32) -> Result<Data> {
        let (ino, cached) = match what {
            Of::Unopened(ino) => (ino, true),
            Of::Handle(handle) => match self.handles.get(handle)? {
                Open::Reading { ino, cached, .. } => (ino, cached),
                Open::Writing { ino } => (ino, false),
                Open::Order(order) => return Ok(self.read_control(&order, offset, size).into()),
                Open::Directory(_) => return Err(Error::BadHandle),
            },
        };
        let wanted = offset..offset.saturating_add(u64::from(size));
        let mut changes = 0;
        loop {
            let source = self.source(ino)?;
            let data = match source {
                Source::Written(gate) => match self.read_written(&gate, wanted.clone(), cached).await? {
                    Some(bytes) => bytes.into(),
                    None => continue,
                },
                Source::Stored(version, reader, found) => {
                    if let Some(found) = found {
                        self.run_ahead(&version.path, found);
                    }
                    let range = wanted.start.min(version.size)..wanted.end.min(version.size);
                    if range.is_empty() {
                        return Ok(Data::default());
                    }
                    let read = match changes < PINNED {
                        true => reader.read(range).await,
                        // It changes faster than it can be read: what it holds now.
                        false => self.read_any(&version, range).await.map(Data::from),
                    };
                    match read {
                        Ok(data) => {
                            if cached {
                                self.passing.read(ino, version.size, data.len() as u64);
                            }
                            self.recent.note(&version.path);
                            data
                        }
                        Err(error) if matches!(error.kind, ErrorKind::Stale | ErrorKind::NotFound) => {
                            if self.lost(ino, &version).await? {
                                return Err(Error::Stale);
                            }
                            changes += 1;
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            return Ok(data);
        }
    }

    /// Bytes of a file, whichever it holds when it is asked.
    async fn read_any(&self, version: &Version, range: Range<u64>) -> backend::Result<Bytes> {
        let mut body = self.backend.read(&version.any_bytes(), range, Intent::Demand).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = body.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    fn source(&self, ino: Ino) -> Result<Source> {
        let mut inodes = self.inodes();
        let file = inodes.get_mut(ino)?.file_mut()?;
        if file.written.is_some() {
            return Ok(Source::Written(file.gate.get_or_insert_default().clone()));
        }
        let version = file.stored.clone().ok_or(Error::Stale)?;
        if let Some(reader) = &file.reader {
            return Ok(Source::Stored(version, reader.clone(), None));
        }
        // What is written over twice within one tick of the store's clock has one version: nobody keeps bytes under it.
        let is_changing = file.in_place.is_some() && self.backend.traits().random_write;
        let wanted = if is_changing { version.any_bytes() } else { version.clone() };
        let (opened, found) = self.read_ahead.open(wanted);
        file.reader = Some(opened.clone());
        Ok(Source::Stored(version, opened, Some(found)))
    }

    /// Somebody began to read the file at `path`: has those fetched that are likely to be read next.
    fn run_ahead(&self, path: &Path, found: Ahead) {
        if self.run_ahead_of_orders(path, found) {
            return;
        }
        let Some(follow) = self.listings.follow(path, self.reign.number(), found, self.believed()) else { return };
        let wasted = self.read_ahead.pass_over(&follow.passed);
        if wasted > 0 {
            follow.pass.wasted(follow.at, wasted);
        }
        for (source, files) in std::iter::once((follow.source, follow.ahead)).chain(follow.beyond) {
            if !files.is_empty() {
                self.read_ahead.want(source, files);
            }
        }
    }

    /// Written bytes that are still in memory; `None` where the file is no longer being written.
    async fn read_written(&self, gate: &Gate, wanted: Range<u64>, cached: bool) -> Result<Option<Bytes>> {
        let gate = gate.lock().await;
        let Some(writer) = gate.as_ref() else { return Ok(None) };
        let written = writer.upload.written();
        // A page that ends behind what is written would show zeros there when the file has grown.
        if cached && wanted.end > written / PAGE * PAGE {
            return Err(Error::Busy);
        }
        let (start, end) = (wanted.start.min(written), wanted.end.min(written));
        if start == end {
            return Ok(Some(Bytes::new()));
        }
        writer.peek(start, end).map(Some).ok_or(Error::Busy)
    }

    /// The store no longer has `version` of a file. True where that is news; false where its new version is to be read:
    /// this mount itself changed or renamed the file meanwhile, or somebody changed it in place.
    async fn lost(&self, ino: Ino, version: &Version) -> Result<bool> {
        let (path, _locked) = self.lock_file(ino).await?;
        let is_news = || {
            let inodes = self.inodes();
            let file = inodes.get(ino)?.file()?;
            Ok::<_, Error>(file.written.is_none() && file.stored.as_ref() == Some(version))
        };
        if !is_news()? {
            return Ok(false);
        }
        if self.in_place() && self.is_still(ino, &path, version).await {
            return Ok(false);
        }
        let mut inodes = self.inodes();
        let inode = inodes.get(ino)?;
        if inode.linked {
            tracing::warn!(%path, "another client replaced or removed a file that is read here: reading on is ESTALE");
            self.listings.outdate(&path);
            inodes.detach(&path);
            if let Some((parent, name)) = path.split_last()
                && let Some(parent) = inodes.at(&parent)
            {
                self.invalidate(Invalidation::Entry { parent, name });
            }
        }
        // It may have another name, under which it is what it was.
        Ok(!inodes.get(ino).is_ok_and(|inode| inode.linked))
    }
}
