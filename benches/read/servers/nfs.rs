//! nfs-ganesha, and who reads it: the driver's own library without a mount, and libnfs.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use millrace::auth::Credential;
use millrace::backend::nfs::Config;
use millrace::backend::{self, Backend, Intent, Limits, Path, Version};
use millrace::sandbox::ganesha::Ganesha;
use millrace::sandbox::requirement::on_path;

use super::peers::{Call, Peer};
use super::relay::{Link, Requests};
use super::wire::Relay;
use super::{FileServer, Folder, PACE};
use crate::local;
use crate::mounted::Volume;
use crate::raw::Client;
use crate::workload::{Unit, Workload};

/// TCP connections of everybody who may choose.
const CONNECTIONS: u32 = 8;
/// Small files at once, whose READs share the connections.
const AT_ONCE: u32 = 64;
/// Whom all is read as.
const UID: u32 = 1000;

pub(super) struct Filer {
    server: Ganesha,
    relay: Relay,
}

impl Filer {
    /// `None` where this machine has no server.
    pub(super) async fn start() -> Result<Option<Filer>> {
        let Some(server) = Ganesha::start().await? else { return Ok(None) };
        fs::set_permissions(server.root(), fs::Permissions::from_mode(0o755))?;
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let link = Link { from: at(0), to: at(server.port()), requests: Requests::Records };
        let relay = Relay::start(vec![link], PACE)?;
        Ok(Some(Filer { server, relay }))
    }

    /// Where the folders of all workloads lie.
    fn root(&self) -> PathBuf {
        self.server.root()
    }

    fn port(&self, direct: bool) -> u16 {
        if direct { self.server.port() } else { self.relay.at[0].port() }
    }
}

#[async_trait]
impl FileServer for Filer {
    fn relay(&self) -> &Relay {
        &self.relay
    }

    fn workloads(&self) -> Vec<Workload> {
        crate::workload::of_a_file_server(CONNECTIONS, CONNECTIONS)
    }

    fn at_once(&self, workload: &Workload) -> u32 {
        match workload.unit {
            Unit::FilesPerSecond => AT_ONCE,
            Unit::MegabytesPerSecond => CONNECTIONS,
            Unit::Milliseconds => 1,
        }
    }

    async fn lay_out(&self, folder: &Folder) -> Result<()> {
        let (root, folder) = (self.root().join(folder.name), folder.clone());
        crate::run::blocking(move || local::write(&root, &folder.objects)).await
    }

    fn volume(&self, folder: &str, connections: u32, direct: bool) -> Result<Volume> {
        let export = self.root().to_str().context("the export is no UTF-8")?.to_owned();
        let config = Config::at("127.0.0.1", &export, self.port(direct), self.server.mount_port());
        Ok(Volume {
            backend: backend::Config::Nfs(Config { connections, ..config }),
            path: folder.to_owned(),
            credential: Credential::Sys { uid: UID, gid: UID, groups: Vec::new() },
        })
    }

    async fn client(&self, workload: &Workload, foresight: bool) -> Result<Arc<dyn Client>> {
        let Volume { backend, path, credential } = self.volume(workload.name, CONNECTIONS, workload.direct)?;
        let limits = Limits::alone(0, Duration::from_secs(60));
        let store = backend::connect(&backend, &credential, &Path::parse(&path)?, limits)?;
        let mut seen = HashMap::new();
        for object in workload.objects.iter().filter(|_| foresight) {
            let folder = object.name.rsplit_once('/').map_or("", |(folder, _)| folder);
            if !seen.contains_key(&object.name) {
                list(&*store, folder, &mut seen).await?;
            }
        }
        Ok(Arc::new(Library { store, seen }))
    }

    fn peers(&self, workload: &Workload) -> Vec<Peer> {
        let url = |name: &str| {
            let (root, folder) = (self.root(), workload.name);
            let (port, mount_port) = (self.port(workload.direct), self.server.mount_port());
            format!(
                "nfs://127.0.0.1{}/{folder}/{name}?version=3&nfsport={port}&mountport={mount_port}&uid={UID}&gid={UID}",
                root.display()
            )
        };
        let call = |object: usize| Call { words: vec![url(&workload.objects[object].name)], objects: vec![object] };
        let lanes = super::peers::dealt(workload, CONNECTIONS, |objects| objects.into_iter().map(call).collect());
        vec![Peer { name: "nfs-cat", program: on_path("nfs-cat"), environment: Vec::new(), lanes }]
    }
}

async fn list(store: &dyn Backend, folder: &str, seen: &mut HashMap<String, Version>) -> Result<()> {
    let dir = Path::parse(folder)?;
    let mut entries = store.list(&dir);
    while let Some(entry) = entries.try_next().await? {
        if let Some(version) = entry.meta.version() {
            seen.insert(dir.join(&entry.name).to_string(), version.clone());
        }
    }
    Ok(())
}

/// The driver's client, without read-ahead, cache or mount.
struct Library {
    store: Arc<dyn Backend>,
    /// What a listing has told already.
    seen: HashMap<String, Version>,
}

#[async_trait]
impl Client for Library {
    async fn get(&self, name: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let version = match self.seen.get(name) {
            Some(version) => version.clone(),
            None => {
                let meta = self.store.stat(&Path::parse(name)?).await?;
                meta.version().with_context(|| format!("{name} is no file"))?.clone()
            }
        };
        let body = self.store.read(&version, range, Intent::Demand).await?;
        Ok(body.map(|piece| Ok(piece?)).boxed())
    }
}
