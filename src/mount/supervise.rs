//! One worker as the node plugin sees it: the hand-over, and then a watch over it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::handover::{self, Begin, Channel, FromWorker, Log, Refusal, ToWorker, VERSION, Volume};
use super::process::{ExitStatus, Identity, Process, spawn};
use super::{Config, Error, Usage, kernel};
use crate::observability::metrics::WORKER_DEATHS;

/// How long the kernel's handshake may take: it asks nothing of the store.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a worker may take to confine itself.
const CONFINE: Duration = Duration::from_secs(10);

/// A worker on its way to serve.
#[derive(Debug)]
pub(super) struct Starting {
    channel: Channel,
    process: Arc<Process>,
    exit: ExitStatus,
}

/// A worker that serves, or did.
#[derive(Debug)]
pub(super) struct Worker {
    process: Arc<Process>,
    /// Asks the watch for the mount's use. `None` for a worker that an earlier node plugin started: its socket went
    /// with that one.
    questions: Option<mpsc::Sender<oneshot::Sender<Usage>>>,
    /// Answered the last ping, as far as it was asked.
    responsive: Arc<AtomicBool>,
}

impl Starting {
    /// Starts a process that confines itself to `uid`.
    pub(super) async fn spawn(config: &Config, uid: Option<u32>) -> Result<Starting, Error> {
        let (process, socket, exit) = spawn(&config.program)
            .map_err(|error| Error::System(format!("cannot start a worker ({}): {error}", config.program.display())))?;
        let fail = |error: std::io::Error| Error::System(format!("the worker's socket: {error}"));
        let mut starting = Starting { channel: Channel::new(socket).map_err(fail)?, process: Arc::new(process), exit };
        let log = Log { filter: config.log_filter.clone(), json: config.log_json };
        starting.send(&ToWorker::Begin(Begin { version: VERSION.into(), uid, log })).await?;
        match starting.receive(CONFINE, "confine itself").await? {
            FromWorker::Ready { version } => {
                starting.channel.set_peer(&version);
                Ok(starting)
            }
            other => Err(starting.lost(&format!("it answered {other:?} to the first message")).await),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.process.identity()
    }

    /// Gives it the volume and the credential; returns, once the store has accepted them, whether the store decides
    /// by its own permissions.
    pub(super) async fn give(&mut self, volume: Volume) -> Result<bool, Error> {
        let patience = volume.spec.options.timeout;
        self.send(&ToWorker::Volume(Box::new(volume))).await?;
        // The worker's own deadline is the request's, which says why; this one is for a worker that hangs.
        match self.receive(patience + CONFINE, "hear from the store").await? {
            FromWorker::Accepted { own_permissions } => Ok(own_permissions),
            FromWorker::Refused(refusal) => Err(match refusal {
                Refusal::NoSuchVolume(message) => Error::NoSuchVolume(message),
                Refusal::Store { kind, message } => Error::Store { kind, message },
                Refusal::Worker(message) => Error::Worker(message),
            }),
            other => Err(self.lost(&format!("it answered {other:?} to the volume")).await),
        }
    }

    /// Gives it the device, whose last copy in this process this is, and waits for the kernel's handshake.
    pub(super) async fn serve(
        mut self,
        device: File,
        config: &Config,
        name: String,
        minor: String,
    ) -> Result<Worker, Error> {
        let sent = self.channel.send_with(&ToWorker::Device, device.as_fd()).await;
        drop(device);
        if let Err(error) = sent {
            return Err(self.lost(&error.to_string()).await);
        }
        match self.receive(HANDSHAKE, "serve").await? {
            FromWorker::Serving => {}
            FromWorker::Refused(Refusal::Worker(message)) => return Err(Error::Worker(message)),
            other => return Err(self.lost(&format!("it answered {other:?} to the device")).await),
        }
        let (questions, asked) = mpsc::channel(8);
        let responsive = Arc::new(AtomicBool::new(true));
        let watch = Watch {
            channel: self.channel,
            process: self.process.clone(),
            exit: self.exit,
            responsive: responsive.clone(),
            deadline: config.ping_deadline,
            name,
            minor,
        };
        tokio::spawn(watch.run(asked));
        Ok(Worker { process: self.process, questions: Some(questions), responsive })
    }

    /// Ends a worker that will not serve.
    pub(super) async fn end(self) {
        self.process.kill();
        self.process.ended().await;
    }

    async fn send(&mut self, message: &ToWorker) -> Result<(), Error> {
        match self.channel.send(message).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.lost(&error.to_string()).await),
        }
    }

    async fn receive(&mut self, patience: Duration, to: &str) -> Result<FromWorker, Error> {
        match timeout(patience, self.channel.receive()).await {
            Ok(Ok((message, _))) => Ok(message),
            Ok(Err(error)) => Err(self.lost(&error.to_string()).await),
            Err(_) => Err(self.lost(&format!("it did not {to} within {patience:?}")).await),
        }
    }

    /// What became of a worker that did not go on as it should.
    async fn lost(&mut self, why: &str) -> Error {
        self.process.kill();
        let end = self.exit.words().await;
        Error::Worker(format!("the volume's worker failed: {why} ({end}); its own log lines say more"))
    }
}

impl Worker {
    /// One that an earlier node plugin started, if it still runs.
    pub(super) fn adopt(identity: Identity) -> Option<Worker> {
        let process = Process::open(identity).ok().flatten()?;
        Some(Worker { process: Arc::new(process), questions: None, responsive: Arc::new(AtomicBool::new(true)) })
    }

    /// Runs and answers, as far as is known.
    pub(super) fn is_healthy(&self) -> bool {
        self.process.is_running() && self.responsive.load(Ordering::Relaxed)
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        self.process.kill();
    }

    /// Waits for its end; false where it has not come within `patience`.
    pub(super) async fn ended(&self, patience: Duration) -> bool {
        timeout(patience, self.process.ended()).await.is_ok()
    }

    /// Asks what the mount knows of its use; `None` where it cannot be asked or does not answer in time.
    pub(super) async fn usage(&self, patience: Duration) -> Option<Usage> {
        let (answer, reply) = oneshot::channel();
        self.questions.as_ref()?.try_send(answer).ok()?;
        timeout(patience, reply).await.ok()?.ok()
    }
}

/// Hears of a worker's end from its socket, and ends it when it no longer answers.
struct Watch {
    channel: Channel,
    process: Arc<Process>,
    exit: ExitStatus,
    responsive: Arc<AtomicBool>,
    deadline: Duration,
    name: String,
    /// `major:minor` of the mount.
    minor: String,
}

impl Watch {
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<Usage>>) {
        let mut ping = tokio::time::interval(self.deadline / 4);
        let mut heard = Instant::now();
        let mut waiting: Vec<oneshot::Sender<Usage>> = Vec::new();
        let why = loop {
            let outcome = tokio::select! {
                received = self.channel.receive::<FromWorker>() => match received {
                    Ok((message, _)) => {
                        heard = Instant::now();
                        if let FromWorker::Usage(usage) = message {
                            for answer in waiting.drain(..) {
                                // Who asked may have stopped waiting.
                                let _ = answer.send(usage);
                            }
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                _ = ping.tick() => {
                    if heard.elapsed() > self.deadline {
                        break format!("it did not answer for {:?}", self.deadline);
                    }
                    self.send(&ToWorker::Ping).await
                }
                Some(answer) = asked.recv() => {
                    waiting.push(answer);
                    self.send(&ToWorker::Usage).await
                }
            };
            if let Err(error) = outcome {
                break error.to_string();
            }
        };
        self.responsive.store(false, Ordering::Relaxed);
        // Killing it closes the last copy of the device, which ends the connection; the abort comes first since a
        // process in an uninterruptible wait does not die.
        if self.process.is_running() && timeout(Duration::from_millis(500), self.process.ended()).await.is_err() {
            kernel::abort(&self.minor);
            self.process.kill();
        }
        let end = self.exit.words().await;
        if end == "exit status: 0" {
            tracing::info!(volume = self.name, "worker ended with its mount");
        } else {
            metrics::counter!(WORKER_DEATHS).increment(1);
            tracing::error!(
                volume = self.name,
                why,
                end,
                "worker is gone; its mounts answer ENOTCONN until published anew"
            );
        }
    }

    /// A worker that is frozen reads nothing: a socket that is full must not hold the watch.
    async fn send(&self, message: &ToWorker) -> Result<(), handover::Error> {
        match timeout(self.deadline, self.channel.send(message)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(handover::Error::Closed),
        }
    }
}
