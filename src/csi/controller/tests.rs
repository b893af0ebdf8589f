mod calls;
mod directories;
mod events;
mod garbage;
mod hdfs;
mod nfs;
mod s3;
mod snapshots;

use tonic::Code;

use super::controller_server::Controller as _;
use super::*;
use crate::backend::records::memory::MemoryRecords;
use crate::csi::capability::tests::mounted;
use crate::csi::v1::volume_capability::access_mode::Mode;
use crate::csi::v1::volume_capability::{AccessType, BlockVolume};
use crate::csi::v1::{
    CapacityRange, ControllerPublishVolumeRequest, CreateSnapshotRequest, Topology, TopologyRequirement, Volume,
    VolumeCapability, VolumeContentSource,
};

struct Plugin {
    controller: Controller,
    records: Arc<MemoryRecords>,
    dir: tempfile::TempDir,
}

const KEYS: &str = "{key_id: id, access_key: canary-key}";

/// A controller whose store `lake` lies in memory.
fn plugin() -> Plugin {
    plugin_with("limits: {memory: 1Gi}")
}

/// And has these words, too.
fn plugin_with(words: &str) -> Plugin {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "
stores:
  - {{name: lake, backend: s3, endpoint: 'http://127.0.0.1:9', bucket: data, controllerCredential: key.yaml, {words}}}
  - {{name: static-only, backend: s3, endpoint: 'http://127.0.0.1:9', bucket: public}}
  - {{name: unmounted, backend: s3, endpoint: 'http://127.0.0.1:9', bucket: other, controllerCredential: none.yaml}}
"
    );
    std::fs::write(dir.path().join("stores.yaml"), text).unwrap();
    std::fs::write(dir.path().join("key.yaml"), KEYS).unwrap();
    let stores = LiveStores::load(&dir.path().join("stores.yaml")).unwrap();
    let controller = Controller::new(stores, "one", "csi.example.org", None).unwrap();
    let records = Arc::new(MemoryRecords::default());
    let store = controller.0.stores.current().get("lake").unwrap().clone();
    let opened = Opened {
        credential: controller_credential(&store).unwrap(),
        store,
        volumes: Arc::new(Volumes::new(records.clone(), "one")),
    };
    controller.0.opened.lock().unwrap().insert("lake".into(), opened);
    Plugin { controller, records, dir }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A volume in `lake`, right in everything.
fn request(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        volume_capabilities: vec![mounted(Mode::MultiNodeMultiWriter, &[])],
        parameters: map(&[("store", "lake"), ("uid", "7"), ("csi.storage.k8s.io/pv/name", name)]),
        secrets: map(&[("key_id", "canary-user"), ("access_key", "canary-secret")]),
        ..Default::default()
    }
}

fn block() -> VolumeCapability {
    VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..mounted(Mode::SingleNodeWriter, &[]) }
}

/// A volume's id.
async fn create(controller: &Controller, request: CreateVolumeRequest) -> Result<String, Status> {
    let answer = controller.create_volume(Request::new(request)).await?;
    Ok(answer.into_inner().volume.unwrap().volume_id)
}

async fn delete(controller: &Controller, id: &str) -> Result<(), Status> {
    let request = DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
    controller.delete_volume(Request::new(request)).await.map(drop)
}

/// A volume of a store whose directories have owners.
fn wanted(name: &str, store: &str, words: &[(&str, &str)]) -> CreateVolumeRequest {
    let mut parameters = map(&[("store", store)]);
    parameters.extend(map(words));
    CreateVolumeRequest { parameters, ..request(name) }
}

/// One of the store `lake`, for a claim in `namespace`.
fn of_claim(name: &str, namespace: &str, words: &[(&str, &str)]) -> CreateVolumeRequest {
    let claim = [("csi.storage.k8s.io/pvc/namespace", namespace), ("csi.storage.k8s.io/pvc/name", "claim")];
    wanted(name, "lake", &[&claim, words].concat())
}

/// Its size after it was to have 2 GiB.
async fn expand(controller: &Controller, id: &str) -> Result<i64, Status> {
    let capacity_range = Some(CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 });
    let request = ControllerExpandVolumeRequest { volume_id: id.into(), capacity_range, ..Default::default() };
    Ok(controller.controller_expand_volume(Request::new(request)).await?.into_inner().capacity_bytes)
}

/// The ids of all volumes.
async fn listed(controller: &Controller) -> Vec<String> {
    let answer = controller.list_volumes(Request::new(ListVolumesRequest::default())).await.unwrap().into_inner();
    answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect()
}

impl Plugin {
    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        Ok(self.controller.create_volume(Request::new(request)).await?.into_inner().volume.unwrap())
    }

    async fn refused(&self, request: CreateVolumeRequest) -> (Code, String) {
        let status = self.create(request).await.unwrap_err();
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
        (status.code(), status.message().to_owned())
    }

    async fn delete(&self, id: &str) -> Result<(), Code> {
        let request = DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
        self.controller.delete_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    async fn validate(
        &self,
        id: &str,
        change: impl FnOnce(&mut ValidateVolumeCapabilitiesRequest),
    ) -> Result<ValidateVolumeCapabilitiesResponse, Code> {
        let mut request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.into(),
            volume_capabilities: vec![mounted(Mode::SingleNodeWriter, &[])],
            ..Default::default()
        };
        change(&mut request);
        let answer = self.controller.validate_volume_capabilities(Request::new(request)).await;
        answer.map(Response::into_inner).map_err(|status| status.code())
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_found_again_and_deleted() {
    let plugin = plugin();
    let made = plugin.create(request("pvc-1")).await.unwrap();
    let id = VolumeId::parse(&made.volume_id).unwrap();
    assert_eq!((id.store(), id.path().to_string().as_str()), ("lake", "pvc-1"));
    assert_eq!(made.capacity_bytes, 1 << 30);
    let location = plugin.controller.0.stores.current().get("lake").unwrap().location_hash();
    assert_eq!(made.volume_context, map(&[("format", "1"), ("location", &location), ("uid", "7")]));
    assert!(made.accessible_topology.is_empty() && made.content_source.is_none());

    // Neither secrets nor what Kubernetes adds make another volume.
    let again = CreateVolumeRequest {
        secrets: HashMap::new(),
        parameters: map(&[("store", "lake"), ("uid", "7"), ("csi.storage.k8s.io/pvc/name", "x")]),
        ..request("pvc-1")
    };
    assert_eq!(plugin.create(again).await.unwrap(), made);
    let bigger = CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 };
    let (code, why) = plugin.refused(CreateVolumeRequest { capacity_range: Some(bigger), ..request("pvc-1") }).await;
    assert!(code == Code::AlreadyExists && why.contains("size"), "{code:?} {why}");
    let other = CreateVolumeRequest { parameters: map(&[("store", "lake")]), ..request("pvc-1") };
    let (code, why) = plugin.refused(other).await;
    assert!(code == Code::AlreadyExists && why.contains("uid"), "{code:?} {why}");

    assert_eq!(plugin.delete(&made.volume_id).await, Ok(()));
    assert_eq!(plugin.delete(&made.volume_id).await, Ok(()));
    assert!(plugin.records.keys().iter().all(|key| key.starts_with(".millrace/")), "{:?}", plugin.records.keys());
    assert_eq!(plugin.validate(&made.volume_id, |_| {}).await.unwrap_err(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_where_its_data_may_be_shown() {
    let plugin = plugin_with("residency: {jurisdiction: [eu], zone: [a, b]}");
    let term = |pairs: &[(&str, &str)]| {
        let full = pairs.iter().map(|(key, value)| (format!("csi.example.org/{key}"), (*value).to_owned()));
        Topology { segments: full.collect() }
    };
    let asking = |name: &str, requisite: Vec<Topology>, preferred: Vec<Topology>| CreateVolumeRequest {
        accessibility_requirements: Some(TopologyRequirement { requisite, preferred }),
        ..request(name)
    };
    let (inside, outside) = (term(&[("jurisdiction", "eu"), ("zone", "b")]), term(&[("jurisdiction", "us")]));
    let everywhere = [term(&[("jurisdiction", "eu"), ("zone", "a")]), inside.clone()];
    for (name, requisite, preferred) in [
        ("pvc-1", vec![outside.clone(), inside.clone()], vec![outside.clone()]),
        ("pvc-2", vec![inside], vec![]),
        ("pvc-3", vec![], vec![outside.clone()]),
        ("pvc-4", vec![], vec![]),
    ] {
        let volume = plugin.create(asking(name, requisite, preferred)).await.unwrap();
        assert_eq!(volume.accessible_topology, everywhere, "{name}");
    }
    assert_eq!(plugin.create(request("pvc-5")).await.unwrap().accessible_topology, everywhere);
    let made = plugin.records.keys();
    // Also of a name that is made already: the provisioner asks again for another node.
    for name in ["pvc-1", "pvc-6"] {
        let (code, why) = plugin.refused(asking(name, vec![outside.clone()], vec![])).await;
        assert_eq!(code, Code::ResourceExhausted);
        assert!(why.contains("\"lake\"") && why.contains("jurisdiction is eu and zone is a or b"), "{why}");
    }
    assert_eq!(plugin.records.keys(), made);
    // And so do the other calls.
    let again = plugin.create(request("pvc-1")).await.unwrap();
    let get = ControllerGetVolumeRequest { volume_id: again.volume_id.clone() };
    let got = plugin.controller.controller_get_volume(Request::new(get)).await.unwrap().into_inner();
    assert_eq!(got.volume, Some(again));
    let capacity = async |topology: Topology| {
        let parameters = map(&[("store", "lake")]);
        let accessible_topology = Some(topology);
        let request = GetCapacityRequest { parameters, accessible_topology, ..Default::default() };
        plugin.controller.get_capacity(Request::new(request)).await.unwrap().into_inner().available_capacity
    };
    assert_eq!((capacity(outside).await, capacity(everywhere[0].clone()).await), (0, i64::MAX));
}

#[tokio::test(start_paused = true)]
async fn no_secret_of_a_request_is_kept() {
    use crate::backend::records::Records as _;
    let plugin = plugin();
    plugin.create(request("pvc-1")).await.unwrap();
    for key in plugin.records.keys() {
        let body = plugin.records.get(&crate::backend::Path::parse(&key).unwrap()).await.unwrap().0;
        assert!(!String::from_utf8_lossy(&body).contains("canary"), "{key}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_name() {
    let plugin = plugin();
    let with = |pairs: &[(&str, &str)]| CreateVolumeRequest { parameters: map(pairs), ..request("pvc-1") };
    let mutable = |pairs: &[(&str, &str)]| CreateVolumeRequest { mutable_parameters: map(pairs), ..request("x") };
    let sized = |required_bytes, limit_bytes| CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes }),
        ..request("pvc-1")
    };
    for (request, why) in [
        (request(""), "no name"),
        (request(&"n".repeat(129)), "128 bytes"),
        (request("a\nb"), "control characters"),
        (CreateVolumeRequest { volume_capabilities: vec![], ..request("x") }, "no volume capabilities"),
        (CreateVolumeRequest { volume_capabilities: vec![block()], ..request("x") }, "block device"),
        (CreateVolumeRequest { volume_content_source: Some(VolumeContentSource::default()), ..request("x") }, "clones"),
        (mutable(&[("a", "b")]), "known are memory"),
        (mutable(&[("uid", "7")]), "fixed when a volume is made"),
        (mutable(&[("ttl", "soon")]), "unit"),
        (mutable(&[("memory", "2Gi")]), "limits.memory"),
        (with(&[]), "known stores are lake, static-only"),
        (with(&[("store", "sea")]), "known are lake"),
        (with(&[("store", "lake"), ("colour", "red")]), "\"colour\""),
        (with(&[("store", "lake"), ("memory", "2Gi")]), "limits.memory"),
        (with(&[("store", "lake"), ("path", "${pvc.name}")]), "--extra-create-metadata"),
        (sized(-1, 0), "negative"),
        (sized(2, 1), "more than limit_bytes"),
    ] {
        let (code, message) = plugin.refused(request).await;
        assert!(code == Code::InvalidArgument && message.contains(why), "{why}: {code:?} {message}");
    }
    for (store, why) in [("static-only", "static volumes only"), ("unmounted", "cannot read")] {
        let (code, message) = plugin.refused(with(&[("store", store)])).await;
        assert!(code == Code::FailedPrecondition && message.contains(why), "{code:?} {message}");
    }
    assert!(plugin.records.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_id_deletes_its_volume_and_no_other() {
    let plugin = plugin();
    let made = plugin.create(request("pvc-1")).await.unwrap();
    let other = plugin.create(request("pvc-2")).await.unwrap();
    let generation = |id: &str| id.rsplit_once('@').unwrap().1.to_owned();
    for nothing in [
        "some static volume".to_owned(),
        format!("lake/pvc-1@{}", generation(&other.volume_id)),
        "lake/pvc-1@aaaaaaaaaa".to_owned(),
        format!("lake/../pvc-1@{}", generation(&made.volume_id)),
        format!("lake/pvc-3@{}", generation(&made.volume_id)),
        format!("lake/.millrace/paths/pvc-1@{}", generation(&made.volume_id)),
    ] {
        assert_eq!(plugin.delete(&nothing).await, Ok(()), "{nothing}");
        assert_eq!(plugin.validate(&nothing, |_| {}).await.unwrap_err(), Code::NotFound, "{nothing}");
    }
    for (id, code) in [
        ("", Code::InvalidArgument),
        ("sea/pvc-1@aaaaaaaaaa", Code::FailedPrecondition),
        ("static-only/pvc-1@aaaaaaaaaa", Code::FailedPrecondition),
    ] {
        assert_eq!(plugin.delete(id).await, Err(code), "{id}");
    }
    for id in [made.volume_id, other.volume_id] {
        assert!(plugin.validate(&id, |_| {}).await.unwrap().confirmed.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn capabilities_are_confirmed_or_the_reason_told() {
    let plugin = plugin();
    let made = plugin.create(request("pvc-1")).await.unwrap();
    let confirmed = plugin
        .validate(&made.volume_id, |request| {
            request.volume_context = made.volume_context.clone();
            request.parameters = map(&[("store", "lake"), ("uid", "7")]);
        })
        .await
        .unwrap();
    assert!(confirmed.confirmed.is_some() && confirmed.message.is_empty(), "{confirmed:?}");
    type Change = fn(&mut ValidateVolumeCapabilitiesRequest);
    let unmet: [(Change, &str); 4] = [
        (|request| request.volume_capabilities.push(block()), "block device"),
        (|request| request.parameters = map(&[("store", "lake")]), "parameters"),
        (|request| request.volume_context = map(&[("location", "x")]), "location"),
        (|request| request.mutable_parameters = map(&[("a", "b")]), "mutable"),
    ];
    for (change, why) in unmet {
        let answer = plugin.validate(&made.volume_id, change).await.unwrap();
        assert!(answer.confirmed.is_none() && answer.message.contains(why), "{answer:?}");
    }
    let missing = plugin.validate(&made.volume_id, |request| request.volume_capabilities.clear()).await;
    assert_eq!(missing.unwrap_err(), Code::InvalidArgument);
    assert_eq!(plugin.validate("", |_| {}).await.unwrap_err(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn one_operation_a_volume_at_a_time() {
    let plugin = plugin();
    let made = plugin.create(request("pvc-1")).await.unwrap();
    let guard = plugin.controller.0.inflight.enter("lake/pvc-1").unwrap();
    assert_eq!(plugin.delete(&made.volume_id).await, Err(Code::Aborted));
    assert_eq!(plugin.refused(request("pvc-1")).await.0, Code::Aborted);
    plugin.create(request("pvc-2")).await.unwrap();
    drop(guard);
    assert_eq!(plugin.delete(&made.volume_id).await, Ok(()));
}

#[tokio::test]
async fn a_rotated_credential_is_used_from_the_next_call_on() {
    let plugin = plugin();
    let store = plugin.controller.0.stores.current().get("lake").unwrap().clone();
    let first = plugin.controller.volumes(&store).unwrap();
    assert!(Arc::ptr_eq(&first, &plugin.controller.volumes(&store).unwrap()));
    let key = plugin.dir.path().join("key.yaml");
    std::fs::write(&key, "{key_id: id, access_key: canary-next}").unwrap();
    let second = plugin.controller.volumes(&store).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&second, &plugin.controller.volumes(&store).unwrap()));
    assert!(!format!("{:?}", plugin.controller).contains("canary"));
}

#[tokio::test]
async fn what_is_not_declared_is_not_implemented() {
    let plugin = plugin();
    let answer = plugin.controller.controller_get_capabilities(Request::new(Default::default())).await.unwrap();
    assert_eq!(answer.into_inner().capabilities.len(), CAPABILITIES.len());
    let publish = plugin.controller.controller_publish_volume(Request::new(ControllerPublishVolumeRequest::default()));
    assert_eq!(publish.await.unwrap_err().code(), Code::Unimplemented);
    let snapshot = plugin.controller.create_snapshot(Request::new(CreateSnapshotRequest::default()));
    assert_eq!(snapshot.await.unwrap_err().code(), Code::Unimplemented);
}

#[test]
fn a_cluster_id_is_a_word() {
    for (id, fits) in [("prod-1", true), ("", false), ("a b", false), ("é", false), (&"x".repeat(129), false)] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "stores: []").unwrap();
        let stores = LiveStores::load(&dir.path().join("s")).unwrap();
        assert_eq!(Controller::new(stores, id, "csi.example.org", None).is_ok(), fits, "{id}");
    }
}
