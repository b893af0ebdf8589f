//! The S3 backend against servers.

mod answers;
mod fetching;
mod gateway;
mod reaching;
mod records;
mod scripted;
mod stores;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::client::Client;
use super::{Checksums, Config};
use crate::auth::{Credential, Secret};
use crate::backend::{
    Attributes, Backend, Base, CreateOptions, ErrorKind, Intent, Limits, Meta, Path, Result, Upload, Version, connect,
};
use crate::budget::Budget;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn limits() -> Limits {
    Limits { budget: Budget::new(64 << 20), timeout: Duration::from_secs(20).into() }
}

fn config(endpoint: &str) -> Config {
    Config { max_connections: 16, ..Config::at(endpoint, "bucket") }
}

fn keys(key_id: &str, secret: &str) -> Credential {
    Credential::S3 { key_id: key_id.into(), secret_key: Secret::new(secret.into()), session_token: None }
}

async fn content(store: &dyn Backend, version: &Version, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
    let body = store.read(version, range, Intent::Demand).await?;
    body.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    })
    .await
}

async fn begin(store: &dyn Backend, at: &str, base: Base) -> Box<dyn Upload> {
    store.create(&path(at), CreateOptions { base }).await.unwrap()
}

/// Bytes that differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

const MIB: usize = 1 << 20;
