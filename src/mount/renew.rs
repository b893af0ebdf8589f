//! A credential that changes under a running mount: proved by the worker, then in force for all who share it.

use super::handover::Refusal;
use super::shared::Shared;
use super::sharing::Sharing;
use super::start::STEP;
use super::workers::{Published, Workers};
use super::{Done, Error, Publish};

impl Workers {
    /// Takes note of the credential that a repeated publish brings. Where it is the one in force, nothing is asked of
    /// anybody; where it is another, the worker goes over to it as soon as every target of the mount has brought it.
    ///
    /// # Errors
    /// [`Error::ChangeRefused`], which leaves the old one in force; [`Error::NotInForce`] while other targets have not
    /// brought it; [`Error::Unfinished`] where the worker does not say that it is done.
    pub(super) async fn renew(&self, there: &Published, request: &Publish) -> Result<Done, Error> {
        let Published { record: target, mount } = there;
        let brought = Sharing::of(request, &self.identity_key);
        self.claims().bring(&target.target, &brought.credential);
        if is_in_force(mount, &brought) {
            return Ok(Done::Nothing);
        }
        let _turn = mount.renewal().await;
        if is_in_force(mount, &brought) {
            return Ok(Done::Nothing);
        }
        let closed = self.claims().close_if_all_brought(mount, &brought.credential);
        if let Err((all, without)) = closed {
            return Err(Error::NotInForce(format!(
                "volume {} is shared by {all} pods on this node, and {without} of them have not brought the changed \
                 credential yet: the one before stays in force until they have, or have not been heard of for {} \
                 minutes",
                target.volume_id,
                super::claims::SILENCE.as_secs() / 60
            )));
        }
        match self.hand_over(mount, brought, request).await {
            Ok(()) => Ok(Done::Renewed),
            Err(Error::Store { kind, message }) => {
                self.claims().refuse(&target.target, &message);
                Err(Error::ChangeRefused { kind, message })
            }
            Err(error) => Err(error),
        }
    }

    /// Of a mount that nobody joins meanwhile: whose credential it uses is not certain, also after a restart in between.
    async fn hand_over(&self, mount: &Shared, brought: Sharing, request: &Publish) -> Result<(), Error> {
        let volume = mount.volume_id();
        let Some(worker) = mount.worker() else {
            return Err(Error::Worker(format!("the worker of volume {volume} is gone")));
        };
        // Where a change was not finished, whose pages the kernel holds is not certain either.
        let same_principal = {
            let record = mount.record();
            !record.renewing && record.sharing.principal == brought.principal
        };
        mount.note(&self.state, |record| record.renewing = true)?;
        let patience = request.spec.options.timeout + STEP;
        let outcome = match worker.renew(request.credential.clone(), same_principal, patience).await {
            None => {
                return Err(Error::Unfinished(format!(
                    "the worker of volume {volume} has not said within {} s that the changed credential is in force; \
                     it is asked again",
                    patience.as_secs()
                )));
            }
            Some(outcome) => outcome,
        };
        mount.note(&self.state, |record| {
            record.renewing = false;
            if outcome.is_ok() {
                // What else the mount was made for stays, whatever the stores file says by now.
                record.sharing = Sharing { with: record.sharing.with.clone(), ..brought };
            }
        })?;
        self.claims().open(mount);
        match outcome {
            Ok(()) => {
                tracing::info!(volume, worker = %worker.identity(), same_principal, "a changed credential is in force");
                Ok(())
            }
            Err(refusal) => Err(refused(refusal, &volume)),
        }
    }
}

fn is_in_force(mount: &Shared, brought: &Sharing) -> bool {
    let record = mount.record();
    !record.renewing && record.sharing.credential == brought.credential
}

/// A refusal as what the publish answers.
pub(super) fn refused(refusal: Refusal, volume: &str) -> Error {
    match refusal {
        Refusal::NoSuchVolume(message) => Error::NoSuchVolume(message),
        Refusal::Store { kind, message } => Error::Store { kind, message },
        Refusal::Worker(message) => Error::Worker(format!("the worker of volume {volume}: {message}")),
    }
}
