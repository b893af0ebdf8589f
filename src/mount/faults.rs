//! What befalls a mount after it was made, told to whoever is there to pass it on to the pods: each trouble once, until
//! it is over.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::broadcast;

use super::Consumer;
use super::live::{Live, Reason};
use super::shared::Shared;
use super::workers::Workers;
use crate::observability::metrics::{Numbers, VOLUME_OPERATIONS};

/// How often workers are asked.
const PULSE: Duration = Duration::from_secs(5);

/// How many faults wait for who passes them on; the oldest go first.
const MOST: usize = 256;

/// Something that befell a mount, for one of the pods that it is shown to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Who suffers from it.
    pub consumer: Consumer,
    /// The store's name.
    pub store: String,
    /// What it is.
    pub trouble: Trouble,
}

/// What can befall a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Its worker needed more memory than it may have, and was killed.
    OutOfMemory,
    /// Its worker was killed, or ended by itself.
    WorkerDied,
    /// Its worker did not answer, and was ended.
    WorkerSilent,
    /// The store does not accept its credential any more.
    CredentialRefused,
    /// Writes were refused, since the volume would have passed its limit.
    OverLimit,
}

/// What of a mount was told already, and what it was compared with.
#[derive(Debug, Default)]
pub(super) struct Told {
    troubles: HashSet<Trouble>,
    /// Writes that were refused for want of space, at the last look.
    refused: u64,
}

impl Told {
    /// Notes whether the mount is in that trouble now. True where it has just come to be.
    fn note(&mut self, trouble: Trouble, is_so: bool) -> bool {
        if is_so {
            return self.troubles.insert(trouble);
        }
        self.troubles.remove(&trouble);
        false
    }

    /// Notes how many writes were refused so far. True where there are more than before and the look before saw none.
    fn note_refused(&mut self, refused: u64) -> bool {
        let more = refused > std::mem::replace(&mut self.refused, refused);
        self.note(Trouble::OverLimit, more)
    }
}

/// The channel of faults.
#[derive(Debug)]
pub(super) struct Faults(broadcast::Sender<Fault>);

impl Default for Faults {
    fn default() -> Faults {
        Faults(broadcast::Sender::new(MOST))
    }
}

impl Workers {
    /// What befalls mounts from now on.
    pub fn faults(&self) -> broadcast::Receiver<Fault> {
        self.faults.0.subscribe()
    }

    /// Asks the workers as long as there is somebody to ask for.
    pub(super) async fn keep_watch(workers: Weak<Workers>) {
        loop {
            tokio::time::sleep(PULSE).await;
            let Some(workers) = workers.upgrade() else { return };
            let mounts = workers.claims().mounts();
            join_all(mounts.iter().map(|(mount, _)| workers.look_at(mount))).await;
        }
    }

    async fn look_at(&self, mount: &Arc<Shared>) {
        let Some(worker) = mount.worker() else { return };
        if worker.ended().is_some() {
            return self.tell_death(mount);
        }
        mount.read_numbers().await;
        let refused = mount.troubles().note_refused(refused_writes(&mount.numbers()));
        if refused {
            self.tell(mount, Trouble::OverLimit);
        }
        if let Ok(usage) = worker.usage().await {
            let is_new = mount.troubles().note(Trouble::CredentialRefused, usage.health.credential.is_some());
            if is_new {
                self.tell(mount, Trouble::CredentialRefused);
            }
        }
    }

    /// Tells that the mount's worker has died, if it has and that was not told.
    pub(super) fn tell_death(&self, mount: &Shared) {
        let Some(reason) = mount.worker().and_then(Live::reason) else { return };
        let trouble = match reason {
            Reason::Memory => Trouble::OutOfMemory,
            Reason::Silent => Trouble::WorkerSilent,
            Reason::Killed | Reason::Failed | Reason::Unknown => Trouble::WorkerDied,
        };
        let is_new = mount.troubles().note(trouble, true);
        if is_new {
            self.tell(mount, trouble);
        }
    }

    fn tell(&self, mount: &Shared, trouble: Trouble) {
        let store = mount.record().store.clone();
        for consumer in self.claims().consumers_of(mount) {
            // Nobody may be there to hear it.
            let _ = self.faults.0.send(Fault { consumer, store: store.clone(), trouble });
        }
    }
}

fn refused_writes(numbers: &Numbers) -> u64 {
    let is_refusal = |labels: &[(&str, &str)]| labels.contains(&("status", "ENOSPC"));
    let counts = numbers.of(VOLUME_OPERATIONS);
    counts.iter().filter(|(labels, _)| is_refusal(labels)).map(|(_, count)| *count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_new_once_until_it_is_over() {
        let mut told = Told::default();
        let trouble = Trouble::CredentialRefused;
        let new: Vec<_> = [true, true, false, true].iter().map(|is_so| told.note(trouble, *is_so)).collect();
        assert_eq!(new, [true, false, false, true]);
        let new: Vec<_> = [0, 3, 5, 5, 6].iter().map(|refused| told.note_refused(*refused)).collect();
        assert_eq!(new, [false, true, false, false, true]);
    }
}
