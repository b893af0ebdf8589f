//! `millrace worker`: serves one mount with one credential, as nobody.
//!
//! It hears everything over the socket that it finds as standard input. Before it hears the credential it has given up
//! what its parent had, which must happen while the process has one thread.

mod entry;
mod kept;
mod right;
mod served;
mod sharing;
mod talk;
mod upkeep;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Notify, mpsc, watch};

use super::on_one_thread;
use crate::auth;
use crate::backend::hdfs::kerberos;
use crate::backend::journal::Journal;
use crate::backend::{self, Backend, Limits, Swappable, nfs};
use crate::budget::Budget;
use crate::cache::{self, Cached};
use crate::config::{AttributeChanges, Overwrite, VolumeOptions, VolumeSpec};
use crate::fuse::{self, Session};
use crate::mount::Health;
use crate::mount::confine::{FOLDER, confine};
use crate::mount::dialing::ByNodePlugin;
use crate::mount::handover::{Channel, FromWorker, Refusal, ToWorker, VERSION, Volume};
use crate::mount::line::Line;
use crate::observability::metrics::ProcessRecorder;
use crate::observability::{self, Log};
use crate::prefetch::{self, ReadAhead};
use crate::tunable::Span;
use crate::vfs::{self, Vfs};
use entry::Clients;
use kept::Kept;
use right::Right;
use served::{Served, State};
use sharing::{Others, Telling};

/// Threads of the runtime: the work is moving bytes between sockets, which more of them would not speed up.
const THREADS: usize = 2;

/// How long the start may wait for the cache's disk.
const COUNTED: Duration = Duration::from_millis(200);
/// How long the end may.
const SETTLE: Duration = Duration::from_secs(5);

/// Serves until the mount is gone, also where the node plugin is gone before.
///
/// # Errors
/// What cannot be told over the socket: it is no node plugin's, or this process could not be confined.
pub(super) fn run() -> anyhow::Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (socket, listener, asking, volume) = on_one_thread(async {
        let mut channel = Channel::new(UnixStream::from(socket))?;
        let (begin, listener) = match channel.receive().await {
            Ok((ToWorker::Begin(begin), listener)) => (begin, listener),
            Ok(_) => bail!("the first message is not the one that says who to be"),
            Err(error) => bail!("`millrace worker` is started by the node plugin, not by hand ({error})"),
        };
        channel.set_peer(&begin.version);
        if begin.kerberos {
            kerberos::load();
        }
        confine(begin.uid, begin.kerberos).context("the worker cannot give up its privileges")?;
        observability::install(&Log { filter: begin.log.filter, json: begin.log.json })?;
        channel.send(&FromWorker::Ready { version: VERSION.into() }).await?;
        let mut asking = None;
        let volume = loop {
            match channel.receive().await? {
                (ToWorker::Dialer, socket) => asking = socket,
                (ToWorker::Volume(volume), _) => break volume,
                _ => bail!("no volume was handed over"),
            }
        };
        if let Some(realm) = volume.spec.backend.realm() {
            let folder = begin.uid.map(|_| PathBuf::from(FOLDER));
            #[expect(unsafe_code, reason = "the environment is changed")]
            // SAFETY: this process has one thread, on which this runtime is.
            unsafe { kerberos::settle(realm, folder) }.context("Kerberos' configuration")?;
        }
        Ok((channel.into_std()?, listener.map(UnixListener::from), asking, *volume))
    })?;
    observability::name_volume(&volume.spec.volume_id);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(async { serve(Channel::new(socket)?, listener, asking, volume).await });
    // A read that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(
    mut channel: Channel,
    listener: Option<UnixListener>,
    asking: Option<OwnedFd>,
    volume: Volume,
) -> anyhow::Result<()> {
    let Volume { spec, credential } = volume;
    // Before anything looks a counter up.
    let recorder = ProcessRecorder::install();
    let credential = auth::Current::new(credential);
    let (budget, timeout) = (Budget::new(spec.options.memory), Span::new(spec.options.timeout));
    let dialer = Arc::new(ByNodePlugin::default());
    if let Some(socket) = asking {
        dialer.ask_on(socket)?;
    }
    let dials: Option<Arc<dyn nfs::Dialer>> = Some(dialer.clone());
    let limits = Limits {
        budget: budget.clone(),
        timeout: timeout.clone(),
        quota: spec.quota,
        dialer: dials,
        journal: Journal::default(),
    };
    let entered = match Clients::new(&spec, &credential, limits.clone()) {
        Ok(clients) => entry::enter(&clients, &spec).await.map(|known| (clients, known)),
        Err(refusal) => Err(refusal),
    };
    let (Clients { shown: client, own: own_directory }, known) = match entered {
        Ok(entered) => entered,
        Err(refusal) => {
            channel.send(&FromWorker::Refused(refusal)).await?;
            return Ok(());
        }
    };
    let backend = Swappable::new(client.clone());
    let own_permissions = backend.traits().own_permissions && !spec.options.enforce_modes;
    channel.send(&FromWorker::Accepted { own_permissions }).await?;
    let (mut part, mut uncached, mut journals) = (None, None, VecDeque::new());
    let device = loop {
        match channel.receive().await? {
            (ToWorker::Device, Some(device)) => break device,
            (ToWorker::Journal, Some(file)) => journals.push_back(File::from(file)),
            (ToWorker::Part { free_percent }, Some(dir)) => part = Some((dir, free_percent)),
            (ToWorker::NoPart { why }, _) => uncached = Some(why),
            _ => bail!("no device was handed over"),
        }
    };
    if let Some(own) = journals.pop_front() {
        undo_what_was_left(&spec, &credential, limits, (own, journals.into())).await;
    }
    let mut cached = None;
    if let Some((dir, free_percent)) = part {
        let config = cache::Config { capacity: spec.options.cache_size, free_percent };
        match keep(&client, dir, config, &budget).await {
            Ok(kept) => {
                backend.swap(Arc::new(kept.clone()));
                cached = Some(kept);
            }
            Err(why) => uncached = Some(why),
        }
    }
    let seen: Arc<dyn Backend> = Arc::new(backend.clone());
    let config = prefetch::Config::for_budget(budget.total()).beside(spec.options.read_ahead_kb);
    let read_ahead = ReadAhead::new(seen.clone(), budget.clone(), config);
    let ttl = Span::new(spec.options.ttl);
    let vfs = Arc::new(Vfs::new(seen, read_ahead.clone(), budget.clone(), shown(&spec, &ttl)));
    let (words, said) = mpsc::unbounded_channel();
    let kept = Arc::new(Kept::new(cached.clone(), words.clone()));
    // Where the kernel reads by itself it must not be asked to write.
    let skip_opens = spec.options.skip_opens && spec.read_only;
    let passes = cached.as_ref().filter(|_| spec.read_only && !skip_opens);
    if let Some(cached) = passes {
        cached.prepare_local();
    }
    let passthrough = passes.is_some();
    let own = device.try_clone()?;
    let state = State { known: None, options: spec.options.clone(), health: Health::default() };
    let served = Arc::new(Served {
        spec,
        recorder,
        credential: Mutex::new(credential),
        backend,
        own: own_directory.map(Swappable::new),
        read_ahead,
        budget,
        dialer,
        timeout,
        ttl,
        vfs,
        words,
        limited: watch::Sender::new(false),
        others: watch::Sender::new(Others::default()),
        state: Mutex::new(state),
        looking: tokio::sync::Mutex::default(),
        right: tokio::sync::Mutex::new(Right::proven(client)),
        renewed: Notify::new(),
        kept: kept.clone(),
        uncached,
    });
    if let Some(known) = known {
        served.learn(known);
    }
    let session = match start(device, &served, passthrough, skip_opens).await {
        Ok(session) => session,
        Err(error) => {
            channel.send(&FromWorker::Refused(Refusal::Worker(format!("FUSE: {error:#}")))).await?;
            return Ok(());
        }
    };
    if session.passes() {
        // Before anybody opens a file: from then on each is counted.
        served.vfs.pass_by(kept, pages_of_the_node());
    }
    channel.send(&FromWorker::Serving).await?;
    let mut line = Line::new(channel, listener)?;
    tokio::spawn(upkeep::count(served.clone()));
    let VolumeOptions { auth_ttl, auth_grace, .. } = served.spec.options;
    tokio::spawn(right::prove(served.clone(), auth_ttl, auth_grace));
    if served.spec.generation.is_some() {
        tokio::spawn(upkeep::look(served.clone()));
    }
    let mut telling = Telling::new(&served);
    tokio::select! {
        ended = session.ended() => ended?,
        never = talk::talk(&mut line, &served, &session, &mut telling, (said, own)) => match never {},
    }
    if let Some(cached) = cached {
        // What was read last is of use to the next worker, but not worth a disk that does not answer.
        let _ = tokio::time::timeout(SETTLE, cached.settle()).await;
    }
    telling.finish(&mut line).await;
    line.send(&FromWorker::Ended).await;
    Ok(())
}

/// Keeps the journal of `limits` in the first of these files from now on, and undoes what stands in all of them, beside the
/// service.
async fn undo_what_was_left(
    spec: &VolumeSpec,
    credential: &auth::Current,
    limits: Limits,
    (own, left): (File, Vec<File>),
) {
    let journal = limits.journal.clone();
    let keeping = tokio::task::spawn_blocking(move || journal.keep_in(own, left));
    match tokio::time::timeout(SETTLE, keeping).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the journal cannot be read or written"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the journal's disk does not answer"),
    }
    if limits.journal.left().is_empty() {
        return;
    }
    let Ok(root) = backend::Path::parse(&spec.path) else { return };
    match backend::replay(&spec.backend, credential, &root, limits) {
        Ok(undoing) => drop(tokio::spawn(undoing)),
        Err(error) => tracing::warn!(%error, "what an earlier worker left is not undone"),
    }
}

/// Opens the part of the node's disk in `dir`, once the store has shown that this identity may read what is there.
async fn keep(
    client: &Arc<dyn Backend>,
    dir: OwnedFd,
    config: cache::Config,
    budget: &Budget,
) -> Result<Cached, String> {
    let (kept, dir) = tokio::task::spawn_blocking(move || (cache::some_files(&dir, right::PROOFS), dir))
        .await
        .map_err(|panic| panic.to_string())?;
    if let Some(Err(error)) = right::may_read(&**client, &kept).await {
        return Err(format!("the store does not let this identity read what is kept of it on the node: {error}"));
    }
    let cached = Cached::new(client.clone(), dir, config, budget);
    // Nothing is kept before it is counted what is there, which is quick where there is little.
    let _ = tokio::time::timeout(COUNTED, cached.settle()).await;
    Ok(cached)
}

async fn start(device: OwnedFd, served: &Served, passthrough: bool, skip_opens: bool) -> anyhow::Result<Session> {
    let timeout = served.timeout.clone();
    let config = fuse::Config { timeout, passthrough, skip_opens, ..fuse::Config::default() };
    let vfs = served.vfs.clone();
    let runtime = tokio::runtime::Handle::current();
    Ok(tokio::task::spawn_blocking(move || Session::start(device, vfs, &config, &runtime)).await??)
}

/// How many bytes of pages the kernel may keep of a mount, where nothing else tells: half of the node's memory.
fn pages_of_the_node() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |node| node.ram_total() / 2)
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
