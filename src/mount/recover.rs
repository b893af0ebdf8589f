//! What an earlier node plugin left, at the start and now and then: taken over where it serves, undone where it was
//! half made, finished where it was half taken away.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::broker::Broker;
use super::handover::{Channel, ToWorker};
use super::live::{Live, Place};
use super::process::Process;
use super::shared::Shared;
use super::state::{MountId, MountRecord, TargetRecord};
use super::table::Table;
use super::takedown::Behind;
use super::workers::{Published, Workers};
use super::{Error, dialing};
use crate::backend::nfs;

/// How long clearing away may hold up the start.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often leftovers are looked for.
const SWEEP: Duration = Duration::from_secs(60);

impl Workers {
    /// Takes over what the records and the table of mounts tell of. False where clearing the rest away takes too long to
    /// wait for.
    pub(super) async fn recover(&self) -> Result<bool, Error> {
        let mut mounts = HashMap::new();
        for (id, record) in self.state.load_mounts()? {
            let Some(record) = record else { continue };
            let mount = Arc::new(self.adopt(id.clone(), record).await);
            self.claims().adopt_mount(&mount);
            mounts.insert(id, mount);
        }
        let table = Table::read()?;
        for record in self.state.load_targets()? {
            let (volume_id, target) = (record.volume_id.clone(), record.target.clone());
            let mount = mounts.get(&record.mount).cloned();
            let shown = table.top(&target).filter(|mount| mount.is_ours());
            match (mount, shown) {
                (Some(mount), Some(shown)) if Some(&shown.device) == mount.device().as_ref() => {
                    tracing::info!(volume_id, target = %target.display(), serves = mount.worker().is_some(), "taken over");
                    let mut claims = self.claims();
                    claims.adopt_target(&record, &mount);
                    if mount.worker().is_some() && !mount.record().renewing {
                        claims.open(&mount);
                    }
                    self.slots().insert(target, Arc::new(tokio::sync::Mutex::new(Some(Published { record, mount }))));
                }
                // Of a mount whose record is lost: unpublish finds it in the table of mounts.
                (_, Some(_)) => {
                    tracing::warn!(volume_id, target = %target.display(), "what is mounted there is of an unknown mount");
                }
                (_, None) => {
                    tracing::info!(volume_id, target = %target.display(), "clearing away what is left");
                    self.give_up(&record)?;
                }
            }
        }
        // A worker that is slow to end does not keep this node plugin from serving.
        match tokio::time::timeout(PATIENCE, self.collect()).await {
            Ok(outcome) => outcome.map(|()| true),
            Err(_) => {
                tracing::warn!(
                    "what is left takes longer than {PATIENCE:?} to clear away; it goes on beside the service"
                );
                Ok(false)
            }
        }
    }

    /// Looks for leftovers as long as there is somebody to look for them for; at once, where it `is_tidy` not.
    pub(super) async fn keep_tidy(workers: Weak<Workers>, is_tidy: bool) {
        let mut pause = if is_tidy { SWEEP } else { Duration::ZERO };
        loop {
            tokio::time::sleep(std::mem::replace(&mut pause, SWEEP)).await;
            let Some(workers) = workers.upgrade() else { return };
            if let Err(error) = workers.tidy().await {
                tracing::warn!("looking for leftovers: {error}");
            }
        }
    }

    /// Withdraws targets that are gone with their pod's directory, though nobody unpublished them, then mounts that
    /// no target is left of. Done about once a minute. What fails is named in the log.
    ///
    /// # Errors
    /// A state directory or table of mounts that cannot be read.
    pub async fn tidy(&self) -> Result<(), Error> {
        let slots: Vec<_> = self.slots().iter().map(|(target, slot)| (target.clone(), slot.clone())).collect();
        let table = Table::read()?;
        for (target, slot) in slots {
            // Whoever holds it works on it.
            let Ok(mut published) = slot.try_lock() else { continue };
            let Some(there) = &*published else { continue };
            let is_gone = table.top(&target).is_none() && target.parent().is_none_or(|parent| !parent.exists());
            if is_gone {
                tracing::info!(volume = there.record.volume_id, target = %target.display(), "its pod is gone");
                if let Err(error) = self.withdraw(there).await {
                    tracing::warn!(target = %target.display(), "it cannot be withdrawn: {error}");
                    continue;
                }
                *published = None;
                drop(published);
                self.drop_slot(&target, &slot);
            }
        }
        self.collect().await
    }

    /// Takes down every mount that neither a target of ours claims nor any other mount point shows. One that cannot be
    /// taken down is named in the log and tried again the next time.
    pub(super) async fn collect(&self) -> Result<(), Error> {
        let on_disk = self.state.mount_ids()?;
        let unused = self.claims().unused();
        let table = Table::read()?;
        let private = self.state.mounts();
        for mount in unused {
            if mount.device().is_some_and(|device| table.is_shown(&device, private)) {
                continue;
            }
            if let Err(error) = self.dismantle(&mount).await {
                tracing::warn!(volume = mount.volume_id(), "a mount that nobody shows: {error}");
            }
        }
        for id in on_disk {
            let point = self.state.mount_point(&id);
            // Known, and used, or failed to go just now.
            if self.claims().knows(&id) {
                continue;
            }
            let shown = table.top(&point).is_some_and(|mount| table.is_shown(&mount.device, private));
            if shown {
                continue;
            }
            let cleared = match self.unmount_ours(&point, Behind::Unknown).await {
                Ok(()) => self.forget(&id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                tracing::warn!("a mount without a record: {error}");
            }
        }
        self.collect_cgroups().await;
        let journals = self.journals.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || journals.collect()).await {
            tracing::warn!("journals of ended workers: {error}");
        }
        Ok(())
    }

    /// Removes the cgroups of mounts of which nothing else is left.
    async fn collect_cgroups(&self) {
        let mounts = match (self.cgroups.mounts(), self.state.mount_ids()) {
            (Ok(mounts), Ok(on_disk)) => mounts.into_iter().filter(move |id| !on_disk.contains(id)),
            (Err(error), _) => return tracing::warn!("looking for the cgroups of ended workers: {error}"),
            (_, Err(error)) => return tracing::warn!("looking for the cgroups of ended workers: {error}"),
        };
        for id in mounts {
            // One that is just being made is known before it has a record.
            if self.claims().knows(&id) {
                continue;
            }
            if let Err(error) = self.cgroups.remove(&id).await {
                tracing::warn!("removing an ended worker's cgroup: {error}");
            }
        }
    }

    /// Removes what is left of a publication whose record is lost or cannot be read.
    pub(super) async fn clear(&self, target: &Path) -> Result<(), Error> {
        let was_mounted = Table::read()?.top(target).is_some();
        self.unmount_ours(target, Behind::Unknown).await?;
        self.state.forget_target(target)?;
        if was_mounted { self.collect().await } else { Ok(()) }
    }

    /// Undoes a publication whose mount never came to its target.
    fn give_up(&self, record: &TargetRecord) -> Result<(), Error> {
        self.state.forget_target(&record.target)?;
        if !record.existed {
            // Absent where it failed before it was made, and not ours where it holds something.
            let _ = fs::remove_dir(&record.target);
        }
        Ok(())
    }

    /// A mount of a record, with its worker if that runs. One of which nobody can tell whether it runs is as one that
    /// does not, so that the other mounts are taken over all the same.
    async fn adopt(&self, id: MountId, record: MountRecord) -> Shared {
        let process = process_of(&record).unwrap_or_else(|error| {
            tracing::error!("{error}; its mount is taken for one without a worker");
            None
        });
        let worker = match (process, record.device.clone()) {
            (Some(process), Some(device)) => {
                let channel = self.state.connect(&id).await.and_then(Channel::new);
                if let (Ok(channel), Some(server)) = (&channel, &record.dials) {
                    offer_connections(channel, server, &record.volume_id).await;
                }
                let place = self.place(&id, &record, device);
                Some(Live::adopt(process, channel, place, self.config.ping_deadline))
            }
            _ => None,
        };
        Shared::adopt(id, record, worker)
    }

    fn place(&self, id: &MountId, record: &MountRecord, device: String) -> Place {
        let part = record.lends_from.as_ref().and_then(|part| self.parts.look_at(part));
        let broker = part.zip(record.uid).and_then(|(dir, uid)| Broker::new(dir, uid, &device).ok().flatten());
        Place {
            volume_id: record.volume_id.clone(),
            point: self.state.mount_point(id),
            device,
            cgroup: self.cgroups.of(id),
            most_memory: record.most_memory,
            broker: broker.map(Arc::new),
            sums: self.sums.clone(),
        }
    }
}

/// The process that a record tells of, if it runs.
pub(super) fn process_of(record: &MountRecord) -> Result<Option<Process>, Error> {
    let Some(identity) = record.worker else { return Ok(None) };
    Process::open(identity)
        .map_err(|error| Error::System(format!("the worker of volume {}: {error}", record.volume_id)))
}

/// Has a worker ask this node plugin for its connections.
async fn offer_connections(channel: &Channel, server: &nfs::Config, volume: &str) {
    let offered = match dialing::offer(server) {
        Ok(socket) => channel.send_with(&ToWorker::Dialer, socket.as_fd()).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = offered {
        tracing::error!(volume, "its worker gets no connections from privileged ports: {why}");
    }
}
