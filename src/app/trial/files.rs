//! A data set put, read and checked by a client of one of the driver's own backends, beside the mount and without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;

use super::dataset::{Dataset, Item};
use crate::auth::Credential;
use crate::backend::{
    self, Attributes, Backend, Base, CreateOptions, ErrorKind, Fetched, Intent, Limits, Path, RESERVED,
};

/// Files that the client moves at once.
const AT_ONCE: usize = 8;

/// A client of the directory `dir` of a store.
pub(super) fn client(config: &backend::Config, credential: &Credential, dir: &str) -> Result<Arc<dyn Backend>> {
    let limits = Limits::alone(64 << 20, Duration::from_secs(60));
    Ok(backend::connect(config, credential, &Path::parse(dir)?, limits)?)
}

/// See [`super::store::Store::put`].
pub(super) async fn put(client: &Arc<dyn Backend>, set: &Arc<Dataset>, bar: &ProgressBar) -> Result<()> {
    // In name order, so that a directory comes before what lies in it.
    for item in &set.files {
        make_dirs(&**client, &Path::parse(&item.path)?).await?;
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
pub(super) async fn get(client: &dyn Backend, name: &str) -> Result<Vec<u8>> {
    match client.fetch(&Path::parse(name)?, 64 << 20, None).await? {
        Fetched::New { bytes, .. } => Ok(bytes.into()),
        Fetched::Same => bail!("nothing was known of {name}"),
    }
}

/// See [`super::store::Store::read_raw`].
pub(super) async fn read_raw(client: &Arc<dyn Backend>, set: &Arc<Dataset>) -> Result<Duration> {
    let began = Instant::now();
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

/// See [`super::store::Store::left_over`], of the store's root.
pub(super) async fn left_over(client: &dyn Backend) -> Option<String> {
    let names = client.list(&Path::root()).try_filter_map(async |entry| Ok(Some(entry.name.to_string())));
    let mut names = std::pin::pin!(names);
    while let Some(name) = names.next().await {
        match name {
            Ok(name) if name == RESERVED => {}
            Ok(name) => return Some(name),
            Err(error) => return Some(format!("nobody knows what: {error}")),
        }
    }
    None
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
    let attributes = Attributes { mode: set.files[index].mode, ..Attributes::default() };
    upload.publish(&attributes).await.with_context(|| format!("cannot put {path}"))?;
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
