//! [`Mounter`] by workers: one process a mount, one mount for all targets that may share it. Each call compares what
//! should be with what is (the table of mounts, the records, the workers that run) and makes up the difference.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::accounts::Accounts;
use super::cgroup::Cgroups;
use super::claims::Claims;
use super::faults::Faults;
use super::health::Failures;
use super::journals::Journals;
use super::live::{Live, Reason};
use super::parts::Parts;
use super::renew::refused;
use super::shared::Shared;
use super::sharing::Sharing;
use super::state::{State, TargetRecord, absent_is_fine};
use super::table::{Table, resolve};
use super::takedown::{Behind, is_not_ours};
use super::tally::Sums;
use super::{Ailment, Config, Done, Error, MayStay, Mounter, Publish, Usage, Whose, start};
use crate::auth::{Credential, identity};
use crate::observability::metrics::WORKER_RESTARTS;

/// How long a question waits for a publish or unpublish of the same target.
const BUSY: Duration = Duration::from_millis(500);

/// How long a worker may take to read the volume's own file again.
const RELOAD: Duration = Duration::from_secs(30);

/// How often a publish looks for another mount because the one it was about to show has died.
const ATTEMPTS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub struct Workers {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) cgroups: Cgroups,
    pub(super) sums: Sums,
    pub(super) parts: Arc<Parts>,
    pub(super) journals: Arc<Journals>,
    /// Keys the identities' hashes; this node's own.
    pub(super) identity_key: [u8; 64],
    claims: Mutex<Claims>,
    failures: Mutex<Failures>,
    slots: Mutex<HashMap<PathBuf, Slot>>,
    accounts: Mutex<Accounts>,
    pub(super) faults: Faults,
    /// What workers log by.
    log_filter: Mutex<String>,
}

/// What is published at one target; locked while that changes.
pub(super) type Slot = Arc<tokio::sync::Mutex<Option<Published>>>;

/// A target and the mount that it shows.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) record: TargetRecord,
    pub(super) mount: Arc<Shared>,
}

#[async_trait]
impl Mounter for Workers {
    async fn publish(&self, request: Publish) -> Result<Done, Error> {
        let Some(target) = resolve(&request.target).await? else {
            return Err(Error::System(format!("the parent directory of {} is missing", request.target.display())));
        };
        let request = Publish { target: target.clone(), ..request };
        let slot = self.slot(&target);
        let mut published = slot.lock().await;
        if let Some(there) = &*published {
            if let Some(done) = self.repeat(there, &request).await? {
                return Ok(done);
            }
            *published = None;
        }
        let outcome = self.publish_anew(&request, &mut published).await;
        self.failures().note(&target, &request.spec.volume_id, &outcome);
        outcome.map(|()| Done::Mounted)
    }

    async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Error> {
        let Some(target) = resolve(target).await? else { return Ok(()) };
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
            self.take_off(there).await?;
            // Before its record, so that the next node plugin goes on where this one dies.
            let removed = remove_target(&target);
            self.let_go(there).await?;
            *published = None;
            removed?;
        } else {
            self.clear(&target).await?;
            remove_target(&target)?;
        }
        self.failures().forget(&target);
        drop(published);
        self.drop_slot(&target, &slot);
        Ok(())
    }

    async fn usage(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        let mount = self.mount_at(volume_id, target).await?;
        serving(&mount)?.usage().await
    }

    async fn reload(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        let mount = self.mount_at(volume_id, target).await?;
        let worker = serving(&mount)?;
        match worker.reload(RELOAD).await {
            Some(Ok(())) => worker.usage().await,
            Some(Err(refusal)) => Err(refused(refusal, volume_id)),
            None => Err(worker.silent()),
        }
    }

    async fn health(&self, volume_id: &str, target: Option<&Path>) -> Result<Vec<Ailment>, Error> {
        let target = match target {
            Some(target) => resolve(target).await?.or_else(|| Some(target.to_owned())),
            None => None,
        };
        self.ailments(volume_id, target.as_deref()).await
    }

    async fn whose(&self, target: &Path) -> Whose {
        let Ok(Some(target)) = resolve(target).await else { return Whose::default() };
        let Some(slot) = self.slots().get(&target).cloned() else { return Whose::default() };
        let Ok(published) = timeout(BUSY, slot.lock()).await else { return Whose::default() };
        let whose = |there: &Published| {
            let identity = Some(there.mount.record().sharing.principal.clone());
            Whose { identity, ..there.record.whose.clone() }
        };
        published.as_ref().map(whose).unwrap_or_default()
    }

    async fn collect_caches(&self, may_stay: Arc<MayStay>) {
        let parts = self.parts.clone();
        // No deadline: removing much takes long, and nobody waits.
        if let Ok(gone) = tokio::task::spawn_blocking(move || parts.collect(&*may_stay)).await {
            self.claims().forget_parts(&gone);
        }
    }

    fn identity(&self, credential: &Credential) -> String {
        identity::hash(credential, &self.identity_key)
    }
}

impl Workers {
    /// Takes over what an earlier node plugin with this state directory left: workers that serve go on, what was half
    /// done is undone. From then on looks now and then for what was left since.
    ///
    /// # Errors
    /// A state directory that cannot be used, or is another node plugin's.
    pub async fn start(config: Config) -> Result<Arc<Workers>, Error> {
        let dir = config.state_dir.clone();
        let opened = tokio::task::spawn_blocking(move || State::open(&dir)).await;
        let state = opened.map_err(|error| Error::System(format!("opening the state directory: {error}")))??;
        let identity_key = state.identity_key()?;
        let journals = Arc::new(Journals::open(&config.state_dir)?);
        let parts = Arc::new(Parts::find(config.cache.clone()).await);
        let mut claims = Claims::new(config.isolate.then_some((config.worker_uid_base, config.worker_uid_count)));
        for (uid, part) in parts.uids() {
            claims.keep_uid(uid, part);
        }
        let claims = Mutex::new(claims);
        let cgroups = if config.isolate { Cgroups::open(state.mounts()) } else { Cgroups::none() };
        let (failures, slots, accounts) = (Mutex::default(), Mutex::default(), Mutex::default());
        let sums = Sums::default();
        let log_filter = Mutex::new(config.log_filter.clone());
        let workers = Arc::new(Workers {
            config,
            state,
            cgroups,
            sums,
            parts,
            journals,
            identity_key,
            claims,
            failures,
            slots,
            accounts,
            faults: Faults::default(),
            log_filter,
        });
        let is_tidy = workers.recover().await?;
        tokio::spawn(Workers::keep_tidy(Arc::downgrade(&workers), is_tidy));
        tokio::spawn(Workers::keep_watch(Arc::downgrade(&workers)));
        Ok(workers)
    }

    /// Has every worker log by this filter, those that are yet to come too.
    pub async fn log_by(&self, filter: &str) {
        filter.clone_into(&mut self.log_filter.lock().unwrap_or_else(PoisonError::into_inner));
        let mounts = self.claims().mounts();
        for (mount, _) in &mounts {
            if let Some(worker) = mount.worker().filter(|worker| worker.ended().is_none()) {
                worker.log_by(filter.to_owned()).await;
            }
        }
    }

    pub(super) fn log_filter(&self) -> String {
        self.log_filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A publish at a target where something is published already. False where that was no good and is gone.
    async fn repeat(&self, there: &Published, request: &Publish) -> Result<Option<Done>, Error> {
        let (record, target) = (&there.record, request.target.display());
        if (&record.volume_id, &record.arguments) != (&request.spec.volume_id, &request.arguments) {
            return Err(Error::AlreadyPublished(format!(
                "volume {} is published at {target} already, {}; unpublish it first",
                record.volume_id,
                if record.volume_id == request.spec.volume_id { "with other arguments" } else { "another volume" },
            )));
        }
        let is_well = there.mount.is_well(self.config.ping_deadline).await;
        if is_well && is_shown(there)? {
            return self.renew(there, request).await.map(Some);
        }
        if !is_well {
            tracing::warn!(volume = record.volume_id, %target, "replacing a mount that is dead");
            self.retire(&there.mount).await?;
            self.tell_death(&there.mount);
            let reason = there.mount.worker().and_then(Live::reason).unwrap_or(Reason::Unknown);
            metrics::counter!(WORKER_RESTARTS, "reason" => reason.word()).increment(1);
        }
        self.withdraw(there).await?;
        Ok(None)
    }

    /// A publish at a target where nothing is published.
    async fn publish_anew(&self, request: &Publish, published: &mut Option<Published>) -> Result<(), Error> {
        let target = &request.target;
        self.make_way(target).await?;
        let existed = target.is_dir();
        match self.bring_up(request, existed).await {
            Ok(there) => {
                let worker = there.mount.worker().map(|worker| worker.identity().to_string());
                tracing::info!(volume = there.record.volume_id, target = %target.display(), worker, "published");
                *published = Some(there);
                Ok(())
            }
            Err((error, rest)) => {
                *published = rest;
                if published.is_none() && !existed {
                    // Absent where it failed before it was made.
                    let _ = fs::remove_dir(target);
                }
                Err(error)
            }
        }
    }

    /// The mount that the volume shows at `target`; does not wait long for a publish or unpublish there.
    async fn mount_at(&self, volume_id: &str, target: &Path) -> Result<Arc<Shared>, Error> {
        let nothing = || Error::NotMounted(format!("volume {volume_id} is not published at {}", target.display()));
        let target = resolve(target).await?.ok_or_else(nothing)?;
        let slot = self.slots().get(&target).cloned().ok_or_else(nothing)?;
        let Ok(published) = timeout(BUSY, slot.lock()).await else {
            return Err(Error::Worker(format!("volume {volume_id} is being published or unpublished; ask again")));
        };
        let there = published.as_ref().filter(|there| there.record.volume_id == volume_id).ok_or_else(nothing)?;
        if is_shown(there)? { Ok(there.mount.clone()) } else { Err(nothing()) }
    }

    /// Shows a mount at the target: one that it may share, or a new one. With the error comes what could not be undone.
    async fn bring_up(&self, request: &Publish, existed: bool) -> Result<Published, (Error, Option<Published>)> {
        for _ in 0..ATTEMPTS {
            let sharing = Sharing::of(request, &self.identity_key);
            let mount = self.claims().join(&request.target, request, sharing).map_err(|error| (error, None))?;
            let record = TargetRecord::begin(request, mount.id.clone(), existed);
            let there = Published { record, mount };
            let outcome = self.show(&there, request).await;
            if let Ok(true) = outcome {
                return Ok(there);
            }
            if let Err(error) = self.withdraw(&there).await {
                let target = request.target.display();
                tracing::error!(%target, "a failed publish could not be undone: {error}");
                return Err((error, Some(there)));
            }
            outcome.map_err(|error| (error, None))?;
        }
        let volume = &request.spec.volume_id;
        Err((Error::Worker(format!("the workers of volume {volume} end as soon as they have begun")), None))
    }

    /// False where the mount, made for another target, is no good.
    async fn show(&self, there: &Published, request: &Publish) -> Result<bool, Error> {
        let mount = &there.mount;
        self.make(mount, request).await?;
        if !mount.is_well(self.config.ping_deadline).await {
            self.retire(mount).await?;
            return Ok(false);
        }
        let (point, device) = (self.state.mount_point(&mount.id), mount.device().unwrap_or_default());
        self.state.save_target(&there.record)?;
        let is_shown = start::show(&point, &device, &request.target).await?;
        if !is_shown {
            // Its worker died just now, or it was unmounted by hand and is served on where it is shown.
            self.claims().close(mount);
        }
        Ok(is_shown)
    }

    /// Makes the mount where nobody has begun to, or waits for who did: whoever asks for one mount has one outcome.
    async fn make(&self, mount: &Shared, request: &Publish) -> Result<(), Error> {
        let mut made = mount.made().await;
        if let Some(outcome) = &*made {
            return outcome.clone();
        }
        let outcome = match start::start(self, mount, request).await {
            Ok(worker) => {
                mount.serve(worker);
                Ok(())
            }
            Err(error) => {
                self.claims().close(mount);
                Err(error)
            }
        };
        *made = Some(outcome.clone());
        outcome
    }

    /// Makes sure that nothing is mounted at a target of which there is no record.
    async fn make_way(&self, target: &Path) -> Result<(), Error> {
        match Table::read()?.top(target) {
            None => return Ok(()),
            Some(mount) if mount.is_ours() && self.is_well(target, Behind::Unknown).await => {
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

    fn slot(&self, target: &Path) -> Slot {
        self.slots().entry(target.to_owned()).or_default().clone()
    }

    /// Forgets an empty slot that nobody else waits for.
    pub(super) fn drop_slot(&self, target: &Path, slot: &Slot) {
        let mut slots = self.slots();
        if Arc::strong_count(slot) == 2 {
            slots.remove(target);
        }
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the directory of a target at which nothing is mounted.
fn remove_target(target: &Path) -> Result<(), Error> {
    absent_is_fine(fs::remove_dir(target)).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => {
                "it holds files that are not the volume's and that this driver does not delete; move them away"
            }
            _ => "it can only be removed where it is an empty directory that nothing is mounted on",
        };
        Error::System(format!("the target directory {}: {error}; {mend}", target.display()))
    })
}

fn serving(mount: &Shared) -> Result<&Live, Error> {
    let gone = || Error::Worker(format!("the worker of volume {} is gone; restart the pod", mount.volume_id()));
    mount.worker().ok_or_else(gone)
}

/// Whether the publication's own mount is on top at its target.
fn is_shown(there: &Published) -> Result<bool, Error> {
    let device = there.mount.device();
    let table = Table::read()?;
    Ok(table.top(&there.record.target).is_some_and(|mount| mount.is_ours() && Some(&mount.device) == device.as_ref()))
}
