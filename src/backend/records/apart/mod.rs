//! Records kept by a process of their own: where the store's client library has things that are the whole process's, as
//! HDFS' has logins and connections, two stores would meet in them.
//!
//! The process ([`serve`]) is started with its end of a socket pair as standard input, with an empty environment, when
//! something is first asked of it ([`Clerks`]). Whoever asks gives up what nobody waits for any more. One that dies, or
//! says nothing for [`SILENCE`] while it is asked something, is killed; what was asked of it is `Unavailable`, and what is
//! asked next starts another.

mod clerk;
mod snapshots;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use self::words::{Ask, Body, Failed, FromClerk, Line, ToClerk, Told, VERSION, path, text};
use super::{Directory, Extent, Measured, Records, Removed, Tag};
use crate::auth::Credential;
use crate::backend::snapshots::Snapshots;
use crate::backend::{Config, Error, ErrorKind, Op, Path, Result};

pub use clerk::{open, serve};
pub use words::Opening;

/// The subcommand that serves.
pub const COMMAND: &str = "clerk";

/// How long a process may say nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// How such processes are started.
#[derive(Debug, Clone)]
pub struct Clerks {
    /// The binary.
    pub program: PathBuf,
    /// What they log, as `tracing_subscriber::EnvFilter` reads it.
    pub log_filter: String,
    /// JSON rather than text.
    pub log_json: bool,
}

impl Clerks {
    /// The control plane's view of a whole store that has snapshots, used as `credential`, by a process that is started when it
    /// is needed, and ends with both of what this returns. Asks nothing.
    pub fn open(&self, store: &Config, credential: &Credential) -> (Arc<dyn Records>, Arc<dyn Snapshots>) {
        let (clerks, store, credential) = (self.clone(), store.clone(), credential.clone());
        let apart = Apart::new(SILENCE, move || {
            let opening = Opening {
                version: VERSION.into(),
                store: store.clone(),
                credential: credential.clone(),
                log_filter: clerks.log_filter.clone(),
                log_json: clerks.log_json,
            };
            let program = clerks.program.clone();
            Box::pin(async move {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let child = Command::new(program)
                    .arg(COMMAND)
                    .env_clear()
                    .current_dir("/")
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::null())
                    .kill_on_drop(true)
                    .spawn()?;
                let mut line = Line::new(tokio::net::UnixStream::from_std(ours)?);
                line.send(&opening).await?;
                Ok((line, Some(child)))
            })
        });
        (Arc::new(apart.clone()), Arc::new(apart))
    }
}

/// Starts a clerk: our end, and the process, if it is one of its own.
type Start = dyn Fn() -> BoxFuture<'static, io::Result<(Line, Option<Child>)>> + Send + Sync;

/// See the module. Cloning shares it.
#[derive(Clone)]
struct Apart(Arc<Inner>);

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
struct Answers {
    running: Arc<Running>,
    number: u64,
    from: mpsc::UnboundedReceiver<Answer>,
    at: Path,
}

impl Answers {
    async fn next(&mut self) -> Result<Told> {
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
    fn new(
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

    async fn ask_many(&self, at: &Path, what: Ask) -> Result<Answers> {
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

    async fn ask(&self, at: &Path, what: Ask) -> Result<Told> {
        self.ask_many(at, what).await?.next().await
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

fn strange<T>(at: &Path) -> Result<T> {
    Err(Error::new(
        ErrorKind::Corrupt,
        Op::Record,
        at,
        "the process that keeps this store's records answered something else",
    ))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Records for Apart {
    async fn excludes(&self) -> Result<bool> {
        let at = Path::root();
        match self.ask(&at, Ask::Excludes).await? {
            Told::Is(is) => Ok(is),
            _ => strange(&at),
        }
    }

    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag> {
        match self.ask(at, Ask::Create { at: text(at)?, body: Body(body) }).await? {
            Told::Tag(tag) => Ok(Tag(tag)),
            _ => strange(at),
        }
    }

    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)> {
        match self.ask(at, Ask::Get { at: text(at)? }).await? {
            Told::Record { body, tag } => Ok((body.0, Tag(tag))),
            _ => strange(at),
        }
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag> {
        match self.ask(at, Ask::Replace { at: text(at)?, tag: tag.0.clone(), body: Body(body) }).await? {
            Told::Tag(tag) => Ok(Tag(tag)),
            _ => strange(at),
        }
    }

    async fn remove(&self, at: &Path) -> Result<()> {
        match self.ask(at, Ask::Remove { at: text(at)? }).await? {
            Told::Done => Ok(()),
            _ => strange(at),
        }
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>> {
        let (apart, dir, after) = (self.clone(), dir.clone(), after.map(text).transpose());
        let begin = async move {
            let what = Ask::List { dir: text(&dir)?, after: after? };
            let answers = apart.ask_many(&dir, what).await?;
            Ok::<_, Error>(stream::try_unfold(answers, async |mut answers| match answers.next().await? {
                Told::Paths(page) => Ok(Some((stream::iter(page.into_iter().map(|one| path(&one))), answers))),
                Told::Done => Ok(None),
                _ => strange(&answers.at),
            }))
        };
        stream::once(begin).try_flatten().try_flatten().boxed()
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured> {
        match self.ask(dir, Ask::Measure { dir: text(dir)?, from }).await? {
            Told::Measured(measured) => Ok(measured),
            _ => strange(dir),
        }
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool> {
        match self.ask(path, Ask::IsVacant { path: text(path)? }).await? {
            Told::Is(is) => Ok(is),
            _ => strange(path),
        }
    }

    async fn remove_page(&self, dir: &Path, extent: Extent) -> Result<Removed> {
        match self.ask(dir, Ask::RemovePage { dir: text(dir)?, extent }).await? {
            Told::Removed(removed) => Ok(removed),
            _ => strange(dir),
        }
    }

    async fn make_directory(&self, at: &Path, how: &Directory) -> Result<Option<String>> {
        match self.ask(at, Ask::MakeDirectory { at: text(at)?, how: *how }).await? {
            Told::Text(identity) => Ok(identity),
            _ => strange(at),
        }
    }

    async fn directory(&self, at: &Path) -> Result<Option<String>> {
        match self.ask(at, Ask::Directory { at: text(at)? }).await? {
            Told::Text(identity) => Ok(identity),
            _ => strange(at),
        }
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> Result<bool> {
        match self.ask(at, Ask::SetQuota { at: text(at)?, bytes }).await? {
            Told::Is(is) => Ok(is),
            _ => strange(at),
        }
    }

    async fn exposure(&self) -> Result<Option<String>> {
        match self.ask(&Path::root(), Ask::Exposure).await? {
            Told::Text(why) => Ok(why),
            _ => strange(&Path::root()),
        }
    }

    async fn halted(&self) -> Result<Option<String>> {
        match self.ask(&Path::root(), Ask::Halted).await? {
            Told::Text(why) => Ok(why),
            _ => strange(&Path::root()),
        }
    }

    async fn clear(&self) -> Result<u64> {
        match self.ask(&Path::root(), Ask::Clear).await? {
            Told::Count(count) => Ok(count),
            _ => strange(&Path::root()),
        }
    }
}
