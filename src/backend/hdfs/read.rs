//! Exactly the bytes of one version.
//!
//! A file is opened by its id, so that no other is ever read in its place, and in a snapshot by its path; where a reader
//! fails, the file is opened anew, which finds out where its blocks lie now, and read on. What lies behind the last
//! complete block of a file that is being written comes by WebHDFS.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use hdfs_native::file::FileReader;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::Tree;
use super::error::{Failure, Outcome, gone};
use super::slots::Slot;
use super::snapshots::Place;
use crate::backend::{ErrorKind, Intent, Op, Result, Version, reading};

/// How long an open reader is used again: rights that were withdrawn meanwhile are not seen.
const FRESH: Duration = Duration::from_secs(30);

/// Open readers that are kept at most.
const MOST: usize = 256;

/// Before a file is opened again whose reader failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes that come by WebHDFS at once; what may lie before them in an answer is thrown away.
const PIECE: u64 = 4 << 20;

/// A reader knows the blocks that the file had when it was opened, and a DataNode gives them for a while after they were
/// cut off: it is good for the bytes of one version.
struct Opened {
    /// As [`Version::bytes`].
    bytes: Arc<str>,
    reader: Arc<FileReader>,
    when: Instant,
}

/// Open readers, by where they read.
#[derive(Default)]
pub(super) struct Readers(Mutex<HashMap<String, Opened>>);

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readers").field(&self.all().len()).finish()
    }
}

impl Readers {
    fn get(&self, at: &str, bytes: &str, end: u64) -> Option<Arc<FileReader>> {
        let all = self.all();
        let Opened { bytes: of, reader, when } = all.get(at)?;
        let is_it = **of == *bytes && when.elapsed() < FRESH && reader.file_length() as u64 >= end;
        is_it.then(|| reader.clone())
    }

    fn put(&self, at: &str, bytes: &Arc<str>, reader: &Arc<FileReader>) {
        let mut all = self.all();
        if all.len() >= MOST {
            all.retain(|_, opened| opened.when.elapsed() < FRESH);
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(at.to_owned(), Opened { bytes: bytes.clone(), reader: reader.clone(), when: Instant::now() });
    }

    /// The file is opened anew by who reads it next.
    pub(super) fn forget(&self, at: &str) {
        self.all().remove(at);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Opened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Backend::read`.
pub(super) async fn read(
    tree: &Arc<Tree>,
    file: &Version,
    range: Range<u64>,
    why: Intent,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(answer) = reading::at_once(file, &range) {
        return answer;
    }
    let (patience, begun) = (tree.limits.timeout.get(), Instant::now());
    let place = tree.place(file).map_err(|failure| failure.at(Op::Read, &file.path))?;
    if place.frozen.is_none()
        && let Some(open) = tree.writers.get(place.id)
    {
        // Before there is a turn: it may take long, and no connection.
        open.readable(range.end).await.map_err(|failure| failure.at(Op::Read, &file.path))?;
    }
    match why {
        Intent::Demand => {
            tree.slots.waits();
            let ask = |range| body(tree.clone(), file.clone(), range, begun, None).boxed();
            let late = || Err(Failure::late(patience).at(Op::Read, &file.path));
            tree.slots.together().read(file, range, begun + patience, ask).await.unwrap_or_else(late)
        }
        Intent::Ahead => {
            let turn = tree.slots.guess().await;
            body(tree.clone(), file.clone(), range, Instant::now(), turn).await
        }
    }
}

/// What has been waited for since `begun`.
async fn body(
    tree: Arc<Tree>,
    file: Version,
    range: Range<u64>,
    begun: Instant,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let path = file.path.clone();
    let fail = move |failure: Failure| failure.at(Op::Read, &path);
    let place = tree.place(&file).map_err(&fail)?;
    let mut reading = Reading { tree, place, bytes: file.bytes, range, pieces: None, moved: begun, _turn: turn };
    // The first answer decides whether there is a body at all.
    let first = reading.next().await.transpose().map_err(&fail)?;
    let rest = stream::unfold(Some(reading), async |reading| {
        let mut reading = reading?;
        let piece = reading.next().await?;
        // An error is the end.
        let rest = piece.is_ok().then_some(reading);
        Some((piece, rest))
    });
    let rest = rest.map(move |piece| piece.map_err(&fail));
    Ok(stream::iter(first.map(Ok)).chain(rest).boxed())
}

/// What the library gives, and the connection that it comes by.
struct Pieces {
    stream: BoxStream<'static, std::thread::Result<hdfs_native::Result<Bytes>>>,
    _slot: Slot,
}

struct Reading {
    tree: Arc<Tree>,
    place: Place,
    /// As [`Version::bytes`].
    bytes: Arc<str>,
    /// What is still to come.
    range: Range<u64>,
    /// As far as complete blocks reach.
    pieces: Option<Pieces>,
    /// When the last bytes came, or the wait for the first began.
    moved: Instant,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Reading {
    async fn next(&mut self) -> Option<Outcome<Bytes>> {
        while !self.range.is_empty() {
            let failure = match self.piece().await {
                Ok(piece) => {
                    self.range.start += piece.len() as u64;
                    self.moved = Instant::now();
                    return Some(Ok(piece));
                }
                Err(failure) => failure,
            };
            self.pieces = None;
            self.tree.readers.forget(&self.place.at);
            let again = matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Other);
            if !again || self.moved.elapsed() + PAUSE >= self.tree.limits.timeout.get() {
                return Some(Err(failure));
            }
            tracing::debug!(id = self.place.id, why = %failure, "a reader of HDFS failed, and is made anew");
            sleep(PAUSE).await;
        }
        None
    }

    /// How long the next bytes may take.
    fn patience(&self) -> Duration {
        self.tree.limits.timeout.get().saturating_sub(self.moved.elapsed())
    }

    async fn piece(&mut self) -> Outcome<Bytes> {
        if self.pieces.is_none() {
            let reader = reader(&self.tree, &self.place, &self.bytes, self.range.end).await?;
            let end = self.range.end.min(reader.file_length() as u64);
            if end <= self.range.start {
                return tail(&self.tree, &self.place, self.range.clone()).await;
            }
            let (at, length) = (self.range.start as usize, (end - self.range.start) as usize);
            let patience = self.patience();
            let slot = timeout(patience, self.tree.slots.connection()).await.map_err(|_| Failure::late(patience))?;
            // The library panics where it does not know better.
            let stream = AssertUnwindSafe(reader.read_range_stream(at, length)).catch_unwind().boxed();
            self.pieces = Some(Pieces { stream, _slot: slot });
        }
        let patience = self.patience();
        let Some(pieces) = &mut self.pieces else { return Err(Failure::corrupt("a body without pieces")) };
        match timeout(patience, pieces.stream.next()).await {
            Ok(Some(Ok(Ok(piece)))) if piece.len() as u64 <= self.range.end - self.range.start => {
                self.tree.web.fetched(piece.len());
                Ok(piece)
            }
            Ok(Some(Ok(Ok(_)))) => Err(Failure::corrupt("a DataNode gave more bytes than were asked for")),
            Ok(Some(Ok(Err(error)))) => Err(error.into()),
            Ok(Some(Err(_))) => Err(Failure::new(ErrorKind::Other, "the HDFS library failed (a panic)")),
            // The complete blocks are over.
            Ok(None) => {
                self.pieces = None;
                tail(&self.tree, &self.place, self.range.clone()).await
            }
            Err(_) => Err(Failure::late(patience)),
        }
    }
}

/// An open reader of these bytes: one that reaches as far as is wanted, or a new one.
async fn reader(tree: &Tree, place: &Place, bytes: &Arc<str>, end: u64) -> Outcome<Arc<FileReader>> {
    let at = place.at.as_str();
    if let Some(reader) = tree.readers.get(at, bytes, end) {
        return Ok(reader);
    }
    let opened = tree.library.ask("stat", |client| async move { client.read(at).await }).await;
    let reader = Arc::new(opened.map_err(gone)?);
    place.check(tree).await.map_err(gone)?;
    tree.readers.put(at, bytes, &reader);
    Ok(reader)
}

/// Some of the bytes behind the last complete block.
async fn tail(tree: &Tree, place: &Place, range: Range<u64>) -> Outcome<Bytes> {
    let at = place.at.as_str();
    let status = tree.web.status(at).await.map_err(gone)?;
    let wanted = range.start..range.end.min(range.start + PIECE);
    let bytes = match status.length {
        // It has no block that could be asked for.
        0 => Bytes::new(),
        known => tree.web.open(at, wanted, known).await?,
    };
    if !bytes.is_empty() {
        if place.frozen.is_none() {
            tree.growing.note(place.id);
        }
        return Ok(bytes);
    }
    match tree.web.is_under_construction(at).await? {
        true => {
            let why = "another client is writing the file, and no DataNode gives its end yet";
            Err(Failure::new(ErrorKind::Busy, why))
        }
        false => Err(Failure::changed()),
    }
}
