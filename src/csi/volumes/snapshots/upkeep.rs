//! What time does to records of snapshots.

use futures::TryStreamExt;

use super::Snapshot;
use super::record::{State, snapshots};
use crate::csi::volumes::upkeep::is_old;
use crate::csi::volumes::{Error, TOMBSTONE, Volumes, bounded};

impl Volumes {
    /// Makes the snapshots of cluster `from` this cluster's.
    ///
    /// # Errors
    /// The store's; a second call does the rest.
    pub(in crate::csi::volumes) async fn adopt_snapshots(&self, from: &str) -> Result<(), Error> {
        let mut keys = self.records.list(&snapshots(), None);
        while let Some(at) = keys.try_next().await? {
            // One that changed meanwhile is read once more.
            while let Ok(Some((found, tag))) = self.load::<Snapshot>(&at).await {
                let ours = Snapshot { cluster: self.cluster.clone(), ..found.clone() };
                if found.cluster != from || self.swap(&at, &tag, &ours).await?.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes this cluster's tombstones of snapshots that are older than an hour, as those of volumes go. How many.
    ///
    /// # Errors
    /// The store's; the next call does the rest.
    pub(in crate::csi::volumes) async fn forget_old_snapshots(&self) -> Result<usize, Error> {
        let mut marked = Vec::new();
        let mut keys = self.records.list(&snapshots(), None);
        while let Some(at) = keys.try_next().await? {
            let Ok(Some((found, tag))) = self.load::<Snapshot>(&at).await else { continue };
            let is_gone = matches!(found.state, State::Deleted | State::Forgotten);
            if found.cluster != self.cluster || !is_gone || !is_old(found.at.as_deref()) {
                continue;
            }
            let forgotten = Snapshot { state: State::Forgotten, ..found.clone() };
            if found.state == State::Forgotten || self.swap(&at, &tag, &forgotten).await?.is_some() {
                marked.push((at, forgotten));
            }
        }
        if !marked.is_empty() {
            tokio::time::sleep(TOMBSTONE).await;
        }
        for (at, forgotten) in &marked {
            let remove = async {
                match self.load::<Snapshot>(at).await? {
                    Some((now, _)) if now == *forgotten => Ok(self.records.remove(at).await?),
                    _ => Ok(()),
                }
            };
            bounded(at, remove).await?;
        }
        Ok(marked.len())
    }
}
