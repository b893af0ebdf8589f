//! The health calls: what is wrong with volumes, told apart, within a deadline whatever a store does.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use tokio::time::timeout;
use tonic::Status;

use super::super::status;
use super::super::v1::volume_health::VolumeHealthEntry;
use super::super::v1::{
    ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, VolumeHealth, VolumeHealthErrorType,
};
use super::super::volumes::{Error, Page, Record, Severity, Trouble, Volumes, late, record};
use super::list::{Token, most, stores_from};
use super::single::known;
use super::{Controller, create};
use crate::backend;
use crate::config::stores::Store;

/// How long one call goes on looking at further volumes; the rest is for the next call, by its token.
const LOOK: Duration = Duration::from_secs(3);
/// Volumes that are looked at side by side.
const AT_ONCE: usize = 16;
/// How long a store may take to list them.
const LIST: Duration = Duration::from_secs(5);
/// How long a store may take to answer anybody at all.
const REACH: Duration = Duration::from_secs(5);
/// The longest message in bytes: what Kubernetes takes.
const LONGEST: usize = 1024;

/// The volumes of a store as it last told them, by their records' keys, for when it tells nothing.
pub(super) type Known = BTreeMap<String, Record>;

/// Some volumes of a store.
enum Chunk {
    /// As it tells them now.
    Told(Page, Arc<Volumes>),
    /// As it told them before; now it does not, because of this.
    Remembered(Page, Trouble),
}

impl Controller {
    /// ControllerGetVolumeHealth.
    pub(super) async fn volume_health(&self, text: &str) -> Result<VolumeHealth, Status> {
        let id = known(text)?;
        let store = self.store_of(&id)?;
        let troubles = match self.volumes(&store) {
            Ok(volumes) => volumes.health(id.path(), id.generation().as_str()).await,
            // Whether there is such a volume cannot be known; that it could not be used can.
            Err(error) => Some(vec![match backend::reach(&store.backend, REACH).await {
                Err(silent) => Trouble::of(&silent.into()),
                Ok(()) => Trouble { severity: Severity::Unknown, ..Trouble::of(&error) },
            }]),
        };
        let troubles = troubles.ok_or_else(|| status::not_found(format!("there is no volume {text:?} (any more)")))?;
        Ok(health(text.to_owned(), troubles))
    }

    /// ControllerListVolumeHealth: the volumes with which something is wrong, and those alone. A store that cannot be
    /// listed fails the call, unless this process knows its volumes from before.
    pub(super) async fn list_health(
        &self,
        request: &ControllerListVolumeHealthRequest,
    ) -> Result<ControllerListVolumeHealthResponse, Status> {
        let stores = self.0.stores.current();
        let most = most(request.max_entries)?;
        let token = Token::read(&request.starting_token, &stores)?;
        let begun = Instant::now();
        let mut entries = Vec::new();
        let mut last = token.clone();
        for store in stores_from(&stores, token.as_ref()) {
            let mut after = Token::within(token.as_ref(), store);
            loop {
                let room = most - entries.len();
                let enough = room == 0 || (begun.elapsed() >= LOOK && last != token);
                let chunk = self.chunk(store, after.as_deref(), if enough { 1 } else { room.min(AT_ONCE) }).await?;
                let (Chunk::Told(page, _) | Chunk::Remembered(page, _)) = &chunk;
                let Some(end) = page.volumes.last() else { break };
                if enough {
                    let next_token = last.map_or_else(String::new, |last| last.to_string());
                    return Ok(ControllerListVolumeHealthResponse { entries, next_token });
                }
                let end = Token::after(store, end);
                let more = page.more;
                entries.extend(unwell(store, chunk).await?);
                after = Token::within(Some(&end), store);
                last = Some(end);
                if !more {
                    break;
                }
            }
        }
        Ok(ControllerListVolumeHealthResponse { entries, next_token: String::new() })
    }

    /// Up to `most` volumes of `store` after a key.
    async fn chunk(&self, store: &Store, after: Option<&str>, most: usize) -> Result<Chunk, Error> {
        let told = match self.volumes(store) {
            Ok(volumes) => match timeout(LIST, volumes.page(after, most)).await {
                Ok(page) => page.map(|page| (page, volumes)),
                Err(_) => Err(late(&record::volumes(), LIST)),
            },
            Err(error) => Err(error),
        };
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_after = |key: &str| after.is_none_or(|after| key > after);
        match (told, all.get_mut(&store.name)) {
            (Ok((page, volumes)), _) => {
                let known = all.entry(store.name.clone()).or_default();
                let end = page.volumes.last().filter(|_| page.more).map(|record| record::key_of(&record.name));
                known.retain(|key, _| !is_after(key) || end.as_ref().is_some_and(|end| key > end));
                known.extend(page.volumes.iter().map(|record| (record::key_of(&record.name), record.clone())));
                Ok(Chunk::Told(page, volumes))
            }
            (Err(error), Some(known)) => {
                let mut rest = known.iter().filter(|(key, _)| is_after(key)).map(|(_, record)| record.clone());
                let volumes = rest.by_ref().take(most).collect();
                Ok(Chunk::Remembered(Page { volumes, more: rest.next().is_some() }, Trouble::of(&error)))
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// Those with which something is wrong.
async fn unwell(store: &Store, chunk: Chunk) -> Result<Vec<VolumeHealth>, Status> {
    let looked: Vec<(Record, Vec<Trouble>)> = match chunk {
        Chunk::Told(page, volumes) => {
            let looks = page.volumes.into_iter().map(async |record| {
                let troubles = volumes.health_of(&record).await;
                (record, troubles)
            });
            stream::iter(looks).buffered(AT_ONCE).collect().await
        }
        Chunk::Remembered(page, why) => page.volumes.into_iter().map(|record| (record, vec![why.clone()])).collect(),
    };
    let unwell = looked.into_iter().filter(|(_, troubles)| !troubles.is_empty());
    unwell.map(|(record, troubles)| Ok(health(create::id_of(store, &record)?.to_string(), troubles))).collect()
}

fn health(volume_id: String, troubles: Vec<Trouble>) -> VolumeHealth {
    let entry = |trouble: Trouble| VolumeHealthEntry {
        status: match trouble.severity {
            Severity::Unknown => VolumeHealthErrorType::UnknownVolumeHealthType,
            Severity::Degraded => VolumeHealthErrorType::Degraded,
            Severity::Inaccessible => VolumeHealthErrorType::Inaccessible,
            Severity::DataLoss => VolumeHealthErrorType::DataLoss,
        }
        .into(),
        reason: trouble.reason.to_owned(),
        message: status::clipped(&trouble.message, LONGEST).to_owned(),
    };
    VolumeHealth { volume_id, health_statuses: troubles.into_iter().map(entry).collect() }
}
