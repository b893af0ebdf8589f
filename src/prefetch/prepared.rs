//! The next large file of a series, run ahead of before anybody reads it: its reader waits here until the file is opened.
//!
//! Where large files are read whole one after the other, all of one is on its way long before its reader has gone through
//! it, and the next one's latency, and what its first parts take, would be waited for each time anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_util::task::AbortOnDropHandle;

use super::{FileReader, ReadAhead};
use crate::backend::{Path, Version};

/// Files that are run ahead of at once before anybody reads them.
const MOST: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Prepared(Mutex<Vec<Expected>>);

#[derive(Debug)]
struct Expected {
    path: Path,
    /// `None` while it is being found.
    reader: Option<Arc<FileReader>>,
    _finding: AbortOnDropHandle<()>,
}

impl ReadAhead {
    /// All of the file at `path` is on its way to somebody who goes through it: begins with the one that he most likely
    /// reads next, where that is known.
    pub(super) fn prepare_after(self: &Arc<Self>, path: &Path) {
        let Some((next, reach)) = self.habits().next(path) else { return };
        let mut prepared = self.prepared.lock();
        if prepared.iter().any(|other| other.path == next) {
            return;
        }
        let oldest = (prepared.len() >= MOST).then(|| prepared.remove(0));
        let finding = tokio::spawn(find(Arc::downgrade(self), next.clone(), reach));
        prepared.push(Expected { path: next, reader: None, _finding: AbortOnDropHandle::new(finding) });
        drop(prepared);
        // Not under the lock: it locks what it holds.
        drop(oldest);
    }

    /// Goes on with what was begun, where there is room by now.
    pub(super) fn go_on_preparing(&self) {
        let readers: Vec<_> = self.prepared.lock().iter().filter_map(|next| next.reader.clone()).collect();
        readers.iter().for_each(|reader| reader.go_on());
    }

    /// The reader of exactly this version that waits for it to be opened. What waits of another one there is given up.
    pub(super) fn take_prepared(&self, version: &Version) -> Option<Arc<FileReader>> {
        let mut prepared = self.prepared.lock();
        let at = prepared.iter().position(|next| next.path == version.path)?;
        let next = prepared.remove(at);
        drop(prepared);
        next.reader.filter(|reader| reader.version() == version)
    }

    /// Whether the file at `path` is run ahead of already.
    pub(super) fn prepares(&self, path: &Path) -> bool {
        self.prepared.lock().iter().any(|next| next.path == *path)
    }
}

impl Prepared {
    /// Gives up everything.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(ahead: Weak<ReadAhead>, path: Path, reach: u64) {
    let Some((backend, era)) = ahead.upgrade().map(|ahead| (ahead.backend.clone(), ahead.era())) else { return };
    let found = backend.stat(&path).await;
    let Some(ahead) = ahead.upgrade() else { return };
    let version = found.ok().and_then(|meta| meta.version().cloned());
    // A small one is fetched whole by its first read; what another identity was told is nobody's.
    let version = version.filter(|version| version.size > ahead.beginning(&ahead.config()) && era == ahead.era());
    let reader = version.map(|version| {
        let (beginning, _) = ahead.take_file(&version);
        let reader = ahead.reader(version, era);
        if let Some(part) = beginning {
            reader.adopt(part);
        }
        reader
    });
    if let Some(reader) = &reader {
        reader.expect(reach);
    }
    let mut prepared = ahead.prepared.lock();
    let Some(at) = prepared.iter().position(|next| next.path == path) else { return };
    match reader {
        Some(reader) => prepared[at].reader = Some(reader),
        None => {
            // Not dropped here: it is what runs this.
            let next = prepared.remove(at);
            drop(prepared);
            drop(next);
        }
    }
}
