//! The copy of what lay in a snapshot into a directory of its own: HDFS has none that its servers make.
//!
//! A file gets its name when all of it and its attributes are there, its time of change last of all. So what has the name, the
//! length and the time of its original was copied, and whoever goes on with a copy that broke off passes it over.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::error::{Failure, Outcome};
use super::list::Pages;
use super::webhdfs::Status;
use super::{Tree, in_place, read, version};
use crate::backend::{Error, ErrorKind, Intent, Name, Op, Path, Result};

/// Files that are copied at once.
const AT_ONCE: usize = 8;

/// Bytes that are written at once.
const PIECE: usize = 1 << 20;

/// Leaves a time as it is.
const UNCHANGED: u64 = u64::MAX;

/// See [`crate::backend::snapshots::Snapshots::restore`].
pub(super) fn restore(tree: Arc<Tree>, from: Path, to: Path) -> BoxStream<'static, Result<u64>> {
    let walk = Walk { tree: tree.clone(), from, to, unlisted: vec![Path::root()], listing: None };
    let files = stream::try_unfold(walk, async |mut walk| {
        let page = walk.page().await?;
        Ok::<_, Error>(page.map(|page| (stream::iter(page.into_iter().map(Ok::<_, Error>)), walk)))
    });
    files.try_flatten().map_ok(move |file: File| copy(tree.clone(), file)).try_buffer_unordered(AT_ONCE).boxed()
}

/// A file to be copied.
struct File {
    from: Path,
    to: Path,
    status: Status,
}

/// Goes through the original from above, and makes each directory before it gives the files in it.
struct Walk {
    tree: Arc<Tree>,
    from: Path,
    to: Path,
    /// Directories, below both.
    unlisted: Vec<Path>,
    listing: Option<(Path, Pages)>,
}

impl Walk {
    /// Some files; `None` after the last.
    async fn page(&mut self) -> Result<Option<Vec<File>>> {
        loop {
            let (dir, mut pages) = match self.listing.take() {
                Some(listing) => listing,
                None => match self.unlisted.pop() {
                    Some(dir) => (dir, Pages::default()),
                    None => return Ok(None),
                },
            };
            let from = below(&self.from, &dir);
            let found = pages.next(&self.tree, &from).await.map_err(|failure| failure.at(Op::List, &from))?;
            let Some(found) = found else { continue };
            let mut files = Vec::new();
            for (name, status) in found.into_iter().filter(|(name, _)| !name.is_reserved() && !name.is_hidden()) {
                let inside = dir.join(&name);
                let (from, to) = (below(&self.from, &inside), below(&self.to, &inside));
                match status.kind.as_str() {
                    "DIRECTORY" => {
                        make(&self.tree, &to, &status).await.map_err(|failure| failure.at(Op::MakeDir, &to))?;
                        self.unlisted.push(inside);
                    }
                    "FILE" => files.push(File { from, to, status }),
                    _ => {
                        let why = "a symbolic link lies there, and this driver copies none";
                        return Err(Failure::new(ErrorKind::Unsupported, why).at(Op::Read, &from));
                    }
                }
            }
            self.listing = Some((dir, pages));
            return Ok(Some(files));
        }
    }
}

fn below(root: &Path, inside: &Path) -> Path {
    inside.names().fold(root.clone(), |path, name| path.join(&name))
}

/// Makes a directory with the owner and the mode of another.
async fn make(tree: &Tree, path: &Path, status: &Status) -> Outcome<()> {
    let at = &tree.at(path)?;
    let mode = mode(status);
    tree.library.act("other", |client| async move { client.mkdirs(at, mode, false).await }).await?;
    give(tree, at, status).await
}

/// Gives what lies at an absolute path the owner, the group and the mode of something else.
async fn give(tree: &Tree, at: &str, status: &Status) -> Outcome<()> {
    let (owner, group, mode) = (status.owner.as_str(), status.group.as_str(), mode(status));
    tree.library.act("other", |client| async move { client.set_owner(at, Some(owner), Some(group)).await }).await?;
    tree.library.act("other", |client| async move { client.set_permission(at, mode).await }).await
}

fn mode(status: &Status) -> u32 {
    u32::from_str_radix(&status.permission, 8).unwrap_or_default() & 0o7777
}

/// The length of the file that is there now.
async fn copy(tree: Arc<Tree>, file: File) -> Result<u64> {
    let File { from, to, status } = file;
    let there = tree.status_any(&to).await.map_err(|failure| failure.at(Op::Stat, &to))?;
    if there.is_some_and(|there| there.kind == "FILE" && is_copy(&there, &status)) {
        return Ok(status.length);
    }
    let dir = to.split_last().map_or_else(Path::root, |(dir, _)| dir);
    let hidden = dir.join(&Name::hidden());
    let copied = async {
        write(&tree, &from, &status, &hidden).await?;
        place(&tree, &status, &hidden, &to).await.map_err(|failure| failure.at(Op::Write, &to))
    };
    let copied = copied.await;
    if copied.is_err()
        && let Ok(at) = &tree.at(&hidden)
    {
        // Best effort: no mount shows it, and a listing takes it away in time.
        let _ = tree.library.act("remove", |client| async move { client.delete(at, false).await }).await;
    }
    copied.map(|()| status.length)
}

fn is_copy(there: &Status, original: &Status) -> bool {
    there.length == original.length && there.modification_time == original.modification_time
}

/// Writes all bytes of `from` into a new file.
async fn write(tree: &Arc<Tree>, from: &Path, status: &Status, to: &Path) -> Result<()> {
    let fail = |failure: Failure| failure.at(Op::Write, to);
    if status.length == 0 {
        return in_place::make_file(tree, to, mode(status)).await.map(drop).map_err(fail);
    }
    let mut body = read::read(tree, &version::version(from, status), 0..status.length, Intent::Demand).await?;
    let writing = in_place::begin(tree, to, mode(status)).await.map_err(fail)?;
    let (mut piece, mut offset) = (BytesMut::new(), 0);
    loop {
        let next: Option<Bytes> = body.try_next().await?;
        if let Some(bytes) = &next {
            piece.extend_from_slice(bytes);
        }
        if piece.len() >= PIECE || (next.is_none() && !piece.is_empty()) {
            let data = piece.split().freeze();
            let length = data.len() as u64;
            writing.append(offset, data).await.map_err(fail)?;
            offset += length;
        }
        if next.is_none() {
            break;
        }
    }
    writing.close().await.map(drop).map_err(fail)
}

/// Gives the file its attributes and then its name.
async fn place(tree: &Tree, status: &Status, from: &Path, to: &Path) -> Outcome<()> {
    let (from, to) = (&tree.at(from)?, &tree.at(to)?);
    give(tree, from, status).await?;
    let time = status.modification_time;
    tree.library.act("other", |client| async move { client.set_times(from, time, UNCHANGED).await }).await?;
    tree.library.act("write", |client| async move { client.rename(from, to, true).await }).await
}
