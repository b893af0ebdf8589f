//! The calls for snapshots. Of stores whose backend has none they are INVALID_ARGUMENT, and where no store has any that the
//! controller may take, UNIMPLEMENTED.

use std::time::SystemTime;

use futures::future::join_all;
use tonic::Status;

use super::super::calls::Subject;
use super::super::status;
use super::super::v1::list_snapshots_response::Entry;
use super::super::v1::{self, CreateSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse};
use super::super::volume_id::{Generation, VolumeId};
use super::super::volumes::snapshots::{Page, Snapshot};
use super::create::checked_name;
use super::list::{Token, most, stores_from};
use super::{Controller, key, single};
use crate::backend;
use crate::config::parameters::is_kubernetes;
use crate::config::quoted;
use crate::config::stores::Store;

/// Reads the id of a snapshot that must be one; it has the form of its source's.
///
/// # Errors
/// INVALID_ARGUMENT where there is none, NOT_FOUND where no CreateSnapshot made it.
pub(super) fn known(text: &str) -> Result<VolumeId, Status> {
    if text.is_empty() {
        return Err(status::invalid("the request has no snapshot id"));
    }
    VolumeId::parse(text).map_err(|why| {
        status::not_found(format!("CreateSnapshot made no snapshot {:?}: {why}", status::clipped(text, 256)))
    })
}

/// That the store is of a backend that has snapshots.
///
/// # Errors
/// INVALID_ARGUMENT, naming the backend.
pub(super) fn of_store_with(store: &Store) -> Result<(), Status> {
    match has_any(store) {
        true => Ok(()),
        false => Err(status::invalid(format!(
            "store {:?} is of backend {}, of whose directories nobody takes snapshots here; those of hdfs have them",
            store.name,
            store.backend.word()
        ))),
    }
}

fn has_any(store: &Store) -> bool {
    matches!(store.backend, backend::Config::Hdfs(_))
}

/// The snapshot as it is told.
fn told(store: &Store, snapshot: &Snapshot) -> Result<v1::Snapshot, Status> {
    let bad = |why: &dyn std::fmt::Display| status::internal(format!("the record of {:?}: {why}", snapshot.name));
    let id = |generation: &str| {
        let generation = Generation::parse(generation).map_err(|why| bad(&why))?;
        VolumeId::new(&store.name, &snapshot.path, generation).map_err(|why| bad(&why))
    };
    let at = snapshot.at.as_deref().unwrap_or_default();
    let at: SystemTime = humantime::parse_rfc3339(at).map_err(|why| bad(&why))?;
    Ok(v1::Snapshot {
        size_bytes: i64::try_from(snapshot.size).unwrap_or(i64::MAX),
        snapshot_id: id(&snapshot.generation)?.to_string(),
        source_volume_id: id(&snapshot.volume)?.to_string(),
        creation_time: Some(at.into()),
        ready_to_use: true,
        ..Default::default()
    })
}

fn answer(store: &Store, snapshots: &[Snapshot], next: Option<Token>) -> Result<ListSnapshotsResponse, Status> {
    let entries = snapshots.iter().map(|snapshot| Ok(Entry { snapshot: Some(told(store, snapshot)?) }));
    let entries = entries.collect::<Result<_, Status>>()?;
    Ok(ListSnapshotsResponse { entries, next_token: next.map_or_else(String::new, |token| token.to_string()) })
}

impl Controller {
    /// Whether a store is configured that lets the controller take snapshots.
    pub(super) async fn takes_snapshots(&self) -> bool {
        let stores = self.0.stores.current();
        let meant = stores.iter().filter(|store| has_any(store) && store.controller_credential.is_some());
        let asked = meant.filter_map(|store| self.volumes(store).ok());
        join_all(asked.map(async |volumes| volumes.takes_snapshots().await)).await.contains(&true)
    }

    async fn declared(&self) -> Result<(), Status> {
        match self.takes_snapshots().await {
            true => Ok(()),
            false => {
                let why = "no store is configured whose directories this controller takes snapshots of: that needs one of \
                           backend hdfs, with a controllerUser who is a superuser there";
                Err(status::unimplemented(why))
            }
        }
    }

    /// CreateSnapshot.
    pub(super) async fn take_snapshot(
        &self,
        request: &CreateSnapshotRequest,
        subject: &Subject,
    ) -> Result<v1::Snapshot, Status> {
        self.declared().await?;
        let name = checked_name(&request.name)?;
        if let Some(word) = request.parameters.keys().find(|word| !is_kubernetes(word)) {
            return Err(status::invalid(format!(
                "unknown VolumeSnapshotClass parameter {}: a snapshot has none",
                quoted(word)
            )));
        }
        let id = single::known(&request.source_volume_id)?;
        single::tell_place(subject, &id);
        let store = self.store_of(&id)?;
        of_store_with(&store)?;
        let volumes = self.volumes(&store)?;
        if !volumes.takes_snapshots().await {
            return Err(status::failed_precondition(format!(
                "HDFS lets superusers alone have snapshots of a directory, and the controllerUser of store {:?} is none",
                store.name
            )));
        }
        let _guard = self.0.inflight.enter(&key(id.store(), id.path()))?;
        let taken = volumes.take_snapshot(name, id.path(), id.generation().as_str()).await;
        let snapshot = told(&store, &taken.map_err(|error| status::of_volumes(&store.name, error))?)?;
        subject.tell(|entry| entry.volume = Some(snapshot.snapshot_id.clone()));
        Ok(snapshot)
    }

    /// DeleteSnapshot. An id that CreateSnapshot does not make names nothing that could be deleted.
    pub(super) async fn discard_snapshot(&self, text: &str, subject: &Subject) -> Result<(), Status> {
        self.declared().await?;
        let id = match known(text) {
            Err(_) if !text.is_empty() => return Ok(()),
            id => id?,
        };
        single::tell_place(subject, &id);
        let store = self.store_of(&id)?;
        if !has_any(&store) {
            return Ok(());
        }
        let _guard = self.0.inflight.enter(&key(id.store(), id.path()))?;
        let discarded = self.volumes(&store)?.discard_snapshot(id.path(), id.generation().as_str()).await;
        discarded.map_err(|error| status::of_volumes(&store.name, error))
    }

    /// GetSnapshot.
    pub(super) async fn snapshot(&self, text: &str) -> Result<v1::Snapshot, Status> {
        self.declared().await?;
        let id = known(text)?;
        let store = self.store_of(&id)?;
        let found = match has_any(&store) {
            true => self.volumes(&store)?.snapshot(id.path(), id.generation().as_str()).await?,
            false => None,
        };
        let missing = || status::not_found(format!("there is no snapshot {text:?} (any more)"));
        told(&store, &found.ok_or_else(missing)?)
    }

    /// ListSnapshots: one, those of one volume, or all. A store that does not answer fails the list, since a snapshot that is
    /// not in it is taken for deleted.
    pub(super) async fn snapshots(&self, request: &ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Status> {
        self.declared().await?;
        let stores = self.0.stores.current();
        let most = most(request.max_entries)?;
        let token = Token::read(&request.starting_token, &stores)?;
        // An id that could be nobody's finds nothing, like one of a store that is not there any more.
        let named = |text: &str| {
            let id = VolumeId::parse(text).ok()?;
            let store = stores.get(id.store()).filter(|store| has_any(store))?;
            Some((id, store))
        };
        if !request.snapshot_id.is_empty() {
            let Some((id, store)) = named(&request.snapshot_id) else { return Ok(Default::default()) };
            let found = self.volumes(store)?.snapshot(id.path(), id.generation().as_str()).await?;
            let listed = answer(store, &Vec::from_iter(found), None)?;
            let is_of = |entry: &Entry| {
                let source = entry.snapshot.as_ref().map(|snapshot| snapshot.source_volume_id.as_str());
                request.source_volume_id.is_empty() || source == Some(request.source_volume_id.as_str())
            };
            return Ok(ListSnapshotsResponse { entries: listed.entries.into_iter().filter(is_of).collect(), ..listed });
        }
        if !request.source_volume_id.is_empty() {
            let Some((id, store)) = named(&request.source_volume_id) else { return Ok(Default::default()) };
            let found = self.volumes(store)?.snapshots_of(id.path(), id.generation().as_str()).await?;
            let is_seen = |snapshot: &Snapshot| {
                token.as_ref().is_some_and(|token| !token.is_before(&Token::after_name(store, &snapshot.name)))
            };
            let mut left: Vec<_> = found.into_iter().filter(|snapshot| !is_seen(snapshot)).collect();
            let is_all = left.len() <= most;
            left.truncate(most);
            let last = left.last().filter(|_| !is_all).map(|last| Token::after_name(store, &last.name));
            return answer(store, &left, last);
        }
        let (mut entries, mut last) = (Vec::new(), None);
        for store in stores_from(&stores, token.as_ref()).filter(|store| has_any(store)) {
            let after = Token::within(token.as_ref(), store);
            let page = self.volumes(store)?.page_of_snapshots(after.as_deref(), most - entries.len()).await?;
            let Page { snapshots, more } = page;
            last = snapshots.last().map(|last| Token::after_name(store, &last.name)).or(last);
            entries.extend(answer(store, &snapshots, None)?.entries);
            if more {
                let next_token = last.map_or_else(String::new, |token| token.to_string());
                return Ok(ListSnapshotsResponse { entries, next_token });
            }
        }
        Ok(ListSnapshotsResponse { entries, next_token: String::new() })
    }
}
