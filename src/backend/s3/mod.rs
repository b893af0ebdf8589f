//! S3 as a backend.

mod assembly;
mod client;
mod connector;
mod direct;
mod error;
mod fetch;
mod keys;
mod list;
mod meter;
mod object;
mod packing;
mod reach;
mod read;
mod records;
mod removal;
mod rename;
mod schedule;
mod stale;
mod stat;
#[cfg(test)]
mod tests;
mod tree;
mod upload;

use std::ops::Range;
use std::sync::{Arc, Once};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use self::client::Client;
pub(super) use self::reach::reach;
pub(super) use self::records::S3Records;
use crate::auth;
use crate::backend::{
    Backend, CreateOptions, Entry, Fetched, Intent, Kind, Limits, Meta, Op, Path, RenameOptions, Result, Traits,
    Upload, Version,
};

/// How to reach a bucket, or a prefix of it: the administrator's words, no credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `http(s)://host[:port]`; `None` for AWS by region.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// The store's root inside the bucket, without leading or trailing slash; empty for the whole bucket.
    pub prefix: String,
    /// The region requests are signed for.
    pub region: String,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM certificates that are trusted instead of the system's.
    pub ca_bundle: Option<String>,
    /// `http://host[:port]` of a proxy (CONNECT for https).
    pub proxy: Option<String>,
    /// Sends `x-amz-request-payer: requester`.
    pub requester_pays: bool,
    /// Objects are written with SSE-KMS under this key.
    pub sse_kms_key: Option<String>,
    /// Storage class of written objects.
    pub storage_class: Option<String>,
    /// When request and response checksums are used.
    pub checksums: Checksums,
    /// Requests in flight at once.
    pub max_connections: u32,
    /// Requests a second; `None` for no limit.
    pub requests_per_second: Option<u32>,
}

impl Config {
    /// A whole bucket at an endpoint, addressed by path; everything else as a stores file leaves it out.
    pub fn at(endpoint: &str, bucket: &str) -> Config {
        Config {
            endpoint: Some(endpoint.to_owned()),
            bucket: bucket.to_owned(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            path_style: true,
            ca_bundle: None,
            proxy: None,
            requester_pays: false,
            sse_kms_key: None,
            storage_class: None,
            checksums: Checksums::Supported,
            max_connections: 64,
            requests_per_second: None,
        }
    }
}

/// When checksums beyond those that an operation demands are sent and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// Where the store can.
    Supported,
    /// Only where an operation demands one: for stores that do not know them.
    Required,
}

/// One volume of a bucket, used as one identity.
#[derive(Debug)]
pub(super) struct S3 {
    client: Arc<Client>,
    /// Old uploads are looked for once, by the first writer: a volume that is only read asks for nothing of the kind.
    swept: Once,
}

impl S3 {
    /// See [`crate::backend::connect`].
    pub(super) fn connect(config: &Config, credential: auth::Current, root: &Path, limits: Limits) -> Result<S3> {
        Ok(S3 { client: Arc::new(Client::new(config, credential, root, limits)?), swept: Once::new() })
    }
}

#[async_trait]
impl Backend for S3 {
    fn traits(&self) -> Traits {
        Traits {
            atomic_rename: false,
            real_directories: false,
            exact_versions: true,
            read_proves_path: true,
            own_permissions: false,
            append: false,
            random_write: false,
            hard_links: false,
            largest_file: self.client.schedule().largest(),
        }
    }

    async fn stat(&self, path: &Path) -> Result<Meta> {
        stat::stat(&self.client, path, Op::Stat).await
    }

    fn list(&self, dir: &Path) -> BoxStream<'static, Result<Entry>> {
        list::list(self.client.clone(), dir)
    }

    async fn read(&self, file: &Version, range: Range<u64>, why: Intent) -> Result<BoxStream<'static, Result<Bytes>>> {
        read::read(self.client.clone(), file, range, why).await
    }

    async fn fetch(&self, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
        fetch::fetch(&self.client, path, longest, known).await
    }

    async fn create(&self, path: &Path, how: CreateOptions) -> Result<Box<dyn Upload>> {
        self.swept.call_once(|| {
            let client = self.client.clone();
            tokio::spawn(async move {
                match stale::abort(&client, stale::AGE).await {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "aborted uploads that nobody has gone on with for a week"),
                    // Who may write may not always list uploads.
                    Err(failure) => tracing::debug!(code = failure.code, "old uploads cannot be looked for"),
                }
            });
        });
        Ok(Box::new(upload::Writer::new(self.client.clone(), path, &how)?))
    }

    async fn make_dir(&self, path: &Path) -> Result<Meta> {
        tree::make(&self.client, path).await
    }

    async fn remove(&self, path: &Path, kind: Kind) -> Result<()> {
        Box::pin(tree::remove(&self.client, path, kind)).await
    }

    async fn rename(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
        Box::pin(rename::rename(&self.client, from, to, how)).await
    }
}
