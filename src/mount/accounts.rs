//! What the volumes of this node add up to: what their workers counted, those that have ended included, for as long as
//! there is a mount of the volume.

use std::collections::{BTreeMap, HashMap};

use futures::future::join_all;

use super::live::Live;
use super::shared::Shared;
use super::workers::Workers;
use crate::observability::metrics::exposition::Labels;
use crate::observability::metrics::{Numbers, VOLUME_TARGETS, WORKER_MEMORY_BYTES};

/// What workers had counted whose mounts are gone, of volumes that have another. Without it a volume's counters would go
/// back when one of several workers ends.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Labels, Numbers>);

impl Workers {
    /// What each volume of this node counts, and how many mounts there are. Every worker is asked, within a second;
    /// of one that does not answer what it told before counts.
    pub async fn numbers(&self) -> (usize, BTreeMap<Labels, Numbers>) {
        let mounts = self.claims().mounts();
        join_all(mounts.iter().map(|(mount, _)| mount.read_numbers())).await;
        // Held, so that no mount is counted here and under what has ended.
        let mut accounts = self.accounts();
        let mounts = self.claims().mounts();
        let mut volumes: BTreeMap<Labels, Numbers> = BTreeMap::new();
        for (mount, targets) in &mounts {
            let of_volume = volumes.entry(labels(mount)).or_default();
            match mount.worker().filter(|worker| worker.ended().is_none()) {
                Some(_) => of_volume.add(&mount.numbers()),
                None => of_volume.add_ended(&mount.numbers()),
            }
            let mut seen = Numbers::default();
            seen.set(VOLUME_TARGETS, *targets as u64);
            seen.set(WORKER_MEMORY_BYTES, mount.worker().and_then(Live::memory).unwrap_or_default());
            of_volume.add(&seen);
        }
        accounts.0.retain(|labels, _| volumes.contains_key(labels));
        for (labels, ended) in &accounts.0 {
            volumes.entry(labels.clone()).or_default().add_ended(ended);
        }
        (mounts.len(), volumes)
    }

    /// Forgets a mount that is no more, but for what its worker had counted, while there is another of the volume.
    pub(super) fn close_account(&self, mount: &Shared) {
        let mut accounts = self.accounts();
        let of = labels(mount);
        accounts.0.entry(of).or_default().add_ended(&mount.numbers());
        self.claims().forget(mount);
        let left: Vec<_> = self.claims().mounts().iter().map(|(mount, _)| labels(mount)).collect();
        accounts.0.retain(|labels, _| left.contains(labels));
    }
}

/// Whose numbers those of `mount` are, without the node's zone.
fn labels(mount: &Shared) -> Labels {
    let record = mount.record();
    Labels {
        namespace: record.consumer.namespace.clone(),
        persistent_volume: record.consumer.persistent_volume.clone(),
        store: record.store.clone(),
        zone: String::new(),
    }
}
