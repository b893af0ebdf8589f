//! A volume that is served: what of it can change meanwhile, and how it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use super::entry::{self, Clients, Known, Look};
use super::kept::Kept;
use super::right::Right;
use super::sharing::Others;
use crate::auth::{self, Credential};
use crate::backend::journal::Journal;
use crate::backend::{self, Backend, ErrorKind, Limits, Space, Swappable, nfs};
use crate::budget::Budget;
use crate::config::parameters::modify;
use crate::config::{VolumeOptions, VolumeSpec};
use crate::csi::volumes::VolumeFile;
use crate::mount::dialing::ByNodePlugin;
use crate::mount::handover::{FromWorker, Refusal};
use crate::mount::{Health, Usage};
use crate::observability::metrics::{
    BUDGET_BYTES, BUDGET_HELD_BYTES, Numbers, ProcessRecorder, VOLUME_COUNT_AGE_SECONDS, VOLUME_LIMIT_BYTES,
    VOLUME_USED_BYTES,
};
use crate::prefetch::{self, ReadAhead};
use crate::tunable::Span;
use crate::vfs::Vfs;

/// See the module.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) spec: VolumeSpec,
    pub(super) recorder: ProcessRecorder,
    pub(super) credential: Mutex<auth::Current>,
    pub(super) backend: Swappable,
    /// Where the volume's own file lies, if not there.
    pub(super) own: Option<Swappable>,
    pub(super) read_ahead: Arc<ReadAhead>,
    pub(super) budget: Budget,
    /// Has the node plugin make connections that this process may not.
    pub(super) dialer: Arc<ByNodePlugin>,
    pub(super) timeout: Span,
    pub(super) ttl: Span,
    pub(super) vfs: Arc<Vfs>,
    pub(super) words: mpsc::UnboundedSender<FromWorker>,
    /// Whether the volume has a limit.
    pub(super) limited: watch::Sender<bool>,
    /// What is known of the volume's other mounts on this node.
    pub(super) others: watch::Sender<Others>,
    pub(super) state: Mutex<State>,
    /// One look at a time at the volume's own file.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// Held by whoever changes who reads, or whether.
    pub(super) right: tokio::sync::Mutex<Right>,
    /// A credential was renewed: the right is proven anew at once.
    pub(super) renewed: Notify,
    /// What was read, for the principal that the worker was started for.
    pub(super) kept: Arc<Kept>,
    /// Why it is not kept, though the volume wants it.
    pub(super) uncached: Option<String>,
}

/// What was last learned.
#[derive(Debug)]
pub(super) struct State {
    /// The volume's own file.
    pub(super) known: Option<Known>,
    /// The options in force.
    pub(super) options: VolumeOptions,
    pub(super) health: Health,
}

impl Served {
    /// With `space` as the store's file system has it.
    pub(super) fn usage(&self, space: Option<Space>) -> Usage {
        let usage = self.vfs.usage();
        Usage {
            used_bytes: usage.bytes,
            used_inodes: usage.inodes,
            limit: usage.limit,
            space,
            counted_s: usage.counted.map(|age| age.as_secs()),
            health: Health { cache: self.cache_ailment(), ..self.state().health.clone() },
        }
    }

    /// What was counted, with the levels of now.
    pub(super) fn numbers(&self) -> Numbers {
        let usage = self.vfs.usage();
        let held = self.budget.total().saturating_sub(self.budget.free());
        let levels = [
            (VOLUME_USED_BYTES, Some(usage.bytes)),
            (VOLUME_LIMIT_BYTES, Some(usage.limit.unwrap_or_default())),
            (VOLUME_COUNT_AGE_SECONDS, usage.counted.map(|age| age.as_secs())),
            (BUDGET_BYTES, Some(self.budget.total())),
            (BUDGET_HELD_BYTES, Some(held)),
        ];
        let mut numbers = self.recorder.numbers();
        levels.into_iter().for_each(|(name, level)| level.into_iter().for_each(|level| numbers.set(name, level)));
        numbers
    }

    /// Says something to the node plugin, if there is one.
    pub(super) fn say(&self, word: FromWorker) {
        let _ = self.words.send(word);
    }

    /// Serves on with `credential`, once the store has accepted it. With another principal's from when this returns
    /// nothing is left of what the one before had read, but for names and attributes that are believed for their time.
    pub(super) async fn take_over(&self, credential: &Credential, same_principal: bool) -> Result<(), Refusal> {
        let mut right = self.right.lock().await;
        let candidate = auth::Current::from(credential);
        let budget = if same_principal { Budget::new(0) } else { self.budget.clone() };
        let dialer: Option<Arc<dyn nfs::Dialer>> = Some(self.dialer.clone());
        // The journal is that of the principal who was first.
        let journal = Journal::default();
        let limits = Limits { budget, timeout: self.timeout.clone(), quota: self.spec.quota, dialer, journal };
        let clients = Clients::new(&self.spec, &candidate, limits)?;
        let known = self.state().known.as_ref().map(|known| known.version.clone());
        entry::prove(&clients, &self.spec, known.as_ref()).await?;
        if same_principal {
            self.credential().renew(credential);
            if right.is_closed() {
                self.renewed.notify_one();
            }
            tracing::info!("the credential was renewed");
        } else {
            let Clients { shown, own } = clients;
            *right = Right::proven(shown.clone());
            // What is kept is the other's. The next worker of this one has a part of its own.
            self.kept.give_up();
            self.vfs
                .succeed(|| {
                    self.backend.swap(shown);
                    if let (Some(seat), Some(own)) = (&self.own, own) {
                        seat.swap(own);
                    }
                    *self.credential() = candidate;
                })
                .await;
            tracing::info!("another principal is in force");
        }
        self.state().health.credential = None;
        Ok(())
    }

    /// What is read through: the client, or what is kept in front of it.
    pub(super) fn reading(&self, client: &Arc<dyn Backend>) -> Arc<dyn Backend> {
        match self.kept.cached() {
            Some(cached) => Arc::new(cached),
            None => client.clone(),
        }
    }

    /// The store answers, and accepts the credential.
    pub(super) fn recovered(&self) {
        let mut state = self.state();
        (state.health.credential, state.health.store) = (None, None);
    }

    fn cache_ailment(&self) -> Option<String> {
        match self.kept.cached() {
            Some(cached) => cached.ailment(),
            None => self.uncached.clone(),
        }
    }

    fn credential(&self) -> MutexGuard<'_, auth::Current> {
        self.credential.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the volume's own file, and puts in force what it says now.
    ///
    /// # Errors
    /// Where it cannot be read: what it said before stays in force.
    pub(super) async fn reload(&self) -> Result<(), Refusal> {
        if self.spec.generation.is_none() {
            return Ok(());
        }
        let _alone = self.looking.lock().await;
        let known = self.state().known.as_ref().map(|known| known.version.clone());
        let looked = entry::look(self.own.as_ref().unwrap_or(&self.backend), known.as_ref()).await;
        self.recovered();
        match looked {
            Ok(Look::Same) => Ok(()),
            Ok(Look::New(known)) => {
                self.learn(known);
                Ok(())
            }
            Ok(Look::None(why)) => {
                self.state().health.volume_file = Some(why.clone());
                Err(Refusal::NoSuchVolume(why))
            }
            Err(error) => {
                self.note(&error);
                Err(error.into())
            }
        }
    }

    /// Notes for the volume's health what the store answered.
    pub(super) fn note(&self, error: &backend::Error) {
        let mut state = self.state();
        let health = &mut state.health;
        let why = Some(error.message.clone());
        match error.kind {
            ErrorKind::Denied | ErrorKind::Unauthenticated => health.credential = why,
            ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Misconfigured => health.store = why,
            _ => health.volume_file = why,
        }
    }

    /// Puts in force what the volume's own file says. It is advice: whoever may write the volume may have written it.
    pub(super) fn learn(&self, known: Known) {
        let (options, problem) = advised(&self.spec, &known.file);
        if let Some(problem) = &problem {
            tracing::warn!("volume.json: {problem}");
        }
        let before = {
            let mut state = self.state();
            state.health.volume_file = problem;
            self.vfs.set_limit(known.file.limit);
            self.limited.send_replace(known.file.limit.is_some());
            state.known = Some(known);
            std::mem::replace(&mut state.options, options.clone())
        };
        self.timeout.set(options.timeout);
        self.ttl.set(options.ttl);
        if options.memory != before.memory {
            self.say(FromWorker::Memory { bytes: options.memory });
            self.budget.resize(options.memory);
        }
        if options.read_ahead_kb != before.read_ahead_kb {
            self.say(FromWorker::ReadAhead { kib: options.read_ahead_kb });
        }
        self.read_ahead.resize(prefetch::Config::for_budget(options.memory).beside(options.read_ahead_kb));
        if options != before {
            tracing::info!("the volume's mutable parameters were changed");
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The volume's options with what its own file says, and what of that cannot be taken.
fn advised(spec: &VolumeSpec, file: &VolumeFile) -> (VolumeOptions, Option<String>) {
    let mut options = spec.options.clone();
    let mut problem = None;
    // Word by word: one that is wrong keeps no other from being right.
    for word in &file.parameters {
        if let Err(bad) = modify(&mut options, [word]) {
            problem = Some(bad.to_string());
        }
    }
    if options.memory > spec.most_memory {
        let (wanted, most) = (options.memory, spec.most_memory);
        problem =
            Some(format!("memory of {wanted} bytes is more than the {most} that the store allows (limits.memory)"));
        options.memory = most.max(spec.options.memory);
    }
    (options, problem)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::s3;

    pub(in super::super) fn spec() -> VolumeSpec {
        VolumeSpec {
            volume_id: "lake/v@abcdefghij".into(),
            store: "lake".into(),
            backend: backend::Config::S3(s3::Config::at("http://127.0.0.1:1", "bucket")),
            path: "v".into(),
            generation: Some("abcdefghij".into()),
            snapshot: None,
            quota: false,
            read_only: false,
            most_memory: 1 << 30,
            options: VolumeOptions { uid: 7, ..VolumeOptions::default() },
        }
    }

    fn file(parameters: &str) -> VolumeFile {
        serde_json::from_str(&format!(r#"{{"format":1,"generation":"abcdefghij","parameters":{parameters}}}"#)).unwrap()
    }

    #[test]
    fn the_volumes_own_file_is_advice_within_bounds() {
        let (options, problem) = advised(&spec(), &file(r#"{"timeout":"5s","ttl":"9s","memory":"64Mi"}"#));
        let expected = VolumeOptions {
            timeout: Duration::from_secs(5),
            ttl: Duration::from_secs(9),
            memory: 64 << 20,
            ..spec().options
        };
        assert_eq!((options, problem), (expected, None));
        for (parameters, why) in [
            (r#"{"uid":"0"}"#, "fixed"),
            (r#"{"path":"../other"}"#, "unknown"),
            (r#"{"immutable":"true"}"#, "fixed"),
            (r#"{"timeout":"never"}"#, "unit"),
            (r#"{"memory":"1Ki"}"#, "32Mi"),
        ] {
            let (options, problem) = advised(&spec(), &file(parameters));
            assert_eq!(options, spec().options, "{parameters}");
            assert!(problem.unwrap().contains(why), "{parameters}");
        }
        let (options, problem) = advised(&spec(), &file(r#"{"memory":"2Gi"}"#));
        assert!(options.memory == 1 << 30 && problem.unwrap().contains("limits.memory"));
        // Gone from the file: what the volume was made with.
        assert_eq!(advised(&spec(), &file("{}")), (spec().options, None));
    }
}
