//! FUSE: requests of the kernel to calls of [`Vfs`] and back. The kernel's and fuser's words stop here.
//!
//! Several threads read one descriptor. None of them waits for the network ([`answer`]), and no reply waits for an
//! invalidation: those are sent from a thread of their own, since the kernel lets one wait for pages whose READ is
//! still open.

mod adapter;
mod answer;
mod errno;
mod gather;
mod handshake;
mod never_again;
mod operations;
mod prune;
mod reply;
mod silences;
mod waiting;
mod words;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::tunable::Span;
use crate::vfs::{Invalidation, Vfs};
use adapter::Adapter;
use answer::Answers;
use gather::Gather;
use operations::Operations;
use prune::Prune;
use waiting::Waiting;

/// How a connection is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Deadline of a request, after which it is EIO; where bytes are moved, of progress.
    pub timeout: Span,
    /// Threads that read requests.
    pub threads: usize,
    /// Requests that the kernel sends ahead of anybody waiting, read-ahead above all.
    pub max_background: u16,
    /// Files may be read past this process, where the kernel can ([`Session::passes`]).
    pub passthrough: bool,
    /// The kernel opens files without asking; it then reads none past this process.
    pub skip_opens: bool,
}

impl Default for Config {
    fn default() -> Self {
        let timeout = Duration::from_secs(60).into();
        Config { timeout, threads: 4, max_background: 64, passthrough: false, skip_opens: false }
    }
}

/// A connection being served, until the mount goes.
#[derive(Debug, Clone)]
pub struct Session {
    ended: watch::Receiver<Option<Result<(), String>>>,
    waiting: Waiting,
    passes: bool,
}

impl Session {
    /// Serves `vfs` on `device`, an open `/dev/fuse` that is mounted or about to be. Answers the kernel's INIT before
    /// it returns, and so blocks until the mount is made.
    ///
    /// # Errors
    /// Where the kernel's side went away during the handshake, or speaks a FUSE older than 7.6.
    pub fn start(device: OwnedFd, vfs: Arc<Vfs>, config: &Config, runtime: &Handle) -> io::Result<Session> {
        let tasks = TaskTracker::new();
        let waiting = Waiting::default();
        let answers = Answers {
            vfs: vfs.clone(),
            runtime: runtime.clone(),
            timeout: config.timeout.clone(),
            tasks: tasks.clone(),
            waiting: waiting.clone(),
            operations: Operations::new(),
        };
        let mut options = fuser::Config::default();
        options.n_threads = Some(config.threads.max(1));
        // Who may do what is decided by the kernel (`default_permissions`) or by the store.
        let passes = Arc::new(AtomicBool::new(config.passthrough && !config.skip_opens));
        let gather = Gather::on(device.try_clone()?.into());
        let mut prune = Prune::on(device.try_clone()?.into());
        let adapter = Adapter::new(answers, config.max_background, passes.clone(), config.skip_opens, gather);
        let session = fuser::Session::from_fd(adapter, device, SessionACL::All, options)?;
        let (notifier, invalidations, told) = (session.notifier(), vfs.invalidations(), vfs.clone());
        let named = |name: &str| thread::Builder::new().name(name.into());
        named("fuse-invalidate").spawn(move || invalidate(&notifier, &mut prune, &invalidations, &told))?;
        let (end, ended) = watch::channel(None);
        let runtime = runtime.clone();
        named("fuse-session").spawn(move || {
            let outcome = session.run().map_err(|error| error.to_string());
            // What was asked before the mount went is finished: a file closed is a file published.
            tasks.close();
            runtime.block_on(async {
                tasks.wait().await;
                vfs.shut_down().await;
            });
            let _ = end.send(Some(outcome));
        })?;
        Ok(Session { ended, waiting, passes: passes.load(Ordering::Relaxed) })
    }

    /// Whether the kernel reads files of the node by itself where it is told to ([`Vfs::pass_by`]).
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// The threads whose requests have waited for so long, at most `most` of them, by their ids in the pid namespace of
    /// whoever mounted; as soon as there are any. One that cannot be seen from there is not among them.
    pub async fn long_waiting(&self, patience: Duration, most: usize) -> Vec<u32> {
        self.waiting.long(patience, most).await
    }

    /// Answers what these threads wait for with EINTR: they are being killed.
    pub fn let_go(&self, callers: &[u32]) {
        self.waiting.let_go(callers);
    }

    /// Waits until the mount is gone, by unmounting or by an abort, and all that was begun is finished.
    ///
    /// # Errors
    /// Where reading requests failed instead.
    pub async fn ended(&self) -> io::Result<()> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())).map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the thread that served the mount died")),
        }
    }
}

/// Tells the kernel what to forget. May wait long for one: nobody waits for this.
fn invalidate(notifier: &Notifier, prune: &mut Prune, invalidations: &mpsc::Receiver<Invalidation>, vfs: &Vfs) {
    for what in invalidations {
        let told = match &what {
            Invalidation::Entry { parent, name } => {
                notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes()))
            }
            Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
            Invalidation::Unused(inos) => prune.ask(inos),
            Invalidation::Fence(number) => {
                vfs.passed(*number);
                continue;
            }
        };
        if let Err(error) = told {
            tracing::debug!(%error, ?what, "the kernel did not take an invalidation");
        }
    }
}
