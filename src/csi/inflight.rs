//! One operation at a time for a key: a volume in the controller, a target path on a node.
//!
//! The kubelet mounts one volume for several pods in parallel, so a node that locked the volume would hold up a job.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys that are being worked on.
#[derive(Debug, Clone, Default)]
pub struct Inflight(Arc<Mutex<HashSet<String>>>);

/// The right to work on a key, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    inflight: Inflight,
    key: String,
}

/// Another call works on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another call for {0:?} is still running; try again when it is done")]
pub struct Busy(pub String);

impl Inflight {
    /// Takes `key`.
    ///
    /// # Errors
    /// [`Busy`] where it is taken.
    pub fn enter(&self, key: &str) -> Result<Guard, Busy> {
        match self.keys().insert(key.to_owned()) {
            true => Ok(Guard { inflight: self.clone(), key: key.to_owned() }),
            false => Err(Busy(key.to_owned())),
        }
    }

    /// A set stays whole whatever panics beside it.
    fn keys(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inflight.keys().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_guard_is_gone() {
        let inflight = Inflight::default();
        let first = inflight.enter("a").unwrap();
        assert_eq!(inflight.enter("a").unwrap_err(), Busy("a".into()));
        let _other = inflight.enter("b").unwrap();
        drop(first);
        let _again = inflight.enter("a").unwrap();
    }
}
