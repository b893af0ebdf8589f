//! The Controller service: volumes as directories of stores.
//!
//! What a CreateVolume means is worked out in [`create`] without touching anything; [`Volumes`] then does it. No
//! request's secret is used, and each is wiped first: the store's own controller credential does everything.

mod capacity;
mod create;
mod health;
mod list;
mod single;
mod snapshots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::{Request, Response, Status, async_trait};

use super::calls::Subject;
use super::capability::{Access, BadCapability, is_readers};
use super::inflight::Inflight;
use super::secrets::forget;
use super::status;
use super::v1::controller_service_capability::rpc;
use super::v1::validate_volume_capabilities_response::Confirmed;
use super::v1::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest,
    ControllerGetCapabilitiesResponse, ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
    ControllerGetVolumeRequest, ControllerGetVolumeResponse, ControllerListVolumeHealthRequest,
    ControllerListVolumeHealthResponse, ControllerModifyVolumeRequest, ControllerModifyVolumeResponse,
    ControllerServiceCapability, CreateSnapshotRequest, CreateSnapshotResponse, CreateVolumeRequest,
    CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    GetCapacityRequest, GetCapacityResponse, GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, ListVolumesRequest, ListVolumesResponse, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, controller_server, controller_service_capability,
};
use super::volume_id::VolumeId;
use super::volumes::{self, State, Volumes, controller_credential};
use crate::auth::Credential;
use crate::backend::records::apart::Clerks;
use crate::config::stores::{LiveStores, Store};

/// What can be asked of this controller beyond the calls that every plugin has.
const CAPABILITIES: [rpc::Type; 9] = [
    rpc::Type::CreateDeleteVolume,
    rpc::Type::ListVolumes,
    rpc::Type::GetVolume,
    rpc::Type::GetCapacity,
    rpc::Type::ExpandVolume,
    rpc::Type::ModifyVolume,
    rpc::Type::GetVolumeHealth,
    rpc::Type::ListVolumeHealth,
    rpc::Type::SingleNodeMultiWriter,
];

/// And where a store is configured that lets the controller take snapshots.
const OF_SNAPSHOTS: [rpc::Type; 3] =
    [rpc::Type::CreateDeleteSnapshot, rpc::Type::ListSnapshots, rpc::Type::GetSnapshot];

/// How often tombstones are looked for; the first time a while after the start, when a crash loop would be over.
const TIDY: Duration = Duration::from_secs(6 * 3600);
const FIRST_TIDY: Duration = Duration::from_secs(600);

/// The Controller service.
#[derive(Debug, Clone)]
pub struct Controller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stores: LiveStores,
    cluster: String,
    /// The driver's name, which begins the keys of a topology.
    driver: String,
    /// How stores get a process of their own; without it they share this one.
    clerks: Option<Clerks>,
    inflight: Inflight,
    /// By store, as long as neither its words nor its credential change.
    opened: Mutex<HashMap<String, Opened>>,
    /// By store: its volumes as it last told them.
    known: Mutex<HashMap<String, health::Known>>,
}

#[derive(Debug)]
struct Opened {
    store: Store,
    credential: Credential,
    volumes: Arc<Volumes>,
}

/// A cluster id that records cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a cluster's id: it has 1 to 128 printable ASCII characters and no spaces")]
pub struct BadClusterId(String);

impl Controller {
    /// For the cluster whose records are marked `cluster`, in the driver called `driver`. `clerks` start a process for
    /// each store whose client needs one of its own.
    ///
    /// # Errors
    /// [`BadClusterId`].
    pub fn new(
        stores: LiveStores,
        cluster: &str,
        driver: &str,
        clerks: Option<Clerks>,
    ) -> Result<Controller, BadClusterId> {
        if !(1..=128).contains(&cluster.len()) || !cluster.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadClusterId(cluster.to_owned()));
        }
        Ok(Controller(Arc::new(Inner {
            stores,
            cluster: cluster.to_owned(),
            driver: driver.to_owned(),
            clerks,
            inflight: Inflight::default(),
            opened: Mutex::default(),
            known: Mutex::default(),
        })))
    }

    /// Removes old tombstones from every store, now and then, for ever.
    pub async fn tidy(self) {
        tokio::time::sleep(FIRST_TIDY).await;
        loop {
            for store in self.0.stores.current().iter().filter(|store| store.controller_credential.is_some()) {
                let forgotten = match self.volumes(store) {
                    Ok(volumes) => volumes.forget_old().await,
                    Err(error) => Err(error),
                };
                match forgotten {
                    Ok(count) => tracing::debug!(store = store.name, count, "old records removed"),
                    Err(error) => tracing::warn!(store = store.name, %error, "old records could not be removed"),
                }
            }
            tokio::time::sleep(TIDY).await;
        }
    }

    /// The volumes of `store`, with its credential as it is now.
    fn volumes(&self, store: &Store) -> Result<Arc<Volumes>, volumes::Error> {
        let credential = controller_credential(store)?;
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let known = opened.get(&store.name).filter(|known| known.store == *store && known.credential == credential);
        if let Some(known) = known {
            return Ok(Arc::clone(&known.volumes));
        }
        let volumes = Arc::new(Volumes::open(store, &self.0.cluster, self.0.clerks.as_ref())?);
        let known = Opened { store: store.clone(), credential, volumes: Arc::clone(&volumes) };
        opened.insert(store.name.clone(), known);
        Ok(volumes)
    }

    /// The store that an id names.
    fn store_of(&self, id: &VolumeId) -> Result<Store, Status> {
        let stores = self.0.stores.current();
        stores.get(id.store()).cloned().ok_or_else(|| {
            status::failed_precondition(format!(
                "the volume lies in store {:?}, which the stores file does not have; known are {}",
                id.store(),
                stores.names()
            ))
        })
    }

    /// And its volumes.
    fn volumes_of(&self, id: &VolumeId) -> Result<(Store, Arc<Volumes>), Status> {
        let store = self.store_of(id)?;
        let volumes = self.volumes(&store)?;
        Ok((store, volumes))
    }
}

/// One operation a volume at a time.
fn key(store: &str, path: &crate::backend::Path) -> String {
    format!("{store}/{path}")
}

#[async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        mut request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().name, "");
        let (subject, request) = (Subject::of(&request), request.get_ref());
        let stores = self.0.stores.current();
        let (store, wanted) = create::understand(request, &stores)?;
        subject.tell(|entry| {
            entry.store = Some(store.name.clone());
            entry.path = Some(wanted.path.to_string());
            entry.size = Some(wanted.size()).filter(|size| *size > 0);
            entry.namespace = wanted.claim.as_ref().map(|claim| claim.namespace.clone());
            entry.claim = wanted.claim.as_ref().map(|claim| claim.name.clone());
            entry.changed = wanted.mutable.clone();
        });
        create::reachable(store, &self.0.driver, request.accessibility_requirements.as_ref())?;
        let volumes = self.volumes(store)?;
        let _guard = self.0.inflight.enter(&key(&store.name, &wanted.path))?;
        let record = volumes.create(&wanted).await.map_err(|error| status::of_volumes(&store.name, error))?;
        let volume = create::volume(store, &record, &self.0.driver)?;
        subject.tell(|entry| entry.volume = Some(volume.volume_id.clone()));
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        mut request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().volume_id, "");
        self.delete(&request.get_ref().volume_id, &Subject::of(&request)).await?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        mut request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().volume_id, "");
        let request = request.into_inner();
        let id = single::known(&request.volume_id);
        if request.volume_capabilities.is_empty() {
            return Err(status::invalid("the request has no volume capabilities"));
        }
        let id = id?;
        let found = self.volumes_of(&id)?.1.find(id.path(), id.generation().as_str()).await?;
        let record = found
            .filter(|record| record.state == State::Ready)
            .ok_or_else(|| status::not_found(format!("there is no volume {:?} (any more)", request.volume_id)))?;
        let message = match unmet(&request, &record)? {
            Some(message) => message,
            None => {
                let confirmed = Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                };
                let confirmed = Some(confirmed);
                return Ok(Response::new(ValidateVolumeCapabilitiesResponse { confirmed, message: String::new() }));
            }
        };
        Ok(Response::new(ValidateVolumeCapabilitiesResponse { confirmed: None, message }))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        Ok(Response::new(self.list(request.get_ref()).await?))
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        Subject::note(&request, &request.get_ref().volume_id, "");
        Ok(Response::new(self.get(&request.get_ref().volume_id).await?))
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        Ok(Response::new(self.capacity(request.get_ref()).await?))
    }

    async fn controller_expand_volume(
        &self,
        mut request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().volume_id, "");
        Ok(Response::new(self.expand(request.get_ref(), &Subject::of(&request)).await?))
    }

    async fn controller_modify_volume(
        &self,
        mut request: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().volume_id, "");
        self.modify(request.get_ref(), &Subject::of(&request)).await?;
        Ok(Response::new(ControllerModifyVolumeResponse {}))
    }

    async fn controller_get_volume_health(
        &self,
        mut request: Request<ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<ControllerGetVolumeHealthResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().volume_id, "");
        let volume_health = Some(self.volume_health(&request.get_ref().volume_id).await?);
        Ok(Response::new(ControllerGetVolumeHealthResponse { volume_health }))
    }

    async fn controller_list_volume_health(
        &self,
        mut request: Request<ControllerListVolumeHealthRequest>,
    ) -> Result<Response<ControllerListVolumeHealthResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Ok(Response::new(self.list_health(request.get_ref()).await?))
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| ControllerServiceCapability {
            r#type: Some(controller_service_capability::Type::Rpc(controller_service_capability::Rpc {
                r#type: kind.into(),
            })),
        };
        let of_snapshots = if self.takes_snapshots().await { &OF_SNAPSHOTS[..] } else { &[] };
        let capabilities = CAPABILITIES.iter().chain(of_snapshots).copied().map(capability).collect();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(
        &self,
        mut request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().name, "");
        let snapshot = Some(self.take_snapshot(request.get_ref(), &Subject::of(&request)).await?);
        Ok(Response::new(CreateSnapshotResponse { snapshot }))
    }

    async fn delete_snapshot(
        &self,
        mut request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().snapshot_id, "");
        self.discard_snapshot(&request.get_ref().snapshot_id, &Subject::of(&request)).await?;
        Ok(Response::new(DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        mut request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Ok(Response::new(self.snapshots(request.get_ref()).await?))
    }

    async fn get_snapshot(
        &self,
        mut request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        forget(&mut request.get_mut().secrets);
        Subject::note(&request, &request.get_ref().snapshot_id, "");
        let snapshot = Some(self.snapshot(&request.get_ref().snapshot_id).await?);
        Ok(Response::new(GetSnapshotResponse { snapshot }))
    }
}

/// What of a ValidateVolumeCapabilities does not hold for the volume.
fn unmet(
    request: &ValidateVolumeCapabilitiesRequest,
    record: &volumes::Record,
) -> Result<Option<String>, BadCapability> {
    for capability in &request.volume_capabilities {
        match Access::of(Some(capability)) {
            Ok(_) => {}
            Err(BadCapability::Unsupported(why)) => return Ok(Some(why)),
            Err(malformed @ BadCapability::Malformed(_)) => return Err(malformed),
        }
        if record.is_view() && !is_readers(capability) {
            return Ok(Some("the volume is a view of a snapshot, which can be read only".to_owned()));
        }
    }
    let mutable = create::own_parameters(&request.mutable_parameters);
    if let Some((word, _)) = mutable.iter().find(|(word, value)| record.mutable.get(*word) != Some(value)) {
        return Ok(Some(format!("the volume does not have this value of the mutable parameter {word:?}")));
    }
    let given = create::own_parameters(&request.parameters);
    if !request.parameters.is_empty() && given != record.parameters {
        return Ok(Some("the volume was made with other parameters".to_owned()));
    }
    let located = request.volume_context.get("location");
    if located.is_some_and(|location| *location != record.location) {
        return Ok(Some("the volume's context names another location of its store".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
