//! The files that are open here to be written: what lies there is, for this mount, what was written to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::open::Open;
use super::webhdfs::Status;

/// By file id. All who open one file share it.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<HashMap<u64, Weak<Open>>>);

impl Writers {
    /// The file of that id where it is open.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Open>> {
        self.all().get(&id)?.upgrade()
    }

    /// The file of that id, opened by `open` where it is not, or where nothing more
    /// can be done through what is open.
    pub(super) fn get_or(&self, id: u64, open: impl FnOnce() -> Open) -> Arc<Open> {
        let mut all = self.all();
        if let Some(there) = all.get(&id).and_then(Weak::upgrade).filter(|there| !there.has_failed()) {
            return there;
        }
        all.retain(|_, open| open.strong_count() > 0);
        let new = Arc::new(open());
        all.insert(id, Arc::downgrade(&new));
        new
    }

    /// Adds to what the name node says of a file what was written to it here.
    pub(super) fn add_to(&self, status: &mut Status) {
        if let Some((length, mtime)) = self.get(status.file_id).and_then(|open| open.shown()) {
            (status.length, status.modification_time) = (length.max(status.length), mtime);
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Weak<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
