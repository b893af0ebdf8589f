//! `try` on a real HDFS: Hadoop's own daemons on loopback.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::json;

use super::stage::Stage;
use super::{STORE, files};
use crate::auth::Credential;
use crate::backend::hdfs::Config;
use crate::backend::{self, Backend};
use crate::sandbox::hadoop::Hadoop;
use crate::sandbox::requirement::{HADOOP, on_path};

/// Whom the volume is used as, and by which number.
const USER: &str = "alice";
const UID: u32 = 1000;

/// The store's root.
const ROOT: &str = "try";

/// A cluster, and what it is reached with.
#[derive(Debug)]
pub(super) struct Hdfs {
    /// The stores file for both plugins.
    pub(super) file: PathBuf,
    cluster: Hadoop,
}

impl Hdfs {
    /// Starts the cluster and writes the stores file.
    pub(super) async fn open(stage: &Stage) -> Result<Hdfs> {
        if let Some(missing) = HADOOP.missing() {
            bail!("{missing}; {}", to_install());
        }
        let cluster = Hadoop::start(&[]).await.context("cannot start Hadoop")?.context("Hadoop cannot run here")?;
        println!("Hadoop                 hdfs://{} {}", cluster.namenode(), cluster.webhdfs());
        let root = format!("/{ROOT}");
        cluster
            .control("mkdir", &[("path", root.as_str())], Bytes::new())
            .await
            .context("cannot make the store's root")?;
        let store = json!({
            "name": STORE,
            "backend": "hdfs",
            "nameNodes": [cluster.namenode()],
            "webHdfs": [cluster.webhdfs()],
            "prefix": ROOT,
            "controllerUser": {"name": cluster.superuser()},
            "superusers": [cluster.superuser()],
            "identities": [{"namespace": "*", "users": [{"name": USER, "uid": UID, "gid": UID}]}],
        });
        let file = stage.path("stores.yaml");
        // JSON is YAML.
        std::fs::write(&file, json!({ "stores": [store] }).to_string())?;
        Ok(Hdfs { file, cluster })
    }

    /// A client of the directory `dir` of the store.
    pub(super) fn client(&self, dir: &str) -> Result<Arc<dyn Backend>> {
        self.client_of(USER, dir)
    }

    /// One of all of the store.
    pub(super) fn root(&self) -> Result<Arc<dyn Backend>> {
        self.client_of(self.cluster.superuser(), "")
    }

    fn client_of(&self, user: &str, dir: &str) -> Result<Arc<dyn Backend>> {
        let config = Config { prefix: ROOT.into(), ..Config::at(self.cluster.namenode(), self.cluster.webhdfs()) };
        let credential = Credential::Hadoop { user: user.into() };
        files::client(&backend::Config::Hdfs(config), &credential, dir)
    }
}

/// What the one who runs `try` still needs.
fn to_install() -> String {
    let packages: Vec<&str> = [("javac", "default-jdk-headless"), ("mvn", "maven")]
        .into_iter()
        .filter_map(|(program, package)| on_path(program).is_none().then_some(package))
        .collect();
    let build = "in a checkout of this project scripts/hadoop/install.sh FOLDER, which fetches Hadoop's jars, and have \
                 FOLDER/bin on PATH";
    match packages.as_slice() {
        [] => format!("run {build}"),
        missing => format!("install the packages {} of your distribution, run {build}", missing.join(" and ")),
    }
}
