//! The store of `try`, and another client of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::dataset::Dataset;
use super::files;
use super::hdfs::Hdfs;
use super::nfs::Nfs;
use super::s3::S3;
use super::stage::Stage;
use crate::backend::Backend;
use crate::cli;
use crate::csi::v1::Volume;
use crate::csi::volume_id::VolumeId;

/// A store, and what it is reached with.
#[derive(Debug)]
pub(super) enum Store {
    S3(Box<S3>),
    Nfs(Nfs),
    Hdfs(Hdfs),
}

impl Store {
    /// Starts the store's server, or takes the named one; writes the stores file.
    pub(super) async fn open(words: &cli::Try, stage: &Stage) -> Result<Store> {
        Ok(match words.store {
            cli::TryStore::S3 => Store::S3(Box::new(S3::open(words, stage).await?)),
            cli::TryStore::Nfs => Store::Nfs(Nfs::open(stage).await?),
            cli::TryStore::Hdfs => Store::Hdfs(Hdfs::open(stage).await?),
        })
    }

    /// The stores file for both plugins.
    pub(super) fn file(&self) -> &Path {
        match self {
            Store::S3(store) => &store.file,
            Store::Nfs(store) => &store.file,
            Store::Hdfs(store) => &store.file,
        }
    }

    /// What the other client is called.
    pub(super) fn client(&self) -> &'static str {
        match self {
            Store::S3(_) => "an S3 client",
            Store::Nfs(_) => "an NFS client",
            Store::Hdfs(_) => "an HDFS client",
        }
    }

    /// What it reads with, at the end.
    pub(super) fn raw_name(&self) -> &'static str {
        match self {
            Store::S3(_) => "raw parallel GET",
            Store::Nfs(_) => "raw parallel READ",
            Store::Hdfs(_) => "raw parallel read",
        }
    }

    /// The user's Secret, as the kubelet passes it.
    pub(super) fn secret(&self) -> HashMap<String, String> {
        match self {
            Store::S3(store) => store.secret(),
            Store::Nfs(_) | Store::Hdfs(_) => HashMap::new(),
        }
    }

    /// Where a volume's directory lies, without a slash at its end.
    pub(super) fn place_of(&self, volume: &Volume) -> Result<String> {
        match self {
            Store::S3(store) => store.key_of(volume),
            Store::Nfs(_) | Store::Hdfs(_) => Ok(VolumeId::parse(&volume.volume_id)?.path().to_string()),
        }
    }

    /// Puts the data set below `dir`, by the other client.
    pub(super) async fn put(&self, dir: &str, set: &Arc<Dataset>, bar: &ProgressBar) -> Result<()> {
        match self.other(dir)? {
            Other::S3(store) => store.put(dir, set, bar).await,
            Other::Backend(client) => files::put(&client, set, bar).await,
        }
    }

    /// A file's bytes, by the other client.
    pub(super) async fn get(&self, dir: &str, name: &str) -> Result<Vec<u8>> {
        match self.other(dir)? {
            Other::S3(store) => store.get(&format!("{dir}/{name}")).await,
            Other::Backend(client) => files::get(&*client, name).await,
        }
    }

    /// How long the other client takes to read the same files, every byte checked.
    pub(super) async fn read_raw(&self, dir: &str, set: &Arc<Dataset>) -> Result<Duration> {
        match self.other(dir)? {
            Other::S3(store) => store.read_raw(dir, set).await,
            Other::Backend(client) => files::read_raw(&client, set).await,
        }
    }

    /// The other client, of the directory `dir`.
    fn other(&self, dir: &str) -> Result<Other<'_>> {
        Ok(match self {
            Store::S3(store) => Other::S3(store),
            Store::Nfs(store) => Other::Backend(store.client(dir)?),
            Store::Hdfs(store) => Other::Backend(store.client(dir)?),
        })
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
            Store::Nfs(_) | Store::Hdfs(_) => None,
        }
    }

    /// What is neither a record nor anything else that may stay, where the store can be looked into.
    pub(super) async fn left_over(&self) -> Result<Option<String>> {
        Ok(match self {
            Store::S3(store) => store.left_over(),
            Store::Nfs(store) => files::left_over(&*store.root()?).await,
            Store::Hdfs(store) => files::left_over(&*store.root()?).await,
        })
    }
}

/// Who else uses the store.
enum Other<'a> {
    S3(&'a S3),
    Backend(Arc<dyn Backend>),
}
