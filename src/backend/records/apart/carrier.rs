//! Frames carried to a clerk and back, and who waits for them.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::words::{Ask, Failed, FromClerk, Line, ToClerk, Told};
use crate::backend::{Error, ErrorKind, Op, Path, Result};

/// Starts a clerk: our end, and the process, if it is one of its own.
type Start = dyn Fn() -> BoxFuture<'static, io::Result<(Line, Option<Child>)>> + Send + Sync;

/// Asks a clerk. Cloning shares it.
#[derive(Clone)]
pub(super) struct Apart(Arc<Inner>);

struct Inner {
    silence: Duration,
    start: Box<Start>,
    /// The one that is asked.
    running: tokio::sync::Mutex<Option<Arc<Running>>>,
}

impl Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").finish_non_exhaustive()
    }
}

/// A clerk that runs, or did. It is killed when this is dropped.
struct Running {
    asks: mpsc::UnboundedSender<ToClerk>,
    waiting: Waiting,
    last: AtomicU64,
}

/// Who waits for an answer, by the question's number; `None` once no answer will come.
type Waiting = Arc<Mutex<Option<HashMap<u64, mpsc::UnboundedSender<Answer>>>>>;

type Answer = std::result::Result<Told, Failed>;

fn lock(waiting: &Waiting) -> MutexGuard<'_, Option<HashMap<u64, mpsc::UnboundedSender<Answer>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answers to one question. Dropped, it is given up.
pub(super) struct Answers {
    running: Arc<Running>,
    number: u64,
    from: mpsc::UnboundedReceiver<Answer>,
    at: Path,
}

impl Answers {
    /// That it was something else.
    pub(super) fn strange(&self) -> Error {
        strange(&self.at)
    }

    /// The next of them.
    pub(super) async fn next(&mut self) -> Result<Told> {
        match self.from.recv().await {
            Some(answer) => answer.map_err(Failed::error),
            None => Err(gone(
                &self.at,
                "the process that keeps this store's records has ended, or was ended for saying nothing",
            )),
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let waited = lock(&self.running.waiting).as_mut().and_then(|waiting| waiting.remove(&self.number));
        if waited.is_some() {
            let _ = self.running.asks.send(ToClerk::GiveUp { number: self.number });
        }
    }
}

impl Apart {
    /// Asks nothing: a clerk is started by `start` when it is needed, and ended where it says nothing for `silence`.
    pub(super) fn new(
        silence: Duration,
        start: impl Fn() -> BoxFuture<'static, io::Result<(Line, Option<Child>)>> + Send + Sync + 'static,
    ) -> Apart {
        Apart(Arc::new(Inner { silence, start: Box::new(start), running: tokio::sync::Mutex::new(None) }))
    }

    /// The clerk, started where none runs.
    async fn running(&self, at: &Path) -> Result<Arc<Running>> {
        let mut running = self.0.running.lock().await;
        if let Some(running) = running.as_ref().filter(|running| lock(&running.waiting).is_some()) {
            return Ok(running.clone());
        }
        let unstarted =
            |why: String| gone(at, "the process that keeps this store's records cannot be started").with_detail(why);
        let starting = async {
            let (mut line, child) = (self.0.start)().await?;
            let ready = line.receive::<FromClerk>().await?;
            Ok::<_, io::Error>((line, child, ready))
        };
        let (line, child, ready) = match timeout(self.0.silence, starting).await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(unstarted(error.to_string())),
            Err(_) => return Err(unstarted("it said nothing".into())),
        };
        match ready {
            Some(FromClerk::Ready(Ok(()))) => {}
            Some(FromClerk::Ready(Err(failed))) => return Err(failed.error()),
            _ => return Err(unstarted("it ended at once".into())),
        }
        let (asks, asked) = mpsc::unbounded_channel();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(carry(line, child, asked, waiting.clone(), self.0.silence));
        Ok(running.insert(Arc::new(Running { asks, waiting, last: AtomicU64::new(0) })).clone())
    }

    /// Asks what is answered more than once.
    pub(super) async fn ask_many(&self, at: &Path, what: Ask) -> Result<Answers> {
        let running = self.running(at).await?;
        let number = running.last.fetch_add(1, Ordering::Relaxed);
        let (to, from) = mpsc::unbounded_channel();
        // Where it has ended meanwhile, `to` is dropped, and the answer is that.
        if let Some(waiting) = lock(&running.waiting).as_mut() {
            waiting.insert(number, to);
        }
        let _ = running.asks.send(ToClerk::Ask { number, what });
        Ok(Answers { running, number, from, at: at.clone() })
    }

    /// Asks, and takes the answer as what it has to be.
    pub(super) async fn ask<T>(&self, at: &Path, what: Ask, told: impl FnOnce(Told) -> Option<T>) -> Result<T> {
        let answer = self.ask_many(at, what).await?.next().await?;
        told(answer).ok_or_else(|| strange(at))
    }
}

/// Carries frames until the clerk has ended, is silent, or nobody asks any more; it is ended then.
async fn carry(
    mut line: Line,
    child: Option<Child>,
    mut asked: mpsc::UnboundedReceiver<ToClerk>,
    waiting: Waiting,
    silence: Duration,
) {
    // When it was asked to say something, since when it has not.
    let mut pinged: Option<Instant> = None;
    let mut look = tokio::time::interval(silence / 4);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let why = loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { break None };
                if let Err(error) = send(&mut line, &ask, silence).await {
                    break Some(error.to_string());
                }
            }
            frame = line.receive::<FromClerk>() => {
                pinged = None;
                match frame {
                    Ok(Some(FromClerk::Told { number, what })) => hand_on(&waiting, number, what),
                    Ok(Some(FromClerk::Pong | FromClerk::Ready(_))) => {}
                    Ok(None) => break Some("it ended".to_owned()),
                    Err(error) => break Some(error.to_string()),
                }
            }
            _ = look.tick() => {
                let is_asked = lock(&waiting).as_ref().is_some_and(|waiting| !waiting.is_empty());
                match pinged.filter(|_| is_asked) {
                    Some(since) if since.elapsed() >= silence => {
                        break Some(format!("it said nothing for {} s", silence.as_secs_f32()));
                    }
                    Some(_) => {}
                    None if is_asked => {
                        pinged = Some(Instant::now());
                        if let Err(error) = send(&mut line, &ToClerk::Ping, silence).await {
                            break Some(error.to_string());
                        }
                    }
                    None => pinged = None,
                }
            }
        }
    };
    lock(&waiting).take();
    drop(line);
    if let Some(why) = why {
        tracing::warn!(why, "a process that keeps records is started anew when it is next asked");
    }
    if let Some(mut child) = child {
        // Reaped, however long that takes.
        if let Err(error) = child.kill().await {
            tracing::warn!(%error, "a process that keeps records cannot be ended");
        }
    }
}

/// One that hangs takes no frames.
async fn send(line: &mut Line, frame: &ToClerk, silence: Duration) -> io::Result<()> {
    timeout(silence, line.send(frame)).await.unwrap_or_else(|_| Err(io::Error::other("it takes no questions")))
}

/// Gives an answer to whoever waits for it.
fn hand_on(waiting: &Waiting, number: u64, what: Answer) {
    let mut waiting = lock(waiting);
    let Some(waiting) = waiting.as_mut() else { return };
    let is_last = !matches!(what, Ok(Told::Paths(_) | Told::Copied(_)));
    if let Some(to) = waiting.get(&number) {
        let _ = to.send(what);
    }
    if is_last {
        waiting.remove(&number);
    }
}

fn gone(at: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, Op::Record, at, format!("{why}: it is started anew with the next call"))
}

fn strange(at: &Path) -> Error {
    let why = "the process that keeps this store's records answered something else";
    Error::new(ErrorKind::Corrupt, Op::Record, at, why)
}
