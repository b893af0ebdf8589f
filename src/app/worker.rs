//! `millrace worker`: serves one mount with one credential, as nobody.
//!
//! It hears everything over the socket that it finds as standard input. Before it hears the credential it has given up
//! what its parent had, which must happen while the process has one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::BytesMut;
use futures::{StreamExt, TryStreamExt};

use crate::backend::{self, Backend, ErrorKind, Intent, Limits, Path};
use crate::budget::Budget;
use crate::config::{AttributeChanges, Overwrite, VolumeSpec};
use crate::csi::volumes::VolumeFile;
use crate::csi::volumes::record::{FORMAT, volume_file_at};
use crate::fuse::{self, Session};
use crate::mount::Usage;
use crate::mount::confine::confine;
use crate::mount::handover::{self, Channel, FromWorker, Refusal, ToWorker, VERSION, Volume};
use crate::observability::{self, Log};
use crate::prefetch::{self, ReadAhead};
use crate::vfs::{self, Vfs};

/// Threads of the runtime: the work is moving bytes between sockets, which more of them would not speed up.
const THREADS: usize = 2;
/// The longest `volume.json` that is read.
const LONGEST_FILE: u64 = 64 << 10;

/// Serves until the mount is gone, also where the node plugin is gone before.
///
/// # Errors
/// What cannot be told over the socket: it is no node plugin's, or this process could not be confined.
pub(super) fn run() -> anyhow::Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (socket, volume) = on_one_thread(async {
        let mut channel = Channel::new(UnixStream::from(socket))?;
        let begin = match channel.receive().await {
            Ok((ToWorker::Begin(begin), _)) => begin,
            Ok(_) => bail!("the first message is not the one that says who to be"),
            Err(error) => bail!("`millrace worker` is started by the node plugin, not by hand ({error})"),
        };
        channel.set_peer(&begin.version);
        confine(begin.uid).context("the worker cannot give up its privileges")?;
        observability::install(&Log { filter: begin.log.filter, json: begin.log.json })?;
        channel.send(&FromWorker::Ready { version: VERSION.into() }).await?;
        let (ToWorker::Volume(volume), _) = channel.receive().await? else { bail!("no volume was handed over") };
        Ok((channel.into_std()?, *volume))
    })?;
    observability::name_volume(&volume.spec.volume_id);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(async { serve(Channel::new(socket)?, volume).await });
    // A read that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    outcome
}

fn on_one_thread<T>(first: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(first)
}

async fn serve(mut channel: Channel, volume: Volume) -> anyhow::Result<()> {
    let Volume { spec, credential } = volume;
    let budget = Budget::new(spec.options.memory);
    let limits = Limits { budget: budget.clone(), timeout: spec.options.timeout };
    let backend = match connect(&spec, &credential, limits).await {
        Ok(backend) => backend,
        Err(refusal) => {
            channel.send(&FromWorker::Refused(refusal)).await?;
            return Ok(());
        }
    };
    drop(credential);
    channel.send(&FromWorker::Accepted { own_permissions: backend.traits().own_permissions }).await?;
    let (ToWorker::Device, Some(device)) = channel.receive().await? else { bail!("no device was handed over") };
    let read_ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(budget.total()));
    let vfs = Arc::new(Vfs::new(backend, read_ahead, budget, shown(&spec)));
    let session = match start(device, vfs.clone(), &spec).await {
        Ok(session) => session,
        Err(error) => {
            channel.send(&FromWorker::Refused(Refusal::Worker(format!("FUSE: {error:#}")))).await?;
            return Ok(());
        }
    };
    channel.send(&FromWorker::Serving).await?;
    tokio::select! {
        ended = session.ended() => ended?,
        () = answer(&mut channel, &vfs) => {
            tracing::warn!("the node plugin is gone; its mounts are served on");
            session.ended().await?;
        }
    }
    // The node plugin may be gone by now.
    let _ = channel.send(&FromWorker::Ended).await;
    Ok(())
}

/// Answers the node plugin until it is gone.
async fn answer(channel: &mut Channel, vfs: &Vfs) {
    loop {
        let reply = match channel.receive().await {
            Ok((ToWorker::Ping, _)) => FromWorker::Pong,
            Ok((ToWorker::Usage, _)) => {
                let usage = vfs.usage();
                FromWorker::Usage(Usage { used_bytes: usage.bytes, used_inodes: usage.inodes })
            }
            Ok(_) => continue,
            Err(handover::Error::Closed) => return,
            Err(error) => {
                tracing::error!(%error, "the node plugin's words cannot be understood");
                return;
            }
        };
        if channel.send(&reply).await.is_err() {
            return;
        }
    }
}

async fn start(device: OwnedFd, vfs: Arc<Vfs>, spec: &VolumeSpec) -> anyhow::Result<Session> {
    let config = fuse::Config { timeout: spec.options.timeout, ..fuse::Config::default() };
    let runtime = tokio::runtime::Handle::current();
    Ok(tokio::task::spawn_blocking(move || Session::start(device, vfs, &config, &runtime)).await??)
}

fn shown(spec: &VolumeSpec) -> vfs::Config {
    let options = &spec.options;
    vfs::Config {
        uid: options.uid,
        gid: options.gid,
        file_mode: options.file_mode,
        dir_mode: options.dir_mode,
        ttl: options.ttl,
        immutable: options.immutable,
        read_only: spec.read_only,
        accept_attributes: options.attributes == AttributeChanges::Accepted,
        last_wins: options.overwrite == Overwrite::LastWins,
    }
}

/// A client whose credential the store has accepted, of the very directory that is meant.
async fn connect(
    spec: &VolumeSpec,
    credential: &crate::auth::Credential,
    limits: Limits,
) -> Result<Arc<dyn Backend>, Refusal> {
    let root = Path::parse(&spec.path).map_err(|why| Refusal::Worker(format!("path {:?}: {why}", spec.path)))?;
    let backend = backend::connect(&spec.backend, credential, &root, limits)?;
    match &spec.generation {
        Some(generation) => is_generation(&*backend, spec, generation).await?,
        None => {
            if let Some(first) = backend.list(&Path::root()).next().await {
                first?;
            }
        }
    }
    Ok(backend)
}

/// Compares the directory's own `volume.json` with the generation in the volume's id.
async fn is_generation(backend: &dyn Backend, spec: &VolumeSpec, generation: &str) -> Result<(), Refusal> {
    let gone = |why: &str| {
        let id = &spec.volume_id;
        Refusal::NoSuchVolume(format!("there is no volume {id:?} in store {:?}: {why}", spec.store))
    };
    let meta = match backend.stat(&volume_file_at(&Path::root())).await {
        Err(error) if error.kind == ErrorKind::NotFound => return Err(gone("its directory holds no volume.json")),
        other => other?,
    };
    let version = meta.version().filter(|version| version.size <= LONGEST_FILE);
    let version = version.ok_or_else(|| gone("its volume.json is no small file"))?;
    let stream = backend.read(version, 0..version.size, Intent::Demand).await?;
    let text: BytesMut = stream.try_collect().await?;
    let file: VolumeFile = serde_json::from_slice(&text).map_err(|error| gone(&format!("volume.json: {error}")))?;
    if file.format > FORMAT {
        let (found, known) = (file.format, FORMAT);
        return Err(Refusal::Worker(format!("volume.json has format {found}, this version knows up to {known}")));
    }
    if file.generation != generation {
        return Err(gone("another volume lies at its path now"));
    }
    Ok(())
}
