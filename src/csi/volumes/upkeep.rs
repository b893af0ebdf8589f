//! What an administrator and time do to records: list, release, adopt, forget.

use futures::stream::{BoxStream, StreamExt, TryStreamExt};

use super::record::{self, Owner, Record, State};
use super::{Error, TOMBSTONE, Volumes, path_of};
use crate::backend::Path;

/// How old a tombstone is, by the clocks of two machines, before its record is removed.
const FORGET_AFTER: std::time::Duration = std::time::Duration::from_secs(3600);

/// A record, or what is wrong with the one at a key.
#[derive(Debug)]
pub struct Listed {
    /// Where it lies, below the store's root.
    pub at: Path,
    /// The record.
    pub record: Result<Record, Error>,
}

impl Volumes {
    /// All records, of every cluster, tombstones included, in no order.
    pub fn list(&self) -> BoxStream<'_, Result<Listed, Error>> {
        let keys = self.records.list(&record::volumes(), None).map_err(Error::from);
        let records = keys.map_ok(async |at| match self.load::<Record>(&at).await {
            Ok(Some((record, _))) => Ok(Some(Listed { at, record: Ok(record) })),
            Ok(None) => Ok(None),
            Err(error @ (Error::NewerFormat { .. } | Error::Unreadable { .. })) => {
                Ok(Some(Listed { at, record: Err(error) }))
            }
            Err(error) => Err(error),
        });
        records.try_buffer_unordered(16).try_filter_map(async |listed| Ok(listed)).boxed()
    }

    /// Frees the name and the path of a volume whose data stays where it is: one that is kept, or whose creation or
    /// deletion cannot end.
    ///
    /// # Errors
    /// `Precondition` for a volume that is in use or another cluster's, `Invalid` where none has the name.
    pub async fn release(&self, name: &str) -> Result<Record, Error> {
        let at = record::record_at(&record::key_of(name));
        let Some((record, tag)) = self.load::<Record>(&at).await? else {
            return Err(Error::Invalid(format!("no volume is called {name:?}")));
        };
        self.check_ours(&record)?;
        let next = match record.state {
            State::Creating | State::Withdrawing => State::Withdrawing,
            State::Kept => State::Withdrawn,
            // Its last pages may still be on their way, so its path fades like any deleted volume's.
            State::Deleting => State::Deleted,
            State::Ready => {
                return Err(Error::Precondition(format!(
                    "volume {name:?} is ready, so somebody may use it: delete its PersistentVolume first"
                )));
            }
            State::Deleted | State::Withdrawn | State::Forgotten => return Ok(record),
        };
        let entered = match self.enter(&record, &tag, next).await? {
            Some((record, tag)) if record.state == State::Withdrawing => self.finish_withdrawal(&record, &tag).await?,
            entered => entered,
        };
        match entered {
            Some((record, _)) => Ok(record),
            None => Err(Error::Busy(format!("the record of volume {name:?} changed just now; try again"))),
        }
    }

    /// Makes the records of cluster `from` this cluster's, those of snapshots too. Returns the names of the volumes.
    ///
    /// # Errors
    /// The store's; those done before stay done, and a second call does the rest.
    pub async fn adopt(&self, from: &str) -> Result<Vec<String>, Error> {
        let mut adopted = Vec::new();
        self.adopt_snapshots(from).await?;
        let mut listed = self.list();
        while let Some(Listed { at, record }) = listed.try_next().await? {
            if !record.is_ok_and(|record| record.cluster == from) {
                continue;
            }
            // Read again for its tag; a change meanwhile is read once more.
            while let Some((record, tag)) = self.load::<Record>(&at).await? {
                if record.cluster != from {
                    break;
                }
                let ours = Record { cluster: self.cluster.clone(), ..record };
                if self.swap(&at, &tag, &ours).await?.is_some() {
                    adopted.push(ours.name);
                    break;
                }
            }
        }
        Ok(adopted)
    }

    /// Removes this cluster's tombstones that are older than an hour, of snapshots too, with their owners. Returns how many.
    ///
    /// A tombstone first becomes `forgotten`, which nobody builds over, and goes when whatever was decided before that
    /// has ended.
    ///
    /// # Errors
    /// The store's; the next call does the rest.
    pub async fn forget_old(&self) -> Result<usize, Error> {
        let mut marked = Vec::new();
        let mut listed = self.list();
        while let Some(Listed { at, record }) = listed.try_next().await? {
            let Ok(record) = record else { continue };
            if record.cluster != self.cluster || !record.state.is_tombstone() || !is_old(record.ended.as_deref()) {
                continue;
            }
            let Some((now, tag)) = self.load::<Record>(&at).await? else { continue };
            let same = now.generation == record.generation && now.state == record.state;
            let forgotten = Record { state: State::Forgotten, ..now };
            if same && (record.state == State::Forgotten || self.swap(&at, &tag, &forgotten).await?.is_some()) {
                marked.push((at, forgotten));
            }
        }
        if !marked.is_empty() {
            tokio::time::sleep(TOMBSTONE).await;
            for (at, record) in &marked {
                super::bounded(at, self.remove_forgotten(at, record)).await?;
            }
        }
        let snapshots = self.forget_old_snapshots().await?;
        self.records.clear().await?;
        Ok(marked.len() + snapshots)
    }

    async fn remove_forgotten(&self, at: &Path, record: &Record) -> Result<(), Error> {
        let owner_at = record::owner_at(&path_of(record)?);
        let owner = self.load::<Owner>(&owner_at).await?;
        if owner.is_some_and(|(owner, _)| owner.generation == record.generation) {
            self.records.remove(&owner_at).await?;
        }
        let still = self.load::<Record>(at).await?;
        if still.is_some_and(|(still, _)| still.state == State::Forgotten && still.generation == record.generation) {
            self.records.remove(at).await?;
        }
        Ok(())
    }

    pub(super) fn check_ours(&self, record: &Record) -> Result<(), Error> {
        if record.cluster == self.cluster {
            return Ok(());
        }
        Err(Error::Precondition(format!("volume {:?} belongs to cluster {:?}", record.name, record.cluster)))
    }
}

/// Whether something that ended then has for so long that its record may go.
pub(super) fn is_old(ended: Option<&str>) -> bool {
    let ended = ended.and_then(|text| humantime::parse_rfc3339(text).ok());
    ended.and_then(|ended| ended.elapsed().ok()).is_some_and(|age| age > FORGET_AFTER)
}
