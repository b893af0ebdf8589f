//! A volume that is served: what of it can change meanwhile, and how it is.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::entry::{self, Known, Look};
use crate::auth::{self, Credential};
use crate::backend::{Backend, Limits};
use crate::budget::Budget;
use crate::config::VolumeSpec;
use crate::mount::handover::{FromWorker, Refusal};
use crate::mount::{Health, Usage};
use crate::vfs::Vfs;

/// See the module.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) spec: VolumeSpec,
    pub(super) credential: auth::Current,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) vfs: Arc<Vfs>,
    #[allow(dead_code, reason = "what a worker says unasked comes with the mutable parameters")]
    pub(super) words: mpsc::UnboundedSender<FromWorker>,
    /// The volume's own file as it was last read.
    pub(super) known: Mutex<Option<Known>>,
    pub(super) health: Mutex<Health>,
}

impl Served {
    pub(super) fn usage(&self) -> Usage {
        let usage = self.vfs.usage();
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Usage { used_bytes: usage.bytes, used_inodes: usage.inodes, health, ..Usage::default() }
    }

    /// Says something to the node plugin, if there is one.
    #[allow(dead_code, reason = "as `words`")]
    pub(super) fn say(&self, word: FromWorker) {
        let _ = self.words.send(word);
    }

    /// Serves on with `credential`, once the store has accepted it.
    pub(super) async fn take_over(&self, credential: &Credential, same_principal: bool) -> Result<(), Refusal> {
        if !same_principal {
            return Err(Refusal::Worker("another principal needs a mount of its own: restart the pod".to_owned()));
        }
        let limits = Limits { budget: Budget::new(0), timeout: self.spec.options.timeout };
        let candidate = entry::client(&self.spec, &auth::Current::from(credential), limits)?;
        let known = self.known().map(|known| known.version);
        entry::prove(&*candidate, &self.spec, known.as_ref()).await?;
        self.credential.renew(credential);
        tracing::info!("the credential was renewed");
        Ok(())
    }

    /// Looks at the volume's own file.
    pub(super) async fn reload(&self) -> Result<(), Refusal> {
        if self.spec.generation.is_none() {
            return Ok(());
        }
        let known = self.known().map(|known| known.version);
        match entry::look(&*self.backend, known.as_ref()).await? {
            Look::Same => {}
            Look::New(known) => *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known),
            Look::None(why) => return Err(Refusal::NoSuchVolume(why)),
        }
        Ok(())
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
