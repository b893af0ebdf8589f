//! One ranged read of the store, and the bytes that came of it so far.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Data;
use crate::backend::{Backend, Error, ErrorKind, Intent, Op, Result, Version};
use crate::budget::Lease;

/// A read in flight or done. Dropping the last handle cancels it and gives its bytes back.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    arrived: Arc<Arrived>,
    task: AbortHandle,
    /// Bytes that readers took. What all was taken of is of no more use.
    taken: AtomicU64,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Arrived {
    bytes: Mutex<Body>,
    more: Notify,
}

#[derive(Debug)]
struct Body {
    /// Each piece with its offset from the part's start.
    pieces: Vec<(u64, Bytes)>,
    length: u64,
    outcome: Option<Result<()>>,
    /// Pays for the whole range. None where the worker could not wait for its budget.
    _lease: Option<Lease>,
}

impl Part {
    /// Sends the request off.
    pub(super) fn fetch(
        backend: &Arc<dyn Backend>,
        file: &Version,
        range: Range<u64>,
        why: Intent,
        lease: Option<Lease>,
    ) -> Arc<Part> {
        let body = Body { pieces: Vec::new(), length: 0, outcome: None, _lease: lease };
        let arrived = Arc::new(Arrived { bytes: Mutex::new(body), more: Notify::new() });
        let task = tokio::spawn(fill(backend.clone(), file.clone(), range.clone(), why, arrived.clone()));
        let task = task.abort_handle();
        Arc::new(Part { range, arrived, task, taken: AtomicU64::new(0), waiting: AtomicUsize::new(0) })
    }

    /// Waits for `range`, which lies within the part.
    pub(super) async fn take(&self, range: Range<u64>) -> Result<Data> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        let (from, to) = (range.start - self.range.start, range.end - self.range.start);
        loop {
            let more = self.arrived.more.notified();
            tokio::pin!(more);
            // Registered before the look, so that nothing that arrives after it is missed.
            more.as_mut().enable();
            {
                let body = self.arrived.lock();
                if body.length >= to {
                    self.taken.fetch_add(to - from, Ordering::Relaxed);
                    return Ok(body.slice(from..to));
                }
                if let Some(Err(error)) = &body.outcome {
                    return Err(error.clone());
                }
            }
            more.await;
        }
    }

    /// Somebody waits for bytes of this part.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Every byte was taken.
    pub(super) fn is_spent(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.range.end - self.range.start
    }

    /// The read failed.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.arrived.lock().outcome, Some(Err(_)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrived {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, outcome: Result<()>) {
        self.lock().outcome = Some(outcome);
        self.more.notify_waiters();
    }
}

impl Body {
    fn slice(&self, range: Range<u64>) -> Data {
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
        Data(slices)
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
                drop(body);
                arrived.more.notify_waiters();
            }
            Some(Err(error)) => break Err(error),
            None if arrived.lock().length < wanted => break wrong("the store sent fewer bytes than were asked"),
            None => break Ok(()),
        }
    };
    arrived.end(outcome);
}
