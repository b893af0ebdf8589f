//! `millrace worker`: serves one mount with one credential, as nobody.
//!
//! It hears everything over the socket that it finds as standard input. Before it hears the credential it has given up
//! what its parent had, which must happen while the process has one thread.

mod entry;
mod served;
mod sharing;
mod talk;
mod upkeep;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use tokio::sync::{mpsc, watch};

use crate::auth;
use crate::backend::{Backend, Limits, Swappable};
use crate::budget::Budget;
use crate::config::{AttributeChanges, Overwrite, VolumeSpec};
use crate::fuse::{self, Session};
use crate::mount::Health;
use crate::mount::confine::confine;
use crate::mount::handover::{Channel, FromWorker, Refusal, ToWorker, VERSION, Volume};
use crate::mount::line::Line;
use crate::observability::{self, Log};
use crate::prefetch::{self, ReadAhead};
use crate::tunable::Span;
use crate::vfs::{self, Vfs};
use served::{Served, State};
use sharing::{Others, Telling};

/// Threads of the runtime: the work is moving bytes between sockets, which more of them would not speed up.
const THREADS: usize = 2;

/// Serves until the mount is gone, also where the node plugin is gone before.
///
/// # Errors
/// What cannot be told over the socket: it is no node plugin's, or this process could not be confined.
pub(super) fn run() -> anyhow::Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (socket, listener, volume) = on_one_thread(async {
        let mut channel = Channel::new(UnixStream::from(socket))?;
        let (begin, listener) = match channel.receive().await {
            Ok((ToWorker::Begin(begin), listener)) => (begin, listener),
            Ok(_) => bail!("the first message is not the one that says who to be"),
            Err(error) => bail!("`millrace worker` is started by the node plugin, not by hand ({error})"),
        };
        channel.set_peer(&begin.version);
        confine(begin.uid).context("the worker cannot give up its privileges")?;
        observability::install(&Log { filter: begin.log.filter, json: begin.log.json })?;
        channel.send(&FromWorker::Ready { version: VERSION.into() }).await?;
        let (ToWorker::Volume(volume), _) = channel.receive().await? else { bail!("no volume was handed over") };
        Ok((channel.into_std()?, listener.map(UnixListener::from), *volume))
    })?;
    observability::name_volume(&volume.spec.volume_id);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(async { serve(Channel::new(socket)?, listener, volume).await });
    // A read that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    outcome
}

fn on_one_thread<T>(first: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(first)
}

async fn serve(mut channel: Channel, listener: Option<UnixListener>, volume: Volume) -> anyhow::Result<()> {
    let Volume { spec, credential } = volume;
    let credential = auth::Current::new(credential);
    let (budget, timeout) = (Budget::new(spec.options.memory), Span::new(spec.options.timeout));
    let limits = Limits { budget: budget.clone(), timeout: timeout.clone() };
    let entered = match entry::client(&spec, &credential, limits) {
        Ok(backend) => entry::enter(&*backend, &spec).await.map(|known| (Swappable::new(backend), known)),
        Err(refusal) => Err(refusal),
    };
    let (backend, known) = match entered {
        Ok(entered) => entered,
        Err(refusal) => {
            channel.send(&FromWorker::Refused(refusal)).await?;
            return Ok(());
        }
    };
    let own_permissions = backend.traits().own_permissions && !spec.options.enforce_modes;
    channel.send(&FromWorker::Accepted { own_permissions }).await?;
    let (ToWorker::Device, Some(device)) = channel.receive().await? else { bail!("no device was handed over") };
    let seen: Arc<dyn Backend> = Arc::new(backend.clone());
    let read_ahead = ReadAhead::new(seen.clone(), budget.clone(), prefetch::Config::for_budget(budget.total()));
    let ttl = Span::new(spec.options.ttl);
    let vfs = Arc::new(Vfs::new(seen, read_ahead.clone(), budget.clone(), shown(&spec, &ttl)));
    let (words, said) = mpsc::unbounded_channel();
    let state = State { known: None, options: spec.options.clone(), health: Health::default() };
    let served = Arc::new(Served {
        spec,
        credential: Mutex::new(credential),
        backend,
        read_ahead,
        budget,
        timeout,
        ttl,
        vfs,
        words,
        limited: watch::Sender::new(false),
        others: watch::Sender::new(Others::default()),
        state: Mutex::new(state),
        looking: tokio::sync::Mutex::default(),
    });
    if let Some(known) = known {
        served.learn(known);
    }
    let session = match start(device, &served).await {
        Ok(session) => session,
        Err(error) => {
            channel.send(&FromWorker::Refused(Refusal::Worker(format!("FUSE: {error:#}")))).await?;
            return Ok(());
        }
    };
    channel.send(&FromWorker::Serving).await?;
    let mut line = Line::new(channel, listener)?;
    tokio::spawn(upkeep::count(served.clone()));
    if served.spec.generation.is_some() {
        tokio::spawn(upkeep::look(served.clone()));
    }
    let mut telling = Telling::new(&served);
    tokio::select! {
        ended = session.ended() => ended?,
        never = talk::talk(&mut line, &served, &session, &mut telling, said) => match never {},
    }
    telling.finish(&mut line).await;
    line.send(&FromWorker::Ended).await;
    Ok(())
}

async fn start(device: OwnedFd, served: &Served) -> anyhow::Result<Session> {
    let config = fuse::Config { timeout: served.timeout.clone(), ..fuse::Config::default() };
    let vfs = served.vfs.clone();
    let runtime = tokio::runtime::Handle::current();
    Ok(tokio::task::spawn_blocking(move || Session::start(device, vfs, &config, &runtime)).await??)
}

fn shown(spec: &VolumeSpec, ttl: &Span) -> vfs::Config {
    let options = &spec.options;
    vfs::Config {
        uid: options.uid,
        gid: options.gid,
        file_mode: options.file_mode,
        dir_mode: options.dir_mode,
        ttl: ttl.clone(),
        immutable: options.immutable,
        read_only: spec.read_only,
        accept_attributes: options.attributes == AttributeChanges::Accepted,
        last_wins: options.overwrite == Overwrite::LastWins,
        announce: options.announce,
    }
}
