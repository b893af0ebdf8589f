//! What stores read alike: nothing at all, a small file whole, and a directory page by page.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::{Backend, Entry, Error, ErrorKind, Fetched, Intent, Op, Path, Result, Version};

/// How often a small file is read again that changed while it was read.
const ATTEMPTS: usize = 5;

/// The answer to a read that need not be asked of a store: of no bytes, or of some that lie outside the file.
pub(super) fn at_once(file: &Version, range: &Range<u64>) -> Option<Result<BoxStream<'static, Result<Bytes>>>> {
    if range.is_empty() {
        return Some(Ok(stream::empty().boxed()));
    }
    let outside = || Error::new(ErrorKind::Other, Op::Read, &file.path, "the range lies outside the file");
    (range.end > file.size).then(|| Err(outside()))
}

/// [`Backend::fetch`] where a file is looked at and then read: again, where it changed between.
pub(super) async fn fetch(store: &dyn Backend, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
    let fail = |kind, why: String| Err(Error::new(kind, Op::Fetch, path, why));
    let told = |error| Error { op: Op::Fetch, path: path.clone(), ..error };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let meta = store.stat(path).await.map_err(told)?;
        let Some(version) = meta.version() else { return fail(ErrorKind::IsADirectory, "it is a directory".into()) };
        if known == Some(version) {
            return Ok(Fetched::Same);
        }
        if version.size > longest {
            return fail(ErrorKind::TooLarge, format!("it is longer than {longest} bytes"));
        }
        match whole(store, version).await {
            Ok(bytes) => return Ok(Fetched::New { meta, bytes }),
            Err(error) if error.kind == ErrorKind::Stale && attempts < ATTEMPTS => {}
            Err(error) => return Err(told(error)),
        }
    }
}

async fn whole(store: &dyn Backend, file: &Version) -> Result<Bytes> {
    // Nobody knows yet that there is such a file, and so nobody waits for it.
    let pieces: Vec<Bytes> = store.read(file, 0..file.size, Intent::Ahead).await?.try_collect().await?;
    Ok(match <[Bytes; 1]>::try_from(pieces) {
        Ok([only]) => only,
        Err(pieces) => pieces.concat().into(),
    })
}

/// A listing of which each page is fetched when the one before it is used up: by `page`, which gives `None` behind the
/// last, from where the listing stands. An error ends it.
pub(super) fn pages<S, F>(first: S, page: impl FnMut(S) -> F + Send + 'static) -> BoxStream<'static, Result<Entry>>
where
    S: Send + 'static,
    F: Future<Output = Result<Option<(Vec<Entry>, S)>>> + Send + 'static,
{
    stream::try_unfold(first, page).map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
}
