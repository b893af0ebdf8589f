//! The stores file as it is now: a changed file is checked whole before it counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Invalid, Stores};
use crate::observability::metrics::STORES_FILE_REFUSED;

/// How often the file is read again. A ConfigMap's update takes the kubelet up to a minute anyway.
const INTERVAL: Duration = Duration::from_secs(5);

/// A stores file that is watched. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LiveStores(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    current: ArcSwap<Stores>,
}

impl LiveStores {
    /// Loads the file at `path`.
    ///
    /// # Errors
    /// As [`Stores::load`].
    pub fn load(path: &Path) -> Result<LiveStores, Invalid> {
        let current = ArcSwap::from_pointee(Stores::load(path)?);
        Ok(LiveStores(Arc::new(Inner { path: path.to_owned(), current })))
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Stores> {
        self.0.current.load_full()
    }

    /// Reads the file again and puts it in force if it may be. True where it changed something.
    ///
    /// # Errors
    /// Why the file is refused; what was in force stays so.
    pub fn reload(&self) -> Result<bool, Invalid> {
        let (old, new) = (self.current(), Stores::load(&self.0.path)?);
        if *old == new {
            return Ok(false);
        }
        for store in new.iter() {
            if old.get(&store.name).is_some_and(|known| known.location_hash() != store.location_hash()) {
                return Err(Invalid(format!(
                    "store {:?}: backend, endpoint, bucket and prefix of a known store cannot change, since its \
                     volumes would be looked for elsewhere; give the new place a new name",
                    store.name
                )));
            }
        }
        self.0.current.store(Arc::new(new));
        Ok(true)
    }

    /// Reloads for ever. A file that is refused is told in the log, each reason once, and in a metric until it is
    /// mended. The file is read by its path, since a ConfigMap is replaced by swapping a symbolic link, which no inode
    /// watch sees.
    pub async fn watch(self) {
        let refused = metrics::gauge!(STORES_FILE_REFUSED);
        let mut last = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let outcome = self.reload();
            if let Ok(true) = outcome {
                tracing::info!(stores = %self.current().names(), "stores file changed and is in force");
            }
            let error = outcome.err();
            refused.set(if error.is_some() { 1 } else { 0 });
            if let Some(error) = error.as_ref().filter(|error| last.as_ref() != Some(*error)) {
                let file = self.0.path.display();
                tracing::error!(%error, %file, "the changed stores file is refused; the old one stays in force");
            }
            last = error;
        }
    }
}
