//! Taking away: a target from its mount, a mount with its last target, a mount whose worker is no good. Every step can
//! be done again where it failed.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::live::Live;
use super::recover::process_of;
use super::shared::Shared;
use super::state::MountId;
use super::table::{Mount, Table};
use super::workers::{Published, Workers};
use super::{Error, kernel};

/// How long a worker whose mount is gone may take to finish what it has begun (a file closed is a file published).
const DRAIN: Duration = Duration::from_secs(60);

/// How long a mount may be in use before that is an error: a process that is being started holds its parent's files
/// until it executes its program.
const PASSING: Duration = Duration::from_secs(1);

/// Who serves a mount that is to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behind<'a> {
    Worker(&'a Live),
    /// It has ended.
    Nobody,
    /// It must be asked through the mount.
    Unknown,
}

impl<'a> Behind<'a> {
    pub(super) fn of(mount: &'a Shared) -> Behind<'a> {
        match mount.worker() {
            Some(worker) => Behind::Worker(worker),
            None => Behind::Nobody,
        }
    }
}

impl Workers {
    /// Takes a target from its mount, and the mount down where it was the last.
    pub(super) async fn withdraw(&self, there: &Published) -> Result<(), Error> {
        self.take_off(there).await?;
        self.let_go(there).await
    }

    /// Unmounts a target.
    pub(super) async fn take_off(&self, there: &Published) -> Result<(), Error> {
        self.unmount_ours(&there.record.target, Behind::of(&there.mount)).await
    }

    /// Forgets a target that shows its mount no more, and takes the mount down where it was the last.
    pub(super) async fn let_go(&self, there: &Published) -> Result<(), Error> {
        let Published { record, mount } = there;
        self.state.forget_target(&record.target)?;
        let unused = self.claims().leave(&record.target, mount);
        if unused { self.dismantle(mount).await } else { Ok(()) }
    }

    /// Takes a mount down that no target claims: unmounts, waits for the worker, forgets.
    pub(super) async fn dismantle(&self, mount: &Shared) -> Result<(), Error> {
        let mut made = mount.made().await;
        let unfinished = match mount.worker() {
            Some(_) => None,
            // It died, or never served.
            None => process_of(&mount.record())?,
        };
        if let Some(process) = unfinished {
            process.kill();
            if tokio::time::timeout(DRAIN, process.ended()).await.is_err() {
                return Err(Error::Worker(format!("worker {} cannot be killed", process.identity())));
            }
        }
        mount.read_numbers().await;
        self.unmount_ours(&self.state.mount_point(&mount.id), Behind::of(mount)).await?;
        if let Some(worker) = mount.worker()
            && !worker.wait(DRAIN).await
        {
            // Something holds the mount in another mount namespace, or a store holds up the last publish.
            let volume = mount.volume_id();
            tracing::warn!(volume, worker = %worker.identity(), "worker outlives its mount; ending it");
            worker.kill().await;
            if !worker.wait(DRAIN).await {
                return Err(Error::Worker(format!("worker {} cannot be killed", worker.identity())));
            }
        }
        self.forget(&mount.id).await?;
        self.close_account(mount);
        *made = Some(Err(Error::Worker(format!("the mount of volume {} is being taken down", mount.volume_id()))));
        Ok(())
    }

    /// Removes all that is a mount's whose worker has ended and that is mounted nowhere.
    pub(super) async fn forget(&self, mount: &MountId) -> Result<(), Error> {
        let removed = self.cgroups.remove(mount).await;
        removed.map_err(|error| Error::System(format!("removing a worker's cgroup: {error}")))?;
        self.state.forget_mount(mount)
    }

    /// Ends a mount that does not serve: nobody joins it, its worker is killed, and whoever waits for it gets an error.
    /// Its targets are replaced one by one, each when it is published again.
    pub(super) async fn retire(&self, mount: &Shared) -> Result<(), Error> {
        self.claims().close(mount);
        if let Some(worker) = mount.worker() {
            worker.kill().await;
            if !worker.wait(DRAIN).await {
                return Err(Error::Worker(format!("worker {} cannot be killed", worker.identity())));
            }
        }
        self.claims().release_uid(mount);
        Ok(())
    }

    /// Takes every mount of ours at `point` away: plainly where its worker is well, by force where it is not. Never by
    /// force where it is well, since that ends the whole connection and with it every other target.
    pub(super) async fn unmount_ours(&self, point: &Path, behind: Behind<'_>) -> Result<(), Error> {
        let mut force = None;
        let begun = Instant::now();
        loop {
            match Table::read()?.top(point) {
                None => return Ok(()),
                Some(mount) if mount.is_ours() => {}
                Some(foreign) => return Err(Error::System(format!("{}; unmount it first", is_not_ours(foreign)))),
            }
            let by_force = match (force, behind) {
                (Some(known), _) => known,
                (None, Behind::Nobody) => true,
                (None, Behind::Worker(worker)) => worker.ended().is_some(),
                (None, Behind::Unknown) => !self.is_well(point, behind).await,
            };
            force = Some(by_force);
            let at = point.to_owned();
            match kernel::within(kernel::PROMPT, move || kernel::unmount(&at, by_force)).await {
                Ok(Some(Ok(()))) => {}
                // In use by a program that works, or by one that hangs in a mount that does not answer.
                Ok(None | Some(Err(Errno::EBUSY))) if !by_force => {
                    if self.is_well(point, behind).await {
                        if begun.elapsed() < PASSING {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        }
                        return Err(Error::System(format!(
                            "the volume at {} is in use: a process has a file or its working directory in it; it can \
                             be unmounted when that has ended",
                            point.display()
                        )));
                    }
                    if let Behind::Worker(worker) = behind {
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
    pub(super) async fn is_well(&self, point: &Path, behind: Behind<'_>) -> bool {
        let deadline = self.config.ping_deadline;
        match behind {
            Behind::Worker(worker) => worker.ended().is_none() && worker.answers(deadline).await,
            Behind::Nobody => false,
            Behind::Unknown => {
                let point = point.to_owned();
                matches!(kernel::within(deadline, move || kernel::usage(&point)).await, Ok(Some(Ok(_))))
            }
        }
    }
}

/// Why a mount is left alone.
pub(super) fn is_not_ours(mount: &Mount) -> String {
    format!("{} ({}) is mounted at {}, and not by this driver", mount.source, mount.file_system, mount.point.display())
}
