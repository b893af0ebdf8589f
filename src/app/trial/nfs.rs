//! `try` on a real NFS server: nfs-ganesha on loopback, and a client of it that has nothing to do with the mount.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::json;

use super::STORE;
use super::dataset::{Dataset, Item};
use super::stage::Stage;
use crate::auth::Credential;
use crate::backend::nfs::Config;
use crate::backend::{
    self, Attributes, Backend, Base, CreateOptions, ErrorKind, Fetched, Intent, Limits, Path, RESERVED,
};
use crate::budget::Budget;
use crate::csi::v1::Volume;
use crate::csi::volume_id::VolumeId;
use crate::sandbox::ganesha::Ganesha;
use crate::sandbox::requirement::GANESHA;

/// Whom the volume is used as.
const UID: u32 = 1000;

/// Files that the client moves at once.
const AT_ONCE: usize = 8;

/// A server, and what it is reached with.
#[derive(Debug)]
pub(super) struct Nfs {
    /// The stores file for both plugins.
    pub(super) file: PathBuf,
    server: Ganesha,
    config: Config,
}

/// The directory of a volume below the store's root.
pub(super) fn path_of(volume: &Volume) -> Result<String> {
    Ok(VolumeId::parse(&volume.volume_id)?.path().to_string())
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
        Ok(Nfs { file, server, config })
    }

    /// A client of the directory `dir`.
    fn client(&self, dir: &str) -> Result<Arc<dyn Backend>> {
        let config = Config { connections: backend::nfs::MOST_CONNECTIONS, ..self.config.clone() };
        let credential = Credential::Sys { uid: UID, gid: UID, groups: vec![] };
        let limits = Limits { budget: Budget::new(64 << 20), timeout: Duration::from_secs(60).into() };
        Ok(backend::connect(&backend::Config::Nfs(config), &credential, &Path::parse(dir)?, limits)?)
    }

    /// See [`super::store::Store::put`].
    pub(super) async fn put(&self, dir: &str, set: &Arc<Dataset>, bar: &ProgressBar) -> Result<()> {
        let client = self.client(dir)?;
        // In name order, so that a directory comes before what lies in it.
        for item in &set.files {
            make_dirs(&*client, &Path::parse(&item.path)?).await?;
        }
        futures::stream::iter(0..set.files.len())
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |index| {
                let (set, client) = (set.clone(), client.clone());
                async move {
                    put_one(&*client, &set, index).await?;
                    bar.inc(set.files[index].size);
                    Ok(())
                }
            })
            .await
    }

    /// See [`super::store::Store::get`].
    pub(super) async fn get(&self, dir: &str, name: &str) -> Result<Vec<u8>> {
        match self.client(dir)?.fetch(&Path::parse(name)?, 64 << 20, None).await? {
            Fetched::New { bytes, .. } => Ok(bytes.into()),
            Fetched::Same => bail!("nothing was known of {name}"),
        }
    }

    /// See [`super::store::Store::read_raw`].
    pub(super) async fn read_raw(&self, dir: &str, set: &Arc<Dataset>) -> Result<Duration> {
        let (client, began) = (self.client(dir)?, Instant::now());
        futures::stream::iter(0..set.files.len())
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |index| {
                let (set, client) = (set.clone(), client.clone());
                async move { read_one(&*client, &set.files[index]).await }
            })
            .await
            .context("the raw client")?;
        Ok(began.elapsed())
    }

    /// See [`super::store::Store::left_over`].
    pub(super) fn left_over(&self) -> Option<String> {
        let entries = std::fs::read_dir(self.server.root()).ok()?.filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.into_iter().find(|name| name != RESERVED)
    }
}

async fn make_dirs(client: &dyn Backend, file: &Path) -> Result<()> {
    let names: Vec<_> = file.names().collect();
    let mut dir = Path::root();
    for name in names.iter().take(names.len().saturating_sub(1)) {
        dir = dir.join(name);
        match client.make_dir(&dir).await {
            Err(error) if error.kind != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn put_one(client: &dyn Backend, set: &Arc<Dataset>, index: usize) -> Result<()> {
    const PIECE: u64 = 4 << 20;
    let (path, size) = (Path::parse(&set.files[index].path)?, set.files[index].size);
    let mut upload = client.create(&path, CreateOptions { base: Base::Absent }).await?;
    for at in (0..size).step_by(PIECE as usize) {
        let set = set.clone();
        let length = PIECE.min(size - at) as usize;
        upload.write(tokio::task::spawn_blocking(move || set.files[index].bytes(at, length)).await??).await?;
    }
    upload.publish(&Attributes::default()).await.with_context(|| format!("cannot put {path}"))?;
    Ok(())
}

async fn read_one(client: &dyn Backend, item: &Item) -> Result<()> {
    let meta = client.stat(&Path::parse(&item.path)?).await?;
    let Some(version) = meta.version().filter(|version| version.size == item.size) else {
        bail!("{} has {} bytes on the server, its source {}", item.path, meta.size(), item.size);
    };
    let mut body = client.read(version, 0..item.size, Intent::Demand).await?;
    let mut at = 0;
    while let Some(piece) = body.try_next().await? {
        item.check(at, &piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}
