//! The words of the stores file, and all that can be wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::{Credentials, Deletion, Inline, Store, location};
use crate::backend::{self, s3};
use crate::topology::Residency;

/// Why a stores file is refused: what, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    stores: Vec<Words>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Words {
    name: String,
    backend: Kind,
    endpoint: Option<String>,
    bucket: String,
    #[serde(default)]
    prefix: String,
    region: Option<String>,
    path_style: Option<bool>,
    ca_bundle: Option<PathBuf>,
    proxy: Option<String>,
    #[serde(default = "secret")]
    credentials: Credentials,
    controller_credential: Option<PathBuf>,
    #[serde(default = "current")]
    deletion: Deletion,
    capacity: Option<String>,
    #[serde(default)]
    requester_pays: bool,
    sse_kms_key: Option<String>,
    storage_class: Option<String>,
    #[serde(default = "supported")]
    checksums: s3::Checksums,
    #[serde(default)]
    limits: Limits,
    residency: Option<Residency>,
    inline: Option<Inline>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    S3,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Limits {
    connections: u32,
    memory: String,
    requests_per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 64, memory: "4Gi".into(), requests_per_second: None }
    }
}

fn secret() -> Credentials {
    Credentials::Secret
}

fn current() -> Deletion {
    Deletion::Current
}

fn supported() -> s3::Checksums {
    s3::Checksums::Supported
}

pub(super) fn parse(text: &str, base: &Path) -> Result<BTreeMap<String, Store>, Invalid> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| Invalid(format!("stores file: {error}")))?;
    let mut stores: BTreeMap<String, Store> = BTreeMap::new();
    for words in file.stores {
        let name = words.name.clone();
        let store = understood(words, base).map_err(|why| Invalid(format!("store {name:?}: {why}")))?;
        if let Some(other) = stores.values().find(|other| overlap(other, &store)) {
            return Err(Invalid(format!(
                "stores {:?} and {name:?} overlap: one lies inside the other, so one store's users could reach the \
                 other's volumes; give them prefixes of which neither begins with the other",
                other.name
            )));
        }
        if stores.insert(name.clone(), store).is_some() {
            return Err(Invalid(format!("store {name:?} stands there twice")));
        }
    }
    Ok(stores)
}

fn understood(words: Words, base: &Path) -> Result<Store, String> {
    let Kind::S3 = words.backend;
    store_name(&words.name)?;
    bucket_name(&words.bucket)?;
    prefix(&words.prefix)?;
    if let Some(endpoint) = &words.endpoint {
        web_address("endpoint", endpoint, &["http", "https"])?;
    }
    if let Some(proxy) = &words.proxy {
        web_address("proxy", proxy, &["http"])?;
    }
    if words.endpoint.is_none() && words.region.is_none() {
        return Err("region is needed where there is no endpoint".into());
    }
    if words.limits.connections == 0 || words.limits.requests_per_second == Some(0) {
        return Err("limits: connections and requestsPerSecond must be at least 1".into());
    }
    let memory =
        super::super::parameters::bytes(&words.limits.memory).map_err(|why| format!("limits.memory: {why}"))?;
    let capacity = words.capacity.as_deref().map(super::super::parameters::bytes).transpose();
    let capacity = capacity.map_err(|why| format!("capacity: {why}"))?;
    let ca_bundle = words.ca_bundle.map(|path| ca_bundle(&base.join(path))).transpose()?;
    Ok(Store {
        name: words.name,
        credentials: words.credentials,
        controller_credential: words.controller_credential.map(|path| base.join(path)),
        deletion: words.deletion,
        capacity,
        memory,
        residency: words.residency,
        inline: words.inline,
        backend: backend::Config::S3(s3::Config {
            path_style: words.path_style.unwrap_or(words.endpoint.is_some()),
            endpoint: words.endpoint,
            bucket: words.bucket,
            prefix: words.prefix,
            region: words.region.unwrap_or_else(|| "us-east-1".into()),
            ca_bundle,
            proxy: words.proxy,
            requester_pays: words.requester_pays,
            sse_kms_key: words.sse_kms_key,
            storage_class: words.storage_class,
            checksums: words.checksums,
            max_connections: words.limits.connections,
            requests_per_second: words.limits.requests_per_second,
        }),
    })
}

fn store_name(name: &str) -> Result<(), String> {
    let good = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good { Ok(()) } else { Err("a name is 1 to 32 of a-z, 0-9 and '-', not first or last".into()) }
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

fn prefix(prefix: &str) -> Result<(), String> {
    let path = backend::Path::parse(prefix)
        .map_err(|why| format!("prefix {prefix:?}: {why}; write segments joined by '/', without one at either end"))?;
    if path.names().any(|name| name.is_reserved()) {
        return Err(format!("prefix {prefix:?}: the name {:?} is the driver's own", backend::RESERVED));
    }
    Ok(())
}

fn web_address(word: &str, text: &str, schemes: &[&str]) -> Result<(), String> {
    let shape = format!("{word} must be {}://host[:port], nothing after it", schemes.join("|"));
    // The text is not repeated: an address may carry a password.
    let url = url::Url::parse(text).map_err(|why| format!("{shape} ({why})"))?;
    let bare = schemes.contains(&url.scheme())
        && url.host_str().is_some()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if bare { Ok(()) } else { Err(shape) }
}

fn ca_bundle(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).map_err(|why| format!("caBundle {shown}: {why}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(pem),
        Ok(_) => Err(format!("caBundle {shown} holds no certificate in PEM form")),
        Err(why) => Err(format!("caBundle {shown}: {why}")),
    }
}

/// Whether one store's keys are among the other's.
fn overlap(one: &Store, other: &Store) -> bool {
    let (backend::Config::S3(one), backend::Config::S3(other)) = (&one.backend, &other.backend);
    let ((realm, bucket, prefix), (other_realm, other_bucket, other_prefix)) = (location(one), location(other));
    let below = |a: &str, b: &str| b.is_empty() || a == b || a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
    realm == other_realm && bucket == other_bucket && (below(prefix, other_prefix) || below(other_prefix, prefix))
}
