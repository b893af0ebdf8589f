//! Health in CSI's words: what ails a volume on this node, and which stores this node cannot reach.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::Mutex;

use super::super::v1::node_get_storage_health_response::StorageBackendHealth;
use super::super::v1::volume_health::VolumeHealthEntry;
use super::super::v1::{StorageHealthErrorType, VolumeHealthErrorType};
use crate::backend::{self, ErrorKind};
use crate::config::stores::Stores;
use crate::mount::Ailment;

/// How long a store may take to answer the question whether it is there.
const PROBE: Duration = Duration::from_secs(3);
/// How long an answer is good for: every kubelet of a cluster asks every store.
const FRESH: Duration = Duration::from_secs(10);
/// The longest message in bytes, which ends up in an event.
const LONGEST: usize = 1024;

/// One entry for each status and reason, as CSI demands, with a line for each ailment.
pub(super) fn of_volume(ailments: &[Ailment]) -> Vec<VolumeHealthEntry> {
    let mut entries: BTreeMap<(i32, &str), Vec<&str>> = BTreeMap::new();
    for ailment in ailments {
        let (status, reason, message) = words(ailment);
        entries.entry((status.into(), reason)).or_default().push(message);
    }
    let entry = |((status, reason), messages): ((i32, &str), Vec<&str>)| VolumeHealthEntry {
        status,
        reason: reason.to_owned(),
        message: joined(&messages),
    };
    entries.into_iter().map(entry).collect()
}

fn words(ailment: &Ailment) -> (VolumeHealthErrorType, &'static str, &str) {
    match ailment {
        Ailment::WorkerGone(message) => (VolumeHealthErrorType::Inaccessible, "WorkerGone", message),
        Ailment::WorkerSilent(message) => (VolumeHealthErrorType::Inaccessible, "WorkerSilent", message),
        Ailment::PublishFailed(message) => (VolumeHealthErrorType::Inaccessible, "PublishFailed", message),
        Ailment::CredentialRefused(message) => (VolumeHealthErrorType::Degraded, "CredentialRefused", message),
        Ailment::CredentialWaits(message) => (VolumeHealthErrorType::Degraded, "CredentialWaits", message),
        Ailment::StoreFails(message) => (VolumeHealthErrorType::Degraded, "StoreFails", message),
        Ailment::VolumeFileUnreadable(message) => (VolumeHealthErrorType::Degraded, "VolumeFileUnreadable", message),
        Ailment::CacheFails(message) => (VolumeHealthErrorType::Degraded, "CacheFails", message),
        Ailment::CountFailed(message) => (VolumeHealthErrorType::Degraded, "CountFailed", message),
    }
}

/// The messages, each once and one a line, as far as they fit.
fn joined(messages: &[&str]) -> String {
    let mut text = String::new();
    let mut left_out = 0;
    for (at, message) in messages.iter().enumerate() {
        if messages[..at].contains(message) {
            continue;
        }
        if !text.is_empty() && text.len() + message.len() > LONGEST {
            left_out += 1;
            continue;
        }
        let line = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{line}{message}");
    }
    if left_out > 0 {
        let _ = write!(text, "\nand {left_out} more");
    }
    text
}

/// What this node last heard of each store.
#[derive(Debug, Default)]
pub(super) struct Reachability(Mutex<BTreeMap<String, Heard>>);

/// When a store was asked, and what came of it.
type Heard = (Instant, backend::Result<()>);

impl Reachability {
    /// One entry for all stores that do not answer, one for all that say they are in trouble. Stores are asked at the
    /// same time, without a credential, and not again within seconds.
    pub(super) async fn of(&self, stores: &Stores) -> Vec<StorageBackendHealth> {
        let mut known = self.0.lock().await;
        known.retain(|name, (asked, _)| asked.elapsed() < FRESH && stores.get(name).is_some());
        let unknown: Vec<_> = stores.iter().filter(|store| !known.contains_key(&store.name)).collect();
        let asked = join_all(unknown.iter().map(|store| backend::reach(&store.backend, PROBE))).await;
        let now = Instant::now();
        known.extend(unknown.iter().zip(asked).map(|(store, answer)| (store.name.clone(), (now, answer))));

        let (mut silent, mut ailing) = (Vec::new(), Vec::new());
        for (name, (_, answer)) in &*known {
            let Err(error) = answer else { continue };
            let line = format!("store {name:?} ({}): {}", place(stores, name), error.message);
            if error.kind == ErrorKind::Throttled { ailing.push(line) } else { silent.push(line) }
        }
        let entry = |status: StorageHealthErrorType, reason: &str, lines: &[String]| StorageBackendHealth {
            status: status.into(),
            reason: reason.to_owned(),
            message: joined(&lines.iter().map(String::as_str).collect::<Vec<_>>()),
            volume_capability: None,
        };
        let mut entries = Vec::new();
        if !silent.is_empty() {
            entries.push(entry(StorageHealthErrorType::StorageUnreachable, "StoreUnreachable", &silent));
        }
        if !ailing.is_empty() {
            entries.push(entry(StorageHealthErrorType::StorageDegraded, "StoreInTrouble", &ailing));
        }
        entries
    }
}

/// Where a store is, for a person.
fn place(stores: &Stores, name: &str) -> String {
    match stores.get(name).map(|store| &store.backend) {
        Some(backend::Config::S3(config)) => {
            config.endpoint.clone().unwrap_or_else(|| format!("AWS, {}", config.region))
        }
        Some(backend::Config::Hdfs(config)) => format!("hdfs {}", config.namenodes.join(", ")),
        Some(backend::Config::Nfs(config)) => format!("nfs {}:{}", config.server, config.export),
        None => "gone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_once_however_many_targets_have_it() {
        let gone = |target: &str| Ailment::WorkerGone(format!("{target}: killed"));
        let entries =
            of_volume(&[gone("/1"), Ailment::CredentialRefused("/1: refused".into()), gone("/2"), gone("/1")]);
        let shown: Vec<_> = entries.iter().map(|e| (e.status(), e.reason.as_str(), e.message.as_str())).collect();
        assert_eq!(
            shown,
            [
                (VolumeHealthErrorType::Degraded, "CredentialRefused", "/1: refused"),
                (VolumeHealthErrorType::Inaccessible, "WorkerGone", "/1: killed\n/2: killed"),
            ]
        );
        assert!(of_volume(&[]).is_empty());
    }

    #[test]
    fn a_long_story_is_cut_between_two_lines() {
        let lines: Vec<_> = (0..100).map(|number| format!("{number}: {}", "x".repeat(100))).collect();
        let text = joined(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(text.len() < LONGEST + 20 && text.ends_with("and 91 more"), "{text}");
    }
}
