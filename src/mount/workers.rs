//! A worker for every target: publishing, unpublishing, and finding again after a restart what was published before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::handover::Volume;
use super::kernel::{self, Fuse};
use super::state::{Record, State};
use super::supervise::{Starting, Worker};
use super::table::{Table, resolve};
use super::uids::Uids;
use super::{Config, Error, Mounter, Publish, Usage};
use crate::auth::identity;

/// How long a worker may take to write out what was open when its mount went: less than the kubelet's two minutes.
const LAST_WRITES: Duration = Duration::from_secs(90);
/// How long a killed one may take to be gone.
const KILLED: Duration = Duration::from_secs(5);
/// How long NodeGetVolumeStats may take in here.
const STATS: Duration = Duration::from_millis(800);

/// See the module.
#[derive(Debug)]
pub struct Workers {
    config: Config,
    state: State,
    /// Keys the identities' hashes; this installation's own.
    key: [u8; 64],
    published: Mutex<Published>,
}

#[derive(Debug, Default)]
struct Published {
    /// By target. A record is there from before its worker starts until all of it is gone.
    records: BTreeMap<PathBuf, Record>,
    workers: HashMap<PathBuf, Arc<Worker>>,
}

impl Workers {
    /// Takes the state directory over and finds what an earlier node plugin published. What it left half made is
    /// undone; mounts whose workers serve are left alone.
    ///
    /// # Errors
    /// A state directory that cannot be used, or is another node plugin's.
    pub async fn start(config: Config) -> Result<Arc<Workers>, Error> {
        let state = State::open(&config.state_dir)?;
        let key = installation_key(&config.state_dir)
            .map_err(|error| Error::System(format!("the key in {}: {error}", config.state_dir.display())))?;
        let workers = Arc::new(Workers { config, state, key, published: Mutex::default() });
        workers.recover().await?;
        Ok(workers)
    }

    async fn recover(&self) -> Result<(), Error> {
        let table = Table::read()?;
        for record in self.state.load()? {
            let worker = record.worker.and_then(Worker::adopt);
            let at_target = record.device.is_some()
                && table
                    .top(&record.target)
                    .is_some_and(|top| top.is_ours() && Some(&top.device) == record.device.as_ref());
            let target = record.target.clone();
            {
                let mut published = self.lock();
                published.records.insert(target.clone(), record);
                published.workers.extend(worker.map(|worker| (target.clone(), Arc::new(worker))));
            }
            if !at_target {
                tracing::warn!(target = %target.display(), "a publication was left half made; it is undone");
                self.take_down(&target).await?;
            }
        }
        let unrecorded: Vec<_> = std::fs::read_dir(self.state.mounts())
            .map_err(|error| Error::System(format!("{}: {error}", self.state.mounts().display())))?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| !self.state.is_recorded(name))
            .collect();
        for name in unrecorded {
            let point = self.state.mounts().join(name);
            self.clear(&point, false).await?;
            kernel::remove_dir(&point)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what a publish means: `None` where it is done already; else its record, which now holds the target.
    async fn admit(&self, request: &Publish, target: &Path) -> Result<Option<Record>, Error> {
        let table = Table::read()?;
        let known = self.lock().records.get(target).cloned();
        if let Some(known) = known {
            if (known.volume_id.as_str(), &known.arguments) != (request.spec.volume_id.as_str(), &request.arguments) {
                return Err(Error::AlreadyPublished(format!(
                    "{} shows volume {:?} already, published with other arguments; unpublish it first",
                    target.display(),
                    known.volume_id
                )));
            }
            let shown = table.top(target).is_some_and(|top| Some(&top.device) == known.device.as_ref());
            let healthy = self.lock().workers.get(target).is_some_and(|worker| worker.is_healthy());
            if shown && healthy {
                return Ok(None);
            }
            tracing::warn!(volume = known.volume_id, target = %target.display(), "its mount is dead; it is made anew");
            self.take_down(target).await?;
        } else if let Some(top) = table.top(target) {
            if !top.is_ours() {
                return Err(Error::System(format!(
                    "{} is a mount point of something else ({}); the target path must be free",
                    target.display(),
                    top.file_system
                )));
            }
            self.clear(target, false).await?;
        }
        self.reserve(request, target).map(Some)
    }

    /// Takes the target, and a uid, in one step.
    fn reserve(&self, request: &Publish, target: &Path) -> Result<Record, Error> {
        let spec = &request.spec;
        let mut published = self.lock();
        let mut same_volume = published.records.values().filter(|record| record.volume_id == spec.volume_id);
        if let Some(other) = same_volume.find(|record| record.single_writer || request.single_writer) {
            return Err(Error::SecondWriter(format!(
                "volume {:?} allows a single writer (ReadWriteOncePod) and is published at {} on this node; wait until \
                 that pod is gone",
                spec.volume_id,
                other.target.display()
            )));
        }
        let mut record =
            Record::begin(spec.volume_id.clone(), target.to_owned(), request.arguments.clone(), request.single_writer);
        if self.config.isolate {
            let taken: HashSet<u32> = published.records.values().filter_map(|record| record.uid).collect();
            let uids = Uids { base: self.config.worker_uid_base, count: self.config.worker_uid_count };
            let who = identity::hash(&request.credential, &self.key);
            let options = format!("{:?} {}", spec.options, spec.read_only);
            record.uid = Some(uids.choose(&[&spec.volume_id, &who, &options], &taken)?);
        }
        self.state.save(&record)?;
        published.records.insert(target.to_owned(), record.clone());
        Ok(record)
    }

    /// Starts the worker, mounts, and shows the mount at the target.
    async fn bring_up(&self, request: Publish, mut record: Record) -> Result<(), Error> {
        let mut starting = Starting::spawn(&self.config, record.uid).await?;
        record.worker = Some(starting.identity());
        self.update(&record)?;
        let point = self.state.mount_point(&record.target);
        let fuse = Fuse {
            source: record.volume_id.clone(),
            owner: record.uid.unwrap_or(0),
            read_only: request.spec.read_only,
            check_modes: true,
        };
        let kib = request.spec.options.read_ahead_kb;
        let volume = Volume { spec: request.spec, credential: request.credential };
        let own_permissions = match starting.give(volume).await {
            Ok(own_permissions) => own_permissions,
            Err(error) => {
                starting.end().await;
                return Err(error);
            }
        };
        let device = match (Fuse { check_modes: !own_permissions, ..fuse }).mount(&point) {
            Ok(device) => device,
            Err(error) => {
                starting.end().await;
                return Err(error);
            }
        };
        let minor = Table::read()?.top(&point).map(|top| top.device.clone()).unwrap_or_default();
        let worker = starting.serve(device, &self.config, record.volume_id.clone(), minor.clone()).await?;
        self.lock().workers.insert(record.target.clone(), Arc::new(worker));
        if self.config.isolate
            && let Err(error) = kernel::set_read_ahead(&minor, kib)
        {
            tracing::warn!(volume = record.volume_id, %error, "the kernel's read-ahead stays at 128 KiB");
        }
        kernel::make_dir(&record.target, 0o750)?;
        record.device = Some(minor);
        self.update(&record)?;
        kernel::bind(point, record.target).await
    }

    fn update(&self, record: &Record) -> Result<(), Error> {
        self.state.save(record)?;
        self.lock().records.insert(record.target.clone(), record.clone());
        Ok(())
    }

    /// Undoes whatever of a publication there is: mounts, worker, target, record, in this order, so that a call that
    /// fails on the way can be made again.
    async fn take_down(&self, target: &Path) -> Result<(), Error> {
        let (worker, record) = {
            let published = self.lock();
            (published.workers.get(target).cloned(), published.records.get(target).cloned())
        };
        let worker = worker.or_else(|| record.and_then(|record| record.worker).and_then(Worker::adopt).map(Arc::new));
        let healthy = worker.as_ref().is_some_and(|worker| worker.is_healthy());
        let point = self.state.mount_point(target);
        let mounted = Table::read()?.top(&point).is_some();
        self.clear(target, healthy).await?;
        self.clear(&point, healthy).await?;
        if let Some(worker) = worker {
            if !(healthy && mounted) {
                worker.kill();
            }
            if !worker.ended(if healthy { LAST_WRITES } else { KILLED }).await {
                return Err(Error::Worker(
                    "the volume's worker is still writing out files that were open, or cannot die yet; this call will \
                     be tried again"
                        .into(),
                ));
            }
        }
        kernel::remove_dir(&point)?;
        kernel::remove_dir(target)?;
        self.state.forget(target)?;
        let mut published = self.lock();
        published.records.remove(target);
        published.workers.remove(target);
        Ok(())
    }

    /// Unmounts all of ours that is stacked at `point`.
    async fn clear(&self, point: &Path, healthy: bool) -> Result<(), Error> {
        while let Some(top) = Table::read()?.top(point).filter(|top| top.is_ours()) {
            if healthy {
                match kernel::unmount(point).await {
                    Ok(()) => continue,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        return Err(Error::System(format!(
                            "{} is in use: a process has a file or its working directory there; it can be unmounted \
                             once that has ended",
                            point.display()
                        )));
                    }
                    Err(error) => {
                        tracing::warn!(point = %point.display(), %error, "a plain unmount failed; forcing it");
                    }
                }
            }
            kernel::abort(&top.device);
            kernel::unmount_by_force(point)
                .await
                .map_err(|error| Error::System(format!("cannot unmount {}: {error}", point.display())))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Mounter for Workers {
    async fn publish(&self, request: Publish) -> Result<(), Error> {
        let target = resolve(&request.target)?.ok_or_else(|| {
            Error::System(format!("the directory above the target path {} is not there", request.target.display()))
        })?;
        let Some(record) = self.admit(&request, &target).await? else { return Ok(()) };
        let Err(error) = self.bring_up(request, record).await else { return Ok(()) };
        if let Err(left) = self.take_down(&target).await {
            tracing::error!(target = %target.display(), %left, "a failed publish could not be undone; the next call will");
        }
        Err(error)
    }

    async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Error> {
        let Some(target) = resolve(target)? else { return Ok(()) };
        let known = self.lock().records.get(&target).cloned();
        match known {
            Some(known) if known.volume_id != volume_id => {
                tracing::warn!(volume_id, target = %target.display(), shows = known.volume_id, "another volume is there");
                Ok(())
            }
            Some(_) => self.take_down(&target).await,
            None => {
                // A mount of ours whose record is gone or cannot be read; or nothing, and perhaps an empty directory.
                let top = Table::read()?.top(&target).cloned();
                match top {
                    Some(top) if !top.is_ours() => Ok(()),
                    _ => self.take_down(&target).await,
                }
            }
        }
    }

    async fn usage(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        let absent = || Error::NotMounted(format!("volume {volume_id:?} is not published at {}", target.display()));
        let resolved = resolve(target)?.ok_or_else(absent)?;
        let worker = {
            let published = self.lock();
            published.records.get(&resolved).filter(|record| record.volume_id == volume_id).ok_or_else(absent)?;
            published.workers.get(&resolved).cloned()
        };
        let dead = || {
            let at = target.display();
            Error::Worker(format!("the worker of volume {volume_id:?} at {at} is dead or does not answer"))
        };
        let worker = worker.filter(|worker| worker.is_running()).ok_or_else(dead)?;
        if let Some(usage) = worker.usage(STATS).await {
            return Ok(usage);
        }
        // One that an earlier node plugin started has no socket to us: the kernel asks it.
        let asked = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&resolved));
        let told = tokio::time::timeout(STATS, asked).await.ok().and_then(Result::ok).and_then(Result::ok);
        let told = told.ok_or_else(dead)?;
        Ok(Usage {
            used_bytes: (told.blocks().saturating_sub(told.blocks_free())) * told.fragment_size(),
            used_inodes: told.files().saturating_sub(told.files_free()),
        })
    }
}

/// The key that makes identities' hashes this installation's own; made at the first start.
fn installation_key(dir: &Path) -> std::io::Result<[u8; 64]> {
    let path = dir.join("installation.key");
    let read = || std::fs::read(&path).map(|bytes| <[u8; 64]>::try_from(bytes).ok());
    if let Ok(Some(key)) = read() {
        return Ok(key);
    }
    let key: [u8; 64] = rand::random();
    let fresh = dir.join("installation.key.new");
    File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?.write_all(&key)?;
    std::fs::rename(&fresh, &path)?;
    Ok(key)
}
