//! The words of the stores file, and all that can be wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::identities::Controller;
use super::{ControllerKey, Credentials, Deletion, Identities, Inline, Store, identities, location};
use crate::auth;
use crate::backend::{self, hdfs, nfs, s3};
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
    checksums: Option<s3::Checksums>,
    name_nodes: Option<Vec<String>>,
    web_hdfs: Option<Vec<String>>,
    groups: Option<BTreeMap<String, u32>>,
    options: Option<BTreeMap<String, String>>,
    server: Option<String>,
    export: Option<String>,
    port: Option<u16>,
    mount_port: Option<u16>,
    server_groups: Option<bool>,
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

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    S3,
    Hdfs,
    Nfs,
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

fn understood(mut words: Words, base: &Path) -> Result<Store, String> {
    store_name(&words.name)?;
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
        Kind::S3 => s3_store(&mut words, base)?,
        Kind::Hdfs => hdfs_store(&mut words, base)?,
        Kind::Nfs => nfs_store(&mut words)?,
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

/// Refuses words of another backend.
fn foreign(backend: &str, words: &[(&str, bool)]) -> Result<(), String> {
    match words.iter().find(|(_, is_there)| *is_there) {
        Some((word, _)) => Err(format!("{word} means nothing to a store of backend {backend}: leave it out")),
        None => Ok(()),
    }
}

/// How to reach a store, what its mounts bring, and what the controller acts with.
type Reached = (backend::Config, Credentials, Option<ControllerKey>);

fn s3_store(words: &mut Words, base: &Path) -> Result<Reached, String> {
    foreign(
        "s3",
        &[
            ("server", words.server.is_some()),
            ("export", words.export.is_some()),
            ("port", words.port.is_some()),
            ("mountPort", words.mount_port.is_some()),
            ("serverGroups", words.server_groups.is_some()),
            ("identities", words.identities.is_some()),
            ("superusers", words.superusers.is_some()),
            ("nameNodes", words.name_nodes.is_some()),
            ("webHdfs", words.web_hdfs.is_some()),
            ("groups", words.groups.is_some()),
            ("options", words.options.is_some()),
            ("controllerUser", words.controller_user.is_some()),
        ],
    )?;
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

fn nfs_store(words: &mut Words) -> Result<Reached, String> {
    foreign(
        "nfs",
        &[
            ("endpoint", words.endpoint.is_some()),
            ("bucket", words.bucket.is_some()),
            ("region", words.region.is_some()),
            ("pathStyle", words.path_style.is_some()),
            ("caBundle", words.ca_bundle.is_some()),
            ("proxy", words.proxy.is_some()),
            ("credentials", words.credentials.is_some()),
            ("requesterPays", words.requester_pays.is_some()),
            ("sseKmsKey", words.sse_kms_key.is_some()),
            ("storageClass", words.storage_class.is_some()),
            ("checksums", words.checksums.is_some()),
            ("limits.requestsPerSecond", words.limits.requests_per_second.is_some()),
            ("nameNodes", words.name_nodes.is_some()),
            ("webHdfs", words.web_hdfs.is_some()),
            ("groups", words.groups.is_some()),
            ("options", words.options.is_some()),
        ],
    )?;
    if words.controller_credential.is_some() {
        return Err(
            "controllerCredential: an NFS server believes whatever user it is told, so that there is no secret; give \
             controllerUser: {uid, gid}"
                .into(),
        );
    }
    let server = words.server.take().ok_or("server is needed: the name or address of the NFS server")?;
    host(&server)?;
    let export = words.export.take().ok_or("export is needed: the exported directory, as the server names it")?;
    absolute("export", &export)?;
    if words.port == Some(0) || words.mount_port == Some(0) {
        return Err("port and mountPort are 1 to 65535; leave them out to ask the server's portmapper".into());
    }
    let connections = words.limits.connections.unwrap_or(4);
    if !(1..=nfs::MOST_CONNECTIONS).contains(&connections) {
        return Err(format!("limits: connections are 1 to {} for a store of backend nfs", nfs::MOST_CONNECTIONS));
    }
    let rows = words.identities.take().ok_or(
        "identities is needed: NFS believes whatever user it is told, so a table says which namespace may act as whom",
    )?;
    let server_groups = words.server_groups.unwrap_or_default();
    let controller = words.controller_user.take().map(controller_by_number).transpose()?;
    let own = controller.as_ref().map(|(uid, _)| Controller::Uid(*uid));
    let identities = Identities::new(rows, words.superusers.take(), own, server_groups)?;
    no_old_versions("nfs", words.deletion)?;
    let config = nfs::Config {
        server,
        export,
        prefix: std::mem::take(&mut words.prefix),
        port: words.port,
        mount_port: words.mount_port,
        connections,
        server_groups,
    };
    Ok((backend::Config::Nfs(config), Credentials::Listed(identities), controller.map(|(_, key)| key)))
}

fn no_old_versions(backend: &str, deletion: Deletion) -> Result<(), String> {
    match deletion {
        Deletion::All => Err(format!(
            "deletion: all means nothing to a store of backend {backend}, which keeps no old versions: use current"
        )),
        Deletion::Current | Deletion::Keep => Ok(()),
    }
}

fn controller_by_number(user: ControllerUser) -> Result<(u32, ControllerKey), String> {
    let ControllerUser { name: None, uid: Some(uid), gid: Some(gid), groups } = user else {
        return Err("controllerUser of a store of backend nfs has uid and gid, and no name".into());
    };
    let groups = groups.unwrap_or_default();
    if uid == u32::MAX || gid == u32::MAX {
        return Err("controllerUser: 4294967295 is nobody's number".into());
    }
    if groups.len() > nfs::MOST_GROUPS {
        return Err(format!(
            "controllerUser has {} groups, and AUTH_SYS has room for {}",
            groups.len(),
            nfs::MOST_GROUPS
        ));
    }
    Ok((uid, ControllerKey::User(auth::Credential::Sys { uid, gid, groups })))
}

/// Name, and the number that volumes of its own are shown by.
fn controller_by_name(user: ControllerUser) -> Result<(String, Option<u32>), String> {
    let ControllerUser { name: Some(name), uid, gid: None, groups: None } = user else {
        return Err(
            "controllerUser of a store of backend hdfs has a name, and a uid where volumes are to belong to it: HDFS finds \
             its groups by itself"
                .into(),
        );
    };
    identities::user_name(&name).map_err(|why| format!("controllerUser: {why}"))?;
    Ok((name, uid))
}

/// What hdfs-native understands and an administrator may want to set.
const OPTIONS: [&str; 4] = [
    "dfs.client.use.datanode.hostname",
    "dfs.client.block.write.replace-datanode-on-failure.enable",
    "dfs.client.block.write.replace-datanode-on-failure.policy",
    "dfs.client.block.write.replace-datanode-on-failure.best-effort",
];

fn hdfs_store(words: &mut Words, base: &Path) -> Result<Reached, String> {
    foreign(
        "hdfs",
        &[
            ("endpoint", words.endpoint.is_some()),
            ("bucket", words.bucket.is_some()),
            ("region", words.region.is_some()),
            ("pathStyle", words.path_style.is_some()),
            ("proxy", words.proxy.is_some()),
            ("credentials", words.credentials.is_some()),
            ("requesterPays", words.requester_pays.is_some()),
            ("sseKmsKey", words.sse_kms_key.is_some()),
            ("storageClass", words.storage_class.is_some()),
            ("checksums", words.checksums.is_some()),
            ("server", words.server.is_some()),
            ("export", words.export.is_some()),
            ("port", words.port.is_some()),
            ("mountPort", words.mount_port.is_some()),
            ("serverGroups", words.server_groups.is_some()),
            ("limits.connections", words.limits.connections.is_some()),
            ("limits.requestsPerSecond", words.limits.requests_per_second.is_some()),
        ],
    )?;
    if words.controller_credential.is_some() {
        return Err(
            "controllerCredential: HDFS without Kerberos believes whatever user it is told, so that there is no secret; give \
             controllerUser: {name}"
                .into(),
        );
    }
    no_old_versions("hdfs", words.deletion)?;
    if words.prefix.contains(':') {
        return Err(format!("prefix {:?}: HDFS takes no name with a colon", words.prefix));
    }
    let namenodes = words.name_nodes.take().unwrap_or_default();
    if namenodes.is_empty() {
        return Err("nameNodes is needed: host:port of each name node's RPC, such as [nn1.example.org:8020]".into());
    }
    let namenodes = namenodes.iter().map(|address| name_node(address)).collect::<Result<Vec<_>, _>>()?;
    if (1..namenodes.len()).any(|at| namenodes[..at].contains(&namenodes[at])) {
        return Err("nameNodes: one stands there twice".into());
    }
    let webhdfs = words.web_hdfs.take().unwrap_or_default();
    if webhdfs.is_empty() {
        return Err(
            "webHdfs is needed: where each name node serves HTTP, such as ['http://nn1.example.org:9870'], since file ids \
             come from there"
                .into(),
        );
    }
    for address in &webhdfs {
        web_address("webHdfs", address, &["http", "https"])?;
    }
    let options = words.options.take().unwrap_or_default();
    if let Some(word) = options.keys().find(|word| !OPTIONS.contains(&word.as_str())) {
        return Err(format!("options: {word:?} is none that may be set here; those are {}", OPTIONS.join(", ")));
    }
    let rows = words.identities.take().ok_or(
        "identities is needed: HDFS without Kerberos believes whatever user it is told, so a table says which namespace may \
         act as whom",
    )?;
    let controller = words.controller_user.take().map(controller_by_name).transpose()?;
    let own = controller.as_ref().map(|(name, _)| Controller::Name(name));
    let identities = Identities::new(rows, words.superusers.take(), own, true)?;
    let mut users = BTreeMap::new();
    for user in identities.users() {
        if !user.groups.is_empty() {
            return Err(format!(
                "identities: user {:?} has groups, and HDFS finds a user's groups by itself: leave them out",
                user.name
            ));
        }
        number("identities: user", &mut users, &user.name, user.uid)?;
    }
    if let Some((name, Some(uid))) = &controller {
        number("controllerUser", &mut users, name, *uid)?;
    }
    let mut groups = BTreeMap::new();
    for (name, gid) in words.groups.take().unwrap_or_default() {
        number("groups: group", &mut groups, &name, gid)?;
    }
    let config = hdfs::Config {
        namenodes,
        webhdfs: webhdfs.iter().map(|address| address.trim_end_matches('/').to_owned()).collect(),
        prefix: std::mem::take(&mut words.prefix),
        ca_bundle: words.ca_bundle.take().map(|path| ca_bundle(&base.join(path))).transpose()?,
        owners: hdfs::Owners { users, groups },
        options,
    };
    let controller = controller.map(|(user, _)| ControllerKey::User(auth::Credential::Hadoop { user }));
    Ok((backend::Config::Hdfs(config), Credentials::Listed(identities), controller))
}

/// Gives a name a number that no other has.
fn number(what: &str, numbers: &mut BTreeMap<String, u32>, name: &str, number: u32) -> Result<(), String> {
    if number == hdfs::NOBODY {
        return Err(format!("{what} {name:?} has number {number}, which stands for whoever is in no table"));
    }
    match numbers.iter().find(|(other, known)| (*other == name) != (**known == number)) {
        Some((other, known)) => Err(format!(
            "{what} {name:?} has number {number}, and {other:?} has {known}: a name has one number, and a number one name"
        )),
        None => {
            numbers.insert(name.to_owned(), number);
            Ok(())
        }
    }
}

/// `host:port` in lower case.
fn name_node(address: &str) -> Result<String, String> {
    let shape = || format!("nameNodes: {address:?} is no host:port of a name node's RPC, such as nn1.example.org:8020");
    let (name, port) = address.rsplit_once(':').ok_or_else(shape)?;
    host(name.trim_start_matches('[').trim_end_matches(']')).map_err(|_| shape())?;
    match port.parse::<u16>() {
        Ok(1..) => Ok(address.to_ascii_lowercase()),
        _ => Err(shape()),
    }
}

/// A name or address, without a port.
fn host(server: &str) -> Result<(), String> {
    let name = |text: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        (1..=253).contains(&text.len()) && text.bytes().all(inside)
    };
    match name(server) || server.parse::<std::net::Ipv6Addr>().is_ok() {
        true => Ok(()),
        false => Err(format!(
            "server {server:?} is a host name, an IPv4 address, or an IPv6 address without brackets; ports stand in port \
             and mountPort"
        )),
    }
}

/// An absolute path of plain segments; the root is one.
fn absolute(word: &str, path: &str) -> Result<(), String> {
    let rest = path.strip_prefix('/').ok_or_else(|| format!("{word} {path:?} is an absolute path"))?;
    backend::Path::parse(rest).map(drop).map_err(|why| format!("{word} {path:?}: {why}; no slash stands at its end"))
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
