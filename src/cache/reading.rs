//! One read: what of it comes from the disk, what from the store, and in what order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::disk::Use;
use super::files::Found;
use super::keeping::Keeping;
use super::slot::{Claim, Slot, Step};
use super::store::Store;
use crate::backend::{Backend, Intent, Result};
use crate::observability::metrics::{CACHE_FAILURES, CACHE_READ_BYTES};

/// The gaps of one read that are fetched side by side.
const AT_ONCE: usize = 4;
/// Bytes that are read from the disk at once.
const CHUNK: u64 = 1 << 20;
/// Whoever fetches what somebody waits for, and brings nothing for so long, is not waited for.
const STALL: Duration = Duration::from_secs(2);

/// Bytes in order.
pub(super) type Body = BoxStream<'static, Result<Bytes>>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) store: Arc<Store>,
    pub(super) inner: Arc<dyn Backend>,
    pub(super) slot: Arc<Slot>,
    pub(super) why: Intent,
}

impl Reading {
    /// The bytes of `range`. What is first of it is asked for before this returns, so that a refusal is its answer.
    pub(super) async fn begin(self, range: Range<u64>, alone: bool) -> Result<Body> {
        let mut steps = self.slot.plan(&range, self.store.keeps(&self.slot), alone);
        if steps.len() == 1
            && let Some(step) = steps.pop()
        {
            return self.step(step).await;
        }
        let mut opened = stream::iter(steps).map(move |step| self.clone().step(step)).buffered(AT_ONCE);
        match opened.try_next().await? {
            Some(first) => Ok(first.chain(opened.try_flatten()).boxed()),
            None => Ok(stream::empty().boxed()),
        }
    }

    fn step(self, step: Step) -> BoxFuture<'static, Result<Body>> {
        match step {
            Step::Cached(range) => async move { Ok(self.cached(range)) }.boxed(),
            Step::Missing(range, claim) => async move { self.fetch(range, claim).await }.boxed(),
            Step::Awaited(range) => async move {
                let settled = self.slot.settled(&range, STALL).await;
                self.begin(range, !settled).await
            }
            .boxed(),
        }
    }

    async fn fetch(&self, range: Range<u64>, claim: Option<Claim>) -> Result<Body> {
        let at = range.start;
        let body = self.inner.read(&self.slot.version, range, self.why).await?;
        let Some(claim) = claim else { return Ok(body) };
        let keeping = Keeping::of(&self.store, claim, at);
        let kept = stream::try_unfold((body, keeping), async |(mut body, mut keeping)| {
            let Some(piece) = body.try_next().await? else { return Ok(None) };
            keeping.take(&piece).await;
            Ok(Some((piece, (body, keeping))))
        });
        Ok(kept.boxed())
    }

    /// From the disk; what is wrong there from the store.
    fn cached(self, range: Range<u64>) -> Body {
        let begin = (self, range, None);
        stream::try_unfold(begin, async |(reading, mut left, mut mending): (Reading, Range<u64>, Option<Body>)| {
            loop {
                if let Some(body) = &mut mending
                    && let Some(piece) = body.try_next().await?
                {
                    left.start += piece.len() as u64;
                    return Ok(Some((piece, (reading, left, mending))));
                }
                if left.is_empty() {
                    return Ok(None);
                }
                let most = reading.slot.layout.block.max(CHUNK);
                let chunk = left.start..left.end.min((left.start / most + 1) * most);
                match reading.chunk(&chunk).await {
                    Some(bytes) => {
                        metrics::counter!(CACHE_READ_BYTES).increment(bytes.len() as u64);
                        left.start = chunk.end;
                        return Ok(Some((bytes, (reading, left, None))));
                    }
                    None => mending = Some(reading.mend(chunk).await?),
                }
            }
        })
        .boxed()
    }

    /// Bytes of blocks that are on the disk; `None` where they are not what was written, or cannot be had.
    async fn chunk(&self, range: &Range<u64>) -> Option<Bytes> {
        let layout = self.slot.layout;
        let files = self.slot.lock().files.clone()?;
        let (blocks, asked) = (layout.touching(range), files.clone());
        let from = range.start - layout.bytes(&blocks).start;
        let length = range.end - range.start;
        match self.store.disk.call(Use::Read, move || asked.read(&blocks)).await? {
            Found::Right(bytes) => Some(bytes.slice(from as usize..(from + length) as usize)),
            Found::Wrong(block) => {
                metrics::counter!(CACHE_FAILURES, "reason" => "rot").increment(1);
                let (path, key) = (&self.slot.version.path, self.slot.key);
                tracing::warn!(%path, ?key, block, "a block on the cache disk is not what was written: it is fetched again");
                for block in layout.touching(range) {
                    self.slot.rotted(&files, block);
                }
                None
            }
        }
    }

    /// Fetches what was to come from the disk, and keeps it anew where that was wrong.
    async fn mend(&self, range: Range<u64>) -> Result<Body> {
        let kept = self.store.keeps(&self.slot);
        match self.slot.plan(&range, kept, true).as_mut_slice() {
            [Step::Missing(range, claim)] => self.fetch(range.clone(), claim.take()).await,
            _ => self.fetch(range, None).await,
        }
    }
}
