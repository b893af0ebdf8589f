//! The NFS backend against nfs-ganesha.

mod between;
mod changes_elsewhere;
mod journals;
mod records;
mod server;

use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::Config;
use crate::auth::Credential;
use crate::backend::contract::Stand;
use crate::backend::contract::steps::*;
use crate::backend::faulty::Faulty;
use crate::backend::{self, Attributes, Backend, Base, ErrorKind, Kind, Limits, Path, Rights, SetAttributes, contract};
use crate::sandbox::ganesha::Ganesha;

const UID: u32 = 1000;

fn limits() -> Limits {
    Limits::alone(64 << 20, Duration::from_secs(30))
}

fn user(uid: u32) -> Credential {
    Credential::Sys { uid, gid: uid, groups: vec![2000] }
}

/// A server whose export `root` holds an empty directory `volume` of [`UID`]'s.
async fn ganesha() -> Option<Ganesha> {
    let server = Ganesha::start().await.unwrap()?;
    let volume = server.root().join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(UID), Some(UID)).unwrap();
    std::fs::set_permissions(server.root(), PermissionsExt::from_mode(0o755)).unwrap();
    Some(server)
}

fn config(server: &Ganesha) -> Config {
    Config::at("127.0.0.1", server.root().to_str().unwrap(), server.port(), server.mount_port())
}

fn connect(config: &Config, uid: u32, limits: Limits) -> Arc<dyn Backend> {
    backend::connect(&backend::Config::Nfs(config.clone()), &user(uid), &path("volume"), limits).unwrap()
}

/// A store on such a server.
pub(crate) async fn stand() -> Option<(Arc<dyn Backend>, Ganesha)> {
    let server = ganesha().await?;
    Some((connect(&config(&server), UID, limits()), server))
}

mod bare {
    use super::*;

    contract::suite!(|| async {
        let (store, server) = stand().await?;
        let stand: Stand = (store, Box::new(server));
        Some(stand)
    });
}

mod behind_the_fault_wrapper {
    use super::*;

    contract::suite!(|| async {
        let (store, server) = stand().await?;
        let stand: Stand = (Arc::new(Faulty::new(store)), Box::new(server));
        Some(stand)
    });
}
