//! csi-sanity, the CSI project's own suite, against the real controller and node plugin with real mounts: on the embedded
//! S3 server, on nfs-ganesha, and on Hadoop's own daemons. `make sanity` runs it; `scripts/sanity.sh` runs the suite on other stores.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use millrace::sandbox::ganesha::Ganesha;
use millrace::sandbox::hadoop::Hadoop;
use millrace::sandbox::requirement::{self, GANESHA, HADOOP, Requirement};
use millrace::sandbox::s3::{Options, Server, User};

const SUITE: Requirement = Requirement::Program { variable: "MILLRACE_CSI_SANITY", name: "csi-sanity" };
const NEEDS: [Requirement; 3] = [Requirement::Root, Requirement::Fuse, SUITE];

/// Runs the suite on a store, which the stores file has under the name `sanity`.
async fn passes(backend: &str, stores: String, secrets: &str, files: &[(&str, &str)]) {
    let Requirement::Program { variable, name } = SUITE else { unreachable!() };
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [&[("stores.yaml", stores.as_str()), ("secrets.yaml", secrets)], files].concat() {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut suite = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sanity.sh"));
    suite
        .arg(dir.path().join("stores.yaml"))
        .arg("sanity")
        .arg(dir.path().join("secrets.yaml"))
        .arg(backend)
        .env("MILLRACE", env!("CARGO_BIN_EXE_millrace"))
        .env(variable, requirement::program(variable, name).unwrap());
    let status = tokio::task::spawn_blocking(move || suite.status()).await.unwrap().unwrap();
    assert!(status.success(), "csi-sanity: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csi_sanity_on_the_embedded_s3_server() {
    if !requirement::met(&NEEDS) {
        return;
    }
    let users = vec![User::new("controller", "the-controllers-own-key"), User::new("user", "the-users-own-key")];
    let options = Options { users, buckets: vec!["data".into()], ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let stores = format!(
        "stores: [{{name: sanity, backend: s3, endpoint: '{}', bucket: data, controllerCredential: controller.yaml}}]",
        server.endpoint()
    );
    let own = "{key_id: controller, access_key: the-controllers-own-key}";
    let secrets = "NodePublishVolumeSecret: {key_id: user, access_key: the-users-own-key}";
    passes("s3", stores, secrets, &[("controller.yaml", own)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csi_sanity_on_nfs_ganesha() {
    if !requirement::met(&[NEEDS.as_slice(), &[GANESHA]].concat()) {
        return;
    }
    let Some(server) = Ganesha::start().await.unwrap() else { return };
    std::fs::set_permissions(server.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let stores = format!(
        "stores: [{{name: sanity, backend: nfs, server: 127.0.0.1, export: '{}', port: {}, mountPort: {}, \
         controllerUser: {{uid: 0, gid: 0}}, \
         identities: [{{namespace: '*', users: [{{name: user, uid: 1000, gid: 1000}}]}}]}}]",
        server.root().display(),
        server.port(),
        server.mount_port()
    );
    passes("nfs", stores, "NodePublishVolumeSecret: {user: user}", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csi_sanity_on_hadoop() {
    if !requirement::met(&[NEEDS.as_slice(), &[HADOOP]].concat()) {
        return;
    }
    let Some(cluster) = Hadoop::start(&[]).await.unwrap() else { return };
    let prefix = cluster.fresh(cluster.superuser()).await.unwrap();
    let stores = format!(
        "stores: [{{name: sanity, backend: hdfs, nameNodes: ['{}'], webHdfs: ['{}'], prefix: {prefix}, \
         controllerUser: {{name: {}}}, \
         identities: [{{namespace: '*', users: [{{name: alice, uid: 1000, gid: 1000}}]}}]}}]",
        cluster.namenode(),
        cluster.webhdfs(),
        cluster.superuser()
    );
    passes("hdfs", stores, "NodePublishVolumeSecret: {user: alice}", &[]).await;
}
