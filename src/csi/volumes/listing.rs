//! The volumes of this cluster in the order of their records' keys, a page at a time.

use futures::stream::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

use super::record::{self, Record, State};
use super::{Error, Volumes};
use crate::backend::Path;

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
        let is_shown = |record: &Record| record.state == State::Ready && record.cluster == self.cluster;
        let (volumes, more) = self.page_of("a volume", &record::volumes(), after.as_ref(), most, is_shown).await?;
        Ok(Page { volumes, more })
    }

    /// Up to `most` of the records below `root` behind `after` that are shown, and whether there are more of them. One that
    /// cannot be read is told in the log, as `what` it is of, and left out.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn page_of<T: DeserializeOwned + Send>(
        &self,
        what: &str,
        root: &Path,
        after: Option<&Path>,
        most: usize,
        is_shown: impl Fn(&T) -> bool + Send + Sync,
    ) -> Result<(Vec<T>, bool), Error> {
        let keys = self.records.list(root, after).map_err(Error::from);
        let mut records = keys
            .map_ok(async |at| match self.load::<T>(&at).await {
                Err(error @ (Error::NewerFormat { .. } | Error::Unreadable { .. })) => {
                    tracing::warn!(%error, "{what} is left out of the list");
                    Ok(None)
                }
                loaded => Ok(loaded?.map(|(record, _)| record)),
            })
            .try_buffered(AT_ONCE)
            .boxed();
        let mut page = Vec::new();
        while let Some(record) = records.try_next().await? {
            let Some(record) = record.filter(&is_shown) else { continue };
            if page.len() == most {
                return Ok((page, true));
            }
            page.push(record);
        }
        Ok((page, false))
    }
}
