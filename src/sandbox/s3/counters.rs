//! What the server has done, in numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::kind::Kind;

/// A reading of the counters, since the start or the last [`reset`](super::Server::reset_counters).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by kind, refused and failed ones too.
    pub requests: BTreeMap<Kind, u64>,
    /// Answers by status; a request whose connection was cut before the status has none.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of object bodies that were handed to the sockets.
    pub body_bytes: u64,
    /// TCP connections accepted.
    pub connections: u64,
    /// Requests that have not been answered to their body's end.
    pub in_flight: u64,
    /// The most that were in flight at once.
    pub peak: u64,
}

impl Counters {
    /// Requests of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.requests.get(&kind).copied().unwrap_or_default()
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// What a request asked, for tests that care how the server was asked. Kept where [`record`](super::Options::record).
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its operation.
    pub kind: Kind,
    /// Its key; empty where it has none.
    pub key: String,
    /// Its path and query.
    pub uri: String,
    /// Its headers, without `authorization`.
    pub headers: http::HeaderMap,
}

impl Seen {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    counters: Mutex<Counters>,
    seen: Mutex<Vec<Seen>>,
}

impl Ledger {
    pub(super) fn read(&self) -> Counters {
        self.lock().clone()
    }

    /// Everything to zero, but what is in flight.
    pub(super) fn reset(&self) {
        let mut counters = self.lock();
        let in_flight = counters.in_flight;
        *counters = Counters { in_flight, peak: in_flight, ..Counters::default() };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn record(&self, seen: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    pub(super) fn connected(&self) {
        self.lock().connections += 1;
    }

    pub(super) fn answered(&self, status: u16) {
        *self.lock().statuses.entry(status).or_default() += 1;
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.lock().body_bytes += bytes;
    }

    /// Counts a request; it is in flight until what this returns is dropped.
    pub(super) fn begin(self: &Arc<Ledger>, kind: Kind) -> InFlight {
        let mut counters = self.lock();
        *counters.requests.entry(kind).or_default() += 1;
        counters.in_flight += 1;
        counters.peak = counters.peak.max(counters.in_flight);
        InFlight(Arc::clone(self))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct InFlight(Arc<Ledger>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
