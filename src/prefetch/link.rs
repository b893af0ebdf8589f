//! How long a store takes to answer and how fast a connection is, as measured; and what follows from that.
//!
//! What a connection carries while an answer is on its way (latency times bandwidth) decides what is small: fetching
//! that much more costs about as long as asking once more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Until something was measured: a store in the same region.
const LATENCY: Duration = Duration::from_millis(15);
/// Bytes a second.
const RATE: f64 = 100e6;

/// The share of a new measurement.
const WEIGHT: f64 = 0.125;
/// The shortest body that tells of bandwidth, in bytes: one that fits a few buffers comes as fast as it is copied.
const TELLING: u64 = 512 << 10;

/// A part of this many times the latency-bandwidth product is under way to its first byte for a seventh of its time.
const PRODUCTS: f64 = 6.0;

/// What is known of the way to a store.
#[derive(Debug)]
pub(super) struct Link(Mutex<Measured>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Seconds.
    latency: f64,
    /// Bytes a second of one connection.
    rate: f64,
}

impl Default for Link {
    fn default() -> Link {
        Link(Mutex::new(Measured { latency: LATENCY.as_secs_f64(), rate: RATE }))
    }
}

impl Link {
    /// A request that a reader waits for was answered after so long; where no connection was free it waited for one, too.
    pub(super) fn answered(&self, after: Duration) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        measured.latency += (after.as_secs_f64() - measured.latency) * WEIGHT;
    }

    /// After it was answered, a body of `bytes` took so long.
    pub(super) fn carried(&self, bytes: u64, took: Duration) {
        let seconds = took.as_secs_f64();
        if bytes >= TELLING && seconds > 0.0 {
            let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            measured.rate += (bytes as f64 / seconds - measured.rate) * WEIGHT;
        }
    }

    /// Bytes that are as good as free beside a request's own latency.
    pub(super) fn product(&self) -> u64 {
        let measured = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (measured.latency * measured.rate) as u64
    }

    /// Bytes to ask for at once so that a connection is busy for most of the time.
    pub(super) fn part(&self) -> u64 {
        (self.product() as f64 * PRODUCTS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_decides_what_is_small() {
        let link = Link::default();
        assert_eq!(link.product(), 1_500_000);
        for (latency, rate, product) in [(15, 100e6, 1_500_000), (1, 100e6, 100_000), (100, 10e6, 1_000_000)] {
            for _ in 0..100 {
                link.answered(Duration::from_millis(latency));
                link.carried(8 << 20, Duration::from_secs_f64(f64::from(8 << 20) / rate));
            }
            assert!(link.product().abs_diff(product) < product / 50, "{product} {}", link.product());
        }
        let before = link.product();
        // Nothing is learned of bodies that fit the buffers on the way, nor of none at all.
        link.carried(100_000, Duration::from_micros(1));
        link.carried(1 << 30, Duration::ZERO);
        assert_eq!(link.product(), before);
    }
}
