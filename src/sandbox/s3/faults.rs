//! Faults that a test stages: "the next three GETs of this key break off after 100 bytes".

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::kind::Kind;

/// How the server behaves towards everybody; may change while it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// How long each answer waits before its first byte.
    pub first_byte: Duration,
    /// Bytes a second and direction on each TCP connection; `None` for no limit.
    pub per_connection: Option<u64>,
    /// Bytes a second and direction on all connections together.
    pub total: Option<u64>,
    /// The share of requests, 0 to 1, that get 503 SlowDown: evenly spread, not by chance.
    pub slow_down: f64,
    /// Connections are accepted and requests taken, and neither handshake nor answer comes, until it is unset.
    pub silent: bool,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// This status and S3 error code (and these headers) instead of the operation. A status of 200 is an error inside
    /// a 200, as CopyObject and CompleteMultipartUpload may answer.
    Error {
        /// HTTP status.
        status: u16,
        /// S3 error code.
        code: String,
        /// Further headers of the answer.
        headers: Vec<(String, String)>,
    },
    /// Waits so long before the first byte, besides [`Conditions::first_byte`].
    Delay(Duration),
    /// Never answers, until [`Faults::release`]. The operation has not been done.
    Silence,
    /// The connection is closed instead of an answer; the operation has not been done.
    Refuse,
    /// The operation is done, and the connection closed instead of an answer.
    LostReply,
    /// The connection is closed after so many bytes of the body.
    Cut(u64),
    /// The connection is reset after so many bytes of the body.
    Reset(u64),
    /// The body stops after so many bytes, until [`Faults::release`].
    Stall(u64),
    /// A well-formed answer whose body lacks its last so many bytes; Content-Range still promises them.
    Short(u64),
    /// So many bytes of the body a second.
    Slow(u64),
    /// The byte of the body at this place is another one.
    Corrupt(u64),
    /// This Content-Range instead of the true one.
    ContentRange(String),
    /// This ETag, with its quotes, instead of the true one.
    ETag(String),
    /// If-Match, If-None-Match and their kin are ignored, those of a copy's source too.
    IgnoreConditions,
    /// The whole object, with 200, whatever Range was asked.
    IgnoreRange,
    /// Keys as they are, whatever encoding of a listing was asked.
    IgnoreEncoding,
    /// A listing's first page is empty, and says that more follow.
    EmptyPage,
}

impl Fault {
    /// An S3 error without further headers.
    pub fn error(status: u16, code: &str) -> Fault {
        Fault::Error { status, code: code.to_owned(), headers: Vec::new() }
    }
}

/// Which requests have a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    kind: Option<Kind>,
    key: Option<String>,
    skip: u64,
    times: u64,
    fault: Fault,
}

impl Rule {
    /// The next request, whatever it is.
    pub fn any(fault: Fault) -> Rule {
        Rule { kind: None, key: None, skip: 0, times: 1, fault }
    }

    /// The next request of this kind.
    pub fn on(kind: Kind, fault: Fault) -> Rule {
        Rule { kind: Some(kind), ..Rule::any(fault) }
    }

    /// Only requests for this key.
    pub fn key(mut self, key: impl Into<String>) -> Rule {
        self.key = Some(key.into());
        self
    }

    /// Spares the first so many requests that match.
    pub fn skip(mut self, requests: u64) -> Rule {
        self.skip = requests;
        self
    }

    /// For so many requests instead of one.
    pub fn times(mut self, requests: u64) -> Rule {
        self.times = requests;
        self
    }

    /// For every request, until [`Faults::clear`].
    pub fn always(self) -> Rule {
        self.times(u64::MAX)
    }
}

/// The staged faults and the conditions of a server: a handle that may be cloned.
#[derive(Debug, Clone)]
pub struct Faults {
    conditions: Arc<ArcSwap<Conditions>>,
    rules: Arc<Mutex<Vec<Rule>>>,
    /// Share of a SlowDown that is owed, 0 to 1.
    owed: Arc<Mutex<f64>>,
    /// Wakes those whom a fault holds.
    releases: watch::Sender<()>,
    /// Wakes those who wait for other conditions.
    changes: watch::Sender<()>,
}

impl Faults {
    pub(super) fn new(conditions: Conditions) -> Faults {
        Faults {
            conditions: Arc::new(ArcSwap::from_pointee(conditions)),
            rules: Arc::default(),
            owed: Arc::default(),
            releases: watch::Sender::new(()),
            changes: watch::Sender::new(()),
        }
    }

    /// Stages a fault. Where several rules match a request, it has all their faults.
    pub fn add(&self, rule: Rule) {
        self.lock().push(rule);
    }

    /// Forgets all rules, and releases what waits.
    pub fn clear(&self) {
        self.lock().clear();
        self.release();
    }

    /// Lets requests go on that a [`Fault::Silence`] or [`Fault::Stall`] holds.
    pub fn release(&self) {
        self.releases.send_replace(());
    }

    /// How many requests the rules still have a fault for; `u64::MAX` where one is for every request.
    pub fn pending(&self) -> u64 {
        self.lock().iter().fold(0, |sum, rule| sum.saturating_add(rule.times))
    }

    /// The conditions in force.
    pub fn conditions(&self) -> Conditions {
        Conditions::clone(&self.conditions.load())
    }

    /// Changes the conditions for requests and bytes to come.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.conditions.store(Arc::new(conditions));
        self.changes.send_replace(());
    }

    /// Changes some of the conditions.
    pub fn adjust(&self, change: impl FnOnce(&mut Conditions)) {
        let mut conditions = self.conditions();
        change(&mut conditions);
        self.set_conditions(conditions);
    }

    pub(super) fn load(&self) -> arc_swap::Guard<Arc<Conditions>> {
        self.conditions.load()
    }

    /// The faults of a request, which are thereby used up.
    pub(super) fn take(&self, kind: Kind, key: &str) -> Vec<Fault> {
        let mut rules = self.lock();
        let mut faults = Vec::new();
        for rule in rules.iter_mut() {
            let matches = rule.kind.is_none_or(|k| k == kind) && rule.key.as_deref().is_none_or(|k| k == key);
            if !matches {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.times != u64::MAX {
                rule.times -= 1;
            }
            faults.push(rule.fault.clone());
        }
        rules.retain(|rule| rule.times > 0);
        faults
    }

    /// Whether this request is one of those that get 503.
    pub(super) fn slows_down(&self) -> bool {
        let share = self.load().slow_down;
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        *owed += share;
        let now = *owed >= 1.0;
        if now {
            *owed -= 1.0;
        }
        now
    }

    /// Waits for the next release.
    pub(super) async fn released(&self) {
        // The sender lives in `self`, so that this cannot fail.
        let _ = self.releases.subscribe().changed().await;
    }

    /// Waits while the server is silent.
    pub(super) async fn spoken(&self) {
        let mut changes = self.changes.subscribe();
        while self.load().silent {
            let _ = changes.changed().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
