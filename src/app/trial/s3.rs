//! `try` on S3: the embedded server, or the one that was named; and another S3 client of it.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::json;

use super::STORE;
use super::dataset::Dataset;
use super::stage::Stage;
use crate::auth::{Credential, keys};
use crate::cli;
use crate::csi::v1::Volume;
use crate::csi::volume_id::VolumeId;
use crate::sandbox::raw::{Access, Raw};
use crate::sandbox::s3::{Kind, Options, Server, User};

const BUCKET: &str = "try-data";
/// Objects put at once.
const WRITERS: usize = 8;
/// What the raw client reads with: the same for everybody who compares.
const RAW_CONNECTIONS: usize = 8;
const RAW_PART: u64 = 8 << 20;

/// A store, and what it is reached with.
#[derive(Debug)]
pub(super) struct S3 {
    /// The stores file for both plugins.
    pub(super) file: PathBuf,
    raw: Raw,
    prefix: String,
    keys: HashMap<String, String>,
    server: Option<Server>,
}

impl S3 {
    /// Starts the embedded server, or takes the named one; writes the stores file.
    pub(super) async fn open(words: &cli::Try, stage: &Stage) -> Result<S3> {
        let (access, server) = match (&words.endpoint, &words.bucket, &words.credentials) {
            (Some(endpoint), Some(bucket), Some(file)) => (named(words, endpoint, bucket, file)?, None),
            _ => {
                let (access, server) = embedded().await?;
                (access, Some(server))
            }
        };
        let keys = [
            ("key_id", Some(&access.key_id)),
            ("access_key", Some(&access.secret)),
            ("session_token", access.session_token.as_ref()),
        ];
        let keys: HashMap<String, String> =
            keys.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect();
        let credential = stage.path("controller-credential.json");
        // The one secret on disk: mounted only into the controller, as in a cluster, and gone with the stage.
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&credential)?;
        serde_json::to_writer(file, &keys)?;
        let mut store = json!({
            "name": STORE,
            "backend": "s3",
            "endpoint": access.endpoint,
            "bucket": access.bucket,
            "prefix": words.prefix,
            "region": access.region,
            "controllerCredential": credential,
        });
        if let Some(bundle) = &words.ca_bundle {
            store["caBundle"] = json!(std::fs::canonicalize(bundle)?);
        }
        let file = stage.path("stores.yaml");
        // JSON is YAML.
        std::fs::write(&file, json!({ "stores": [store] }).to_string())?;
        let raw = Raw::new(access)?;
        Ok(S3 { file, raw, prefix: words.prefix.clone(), keys, server })
    }

    /// The user's Secret, as the kubelet passes it.
    pub(super) fn secret(&self) -> HashMap<String, String> {
        self.keys.clone()
    }

    /// The key prefix of a volume's directory, without a slash at its end.
    pub(super) fn key_of(&self, volume: &Volume) -> Result<String> {
        let id = VolumeId::parse(&volume.volume_id)?;
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        Ok(format!("{}{slash}{}", self.prefix, id.path()))
    }

    /// Puts the data set below `dir`, by the other client.
    pub(super) async fn put(&self, dir: &str, set: &Arc<Dataset>, bar: &ProgressBar) -> Result<()> {
        futures::stream::iter(0..set.files.len())
            .map(Ok)
            .try_for_each_concurrent(WRITERS, |index| async move {
                let (files, raw) = (set.clone(), self.raw.clone());
                let key = format!("{dir}/{}", set.files[index].path);
                let body = tokio::task::spawn_blocking(move || {
                    let item = &files.files[index];
                    item.bytes(0, item.size as usize)
                });
                let body = body.await??;
                let size = body.len() as u64;
                raw.put(&key, body).await.with_context(|| format!("cannot put {key}"))?;
                bar.inc(size);
                Ok(())
            })
            .await
    }

    /// An object's bytes, by the other client.
    pub(super) async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let chunks: Vec<Bytes> = self.raw.get(key, None).await?.try_collect().await?;
        Ok(chunks.concat())
    }

    /// How long ranged GETs of the same objects take, every byte checked.
    pub(super) async fn read_raw(&self, dir: &str, set: &Arc<Dataset>) -> Result<Duration> {
        let objects: Vec<_> = set.files.iter().map(|item| (format!("{dir}/{}", item.path), item.size)).collect();
        let (set, began) = (set.clone(), Instant::now());
        let check =
            move |index: usize, at: u64, bytes: &[u8]| set.files[index].check(at, bytes).map_err(std::io::Error::other);
        self.raw.read_all(&objects, RAW_CONNECTIONS, RAW_PART, check).await.context("the raw client")?;
        Ok(began.elapsed())
    }

    /// Counts from here.
    pub(super) fn reset_counters(&self) {
        if let Some(server) = &self.server {
            server.reset_counters();
        }
    }

    /// GET requests since the last reset; `None` where the store is not ours.
    pub(super) fn gets(&self) -> Option<u64> {
        Some(self.server.as_ref()?.counters().of(Kind::GetObject))
    }

    /// Keys that are neither records nor anything else that may stay, where the store can be looked into.
    pub(super) fn left_over(&self) -> Option<String> {
        let keys = self.server.as_ref()?.keys(BUCKET);
        keys.into_iter().find(|key| !key.starts_with(".millrace/"))
    }
}

async fn embedded() -> Result<(Access, Server)> {
    let secret: [u8; 20] = rand::random();
    let user = User::new("try-user", data_encoding::HEXLOWER.encode(&secret));
    let options = Options { users: vec![user.clone()], buckets: vec![BUCKET.to_owned()], ..Options::default() };
    let server = Server::start(options).await.context("cannot start the embedded S3 server")?;
    println!("embedded S3 server     {}", server.endpoint());
    Ok((server.access(BUCKET, &user), server))
}

fn named(words: &cli::Try, endpoint: &str, bucket: &str, file: &std::path::Path) -> Result<Access> {
    let Credential::S3 { key_id, secret_key, session_token } = keys::s3_at(file)? else {
        anyhow::bail!("{} holds no S3 keys", file.display());
    };
    let ca_pem = words.ca_bundle.as_ref().map(std::fs::read_to_string).transpose().context("the CA bundle")?;
    println!("S3 store               {endpoint} {bucket}");
    Ok(Access {
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        bucket: bucket.to_owned(),
        region: words.region.clone(),
        key_id,
        secret: secret_key.expose().to_owned(),
        session_token: session_token.map(|token| token.expose().to_owned()),
        ca_pem,
    })
}
