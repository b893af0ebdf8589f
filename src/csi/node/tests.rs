mod audit;
mod events;
mod garbage;
mod identities;
mod inline;
mod plugin;
mod residency;
mod storage;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tonic::Code;

use super::node_server::Node as _;
use super::*;
use crate::auth::{Credential, Secret};
use crate::backend::ErrorKind;
use crate::config::SnapshotSpec;
use crate::csi::capability::tests::mounted;
use crate::csi::v1::VolumeCapability;
use crate::csi::v1::VolumeHealthErrorType;
use crate::csi::v1::volume_capability::access_mode::Mode;
use crate::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume};
use crate::mount::{Ailment, Error, MayStay, Publish, Usage, Whose};
use crate::topology::{Domain, Place};

use plugin::*;

#[tokio::test]
async fn the_id_says_where_a_made_volume_lies() {
    let plugin = plugin();
    let location = plugin.location();
    let publish = plugin.publish(request(ID, &[("format", "1"), ("location", &location), ("uid", "7")])).await.unwrap();
    assert_eq!(publish.target, Path::new("/pod"));
    assert_eq!((publish.spec.store.as_str(), publish.spec.path.as_str()), ("lake", "team-a/pvc-1"));
    assert_eq!((publish.spec.generation.as_deref(), publish.spec.options.uid), (Some("abcdefg234"), 7));
    let secret_key = Secret::new("canary-key".into());
    assert_eq!(publish.credential, Credential::S3 { key_id: "id".into(), secret_key, session_token: None });
}

#[tokio::test]
async fn a_quota_is_known_from_the_context() {
    let plugin = plugin();
    for (words, quota) in [(&[][..], false), (&[("quota", "true")], true), (&[("quota", "false")], false)] {
        let fixed = [("store", "lake"), ("path", "a")];
        for request in [request(ID, words), request("x", &[&fixed, words].concat())] {
            assert_eq!(plugin.publish(request).await.unwrap().spec.quota, quota);
        }
    }
}

#[tokio::test]
async fn attributes_say_where_a_static_volume_lies() {
    let plugin = plugin();
    // Even where the id looks like one that CreateVolume made.
    for id in ["anything at all", ID] {
        let publish = plugin.publish(request(id, &[("store", "lake"), ("path", "sets/a b")])).await.unwrap();
        assert_eq!((publish.spec.path.as_str(), publish.spec.generation), ("sets/a b", None));
    }
    assert_eq!(plugin.publish(request("x", &[("store", "lake")])).await.unwrap().spec.path, "");
    let mut open = request("x", &[("store", "open"), ("path", "")]);
    open.secrets.clear();
    assert_eq!(plugin.publish(open).await.unwrap().credential, Credential::Anonymous);
}

#[tokio::test]
async fn a_static_volume_shows_a_version_of_its_directory() {
    let plugin = plugin_of(
        "
stores:
  - {name: lake, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: data}
  - name: cluster
    backend: hdfs
    nameNodes: ['127.0.0.1:8020']
    webHdfs: ['http://127.0.0.1:9870']
    identities: [{namespace: '*', users: [{name: alice, uid: 1000, gid: 2000}]}]
",
    );
    let of_alice =
        |id: &str, words: &[(&str, &str)]| NodePublishVolumeRequest { secrets: HashMap::new(), ..request(id, words) };
    let fixed = [("store", "cluster"), ("path", "sets/a")];
    let shown = async |words: &[(&str, &str)]| plugin.publish(of_alice("x", &[&fixed, words].concat())).await;
    let spec = shown(&[("version", "2026-11")]).await.unwrap().spec;
    assert_eq!((spec.path.as_str(), spec.read_only, spec.snapshot), ("sets/a/.snapshot/2026-11", true, None));
    assert!(!shown(&[]).await.unwrap().spec.read_only);
    // What CreateVolume made says what it shows.
    let view = of_alice("cluster/v@abcdefg234", &[("snapshot", "a/b@abcdefg234/zyxwvut765")]);
    let spec = plugin.publish(view).await.unwrap().spec;
    let snapshot = SnapshotSpec { path: "a/b".into(), generation: "abcdefg234".into(), name: "zyxwvut765".into() };
    assert_eq!((spec.path.as_str(), spec.read_only, spec.snapshot), ("v", true, Some(snapshot)));
    for (request, why) in [
        (of_alice("x", &[&fixed[..], &[("version", "a/../b")]].concat()), "version"),
        (of_alice("x", &[&fixed[..], &[("version", "..")]].concat()), "version"),
        (of_alice("x", &[&fixed[..], &[("version", "")]].concat()), "version"),
        (of_alice("x", &[&fixed[..], &[("snapshot", "a@abcdefg234/zyxwvut765")]].concat()), "version"),
        (of_alice("cluster/v@abcdefg234", &[("version", "2026-11")]), "store"),
        (of_alice("cluster/v@abcdefg234", &[("snapshot", "../a@abcdefg234/zyxwvut765")]), "snapshot"),
        (request("x", &[("store", "lake"), ("path", "a"), ("version", "1")]), "backend s3"),
    ] {
        let (code, message) = plugin.refused(request).await;
        assert!(code == Code::InvalidArgument && message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_name() {
    let plugin = plugin();
    let lake = [("store", "lake"), ("path", "a")];
    let changed = |change: fn(&mut NodePublishVolumeRequest)| {
        let mut request = request("x", &lake);
        change(&mut request);
        request
    };
    for (request, code, why) in [
        (changed(|r| r.volume_id.clear()), Code::InvalidArgument, "id"),
        (changed(|r| r.volume_id = "x".repeat(129)), Code::InvalidArgument, "128"),
        (changed(|r| r.volume_id = "a\nb".into()), Code::InvalidArgument, "control"),
        (changed(|r| r.target_path.clear()), Code::InvalidArgument, "target"),
        (changed(|r| r.target_path = "pod".into()), Code::InvalidArgument, "absolute"),
        (changed(|r| r.target_path = "/".into()), Code::InvalidArgument, "below"),
        (changed(|r| r.target_path = format!("/{}", "x".repeat(256))), Code::InvalidArgument, "255"),
        (changed(|r| r.target_path = "/x".repeat(2048)), Code::InvalidArgument, "4095"),
        (changed(|r| r.target_path = "/a/../pod".into()), Code::InvalidArgument, "'..'"),
        (changed(|r| r.volume_capability = None), Code::InvalidArgument, "capability"),
        (changed(|r| r.secrets.clear()), Code::InvalidArgument, "nodePublishSecretRef"),
        (changed(|r| drop(r.secrets.remove("access_key"))), Code::InvalidArgument, "access_key"),
        (changed(|r| drop(r.secrets.insert("accesskey".into(), "canary".into()))), Code::InvalidArgument, "accesskey"),
        (request("x", &[("store", "lake"), ("uuid", "1")]), Code::InvalidArgument, "\"uuid\""),
        (request("x", &[("store", "pond")]), Code::InvalidArgument, "known are lake, open"),
        (request("x", &[("store", "lake"), ("path", "a/../b")]), Code::InvalidArgument, "a/../b"),
        (request("x", &[("store", "lake"), ("path", ".millrace")]), Code::InvalidArgument, ".millrace"),
        (request("x", &[("store", "lake"), ("path", &"p".repeat(1025))]), Code::InvalidArgument, "1024"),
        (request("x", &[("store", "lake"), ("memory", "2Gi")]), Code::InvalidArgument, "limits.memory"),
        (request("x", &[("path", "a")]), Code::InvalidArgument, "store"),
        (request("x", &[]), Code::NotFound, "id"),
        (request("lake/../up@abcdefg234", &[]), Code::NotFound, "id"),
        (request("pond/a@abcdefg234", &[]), Code::FailedPrecondition, "pond"),
        (request(ID, &[("location", "elsewhere")]), Code::FailedPrecondition, "lay elsewhere"),
        (request(ID, &[("format", "2")]), Code::FailedPrecondition, "update"),
    ] {
        let (got, message) = plugin.refused(request).await;
        assert!(got == code && message.contains(why), "{got:?}: {message}");
    }
    let block = AccessType::Block(BlockVolume {});
    let capability = VolumeCapability { access_type: Some(block), ..mounted(Mode::SingleNodeWriter, &[]) };
    let request = NodePublishVolumeRequest { volume_capability: Some(capability), ..request("x", &lake) };
    assert_eq!(plugin.refused(request).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn each_way_to_say_read_only_counts() {
    let plugin = plugin();
    for (readonly, capability, expected) in [
        (true, mounted(Mode::SingleNodeWriter, &[]), true),
        (false, mounted(Mode::SingleNodeWriter, &["ro"]), true),
        (false, mounted(Mode::MultiNodeReaderOnly, &[]), true),
        (false, mounted(Mode::MultiNodeMultiWriter, &["noatime"]), false),
    ] {
        let base = request(ID, &[]);
        let request = NodePublishVolumeRequest { readonly, volume_capability: Some(capability), ..base };
        assert_eq!(plugin.publish(request).await.unwrap().spec.read_only, expected);
    }
    let mut single = request(ID, &[]);
    single.volume_capability = Some(mounted(Mode::SingleNodeSingleWriter, &[]));
    assert!(plugin.publish(single).await.unwrap().single_writer);
}

#[tokio::test]
async fn a_volume_belongs_to_the_pods_group() {
    let plugin = plugin();
    let grouped = |readonly| {
        let mut request = request(ID, &[("gid", "7"), ("fileMode", "0600"), ("dirMode", "0700")]);
        let Some(AccessType::Mount(mount)) = request.volume_capability.as_mut().unwrap().access_type.as_mut() else {
            unreachable!()
        };
        mount.volume_mount_group = "2000".into();
        NodePublishVolumeRequest { readonly, ..request }
    };
    for (readonly, file_mode, dir_mode) in [(false, 0o660, 0o2770), (true, 0o640, 0o2750)] {
        let publish = plugin.publish(grouped(readonly)).await.unwrap();
        let options = publish.spec.options;
        assert_eq!((options.gid, options.file_mode, options.dir_mode), (2000, file_mode, dir_mode));
        assert_eq!(publish.fs_group, Some(2000));
    }
    assert_eq!(plugin.publish(request(ID, &[("gid", "7")])).await.unwrap().fs_group, None);
}

#[tokio::test]
async fn the_pods_namespace_is_believed_where_the_target_is_the_pods() {
    let plugin = plugin();
    let words = [("csi.storage.k8s.io/pod.namespace", "team-a"), ("csi.storage.k8s.io/pod.uid", "uid-1")];
    let namespace = async |target: &str| {
        let request = NodePublishVolumeRequest { target_path: target.into(), ..request(ID, &words) };
        plugin.publish(request).await.unwrap().namespace
    };
    assert_eq!(namespace("/k/pods/uid-1/volumes/kubernetes.io~csi/pv/mount").await.as_deref(), Some("team-a"));
    assert_eq!(namespace("/k/pods/uid-2/volumes/kubernetes.io~csi/pv/mount").await, None);
}

#[tokio::test]
async fn two_publishes_are_the_same_but_for_secrets_and_tokens() {
    const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
    let plugin = plugin();
    let context = [("uid", "1"), ("gid", "2"), ("csi.storage.k8s.io/pod.name", "p"), (TOKENS, "canary-1")];
    let first = plugin.publish(request(ID, &context)).await.unwrap().arguments;
    let mut renewed =
        request(ID, &[("gid", "2"), (TOKENS, "canary-2"), ("csi.storage.k8s.io/pod.name", "p"), ("uid", "1")]);
    renewed.secrets = map(&[("accesskey", "other"), ("secretkey", "canary-3")]);
    assert_eq!(plugin.publish(renewed).await.unwrap().arguments, first);
    let changes: [fn(&mut NodePublishVolumeRequest); 6] = [
        |r| r.readonly = true,
        |r| drop(r.volume_context.insert("uid".into(), "3".into())),
        |r| drop(r.publish_context.insert("a".into(), "b".into())),
        |r| r.volume_capability = Some(mounted(Mode::SingleNodeMultiWriter, &[])),
        |r| r.volume_capability = Some(mounted(Mode::SingleNodeWriter, &["noatime"])),
        |r| r.volume_id = "lake/team-a/pvc-1@abcdefg235".into(),
    ];
    for change in changes {
        let mut changed = request(ID, &context);
        change(&mut changed);
        assert_ne!(plugin.publish(changed).await.unwrap().arguments, first);
    }
}

#[tokio::test]
async fn one_call_a_target_and_any_number_a_volume() {
    let plugin = plugin();
    plugin.mounter.permits.forget_permits(1000);
    let node = Arc::clone(&plugin.node);
    let slow = tokio::spawn(async move { node.node_publish_volume(Request::new(request(ID, &[]))).await });
    tokio::task::yield_now().await;
    let busy = plugin.node.node_publish_volume(Request::new(request(ID, &[]))).await.unwrap_err();
    assert_eq!(busy.code(), Code::Aborted);
    let gone = NodeUnpublishVolumeRequest { volume_id: ID.into(), target_path: "//pod/".into() };
    assert_eq!(plugin.node.node_unpublish_volume(Request::new(gone.clone())).await.unwrap_err().code(), Code::Aborted);
    plugin.mounter.permits.add_permits(2);
    let other = NodePublishVolumeRequest { target_path: "/other-pod".into(), ..request(ID, &[]) };
    plugin.publish(other).await.unwrap();
    slow.await.unwrap().unwrap();
    plugin.node.node_unpublish_volume(Request::new(gone)).await.unwrap();
}

#[tokio::test]
async fn what_the_mounter_says_reaches_the_caller() {
    let plugin = plugin();
    let store = |kind| Error::Store { kind, message: "the store's word".into() };
    for (error, code) in [
        (Error::AlreadyPublished("other arguments".into()), Code::AlreadyExists),
        (Error::SecondWriter("one".into()), Code::FailedPrecondition),
        (Error::NotInForce("two have not".into()), Code::FailedPrecondition),
        (Error::Unfinished("no answer".into()), Code::Aborted),
        (Error::NoSuchVolume("another generation".into()), Code::NotFound),
        (store(ErrorKind::Denied), Code::PermissionDenied),
        (store(ErrorKind::Unauthenticated), Code::Unauthenticated),
        (store(ErrorKind::Unavailable), Code::Unavailable),
        (store(ErrorKind::Misconfigured), Code::FailedPrecondition),
        (Error::Worker("died".into()), Code::Unavailable),
        (Error::System("mount: EPERM".into()), Code::Internal),
    ] {
        *plugin.mounter.answer.lock().unwrap() = Err(error.clone());
        let status = plugin.publish(request(ID, &[])).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(&error.to_string()), "{status:?}");
    }
}

#[tokio::test]
async fn a_volume_tells_its_use_where_it_is_mounted() {
    let plugin = plugin();
    let stats = async |volume_id: &str, volume_path: &str| {
        let (volume_id, volume_path) = (volume_id.to_owned(), volume_path.to_owned());
        let request = NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        plugin.node.node_get_volume_stats(Request::new(request)).await.map(Response::into_inner)
    };
    let usage = stats(ID, "/pod").await.unwrap().usage;
    let shown = |usage: &[VolumeUsage]| -> Vec<_> {
        usage.iter().map(|usage| (usage.unit(), usage.used, usage.total, usage.available)).collect()
    };
    assert_eq!(shown(&usage), [(Unit::Bytes, 7, 0, 0), (Unit::Inodes, 2, 0, 0)]);
    for (limit, available) in [(100, 93), (5, 0)] {
        *plugin.mounter.limit.lock().unwrap() = Some(limit);
        let usage = stats(ID, "/pod").await.unwrap().usage;
        assert_eq!(shown(&usage)[0], (Unit::Bytes, 7, limit as i64, available));
    }
    for (id, path, code) in [
        ("", "/pod", Code::InvalidArgument),
        (ID, "", Code::InvalidArgument),
        (ID, "some/path", Code::NotFound),
        ("fake", "/elsewhere", Code::NotFound),
    ] {
        assert_eq!(stats(id, path).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn an_expanded_volume_has_its_new_limit_at_once() {
    let plugin = plugin();
    let expand = async |volume_id: &str, volume_path: &str| {
        let (volume_id, volume_path) = (volume_id.to_owned(), volume_path.to_owned());
        let request = NodeExpandVolumeRequest { volume_id, volume_path, ..Default::default() };
        plugin.node.node_expand_volume(Request::new(request)).await.map(|response| response.into_inner().capacity_bytes)
    };
    assert_eq!(expand(ID, "/pod").await.unwrap(), 100);
    for (id, path, code) in [
        ("", "/pod", Code::InvalidArgument),
        (ID, "", Code::InvalidArgument),
        (ID, "some/path", Code::NotFound),
        ("fake", "/elsewhere", Code::NotFound),
    ] {
        assert_eq!(expand(id, path).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_volumes_health_is_told_for_a_target_or_for_all() {
    let plugin = plugin();
    let health = async |volume_id: &str, volume_publish_path: &str| {
        let (volume_id, volume_publish_path) = (volume_id.to_owned(), volume_publish_path.to_owned());
        let request = NodeGetVolumeHealthRequest { volume_id, volume_publish_path, ..Default::default() };
        plugin.node.node_get_volume_health(Request::new(request)).await.map(|response| response.into_inner())
    };
    for path in ["", "/pod", "//pod/"] {
        let told = health(ID, path).await.unwrap().volume_health.unwrap();
        let entries: Vec<_> =
            told.health_statuses.iter().map(|entry| (entry.status(), entry.reason.as_str())).collect();
        assert_eq!((told.volume_id.as_str(), entries), (ID, vec![(VolumeHealthErrorType::Inaccessible, "WorkerGone")]));
    }
    for (id, path, code) in
        [("", "", Code::InvalidArgument), (ID, "some/path", Code::NotFound), (ID, "/elsewhere", Code::NotFound)]
    {
        assert_eq!(health(id, path).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_node_tells_how_many_volumes_it_takes() {
    let plugin = plugin();
    let node = Arc::try_unwrap(plugin.node).unwrap();
    let most = async |node: &Node| {
        node.node_get_info(Request::new(NodeGetInfoRequest {})).await.unwrap().into_inner().max_volumes_per_node
    };
    assert_eq!(most(&node).await, 0);
    assert_eq!(most(&node.with_most_volumes(30)).await, 30);
}

#[tokio::test]
async fn unpublish_wants_an_id_and_a_path_and_takes_any_id() {
    let plugin = plugin();
    let unpublish = async |volume_id: &str, target_path: &str| {
        let request = NodeUnpublishVolumeRequest { volume_id: volume_id.into(), target_path: target_path.into() };
        plugin.node.node_unpublish_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(unpublish("", "/pod").await, Err(Code::InvalidArgument));
    assert_eq!(unpublish("x", "").await, Err(Code::InvalidArgument));
    assert_eq!(unpublish("x", "pod").await, Err(Code::InvalidArgument));
    assert_eq!(unpublish("an id of nobody's", "/pod").await, Ok(()));
}

#[test]
fn a_node_has_a_name_that_fits() {
    let plugin = plugin();
    let new = |id: &str| Node::new(id, here("zone", "a"), plugin.node.stores.clone(), Arc::clone(&plugin.node.mounter));
    assert!(new("").is_err() && new(&"x".repeat(257)).is_err() && new(&"x".repeat(256)).is_ok());
}
