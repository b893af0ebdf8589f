//! A file that is written at its end, and what is kept of it.
//!
//! The library's writer does not survive the death of a DataNode, and its close tells success after a write that failed.
//! So what is not known to last is kept here, within the mount's budget: the bytes behind the last complete block or
//! hsync. Where a write, a sync or a close fails, the file's lease is recovered, its length looked at, and the rest
//! appended again. What cannot be mended so fails from then on, whatever is asked: an error is never followed by a close
//! that succeeds.

pub(super) mod recovery;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::timeout;

use super::error::{Failure, HELD, Outcome, gone};
use super::pipeline::Pipeline;
use super::webhdfs::Status;
use super::{Tree, version};
use crate::backend::journal::Note;
use crate::backend::{ErrorKind, Meta, Path};
use crate::budget::Lease;

/// Bytes of one file that are kept at most.
const MOST_KEPT: u64 = 32 << 20;

/// A file that is written.
#[derive(Debug)]
pub(super) struct Open {
    tree: Arc<Tree>,
    id: u64,
    /// Where it lay when it was opened: for messages.
    path: Path,
    /// Its length with all that was written, and when the last of it was, while HDFS may say otherwise.
    shown: Mutex<Option<(u64, u64)>>,
    /// Why nothing more can be done, or what somebody was told who did not wait for the end.
    failed: Mutex<Option<Failure>>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Holds the file's lease.
    writer: Option<Pipeline>,
    /// What the name node said when the lease was taken.
    status: Option<Status>,
    /// Bytes of the file with all that was written.
    length: u64,
    /// As many of them are known to last.
    safe: u64,
    /// Those behind.
    kept: Vec<Kept>,
}

struct Kept {
    offset: u64,
    data: Bytes,
    /// Pays for them.
    _lease: Option<Lease>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { length, safe, writer, .. } = self;
        f.debug_struct("State").field("length", length).field("safe", safe).field("open", &writer.is_some()).finish()
    }
}

impl State {
    fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.data.len() as u64).sum()
    }

    /// Bytes before `safe` last now.
    fn is_safe(&mut self, safe: u64) {
        self.safe = self.safe.max(safe);
        let safe = self.safe;
        self.kept.retain(|kept| kept.offset + kept.data.len() as u64 > safe);
    }

    fn is_striped(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.ec_policy.is_some())
    }

    /// Where the block begins that is being written: those before it are complete.
    fn block_start(&self) -> u64 {
        let size = self.status.as_ref().map_or(0, |status| status.block_size).max(1);
        self.length.saturating_sub(1) / size * size
    }
}

impl Open {
    /// The file of that id, of which nothing is asked yet.
    pub(super) fn new(tree: &Arc<Tree>, id: u64, path: &Path) -> Open {
        Open::with(tree, id, path, State::default())
    }

    /// A new file, whose lease `writer` holds.
    pub(super) fn begun(tree: &Arc<Tree>, path: &Path, writer: Pipeline, status: Status) -> Open {
        let id = status.file_id;
        Open::with(tree, id, path, State { writer: Some(writer), status: Some(status), ..State::default() })
    }

    fn with(tree: &Arc<Tree>, id: u64, path: &Path, state: State) -> Open {
        let (shown, failed, state) = (Mutex::new(None), Mutex::new(None), tokio::sync::Mutex::new(state));
        Open { tree: tree.clone(), id, path: path.clone(), shown, failed, state }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What this mount shows of the file instead of the name node's length and time.
    pub(super) fn shown(&self) -> Option<(u64, u64)> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, shown: Option<(u64, u64)>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    pub(super) fn patience(&self) -> Duration {
        self.tree.limits.timeout.get()
    }

    /// Fails where something failed before.
    fn check(&self) -> Outcome<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// From now on everything fails. The first failure is the one that is told.
    pub(super) fn fail(&self, failure: &Failure) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| failure.clone());
    }

    /// Whether nothing more can be done through this.
    pub(super) fn has_failed(&self) -> bool {
        self.check().is_err()
    }

    /// Takes the file's lease, where it is not held.
    async fn begin(&self, state: &mut State) -> Outcome<()> {
        if state.writer.is_some() {
            return Ok(());
        }
        // A lease that a worker before this one left is about to be ended.
        let free = timeout(self.patience(), self.tree.limits.journal.is_free(self.id)).await;
        free.map_err(|_| Failure::new(ErrorKind::Busy, HELD))?;
        let writer = self.take_lease().await?;
        // Nobody else writes from here on.
        let status = match self.now_held().await {
            Ok(status) => status,
            Err(failure) => {
                recovery::give_back(&self.tree, writer, &version::by_id(self.id)).await;
                return Err(failure);
            }
        };
        (state.length, state.safe) = (status.length, status.length);
        state.kept.clear();
        state.status = Some(status);
        state.writer = Some(writer);
        Ok(())
    }

    /// Opens the file at its end, which has its lease taken.
    async fn take_lease(&self) -> Outcome<Pipeline> {
        let at = &version::by_id(self.id);
        let opening = async {
            let opened = self.tree.library.act("write", |client| async move { client.append(at).await }).await;
            opened.map_err(gone).map_err(held)
        };
        let writer = self.tree.limits.journal.noted(self.note(None), opening).await?;
        Ok(Pipeline::new(writer, &self.tree.limits.timeout))
    }

    /// What the name node says of the file whose lease is held: by its time the lease is known again.
    async fn now_held(&self) -> Outcome<Status> {
        let status = self.tree.web.status(&version::by_id(self.id)).await.map_err(gone)?;
        self.tree.limits.journal.note(self.note(Some(status.modification_time))).await;
        Ok(status)
    }

    fn note(&self, since: Option<u64>) -> Note {
        Note::Written { id: self.id, since }
    }

    /// Writes behind the `offset` bytes that the file has.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Outcome<Option<Meta>> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        self.check()?;
        self.begin(state).await?;
        if offset != state.length {
            return Err(Failure::new(ErrorKind::Unsupported, "HDFS takes bytes at a file's end alone"));
        }
        let size = data.len() as u64;
        let mut lease = self.tree.limits.budget.try_acquire(size);
        if !state.is_striped() && (lease.is_none() || state.kept_bytes() + size > MOST_KEPT) {
            self.hsync(state).await?;
            lease = lease.or_else(|| self.tree.limits.budget.try_acquire(size));
        }
        let unpaid = lease.is_none();
        if !state.is_striped() {
            state.kept.push(Kept { offset, data: data.clone(), _lease: lease });
        }
        state.length += size;
        self.tree.web.sent(data.len());
        let wrote = match &mut state.writer {
            Some(writer) => writer.write(data).await,
            None => Err(Failure::corrupt("a file that is not open")),
        };
        match wrote {
            Ok(()) => state.is_safe(state.block_start()),
            Err(failure) => self.mend(state, failure).await?,
        }
        if unpaid && !state.is_striped() {
            self.hsync(state).await?;
        }
        Ok(self.as_shown(state))
    }

    /// Makes all of it lasting.
    pub(super) async fn sync(&self) -> Outcome<Option<Meta>> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        self.check()?;
        if state.writer.is_none() {
            return Ok(None);
        }
        self.hsync(state).await?;
        Ok(self.as_shown(state))
    }

    /// Makes what lies before `end` readable, where it was written here.
    pub(super) async fn readable(self: Arc<Self>, end: u64) -> Outcome<()> {
        let patience = self.patience();
        let made = to_its_end(patience, async move { self.make_readable(end).await }).await;
        made.unwrap_or_else(|| Err(Failure::late(patience)))
    }

    /// Has the file closed, so that something else may be done to it.
    pub(super) async fn close(self: Arc<Self>) -> Outcome<()> {
        let patience = self.patience();
        let closed = to_its_end(patience, async move { Box::pin(self.finish()).await.map(drop) }).await;
        closed.unwrap_or_else(|| Err(Failure::late(patience)))
    }

    async fn make_readable(&self, end: u64) -> Outcome<()> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        if state.writer.is_none() || state.safe >= end || state.length < end {
            return Ok(());
        }
        self.check()?;
        self.hsync(state).await.map_err(|failure| match failure.kind {
            ErrorKind::Unsupported => Failure { kind: ErrorKind::Busy, ..failure },
            _ => failure,
        })
    }

    /// Makes all of it lasting, and gives the lease back.
    pub(super) async fn finish(&self) -> Outcome<Option<Meta>> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        self.check()?;
        while let Some(mut writer) = state.writer.take() {
            match writer.close().await {
                Ok(()) => {}
                Err(failure) => {
                    drop(writer);
                    // Afterwards it is closed, or open with all of it synced.
                    self.mend(state, failure).await?;
                }
            }
            if state.writer.is_none() {
                let closed = self.closed(state).await;
                if let Err(failure) = &closed {
                    self.fail(failure);
                }
                return closed.map(Some);
            }
        }
        Ok(None)
    }

    /// Looks whether all of it is there, now that its lease was given back.
    async fn closed(&self, state: &mut State) -> Outcome<Meta> {
        let status = self.tree.web.status(&version::by_id(self.id)).await.map_err(gone)?;
        if status.length < state.length {
            return Err(Failure::corrupt("HDFS has fewer bytes of the file than it took"));
        }
        let length = state.length;
        state.is_safe(length);
        self.show(None);
        self.tree.limits.journal.over(self.note(None)).await;
        Ok(version::meta(&self.path, &status, &self.tree.owners))
    }

    async fn hsync(&self, state: &mut State) -> Outcome<()> {
        let synced = match &mut state.writer {
            Some(writer) => writer.hsync().await,
            None => return Ok(()),
        };
        match synced {
            Ok(()) => {
                let length = state.length;
                state.is_safe(length);
                Ok(())
            }
            // Nothing broke.
            Err(failure) if failure.kind == ErrorKind::Unsupported => Err(failure),
            Err(failure) => self.mend(state, failure).await,
        }
    }

    /// What lies there, by what was written here.
    fn as_shown(&self, state: &State) -> Option<Meta> {
        let mut status = state.status.clone()?;
        let now = version::millis(SystemTime::now());
        (status.length, status.modification_time) = (state.length, now);
        self.show(Some((state.length, now)));
        Some(version::meta(&self.path, &status, &self.tree.owners))
    }
}

/// The library has one word for a file that is there and for one that another client is writing.
fn held(failure: Failure) -> Failure {
    match failure.kind {
        ErrorKind::AlreadyExists => Failure::new(ErrorKind::Busy, HELD),
        _ => failure,
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let Some(mut writer) = state.writer.take() else { return };
        // Nobody waits for it: as far as can be, what was written lasts.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (path, tree, note) = (self.path.clone(), self.tree.clone(), self.note(None));
        runtime.spawn(async move {
            match writer.close_at_leisure().await {
                Ok(()) => tree.limits.journal.over(note).await,
                Err(failure) => tracing::warn!(%path, why = %failure, "a file that was left open could not be closed"),
            }
        });
    }
}

/// What `work` ends with, where it does within `patience`; it goes on all the same.
pub(super) fn to_its_end<T, F>(patience: Duration, work: F) -> impl Future<Output = Option<Outcome<T>>>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let task = tokio::spawn(work);
    async move {
        let ended = timeout(patience, task).await.ok()?;
        Some(ended.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Other, "the task that wrote the file died"))))
    }
}
