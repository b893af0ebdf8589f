//! The controller on a real NFS server, nfs-ganesha.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::directories::{self, Site};
use super::*;
use crate::sandbox::ganesha::Ganesha;

const CONTROLLER: u32 = 900;

/// A server, and a stores file with its export `root` as store `lake` and `squash` as store `pool`.
struct Cluster {
    server: Ganesha,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Option<Cluster> {
        Cluster::start_with(|_| String::new()).await
    }

    async fn start_with(more: impl Fn(&Path) -> String) -> Option<Cluster> {
        let server = Ganesha::start_with(more).await.unwrap()?;
        chown(server.squash(), Some(CONTROLLER), Some(CONTROLLER)).unwrap();
        let cluster = Cluster { server, dir: tempfile::tempdir().unwrap() };
        cluster.write("controllerUser: {uid: 0, gid: 0}");
        Some(cluster)
    }

    fn disk(&self, at: &str) -> PathBuf {
        self.server.root().join(at)
    }
}

impl Site for Cluster {
    fn stores(&self) -> PathBuf {
        self.dir.path().join("stores.yaml")
    }

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
        std::fs::write(self.stores(), format!("stores:\n{lake}{pool}")).unwrap();
    }

    async fn shown(&self, at: &str) -> Option<(u32, u32, u32)> {
        let there = std::fs::metadata(self.disk(at)).ok()?;
        Some((there.uid(), there.gid(), there.mode() & 0o7777))
    }

    async fn count(&self, dir: &str) -> usize {
        std::fs::read_dir(self.disk(dir)).unwrap().count()
    }

    /// On the server itself, which then forgets what it knew.
    async fn rearrange(&mut self, renamed: &[(&str, &str)], made: &str) {
        for (from, to) in renamed {
            std::fs::rename(self.disk(from), self.disk(to)).unwrap();
        }
        std::fs::create_dir(self.disk(made)).unwrap();
        self.server.restart().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_made_owned_expanded_listed_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    directories::lives(&cluster, [1234, 77], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_had_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start().await else { return };
    std::fs::create_dir_all(cluster.disk("data/deep")).unwrap();
    std::fs::write(cluster.disk("data/deep/file"), "x").unwrap();
    std::os::unix::fs::symlink("data", cluster.disk("link")).unwrap();
    let path = |at| [("uid", "7"), ("gid", "7"), ("path", at)];
    let refused = [
        (wanted("v", "lake", &[]), Code::InvalidArgument, "uid and gid"),
        (of_claim("v", "team-b", &[]), Code::InvalidArgument, "bob, carol"),
        (of_claim("v", "nobody", &[]), Code::InvalidArgument, "nobody"),
        (wanted("v", "lake", &[("uid", "7")]), Code::InvalidArgument, "give both"),
        (wanted("v", "lake", &[("deletion", "all")]), Code::InvalidArgument, "old versions"),
        (wanted("v", "lake", &path("data")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &path("data/deep/file")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "lake", &path("link")), Code::FailedPrecondition, "static volume"),
        (wanted("v", "pool", &[("uid", "7"), ("gid", "7")]), Code::FailedPrecondition, "root_squash"),
    ];
    directories::refuses(&cluster, &refused, &[("uid", "900"), ("gid", "900")]).await;
    assert!(cluster.disk("data/deep/file").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_in_its_place_is_left_alone() {
    let Some(mut cluster) = Cluster::start().await else { return };
    directories::spares_what_took_its_place(&mut cluster, &[("uid", "7"), ("gid", "7")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_directory() {
    let Some(cluster) = Cluster::start().await else { return };
    directories::is_made_once_by_two(&cluster, 3).await;
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

/// Of the thread that this test runs on, the right to bind such a port is taken.
#[tokio::test]
async fn a_controller_that_may_bind_no_privileged_port_says_what_to_do() {
    let guarded = |home: &Path| {
        std::fs::create_dir(home.join("guarded")).unwrap();
        format!(
            "EXPORT {{ Export_Id = 3; Path = \"{}/guarded\"; Pseudo = /guarded; Squash = no_root_squash; \
             PrivilegedPort = true; FSAL {{ Name = VFS; }} }}",
            home.display()
        )
    };
    let Some(cluster) = Cluster::start_with(guarded).await else { return };
    let written = std::fs::read_to_string(cluster.stores()).unwrap();
    let (root, guarded) = (cluster.server.root(), cluster.server.root().with_file_name("guarded"));
    let export = |path: &Path| format!("export: {}\n", path.display());
    let written = written.replace(&export(&root), &export(&guarded));
    let words = [("uid", "7"), ("gid", "7")];
    std::fs::write(cluster.stores(), &written).unwrap();
    let error = create(&cluster.controller(), wanted("v", "lake", &words)).await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("privilegedPorts: true"), "{error:?}");

    let export = export(&guarded);
    let privileged = written.replace(&export, &format!("{export}    privilegedPorts: true\n"));
    std::fs::write(cluster.stores(), privileged).unwrap();
    create(&cluster.controller(), wanted("v", "lake", &words)).await.unwrap();
    assert!(guarded.join("v").is_dir());
    caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_BIND_SERVICE).unwrap();
    let error = create(&cluster.controller(), wanted("w", "lake", &words)).await.unwrap_err();
    let says = |word: &str| error.message().contains(word);
    assert!(error.code() == Code::FailedPrecondition, "{error:?}");
    assert!(says("privilegedPorts") && says("ip_unprivileged_port_start"), "{error:?}");
}
