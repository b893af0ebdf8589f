//! A file written whole and in order, on a store whose files are seen from their making on: into a file of the driver's
//! own beside its place, which then takes its name.
//!
//! What is to lie at no other's place gets its name by a step of which the store lets one of many win. What replaces a
//! known version is compared with it first, which another client's change between the two can slip through.

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::journal::{Journal, Note};
use super::{
    Attributes, Backend, Base, CreateOptions, Error, ErrorKind, Intent, Kind, Meta, Name, Op, Path, Result,
    SetAttributes, Upload, Version,
};

/// Bytes gathered for one write.
const GATHER: usize = 1 << 20;

/// Permission bits of a new file.
pub(super) const MODE: u32 = 0o644;

/// A file of the driver's own is in use for so long at most.
pub(super) const LEFT_BEHIND: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a store does for a file that is written beside its place. Whatever its errors say where and at what they were
/// met, what is told is the operation and the path of the file itself.
#[async_trait]
pub(super) trait Beside: Debug + Clone + Send + Sync + 'static {
    /// A file of the driver's own, open to be written.
    type File: Debug + Send + Sync + 'static;

    /// The store as everybody sees it.
    fn store(&self) -> &dyn Backend;

    /// Where it is noted which files of the driver's own there are.
    fn journal(&self) -> &Journal;

    /// Fails where no file can come to lie at `path`: for its name, or for what lies above it.
    async fn check(&self, path: &Path) -> Result<()>;

    /// Makes a file at `path`, under a name that nobody else uses.
    async fn begin(&self, path: &Path) -> Result<Self::File>;

    /// Writes `data` behind the `offset` bytes that the file has.
    async fn append(&self, file: &mut Self::File, offset: u64, data: Bytes) -> Result<()>;

    /// Makes all of it lasting.
    async fn seal(&self, file: &mut Self::File) -> Result<()>;

    /// Changes attributes, of a file that is sealed. A length is never among them.
    async fn set(&self, file: &mut Self::File, set: &SetAttributes) -> Result<()>;

    /// Which file it is, wherever it lies, as [`Version::file`] says.
    fn which(&self, file: &Self::File) -> Arc<str>;

    /// Moves a sealed file `to` the place that it was written for, and returns what then lies there. `AlreadyExists`
    /// where anything lies there, unless it is to `replace` that. Where its own name is gone then, that is noted.
    async fn place(&self, file: &Self::File, to: &Path, replace: bool) -> Result<Meta>;

    /// Removes a file, with no look at it.
    async fn unlink(&self, path: &Path) -> Result<()>;
}

/// `Backend::create`.
pub(super) async fn create<B: Beside>(beside: B, path: &Path, how: CreateOptions) -> Result<Uploading<B>> {
    let is_directory = || Error::new(ErrorKind::IsADirectory, Op::Write, path, "it is a directory");
    let (dir, name) = path.split_last().ok_or_else(is_directory)?;
    let told = |error| Error { op: Op::Write, path: path.clone(), ..error };
    beside.check(path).await.map_err(told)?;
    if look(&beside, path).await.map_err(told)?.is_some_and(|there| there.kind() == Kind::Directory) {
        return Err(is_directory());
    }
    let tail = BytesMut::new();
    Ok(Uploading { beside, dir, name, base: how.base, written: 0, tail, temporary: None, published: None })
}

/// Removes those of the files called `names` in `dir` that are the driver's own and were left behind by who died.
pub(super) fn sweep<B: Beside>(beside: &B, dir: &Path, names: impl IntoIterator<Item = Name>) {
    let old: Vec<Path> =
        names.into_iter().filter(|name| name.is_left_behind(LEFT_BEHIND)).map(|name| dir.join(&name)).collect();
    if old.is_empty() {
        return;
    }
    let beside = beside.clone();
    tokio::spawn(async move {
        for path in old {
            discard(&beside, &path).await;
        }
    });
}

/// Removes a file of the driver's own.
pub(super) async fn discard<B: Beside>(beside: &B, path: &Path) {
    match beside.unlink(path).await {
        Err(error) if error.kind != ErrorKind::NotFound => {
            tracing::warn!(%path, why = %error, "a file of the driver's own could not be removed");
        }
        _ => beside.journal().over(Note::hidden(path, None)).await,
    }
}

/// What lies at `path`, if anything does.
async fn look<B: Beside>(beside: &B, path: &Path) -> Result<Option<Meta>> {
    match beside.store().stat(path).await {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Uploading<B: Beside> {
    beside: B,
    dir: Path,
    name: Name,
    base: Base,
    written: u64,
    /// The last of what was written, as far as it was not sent.
    tail: BytesMut,
    /// The file that has not got its name yet.
    temporary: Option<Temporary<B>>,
    /// What was last published, while nothing was sent since: all but the tail.
    published: Option<Version>,
}

#[derive(Debug)]
struct Temporary<B: Beside> {
    beside: B,
    path: Path,
    file: B::File,
    /// Bytes that were sent.
    length: u64,
    /// It took the file's name.
    placed: bool,
}

impl<B: Beside> Temporary<B> {
    async fn new(beside: &B, dir: &Path) -> Result<Temporary<B>> {
        let path = dir.join(&Name::hidden());
        let journal = beside.journal();
        let file = journal.noted(Note::hidden(&path, None), beside.begin(&path)).await?;
        let temporary = Temporary { beside: beside.clone(), path, file, length: 0, placed: false };
        if let Some(note) = Note::hidden(&temporary.path, Some(beside.which(&temporary.file))) {
            journal.note(note).await;
        }
        Ok(temporary)
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let length = data.len() as u64;
        self.beside.append(&mut self.file, self.length, data).await?;
        self.length += length;
        Ok(())
    }

    /// Copies the published bytes to the beginning.
    async fn copy(&mut self, published: &Version) -> Result<()> {
        let unread = |error: Error| match error.kind {
            ErrorKind::Stale => overtaken(&published.path),
            _ => error,
        };
        let beside = self.beside.clone();
        let body = beside.store().read(published, 0..published.size, Intent::Demand).await;
        let mut body = body.map_err(unread)?;
        while let Some(piece) = body.try_next().await.map_err(unread)? {
            self.append(piece).await?;
        }
        Ok(())
    }

    fn is(&self, there: &Meta) -> bool {
        there.version().is_some_and(|version| version.file == self.beside.which(&self.file))
    }

    /// Takes the name.
    async fn take(&mut self, path: &Path, replace: bool) -> Result<Meta> {
        match self.beside.place(&self.file, path, replace).await {
            Err(error) if error.kind == ErrorKind::AlreadyExists => match look(&self.beside, path).await? {
                // It took it although nobody heard of it.
                Some(there) if self.is(&there) => Ok(self.has_taken(there).await),
                _ => Err(overtaken(path)),
            },
            Err(error) => Err(error),
            Ok(there) => {
                self.placed = true;
                Ok(there)
            }
        }
    }

    /// The name is taken, and its own may be there, too.
    async fn has_taken(&mut self, there: Meta) -> Meta {
        self.placed = true;
        discard(&self.beside, &self.path).await;
        there
    }
}

impl<B: Beside> Drop for Temporary<B> {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        // Without a runtime it stays, hidden, until a listing finds it old enough.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (beside, path) = (self.beside.clone(), self.path.clone());
        runtime.spawn(async move { discard(&beside, &path).await });
    }
}

impl<B: Beside> Uploading<B> {
    fn path(&self) -> Path {
        self.dir.join(&self.name)
    }

    /// As an error of this file.
    fn told(&self, op: Op) -> impl FnOnce(Error) -> Error + use<B> {
        let path = self.path();
        move |error| Error { op, path, ..error }
    }

    /// Sends the tail, behind all that was written before it.
    async fn send(&mut self) -> Result<()> {
        let temporary = match &mut self.temporary {
            Some(temporary) => temporary,
            None => {
                let mut temporary = Temporary::new(&self.beside, &self.dir).await?;
                if let Some(published) = &self.published {
                    temporary.copy(published).await?;
                }
                self.temporary.insert(temporary)
            }
        };
        if !self.tail.is_empty() {
            temporary.append(self.tail.clone().freeze()).await?;
            self.tail.clear();
        }
        Ok(())
    }

    async fn put_there(&mut self, attributes: &Attributes) -> Result<Meta> {
        if self.published.is_some() && self.temporary.is_none() && self.tail.is_empty() {
            return self.as_published(attributes).await;
        }
        self.send().await?;
        let path = self.path();
        let Some(temporary) = &mut self.temporary else {
            return Err(Error::new(ErrorKind::Corrupt, Op::Publish, &path, "there is nothing to publish"));
        };
        self.beside.seal(&mut temporary.file).await?;
        let meta = match look(&self.beside, &path).await? {
            // An earlier attempt took the name, and was not told.
            Some(there) if temporary.is(&there) => {
                let there = temporary.has_taken(there).await;
                changed(&self.beside, &path, there, attributes).await?
            }
            there => {
                check_base(&self.base, there.as_ref(), &path)?;
                let mut set = wanted(attributes);
                // What replaces a file is as open to others as that was.
                set.mode = set.mode.or_else(|| Some(there?.permissions?.mode));
                self.beside.set(&mut temporary.file, &set).await?;
                temporary.take(&path, self.base != Base::Absent).await?
            }
        };
        self.temporary = None;
        self.is_there(&meta);
        Ok(meta)
    }

    /// Nothing was written since the last publish: what it left there.
    async fn as_published(&mut self, attributes: &Attributes) -> Result<Meta> {
        let path = self.path();
        let is_it = |there: &Meta| match &self.base {
            Base::Version(base) => is_version(there, base),
            Base::Absent | Base::Any => there.kind() != Kind::Directory,
        };
        let there = look(&self.beside, &path).await?.filter(is_it).ok_or_else(|| overtaken(&path))?;
        let meta = changed(&self.beside, &path, there, attributes).await?;
        self.is_there(&meta);
        Ok(meta)
    }

    /// This was published.
    fn is_there(&mut self, meta: &Meta) {
        self.published = meta.version().cloned();
        if let (false, Some(version)) = (self.base == Base::Any, &self.published) {
            self.base = Base::Version(version.clone());
        }
    }
}

/// Whether a file may take the place of what is there.
fn check_base(base: &Base, there: Option<&Meta>, path: &Path) -> Result<()> {
    match (base, there) {
        (Base::Version(base), Some(there)) if is_version(there, base) => Ok(()),
        (Base::Version(_), _) | (Base::Absent, Some(_)) => Err(overtaken(path)),
        (Base::Any, Some(there)) if there.kind() == Kind::Directory => {
            Err(Error::new(ErrorKind::IsADirectory, Op::Publish, path, "it is a directory"))
        }
        (Base::Any, _) | (Base::Absent, None) => Ok(()),
    }
}

fn is_version(there: &Meta, version: &Version) -> bool {
    there.version().is_some_and(|found| found.bytes == version.bytes)
}

/// What lies at `path` with these attributes.
async fn changed<B: Beside>(beside: &B, path: &Path, there: Meta, attributes: &Attributes) -> Result<Meta> {
    match wanted(attributes) {
        nothing if nothing == SetAttributes::default() => Ok(there),
        set => beside.store().set_attributes(path, &set).await,
    }
}

fn wanted(attributes: &Attributes) -> SetAttributes {
    let Attributes { mode, uid, gid, mtime } = *attributes;
    SetAttributes { mode, uid, gid, mtime, ..SetAttributes::default() }
}

fn overtaken(path: &Path) -> Error {
    let why = "another writer's file is there now, or the file is gone; it was left as it is";
    Error::new(ErrorKind::Stale, Op::Publish, path, why)
}

#[async_trait]
impl<B: Beside> Upload for Uploading<B> {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.tail.extend_from_slice(&data);
        self.written += data.len() as u64;
        if self.tail.len() >= GATHER {
            self.send().await.map_err(self.told(Op::Write))?;
        }
        Ok(())
    }

    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta> {
        self.put_there(attributes).await.map_err(self.told(Op::Publish))
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn peek(&self, range: Range<u64>) -> Option<Bytes> {
        let begin = self.written - self.tail.len() as u64;
        let (start, end) = (range.start.checked_sub(begin)?, range.end.min(self.written));
        (range.start < end).then(|| Bytes::copy_from_slice(&self.tail[start as usize..(end - begin) as usize]))
    }

    fn moved(&mut self, to: Path, version: Option<Version>) {
        if let Some((dir, name)) = to.split_last() {
            (self.dir, self.name) = (dir, name);
        }
        if let (Some(published), Some(version)) = (&mut self.published, &version) {
            published.clone_from(version);
        }
        if self.base != Base::Any {
            self.base = version.map_or(Base::Absent, Base::Version);
        }
    }

    async fn abort(self: Box<Self>) {
        let Some(mut temporary) = self.temporary else { return };
        temporary.placed = true;
        discard(&self.beside, &temporary.path).await;
    }
}
