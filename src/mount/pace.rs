//! How fast a mount is read and written, out of what its worker tells now and then. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::observability::metrics::{Numbers, VOLUME_READ_BYTES, VOLUME_WRITTEN_BYTES};

/// What was told within so long is one look.
const APART: Duration = Duration::from_secs(1);

/// Rates are told over about this time.
const WINDOW: Duration = Duration::from_secs(10);

/// When it was told, and how many bytes had been read and written by then.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    at: Instant,
    read: u64,
    written: u64,
}

/// The looks of about the last [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Pace(VecDeque<Look>);

impl Pace {
    /// Notes what was told at `at`.
    pub(super) fn note(&mut self, at: Instant, told: &Numbers) {
        let bytes = |name| told.get(name, &[]).unwrap_or_default();
        let look = Look { at, read: bytes(VOLUME_READ_BYTES), written: bytes(VOLUME_WRITTEN_BYTES) };
        // The latest look is always the one of now; the one before it is at least so long ago.
        if self.0.len() > 1 && self.0.iter().nth_back(1).is_some_and(|before| at.duration_since(before.at) < APART) {
            self.0.pop_back();
        }
        self.0.push_back(look);
        while self.0.len() > 2 && at.duration_since(self.0[1].at) >= WINDOW {
            self.0.pop_front();
        }
    }

    /// Bytes a second, read and written, from the first look to the last.
    pub(super) fn rates(&self) -> (u64, u64) {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return (0, 0) };
        let took = last.at.duration_since(first.at).as_secs_f64();
        let rate = |from: u64, to: u64| if took > 0.0 { (to.saturating_sub(from) as f64 / took) as u64 } else { 0 };
        (rate(first.read, last.read), rate(first.written, last.written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(read: u64, written: u64) -> Numbers {
        let mut numbers = Numbers::default();
        numbers.set(VOLUME_READ_BYTES, read);
        numbers.set(VOLUME_WRITTEN_BYTES, written);
        numbers
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.rates(), (0, 0));
        pace.note(begun, &told(0, 0));
        assert_eq!(pace.rates(), (0, 0));
        pace.note(begun + Duration::from_millis(500), &told(500, 0));
        pace.note(begun + Duration::from_millis(600), &told(600, 60));
        assert_eq!(pace.rates(), (1000, 100));
        for second in 1..=100 {
            pace.note(begun + Duration::from_secs(second), &told(600, 60));
        }
        assert!(pace.0.len() < 15, "{pace:?}");
        assert_eq!(pace.rates(), (0, 0));
        pace.note(begun + Duration::from_secs(110), &told(1600, 60));
        let (read, written) = pace.rates();
        assert!((50..=100).contains(&read) && written == 0, "{read}");
        // Another worker counts from the beginning.
        pace.note(begun + Duration::from_secs(112), &told(0, 0));
        assert_eq!(pace.rates(), (0, 0));
    }
}
