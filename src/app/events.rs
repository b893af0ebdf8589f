//! Faults of mounts that were made, as Events on the pods that suffer from them: `kubectl describe pod` shows them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::RecvError;

use crate::cluster::{Api, PodEvent};
use crate::mount::{Fault, Trouble, Workers};
use crate::observability::metrics::EVENTS;

/// A pod is told of one trouble once in this time.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// How many Events may be made at once, and how long one more takes to be allowed: a node on which everything breaks
/// must not bury the API server.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(5);

/// Makes Events of what befalls mounts, as `driver` on `node`, for as long as it is polled.
pub(super) async fn pass_on(workers: &Workers, api: Api, driver: &str, node: &str) {
    let mut faults = workers.faults();
    let mut sieve = Sieve::new(Instant::now());
    loop {
        let fault = match faults.recv().await {
            Ok(fault) => fault,
            Err(RecvError::Lagged(missed)) => {
                metrics::counter!(EVENTS, "status" => "dropped").increment(missed);
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let consumer = &fault.consumer;
        // Of a pod that is not known nobody can be told.
        if [&consumer.namespace, &consumer.pod, &consumer.pod_uid].iter().any(|word| word.is_empty()) {
            continue;
        }
        match sieve.pass(&consumer.pod_uid, fault.trouble, Instant::now()) {
            Verdict::Known => continue,
            Verdict::TooMany => {
                metrics::counter!(EVENTS, "status" => "dropped").increment(1);
                continue;
            }
            Verdict::Pass => {}
        }
        let (reason, message) = words(&fault);
        let event = PodEvent {
            namespace: &consumer.namespace,
            pod: &consumer.pod,
            uid: &consumer.pod_uid,
            reason,
            message: &message,
            driver,
            node,
        };
        let outcome = api.report(&event).await;
        metrics::counter!(EVENTS, "status" => if outcome.is_ok() { "ok" } else { "failed" }).increment(1);
        if let Err(error) = outcome {
            tracing::warn!(namespace = consumer.namespace, pod = consumer.pod, reason, "no Event can be made: {error}");
        }
    }
}

/// An Event's reason and text: fixed words and names that Kubernetes or an administrator gave.
fn words(fault: &Fault) -> (&'static str, String) {
    let volume = match fault.consumer.persistent_volume.as_str() {
        "" => "a volume".to_owned(),
        "inline" => "an inline volume".to_owned(),
        name => format!("volume {name}"),
    };
    let store = &fault.store;
    let gone = "programs get \"Transport endpoint is not connected\" there until this pod is started again";
    match fault.trouble {
        Trouble::OutOfMemory => (
            "VolumeOutOfMemory",
            format!(
                "{volume} of store {store:?}: its worker needed more memory than the volume's `memory` allows and was \
                 killed; {gone}. Raise `memory` in the StorageClass or the volume's attributes"
            ),
        ),
        Trouble::WorkerDied => (
            "VolumeWorkerDied",
            format!(
                "{volume} of store {store:?}: its worker ended; {gone}. The log of the driver's node plugin says why"
            ),
        ),
        Trouble::WorkerSilent => (
            "VolumeWorkerSilent",
            format!(
                "{volume} of store {store:?}: its worker did not answer and was ended; {gone}. The log of the driver's \
                 node plugin says more"
            ),
        ),
        Trouble::CredentialRefused => (
            "VolumeCredentialRefused",
            format!(
                "{volume}: store {store:?} does not accept the volume's credential any more, and what is asked of it \
                 fails with \"Permission denied\". Renew the volume's Secret, which reaches this pod without a restart, \
                 or ask who gave out the key"
            ),
        ),
        Trouble::OverLimit => (
            "VolumeOverLimit",
            format!(
                "{volume} of store {store:?} is full: writes that would pass its size fail with \"No space left on \
                 device\". Remove files, or ask for more storage in the claim"
            ),
        ),
    }
}

/// What becomes of a fault.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The pod was told lately.
    Known,
    TooMany,
}

/// Lets through what is new, and not too much of it.
#[derive(Debug)]
struct Sieve {
    told: HashMap<(String, Trouble), Instant>,
    left: u32,
    refilled: Instant,
}

impl Sieve {
    fn new(now: Instant) -> Sieve {
        Sieve { told: HashMap::new(), left: BURST, refilled: now }
    }

    fn pass(&mut self, pod: &str, trouble: Trouble, now: Instant) -> Verdict {
        self.told.retain(|_, at| now.duration_since(*at) < AGAIN);
        if self.told.contains_key(&(pod.to_owned(), trouble)) {
            return Verdict::Known;
        }
        while self.left < BURST && now.duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.left += 1;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        let Some(left) = self.left.checked_sub(1) else { return Verdict::TooMany };
        self.left = left;
        self.told.insert((pod.to_owned(), trouble), now);
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Consumer;

    #[test]
    fn a_pod_is_told_once_and_a_broken_node_says_little() {
        let begun = Instant::now();
        let mut sieve = Sieve::new(begun);
        let [died, refused] = [Trouble::WorkerDied, Trouble::CredentialRefused];
        assert_eq!(sieve.pass("a", died, begun), Verdict::Pass);
        assert_eq!(sieve.pass("a", died, begun + AGAIN / 2), Verdict::Known);
        assert_eq!(sieve.pass("a", refused, begun + AGAIN / 2), Verdict::Pass);
        let later = begun + AGAIN;
        assert_eq!(sieve.pass("a", died, later), Verdict::Pass);
        let passed = (0..1000).filter(|pod| sieve.pass(&pod.to_string(), died, later) == Verdict::Pass).count();
        assert_eq!(passed, BURST as usize - 1);
        let minute = later + Duration::from_secs(60);
        let passed = (1000..2000).filter(|pod| sieve.pass(&pod.to_string(), died, minute) == Verdict::Pass).count();
        assert_eq!(passed, 12);
        assert!(sieve.told.len() < 50, "what was dropped is not remembered");
    }

    #[test]
    fn the_texts_are_the_documented_ones() {
        let consumer = Consumer { persistent_volume: "pvc-1".into(), ..Consumer::default() };
        for trouble in [
            Trouble::OutOfMemory,
            Trouble::WorkerDied,
            Trouble::WorkerSilent,
            Trouble::CredentialRefused,
            Trouble::OverLimit,
        ] {
            let fault = Fault { consumer: consumer.clone(), store: "lake".into(), trouble };
            let (reason, text) = words(&fault);
            let row = format!("| `{reason}` | {text} |");
            let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md")).unwrap();
            assert!(page.lines().any(|line| line == row), "docs/events.md should have:\n{row}");
        }
    }
}
