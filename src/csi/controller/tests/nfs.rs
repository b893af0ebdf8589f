//! The controller on a real NFS server, nfs-ganesha.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use super::*;
use crate::csi::v1::VolumeHealthErrorType;
use crate::sandbox::ganesha::Ganesha;

const CONTROLLER: u32 = 900;

/// A server, and a stores file with its export `root` as store `lake` and `squash` as store `pool`.
struct Cluster {
    server: Ganesha,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Option<Cluster> {
        let server = Ganesha::start().await.unwrap()?;
        chown(server.squash(), Some(CONTROLLER), Some(CONTROLLER)).unwrap();
        let cluster = Cluster { server, dir: tempfile::tempdir().unwrap() };
        cluster.write("controllerUser: {uid: 0, gid: 0}");
        Some(cluster)
    }

    /// Writes the stores file, in which `lake` has these words.
    fn write(&self, words: &str) {
        let (server, [root, squash]) = (&self.server, [self.server.root(), self.server.squash()]);
        let store = |name: &str, export: PathBuf, words: &str| {
            format!(
                "  - name: {name}\n    backend: nfs\n    server: 127.0.0.1\n    export: {}\n    port: {}\n    mountPort: {}\n    {words}\n",
                export.display(),
                server.port(),
                server.mount_port()
            )
        };
        let table = "identities:\n      - {namespace: team-a, users: [{name: alice, uid: 1000, gid: 100}]}\n      \
                     - {namespace: team-b, users: [{name: bob, uid: 1001, gid: 100}, {name: carol, uid: 1002, gid: 100}]}";
        let lake = store("lake", root, &format!("{words}\n    {table}"));
        let pool =
            store("pool", squash, &format!("controllerUser: {{uid: {CONTROLLER}, gid: {CONTROLLER}}}\n    {table}"));
        std::fs::write(self.dir.path().join("stores.yaml"), format!("stores:\n{lake}{pool}")).unwrap();
    }

    /// A controller that has just started.
    fn controller(&self) -> Controller {
        let stores = LiveStores::load(&self.dir.path().join("stores.yaml")).unwrap();
        Controller::new(stores, "one", "csi.example.org").unwrap()
    }

    fn disk(&self, at: &str) -> PathBuf {
        self.server.root().join(at)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_made_owned_expanded_listed_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    let words = [("uid", "1234"), ("gid", "77"), ("dirMode", "0750"), ("path", "teams/${pv.name}")];
    let id = create(&controller, wanted("pvc-1", "lake", &words)).await.unwrap();
    assert_eq!(create(&cluster.controller(), wanted("pvc-1", "lake", &words)).await.unwrap(), id);
    let made = std::fs::metadata(cluster.disk("teams/pvc-1")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 77, 0o750));
    let own = std::fs::metadata(cluster.disk(".millrace")).unwrap();
    assert_eq!((own.uid(), own.mode() & 0o7777), (0, 0o700));
    let second = create(&controller, of_claim("pvc-2", "team-a", &[])).await.unwrap();
    assert_eq!(std::fs::metadata(cluster.disk("pvc-2")).unwrap().uid(), 1000, "the one whom the namespace may act as");
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
    assert!(!cluster.disk("teams/pvc-1").exists() && !cluster.disk("pvc-2").exists());
    assert_eq!(listed(&controller).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_had_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start().await else { return };
    std::fs::create_dir_all(cluster.disk("data/deep")).unwrap();
    std::fs::write(cluster.disk("data/deep/file"), "x").unwrap();
    std::os::unix::fs::symlink("data", cluster.disk("link")).unwrap();
    let (own, path) = ([("uid", "900"), ("gid", "900")], |at| [("uid", "7"), ("gid", "7"), ("path", at)]);
    for (request, code, word) in [
        (wanted("v", "lake", &[]), Code::InvalidArgument, "uid and gid"),
        (of_claim("v", "team-b", &[]), Code::InvalidArgument, "bob, carol"),
        (of_claim("v", "nobody", &[]), Code::InvalidArgument, "nobody"),
        (wanted("v", "lake", &[("uid", "7")]), Code::InvalidArgument, "give both"),
        (wanted("v", "lake", &[("deletion", "all")]), Code::InvalidArgument, "old versions"),
        (wanted("v", "lake", &path("data")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &path("data/deep/file")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &path("link")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "pool", &[("uid", "7"), ("gid", "7")]), Code::FailedPrecondition, "root_squash"),
    ] {
        let error = create(&cluster.controller(), request).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(word), "{word}: {error:?}");
    }
    assert!(cluster.disk("data/deep/file").exists());
    let id = create(&cluster.controller(), wanted("w", "pool", &own)).await.unwrap();
    delete(&cluster.controller(), &id).await.unwrap();
    cluster.write("");
    let error = create(&cluster.controller(), of_claim("v", "team-a", &[])).await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("controllerUser"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_in_its_place_is_left_alone() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let controller = cluster.controller();
    let (mut ids, words) = (Vec::new(), [("uid", "7"), ("gid", "7")]);
    for name in ["kept", "replaced", "gone"] {
        ids.push(create(&controller, wanted(name, "lake", &words)).await.unwrap());
    }
    // On the server itself, which then forgets what it knew.
    for (from, to) in [("replaced", "aside"), ("gone", "away")] {
        std::fs::rename(cluster.disk(from), cluster.disk(to)).unwrap();
    }
    std::fs::create_dir(cluster.disk("replaced")).unwrap();
    cluster.server.restart().await.unwrap();
    for error in [expand(&controller, &ids[1]).await.map(drop), delete(&controller, &ids[1]).await] {
        let error = error.unwrap_err();
        assert!(error.code() == Code::FailedPrecondition && error.message().contains("replaced"), "{error:?}");
    }
    let request = ControllerGetVolumeHealthRequest { volume_id: ids[1].clone(), ..Default::default() };
    let health = controller.controller_get_volume_health(Request::new(request)).await.unwrap().into_inner();
    let status = &health.volume_health.unwrap().health_statuses[0];
    assert_eq!((status.status(), status.reason.as_str()), (VolumeHealthErrorType::Inaccessible, "DirectoryReplaced"));
    assert!(cluster.disk("replaced").exists() && cluster.disk("aside/.millrace").exists());
    delete(&controller, &ids[2]).await.unwrap();
    delete(&controller, &ids[0]).await.unwrap();
    assert!(cluster.disk("away").exists() && !cluster.disk("kept").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_directory() {
    let Some(cluster) = Cluster::start().await else { return };
    for round in 0..3 {
        let name = format!("pvc-{round}");
        let (one, two) = (cluster.controller(), cluster.controller());
        let request = || of_claim(&name, "team-a", &[]);
        let (one, two) = tokio::join!(create(&one, request()), create(&two, request()));
        assert_eq!(one.unwrap(), two.unwrap());
        let versions = std::fs::read_dir(cluster.disk(&name).join(".millrace/volume.json")).unwrap().count();
        assert_eq!(versions, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_may_be_kept_and_the_server_may_be_away() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let words = [("uid", "7"), ("gid", "7"), ("deletion", "keep")];
    let id = create(&cluster.controller(), wanted("v", "lake", &words)).await.unwrap();
    std::fs::write(cluster.disk("v/file"), "x").unwrap();
    delete(&cluster.controller(), &id).await.unwrap();
    assert!(cluster.disk("v/file").exists());
    let id = create(&cluster.controller(), wanted("w", "lake", &words[..2])).await.unwrap();
    cluster.server.kill();
    let error = delete(&cluster.controller(), &id).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().contains("tried again"), "{error:?}");
    cluster.server.restart().await.unwrap();
    delete(&cluster.controller(), &id).await.unwrap();
}
