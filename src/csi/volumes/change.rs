//! What may change while a volume lives: its limit and its mutable parameters.
//!
//! First the record, under the condition that it is what was read, then its [`super::copy`]. Both calls may be made
//! again at any time; the second one finds the record changed and sees to the copy alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::time::Instant;

use super::record::{self, Record, State};
use super::{Error, Listed, Volumes};
use crate::backend::Path;
use crate::backend::records::Tag;

/// Looks at a record that keeps changing before it is somebody else's turn.
const TRIES: usize = 8;

/// How long the sum of all limits is believed.
const SUMMED: Duration = Duration::from_secs(10);

/// What an expansion may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The least size in bytes.
    pub required: u64,
    /// The largest size in bytes; 0 where it may be any.
    pub limit: u64,
    /// The bytes that the store's volumes may have together, where it says.
    pub capacity: Option<u64>,
}

/// The sum of all limits, as it was last found.
#[derive(Debug, Default)]
pub(super) struct Sum {
    summing: tokio::sync::Mutex<()>,
    held: Mutex<Summed>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Summed {
    /// How often this controller has changed it.
    changes: u64,
    last: Option<(Instant, u64)>,
}

impl Sum {
    /// What was found before no longer holds.
    pub(super) fn changed(&self) {
        let mut held = self.held();
        *held = Summed { changes: held.changes + 1, last: None };
    }

    fn held(&self) -> MutexGuard<'_, Summed> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn missing(path: &Path) -> Error {
    Error::Missing(format!("there is no volume at {:?} with this generation (any more)", path.to_string()))
}

impl Volumes {
    /// Raises the limit of a volume to `room.required`, and returns the record as it is now. A volume without a limit
    /// keeps none, which is room enough.
    ///
    /// # Errors
    /// `Missing`, `OutOfRange` (a volume never shrinks, and a store with a capacity gives no more than that),
    /// `Precondition`, `Busy`, the store's own.
    pub async fn expand(&self, path: &Path, generation: &str, room: Room) -> Result<Record, Error> {
        for _ in 0..TRIES {
            let (record, tag) = self.find_ready(path, generation).await?;
            let Record { name, size, .. } = &record;
            if *size == 0 && room.limit > 0 {
                return Err(Error::OutOfRange(format!(
                    "volume {name:?} was made without a size and has no limit, so it cannot be held to {} bytes",
                    room.limit
                )));
            }
            if room.limit > 0 && *size > room.limit {
                return Err(Error::OutOfRange(format!(
                    "volume {name:?} has {size} bytes, and a volume never shrinks to {}",
                    room.limit
                )));
            }
            self.copy_or_refuse(&record, path).await?;
            if *size == 0 || *size >= room.required {
                return Ok(record);
            }
            let more = if record.is_view() { 0 } else { room.required - size };
            self.check_room(more, room.capacity).await?;
            // Who dies after that has given more room than the record says, which the next call mends.
            self.change_quota(&record, path, room.required).await?;
            let at = record::record_at(&record::key_of(name));
            let larger = Record { size: room.required, ..record };
            let swapped = self.swap(&at, &tag, &larger).await?;
            self.sum.changed();
            if swapped.is_some() {
                self.copy_or_refuse(&larger, path).await?;
                return Ok(larger);
            }
        }
        Err(keeps_changing(path))
    }

    /// Sets mutable parameters, and returns the record as it is now; those that `words` does not name stay.
    ///
    /// # Errors
    /// `Missing`, `Precondition`, `Busy`, the store's own.
    pub async fn modify(
        &self,
        path: &Path,
        generation: &str,
        words: &BTreeMap<String, String>,
    ) -> Result<Record, Error> {
        for _ in 0..TRIES {
            let (record, tag) = self.find_ready(path, generation).await?;
            self.copy_or_refuse(&record, path).await?;
            let mut mutable = record.mutable.clone();
            mutable.extend(words.iter().map(|(word, value)| (word.clone(), value.clone())));
            if mutable == record.mutable {
                return Ok(record);
            }
            let at = record::record_at(&record::key_of(&record.name));
            let modified = Record { mutable, ..record };
            if self.swap(&at, &tag, &modified).await?.is_some() {
                self.copy_or_refuse(&modified, path).await?;
                return Ok(modified);
            }
        }
        Err(keeps_changing(path))
    }

    /// The bytes that volumes of the store have together by their limits, of every cluster; one that is being deleted
    /// counts until it is gone. What this controller did is in it, what others did is for [`SUMMED`] at the latest: a
    /// provisioner asks for each class and segment of a topology.
    ///
    /// # Errors
    /// The store's.
    pub async fn provisioned(&self) -> Result<u64, Error> {
        let _one_at_a_time = self.sum.summing.lock().await;
        let Summed { changes, last } = *self.sum.held();
        if let Some((at, sum)) = last
            && at.elapsed() < SUMMED
        {
            return Ok(sum);
        }
        let sum = self.sum_of_limits().await?;
        let mut held = self.sum.held();
        if held.changes == changes {
            held.last = Some((Instant::now(), sum));
        }
        Ok(sum)
    }

    async fn sum_of_limits(&self) -> Result<u64, Error> {
        let mut sum = 0u64;
        let mut listed = self.list();
        while let Some(Listed { record, .. }) = listed.try_next().await? {
            // A view takes none.
            let takes = |record: &Record| !record.state.is_tombstone() && !record.is_view();
            let size = record.ok().filter(takes).map_or(0, |record| record.size);
            sum = sum.saturating_add(size);
        }
        Ok(sum)
    }

    /// Whether the store has `more` bytes for its volumes. Two calls at once may both find room for one.
    pub(super) async fn check_room(&self, more: u64, capacity: Option<u64>) -> Result<(), Error> {
        let Some(capacity) = capacity.filter(|_| more > 0) else { return Ok(()) };
        let left = capacity.saturating_sub(self.sum_of_limits().await?);
        if more <= left {
            return Ok(());
        }
        Err(Error::OutOfRange(format!(
            "{more} more bytes are asked for, and of the store's capacity of {capacity} there are {left} left"
        )))
    }

    /// The record of a volume of this cluster that was given out.
    pub(super) async fn find_ready(&self, path: &Path, generation: &str) -> Result<(Record, Tag), Error> {
        let found = self.find_tagged(path, generation).await?;
        let (record, tag) = found.filter(|(record, _)| record.state == State::Ready).ok_or_else(|| missing(path))?;
        self.check_ours(&record)?;
        self.check_directory(&record, path).await?;
        Ok((record, tag))
    }
}

pub(super) fn keeps_changing(path: &Path) -> Error {
    Error::Busy(format!("the record of the volume at {:?} keeps changing; try again", path.to_string()))
}
