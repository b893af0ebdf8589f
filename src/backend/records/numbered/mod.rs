//! Records of a store that has directories and no compare-and-swap: each is a directory of numbered versions.
//!
//! The highest number counts. The next one appears whole or not at all, and of many who want it one gets it
//! ([`Directories::place`]): that is all the exclusion there is. A nonce at the head of each version tells a writer whose
//! reply was lost whether what lies there is his. A record that is gone has an empty version as its highest, so that its
//! numbers go on where it is made again.
//!
//! A superseded number stays for [`LINGER`], by the server's clock, which is longer than any request lasts: a late writer
//! would take a freed one. What is left of records that are gone is removed by [`clearing`], which first closes them.

mod clearing;
mod look;
#[cfg(test)]
mod model;
pub(in crate::backend) mod root;
mod walk;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use self::look::fetch;
use self::look::{State, Versions, name_of};
use super::{Directory, Extent, LARGEST_RECORD, Measured, Records, Removed, Tag};
use crate::backend::{Error, ErrorKind, Kind, Name, Op, Path, RESERVED, Result};

/// How long a superseded version stays, at least.
const LINGER: Duration = Duration::from_secs(3600);

/// Looks at a record that keeps changing before it is somebody else's turn.
const TRIES: usize = 8;

/// Bytes of a nonce, and the line's end behind it.
const NONCE: usize = 32;
const HEAD: usize = NONCE + 1;

/// What a store with directories does for its records. Paths begin at the store's root; no symbolic link is followed.
#[async_trait]
pub(in crate::backend) trait Directories: Debug + Send + Sync + 'static {
    /// Looks once whether the store's root is as the control plane needs it, and makes its own directory there, which
    /// nobody else may read.
    async fn prepare(&self) -> Result<()>;

    /// All that lies in a directory, what no listing of a mount shows included. `NotFound`, `NotADirectory`.
    fn entries(&self, dir: &Path) -> BoxStream<'static, Result<Item>>;

    /// A small file, whole. `NotFound`.
    async fn read(&self, file: &Path) -> Result<Bytes>;

    /// Makes a file with this content where nothing lies, whole or not at all: of many who ask, one makes it.
    /// `AlreadyExists`, also where a lost reply was sent again; `NotFound` where its directory is not there.
    async fn place(&self, file: &Path, body: Bytes) -> Result<()>;

    /// Makes a directory. `AlreadyExists`, whatever lies there; `NotFound` where the one above is not there.
    async fn make_dir(&self, dir: &Path) -> Result<()>;

    /// Removes a file, a symbolic link or an empty directory. `NotFound`, `NotEmpty`.
    async fn remove(&self, at: &Path, kind: Kind) -> Result<()>;

    /// See [`Records::make_directory`].
    async fn make_volume(&self, at: &Path, how: &Directory) -> Result<String>;

    /// See [`Records::directory`].
    async fn identity(&self, at: &Path) -> Result<Option<String>>;

    /// See [`Records::set_quota`].
    async fn set_quota(&self, _at: &Path, _bytes: u64) -> Result<bool> {
        Ok(false)
    }

    /// See [`Records::exposure`].
    async fn exposure(&self) -> Result<Option<String>>;

    /// See [`Records::halted`].
    async fn halted(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct Item {
    pub(in crate::backend) name: Name,
    pub(in crate::backend) kind: Kind,
    /// Length in bytes of a file.
    pub(in crate::backend) size: u64,
    /// When it got there or was last changed, by the server's clock.
    pub(in crate::backend) since: SystemTime,
}

/// [`Records`] over [`Directories`].
pub(in crate::backend) struct Numbered<D> {
    store: Arc<D>,
    excludes: OnceCell<bool>,
    walks: walk::Walks,
}

impl<D: Debug> Debug for Numbered<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Numbered").field(&self.store).finish()
    }
}

fn fail(kind: ErrorKind, at: &Path, why: &str) -> Error {
    Error::new(kind, Op::Record, at, why)
}

fn absent(at: &Path) -> Error {
    fail(ErrorKind::NotFound, at, "there is no such record")
}

fn overtaken(at: &Path) -> Error {
    fail(ErrorKind::Stale, at, "the record was changed meanwhile")
}

fn keeps_changing(at: &Path) -> Error {
    fail(ErrorKind::Unavailable, at, "the record keeps changing")
}

impl<D: Directories> Numbered<D> {
    pub(in crate::backend) fn new(store: Arc<D>) -> Numbered<D> {
        Numbered { store, excludes: OnceCell::new(), walks: walk::Walks::default() }
    }

    /// Makes a directory and those above it.
    async fn make_dirs(&self, dir: &Path) -> Result<()> {
        let make = async || match self.store.make_dir(dir).await {
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        match (make().await, dir.split_last()) {
            (Err(error), Some((above, _))) if error.kind == ErrorKind::NotFound => {
                Box::pin(self.make_dirs(&above)).await?;
                make().await
            }
            (made, _) => made,
        }
    }

    /// Makes version `number` of a record: `body`, or that it is gone.
    ///
    /// `AlreadyExists` where somebody else has the number, `NotFound` where the record's directory is not there.
    async fn place(&self, at: &Path, number: u64, body: Option<&Bytes>) -> Result<Tag> {
        let begun = Instant::now();
        let nonce = HEXLOWER.encode(&rand::random::<[u8; NONCE / 2]>());
        let mut text = BytesMut::new();
        if let Some(body) = body {
            text.put_slice(nonce.as_bytes());
            text.put_u8(b'\n');
            text.put_slice(body);
        }
        let file = at.join(&name_of(number));
        let tag = Tag(format!("{number}-{nonce}"));
        match self.store.place(&file, text.freeze()).await {
            // Who slept for so long may have taken a number that was freed.
            Ok(()) if begun.elapsed() > LINGER / 2 => {
                Err(fail(ErrorKind::Unavailable, at, "the write took so long that its end is not known"))
            }
            Ok(()) => Ok(tag),
            Err(error) if error.kind == ErrorKind::NotFound => Err(error),
            Err(error) => match self.store.read(&file).await {
                // It is there after all.
                Ok(there) if there.starts_with(nonce.as_bytes()) => Ok(tag),
                Ok(there) if there.is_empty() && body.is_none() => Ok(tag),
                Ok(_) => Err(fail(ErrorKind::AlreadyExists, at, "another writer was first")),
                Err(_) => Err(error),
            },
        }
    }

    /// The version that counts; `None` where there is no such record.
    async fn current(&self, at: &Path) -> Result<Option<(Versions, Bytes, Tag)>> {
        self.store.prepare().await?;
        for _ in 0..TRIES {
            let seen = look::versions(&*self.store, at).await?;
            let Some(seen) = seen.filter(|seen| seen.state() == State::Present) else { return Ok(None) };
            match self.store.read(&at.join(&name_of(seen.highest()))).await {
                // It was superseded and freed since it was seen.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                read => {
                    let (nonce, body) = look::parts(at, &read?)?;
                    let tag = Tag(format!("{}-{nonce}", seen.highest()));
                    return Ok(Some((seen, body, tag)));
                }
            }
        }
        Err(keeps_changing(at))
    }

    /// Makes the version after those of `seen`, and frees numbers that are long superseded.
    async fn place_next(&self, at: &Path, seen: &Versions, body: Option<&Bytes>) -> Result<Tag> {
        let tag = self.place(at, seen.next(), body).await?;
        for name in seen.freed(LINGER) {
            // Whoever writes next tries again.
            if let Err(error) = self.store.remove(&at.join(&name), Kind::File).await {
                tracing::debug!(%error, "an old version of a record could not be removed");
            }
        }
        Ok(tag)
    }
}

#[async_trait]
impl<D: Directories> Records for Numbered<D> {
    async fn excludes(&self) -> Result<bool> {
        let prove = async || {
            self.store.prepare().await?;
            let nonce = HEXLOWER.encode(&rand::random::<[u8; 16]>());
            let at = Path::parse(&format!("{RESERVED}/proof/{nonce}")).unwrap_or_default();
            self.make_dirs(&at).await?;
            let file = at.join(&name_of(1));
            let twice = [self.store.place(&file, Bytes::new()).await, self.store.place(&file, Bytes::new()).await];
            self.store.remove(&file, Kind::File).await?;
            self.store.remove(&at, Kind::Directory).await?;
            match twice {
                [Ok(()), Err(second)] if second.kind == ErrorKind::AlreadyExists => Ok(true),
                [Ok(()), Ok(())] => Ok(false),
                [Err(error), _] | [_, Err(error)] => Err(error),
            }
        };
        self.excludes.get_or_try_init(prove).await.copied()
    }

    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag> {
        check_size(at, &body)?;
        self.store.prepare().await?;
        for _ in 0..TRIES {
            let seen = look::versions(&*self.store, at).await?;
            match seen.as_ref().map(Versions::state) {
                Some(State::Present) => {
                    return Err(fail(ErrorKind::AlreadyExists, at, "there is such a record already"));
                }
                Some(State::Closed) => {
                    return Err(fail(
                        ErrorKind::Unavailable,
                        at,
                        "what is left of an old record is just being removed",
                    ));
                }
                Some(State::Gone) => {}
                None => self.make_dirs(at).await?,
            }
            match self.place_next(at, &seen.unwrap_or_default(), Some(&body)).await {
                // Somebody was first, or removed the directory: what is there now decides.
                Err(error) if matches!(error.kind, ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                outcome => return outcome,
            }
        }
        Err(keeps_changing(at))
    }

    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)> {
        let (_, body, tag) = self.current(at).await?.ok_or_else(|| absent(at))?;
        Ok((body, tag))
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag> {
        check_size(at, &body)?;
        let current = self.current(at).await?.filter(|(_, _, current)| current == tag);
        let (seen, ..) = current.ok_or_else(|| overtaken(at))?;
        match self.place_next(at, &seen, Some(&body)).await {
            Err(error) if matches!(error.kind, ErrorKind::AlreadyExists | ErrorKind::NotFound) => Err(overtaken(at)),
            outcome => outcome,
        }
    }

    async fn remove(&self, at: &Path) -> Result<()> {
        self.store.prepare().await?;
        for _ in 0..TRIES {
            let seen = look::versions(&*self.store, at).await?;
            let Some(seen) = seen.filter(|seen| seen.state() == State::Present) else { return Ok(()) };
            match self.place_next(at, &seen, None).await {
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind == ErrorKind::AlreadyExists => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(keeps_changing(at))
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>> {
        walk::records(self.store.clone(), dir, after)
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured> {
        self.walks.page(&self.store, dir, from).await
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool> {
        walk::is_vacant(&*self.store, path).await
    }

    async fn remove_page(&self, dir: &Path, _extent: Extent) -> Result<Removed> {
        super::removable(dir)?;
        walk::remove_page(&*self.store, dir).await
    }

    async fn make_directory(&self, at: &Path, how: &Directory) -> Result<Option<String>> {
        self.store.prepare().await?;
        if let Some((above, _)) = at.split_last().filter(|(above, _)| !above.is_root()) {
            self.make_dirs(&above).await?;
        }
        self.store.make_volume(at, how).await.map(Some)
    }

    async fn directory(&self, at: &Path) -> Result<Option<String>> {
        self.store.identity(at).await
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> Result<bool> {
        self.store.set_quota(at, bytes).await
    }

    async fn exposure(&self) -> Result<Option<String>> {
        self.store.exposure().await
    }

    async fn halted(&self) -> Result<Option<String>> {
        self.store.halted().await
    }

    async fn clear(&self) -> Result<u64> {
        self.store.prepare().await?;
        clearing::clear(&*self.store).await
    }
}

fn check_size(at: &Path, body: &Bytes) -> Result<()> {
    match body.len() {
        0..=LARGEST_RECORD => Ok(()),
        _ => Err(fail(ErrorKind::TooLarge, at, &format!("a record has at most {LARGEST_RECORD} bytes"))),
    }
}
