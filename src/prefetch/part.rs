//! One ranged read of the store, and the bytes that came of it so far.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::backend::{Backend, Error, ErrorKind, Intent, Op, Result, Version};
use crate::budget::Lease;

/// A read in flight or done. Dropping the last handle cancels it and gives its bytes back.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    arrived: Arc<Arrived>,
    task: AbortHandle,
    claims: AtomicUsize,
    /// It may stay when no claim stands, for who may come to it.
    stays: bool,
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
    /// Sends the request off.
    pub(super) fn fetch(
        backend: &Arc<dyn Backend>,
        file: &Version,
        range: Range<u64>,
        why: Intent,
        lease: Option<Lease>,
        stays: bool,
    ) -> Arc<Part> {
        let body = Body { pieces: Vec::new(), length: 0, outcome: None, awaited: u64::MAX, taken: Vec::new(), lease };
        let arrived = Arc::new(Arrived { body: Mutex::new(body), more: Notify::new() });
        let task = tokio::spawn(fill(backend.clone(), file.clone(), range.clone(), why, arrived.clone()));
        Arc::new(Part { range, arrived, task: task.abort_handle(), claims: AtomicUsize::new(0), stays })
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
        !self.stays || all_taken || matches!(body.outcome, Some(Err(_)))
    }

    /// The read failed.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.arrived.lock().outcome, Some(Err(_)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
        let mut body = self.arrived.lock();
        body.pieces.clear();
        body.lease = None;
    }
}

impl Claim {
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

async fn fill(backend: Arc<dyn Backend>, file: Version, range: Range<u64>, why: Intent, arrived: Arc<Arrived>) {
    let wanted = range.end - range.start;
    let wrong = |what: &str| Err(Error::new(ErrorKind::Corrupt, Op::Read, &file.path, what));
    let mut stream = match backend.read(&file, range, why).await {
        Ok(stream) => stream,
        Err(error) => return arrived.end(Err(error)),
    };
    let outcome = loop {
        match stream.next().await {
            Some(Ok(piece)) => {
                let mut body = arrived.lock();
                if body.length + piece.len() as u64 > wanted {
                    drop(body);
                    break wrong("the store sent more bytes than were asked");
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
            Some(Err(error)) => break Err(error),
            None if arrived.lock().length < wanted => break wrong("the store sent fewer bytes than were asked"),
            None => break Ok(()),
        }
    };
    arrived.end(outcome);
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
