//! A worker that serves: watched until it ends, pinged so that a frozen one is ended, and asked.
//!
//! One that this node plugin started is asked over its socket. One that an earlier node plugin started has lost its
//! socket and serves on; it is asked through its mount (statfs).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};

use super::handover::{Channel, FromWorker, ToWorker};
use super::process::{ExitStatus, Identity, Process};
use super::{Error, Usage, kernel};
use crate::observability::metrics::WORKER_DEATHS;

/// A worker is pinged this often within the deadline. Pings are counted, not seconds, so that a machine that slept
/// ends no worker.
const PINGS: u32 = 5;

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
}

/// A worker, until it has ended and after.
#[derive(Debug)]
pub(super) struct Live {
    process: Arc<Process>,
    place: Place,
    /// Where there is a socket.
    questions: Option<mpsc::Sender<Question>>,
    end: watch::Receiver<Option<String>>,
}

/// How a worker ended.
enum End {
    /// Its mount went, and it finished what it had begun. Of one whose parent we are not, nobody says otherwise.
    Done,
    /// Before its mount went, and why.
    Died(String),
}

#[derive(Debug)]
enum Question {
    Ping(oneshot::Sender<()>),
    Usage(oneshot::Sender<Usage>),
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
            let why = converse(channel, asked, deadline / PINGS, &at).await;
            if let Some(why) = &why {
                tracing::error!(volume = at.volume_id, worker = %watched.identity(), "worker is ended: {why}");
                end(&watched, &at).await;
            }
            let status = exit.words().await;
            match why {
                Some(why) => End::Died(format!("{why} ({status})")),
                None if status == CLEAN => End::Done,
                None => End::Died(status),
            }
        };
        Live::watch(process, place, Some(questions), watching)
    }

    /// Watches a worker that an earlier node plugin started.
    pub(super) fn adopt(process: Process, place: Place, deadline: Duration) -> Live {
        let process = Arc::new(process);
        let (watched, at) = (process.clone(), place.clone());
        let watching = async move {
            loop {
                let point = at.point.clone();
                tokio::select! {
                    () = watched.ended() => return End::Done,
                    answer = kernel::within(deadline, move || kernel::usage(&point)) => {
                        if matches!(answer, Ok(None)) {
                            break;
                        }
                    }
                }
                let _ = timeout(deadline / PINGS, watched.ended()).await;
            }
            let why = format!("it did not answer for {deadline:?}");
            tracing::error!(volume = at.volume_id, worker = %watched.identity(), "worker is ended: {why}");
            end(&watched, &at).await;
            End::Died(why)
        };
        Live::watch(process, place, None, watching)
    }

    /// `how` resolves when the worker has ended or is about to.
    fn watch(
        process: Arc<Process>,
        place: Place,
        questions: Option<mpsc::Sender<Question>>,
        how: impl Future<Output = End> + Send + 'static,
    ) -> Live {
        let (tell, end) = watch::channel(None);
        let (watched, at) = (process.clone(), place.clone());
        tokio::spawn(async move {
            let how = how.await;
            watched.ended().await;
            let (volume, worker) = (&at.volume_id, watched.identity());
            let why = match how {
                End::Done => {
                    tracing::info!(volume, %worker, "worker ended with its mount");
                    "it ended with its mount".to_owned()
                }
                End::Died(why) => {
                    metrics::counter!(WORKER_DEATHS).increment(1);
                    tracing::error!(volume, %worker, "worker is gone ({why}); its mount answers ENOTCONN until it is published anew");
                    why
                }
            };
            tell.send_replace(Some(why));
        });
        Live { process, place, questions, end }
    }

    pub(super) fn identity(&self) -> Identity {
        self.process.identity()
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        if self.process.is_running() {
            return None;
        }
        Some(self.end.borrow().clone().unwrap_or_else(|| "it has just ended".into()))
    }

    /// Whether it answers within `deadline`.
    pub(super) async fn answers(&self, deadline: Duration) -> bool {
        let Some(questions) = &self.questions else {
            return self.statfs(deadline).await.is_ok();
        };
        let (tell, told) = oneshot::channel();
        let ask = async {
            questions.send(Question::Ping(tell)).await.ok()?;
            told.await.ok()
        };
        matches!(timeout(deadline, ask).await, Ok(Some(())))
    }

    /// What its mount knows of its use.
    pub(super) async fn usage(&self) -> Result<Usage, Error> {
        let Some(questions) = &self.questions else {
            return self.statfs(ANSWER).await;
        };
        let (tell, told) = oneshot::channel();
        let ask = async {
            questions.send(Question::Usage(tell)).await.ok()?;
            told.await.ok()
        };
        timeout(ANSWER, ask).await.ok().flatten().ok_or_else(|| self.silent())
    }

    /// Waits for its end; false where that takes longer.
    pub(super) async fn wait(&self, deadline: Duration) -> bool {
        let mut end = self.end.clone();
        timeout(deadline, end.wait_for(Option::is_some)).await.is_ok()
    }

    /// Ends it at once, and with it every call that waits for it.
    pub(super) async fn kill(&self) {
        end(&self.process, &self.place).await;
    }

    async fn statfs(&self, deadline: Duration) -> Result<Usage, Error> {
        let point = self.place.point.clone();
        match kernel::within(deadline, move || kernel::usage(&point)).await {
            Ok(Some(usage)) => usage,
            Ok(None) => Err(self.silent()),
            Err(error) => Err(Error::System(format!("no thread to ask the mount on: {error}"))),
        }
    }

    fn silent(&self) -> Error {
        Error::Worker(match self.ended() {
            Some(why) => format!("the worker of volume {} is gone: {why}", self.place.volume_id),
            None => format!("the worker of volume {} does not answer", self.place.volume_id),
        })
    }
}

/// Talks with a worker until it is gone. `Some`: it must be ended, and why.
async fn converse(
    mut channel: Channel,
    mut asked: mpsc::Receiver<Question>,
    pulse: Duration,
    place: &Place,
) -> Option<String> {
    let mut ticks = tokio::time::interval(pulse);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = 0;
    let (mut pings, mut usages) = (VecDeque::new(), VecDeque::new());
    loop {
        let sent = tokio::select! {
            biased;
            message = channel.receive::<FromWorker>() => match message {
                // Pings are answered in turn, so that an answer to a later one is one to all before.
                Ok((FromWorker::Pong, _)) => {
                    unanswered = 0;
                    if let Some(Some(tell)) = pings.pop_front() {
                        let _ = oneshot::Sender::<()>::send(tell, ());
                    }
                    Ok(())
                }
                Ok((FromWorker::Usage(usage), _)) => {
                    if let Some(tell) = usages.pop_front() {
                        let _ = oneshot::Sender::<Usage>::send(tell, usage);
                    }
                    Ok(())
                }
                Ok((FromWorker::ReadAhead { kib }, _)) => {
                    tokio::spawn(set_read_ahead(place.clone(), kib));
                    Ok(())
                }
                Ok((FromWorker::Memory { .. } | FromWorker::Ended, _)) => Ok(()),
                Ok((other, _)) => return Some(format!("it said {other:?} out of turn")),
                Err(super::handover::Error::Closed) => return None,
                Err(error) => return Some(error.to_string()),
            },
            Some(question) = asked.recv() => match question {
                Question::Ping(tell) => {
                    pings.push_back(Some(tell));
                    channel.send(&ToWorker::Ping).await
                }
                Question::Usage(tell) => {
                    usages.push_back(tell);
                    channel.send(&ToWorker::Usage).await
                }
            },
            _ = ticks.tick() => {
                if unanswered == PINGS {
                    return Some(format!("it did not answer for {:?}", pulse * PINGS));
                }
                unanswered += 1;
                pings.push_back(None);
                channel.send(&ToWorker::Ping).await
            }
        };
        match sent {
            Ok(()) => {}
            Err(super::handover::Error::Closed) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}

async fn set_read_ahead(place: Place, kib: u32) {
    let volume = place.volume_id.clone();
    let outcome = kernel::within(ANSWER, move || kernel::set_read_ahead(&place.device, kib)).await;
    match outcome {
        Ok(Some(Ok(()))) => tracing::info!(volume, kib, "the kernel's read-ahead was changed"),
        Ok(Some(Err(error))) => tracing::warn!(volume, "the kernel's read-ahead stays as it was: {error}"),
        Ok(None) => tracing::warn!(volume, "the kernel's read-ahead could not be changed in time"),
        Err(error) => tracing::warn!(volume, "no thread to change the kernel's read-ahead on: {error}"),
    }
}

async fn end(process: &Process, place: &Place) {
    process.kill();
    let device = place.device.clone();
    let _ = kernel::within(ANSWER, move || kernel::abort(&device)).await;
}
