//! Exactly the bytes of one version, as far as the server's attributes tell.
//!
//! A file is read by its handle. Every answer carries the file's attributes, and an answer whose attributes are not the
//! version's is `Stale`; but a file that only grew is read on, since what was there is still there.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use nfs3_types::nfs3::nfs_fh3;

use super::calls::Outcome;
use super::error::Failure;
use super::mounting::Mounted;
use super::tree::Tree;
use super::version::{self, Change};
use crate::backend::{ErrorKind, Op, Result, Version, reading};

/// READs of one body that are asked for at once.
const DEPTH: usize = 4;

/// `Backend::read`.
pub(super) async fn read(
    tree: &Arc<Tree>,
    file: &Version,
    range: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(answer) = reading::at_once(file, &range) {
        return answer;
    }
    let fail = {
        let path = file.path.clone();
        move |failure: Failure| failure.at(Op::Read, &path)
    };
    let Some(handle) = version::handle(file) else {
        return Err(fail(Failure::new(ErrorKind::Stale, "the version is of another store")));
    };
    let reading = Arc::new(Reading::new(tree, handle, file).await.map_err(&fail)?);
    let pieces: Vec<Range<u64>> = reading.pieces(&range).collect();
    let mut body = stream::iter(pieces)
        .map(move |piece| {
            let reading = reading.clone();
            async move { reading.piece(piece).await }
        })
        .buffered(DEPTH)
        .boxed();
    // The first answer decides whether there is a body at all.
    let first = body.next().await.transpose().map_err(&fail)?;
    let body = stream::iter(first.map(Ok)).chain(body);
    // An error is the end.
    let body = body.scan(false, |over, piece| {
        let given = (!*over).then(|| {
            *over = piece.is_err();
            piece
        });
        futures::future::ready(given)
    });
    Ok(body.map(move |piece| piece.map_err(&fail)).boxed())
}

struct Reading {
    tree: Arc<Tree>,
    handle: nfs_fh3,
    file: Version,
    /// Bytes of one READ.
    size: u64,
}

impl Reading {
    async fn new(tree: &Arc<Tree>, handle: nfs_fh3, file: &Version) -> Outcome<Reading> {
        let size = u64::from(tree.mounted().await?.read_size);
        Ok(Reading { tree: tree.clone(), handle, file: file.clone(), size })
    }

    /// `range` cut where the file is cut into pieces of one READ.
    fn pieces(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (size, end) = (self.size, range.end);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let begin = at;
            at = ((begin / size + 1) * size).min(end);
            (begin < end).then_some(begin..at)
        })
    }

    /// All bytes of `range`.
    async fn piece(&self, mut range: Range<u64>) -> Outcome<Bytes> {
        let mut whole = BytesMut::new();
        loop {
            let count = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
            let (handle, start) = (&self.handle, range.start);
            let reading = |mounted: Arc<Mounted>| async move { mounted.server.read(handle, start, count).await };
            let read = self.tree.by_handle(&self.file.path, handle, reading).await?;
            if let Some(attributes) = &read.attributes
                && version::change(&self.file, &self.handle, attributes) == Change::Other
            {
                return Err(changed());
            }
            range.start += read.data.len() as u64;
            if range.is_empty() && whole.is_empty() {
                return Ok(read.data);
            }
            whole.extend_from_slice(&read.data);
            if range.is_empty() {
                return Ok(whole.freeze());
            }
            if read.eof || read.data.is_empty() {
                return Err(changed());
            }
        }
    }
}

fn changed() -> Failure {
    Failure::new(ErrorKind::Stale, "another client changed the file")
}
