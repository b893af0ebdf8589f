//! What is wrong with a volume, as far as its store tells within [`PROBE`], and what it holds, as far as [`COUNT`] lets
//! count.

use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::copy::Copied;
use super::record::{Record, State};
use super::{Error, Volumes, path_of};
use crate::backend::records::Measured;
use crate::backend::{ErrorKind, Path};

/// How long a volume's store may take to say how it is, in all.
const PROBE: Duration = Duration::from_secs(5);
/// How long a volume may be counted for one answer, and how many pages of 1,000 files.
const COUNT: Duration = Duration::from_secs(2);
const COUNT_PAGES: usize = 100;
/// How long a count is believed.
const COUNTED: Duration = Duration::from_secs(3600);

/// Something that is wrong with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in CamelCase, for machines.
    pub reason: &'static str,
    /// For the volume's owner.
    pub message: String,
}

/// What a trouble means for those who use the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It is not known whether anything is wrong.
    Unknown,
    /// It can be used, and something is not as it should be.
    Degraded,
    /// It cannot be used.
    Inaccessible,
    /// Its data is gone.
    DataLoss,
}

impl Trouble {
    /// A trouble.
    pub fn new(severity: Severity, reason: &'static str, message: impl Into<String>) -> Trouble {
        Trouble { severity, reason, message: message.into() }
    }

    /// What an error of the store says of its volumes. Mounts bring credentials of their own, so what the controller's
    /// is refused need not trouble them.
    pub fn of(error: &Error) -> Trouble {
        let (severity, reason) = match error {
            Error::Store(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Throttled => (Severity::Inaccessible, "StoreUnreachable"),
                ErrorKind::Denied | ErrorKind::Unauthenticated => (Severity::Degraded, "ControllerCredentialRefused"),
                ErrorKind::Misconfigured => (Severity::Inaccessible, "StoreMisconfigured"),
                _ => (Severity::Degraded, "StoreFailed"),
            },
            Error::Precondition(_) => (Severity::Degraded, "ControllerCredentialMissing"),
            _ => (Severity::Degraded, "RecordUnreadable"),
        };
        Trouble::new(severity, reason, error.to_string())
    }
}

/// What a count found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    begun: Instant,
    bytes: u64,
    whole: bool,
}

impl Volumes {
    /// What is wrong with the volume of this path and generation; `None` where there is no such volume of this cluster.
    /// A copy that lags behind its record is mended on the way.
    pub async fn health(&self, path: &Path, generation: &str) -> Option<Vec<Trouble>> {
        let end = Instant::now() + PROBE;
        match probed(path, end, self.find(path, generation)).await {
            Err(error) => Some(vec![Trouble::of(&error)]),
            Ok(found) => {
                let ours = |record: &Record| record.state == State::Ready && record.cluster == self.cluster;
                Some(self.looked_at(&found.filter(ours)?, end).await)
            }
        }
    }

    /// What is wrong with the volume of `record`, which was given out.
    pub async fn health_of(&self, record: &Record) -> Vec<Trouble> {
        self.looked_at(record, Instant::now() + PROBE).await
    }

    async fn looked_at(&self, record: &Record, end: Instant) -> Vec<Trouble> {
        let path = match path_of(record) {
            Ok(path) => path,
            Err(error) => return vec![Trouble::of(&error)],
        };
        let gone = "the volume's directory";
        match probed(&path, end, self.check_directory(record, &path)).await {
            Ok(()) => {}
            Err(Error::Precondition(why)) => {
                return vec![Trouble::new(Severity::Inaccessible, "DirectoryReplaced", why)];
            }
            Err(error) => return vec![Trouble::of(&error)],
        }
        match probed(&path, end, self.copy(&path, record)).await {
            Ok(Copied::NoVolume) | Err(Error::Busy(_)) => return Vec::new(),
            Ok(Copied::Same) => {}
            Ok(Copied::Gone) => {
                let vacant = probed(&path, end, async { Ok(self.records.is_vacant(&path).await?) }).await;
                return vec![match vacant {
                    Ok(true) => {
                        let why = format!("{gone} {:?} is empty: it was removed without the driver", record.path);
                        Trouble::new(Severity::DataLoss, "DirectoryGone", why)
                    }
                    Ok(false) => {
                        let why = format!(
                            "{gone} {:?} holds no .millrace/volume.json, so nothing mounts it: it was removed without \
                             the driver",
                            record.path
                        );
                        Trouble::new(Severity::Inaccessible, "DirectoryGone", why)
                    }
                    Err(error) => Trouble::of(&error),
                }];
            }
            Ok(Copied::Others) => {
                let why = format!("{gone} {:?} is another volume's by its .millrace/volume.json", record.path);
                return vec![Trouble::new(Severity::Inaccessible, "DirectoryReplaced", why)];
            }
            Err(error) => return vec![Trouble::of(&error)],
        }
        let mut troubles = Vec::new();
        match probed(&path, end, async { Ok(self.records.halted().await?) }).await {
            Ok(None) => {}
            Ok(Some(why)) => troubles.push(Trouble::new(Severity::Degraded, "StoreTakesNoChanges", why)),
            Err(error) => return vec![Trouble::of(&error)],
        }
        // What the store itself keeps to, nobody need count.
        if record.size == 0 || record.quota {
            return troubles;
        }
        let found = self.count(record, &path).await;
        if found.bytes > record.size {
            let (at_least, size) = (if found.whole { "" } else { "at least " }, record.size);
            let why = format!("its files have {at_least}{} bytes, and its limit is {size}", found.bytes);
            troubles.push(Trouble::new(Severity::Degraded, "OverLimit", why));
        }
        troubles
    }

    /// What the volume holds: the last count, or a new one where that is old. What was counted when the time was over
    /// is a least that holds too.
    async fn count(&self, record: &Record, path: &Path) -> Count {
        let now = Instant::now();
        let known = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.retain(|_, count| now.duration_since(count.begun) < COUNTED);
            counts.get(&record.generation).copied()
        };
        if let Some(known) = known {
            return known;
        }
        let mut count = Count { begun: now, bytes: 0, whole: false };
        let mut from = None;
        for _ in 0..COUNT_PAGES {
            let left = COUNT.saturating_sub(now.elapsed());
            let Ok(Ok(Measured { bytes, next })) = timeout(left, self.records.measure(path, from)).await else { break };
            count.bytes = count.bytes.saturating_add(bytes);
            count.whole = next.is_none();
            from = next;
            if count.whole {
                break;
            }
        }
        // Where nothing could be counted, the next call tries again.
        if count.whole || count.bytes > 0 {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.insert(record.generation.clone(), count);
        }
        count
    }
}

/// `probe` until `end`.
async fn probed<T>(at: &Path, end: Instant, probe: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout_at(end, probe).await {
        Ok(result) => result,
        Err(_) => Err(super::late(at, PROBE)),
    }
}
