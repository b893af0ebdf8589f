//! csi-sanity, the CSI project's own suite, against the real controller and node plugin with real mounts, on the
//! embedded S3 server. `make sanity` runs it; `scripts/sanity.sh` runs the suite on other stores.

use std::process::Command;

use millrace::sandbox::requirement::{self, Requirement};
use millrace::sandbox::s3::{Options, Server, User};

const SUITE: Requirement = Requirement::Program { variable: "MILLRACE_CSI_SANITY", name: "csi-sanity" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csi_sanity_on_the_embedded_s3_server() {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse, SUITE]) {
        return;
    }
    let Requirement::Program { variable, name } = SUITE else { unreachable!() };
    let users = vec![User::new("controller", "the-controllers-own-key"), User::new("user", "the-users-own-key")];
    let options = Options { users, buckets: vec!["data".into()], ..Options::default() };
    let server = Server::start(options).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    file("controller.yaml", "{key_id: controller, access_key: the-controllers-own-key}");
    let secrets = file("secrets.yaml", "NodePublishVolumeSecret: {key_id: user, access_key: the-users-own-key}");
    let stores = file(
        "stores.yaml",
        &format!(
            "stores: [{{name: sanity, backend: s3, endpoint: '{}', bucket: data, controllerCredential: controller.yaml}}]",
            server.endpoint()
        ),
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sanity.sh");
    let mut suite = Command::new(script);
    suite
        .arg(stores)
        .arg("sanity")
        .arg(secrets)
        .env("MILLRACE", env!("CARGO_BIN_EXE_millrace"))
        .env(variable, requirement::program(variable, name).unwrap());
    let status = tokio::task::spawn_blocking(move || suite.status()).await.unwrap().unwrap();
    assert!(status.success(), "csi-sanity: {status}");
}
