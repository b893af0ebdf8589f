//! Snapshots through CSI, on Hadoop's own daemons.

use super::directories::Site;
use super::hdfs::Cluster;
use super::*;
use crate::csi::v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
use crate::csi::v1::{self, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest};

const OF_ALICE: [(&str, &str); 2] = [("uid", "1000"), ("gid", "2000")];

async fn capabilities(controller: &Controller) -> Vec<rpc::Type> {
    let answer = controller.controller_get_capabilities(Request::new(Default::default())).await.unwrap().into_inner();
    let kinds = answer.capabilities.into_iter().map(|capability| match capability.r#type {
        Some(controller_service_capability::Type::Rpc(rpc)) => rpc.r#type(),
        None => rpc::Type::Unknown,
    });
    kinds.collect()
}

async fn take(controller: &Controller, name: &str, source: &str) -> Result<v1::Snapshot, Status> {
    let (name, source_volume_id) = (name.to_owned(), source.to_owned());
    let parameters = map(&[("csi.storage.k8s.io/volumesnapshot/name", "nightly")]);
    let request = CreateSnapshotRequest { name, source_volume_id, parameters, ..Default::default() };
    Ok(controller.create_snapshot(Request::new(request)).await?.into_inner().snapshot.unwrap())
}

async fn discard(controller: &Controller, id: &str) -> Result<(), Status> {
    let request = DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    controller.delete_snapshot(Request::new(request)).await.map(drop)
}

async fn get(controller: &Controller, id: &str) -> Result<v1::Snapshot, Status> {
    let request = GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    Ok(controller.get_snapshot(Request::new(request)).await?.into_inner().snapshot.unwrap())
}

/// Ids, by pages of one where `most` is 1.
async fn list(controller: &Controller, most: i32, source: &str, snapshot: &str) -> Result<Vec<String>, Status> {
    let (mut ids, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListSnapshotsRequest {
            max_entries: most,
            starting_token: token,
            source_volume_id: source.into(),
            snapshot_id: snapshot.into(),
            ..Default::default()
        };
        let page = controller.list_snapshots(Request::new(request)).await?.into_inner();
        assert!(most == 0 || page.entries.len() <= most as usize);
        ids.extend(page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
        token = page.next_token;
        if token.is_empty() {
            ids.sort();
            return Ok(ids);
        }
    }
}

/// A volume of `store` to be made from a snapshot, for these uses.
fn from(snapshot: &str, name: &str, store: &str, modes: &[Mode]) -> CreateVolumeRequest {
    let source = Type::Snapshot(SnapshotSource { snapshot_id: snapshot.into() });
    CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type: Some(source) }),
        volume_capabilities: modes.iter().map(|mode| mounted(*mode, &[])).collect(),
        ..wanted(name, store, &OF_ALICE)
    }
}

async fn made(controller: &Controller, request: CreateVolumeRequest) -> Result<Volume, Status> {
    Ok(controller.create_volume(Request::new(request)).await?.into_inner().volume.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_hdfs_is_taken_listed_restored_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    for kind in OF_SNAPSHOTS {
        assert!(capabilities(&controller).await.contains(&kind), "{kind:?}");
    }
    let volume = made(&controller, wanted("v", "lake", &OF_ALICE)).await.unwrap();
    let data = format!("/{}/v/dir/data", cluster.lake);
    cluster.hadoop.put(&data, cluster.hadoop.superuser(), "before").await.unwrap();
    let one = take(&controller, "one", &volume.volume_id).await.unwrap();
    assert_eq!(take(&cluster.controller(), "one", &volume.volume_id).await.unwrap(), one);
    assert!(one.ready_to_use && one.source_volume_id == volume.volume_id && one.size_bytes == 1 << 30, "{one:?}");
    let (place, generation) = one.snapshot_id.split_once('@').unwrap();
    assert_eq!((place, generation.len()), ("lake/v", 10));
    let two = take(&controller, "two", &volume.volume_id).await.unwrap();
    cluster.hadoop.put(&data, cluster.hadoop.superuser(), "after").await.unwrap();

    // Found, by any controller.
    let other = cluster.controller();
    assert_eq!(get(&other, &one.snapshot_id).await.unwrap(), one);
    let mut both = vec![one.snapshot_id.clone(), two.snapshot_id.clone()];
    both.sort();
    for (most, source) in [(0, ""), (1, ""), (0, &volume.volume_id), (1, &volume.volume_id)] {
        assert_eq!(list(&other, most, source, "").await.unwrap(), both, "{most} {source}");
    }
    assert_eq!(list(&other, 0, "", &one.snapshot_id).await.unwrap(), std::slice::from_ref(&one.snapshot_id));
    for (source, snapshot) in
        [("", "none"), ("none", ""), ("lake/v@aaaaaaaaaa", ""), ("lake/w@aaaaaaaaaa", &one.snapshot_id)]
    {
        assert_eq!(list(&other, 0, source, snapshot).await.unwrap(), Vec::<String>::new(), "{source} {snapshot}");
    }

    // For readers alone it is shown itself; else it is copied.
    let readers = [Mode::MultiNodeReaderOnly, Mode::SingleNodeReaderOnly];
    let view = made(&controller, from(&one.snapshot_id, "view", "lake", &readers)).await.unwrap();
    assert_eq!(
        view.volume_context["snapshot"],
        format!("{}/{generation}", volume.volume_id.strip_prefix("lake/").unwrap())
    );
    assert!(view.content_source.is_some() && !view.volume_context.contains_key("quota"));
    let writers = [Mode::MultiNodeReaderOnly, Mode::SingleNodeWriter];
    let copy = made(&controller, from(&one.snapshot_id, "copy", "lake", &writers)).await.unwrap();
    assert!(copy.content_source.is_some() && !copy.volume_context.contains_key("snapshot"));
    assert_eq!(made(&other, from(&one.snapshot_id, "copy", "lake", &writers)).await.unwrap(), copy);
    let copied = format!("/{}/copy/dir/data", cluster.lake);
    assert_eq!(cluster.hadoop.get(&copied).await.unwrap(), "before");
    assert!(!cluster.has("view/dir").await);
    let mut all = vec![volume.volume_id.clone(), view.volume_id.clone(), copy.volume_id.clone()];
    all.sort();
    let mut ids = listed(&controller).await;
    ids.sort();
    assert_eq!(ids, all);
    let writable = ValidateVolumeCapabilitiesRequest {
        volume_id: view.volume_id.clone(),
        volume_capabilities: vec![mounted(Mode::SingleNodeWriter, &[])],
        ..Default::default()
    };
    let validated = controller.validate_volume_capabilities(Request::new(writable)).await.unwrap().into_inner();
    assert!(validated.confirmed.is_none() && validated.message.contains("read only"), "{validated:?}");

    // What is needed stays.
    let in_use = async |outcome: Result<(), Status>, why: &str| {
        let error = outcome.unwrap_err();
        assert!(error.code() == Code::FailedPrecondition && error.message().contains(why), "{error:?}");
    };
    in_use(delete(&controller, &volume.volume_id).await, "2 snapshots").await;
    in_use(discard(&controller, &one.snapshot_id).await, "made from it").await;
    delete(&other, &view.volume_id).await.unwrap();
    assert_eq!(cluster.hadoop.get(&data).await.unwrap(), "after");
    for id in [&one.snapshot_id, &one.snapshot_id, &two.snapshot_id] {
        discard(&other, id).await.unwrap();
    }
    assert_eq!(get(&controller, &one.snapshot_id).await.unwrap_err().code(), Code::NotFound);
    let theirs = [("path", format!("/{}/v", cluster.lake)), ("name", "theirs".to_owned())];
    let theirs: Vec<(&str, &str)> = theirs.iter().map(|(word, value)| (*word, value.as_str())).collect();
    cluster.hadoop.control("snapshot", &theirs, Default::default()).await.unwrap();
    in_use(delete(&controller, &volume.volume_id).await, "\"theirs\"").await;
    cluster.hadoop.control("snapshot/delete", &theirs, Default::default()).await.unwrap();
    for id in [&volume.volume_id, &copy.volume_id] {
        delete(&controller, id).await.unwrap();
    }
    assert!(!cluster.has("v").await && !cluster.has("copy").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_had_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    let volume = made(&controller, wanted("v", "lake", &OF_ALICE)).await.unwrap();
    let words = [("uid", "1002"), ("gid", "2001"), ("dirMode", "0770")];
    let pooled = made(&controller, wanted("w", "pool", &words)).await.unwrap();
    let one = take(&controller, "one", &volume.volume_id).await.unwrap();
    let long = "x".repeat(129);
    for (name, source, code, why) in [
        ("", volume.volume_id.as_str(), Code::InvalidArgument, "name"),
        (&long, &volume.volume_id, Code::InvalidArgument, "128"),
        ("x", "", Code::InvalidArgument, "no volume id"),
        ("x", "anything", Code::NotFound, "CreateVolume"),
        ("x", "lake/v@aaaaaaaaaa", Code::NotFound, "no volume"),
        ("x", "sea/v@aaaaaaaaaa", Code::FailedPrecondition, "sea"),
        // Carol is no superuser.
        ("x", &pooled.volume_id, Code::FailedPrecondition, "superusers"),
        ("one", "lake/other@aaaaaaaaaa", Code::AlreadyExists, "another volume"),
    ] {
        let error = take(&controller, name, source).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(why), "{name} {source}: {error:?}");
    }
    let mut request =
        CreateSnapshotRequest { name: "x".into(), source_volume_id: volume.volume_id.clone(), ..Default::default() };
    request.parameters = map(&[("compression", "zstd")]);
    let error = controller.create_snapshot(Request::new(request)).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("compression"), "{error:?}");

    let modes = [Mode::SingleNodeWriter];
    let smaller = |mut request: CreateVolumeRequest| {
        request.capacity_range = Some(CapacityRange { required_bytes: (1 << 30) - 1, limit_bytes: 0 });
        request
    };
    let mut clone = from("", "x", "lake", &modes);
    let source = VolumeSource { volume_id: volume.volume_id.clone() };
    clone.volume_content_source = Some(VolumeContentSource { r#type: Some(Type::Volume(source)) });
    for (request, code, why) in [
        (clone, Code::InvalidArgument, "no clones"),
        (from("", "x", "lake", &modes), Code::InvalidArgument, "snapshot id"),
        (from("none", "x", "lake", &modes), Code::NotFound, "no snapshot"),
        (from("lake/v@aaaaaaaaaa", "x", "lake", &modes), Code::NotFound, "no snapshot"),
        (from(&one.snapshot_id, "x", "pool", &modes), Code::InvalidArgument, "made where its snapshot is"),
        (smaller(from(&one.snapshot_id, "x", "lake", &modes)), Code::OutOfRange, "at least"),
    ] {
        let error = made(&controller, request).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(why), "{error:?}");
    }
    for id in ["none", "lake/v@aaaaaaaaaa"] {
        discard(&controller, id).await.unwrap();
        assert_eq!(get(&controller, id).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(discard(&controller, "").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(get(&controller, "").await.unwrap_err().code(), Code::InvalidArgument);
    discard(&controller, &one.snapshot_id).await.unwrap();
    for id in [&volume.volume_id, &pooled.volume_id] {
        delete(&controller, id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_backends_volumes_have_no_snapshots_and_it_is_named() {
    // Where no store has any, nothing is declared.
    let plugin = plugin();
    let id = "lake/v@aaaaaaaaaa";
    assert!(OF_SNAPSHOTS.iter().all(|kind| !CAPABILITIES.contains(kind)));
    assert_eq!(capabilities(&plugin.controller).await, CAPABILITIES);
    for answer in [
        take(&plugin.controller, "x", id).await.map(drop),
        discard(&plugin.controller, id).await,
        get(&plugin.controller, id).await.map(drop),
        list(&plugin.controller, 0, "", "").await.map(drop),
    ] {
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    let error = made(&plugin.controller, from(id, "x", "lake", &[Mode::SingleNodeWriter])).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("backend s3"), "{error:?}");
    // Beside a store that has them, the call says of which backend the volume is. A cluster that is silent has them, too.
    let text = std::fs::read_to_string(plugin.dir.path().join("stores.yaml")).unwrap();
    let hdfs = "  - {name: hdfs, backend: hdfs, nameNodes: ['127.0.0.1:1'], webHdfs: ['http://127.0.0.1:1'], controllerUser: \
                {name: hdfs}, identities: [{namespace: a, users: [{name: alice, uid: 1000, gid: 2000}]}]}\n";
    std::fs::write(plugin.dir.path().join("both.yaml"), format!("{text}{hdfs}")).unwrap();
    let stores = LiveStores::load(&plugin.dir.path().join("both.yaml")).unwrap();
    let both = Controller::new(stores, "one", "csi.example.org", None).unwrap();
    let error = take(&both, "x", id).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("backend s3"), "{error:?}");
    discard(&both, id).await.unwrap();
}
