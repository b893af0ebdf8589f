//! The controller on Hadoop's own daemons.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;

use super::directories::{self, Site, troubles};
use super::*;
use crate::auth::Credential;
use crate::backend::hdfs;
use crate::backend::{self, Backend, Kind, Limits, Path, Permissions, RenameOptions, SetAttributes};
use crate::csi::v1::VolumeHealthErrorType;
use crate::sandbox::hadoop::Hadoop;

/// A stores file with a directory of the superuser's as store `lake` and one of carol's, who makes no gifts, as `pool`.
pub(super) struct Cluster<H> {
    pub(super) hadoop: H,
    pub(super) lake: String,
    pool: String,
    dir: tempfile::TempDir,
}

impl Cluster<&'static Hadoop> {
    /// In the cluster that the tests of this process share.
    pub(super) async fn start() -> Option<Cluster<&'static Hadoop>> {
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

    /// The superuser's view of the store `lake`.
    pub(super) fn files(&self) -> Arc<dyn Backend> {
        let stores = LiveStores::load(&self.stores()).unwrap();
        let config = stores.current().get("lake").unwrap().backend.clone();
        let credential = Credential::Hadoop { user: self.hadoop.superuser().into() };
        let limits = Limits::alone(16 << 20, Duration::from_secs(30));
        backend::connect(&config, &credential, &Path::root(), limits).unwrap()
    }
}

impl<H: Deref<Target = Hadoop>> Site for Cluster<H> {
    fn stores(&self) -> PathBuf {
        self.dir.path().join("stores.yaml")
    }

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
        std::fs::write(self.stores(), format!("stores:\n{lake}{pool}")).unwrap();
    }

    async fn shown(&self, at: &str) -> Option<(u32, u32, u32)> {
        let meta = self.files().stat(&path(at)).await.ok()?;
        meta.permissions.map(|Permissions { uid, gid, mode }| (uid, gid, mode))
    }

    async fn count(&self, dir: &str) -> usize {
        self.files().list(&path(dir)).count().await
    }

    async fn rearrange(&mut self, renamed: &[(&str, &str)], made: &str) {
        let files = self.files();
        for (from, to) in renamed {
            let how = RenameOptions { kind: Kind::Directory, version: None, replace: false };
            files.rename(&path(from), &path(to), how).await.unwrap();
        }
        files.make_dir(&path(made)).await.unwrap();
    }
}

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_hdfs_is_made_owned_expanded_listed_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    // The superuser has no number.
    directories::lives(&cluster, [1001, 2000], 65_534).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_hdfs_cannot_have_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start().await else { return };
    let data = format!("/{}/data/deep/file", cluster.lake);
    cluster.hadoop.put(&data, cluster.hadoop.superuser(), "x").await.unwrap();
    let at = |at| [("uid", "1000"), ("gid", "2000"), ("path", at)];
    let refused = [
        (wanted("v", "lake", &[]), Code::InvalidArgument, "uid and gid"),
        (of_claim("v", "team-b", &[]), Code::InvalidArgument, "bob, dora"),
        (of_claim("v", "nobody", &[]), Code::InvalidArgument, "nobody"),
        (wanted("v", "lake", &[("uid", "7"), ("gid", "2000")]), Code::InvalidArgument, "no user of number 7"),
        (wanted("v", "lake", &[("uid", "1000"), ("gid", "7")]), Code::InvalidArgument, "no group of number 7"),
        (wanted("v", "lake", &[("deletion", "all")]), Code::InvalidArgument, "old versions"),
        (wanted("v", "lake", &at("data")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &at("data/deep/file")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "pool", &[("uid", "1002"), ("gid", "2000")]), Code::FailedPrecondition, "superuser"),
    ];
    let own = [("uid", "1002"), ("gid", "2001"), ("dirMode", "0770")];
    directories::refuses(&cluster, &refused, &own).await;
    assert_eq!(cluster.hadoop.get(&data).await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volumes_size_is_a_quota_of_hdfs_where_the_controller_may_set_it() {
    let Some(cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    let of_alice = [("uid", "1000"), ("gid", "2000")];
    let made = async |name: &str, store: &str, words: &[(&str, &str)]| {
        let answer = controller.create_volume(Request::new(wanted(name, store, words))).await.unwrap();
        answer.into_inner().volume.unwrap()
    };
    let volume = made("v", "lake", &of_alice).await;
    assert_eq!(volume.volume_context.get("quota").map(String::as_str), Some("true"));
    let total = async |dir: &str| {
        let at = Path::parse(&format!("{}/{dir}", cluster.lake)).unwrap();
        let config = hdfs::Config::at(cluster.hadoop.namenode(), cluster.hadoop.webhdfs());
        let limits = Limits { quota: true, ..Limits::alone(16 << 20, Duration::from_secs(30)) };
        let user = Credential::Hadoop { user: "alice".into() };
        let store = backend::connect(&backend::Config::Hdfs(config), &user, &at, limits).unwrap();
        store.space().await.unwrap().unwrap().total
    };
    assert_eq!(total("v").await, 1 << 30);
    assert_eq!(expand(&controller, &volume.volume_id).await.unwrap(), 2 << 30);
    assert_eq!(total("v").await, 2 << 30);
    // Carol is no superuser, so that writers keep to the limit themselves.
    let words = [("uid", "1002"), ("gid", "2001"), ("dirMode", "0770")];
    let pooled = made("w", "pool", &words).await;
    assert_eq!(pooled.volume_context.get("quota"), None);
    delete(&controller, &volume.volume_id).await.unwrap();
    delete(&controller, &pooled.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_of_hdfs_in_its_place_is_left_alone() {
    let Some(mut cluster) = Cluster::start().await else { return };
    directories::spares_what_took_its_place(&mut cluster, &[("uid", "1000"), ("gid", "2000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_directory_of_hdfs() {
    let Some(cluster) = Cluster::start().await else { return };
    directories::is_made_once_by_two(&cluster, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_of_hdfs_has_its_reason() {
    let Some(turn) = Hadoop::by_turns().await.unwrap() else { return };
    let cluster = Cluster::of(turn).await;
    let words = [("uid", "1000"), ("gid", "2000")];
    let id = create(&cluster.controller(), wanted("v", "lake", &words)).await.unwrap();
    let told = async || troubles(&cluster.controller(), &id).await;
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
