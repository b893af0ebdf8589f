//! The yardstick of a mount's processor time: small files whole, by the driver's own client and nothing above it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use millrace::auth::{Credential, Secret};
use millrace::backend::s3::Config as S3;
use millrace::backend::{self, Backend, Fetched, Limits, Path};

use super::origin::{ACCESS_KEY, BUCKET, KEY_ID, Origin};
use super::raw::Client;

/// What the client may hold, in bytes: it is never what is short.
const MEMORY: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// The driver's own client of a folder. It fetches files whole, whatever range of them is asked.
pub(crate) struct Own(Arc<dyn Backend>);

impl Own {
    /// With so many connections.
    pub(crate) fn new(origin: &Origin, folder: &str, connections: u32) -> Result<Own> {
        let store = backend::Config::S3(S3 {
            max_connections: connections,
            ca_bundle: origin.ca_pem.clone(),
            ..S3::at(&origin.endpoint, BUCKET)
        });
        let credential =
            Credential::S3 { key_id: KEY_ID.into(), secret_key: Secret::new(ACCESS_KEY.into()), session_token: None };
        let limits = Limits::alone(MEMORY, PATIENCE);
        Ok(Own(backend::connect(&store, &credential, &Path::parse(folder)?, limits)?))
    }
}

#[async_trait]
impl Client for Own {
    async fn get(&self, name: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let Fetched::New { bytes, .. } = self.0.fetch(&Path::parse(name)?, range.end, None).await? else {
            bail!("{name} was known before it was fetched");
        };
        Ok(stream::once(async { Ok(bytes) }).boxed())
    }
}
