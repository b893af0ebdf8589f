//! What ails a volume on this node: what its workers say, what becomes of them, and how the last publish failed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::claims::Claimed;
use super::shared::Shared;
use super::workers::Workers;
use super::{Ailment, Error};

/// A failed publish is forgotten after this: the kubelet tries again at least every two minutes.
const FORGOTTEN: Duration = Duration::from_secs(10 * 60);

/// How long the end of a worker may take to be known behind that of its socket, and how often it is looked for.
const MOMENT: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// The publishes that failed, by target.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<PathBuf, Failure>);

#[derive(Debug)]
struct Failure {
    volume_id: String,
    why: String,
    at: Instant,
}

impl Failures {
    /// Notes how a publish ended.
    pub(super) fn note(&mut self, target: &Path, volume_id: &str, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.forget(target),
            Err(error) => {
                self.0.retain(|_, failure| failure.at.elapsed() < FORGOTTEN);
                let failure = Failure { volume_id: volume_id.to_owned(), why: error.to_string(), at: Instant::now() };
                self.0.insert(target.to_owned(), failure);
            }
        }
    }

    pub(super) fn forget(&mut self, target: &Path) {
        self.0.remove(target);
    }

    fn of(&self, volume_id: &str, target: Option<&Path>) -> Vec<Ailment> {
        let meant = |at: &Path, failure: &Failure| {
            failure.volume_id == volume_id
                && failure.at.elapsed() < FORGOTTEN
                && target.is_none_or(|target| target == at)
        };
        let mut failures: Vec<_> = self.0.iter().filter(|(at, failure)| meant(at, failure)).collect();
        failures.sort_by_key(|(at, _)| *at);
        let tell = |(at, failure): (&PathBuf, &Failure)| {
            Ailment::PublishFailed(format!("publishing at {}: {}", at.display(), failure.why))
        };
        failures.into_iter().map(tell).collect()
    }
}

impl Workers {
    /// What ails the volume, at `target` or at all of its targets.
    ///
    /// # Errors
    /// [`Error::NotMounted`] where it is not published here, and nobody has tried.
    pub(super) async fn ailments(&self, volume_id: &str, target: Option<&Path>) -> Result<Vec<Ailment>, Error> {
        let mut ailments = self.failures().of(volume_id, target);
        let mut targets = self.claims().of_volume(volume_id);
        targets.retain(|claimed| target.is_none_or(|target| target == claimed.target));
        if targets.is_empty() && ailments.is_empty() {
            let at = target.map(|target| format!(" at {}", target.display())).unwrap_or_default();
            return Err(Error::NotMounted(format!("volume {volume_id} is not published on this node{at}")));
        }
        ailments.extend(targets.iter().filter_map(of_credential));
        let mut mounts: Vec<_> = targets.into_iter().filter_map(|claimed| claimed.mount).collect();
        mounts.sort_by(|a, b| a.id.cmp(&b.id));
        mounts.dedup_by(|a, b| a.id == b.id);
        ailments.extend(join_all(mounts.iter().map(|mount| of_mount(mount))).await.into_iter().flatten());
        Ok(ailments)
    }
}

/// Whether the credential that a target brought last is in force.
fn of_credential(Claimed { target, mount, brought, refused }: &Claimed) -> Option<Ailment> {
    let at = target.display();
    if let Some(why) = refused {
        let why = format!("the credential that {at} brought; the one before is in force: {why}");
        return Some(Ailment::CredentialRefused(why));
    }
    let mount = mount.as_ref()?;
    let record = mount.record();
    let waits = mount.worker().is_some() && (record.renewing || record.sharing.credential != *brought);
    waits.then(|| {
        let why = match record.renewing {
            true => "its change is not finished, and is tried again when the volume is published the next time",
            false => {
                "other pods share the mount and have not brought it yet; the one before is in force until they have, or \
                 have been silent for some minutes"
            }
        };
        Ailment::CredentialWaits(format!("the credential that {at} brought: {why}"))
    })
}

async fn of_mount(mount: &Shared) -> Vec<Ailment> {
    let volume = mount.volume_id();
    let Some(worker) = mount.worker() else {
        // One that is being made has not died.
        let is_made = mount.device().is_some();
        let gone = || Ailment::WorkerGone(format!("the worker of volume {volume} ended while no node plugin ran"));
        return is_made.then(gone).into_iter().collect();
    };
    let gone = |why| Ailment::WorkerGone(format!("worker {} is gone: {why}", worker.identity()));
    if let Some(why) = worker.ended() {
        return vec![gone(why)];
    }
    let health = match worker.usage().await {
        Ok(usage) => usage.health,
        // Its socket may have ended a moment before it is known that it did.
        Err(error) => {
            let ended = async {
                loop {
                    if let Some(why) = worker.ended() {
                        return why;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            };
            let ended = tokio::time::timeout(MOMENT, ended).await;
            return vec![ended.map_or_else(|_| Ailment::WorkerSilent(error.to_string()), gone)];
        }
    };
    let told = [
        health.credential.map(Ailment::CredentialRefused),
        health.store.map(Ailment::StoreFails),
        health.volume_file.map(Ailment::VolumeFileUnreadable),
        health.count.map(Ailment::CountFailed),
        health.cache.map(Ailment::CacheFails),
    ];
    told.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failed_publish_is_told_until_it_succeeds_or_is_old() {
        let mut failures = Failures::default();
        let failed = Err(Error::Worker("it died".into()));
        let [a, b] = [Path::new("/a"), Path::new("/b")];
        failures.note(a, "v", &failed);
        failures.note(b, "v", &failed);
        failures.note(Path::new("/c"), "w", &failed);
        let tell = |at: &str| Ailment::PublishFailed(format!("publishing at {at}: it died"));
        assert_eq!(failures.of("v", None), [tell("/a"), tell("/b")]);
        assert_eq!(failures.of("v", Some(b)), [tell("/b")]);
        failures.note(a, "v", &Ok(()));
        assert_eq!(failures.of("v", None), [tell("/b")]);
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!(failures.of("v", None), []);
        failures.note(a, "v", &failed);
        assert_eq!(failures.0.len(), 1, "what is old goes");
        failures.forget(a);
        assert_eq!(failures.of("v", None), []);
    }
}
