//! The mounts of this node, for a person who looks.

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Consumer;
use super::live::Live;
use super::shared::Shared;
use super::workers::Workers;
use crate::observability::metrics::{Numbers, VOLUME_OPERATIONS};

/// Of how operations end, what tells a program of a fault rather than of how things are.
const FAULTS: &[&str] = &["EACCES", "ESTALE", "EFBIG", "ENOSPC", "EDQUOT", "EBUSY", "EINTR", "EIO"];

/// A volume as one pod sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The pod and the PersistentVolume.
    #[serde(flatten)]
    pub consumer: Consumer,
    /// The volume's id: what stands in `volume` of its worker's log lines.
    pub volume_id: String,
    /// The store.
    pub store: String,
    /// The keyed hash of whom the credential is of, as in the audit trail.
    pub identity: String,
    /// The worker's pid; `None` where it has ended.
    pub worker: Option<i32>,
    /// The worker's resident memory in bytes.
    pub memory: u64,
    /// Bytes a second that programs read and wrote, over about the last ten seconds: of all pods that share the worker.
    pub read_per_second: u64,
    /// See `read_per_second`.
    pub written_per_second: u64,
    /// Operations that ended in a fault since the worker began, of all pods that share it.
    pub errors: u64,
    /// Seconds since the mount was made.
    pub age: u64,
}

impl Workers {
    /// What is shown to whom on this node, ordered by namespace, pod and volume. Every worker is asked, within a second.
    pub async fn overview(&self) -> Vec<Shown> {
        let targets = self.claims().targets();
        let mounts = self.claims().mounts();
        join_all(mounts.iter().map(|(mount, _)| mount.read_numbers())).await;
        let mut all: Vec<_> = targets.iter().map(|(consumer, mount)| shown(consumer, mount)).collect();
        all.sort_by(|a, b| {
            let key = |one: &Shown| [&one.consumer.namespace, &one.consumer.pod, &one.volume_id].map(String::clone);
            key(a).cmp(&key(b))
        });
        all
    }
}

fn shown(consumer: &Consumer, mount: &Shared) -> Shown {
    let worker = mount.worker().filter(|worker| worker.ended().is_none());
    let (read_per_second, written_per_second) = if worker.is_some() { mount.throughput() } else { (0, 0) };
    let record = mount.record();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Shown {
        consumer: consumer.clone(),
        volume_id: record.volume_id.clone(),
        store: record.store.clone(),
        identity: record.sharing.principal.clone(),
        worker: worker.map(|worker| worker.identity().pid()),
        memory: worker.and_then(Live::memory).unwrap_or_default(),
        read_per_second,
        written_per_second,
        errors: faults(&mount.numbers()),
        // A record of an earlier version does not tell.
        age: if record.begun == 0 { 0 } else { now.saturating_sub(record.begun) },
    }
}

/// How many operations ended in a fault.
fn faults(numbers: &Numbers) -> u64 {
    let is_fault = |labels: &[(&str, &str)]| labels.iter().any(|(_, value)| FAULTS.contains(value));
    let counts = numbers.of(VOLUME_OPERATIONS);
    counts.iter().filter(|(labels, _)| is_fault(labels)).fold(0, |sum, (_, count)| sum.saturating_add(*count))
}
