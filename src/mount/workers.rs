//! [`Mounter`] by workers: one process a publication. Each call compares what should be with what is (the table of
//! mounts, the records, the workers that run) and makes up the difference.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use tokio::time::timeout;

use super::claims::Claims;
use super::live::{Live, Place};
use super::process::Process;
use super::state::{Record, State, absent_is_fine};
use super::table::{Mount, Table, resolve};
use super::{Config, Error, Mounter, Publish, Usage, kernel, start};
use crate::auth;

/// How long a worker whose mount is gone may take to finish what it has begun (a file closed is a file published).
const DRAIN: Duration = Duration::from_secs(60);

/// How long `usage` waits for a publish or unpublish of the same target.
const BUSY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Workers {
    config: Config,
    state: State,
    /// Keys the identities' hashes; this node's own.
    identity_key: [u8; 64],
    claims: Mutex<Claims>,
    slots: Mutex<HashMap<PathBuf, Slot>>,
}

/// What is published at one target; locked while that changes.
type Slot = Arc<tokio::sync::Mutex<Option<Published>>>;

#[derive(Debug)]
struct Published {
    record: Record,
    /// `None` where it ended while no node plugin ran.
    worker: Option<Live>,
}

#[async_trait]
impl Mounter for Workers {
    async fn publish(&self, request: Publish) -> Result<(), Error> {
        let Some(target) = resolve(&request.target)? else {
            return Err(Error::System(format!("the parent directory of {} is missing", request.target.display())));
        };
        let slot = self.slot(&target);
        let mut published = slot.lock().await;
        if let Some(there) = &*published {
            let record = &there.record;
            if (&record.volume_id, &record.arguments) != (&request.spec.volume_id, &request.arguments) {
                return Err(Error::AlreadyPublished(format!(
                    "volume {} is published at {} already, {}; unpublish it first",
                    record.volume_id,
                    target.display(),
                    if record.volume_id == request.spec.volume_id { "with other arguments" } else { "another volume" },
                )));
            }
            if self.serves(there).await? {
                return Ok(());
            }
            tracing::warn!(volume = record.volume_id, target = %target.display(), "replacing a mount that is dead");
            self.dismantle(there).await?;
            *published = None;
        }
        self.make_way(&target).await?;
        let existed = target.is_dir();

        let mut record = Record::begin(
            request.spec.volume_id.clone(),
            target.clone(),
            request.arguments.clone(),
            request.single_writer,
        );
        self.claims().claim(&mut record, &self.sharer(&request))?;
        let started = match self.state.save(&record) {
            Ok(()) => start::start(&self.config, &self.state, &mut record, request).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(worker) => {
                tracing::info!(volume = record.volume_id, target = %target.display(), worker = %worker.identity(), "published");
                *published = Some(Published { record, worker: Some(worker) });
                Ok(())
            }
            Err(error) => {
                self.undo(record, existed, &mut published).await;
                Err(error)
            }
        }
    }

    async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Error> {
        let Some(target) = resolve(target)? else { return Ok(()) };
        let slot = self.slot(&target);
        let mut published = slot.lock().await;
        if let Some(there) = &*published {
            if there.record.volume_id != volume_id {
                return Err(Error::NotMounted(format!(
                    "volume {volume_id} is not published at {}; volume {} is",
                    target.display(),
                    there.record.volume_id
                )));
            }
            self.dismantle(there).await?;
            *published = None;
        }
        self.clear(&target).await?;
        absent_is_fine(fs::remove_dir(&target)).map_err(|error| {
            let mend = match error.kind() {
                io::ErrorKind::DirectoryNotEmpty => {
                    "it holds files that are not the volume's and that this driver does not delete; move them away"
                }
                _ => "it can only be removed where it is an empty directory that nothing is mounted on",
            };
            Error::System(format!("the target directory {}: {error}; {mend}", target.display()))
        })?;
        drop(published);
        self.drop_slot(&target, &slot);
        Ok(())
    }

    async fn usage(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        let nothing = || Error::NotMounted(format!("volume {volume_id} is not published at {}", target.display()));
        let target = resolve(target)?.ok_or_else(nothing)?;
        let slot = self.slots().get(&target).cloned().ok_or_else(nothing)?;
        let Ok(published) = timeout(BUSY, slot.lock()).await else {
            return Err(Error::Worker(format!("volume {volume_id} is being published or unpublished; ask again")));
        };
        let there = published.as_ref().filter(|there| there.record.volume_id == volume_id).ok_or_else(nothing)?;
        if !is_mounted(there)? {
            return Err(nothing());
        }
        match &there.worker {
            Some(worker) => worker.usage().await,
            None => Err(Error::Worker(format!("the worker of volume {volume_id} is gone; restart the pod"))),
        }
    }
}

impl Workers {
    /// Takes over what an earlier node plugin with this state directory left: workers that serve go on, what was half
    /// done is undone.
    ///
    /// # Errors
    /// A state directory that cannot be used, or is another node plugin's.
    pub async fn start(config: Config) -> Result<Arc<Workers>, Error> {
        let state = State::open(&config.state_dir)?;
        let identity_key = state.identity_key()?;
        let claims =
            Mutex::new(Claims::new(config.isolate.then_some((config.worker_uid_base, config.worker_uid_count))));
        let workers = Workers { config, state, identity_key, claims, slots: Mutex::default() };
        workers.recover().await?;
        Ok(Arc::new(workers))
    }

    /// Takes back what a failed start has left.
    async fn undo(&self, record: Record, existed: bool, slot: &mut Option<Published>) {
        let target = record.target.clone();
        let worker = self.find_worker(&record).unwrap_or_default();
        if let Some(worker) = &worker {
            worker.kill().await;
        }
        let rest = Published { record, worker };
        if let Err(error) = self.dismantle(&rest).await {
            tracing::error!(target = %target.display(), "a failed publish could not be undone: {error}");
            *slot = Some(rest);
            return;
        }
        if !existed {
            // Absent where it failed before it was made.
            let _ = fs::remove_dir(&target);
        }
    }

    /// Whether a publication is what it should be.
    async fn serves(&self, there: &Published) -> Result<bool, Error> {
        let Some(worker) = &there.worker else { return Ok(false) };
        Ok(is_mounted(there)? && worker.ended().is_none() && worker.answers(self.config.ping_deadline).await)
    }

    /// Unmounts, waits for the worker, and forgets. Can be done again where it failed.
    async fn dismantle(&self, there: &Published) -> Result<(), Error> {
        let Published { record, worker } = there;
        let point = self.state.mount_point(&record.target);
        self.unmount_ours(&record.target, worker.as_ref()).await?;
        self.unmount_ours(&point, worker.as_ref()).await?;
        if let Some(worker) = worker
            && !worker.wait(DRAIN).await
        {
            // Something holds the mount in another mount namespace, or a store holds up the last publish.
            tracing::warn!(volume = record.volume_id, worker = %worker.identity(), "worker outlives its mount; ending it");
            worker.kill().await;
            if !worker.wait(DRAIN).await {
                return Err(Error::Worker(format!("worker {} cannot be killed", worker.identity())));
            }
        }
        self.state.remove_mount_point(&point)?;
        self.state.forget(&record.target)?;
        self.claims().release(&record.target);
        Ok(())
    }

    /// Takes every mount of ours at `point` away: plainly where its worker is well, by force where it is not.
    async fn unmount_ours(&self, point: &Path, worker: Option<&Live>) -> Result<(), Error> {
        let mut force = None;
        loop {
            match Table::read()?.top(point) {
                None => return Ok(()),
                Some(mount) if mount.is_ours() => {}
                Some(foreign) => return Err(Error::System(format!("{}; unmount it first", is_not_ours(foreign)))),
            }
            let by_force = match (force, worker) {
                (Some(known), _) => known,
                (None, Some(worker)) => worker.ended().is_some(),
                (None, None) => !self.is_well(point, None).await,
            };
            force = Some(by_force);
            let at = point.to_owned();
            match kernel::within(kernel::PROMPT, move || kernel::unmount(&at, by_force)).await {
                Ok(Some(Ok(()))) => {}
                // In use by a program that works, or by one that hangs in a mount that does not answer.
                Ok(None | Some(Err(Errno::EBUSY))) if !by_force => {
                    if self.is_well(point, worker).await {
                        return Err(Error::System(format!(
                            "the volume at {} is in use: a process has a file or its working directory in it; it can \
                             be unmounted when that has ended",
                            point.display()
                        )));
                    }
                    if let Some(worker) = worker {
                        worker.kill().await;
                    }
                    force = Some(true);
                }
                Ok(Some(Err(errno))) => return Err(Error::System(format!("unmounting {}: {errno}", point.display()))),
                Ok(None) => return Err(Error::System(format!("unmounting {} takes too long", point.display()))),
                Err(error) => return Err(Error::System(format!("no thread to unmount {}: {error}", point.display()))),
            }
        }
    }

    /// Whether the mount at `point` answers.
    async fn is_well(&self, point: &Path, worker: Option<&Live>) -> bool {
        let deadline = self.config.ping_deadline;
        if let Some(worker) = worker {
            return worker.ended().is_none() && worker.answers(deadline).await;
        }
        let point = point.to_owned();
        matches!(kernel::within(deadline, move || kernel::usage(&point)).await, Ok(Some(Ok(_))))
    }

    /// Makes sure that nothing is mounted at a target of which there is no record.
    async fn make_way(&self, target: &Path) -> Result<(), Error> {
        match Table::read()?.top(target) {
            None => {}
            Some(mount) if mount.is_ours() && self.is_well(target, None).await => {
                return Err(Error::AlreadyPublished(format!(
                    "a volume ({}) of which no record is left is published at {}; unpublish it first",
                    mount.source,
                    target.display()
                )));
            }
            Some(mount) if mount.is_ours() => {}
            Some(foreign) => return Err(Error::AlreadyPublished(is_not_ours(foreign))),
        }
        self.clear(target).await
    }

    /// Removes what is left of a publication whose record is lost or cannot be read.
    async fn clear(&self, target: &Path) -> Result<(), Error> {
        let point = self.state.mount_point(target);
        self.unmount_ours(target, None).await?;
        self.unmount_ours(&point, None).await?;
        self.state.remove_mount_point(&point)?;
        self.state.forget(target)
    }

    /// Takes over what the records and the table of mounts tell of.
    async fn recover(&self) -> Result<(), Error> {
        let records = self.state.load()?;
        for record in &records {
            self.claims().adopt(record);
        }
        for record in records {
            let (volume_id, target) = (record.volume_id.clone(), record.target.clone());
            let was_done = record.device.is_some();
            let there = Published { worker: self.find_worker(&record)?, record };
            if was_done && is_mounted(&there)? {
                tracing::info!(volume_id, target = %target.display(), serves = there.worker.is_some(), "taken over");
            } else {
                tracing::info!(volume_id, target = %target.display(), "clearing away what is left");
                if let Some(worker) = there.worker.as_ref().filter(|_| !was_done) {
                    worker.kill().await;
                }
                match self.dismantle(&there).await {
                    Ok(()) => continue,
                    Err(error) => tracing::error!(volume_id, target = %target.display(), "{error}"),
                }
            }
            self.slots().insert(target, Arc::new(tokio::sync::Mutex::new(Some(there))));
        }
        for point in self.state.unrecorded_mount_points()? {
            let cleared = match self.unmount_ours(&point, None).await {
                Ok(()) => self.state.remove_mount_point(&point),
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                tracing::warn!("a mount without a record: {error}");
            }
        }
        Ok(())
    }

    /// The worker of a record, if it runs.
    fn find_worker(&self, record: &Record) -> Result<Option<Live>, Error> {
        let Some(identity) = record.worker else { return Ok(None) };
        let process = Process::open(identity)
            .map_err(|error| Error::System(format!("the worker of volume {}: {error}", record.volume_id)))?;
        let points = [self.state.mount_point(&record.target), record.target.clone()];
        let place = Place { volume_id: record.volume_id.clone(), points };
        Ok(process.map(|process| Live::adopt(process, place, self.config.ping_deadline)))
    }

    /// All that a worker may be shared by.
    fn sharer(&self, request: &Publish) -> String {
        let identity = auth::identity::hash(&request.credential, &self.identity_key);
        format!("{}\n{identity}\n{}\n{:?}", request.spec.volume_id, request.spec.read_only, request.spec.options)
    }

    fn slot(&self, target: &Path) -> Slot {
        self.slots().entry(target.to_owned()).or_default().clone()
    }

    /// Forgets an empty slot that nobody else waits for.
    fn drop_slot(&self, target: &Path, slot: &Slot) {
        let mut slots = self.slots();
        if Arc::strong_count(slot) == 2 {
            slots.remove(target);
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the publication's own mount is on top at its target.
fn is_mounted(there: &Published) -> Result<bool, Error> {
    let record = &there.record;
    let table = Table::read()?;
    Ok(table.top(&record.target).is_some_and(|mount| mount.is_ours() && Some(&mount.device) == record.device.as_ref()))
}

fn is_not_ours(mount: &Mount) -> String {
    format!("{} ({}) is mounted at {}, and not by this driver", mount.source, mount.file_system, mount.point.display())
}
