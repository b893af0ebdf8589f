//! The S3 backend against servers.

mod answers;
mod fetching;
mod gateway;
mod reaching;
mod records;
mod scripted;
mod stores;
mod transport;
mod unheard;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::client::Client;
use super::{Checksums, Config};
use crate::auth::{Credential, Secret};
use crate::backend::contract::steps::*;
use crate::backend::{Attributes, Backend, Base, ErrorKind, Limits, Meta, Path, Result, Version, connect};

fn limits() -> Limits {
    Limits::alone(64 << 20, Duration::from_secs(20))
}

fn config(endpoint: &str) -> Config {
    Config { max_connections: 16, ..Config::at(endpoint, "bucket") }
}

fn keys(key_id: &str, secret: &str) -> Credential {
    Credential::S3 { key_id: key_id.into(), secret_key: Secret::new(secret.into()), session_token: None }
}
