//! One ranged read of the store, and the bytes that came of it so far.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::link::Link;
use crate::backend::{Backend, Error, ErrorKind, Intent, Op, Path, Result, Version};
use crate::budget::Lease;
use crate::observability::metrics::{READ_AHEAD_USED_BYTES, READ_AHEAD_WASTED_BYTES};

/// A read in flight or done. Dropping the last handle cancels it and gives its bytes back.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    arrived: Arc<Arrived>,
    task: Option<AbortHandle>,
    claims: AtomicUsize,
    stay: Stay,
    why: Intent,
}

/// How long a part stays when no claim stands on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// Not at all.
    Leave,
    /// For a cursor that may come to it.
    ForCursors,
    /// Until all of it was taken, or its reader goes quiet: the beginning of a file that is read whole.
    ForAnybody,
}

/// What to ask of the store.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) range: Range<u64>,
    pub(super) why: Intent,
    /// Pays for it.
    pub(super) lease: Option<Lease>,
    pub(super) stay: Stay,
}

#[derive(Debug)]
struct Arrived {
    body: Mutex<Body>,
    more: Notify,
}

#[derive(Debug)]
struct Body {
    /// Each piece with its offset from the part's start.
    pieces: Vec<(u64, Bytes)>,
    length: u64,
    outcome: Option<Result<()>>,
    /// The least length that somebody waits for: pieces are many and small, and a wake is not free.
    awaited: u64,
    /// What readers took, in order, without overlaps.
    taken: Vec<Range<u64>>,
    /// Pays for the whole range.
    lease: Option<Lease>,
}

/// A reader's word that it will take `range` of a part: as long as it stands, the part stays.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) part: Arc<Part>,
    pub(super) range: Range<u64>,
}

impl Part {
    /// Sends the request off. `then` runs when it has ended, well or not, unless it is cancelled.
    pub(super) fn fetch(
        backend: &Arc<dyn Backend>,
        link: &Arc<Link>,
        file: &Version,
        wanted: Wanted,
        then: impl FnOnce() + Send + 'static,
    ) -> Arc<Part> {
        let Wanted { range, why, lease, stay } = wanted;
        let body = Body { pieces: Vec::new(), length: 0, outcome: None, awaited: u64::MAX, taken: Vec::new(), lease };
        let arrived = Arc::new(Arrived { body: Mutex::new(body), more: Notify::new() });
        let filling = {
            let (backend, link, file, range, arrived) =
                (backend.clone(), link.clone(), file.clone(), range.clone(), arrived.clone());
            async move {
                let outcome = survive(fill(&*backend, &link, &file, range, why, &arrived), Op::Read, &file.path).await;
                arrived.end(outcome);
            }
        };
        let mut filling = Box::pin(filling);
        // What lies before a cursor queues up for its turn in the order in which it is needed, not in that in which tasks
        // happen to run.
        let is_done = why == Intent::Ahead && stay == Stay::ForCursors && filling.as_mut().now_or_never().is_some();
        let task = tokio::spawn(async move {
            if !is_done {
                filling.await;
            }
            then();
        });
        Arc::new(Part { range, arrived, task: Some(task.abort_handle()), claims: AtomicUsize::new(0), stay, why })
    }

    /// The beginning of a file, fetched ahead already.
    pub(super) fn of(bytes: Bytes, lease: Lease) -> Arc<Part> {
        let length = bytes.len() as u64;
        let body = Body {
            pieces: vec![(0, bytes)],
            length,
            outcome: Some(Ok(())),
            awaited: u64::MAX,
            taken: Vec::new(),
            lease: Some(lease),
        };
        Arc::new(Part {
            range: 0..length,
            arrived: Arc::new(Arrived { body: Mutex::new(body), more: Notify::new() }),
            task: None,
            claims: AtomicUsize::new(0),
            stay: Stay::ForAnybody,
            why: Intent::Ahead,
        })
    }

    /// Claims what the part has of `range`.
    pub(super) fn claim(self: &Arc<Self>, range: &Range<u64>) -> Claim {
        self.claims.fetch_add(1, Ordering::Relaxed);
        let range = self.range.start.max(range.start)..self.range.end.min(range.end);
        Claim { part: self.clone(), range }
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claims.load(Ordering::Relaxed) > 0
    }

    /// Without a claim on it, it is of no more use to anybody.
    pub(super) fn is_spent(&self) -> bool {
        let body = self.arrived.lock();
        let all_taken = body.taken.first().is_some_and(|taken| *taken == (0..self.range.end - self.range.start));
        self.stay == Stay::Leave || all_taken || matches!(body.outcome, Some(Err(_)))
    }

    /// It stays though no cursor comes to it.
    pub(super) fn is_for_anybody(&self) -> bool {
        self.stay == Stay::ForAnybody
    }

    /// All of it is here.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.arrived.lock().outcome, Some(Ok(())))
    }

    /// The read failed.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.arrived.lock().outcome, Some(Err(_)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        let mut body = self.arrived.lock();
        if self.why == Intent::Ahead {
            let taken = body.taken.iter().map(|taken| taken.end - taken.start).sum::<u64>();
            metrics::counter!(READ_AHEAD_USED_BYTES).increment(taken);
            metrics::counter!(READ_AHEAD_WASTED_BYTES).increment(body.length.saturating_sub(taken));
        }
        body.pieces.clear();
        body.lease = None;
    }
}

impl Claim {
    /// Nobody would have to wait.
    pub(super) fn is_there(&self) -> bool {
        self.part.arrived.lock().length >= self.range.end - self.part.range.start
    }

    /// Waits for the claimed bytes, in the pieces in which they came.
    pub(super) async fn take(&self) -> Result<Vec<Bytes>> {
        let Claim { part, range } = self;
        let range = range.start - part.range.start..range.end - part.range.start;
        loop {
            let more = part.arrived.more.notified();
            tokio::pin!(more);
            // Registered before the look, so that nothing that arrives after it is missed.
            more.as_mut().enable();
            {
                let mut body = part.arrived.lock();
                if body.length >= range.end {
                    body.note_taken(range.clone());
                    return Ok(body.slice(range));
                }
                if let Some(Err(error)) = &body.outcome {
                    return Err(error.clone());
                }
                body.awaited = body.awaited.min(range.end);
            }
            more.await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.part.claims.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrived {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, outcome: Result<()>) {
        self.lock().outcome = Some(outcome);
        self.more.notify_waiters();
    }
}

impl Body {
    fn slice(&self, range: Range<u64>) -> Vec<Bytes> {
        let first = self.pieces.partition_point(|(offset, piece)| offset + piece.len() as u64 <= range.start);
        let mut slices = Vec::new();
        for (offset, piece) in &self.pieces[first..] {
            if *offset >= range.end {
                break;
            }
            let from = range.start.saturating_sub(*offset) as usize;
            let to = ((range.end - offset) as usize).min(piece.len());
            slices.push(piece.slice(from..to));
        }
        slices
    }

    fn note_taken(&mut self, mut range: Range<u64>) {
        let first = self.taken.partition_point(|other| other.end < range.start);
        let after = self.taken.partition_point(|other| other.start <= range.end);
        for other in self.taken.drain(first..after) {
            range = range.start.min(other.start)..range.end.max(other.end);
        }
        self.taken.insert(first, range);
    }
}

/// The outcome of `work`, also where it panics: somebody may wait for it.
pub(super) async fn survive<T>(work: impl Future<Output = Result<T>>, op: Op, path: &Path) -> Result<T> {
    let died = |_| Err(Error::new(ErrorKind::Other, op, path, "asking the store panicked"));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(died)
}

async fn fill(
    backend: &dyn Backend,
    link: &Link,
    file: &Version,
    range: Range<u64>,
    why: Intent,
    arrived: &Arrived,
) -> Result<()> {
    let wanted = range.end - range.start;
    let wrong = |what: &str| Err(Error::new(ErrorKind::Corrupt, Op::Read, &file.path, what));
    let asked = Instant::now();
    let mut stream = backend.read(file, range, why).await?;
    // A store may hold pieces back until all have come: it has answered by now.
    let answered = Instant::now();
    // A guess may have waited for its turn.
    if why == Intent::Demand {
        link.answered(answered - asked);
    }
    let mut first = None;
    loop {
        match stream.next().await {
            Some(piece) => {
                let piece = piece?;
                first.get_or_insert(piece.len() as u64);
                let mut body = arrived.lock();
                if body.length + piece.len() as u64 > wanted {
                    drop(body);
                    return wrong("the store sent more bytes than were asked");
                }
                let at = body.length;
                body.length += piece.len() as u64;
                body.pieces.push((at, piece));
                if body.length >= body.awaited {
                    // Who waits for more says so again.
                    body.awaited = u64::MAX;
                    arrived.more.notify_waiters();
                }
            }
            None if arrived.lock().length < wanted => return wrong("the store sent fewer bytes than were asked"),
            None => break,
        }
    }
    // The first piece may have come with the answer.
    link.carried(wanted - first.unwrap_or_default(), answered.elapsed());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_twice_counts_once() {
        let mut body =
            Body { pieces: Vec::new(), length: 0, outcome: None, awaited: u64::MAX, taken: Vec::new(), lease: None };
        for (range, taken) in [
            (10..20, &[(10, 20)][..]),
            (12..18, &[(10, 20)]),
            (30..40, &[(10, 20), (30, 40)]),
            (20..25, &[(10, 25), (30, 40)]),
            (0..5, &[(0, 5), (10, 25), (30, 40)]),
            (4..31, &[(0, 40)]),
        ] {
            body.note_taken(range);
            assert!(body.taken.iter().map(|range| (range.start, range.end)).eq(taken.iter().copied()), "{taken:?}");
        }
    }
}
