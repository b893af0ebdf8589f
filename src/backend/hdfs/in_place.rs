//! Files that are written at their end.
//!
//! The library's writer does not survive the death of a DataNode, and its close tells success after a write that failed.
//! So what is not known to last is kept here, within the mount's budget: the bytes behind the last complete block or
//! hsync. Where a write, a sync or a close fails, the file's lease is recovered, its length looked at, and the rest
//! appended again. What cannot be mended so fails from then on, whatever is asked: an error is never followed by a close
//! that succeeds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::WriteOptions;
use hdfs_native::file::FileWriter;
use tokio::time::{Instant, sleep, timeout};

use super::calls::bounded;
use super::error::{Failure, HELD, Outcome, gone};
use super::webhdfs::Status;
use super::{Tree, changes, version};
use crate::backend::{Error, ErrorKind, InPlace, Meta, Op, Path, Result, Version};
use crate::budget::Lease;

/// Bytes of one file that are kept at most.
const MOST_KEPT: u64 = 32 << 20;

/// A writer may always be silent for so long.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

/// Before a recovery: the name node has that DataNode lead it which it heard of last, and where that is one that has just
/// died, asks the next one only after thirty heartbeats (`BlockManager`'s `RECOVERY_TIMEOUT_MULTIPLIER`, Hadoop 3.5), 90 s
/// where they come every 3 s as usual. After one more of them it has heard of the living since.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Between two looks at a recovery.
const PAUSE: Duration = Duration::from_millis(300);

/// `Backend::make_file`.
pub(super) async fn make_file(tree: &Tree, path: &Path, mode: u32) -> Outcome<Meta> {
    let mut writer = create(tree, path, mode).await?;
    bounded(tree.limits.timeout.get(), writer.close()).await?;
    tree.meta(path).await
}

/// Makes a file, and keeps it open to be written.
pub(super) async fn begin(tree: &Arc<Tree>, path: &Path, mode: u32) -> Outcome<Writing> {
    let writer = create(tree, path, mode).await?;
    let status = tree.web.status(&tree.at(path)?).await.map_err(gone)?;
    let id = status.file_id;
    let state = State { writer: Some(writer), status: Some(status), ..State::default() };
    Ok(Writing(tree.writers.get_or(id, || Open::new(tree, id, path, state))))
}

async fn create(tree: &Tree, path: &Path, mode: u32) -> Outcome<FileWriter> {
    changes::new_name(path)?;
    let at = &tree.at(path)?;
    let options = &WriteOptions::default().permission(mode & 0o7777).create_parent(false);
    let made = tree.library.act("write", |client| async move { client.create(at, options).await }).await;
    made.map_err(|failure| match failure.kind {
        // Who makes it holds its lease.
        ErrorKind::Busy => Failure { kind: ErrorKind::AlreadyExists, ..failure },
        _ => failure,
    })
}

/// `Backend::open_write`. Asks nothing of HDFS before the first write.
pub(super) fn open_write(tree: &Arc<Tree>, file: &Version) -> Outcome<Writing> {
    let id = version::id(file).ok_or_else(|| Failure::new(ErrorKind::Stale, "a version of another store"))?;
    Ok(Writing(tree.writers.get_or(id, || Open::new(tree, id, &file.path, State::default()))))
}

/// A handle on a file that is written.
#[derive(Debug)]
pub(super) struct Writing(Arc<Open>);

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
    writer: Option<FileWriter>,
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
    fn new(tree: &Arc<Tree>, id: u64, path: &Path, state: State) -> Open {
        let (shown, failed, state) = (Mutex::new(None), Mutex::new(None), tokio::sync::Mutex::new(state));
        Open { tree: tree.clone(), id, path: path.clone(), shown, failed, state }
    }

    /// What this mount shows of the file instead of the name node's length and time.
    pub(super) fn shown(&self) -> Option<(u64, u64)> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, shown: Option<(u64, u64)>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    fn patience(&self) -> Duration {
        self.tree.limits.timeout.get()
    }

    /// How long the library's writer may be silent: where a DataNode dies at the wrong moment it waits for ever, and what
    /// mends that needs most of the time.
    fn silence(&self) -> Duration {
        (self.patience() / 4).max(LEAST_SILENCE).min(self.patience())
    }

    /// Fails where something failed before.
    fn check(&self) -> Outcome<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// From now on everything fails. The first failure is the one that is told.
    fn fail(&self, failure: &Failure) {
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
        let at = &version::by_id(self.id);
        let opened = self.tree.library.act("write", |client| async move { client.append(at).await }).await;
        let writer = opened.map_err(gone).map_err(held)?;
        // Nobody else writes from here on.
        let status = self.tree.web.status(at).await.map_err(gone)?;
        (state.length, state.safe) = (status.length, status.length);
        state.kept.clear();
        state.status = Some(status);
        state.writer = Some(writer);
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Outcome<Option<Meta>> {
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
            Some(writer) => bounded(self.silence(), writer.write_bytes(data)).await.map(drop),
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

    async fn sync(&self) -> Outcome<Option<Meta>> {
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
        let closed = to_its_end(patience, async move { self.finish().await.map(drop) }).await;
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
    async fn finish(&self) -> Outcome<Option<Meta>> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        self.check()?;
        while let Some(mut writer) = state.writer.take() {
            match bounded(self.silence(), writer.close()).await {
                Ok(()) => {}
                Err(failure) => {
                    drop(writer);
                    // Afterwards it is closed, or open with all of it synced.
                    self.mend(state, failure).await?;
                }
            }
            if state.writer.is_none() {
                let status = self.tree.web.status(&version::by_id(self.id)).await.map_err(gone)?;
                if status.length < state.length {
                    let failure = Failure::corrupt("HDFS has fewer bytes of the file than it took");
                    self.fail(&failure);
                    return Err(failure);
                }
                let length = state.length;
                state.is_safe(length);
                self.show(None);
                return Ok(Some(version::meta(&self.path, &status, &self.tree.owners)));
            }
        }
        Ok(None)
    }

    async fn hsync(&self, state: &mut State) -> Outcome<()> {
        let synced = match &mut state.writer {
            Some(writer) => bounded(self.silence(), writer.hsync()).await,
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

    /// The writer failed: afterwards all that was written lasts, or nothing more can be done.
    async fn mend(&self, state: &mut State, failure: Failure) -> Outcome<()> {
        state.writer = None;
        let mended = match failure.kind {
            _ if state.is_striped() => Err(failure),
            ErrorKind::OverQuota | ErrorKind::Denied | ErrorKind::Stale | ErrorKind::NotFound => Err(failure),
            _ => {
                tracing::info!(path = %self.path, why = %failure, "a writer of HDFS failed, and is made anew");
                self.write_again(state, failure).await
            }
        };
        if let Err(failure) = &mended {
            self.fail(failure);
            // Whoever comes next need not wait until the lease lapses.
            let at = &version::by_id(self.id);
            let _ = self.tree.library.ask("other", |client| async move { client.recover_lease(at).await }).await;
        }
        mended
    }

    async fn write_again(&self, state: &mut State, mut failure: Failure) -> Outcome<()> {
        let deadline = Instant::now() + self.patience();
        sleep(HEARTBEAT.min(self.patience() / 8)).await;
        while Instant::now() < deadline {
            match self.attempt(state, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) if matches!(error.kind, ErrorKind::Stale | ErrorKind::Corrupt | ErrorKind::OverQuota) => {
                    return Err(error);
                }
                Err(error) => failure = error,
            }
            state.writer = None;
            sleep(PAUSE).await;
        }
        Err(failure)
    }

    async fn attempt(&self, state: &mut State, deadline: Instant) -> Outcome<()> {
        let at = &version::by_id(self.id);
        let library = &self.tree.library;
        while !library.ask("other", |client| async move { client.recover_lease(at).await }).await.map_err(gone)? {
            if Instant::now() > deadline {
                return Err(Failure::new(ErrorKind::Unavailable, "the file's lease was not recovered in time"));
            }
            sleep(PAUSE).await;
        }
        let there = self.tree.web.status(at).await.map_err(gone)?.length;
        if there < state.safe {
            return Err(Failure::corrupt("HDFS lost bytes of the file that it had taken"));
        }
        if there > state.length {
            return Err(Failure::new(ErrorKind::Stale, "another client wrote to the file"));
        }
        state.is_safe(there);
        if there == state.length {
            return Ok(());
        }
        let writer = library.act("write", |client| async move { client.append(at).await }).await;
        let mut writer = writer.map_err(gone).map_err(held)?;
        let left = || deadline.saturating_duration_since(Instant::now()).min(self.silence());
        let mut reached = there;
        for kept in &state.kept {
            let skipped = usize::try_from(reached - kept.offset).unwrap_or(usize::MAX);
            let rest = kept.data.slice(skipped.min(kept.data.len())..);
            reached += rest.len() as u64;
            bounded(left(), writer.write_bytes(rest)).await?;
        }
        if reached != state.length {
            return Err(Failure::corrupt("bytes that were to be written again are no longer in memory"));
        }
        bounded(left(), writer.hsync()).await?;
        state.is_safe(reached);
        state.writer = Some(writer);
        Ok(())
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
        let (patience, path) = (self.tree.limits.timeout.get(), self.path.clone());
        runtime.spawn(async move {
            if let Err(failure) = bounded(patience, writer.close()).await {
                tracing::warn!(%path, why = %failure, "a file that was left open could not be closed");
            }
        });
    }
}

impl Writing {
    /// The file's id.
    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// Does `work` to its end, and waits for that end as long as a call may take. Who does not wait was not told that it
    /// succeeded, so that nothing after it may.
    fn wait<F>(&self, work: F) -> impl Future<Output = Outcome<Option<Meta>>>
    where
        F: Future<Output = Outcome<Option<Meta>>> + Send + 'static,
    {
        let patience = self.0.patience();
        let unheard = Unheard(Some((self.0.clone(), Failure::late(patience))));
        let ended = to_its_end(patience, work);
        async move {
            let outcome = ended.await;
            if outcome.is_some() {
                unheard.heard();
            }
            outcome.unwrap_or_else(|| Err(Failure::late(patience)))
        }
    }

    /// Writes behind the `offset` bytes that the file has.
    pub(super) async fn append(&self, offset: u64, data: Bytes) -> Outcome<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { open.write(offset, data).await }).await
    }

    /// Makes all of it lasting, and lets the file go.
    pub(super) async fn close(&self) -> Outcome<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { open.finish().await }).await
    }

    fn at(&self, op: Op) -> impl FnOnce(Failure) -> Error + '_ {
        move |failure| failure.at(op, &self.0.path)
    }
}

/// Notes on dropping that nobody heard how an operation ended.
struct Unheard(Option<(Arc<Open>, Failure)>);

impl Unheard {
    fn heard(mut self) {
        self.0 = None;
    }
}

/// What `work` ends with, where it does within `patience`; it goes on all the same.
fn to_its_end<T, F>(patience: Duration, work: F) -> impl Future<Output = Option<Outcome<T>>>
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

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some((open, failure)) = self.0.take() {
            open.fail(&failure);
        }
    }
}

#[async_trait]
impl InPlace for Writing {
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>> {
        self.append(offset, data).await.map_err(self.at(Op::Write))
    }

    async fn sync(&self) -> Result<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { open.sync().await }).await.map_err(self.at(Op::Publish))
    }

    async fn finish(&self) -> Result<Option<Meta>> {
        self.close().await.map_err(self.at(Op::Publish))
    }
}
