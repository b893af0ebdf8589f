//! The steps from nothing to a worker that serves a mount at its private mount point, and from there to a target. What
//! a step leaves behind when a later one fails is undone by the caller, by the records alone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::broker::Broker;
use super::cgroup::{Cgroup, Cgroups};
use super::handover::{self, Begin, Channel, FromWorker, Log, ToWorker, Volume};
use super::live::{Live, Place};
use super::parts::{Lent, PartId};
use super::process::{ExitStatus, Identity, Process};
use super::renew::refused;
use super::shared::Shared;
use super::table::Table;
use super::workers::Workers;
use super::{Config, Error, Publish, dialing, kernel, process};
use crate::config::CacheMode;

/// How long a worker may take for a step that asks nothing of the store.
pub(super) const STEP: Duration = Duration::from_secs(20);

/// Starts the worker of `mount` and mounts, filling its record in step by step.
pub(super) async fn start(workers: &Workers, mount: &Shared, request: &Publish) -> Result<Live, Error> {
    let Workers { config, state, cgroups, sums, .. } = workers;
    let Publish { spec, credential, .. } = request.clone();
    let read_ahead_kb = spec.options.read_ahead_kb;
    let patience = spec.options.timeout + STEP;
    let point = state.mount_point(&mount.id);
    let (source, read_only, uid) = (spec.volume_id.clone(), spec.read_only, mount.record().uid);
    let most_memory = spec.most_memory;

    let mut starting = Starting::spawn(config, mount.volume_id())?;
    let server = spec.backend.privileged().cloned();
    mount.note(state, |record| {
        record.worker = Some(starting.process.identity());
        record.dials = server.clone();
        record.most_memory = most_memory;
    })?;
    let cgroup = limited(cgroups, mount, starting.process.identity(), spec.options.memory)?;

    let log = Log { filter: workers.log_filter(), json: config.log_json };
    let kerberos = spec.backend.realm().is_some();
    let begin = Begin { version: handover::VERSION.into(), uid, kerberos, log };
    let listener = state.listen(&mount.id)?;
    starting.send(&ToWorker::Begin(begin), Some(listener.as_fd())).await?;
    drop(listener);
    match starting.receive(STEP).await? {
        FromWorker::Ready { version } => starting.channel.set_peer(&version),
        other => return Err(starting.unexpected(other)),
    }
    if let Some(server) = &server {
        let socket =
            dialing::offer(server).map_err(|error| Error::System(format!("a socket for the worker: {error}")))?;
        starting.send(&ToWorker::Dialer, Some(socket.as_fd())).await?;
    }
    starting.send(&ToWorker::Volume(Box::new(Volume { spec, credential })), None).await?;
    let own_permissions = match starting.receive(patience).await? {
        FromWorker::Accepted { own_permissions } => own_permissions,
        other => return Err(starting.unexpected(other)),
    };

    // Only now: what an earlier worker left is for an identity that the store has just accepted.
    if !read_only && request.spec.backend.keeps_journals() {
        for journal in journals(workers, mount, request).await {
            starting.send(&ToWorker::Journal, Some(journal.as_fd())).await?;
        }
    }

    // So is what it kept.
    let part = PartId::of(request, &mount.record().sharing);
    let mut lends_from = None;
    if request.spec.options.cache == CacheMode::Disk {
        let lent = lend(workers, part.clone(), request, uid).await;
        if let (Ok(lent), Some(uid), true) = (&lent, uid, read_only) {
            lends_from = Some((lent.dir.try_clone().map_err(|error| system(&error))?, uid));
        }
        match &lent {
            Ok(lent) => {
                let message = ToWorker::Part { free_percent: lent.free_percent };
                starting.send(&message, Some(lent.dir.as_fd())).await?;
            }
            Err(why) => starting.send(&ToWorker::NoPart { why: why.clone() }, None).await?,
        }
    }

    let options = kernel::Options { source, read_only, default_permissions: !own_permissions };
    let at = point.clone();
    let device = kernel::promptly("mounting", move || {
        let device = kernel::open_device()?;
        kernel::mount(&device, &at, &options)?;
        Ok(device)
    })
    .await?;
    let sent = starting.send(&ToWorker::Device, Some(device.as_fd())).await;
    // A copy kept here would turn the worker's death into a hang of all who use the mount.
    drop(device);
    sent?;
    match starting.receive(STEP).await? {
        FromWorker::Serving => {}
        other => return Err(starting.unexpected(other)),
    }

    let gone = || Error::System(format!("the mount just made at {} is gone", point.display()));
    let device = device_at(&point).ok_or_else(gone)?;
    if config.isolate
        && let Err(error) = kernel::set_read_ahead(&device, read_ahead_kb)
    {
        // Slower, not wrong: /sys is read-only where the node plugin is not privileged.
        tracing::warn!(device, "the kernel's read-ahead stays at its default: {error}");
    }
    let broker = lends_from
        .map(|(dir, uid)| Broker::new(dir, uid, &device))
        .transpose()
        .map_err(|error| system(&error))?
        .flatten();
    mount.note(state, |record| {
        record.device = Some(device.clone());
        record.lends_from = part.filter(|_| broker.is_some());
    })?;
    let Starting { process, channel, exit, volume_id } = starting;
    let (broker, sums) = (broker.map(Arc::new), sums.clone());
    let place = Place { volume_id, point, device, cgroup, most_memory, broker, sums };
    Ok(Live::follow(process, channel, exit, place, config.ping_deadline))
}

/// The journals for the worker of `mount`, its own first. Without them it serves all the same.
async fn journals(workers: &Workers, mount: &Shared, request: &Publish) -> Vec<File> {
    let (journals, owner, id) = (workers.journals.clone(), mount.record().sharing.owner(request), mount.id.clone());
    let lent = kernel::within(kernel::PROMPT, move || journals.lend(&owner, &id)).await;
    match lent.and_then(|lent| lent.unwrap_or_else(|| Err(io::Error::other("the disk does not answer")))) {
        Ok(lent) => lent,
        Err(error) => {
            let volume = mount.volume_id();
            tracing::warn!(volume, %error, "no journal: what its worker leaves where it dies nobody undoes at once");
            Vec::new()
        }
    }
}

/// The part of the cache for a worker of `uid`, or why it has none.
async fn lend(workers: &Workers, part: Option<PartId>, request: &Publish, uid: Option<u32>) -> Result<Lent, String> {
    let unknown = "nothing is known of the pod (podInfoOnMount), so nobody can say whose the cache would be";
    let part = part.ok_or(unknown)?;
    let (parts, request, id) = (workers.parts.clone(), request.clone(), part.clone());
    let volume = request.spec.volume_id.clone();
    let lent = kernel::within(kernel::PROMPT, move || parts.lend(&id, &request, uid)).await;
    let lent = lent.map_err(|error| error.to_string())?.unwrap_or_else(|| Err("its disk does not answer".into()));
    if let (Ok(_), Some(uid)) = (&lent, uid) {
        workers.claims().keep_uid(uid, part);
    }
    lent.inspect_err(|why| tracing::warn!(volume, "no disk cache: {why}"))
}

fn system(error: &io::Error) -> Error {
    Error::System(format!("the part of the cache: {error}"))
}

/// Puts a worker that has not begun into a cgroup of its own, where there are cgroups.
fn limited(cgroups: &Cgroups, mount: &Shared, worker: Identity, budget: u64) -> Result<Option<Cgroup>, Error> {
    let cgroup = cgroups.make(&mount.id, budget).and_then(|cgroup| {
        if let Some(cgroup) = &cgroup {
            cgroup.take(worker.pid())?;
        }
        Ok(cgroup)
    });
    cgroup.map_err(|error| Error::System(format!("the worker's memory limit: {error}")))
}

/// The device of our mount at `point`, where there is one.
fn device_at(point: &Path) -> Option<String> {
    Table::read().ok()?.top(point).filter(|mount| mount.is_ours()).map(|mount| mount.device.clone())
}

/// Shows our mount of `device` at `point` at the target too. False where it is not there any more.
pub(super) async fn show(point: &Path, device: &str, target: &Path) -> Result<bool, Error> {
    let (from, device, to) = (point.to_owned(), device.to_owned(), target.to_owned());
    kernel::promptly("showing the mount at its target", move || {
        make_target(&to)?;
        kernel::bind(&from, &device, &to)
    })
    .await
}

/// An empty directory at the target, whose parent the kubelet makes.
fn make_target(target: &Path) -> Result<(), Error> {
    let fail = |error: io::Error| Error::System(format!("the target directory {}: {error}", target.display()));
    match DirBuilder::new().mode(0o750).create(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(fail),
    }
    if fs::read_dir(target).map_err(fail)?.next().is_some() {
        return Err(Error::System(format!(
            "the target directory {} is not empty, and a volume mounted there would hide what it holds; empty it",
            target.display()
        )));
    }
    Ok(())
}

/// A worker that does not serve yet. When this is dropped its socket closes, and it ends by itself.
struct Starting {
    process: Process,
    channel: Channel,
    exit: ExitStatus,
    volume_id: String,
}

impl Starting {
    fn spawn(config: &Config, volume_id: String) -> Result<Starting, Error> {
        let fail = |error: io::Error| {
            Error::System(format!("starting a worker ({} worker): {error}", config.program.display()))
        };
        let (process, socket, exit) = process::spawn(&config.program, config.isolate).map_err(fail)?;
        Ok(Starting { process, channel: Channel::new(socket).map_err(fail)?, exit, volume_id })
    }

    async fn send(&mut self, message: &ToWorker, rider: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let sending = async {
            match rider {
                Some(rider) => self.channel.send_with(message, rider).await,
                None => self.channel.send(message).await,
            }
        };
        let sent = timeout(STEP, sending).await.map_err(|_| self.silent(STEP))?;
        self.check(sent).await
    }

    /// The worker's next word; a refusal is an error.
    async fn receive(&mut self, patience: Duration) -> Result<FromWorker, Error> {
        let received = timeout(patience, self.channel.receive()).await.map_err(|_| self.silent(patience))?;
        Ok(self.check(received).await?.0)
    }

    fn silent(&self, patience: Duration) -> Error {
        Error::Worker(format!(
            "the worker of volume {} did not answer for {} s while it started",
            self.volume_id,
            patience.as_secs()
        ))
    }

    async fn check<T>(&mut self, done: Result<T, handover::Error>) -> Result<T, Error> {
        match done {
            Ok(value) => Ok(value),
            Err(handover::Error::Closed) => {
                let status = timeout(STEP, self.exit.words()).await.unwrap_or_else(|_| "it runs still".into());
                Err(Error::Worker(format!(
                    "the worker of volume {} ended before it served: {status}; its log is in the node plugin's",
                    self.volume_id
                )))
            }
            Err(error) => Err(Error::Worker(format!("the worker of volume {}: {error}", self.volume_id))),
        }
    }

    fn unexpected(&self, message: FromWorker) -> Error {
        match message {
            FromWorker::Refused(refusal) => refused(refusal, &self.volume_id),
            other => Error::Worker(format!("the worker of volume {} said {other:?} out of turn", self.volume_id)),
        }
    }
}
