//! The controller on the embedded S3 server.

use std::time::Duration;

use super::calls::list_health;
use super::*;
use crate::csi::v1::VolumeHealthErrorType;
use crate::sandbox::s3::{Bucket, Fault, Kind, Options, Rights, Rule, Server, User};

struct Cluster {
    server: Server,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(deletion: &str) -> Cluster {
        let options = Options {
            users: vec![User::new("id", "canary-key")],
            buckets: vec!["data".to_owned()],
            ..Options::default()
        };
        let server = Server::start(options).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "stores: [{{name: lake, backend: s3, endpoint: '{}', bucket: data, prefix: base, deletion: {deletion}, \
             controllerCredential: key.yaml}}]",
            server.endpoint()
        );
        std::fs::write(dir.path().join("stores.yaml"), text).unwrap();
        std::fs::write(dir.path().join("key.yaml"), KEYS).unwrap();
        Cluster { server, dir }
    }

    /// A controller that has just started.
    fn controller(&self) -> Controller {
        let stores = LiveStores::load(&self.dir.path().join("stores.yaml")).unwrap();
        Controller::new(stores, "one", "csi.example.org", None).unwrap()
    }

    /// Keys outside the driver's own directory.
    fn data(&self) -> Vec<String> {
        self.server.keys("data").into_iter().filter(|key| !key.starts_with("base/.millrace/")).collect()
    }

    fn put(&self, keys: &[&str]) {
        for key in keys {
            self.server.put("data", key, "x");
        }
    }
}

fn placed(name: &str, path: &str) -> CreateVolumeRequest {
    CreateVolumeRequest { parameters: map(&[("store", "lake"), ("path", path)]), ..request(name) }
}

const OUTSIDE: [&str; 6] = ["a/b/x", "base/a/bc/x", "base/a/b-", "base/a", "base/b/x", "elsewhere"];

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_the_directory_and_nothing_beside_it() {
    let cluster = Cluster::start("current").await;
    cluster.put(&OUTSIDE);
    let mut before = cluster.data();
    before.sort();
    let id = create(&cluster.controller(), placed("pvc-1", "a/b")).await.unwrap();
    assert!(cluster.server.get("data", "base/a/b/.millrace/volume.json").is_some());
    cluster.put(&["base/a/b/", "base/a/b/x", "base/a/b/sub/ y+%2F", "base/a/b/sub//z"]);
    delete(&cluster.controller(), &id).await.unwrap();
    assert_eq!(cluster.data(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_goes_on_in_another_controller() {
    let cluster = Cluster::start("current").await;
    let id = create(&cluster.controller(), request("pvc-1")).await.unwrap();
    for number in 0..2100 {
        cluster.server.put("data", &format!("base/pvc-1/{number}"), "x");
    }
    // One page goes, then the store refuses.
    let refused = Fault::error(403, "AccessDenied");
    cluster.server.faults().add(Rule::on(Kind::DeleteObjects, refused.clone()).skip(1).always());
    // The proof of exclusion removes its own key.
    cluster.server.faults().add(Rule::on(Kind::DeleteObject, refused).skip(1).always());
    let error = delete(&cluster.controller(), &id).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("controller's own credential"), "{error:?}");
    let left = cluster.data().len();
    assert!((1..2100).contains(&left), "{left} left");
    cluster.server.faults().clear();
    delete(&cluster.controller(), &id).await.unwrap();
    assert_eq!(cluster.data(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_versioned_bucket_keeps_its_versions_unless_told_otherwise() {
    for (deletion, kept) in [("current", true), ("all", false)] {
        let cluster = Cluster::start(deletion).await;
        cluster.server.bucket("data", Bucket { versioned: true, ..Bucket::default() });
        let id = create(&cluster.controller(), request("pvc-1")).await.unwrap();
        cluster.put(&["base/pvc-1/x", "base/pvc-1/x", "base/pvc-10/x"]);
        delete(&cluster.controller(), &id).await.unwrap();
        assert_eq!(cluster.data(), ["base/pvc-10/x"]);
        // volume.json and x twice, and what hides them.
        let versions = if kept { 5 } else { 0 };
        assert_eq!(cluster.server.versions("data", "base/pvc-1/"), versions, "{deletion}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_or_refusing_store_is_told_in_its_own_words() {
    let cluster = Cluster::start("current").await;
    cluster.server.users().add(User::new("id", "canary-key").with(Rights::default().read_only()));
    let error = create(&cluster.controller(), request("pvc-1")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("controller's own credential"), "{error:?}");
    cluster.server.users().add(User::new("id", "another-secret"));
    let error = create(&cluster.controller(), request("pvc-1")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    // Mended by writing the file anew, without a restart.
    let controller = cluster.controller();
    create(&controller, request("pvc-1")).await.unwrap_err();
    std::fs::write(cluster.dir.path().join("key.yaml"), "{key_id: id, access_key: another-secret}").unwrap();
    create(&controller, request("pvc-1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_volume() {
    let cluster = Cluster::start("current").await;
    cluster.server.faults().adjust(|conditions| conditions.first_byte = Duration::from_millis(3));
    for round in 0..5 {
        let name = format!("pvc-{round}");
        let (one, two) = (cluster.controller(), cluster.controller());
        let (one, two) = tokio::join!(create(&one, request(&name)), create(&two, request(&name)));
        assert_eq!(one.unwrap(), two.unwrap());
        let files = cluster.data().iter().filter(|key| key.starts_with(&format!("base/{name}/"))).count();
        assert_eq!(files, 1);
    }
}

/// The one thing that is wrong with a volume.
async fn trouble(controller: &Controller, id: &str) -> (VolumeHealthErrorType, String) {
    let request = ControllerGetVolumeHealthRequest { volume_id: id.into(), ..Default::default() };
    let answer = controller.controller_get_volume_health(Request::new(request)).await.unwrap().into_inner();
    let health = answer.volume_health.unwrap();
    let [entry] = health.health_statuses.as_slice() else { panic!("{health:?}") };
    (entry.status(), entry.reason.clone())
}

/// Of all volumes.
async fn troubles(controller: &Controller) -> Result<Vec<String>, Code> {
    let entries = list_health(controller, 0, "").await?.entries;
    Ok(entries.iter().map(|health| health.health_statuses[0].reason.clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_volume_is_told_apart() {
    use VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible};
    let cluster = Cluster::start("current").await;
    let controller = cluster.controller();
    let small = Some(CapacityRange { required_bytes: 10, limit_bytes: 0 });
    let id = create(&controller, CreateVolumeRequest { capacity_range: small, ..request("pvc-1") }).await.unwrap();
    let is = |status, reason: &str| (status, reason.to_owned());
    assert_eq!(troubles(&controller).await, Ok(vec![]));

    cluster.server.users().add(User::new("id", "another-secret"));
    assert_eq!(trouble(&controller, &id).await, is(Degraded, "ControllerCredentialRefused"));
    assert_eq!(troubles(&controller).await, Ok(vec!["ControllerCredentialRefused".to_owned()]));
    assert_eq!(troubles(&cluster.controller()).await, Err(Code::Unauthenticated), "it knows no volumes from before");
    cluster.server.users().add(User::new("id", "canary-key"));

    cluster.server.faults().adjust(|conditions| conditions.silent = true);
    let begun = std::time::Instant::now();
    let (told, all) = tokio::join!(trouble(&controller, &id), troubles(&controller));
    assert_eq!((told, all), (is(Inaccessible, "StoreUnreachable"), Ok(vec!["StoreUnreachable".to_owned()])));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    cluster.server.faults().adjust(|conditions| conditions.silent = false);

    cluster.server.put("data", "base/pvc-1/x", "more than ten bytes");
    assert_eq!(troubles(&controller).await, Ok(vec![]), "it was counted less than an hour ago");
    let controller = cluster.controller();
    assert_eq!(trouble(&controller, &id).await, is(Degraded, "OverLimit"));
    cluster.server.remove("data", "base/pvc-1/.millrace/volume.json");
    assert_eq!(trouble(&controller, &id).await, is(Inaccessible, "DirectoryGone"));
    cluster.server.remove("data", "base/pvc-1/x");
    assert_eq!(trouble(&controller, &id).await, is(DataLoss, "DirectoryGone"));
    assert_eq!(troubles(&controller).await, Ok(vec!["DirectoryGone".to_owned()]));

    std::fs::remove_file(cluster.dir.path().join("key.yaml")).unwrap();
    let unknown = is(VolumeHealthErrorType::UnknownVolumeHealthType, "ControllerCredentialMissing");
    assert_eq!(trouble(&controller, &id).await, unknown);
}
