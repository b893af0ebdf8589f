//! What a claim's events say where its volume is not made: the documented texts.

use super::*;
use crate::csi::golden::undocumented;
use crate::sandbox::s3::{Options, Server, User};

#[tokio::test]
async fn what_the_driver_refuses_is_told_in_documented_words() {
    let plugin = plugin_with("residency: {jurisdiction: [eu]}");
    let with = |words: &[(&str, &str)]| CreateVolumeRequest { parameters: map(words), ..request("pvc-1") };
    let segments = map(&[("csi.example.org/jurisdiction", "us")]);
    let elsewhere = TopologyRequirement { requisite: vec![Topology { segments }], preferred: Vec::new() };
    let mut met = Vec::new();
    for (situation, request) in [
        ("no store named", with(&[])),
        ("unknown store", with(&[("store", "pond")])),
        ("unknown parameter", with(&[("store", "lake"), ("memorry", "1Gi")])),
        ("wrong value", with(&[("store", "lake"), ("memory", "canary")])),
        ("no controller credential", with(&[("store", "static-only")])),
        (
            "residency",
            CreateVolumeRequest { accessibility_requirements: Some(elsewhere), ..with(&[("store", "lake")]) },
        ),
    ] {
        let status = plugin.create(request).await.unwrap_err();
        assert!(!status.message().contains("canary"), "{status:?}");
        met.push((situation, status));
    }
    assert_eq!(undocumented("CreateVolume", &met), "");
}

#[tokio::test]
async fn what_the_store_refuses_is_told_in_documented_words() {
    let options =
        || Options { users: vec![User::new("id", "right")], buckets: vec!["data".into()], ..Options::default() };
    let there = Server::start(options()).await.unwrap();
    let behind_tls = Server::start(Options { tls: true, ..options() }).await.unwrap();
    let mut met = Vec::new();
    for (situation, endpoint) in [("wrong key", there.endpoint()), ("certificate not trusted", behind_tls.endpoint())] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stores.yaml");
        let words =
            format!("name: lake, backend: s3, endpoint: '{endpoint}', bucket: data, controllerCredential: key.yaml");
        std::fs::write(&file, format!("stores: [{{{words}}}]")).unwrap();
        std::fs::write(dir.path().join("key.yaml"), KEYS).unwrap();
        let controller = Controller::new(LiveStores::load(&file).unwrap(), "one", "csi.example.org", None).unwrap();
        let status = controller.create_volume(Request::new(request("pvc-1"))).await.unwrap_err();
        assert!(!status.message().contains("canary") && !status.message().contains("HTTP"), "{status:?}");
        met.push((situation, status));
    }
    assert_eq!(undocumented("CreateVolume", &met), "");
}
