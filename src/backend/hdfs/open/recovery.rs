//! A file whose writer failed is written again: its lease recovered, its length looked at, what is missing appended.

use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Kept, Open, State};
use crate::backend::ErrorKind;
use crate::backend::hdfs::error::{Failure, Outcome, gone};
use crate::backend::hdfs::pipeline::Pipeline;
use crate::backend::hdfs::{Tree, version};

/// Before a recovery: the name node has that DataNode lead it which it heard of last, and where that is one that has just
/// died, asks the next one only after thirty heartbeats (`BlockManager`'s `RECOVERY_TIMEOUT_MULTIPLIER`, Hadoop 3.5), 90 s
/// where they come every 3 s as usual. After one more of them it has heard of the living since.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Between two looks at a recovery.
const PAUSE: Duration = Duration::from_millis(300);

impl Open {
    /// The writer failed: afterwards all that was written lasts, or nothing more can be done.
    pub(super) async fn mend(&self, state: &mut State, failure: Failure) -> Outcome<()> {
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
            end_lease(&self.tree, &version::by_id(self.id)).await;
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
            self.tree.limits.journal.over(self.note(None)).await;
            return Ok(());
        }
        let mut writer = self.take_lease().await?;
        self.now_held().await?;
        let again = timeout_at(deadline, append_kept(&mut writer, &state.kept, there..state.length)).await;
        again.unwrap_or_else(|_| Err(Failure::late(self.patience())))?;
        let length = state.length;
        state.is_safe(length);
        state.writer = Some(writer);
        Ok(())
    }
}

/// Gives back the lease that `writer` holds on the file at an absolute path, of which nothing was written.
pub(in crate::backend::hdfs) async fn give_back(tree: &Tree, mut writer: Pipeline, at: &str) {
    if writer.close().await.is_err() {
        drop(writer);
        end_lease(tree, at).await;
    }
}

/// Has the name node end the lease that this client holds on the file at an absolute path, as far as can be: whoever comes
/// next need not wait until it lapses.
pub(in crate::backend::hdfs) async fn end_lease(tree: &Tree, at: &str) {
    let _ = tree.library.ask("other", |client| async move { client.recover_lease(at).await }).await;
}

/// Writes that `range` of the file at its end out of what is kept of it, and makes it lasting.
async fn append_kept(writer: &mut Pipeline, kept: &[Kept], range: Range<u64>) -> Outcome<()> {
    let mut reached = range.start;
    for kept in kept {
        let skipped = usize::try_from(reached - kept.offset).unwrap_or(usize::MAX);
        let rest = kept.data.slice(skipped.min(kept.data.len())..);
        reached += rest.len() as u64;
        writer.write(rest).await?;
    }
    if reached != range.end {
        return Err(Failure::corrupt("bytes that were to be written again are no longer in memory"));
    }
    writer.hsync().await
}
