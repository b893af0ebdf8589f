//! The files that are open here to be written: what is on its way to one orders all that follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::in_place::Open;

/// By [`Version::file`](crate::backend::Version::file). All who open one file share it, also with a WRITE of which nobody
/// waits for the end any more.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<HashMap<Arc<str>, Weak<Open>>>);

impl Writers {
    /// That file where it is open.
    pub(super) fn get(&self, file: &str) -> Option<Arc<Open>> {
        self.all().get(file)?.upgrade()
    }

    /// That file, opened by `open` where it is not.
    pub(super) fn get_or(&self, file: &Arc<str>, open: impl FnOnce() -> Open) -> Arc<Open> {
        let mut all = self.all();
        if let Some(there) = all.get(file).and_then(Weak::upgrade) {
            return there;
        }
        all.retain(|_, open| open.strong_count() > 0);
        let new = Arc::new(open());
        all.insert(file.clone(), Arc::downgrade(&new));
        new
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
