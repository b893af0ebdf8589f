//! The store of `try`, and another client of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::dataset::Dataset;
use super::nfs::Nfs;
use super::s3::S3;
use super::stage::Stage;
use crate::cli;
use crate::csi::v1::Volume;

/// A store, and what it is reached with.
#[derive(Debug)]
pub(super) enum Store {
    S3(Box<S3>),
    Nfs(Nfs),
}

impl Store {
    /// Starts the store's server, or takes the named one; writes the stores file.
    pub(super) async fn open(words: &cli::Try, stage: &Stage) -> Result<Store> {
        Ok(match words.store {
            cli::TryStore::S3 => Store::S3(Box::new(S3::open(words, stage).await?)),
            cli::TryStore::Nfs => Store::Nfs(Nfs::open(stage).await?),
        })
    }

    /// The stores file for both plugins.
    pub(super) fn file(&self) -> &Path {
        match self {
            Store::S3(store) => &store.file,
            Store::Nfs(store) => &store.file,
        }
    }

    /// What the other client is called.
    pub(super) fn client(&self) -> &'static str {
        match self {
            Store::S3(_) => "an S3 client",
            Store::Nfs(_) => "an NFS client",
        }
    }

    /// What it reads with, at the end.
    pub(super) fn raw_name(&self) -> &'static str {
        match self {
            Store::S3(_) => "raw parallel GET",
            Store::Nfs(_) => "raw parallel READ",
        }
    }

    /// The user's Secret, as the kubelet passes it.
    pub(super) fn secret(&self) -> HashMap<String, String> {
        match self {
            Store::S3(store) => store.secret(),
            Store::Nfs(_) => HashMap::new(),
        }
    }

    /// Where a volume's directory lies, without a slash at its end.
    pub(super) fn place_of(&self, volume: &Volume) -> Result<String> {
        match self {
            Store::S3(store) => store.key_of(volume),
            Store::Nfs(_) => super::nfs::path_of(volume),
        }
    }

    /// Puts the data set below `dir`, by the other client.
    pub(super) async fn put(&self, dir: &str, set: &Arc<Dataset>, bar: &ProgressBar) -> Result<()> {
        match self {
            Store::S3(store) => store.put(dir, set, bar).await,
            Store::Nfs(store) => store.put(dir, set, bar).await,
        }
    }

    /// A file's bytes, by the other client.
    pub(super) async fn get(&self, dir: &str, name: &str) -> Result<Vec<u8>> {
        match self {
            Store::S3(store) => store.get(&format!("{dir}/{name}")).await,
            Store::Nfs(store) => store.get(dir, name).await,
        }
    }

    /// How long the other client takes to read the same files, every byte checked.
    pub(super) async fn read_raw(&self, dir: &str, set: &Arc<Dataset>) -> Result<Duration> {
        match self {
            Store::S3(store) => store.read_raw(dir, set).await,
            Store::Nfs(store) => store.read_raw(dir, set).await,
        }
    }

    /// Counts from here.
    pub(super) fn reset_counters(&self) {
        if let Store::S3(store) = self {
            store.reset_counters();
        }
    }

    /// GET requests since the last reset; `None` where nobody counts them.
    pub(super) fn gets(&self) -> Option<u64> {
        match self {
            Store::S3(store) => store.gets(),
            Store::Nfs(_) => None,
        }
    }

    /// What is neither a record nor anything else that may stay, where the store can be looked into.
    pub(super) fn left_over(&self) -> Option<String> {
        match self {
            Store::S3(store) => store.left_over(),
            Store::Nfs(store) => store.left_over(),
        }
    }
}
