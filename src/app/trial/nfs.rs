//! `try` on a real NFS server: nfs-ganesha on loopback, and a client of it that has nothing to do with the mount.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::stage::Stage;
use super::{STORE, files};
use crate::auth::Credential;
use crate::backend::nfs::Config;
use crate::backend::{self, Backend};
use crate::sandbox::ganesha::Ganesha;
use crate::sandbox::requirement::GANESHA;

/// Whom the volume is used as.
const UID: u32 = 1000;

/// A server, and what it is reached with.
#[derive(Debug)]
pub(super) struct Nfs {
    /// The stores file for both plugins.
    pub(super) file: PathBuf,
    /// It ends with this.
    _server: Ganesha,
    config: Config,
}

impl Nfs {
    /// Starts the server and writes the stores file.
    pub(super) async fn open(stage: &Stage) -> Result<Nfs> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the NFS server runs as root only: run `try --store nfs` as root");
        }
        if let Some(missing) = GANESHA.missing() {
            bail!("{missing}; install the packages nfs-ganesha and nfs-ganesha-vfs of your distribution");
        }
        let server =
            Ganesha::start().await.context("cannot start nfs-ganesha")?.context("nfs-ganesha cannot run here")?;
        let export = server.root().to_str().context("a temporary directory that is no text")?.to_owned();
        println!("nfs-ganesha            127.0.0.1:{} {export}", server.port());
        let store = json!({
            "name": STORE,
            "backend": "nfs",
            "server": "127.0.0.1",
            "export": export,
            "port": server.port(),
            "mountPort": server.mount_port(),
            "controllerUser": {"uid": 0, "gid": 0},
            "identities": [{"namespace": "*", "users": [{"name": "try", "uid": UID, "gid": UID}]}],
        });
        let file = stage.path("stores.yaml");
        // JSON is YAML.
        std::fs::write(&file, json!({ "stores": [store] }).to_string())?;
        // Users pass through the store's root to their volumes.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(server.root(), std::fs::Permissions::from_mode(0o755))?;
        let config = Config::at("127.0.0.1", &export, server.port(), server.mount_port());
        Ok(Nfs { file, _server: server, config })
    }

    /// A client of the directory `dir`.
    pub(super) fn client(&self, dir: &str) -> Result<Arc<dyn Backend>> {
        self.client_of(UID, dir)
    }

    /// One of all of the store.
    pub(super) fn root(&self) -> Result<Arc<dyn Backend>> {
        self.client_of(0, "")
    }

    fn client_of(&self, uid: u32, dir: &str) -> Result<Arc<dyn Backend>> {
        let config = Config { connections: backend::nfs::MOST_CONNECTIONS, ..self.config.clone() };
        let credential = Credential::Sys { uid, gid: uid, groups: vec![] };
        files::client(&backend::Config::Nfs(config), &credential, dir)
    }
}
