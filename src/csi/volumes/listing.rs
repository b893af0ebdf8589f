//! The volumes of this cluster in the order of their records' keys, a page at a time.

use futures::stream::{StreamExt, TryStreamExt};

use super::record::{self, Record, State};
use super::{Error, Volumes};

/// Records read at once.
const AT_ONCE: usize = 16;

/// Some of the volumes that this cluster was given and has not deleted.
#[derive(Debug)]
pub struct Page {
    /// They, in the order of [`record::key_of`] their names.
    pub volumes: Vec<Record>,
    /// There are others after them.
    pub more: bool,
}

impl Volumes {
    /// Up to `most` volumes whose records' keys come after `after`. What is made and deleted meanwhile moves no other
    /// volume to another page. A record that cannot be read is told in the log and left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn page(&self, after: Option<&str>, most: usize) -> Result<Page, Error> {
        let after = after.map(record::record_at);
        let keys = self.records.list(&record::volumes(), after.as_ref()).map_err(Error::from);
        let mut records = keys
            .map_ok(async |at| match self.load::<Record>(&at).await {
                Err(error @ (Error::NewerFormat { .. } | Error::Unreadable { .. })) => {
                    tracing::warn!(%error, "a volume is left out of the list");
                    Ok(None)
                }
                loaded => Ok(loaded?.map(|(record, _)| record)),
            })
            .try_buffered(AT_ONCE)
            .boxed();
        let mut volumes = Vec::new();
        while let Some(record) = records.try_next().await? {
            let Some(record) = record.filter(|record| record.state == State::Ready && record.cluster == self.cluster)
            else {
                continue;
            };
            if volumes.len() == most {
                return Ok(Page { volumes, more: true });
            }
            volumes.push(record);
        }
        Ok(Page { volumes, more: false })
    }
}
