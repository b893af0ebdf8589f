//! `millrace check-config`: what the driver understands of a stores file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::bail;

use crate::auth::Credential;
use crate::backend::records::apart::Clerks;
use crate::backend::{self, hdfs, nfs, s3};
use crate::cli::CheckConfig;
use crate::config::stores::{ControllerKey, Credentials, Deletion, Store, Stores};
use crate::csi::volumes::{controller_credential, records};

/// Prints every store of the file.
///
/// # Errors
/// What is wrong with the file; with `--connect`, that a store does not let its controller credential in.
pub(super) async fn run(words: &CheckConfig, clerks: &Clerks) -> anyhow::Result<()> {
    let stores = Stores::load(&words.file)?;
    let mut out = std::io::stdout().lock();
    check(&mut out, &stores, words.connect, Some(clerks)).await?;
    writeln!(out, "{}: as it should be", words.file.display())?;
    Ok(out.flush()?)
}

async fn check(out: &mut dyn Write, stores: &Stores, connect: bool, clerks: Option<&Clerks>) -> anyhow::Result<()> {
    let mut bad = Vec::new();
    for store in stores.iter() {
        describe(out, store)?;
        if !connect || store.controller_credential.is_none() {
            continue;
        }
        let condition = match store.backend {
            backend::Config::S3(_) => "If-None-Match",
            backend::Config::Nfs(_) => "exclusive LINK",
            backend::Config::Hdfs(_) => "exclusive rename",
        };
        match proved(store, clerks).await {
            Ok((excludes, exposure)) => {
                let replicas = if excludes { "honoured: several controllers may run" } else { ONE_REPLICA };
                row(out, condition, replicas)?;
                if let Some(why) = exposure {
                    row(out, "WARNING", &why)?;
                }
            }
            Err(error) => bad.push(format!("store {:?}: {error:#}", store.name)),
        }
    }
    if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join("\n")) }
}

const ONE_REPLICA: &str = "IGNORED: run one replica of the controller only";

/// Whether the store keeps two controllers apart, and why users could change what the controller rests on.
async fn proved(store: &Store, clerks: Option<&Clerks>) -> anyhow::Result<(bool, Option<String>)> {
    let records = records(store, clerks)?;
    Ok((records.excludes().await?, records.exposure().await?))
}

fn row(out: &mut dyn Write, word: &str, value: &str) -> std::io::Result<()> {
    writeln!(out, "  {word:<22}{value}")
}

fn describe(out: &mut dyn Write, store: &Store) -> anyhow::Result<()> {
    writeln!(out, "store {}", store.name)?;
    match &store.backend {
        backend::Config::S3(config) => describe_s3(out, store, config)?,
        backend::Config::Hdfs(config) => describe_hdfs(out, store, config)?,
        backend::Config::Nfs(config) => describe_nfs(out, store, config)?,
    }
    row(out, "memory", &format!("at most {} MiB a volume", store.memory >> 20))?;
    let capacity = store.capacity.map(|bytes| format!("{} MiB for the limits of its volumes together", bytes >> 20));
    row(out, "capacity", &or(&capacity, "no bound"))?;
    let residency = store.residency.as_ref().map(ToString::to_string);
    row(out, "residency", &or(&residency, "none: shown on every node"))?;
    let inline = store.inline.as_ref().map(ToString::to_string);
    row(out, "inline volumes", &or(&inline, "none"))?;
    row(out, "location hash", &store.location_hash())?;
    Ok(())
}

fn or(value: &Option<String>, otherwise: &str) -> String {
    value.clone().unwrap_or_else(|| otherwise.to_owned())
}

fn describe_hdfs(out: &mut dyn Write, store: &Store, config: &hdfs::Config) -> anyhow::Result<()> {
    let backend = match config.kerberos {
        Some(_) => "hdfs: with Kerberos, so that everybody proves who he is",
        None => "hdfs: without Kerberos, so that nobody proves who he is",
    };
    row(out, "backend", backend)?;
    if let Some(realm) = &config.kerberos {
        row(out, "realm", &realm.name)?;
        row(out, "KDCs", &realm.kdcs.join(", "))?;
        row(out, "ticket lifetime", &format!("{} s at most", realm.ticket_lifetime.as_secs()))?;
    }
    row(out, "name nodes", &config.namenodes.join(", "))?;
    row(out, "WebHDFS", &config.webhdfs.join(", "))?;
    row(out, "prefix", if config.prefix.is_empty() { "none: the whole file system" } else { &config.prefix })?;
    row(out, "CA bundle", ca_bundle(config.ca_bundle.as_ref()))?;
    let options: Vec<String> = config.options.iter().map(|(word, value)| format!("{word}={value}")).collect();
    row(out, "connections", &format!("{} a mount", config.connections))?;
    row(out, "options", if options.is_empty() { "none".into() } else { options.join(", ") }.as_str())?;
    let groups: Vec<String> = config.owners.groups.iter().map(|(name, gid)| format!("{name} ({gid})")).collect();
    row(out, "groups", if groups.is_empty() { "none by number".into() } else { groups.join(", ") }.as_str())?;
    describe_identities(out, store)?;
    row(out, "controller user", &credential(store))?;
    row(out, "deletion", deletion(store))?;
    Ok(())
}

fn describe_identities(out: &mut dyn Write, store: &Store) -> anyhow::Result<()> {
    let said = match &store.credentials {
        Credentials::Listed(identities) | Credentials::Principal(Some(identities)) => identities.to_string(),
        Credentials::Principal(None) => "whomever the KDC knows".to_owned(),
        Credentials::Secret | Credentials::None => return Ok(()),
    };
    row(out, "identities", &said)?;
    Ok(())
}

fn ca_bundle(own: Option<&String>) -> &'static str {
    if own.is_some() { "its own, instead of the system's" } else { "the system's" }
}

fn describe_nfs(out: &mut dyn Write, store: &Store, config: &nfs::Config) -> anyhow::Result<()> {
    let port = |port: Option<u16>| port.map_or_else(|| "asked of the portmapper".to_owned(), |port| port.to_string());
    row(out, "backend", "nfs: NFSv3 over TCP, neither encrypted nor authenticated")?;
    row(out, "server", &config.server)?;
    row(out, "export", &config.export)?;
    row(out, "prefix", if config.prefix.is_empty() { "none: the whole export" } else { &config.prefix })?;
    row(out, "NFS port", &port(config.port))?;
    row(out, "MOUNT port", &port(config.mount_port))?;
    row(out, "connections", &format!("{} a mount", config.connections))?;
    row(out, "source ports", if config.privileged_ports { "privileged" } else { "any" })?;
    row(out, "groups", if config.server_groups { "the server's own" } else { "those of the table below" })?;
    describe_identities(out, store)?;
    row(out, "controller user", &credential(store))?;
    row(out, "deletion", deletion(store))?;
    Ok(())
}

fn describe_s3(out: &mut dyn Write, store: &Store, config: &s3::Config) -> anyhow::Result<()> {
    let s3::Config { region, path_style, max_connections, requests_per_second, .. } = config;
    let style = if *path_style { "bucket in the path" } else { "bucket in the host name" };
    let rate = requests_per_second.map_or_else(|| "as many as go".to_owned(), |rate| rate.to_string());
    row(out, "backend", "s3")?;
    row(out, "endpoint", &format!("{}, {style}", or(&config.endpoint, &format!("AWS, {region}"))))?;
    row(out, "region", region)?;
    row(out, "bucket", &config.bucket)?;
    row(out, "prefix", if config.prefix.is_empty() { "none: the whole bucket" } else { &config.prefix })?;
    row(out, "CA bundle", ca_bundle(config.ca_bundle.as_ref()))?;
    row(out, "proxy", &or(&config.proxy, "none"))?;
    row(
        out,
        "credentials",
        match &store.credentials {
            Credentials::Secret => "secret: each publish brings its own",
            Credentials::None => "none: public data",
            Credentials::Listed(_) | Credentials::Principal(_) => "of another backend",
        },
    )?;
    row(out, "controller credential", &credential(store))?;
    row(out, "deletion", deletion(store))?;
    row(out, "requester pays", if config.requester_pays { "yes" } else { "no" })?;
    row(out, "SSE-KMS key", &or(&config.sse_kms_key, "none"))?;
    row(out, "storage class", &or(&config.storage_class, "the bucket's"))?;
    row(
        out,
        "checksums",
        match config.checksums {
            s3::Checksums::Supported => "supported: where the store can",
            s3::Checksums::Required => "required: only where an operation demands one",
        },
    )?;
    row(out, "connections", &max_connections.to_string())?;
    row(out, "requests a second", &rate)?;
    Ok(())
}

/// What can be said of the controller's own key from here, where it need not be mounted.
fn credential(store: &Store) -> String {
    let path = match &store.controller_credential {
        None => return "none: static volumes only".to_owned(),
        Some(ControllerKey::User(credential)) => return user(credential),
        Some(ControllerKey::File(path)) => path,
    };
    match controller_credential(store) {
        Ok(_) if exposed(path) => format!("{}, WHICH EVERYBODY ON THIS MACHINE MAY READ: chmod o-r", path.display()),
        Ok(_) => path.display().to_string(),
        Err(error) => format!("not readable here: {error}"),
    }
}

fn user(credential: &Credential) -> String {
    match credential {
        Credential::Sys { uid, gid, .. } => format!("uid {uid} and gid {gid}, as which no volume is used"),
        Credential::Hadoop { user } => format!("{user}, as which no volume is used"),
        Credential::Anonymous | Credential::S3 { .. } | Credential::Kerberos { .. } | Credential::Delegation { .. } => {
            "of another kind of store".to_owned()
        }
    }
}

fn deletion(store: &Store) -> &'static str {
    match store.deletion {
        Deletion::Current => "current: DeleteVolume keeps old versions, where the store has such",
        Deletion::All => "all: DeleteVolume removes old versions too",
        Deletion::Keep => "keep: DeleteVolume leaves everything",
    }
}

/// A file that others may read. A mounted Secret is a directory, and its mode is the cluster's affair.
fn exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::s3::{Fault, Options, Rule, Server, User};

    async fn said(text: &str, base: &Path, connect: bool) -> (String, anyhow::Result<()>) {
        let mut out = Vec::new();
        let outcome = check(&mut out, &Stores::parse(text, base).unwrap(), connect, None).await;
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[tokio::test]
    async fn a_store_is_told_as_it_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let user = User::new("canary-id", "canary-secret");
        let options = Options { users: vec![user], buckets: vec!["data".into()], ..Options::default() };
        let server = Server::start(options).await.unwrap();
        let key = dir.path().join("key.yaml");
        fs::write(&key, "{key_id: canary-id, access_key: canary-secret}").unwrap();
        fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let endpoint = server.endpoint();
        let text = format!(
            "stores: [{{name: lake, backend: s3, endpoint: '{endpoint}', bucket: data, prefix: a/b, deletion: keep, \
             controllerCredential: key.yaml}}]"
        );

        let (out, outcome) = said(&text, dir.path(), true).await;
        outcome.unwrap();
        for word in ["store lake", &endpoint, "a/b", "keep:", "secret:", "EVERYBODY", "If-None-Match         honoured"]
        {
            assert!(out.contains(word), "{word}: {out}");
        }
        assert!(!out.contains("canary"), "{out}");

        server.faults().add(Rule::any(Fault::IgnoreConditions).always());
        assert!(said(&text, dir.path(), true).await.0.contains("IGNORED"));
        assert!(!said(&text, dir.path(), false).await.0.contains("If-None-Match"));

        fs::write(&key, "{key_id: canary-id, access_key: canary-wrong}").unwrap();
        let error = said(&text, dir.path(), true).await.1.unwrap_err().to_string();
        assert!(error.contains("store \"lake\"") && !error.contains("canary"), "{error}");
    }
}
