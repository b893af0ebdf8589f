//! The Node service: volumes as directories of this machine.
//!
//! A publish is a mount: identity arrives with it, so there is no staging. What a request means is worked out in
//! [`publish`] without touching anything; the [`Mounter`] then does it. Calls for one target path go one at a time,
//! calls for one volume at several targets side by side.

mod health;
mod inline;
mod pod;
mod publish;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status, async_trait};

use super::calls::Subject;
use super::inflight::Inflight;
use super::status;
use super::v1::node_service_capability::rpc;
use super::v1::volume_usage::Unit;
use super::v1::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetStorageHealthRequest, NodeGetStorageHealthResponse,
    NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, Topology, VolumeHealth, VolumeUsage, node_server, node_service_capability,
};
use crate::backend::Space;
use crate::config::stores::{LiveStores, Store};
use crate::mount::{Done, Error, Mounter, Whose};
use crate::observability::audit::Event;
use crate::topology::Located;

/// The longest node id in bytes (`NodeGetInfoResponse.node_id`).
pub const LONGEST_NODE_ID: usize = 256;

/// How often it is looked at what this node keeps.
const TIDY: Duration = Duration::from_secs(60);

/// How long a question for this node's place waits where that is not known yet. Registrars ask as soon as the plugin
/// listens, and end their container where it refuses.
const LOCATING: Duration = Duration::from_secs(20);

/// What can be asked of this node beyond the calls that every plugin has.
const CAPABILITIES: [rpc::Type; 6] = [
    rpc::Type::GetVolumeStats,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::VolumeMountGroup,
    rpc::Type::GetVolumeHealth,
    rpc::Type::GetStorageHealth,
];

/// The Node service.
#[derive(Debug)]
pub struct Node {
    id: String,
    here: Here,
    stores: LiveStores,
    mounter: Arc<dyn Mounter>,
    targets: Inflight,
    reachability: health::Reachability,
    /// How many volumes the cluster may put here; 0 for any number.
    most_volumes: i64,
}

/// Where this node is, and in whose words it says so.
#[derive(Debug, Clone)]
pub struct Here {
    /// The driver's name, which begins the keys of a topology.
    pub driver: String,
    /// The place.
    pub place: Located,
}

/// A node id that CSI does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a node's id: it has 1 to {LONGEST_NODE_ID} bytes")]
pub struct BadNodeId(String);

impl Node {
    /// For the machine that the cluster calls `id` and that is `here`.
    ///
    /// # Errors
    /// [`BadNodeId`].
    pub fn new(id: &str, here: Here, stores: LiveStores, mounter: Arc<dyn Mounter>) -> Result<Node, BadNodeId> {
        if !(1..=LONGEST_NODE_ID).contains(&id.len()) {
            return Err(BadNodeId(id.to_owned()));
        }
        Ok(Node {
            id: id.to_owned(),
            here,
            stores,
            mounter,
            targets: Inflight::default(),
            reachability: health::Reachability::default(),
            most_volumes: 0,
        })
    }

    /// With this many volumes at most (`NodeGetInfoResponse.max_volumes_per_node`).
    pub fn with_most_volumes(self, most_volumes: u32) -> Node {
        Node { most_volumes: most_volumes.into(), ..self }
    }

    /// Removes, as long as it is polled, what this node keeps of content that nobody uses any more, or that may not be
    /// kept here: of a store with a residency that leaves this node out, or that is gone from the stores file.
    pub fn tidy_caches(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mounter, stores, here) = (self.mounter.clone(), self.stores.clone(), self.here.clone());
        async move {
            loop {
                let (stores, here) = (stores.current(), here.clone());
                let may_stay = move |name: &str| match (stores.get(name), here.place.get()) {
                    (None, _) => false,
                    // Until it is known where this is, nothing is removed and nothing is lent.
                    (Some(_), Err(_)) => true,
                    (Some(store), Ok(place)) => {
                        store.residency.as_ref().is_none_or(|residency| residency.admits(&place).is_ok())
                    }
                };
                mounter.collect_caches(Arc::new(may_stay)).await;
                tokio::time::sleep(TIDY).await;
            }
        }
    }

    /// Whether the data of `store` may be shown here, by the residency that is in force now.
    fn admit(&self, store: Option<&Store>) -> Result<(), Status> {
        let Some((store, residency)) = store.and_then(|store| Some((store, store.residency.as_ref()?))) else {
            return Ok(());
        };
        let name = &store.name;
        let place = self.here.place.get().map_err(|why| {
            status::unavailable(format!(
                "store {name:?} has a residency, and it is not known where this node is: {why}"
            ))
        })?;
        residency.admits(&place).map_err(|outside| {
            status::failed_precondition(format!(
                "store {name:?} has a residency: its {outside}; run the pod on a node there (this one is {:?}: {place})",
                self.id
            ))
        })
    }
}

#[async_trait]
impl node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        Subject::note(&request, &request.get_ref().volume_id, &request.get_ref().target_path);
        let subject = Subject::of(&request);
        subject.tell(|entry| publish::describe(request.get_ref(), entry));
        let request = request.into_inner();
        let stores = self.stores.current();
        let publish = publish::understand(&request, &stores)?;
        subject.tell(|entry| {
            entry.identity = Some(self.mounter.identity(&publish.credential));
            entry.read_only = Some(publish.spec.read_only);
        });
        self.admit(stores.get(&publish.spec.store))?;
        let _guard = self.targets.enter(&publish.target.to_string_lossy())?;
        let store = publish.spec.store.clone();
        match self.mounter.publish(publish).await {
            Ok(Done::Mounted) => {}
            Ok(Done::Renewed) => subject.tell(|entry| entry.event = Some(Event::CredentialChange)),
            Ok(Done::Nothing) => subject.tell(|entry| entry.unchanged = true),
            Err(error @ (Error::NotInForce(_) | Error::Unfinished(_) | Error::ChangeRefused { .. })) => {
                subject.tell(|entry| entry.event = Some(Event::CredentialChange));
                return Err(error.into());
            }
            Err(error) => return Err(status::of_mount(&store, error)),
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.get_ref();
        Subject::note(&request, volume_id, target_path);
        named(volume_id)?;
        let target = target_of(target_path)?;
        let subject = Subject::of(&request);
        subject.tell(|entry| entry.pod_uid = pod::uid_in(&target).map(str::to_owned));
        let _guard = self.targets.enter(&target.to_string_lossy())?;
        // Known only as long as it is there.
        let Whose { namespace, pod, service_account, store, path, read_only, identity } =
            self.mounter.whose(&target).await;
        subject.tell(|entry| {
            (entry.namespace, entry.pod, entry.service_account) = (namespace, pod, service_account);
            (entry.store, entry.path, entry.read_only, entry.identity) = (store, path, read_only, identity);
        });
        self.mounter.unpublish(volume_id, &target).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let NodeGetVolumeStatsRequest { volume_id, volume_path, .. } = request.get_ref();
        Subject::note(&request, volume_id, volume_path);
        named(volume_id)?;
        let path = shown_at(volume_path)?;
        let usage = self.mounter.usage(volume_id, &path).await?;
        // A volume without a limit has no total, and 0 is how CSI writes a size that is not known. A made-up total
        // would be alarmed about when `used` comes near it.
        let of = |used: u64, total: Option<u64>, unit: Unit| VolumeUsage {
            used: number(used),
            total: total.map_or(0, number),
            available: total.map_or(0, |total| number(total.saturating_sub(used))),
            unit: unit.into(),
        };
        let usage = match (usage.limit, usage.space) {
            // Such a volume may fill the store's file system, as df shows it.
            (None, Some(Space { total, free, available, files, free_files })) => {
                let of = |total: u64, free: u64, available: u64, unit: Unit| VolumeUsage {
                    used: number(total.saturating_sub(free)),
                    total: number(total),
                    available: number(available),
                    unit: unit.into(),
                };
                let inodes = match files {
                    0 => {
                        VolumeUsage { used: number(usage.used_inodes), unit: Unit::Inodes.into(), ..Default::default() }
                    }
                    files => of(files, free_files, free_files, Unit::Inodes),
                };
                vec![of(total, free, available, Unit::Bytes), inodes]
            }
            (limit, _) => {
                vec![of(usage.used_bytes, limit, Unit::Bytes), of(usage.used_inodes, None, Unit::Inodes)]
            }
        };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let NodeExpandVolumeRequest { volume_id, volume_path, .. } = request.get_ref();
        Subject::note(&request, volume_id, volume_path);
        named(volume_id)?;
        let path = shown_at(volume_path)?;
        let usage = self.mounter.reload(volume_id, &path).await?;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: usage.limit.map_or(0, number) }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let NodeGetVolumeHealthRequest { volume_id, volume_publish_path, .. } = request.get_ref();
        Subject::note(&request, volume_id, volume_publish_path);
        named(volume_id)?;
        let path = match volume_publish_path.as_str() {
            "" => None,
            path => Some(target_of(path).map_err(|refused| status::not_found(refused.message()))?),
        };
        let health_statuses = health::of_volume(&self.mounter.health(volume_id, path.as_deref()).await?);
        let volume_health = VolumeHealth { volume_id: volume_id.clone(), health_statuses };
        Ok(Response::new(NodeGetVolumeHealthResponse { volume_health: Some(volume_health) }))
    }

    async fn node_get_storage_health(
        &self,
        _request: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        let backend_health = self.reachability.of(&self.stores.current()).await;
        Ok(Response::new(NodeGetStorageHealthResponse { backend_health }))
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let place = self.here.place.get_within(LOCATING).await;
        let place =
            place.map_err(|why| status::unavailable(format!("it is not known yet where this node is: {why}")))?;
        let accessible_topology = Some(Topology { segments: place.segments(&self.here.driver) });
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.id.clone(),
            max_volumes_per_node: self.most_volumes,
            accessible_topology,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: CAPABILITIES.map(capability).to_vec() }))
    }
}

/// A count as CSI has it.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A volume's id, at the calls that must succeed for an id that names nothing.
fn named(volume_id: &str) -> Result<(), Status> {
    if volume_id.is_empty() { Err(status::invalid("the request has no volume id")) } else { Ok(()) }
}

/// The longest path and name in bytes that the kernel takes (PATH_MAX without its NUL, NAME_MAX).
const LONGEST_TARGET: usize = 4095;
const LONGEST_NAME: usize = 255;

/// The path at which a call asks for a published volume. What could not have been published shows none.
fn shown_at(volume_path: &str) -> Result<PathBuf, Status> {
    if volume_path.is_empty() {
        return Err(status::invalid("the request has no volume path"));
    }
    target_of(volume_path).map_err(|refused| status::not_found(refused.message()))
}

/// A target path: absolute and without `..`, which a lexical look at mounts would get wrong. Written in one way,
/// without doubled or trailing slashes, since calls are kept apart by it.
fn target_of(path: &str) -> Result<PathBuf, Status> {
    let target = Path::new(path);
    let plain = !path.contains('\0') && !target.components().any(|part| part == Component::ParentDir);
    let fits = path.len() <= LONGEST_TARGET && target.iter().all(|name| name.len() <= LONGEST_NAME);
    match path {
        "" => Err(status::invalid("the request has no target path")),
        _ if !fits => Err(status::invalid(format!(
            "the target path of {} bytes is longer than {LONGEST_TARGET}, or a name in it than {LONGEST_NAME}",
            path.len()
        ))),
        _ if !target.is_absolute() || !plain => {
            Err(status::invalid(format!("target path {path:?} is not an absolute path without '..'")))
        }
        _ if target.file_name().is_none() => {
            Err(status::invalid(format!("target path {path:?} names no directory below another")))
        }
        _ => Ok(target.components().collect()),
    }
}

#[cfg(test)]
mod tests;
