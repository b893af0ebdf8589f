//! What may be changed under those who use it: a volume's deadlines and times to live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A span of time that may change. Cloning shares it; two are equal while they are as long.
#[derive(Clone)]
pub struct Span(Arc<AtomicU64>);

impl Span {
    /// Begins with `length`.
    pub fn new(length: Duration) -> Span {
        Span(Arc::new(AtomicU64::new(nanos(length))))
    }

    /// As long as it is now.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// From now on as long as `length`; what has begun may still go by what it was.
    pub fn set(&self, length: Duration) {
        self.0.store(nanos(length), Ordering::Relaxed);
    }
}

/// Five centuries are for ever.
fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Duration> for Span {
    fn from(length: Duration) -> Span {
        Span::new(length)
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl PartialEq for Span {
    fn eq(&self, other: &Span) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Span {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_it_see_a_change() {
        let span = Span::new(Duration::from_millis(1500));
        let shared = span.clone();
        span.set(Duration::MAX);
        assert!(shared.get() > Duration::from_secs(1 << 32) && shared == span);
        span.set(Duration::ZERO);
        assert_eq!((shared.get(), shared), (Duration::ZERO, Duration::ZERO.into()));
    }
}
