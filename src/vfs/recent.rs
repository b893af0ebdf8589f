//! The files that were read last by whoever is in force.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::Path;

/// So many are remembered.
const MOST: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Path>>);

impl Recent {
    /// Something of this file was read.
    pub(super) fn note(&self, file: &Path) {
        let mut files = self.lock();
        if files.front() != Some(file) {
            files.retain(|other| other != file);
            files.push_front(file.clone());
            files.truncate(MOST);
        }
    }

    /// The last ones, at most `most`.
    pub(super) fn files(&self, most: usize) -> Vec<Path> {
        self.lock().iter().take(most).cloned().collect()
    }

    /// Somebody else is in force.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Path>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
