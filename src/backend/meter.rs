//! Counts what is asked of a store: what for, how it answers, how soon, and how many bytes go either way.

use std::time::Duration;

use metrics::Counter;

use crate::observability::metrics::{STORE_FETCHED_BYTES, STORE_REQUEST_SECONDS, STORE_REQUESTS, STORE_SENT_BYTES};

/// The counters of bytes, looked up once: bodies come in many small pieces.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    fetched: Counter,
    sent: Counter,
}

impl Meter {
    pub(super) fn new() -> Meter {
        Meter { fetched: metrics::counter!(STORE_FETCHED_BYTES), sent: metrics::counter!(STORE_SENT_BYTES) }
    }

    /// Bytes of an answer.
    pub(super) fn fetched(&self, bytes: usize) {
        self.fetched.increment(bytes as u64);
    }

    /// Bytes of a request.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.increment(bytes as u64);
    }
}

/// Counts a request of that kind, which ended like this after so long. The words are those of the metric's table.
pub(super) fn answered(kind: &'static str, status: &'static str, took: Duration) {
    metrics::counter!(STORE_REQUESTS, "kind" => kind, "status" => status).increment(1);
    if status != UNREACHED {
        metrics::histogram!(STORE_REQUEST_SECONDS, "kind" => kind).record(took);
    }
}

/// The status of a request that got no answer.
pub(super) const UNREACHED: &str = "unreached";
