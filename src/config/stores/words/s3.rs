//! The words of a store of backend s3.

use std::path::Path;

use super::shape::{ca_bundle, web_address};
use super::{Proof, Reached, Words};
use crate::backend::{self, s3};
use crate::config::stores::{ControllerKey, Credentials};

pub(super) fn store(words: &mut Words, base: &Path) -> Result<Reached, String> {
    let bucket = words.bucket.take().ok_or("bucket is needed")?;
    bucket_name(&bucket)?;
    if let Some(endpoint) = &words.endpoint {
        web_address("endpoint", endpoint, &["http", "https"])?;
    }
    if let Some(proxy) = &words.proxy {
        web_address("proxy", proxy, &["http"])?;
    }
    if words.endpoint.is_none() && words.region.is_none() {
        return Err("region is needed where there is no endpoint".into());
    }
    let connections = words.limits.connections.unwrap_or(64);
    if connections == 0 || words.limits.requests_per_second == Some(0) {
        return Err("limits: connections and requestsPerSecond must be at least 1".into());
    }
    let ca_bundle = words.ca_bundle.take().map(|path| ca_bundle(&base.join(path))).transpose()?;
    let credentials = match words.credentials.take() {
        Some(Proof::None) => Credentials::None,
        Some(Proof::Secret) | None => Credentials::Secret,
    };
    let config = s3::Config {
        path_style: words.path_style.unwrap_or(words.endpoint.is_some()),
        endpoint: words.endpoint.take(),
        bucket,
        prefix: std::mem::take(&mut words.prefix),
        region: words.region.take().unwrap_or_else(|| "us-east-1".into()),
        ca_bundle,
        proxy: words.proxy.take(),
        requester_pays: words.requester_pays.unwrap_or_default(),
        sse_kms_key: words.sse_kms_key.take(),
        storage_class: words.storage_class.take(),
        checksums: words.checksums.unwrap_or(s3::Checksums::Supported),
        max_connections: connections,
        requests_per_second: words.limits.requests_per_second,
    };
    let controller = words.controller_credential.take().map(|path| ControllerKey::File(base.join(path)));
    Ok((backend::Config::S3(config), credentials, controller))
}

/// The rules for general purpose buckets, without those that only AWS enforces on creation.
fn bucket_name(bucket: &str) -> Result<(), String> {
    if bucket.ends_with("--x-s3") {
        return Err(format!(
            "bucket {bucket:?} is a directory bucket, whose lists are not sorted; use a general purpose bucket"
        ));
    }
    let good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_'));
    if good { Ok(()) } else { Err(format!("bucket {bucket:?}: 3 to 63 of a-z, 0-9, '-' and '.'")) }
}
