//! The words of the stores file, and all that can be wrong with them.

mod hdfs;
mod kerberos;
mod nfs;
mod s3;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::kerberos::Authentication;
use self::shape::{prefix, store_name};
use super::{ControllerKey, Credentials, Deletion, Inline, Store, identities, location};
use crate::backend;
use crate::topology::{Domain, Residency, UNKNOWN, check_value};

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
    bucket: Option<String>,
    #[serde(default)]
    prefix: String,
    region: Option<String>,
    path_style: Option<bool>,
    ca_bundle: Option<PathBuf>,
    proxy: Option<String>,
    credentials: Option<Proof>,
    controller_credential: Option<PathBuf>,
    controller_user: Option<ControllerUser>,
    #[serde(default = "current")]
    deletion: Deletion,
    capacity: Option<String>,
    requester_pays: Option<bool>,
    sse_kms_key: Option<String>,
    storage_class: Option<String>,
    checksums: Option<backend::s3::Checksums>,
    name_nodes: Option<Vec<String>>,
    web_hdfs: Option<Vec<String>>,
    authentication: Option<Authentication>,
    realm: Option<String>,
    kdcs: Option<Vec<String>>,
    ticket_lifetime: Option<String>,
    groups: Option<BTreeMap<String, u32>>,
    options: Option<BTreeMap<String, String>>,
    server: Option<String>,
    export: Option<String>,
    port: Option<u16>,
    mount_port: Option<u16>,
    server_groups: Option<bool>,
    privileged_ports: Option<bool>,
    identities: Option<Vec<identities::Row>>,
    superusers: Option<Vec<String>>,
    #[serde(default)]
    limits: Limits,
    residency: Option<Residency>,
    inline: Option<Inline>,
    zone: Option<String>,
}

/// Whom the controller claims to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControllerUser {
    name: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    S3,
    Hdfs,
    Nfs,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::S3 => "s3",
            Kind::Hdfs => "hdfs",
            Kind::Nfs => "nfs",
        }
    }
}

/// What a mount of an S3 store brings.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Proof {
    Secret,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Limits {
    connections: Option<u32>,
    memory: String,
    requests_per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: None, memory: "4Gi".into(), requests_per_second: None }
    }
}

fn current() -> Deletion {
    Deletion::Current
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

/// What a store's words mean together.
fn understood(mut words: Words, base: &Path) -> Result<Store, String> {
    store_name(&words.name)?;
    words.check()?;
    prefix(&words.prefix)?;
    if let Some(zone) = &words.zone {
        check_value(Domain::Zone, zone).map_err(|why| why.to_string())?;
        if zone == UNKNOWN {
            return Err(format!("zone {UNKNOWN:?} stands for a node whose zone is not known: leave it out"));
        }
    }
    let memory =
        super::super::parameters::bytes(&words.limits.memory).map_err(|why| format!("limits.memory: {why}"))?;
    let capacity = words.capacity.as_deref().map(super::super::parameters::bytes).transpose();
    let capacity = capacity.map_err(|why| format!("capacity: {why}"))?;
    let (backend, credentials, controller_credential) = match words.backend {
        Kind::S3 => s3::store(&mut words, base)?,
        Kind::Hdfs => hdfs::store(&mut words, base)?,
        Kind::Nfs => nfs::store(&mut words)?,
    };
    Ok(Store {
        name: words.name,
        backend,
        credentials,
        controller_credential,
        deletion: words.deletion,
        capacity,
        memory,
        residency: words.residency,
        inline: words.inline,
        zone: words.zone,
    })
}

impl Words {
    /// The words that not every backend has, whether they are there, and who has them. Of `controllerCredential` each
    /// backend says by itself what to give instead.
    fn of_some(&self) -> [(&'static str, bool, &'static [Kind]); 29] {
        use Kind::{Hdfs, Nfs, S3};
        // A new word has to be put here, or below.
        let Words {
            name: _,
            backend: _,
            prefix: _,
            controller_credential: _,
            deletion: _,
            capacity: _,
            residency: _,
            inline: _,
            zone: _,
            endpoint,
            bucket,
            region,
            path_style,
            ca_bundle,
            proxy,
            credentials,
            controller_user,
            requester_pays,
            sse_kms_key,
            storage_class,
            checksums,
            name_nodes,
            web_hdfs,
            authentication,
            realm,
            kdcs,
            ticket_lifetime,
            groups,
            options,
            server,
            export,
            port,
            mount_port,
            server_groups,
            privileged_ports,
            identities,
            superusers,
            limits,
        } = self;
        let Limits { connections: _, memory: _, requests_per_second } = limits;
        [
            ("endpoint", endpoint.is_some(), &[S3]),
            ("bucket", bucket.is_some(), &[S3]),
            ("region", region.is_some(), &[S3]),
            ("pathStyle", path_style.is_some(), &[S3]),
            ("caBundle", ca_bundle.is_some(), &[S3, Hdfs]),
            ("proxy", proxy.is_some(), &[S3]),
            ("credentials", credentials.is_some(), &[S3]),
            ("requesterPays", requester_pays.is_some(), &[S3]),
            ("sseKmsKey", sse_kms_key.is_some(), &[S3]),
            ("storageClass", storage_class.is_some(), &[S3]),
            ("checksums", checksums.is_some(), &[S3]),
            ("limits.requestsPerSecond", requests_per_second.is_some(), &[S3]),
            ("nameNodes", name_nodes.is_some(), &[Hdfs]),
            ("webHdfs", web_hdfs.is_some(), &[Hdfs]),
            ("authentication", authentication.is_some(), &[Hdfs]),
            ("realm", realm.is_some(), &[Hdfs]),
            ("kdcs", kdcs.is_some(), &[Hdfs]),
            ("ticketLifetime", ticket_lifetime.is_some(), &[Hdfs]),
            ("groups", groups.is_some(), &[Hdfs]),
            ("options", options.is_some(), &[Hdfs]),
            ("server", server.is_some(), &[Nfs]),
            ("export", export.is_some(), &[Nfs]),
            ("port", port.is_some(), &[Nfs]),
            ("mountPort", mount_port.is_some(), &[Nfs]),
            ("serverGroups", server_groups.is_some(), &[Nfs]),
            ("privilegedPorts", privileged_ports.is_some(), &[Nfs]),
            ("identities", identities.is_some(), &[Hdfs, Nfs]),
            ("superusers", superusers.is_some(), &[Hdfs, Nfs]),
            ("controllerUser", controller_user.is_some(), &[Hdfs, Nfs]),
        ]
    }

    /// Refuses words of another backend.
    fn check(&self) -> Result<(), String> {
        match self.of_some().into_iter().find(|(_, is_there, whose)| *is_there && !whose.contains(&self.backend)) {
            Some((word, ..)) => {
                Err(format!("{word} means nothing to a store of backend {}: leave it out", self.backend.word()))
            }
            None => Ok(()),
        }
    }
}

/// How to reach a store, what its mounts bring, and what the controller acts with.
type Reached = (backend::Config, Credentials, Option<ControllerKey>);

/// Only S3 keeps versions of what was removed.
fn no_old_versions(backend: &str, deletion: Deletion) -> Result<(), String> {
    match deletion {
        Deletion::All => Err(format!(
            "deletion: all means nothing to a store of backend {backend}, which keeps no old versions: use current"
        )),
        Deletion::Current | Deletion::Keep => Ok(()),
    }
}

/// Whether one store's data is among the other's.
fn overlap(one: &Store, other: &Store) -> bool {
    let ((place, prefix), (other_place, other_prefix)) = (location(&one.backend), location(&other.backend));
    let below = |a: &str, b: &str| b.is_empty() || a == b || a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
    let same_place = match (&one.backend, &other.backend) {
        (backend::Config::Hdfs(one), backend::Config::Hdfs(other)) => {
            one.namenodes.iter().any(|address| other.namenodes.contains(address))
        }
        _ => place == other_place,
    };
    same_place && (below(&prefix, &other_prefix) || below(&other_prefix, &prefix))
}
