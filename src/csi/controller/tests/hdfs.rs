//! The controller on Hadoop's own daemons.

use std::ops::Deref;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;

use super::*;
use crate::auth::Credential;
use crate::backend::{self, Backend, Kind, Limits, Path, Permissions, RenameOptions, SetAttributes};
use crate::csi::v1::VolumeHealthErrorType;
use crate::sandbox::hadoop::Hadoop;

/// A stores file with a directory of the superuser's as store `lake` and one of carol's, who makes no gifts, as `pool`.
struct Cluster<H> {
    hadoop: H,
    lake: String,
    pool: String,
    dir: tempfile::TempDir,
}

impl Cluster<&'static Hadoop> {
    /// In the cluster that the tests of this process share.
    async fn start() -> Option<Cluster<&'static Hadoop>> {
        Some(Cluster::of(Hadoop::shared().await.unwrap()?).await)
    }
}

impl<H: Deref<Target = Hadoop>> Cluster<H> {
    async fn of(hadoop: H) -> Cluster<H> {
        let (lake, pool) = (hadoop.fresh(hadoop.superuser()).await.unwrap(), hadoop.fresh("carol").await.unwrap());
        let cluster = Cluster { hadoop, lake, pool, dir: tempfile::tempdir().unwrap() };
        cluster.write(&format!("controllerUser: {{name: {}}}", cluster.hadoop.superuser()));
        cluster
    }

    /// Writes the stores file, in which `lake` has these words.
    fn write(&self, words: &str) {
        let store = |name: &str, prefix: &str, words: &str| {
            format!(
                "  - name: {name}\n    backend: hdfs\n    nameNodes: ['{}']\n    webHdfs: ['{}']\n    prefix: {prefix}\n    {words}\n",
                self.hadoop.namenode(),
                self.hadoop.webhdfs(),
            )
        };
        let table = "groups: {users: 2000, staff: 2001}\n    identities:\n      \
                     - {namespace: team-a, users: [{name: alice, uid: 1000, gid: 2000}]}\n      \
                     - {namespace: team-b, users: [{name: bob, uid: 1001, gid: 9}, {name: dora, uid: 1003, gid: 9}]}";
        let lake = store("lake", &self.lake, &format!("{words}\n    {table}"));
        let pool = store("pool", &self.pool, &format!("controllerUser: {{name: carol, uid: 1002}}\n    {table}"));
        std::fs::write(self.dir.path().join("stores.yaml"), format!("stores:\n{lake}{pool}")).unwrap();
    }

    /// A controller that has just started.
    fn controller(&self) -> Controller {
        let stores = LiveStores::load(&self.dir.path().join("stores.yaml")).unwrap();
        Controller::new(stores, "one", "csi.example.org").unwrap()
    }

    /// The superuser's view of the store `lake`.
    fn files(&self) -> Arc<dyn Backend> {
        let stores = LiveStores::load(&self.dir.path().join("stores.yaml")).unwrap();
        let config = stores.current().get("lake").unwrap().backend.clone();
        let credential = Credential::Hadoop { user: self.hadoop.superuser().into() };
        let limits = Limits::alone(16 << 20, Duration::from_secs(30));
        backend::connect(&config, &credential, &Path::root(), limits).unwrap()
    }

    /// Owner, group and mode of what lies there; `None` where nothing does.
    async fn shown(&self, at: &str) -> Option<(u32, u32, u32)> {
        let meta = self.files().stat(&path(at)).await.ok()?;
        meta.permissions.map(|Permissions { uid, gid, mode }| (uid, gid, mode))
    }
}

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_hdfs_is_made_owned_expanded_listed_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    let words = [("uid", "1001"), ("gid", "2000"), ("dirMode", "0750"), ("path", "teams/${pv.name}")];
    let id = create(&controller, wanted("pvc-1", "lake", &words)).await.unwrap();
    assert_eq!(create(&cluster.controller(), wanted("pvc-1", "lake", &words)).await.unwrap(), id);
    assert_eq!(cluster.shown("teams/pvc-1").await, Some((1001, 2000, 0o750)));
    assert_eq!(cluster.shown(".millrace").await.unwrap().2, 0o700);
    let second = create(&controller, of_claim("pvc-2", "team-a", &[])).await.unwrap();
    assert_eq!(cluster.shown("pvc-2").await.unwrap().0, 1000, "the one whom the namespace may act as");
    let mut all = vec![id.clone(), second.clone()];
    all.sort();
    let mut found = listed(&cluster.controller()).await;
    found.sort();
    assert_eq!(found, all);
    assert_eq!(expand(&cluster.controller(), &id).await.unwrap(), 2 << 30);
    let modify = ControllerModifyVolumeRequest {
        volume_id: id.clone(),
        mutable_parameters: map(&[("ttl", "9s")]),
        ..Default::default()
    };
    controller.controller_modify_volume(Request::new(modify)).await.unwrap();
    for id in [&id, &id, &second] {
        delete(&cluster.controller(), id).await.unwrap();
    }
    assert_eq!((cluster.shown("teams/pvc-1").await, cluster.shown("pvc-2").await), (None, None));
    assert_eq!(listed(&controller).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_hdfs_cannot_have_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start().await else { return };
    let data = format!("/{}/data/deep/file", cluster.lake);
    cluster.hadoop.put(&data, cluster.hadoop.superuser(), "x").await.unwrap();
    let (own, at) = ([("uid", "1002"), ("gid", "2000")], |at| [("uid", "1000"), ("gid", "2000"), ("path", at)]);
    for (request, code, word) in [
        (wanted("v", "lake", &[]), Code::InvalidArgument, "uid and gid"),
        (of_claim("v", "team-b", &[]), Code::InvalidArgument, "bob, dora"),
        (of_claim("v", "nobody", &[]), Code::InvalidArgument, "nobody"),
        (wanted("v", "lake", &[("uid", "7"), ("gid", "2000")]), Code::InvalidArgument, "no user of number 7"),
        (wanted("v", "lake", &[("uid", "1000"), ("gid", "7")]), Code::InvalidArgument, "no group of number 7"),
        (wanted("v", "lake", &[("deletion", "all")]), Code::InvalidArgument, "old versions"),
        (wanted("v", "lake", &at("data")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &at("data/deep/file")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "pool", &own), Code::FailedPrecondition, "superuser"),
    ] {
        let error = create(&cluster.controller(), request).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(word), "{word}: {error:?}");
    }
    assert_eq!(cluster.hadoop.get(&data).await.unwrap(), "x");
    // Who is no superuser gives nothing away, and may keep it.
    let words = [("uid", "1002"), ("gid", "2001"), ("dirMode", "0770")];
    let id = create(&cluster.controller(), wanted("w", "pool", &words)).await.unwrap();
    delete(&cluster.controller(), &id).await.unwrap();
    cluster.write("");
    let error = create(&cluster.controller(), of_claim("v", "team-a", &[])).await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("controllerUser"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_of_hdfs_in_its_place_is_left_alone() {
    let Some(cluster) = Cluster::start().await else { return };
    let (controller, files) = (cluster.controller(), cluster.files());
    let (mut ids, words) = (Vec::new(), [("uid", "1000"), ("gid", "2000")]);
    for name in ["kept", "replaced", "gone"] {
        ids.push(create(&controller, wanted(name, "lake", &words)).await.unwrap());
    }
    for (from, to) in [("replaced", "aside"), ("gone", "away")] {
        let how = RenameOptions { kind: Kind::Directory, version: None, replace: false };
        files.rename(&path(from), &path(to), how).await.unwrap();
    }
    files.make_dir(&path("replaced")).await.unwrap();
    for error in [expand(&controller, &ids[1]).await.map(drop), delete(&controller, &ids[1]).await] {
        let error = error.unwrap_err();
        assert!(error.code() == Code::FailedPrecondition && error.message().contains("replaced"), "{error:?}");
    }
    let request = ControllerGetVolumeHealthRequest { volume_id: ids[1].clone(), ..Default::default() };
    let health = controller.controller_get_volume_health(Request::new(request)).await.unwrap().into_inner();
    let status = &health.volume_health.unwrap().health_statuses[0];
    assert_eq!((status.status(), status.reason.as_str()), (VolumeHealthErrorType::Inaccessible, "DirectoryReplaced"));
    assert!(cluster.shown("replaced").await.is_some() && cluster.shown("aside/.millrace").await.is_some());
    delete(&controller, &ids[2]).await.unwrap();
    delete(&controller, &ids[0]).await.unwrap();
    assert!(cluster.shown("away").await.is_some() && cluster.shown("kept").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_directory_of_hdfs() {
    let Some(cluster) = Cluster::start().await else { return };
    for round in 0..2 {
        let name = format!("pvc-{round}");
        let (one, two) = (cluster.controller(), cluster.controller());
        let request = || of_claim(&name, "team-a", &[]);
        let (one, two) = tokio::join!(create(&one, request()), create(&two, request()));
        assert_eq!(one.unwrap(), two.unwrap());
        let versions = cluster.files().list(&path(&format!("{name}/.millrace/volume.json"))).count().await;
        assert_eq!(versions, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_of_hdfs_has_its_reason() {
    let Some(turn) = Hadoop::by_turns().await.unwrap() else { return };
    let cluster = Cluster::of(turn).await;
    let words = [("uid", "1000"), ("gid", "2000")];
    let id = create(&cluster.controller(), wanted("v", "lake", &words)).await.unwrap();
    let told = async || {
        let request = ControllerGetVolumeHealthRequest { volume_id: id.clone(), ..Default::default() };
        let answer = cluster.controller().controller_get_volume_health(Request::new(request)).await.unwrap();
        let statuses = answer.into_inner().volume_health.unwrap_or_default().health_statuses;
        statuses.into_iter().map(|one| (one.status(), one.reason, one.message)).collect::<Vec<_>>()
    };
    assert_eq!(told().await, []);
    let safe = async |on: &str| cluster.hadoop.control("safemode", &[("on", on)], Bytes::new()).await.unwrap();
    safe("true").await;
    let [(status, reason, message)] = &told().await[..] else { panic!("one trouble") };
    assert_eq!((*status, reason.as_str()), (VolumeHealthErrorType::Degraded, "StoreTakesNoChanges"));
    assert!(message.contains("safe mode"), "{message}");
    let error = delete(&cluster.controller(), &id).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().contains("safe mode"), "{error:?}");
    safe("false").await;
    let begun = Instant::now();
    cluster.hadoop.freeze().unwrap();
    let frozen = told().await;
    cluster.hadoop.thaw().unwrap();
    let [(status, reason, _)] = &frozen[..] else { panic!("{frozen:?}") };
    assert_eq!((*status, reason.as_str()), (VolumeHealthErrorType::Inaccessible, "StoreUnreachable"));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    // Somebody else is the controller now, who may not look into the store.
    let closed = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
    cluster.files().set_attributes(&Path::root(), &closed).await.unwrap();
    cluster.write("controllerUser: {name: carol}");
    let refused = told().await;
    let [(status, reason, _)] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!((*status, reason.as_str()), (VolumeHealthErrorType::Degraded, "ControllerCredentialRefused"));
    cluster.write(&format!("controllerUser: {{name: {}}}", cluster.hadoop.superuser()));
    delete(&cluster.controller(), &id).await.unwrap();
}
