//! A worker that serves: watched until it ends, pinged so that a frozen one is ended, and asked.
//!
//! It is asked over a socket: the one that this node plugin started it with, or one that this node plugin made where
//! the worker listens for whoever comes after the one that started it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::broker::Broker;
use super::cgroup::Cgroup;
use super::conversation::{PINGS, Parting, Question, converse};
use super::handover::{Channel, Refusal};
use super::process::{ExitStatus, Identity, Process};
use super::tally::Sums;
use super::{Error, Usage, kernel};
use crate::auth::Credential;
use crate::observability::metrics::{Numbers, WORKER_DEATHS};

/// The exit status of a worker that did all it had to.
const CLEAN: &str = "exit status: 0";

/// How long a question may take before its asker is told that there is no answer (NodeGetVolumeStats).
const ANSWER: Duration = Duration::from_millis(900);

/// Where a worker's mount is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) volume_id: String,
    /// The private mount point.
    pub(super) point: PathBuf,
    /// `major:minor`.
    pub(super) device: String,
    /// Where its memory is limited.
    pub(super) cgroup: Option<Cgroup>,
    /// The most that its buffers may ever hold, in bytes.
    pub(super) most_memory: u64,
    /// Where its volume's use is summed up.
    pub(super) sums: Sums,
    /// Lends it files of its part of the cache, where it may have the kernel read them.
    pub(super) broker: Option<Arc<Broker>>,
}

/// A worker, until it has ended and after.
#[derive(Debug)]
pub(super) struct Live {
    process: Arc<Process>,
    place: Place,
    questions: mpsc::Sender<Question>,
    end: watch::Receiver<Option<Ended>>,
    /// It was ended because it did not answer.
    given_up: Arc<AtomicBool>,
}

/// How a worker ended.
enum End {
    /// Its mount went, and it finished what it had begun. Of one whose parent we are not, nobody says otherwise.
    Done,
    /// Before its mount went, and why.
    Died(Reason, String),
}

/// Why a worker ended before its mount did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It needed more memory than it may have.
    Memory,
    /// By a signal.
    Killed,
    /// By itself, with an error.
    Failed,
    /// It did not answer, or not as it should, and was ended.
    Silent,
    /// Nobody can tell: another node plugin had started it.
    Unknown,
}

impl Reason {
    /// For metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Reason::Memory => "memory",
            Reason::Killed => "killed",
            Reason::Failed => "failed",
            Reason::Silent => "silent",
            Reason::Unknown => "unknown",
        }
    }

    /// Of a worker that ended with this status.
    fn of(status: &str) -> Reason {
        if status.starts_with("signal") { Reason::Killed } else { Reason::Failed }
    }
}

/// What is known of a worker that has ended.
#[derive(Debug, Clone)]
struct Ended {
    words: String,
    /// `None` where it ended as it should.
    reason: Option<Reason>,
}

impl Live {
    /// Watches a worker that has begun to serve. It is ended where it leaves pings unanswered for `deadline`.
    pub(super) fn follow(
        process: Process,
        channel: Channel,
        exit: ExitStatus,
        place: Place,
        deadline: Duration,
    ) -> Live {
        let (questions, asked) = mpsc::channel(16);
        let process = Arc::new(process);
        let (watched, at) = (process.clone(), place.clone());
        let mut exit = exit;
        let watching = async move {
            let parting = converse(channel, asked, deadline / PINGS, &watched, &at).await;
            if let Parting::Wrong(why) = &parting {
                tracing::error!(volume = at.volume_id, worker = %watched.identity(), "worker is ended: {why}");
                end(&watched, &at).await;
            }
            let status = exit.words().await;
            match parting {
                Parting::Wrong(why) => End::Died(Reason::Silent, format!("{why} ({status})")),
                Parting::Finished | Parting::Closed if status == CLEAN => End::Done,
                Parting::Finished | Parting::Closed => End::Died(Reason::of(&status), status),
            }
        };
        Live::watch(process, place, questions, watching)
    }

    /// Watches a worker that an earlier node plugin started, over a socket that it answers on; without one it is ended,
    /// since nobody could tell whether it serves.
    pub(super) fn adopt(process: Process, channel: io::Result<Channel>, place: Place, deadline: Duration) -> Live {
        let (questions, asked) = mpsc::channel(16);
        let process = Arc::new(process);
        let (watched, at) = (process.clone(), place.clone());
        let watching = async move {
            let parting = match channel {
                Ok(channel) => converse(channel, asked, deadline / PINGS, &watched, &at).await,
                Err(error) => Parting::Wrong(format!("it cannot be reached: {error}")),
            };
            match parting {
                Parting::Finished => End::Done,
                Parting::Closed => End::Died(Reason::Unknown, "it ended before its mount".into()),
                Parting::Wrong(why) => {
                    tracing::error!(volume = at.volume_id, worker = %watched.identity(), "worker is ended: {why}");
                    end(&watched, &at).await;
                    End::Died(Reason::Silent, why)
                }
            }
        };
        Live::watch(process, place, questions, watching)
    }

    /// `how` resolves when the worker has ended or is about to.
    fn watch(
        process: Arc<Process>,
        place: Place,
        questions: mpsc::Sender<Question>,
        how: impl Future<Output = End> + Send + 'static,
    ) -> Live {
        let (tell, end) = watch::channel(None);
        let (watched, at) = (process.clone(), place.clone());
        let given_up = Arc::new(AtomicBool::new(false));
        let was_given_up = given_up.clone();
        tokio::spawn(async move {
            let how = how.await;
            watched.ended().await;
            let (volume, worker) = (&at.volume_id, watched.identity());
            let (words, reason) = match how {
                End::Done => {
                    tracing::info!(volume, %worker, "worker ended with its mount");
                    ("it ended with its mount".to_owned(), None)
                }
                End::Died(reason, why) => {
                    let (reason, why) = with_cause(reason, why, at.cgroup.as_ref());
                    let reason = if was_given_up.load(Ordering::Relaxed) { Reason::Silent } else { reason };
                    metrics::counter!(WORKER_DEATHS, "reason" => reason.word()).increment(1);
                    tracing::error!(volume, %worker, "worker is gone ({why}); its mount answers ENOTCONN until it is published anew");
                    (why, Some(reason))
                }
            };
            tell.send_replace(Some(Ended { words, reason }));
        });
        Live { process, place, questions, end, given_up }
    }

    pub(super) fn identity(&self) -> Identity {
        self.process.identity()
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        if self.process.is_running() {
            return None;
        }
        Some(self.end.borrow().as_ref().map_or_else(|| "it has just ended".into(), |ended| ended.words.clone()))
    }

    /// Why it ended before its mount did, if it did and as soon as that is known.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.end.borrow().as_ref().and_then(|ended| ended.reason)
    }

    /// Its resident memory in bytes.
    pub(super) fn memory(&self) -> Option<u64> {
        self.process.memory()
    }

    /// Whether it answers within `deadline`.
    pub(super) async fn answers(&self, deadline: Duration) -> bool {
        self.ask(deadline, Question::Ping).await.is_some()
    }

    /// What its mount knows of its use.
    pub(super) async fn usage(&self) -> Result<Usage, Error> {
        self.ask(ANSWER, Question::Usage).await.ok_or_else(|| self.silent())
    }

    /// What it has counted; `None` where it does not answer, or counts by another table.
    pub(super) async fn numbers(&self) -> Option<Numbers> {
        self.ask(ANSWER, Question::Numbers).await.and_then(Numbers::understood)
    }

    /// Has it go over to `credential`, which it proves first. `None` where it has not said within `patience` that it
    /// did or that the store refuses.
    pub(super) async fn renew(
        &self,
        credential: Credential,
        same_principal: bool,
        patience: Duration,
    ) -> Option<Result<(), Refusal>> {
        self.ask(patience, |tell| Question::Credential { credential, same_principal, tell }).await
    }

    /// Has it read the volume's own file. `None` where it does not say within `patience` that it has, or why not.
    pub(super) async fn reload(&self, patience: Duration) -> Option<Result<(), Refusal>> {
        self.ask(patience, Question::Reload).await
    }

    /// Has it log by another filter, soon.
    pub(super) async fn log_by(&self, filter: String) {
        // It fails where the worker is gone.
        let _ = timeout(ANSWER, self.questions.send(Question::Log(filter))).await;
    }

    /// `None` where it is gone or silent for so long.
    async fn ask<T>(&self, deadline: Duration, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let ask = async {
            self.questions.send(question(tell)).await.ok()?;
            told.await.ok()
        };
        timeout(deadline, ask).await.ok().flatten()
    }

    /// Waits for its end; false where that takes longer.
    pub(super) async fn wait(&self, deadline: Duration) -> bool {
        let mut end = self.end.clone();
        timeout(deadline, end.wait_for(Option::is_some)).await.is_ok()
    }

    /// Ends it at once, and with it every call that waits for it.
    pub(super) async fn kill(&self) {
        if self.process.is_running() {
            self.given_up.store(true, Ordering::Relaxed);
        }
        end(&self.process, &self.place).await;
    }

    pub(super) fn silent(&self) -> Error {
        Error::Worker(match self.ended() {
            Some(why) => format!("the worker of volume {} is gone: {why}", self.place.volume_id),
            None => format!("the worker of volume {} does not answer", self.place.volume_id),
        })
    }
}

async fn end(process: &Process, place: &Place) {
    process.kill();
    let Place { point, device, .. } = place.clone();
    let _ = kernel::within(ANSWER, move || kernel::abort(&point, &device)).await;
}

/// A kill for want of memory looks like any other, unless its cgroup tells.
fn with_cause(reason: Reason, why: String, cgroup: Option<&Cgroup>) -> (Reason, String) {
    let Some(limit) = cgroup.and_then(Cgroup::was_exceeded) else { return (reason, why) };
    (
        Reason::Memory,
        format!(
            "it needed more than the {} MiB of memory that its volume's `memory` allows, and the kernel killed it: raise \
             `memory`; {why}",
            limit >> 20
        ),
    )
}
