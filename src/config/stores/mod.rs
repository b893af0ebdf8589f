//! The stores file: what an administrator declares once. Users name stores; no request can set an endpoint.

mod identities;
mod inline;
mod live;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use identities::{Identities, Unlisted, User};
pub use inline::Inline;
pub use live::LiveStores;
pub use words::Invalid;

use crate::auth;
use crate::backend;
use crate::topology::Residency;

/// All stores of one file, checked as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Stores(BTreeMap<String, Store>);

/// One store.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// 1 to 32 bytes of `[a-z0-9-]`.
    pub name: String,
    /// How to reach it, without a credential.
    pub backend: backend::Config,
    /// What a mount must bring.
    pub credentials: Credentials,
    /// The controller's own credential. Without it the store serves static volumes only.
    pub controller_credential: Option<ControllerKey>,
    /// What DeleteVolume does where the StorageClass does not say.
    pub deletion: Deletion,
    /// The bytes that the limits of its volumes may have together; `None` for no bound.
    pub capacity: Option<u64>,
    /// The most that a volume's `memory` may ask for, in bytes.
    pub memory: u64,
    /// Where its data may be shown; everywhere without it. It may change: a publish asks what is in force then.
    pub residency: Option<Residency>,
    /// Which inline volumes it has; none without it.
    pub inline: Option<Inline>,
    /// The zone that it lies in, as nodes are told theirs: what goes to another one is counted apart.
    pub zone: Option<String>,
}

/// What the controller acts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerKey {
    /// What stands in a file that only the controller has.
    File(PathBuf),
    /// A user, by number or by name, which is a claim and no secret.
    User(auth::Credential),
}

/// What a mount of a store must bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A credential in the Secret of its request.
    Secret,
    /// Nothing: public data.
    None,
    /// A choice, where several are listed for its namespace.
    Listed(Identities),
    /// A principal with its keytab in the Secret of its request; where there is a table, one that it lists for the
    /// namespace by the principal's first name.
    Principal(Option<Identities>),
}

/// What DeleteVolume removes. Fixed in the record at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deletion {
    /// What is there now; a versioned bucket keeps its versions.
    Current,
    /// Versions, delete markers and unfinished uploads too.
    All,
    /// Nothing: the record stays as `kept`, and the path taken.
    Keep,
}

impl Stores {
    /// Reads a stores file. Paths in it are relative to `base`, its own directory.
    ///
    /// # Errors
    /// The first thing that is wrong, with line and column where the text itself is.
    pub fn parse(text: &str, base: &Path) -> Result<Stores, Invalid> {
        words::parse(text, base).map(Stores)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`Stores::parse`], and where the file cannot be read.
    pub fn load(path: &Path) -> Result<Stores, Invalid> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Invalid(format!("cannot read the stores file {}: {error}", path.display())))?;
        Stores::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// The store of that name.
    pub fn get(&self, name: &str) -> Option<&Store> {
        self.0.get(name)
    }

    /// Every store, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Store> {
        self.0.values()
    }

    /// The names, in order, for messages.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.0.keys().map(String::as_str).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

impl Store {
    /// A hash of where the data lies: backend, server, bucket or export, and prefix. It travels in `volume_context`, so
    /// that a volume is never mounted from somewhere else.
    pub fn location_hash(&self) -> String {
        let (place, prefix) = location(&self.backend);
        let parts: Vec<&str> = place.iter().map(String::as_str).chain([prefix.as_str()]).collect();
        let digest = Sha256::digest(serde_json::json!(parts).to_string());
        HEXLOWER.encode(&digest[..16])
    }
}

/// Where NFS usually listens, and where a portmapper usually says that it does.
const NFS_PORT: u16 = 2049;

/// Where a store lies, and the directory in it.
///
/// Of S3: the endpoint's host and port, where all of AWS is one, since bucket names are unique in it; the bucket; the
/// prefix. Of HDFS: the name nodes; the prefix. Of NFS: the server and its port; export and prefix as one path, since one export may lie in another.
fn location(config: &backend::Config) -> (Vec<String>, String) {
    match config {
        backend::Config::S3(config) => {
            let realm = config.endpoint.as_deref().and_then(|endpoint| url::Url::parse(endpoint).ok());
            let realm = realm.map_or_else(
                || "aws".to_owned(),
                |url| {
                    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default());
                    format!("{host}:{}", port.unwrap_or_default())
                },
            );
            (vec!["s3".into(), realm, config.bucket.clone()], config.prefix.clone())
        }
        backend::Config::Hdfs(config) => {
            let mut namenodes = config.namenodes.clone();
            namenodes.sort();
            (vec!["hdfs".into(), namenodes.join(",")], config.prefix.clone())
        }
        backend::Config::Nfs(config) => {
            let server = config.server.to_ascii_lowercase();
            let place = format!("{server}:{}", config.port.unwrap_or(NFS_PORT));
            let inside = format!("{}/{}", config.export, config.prefix);
            (vec!["nfs".into(), place], inside.trim_matches('/').to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
