//! The words of a store of backend hdfs.

use std::collections::BTreeMap;
use std::path::Path;

use super::kerberos::Login;
use super::shape::{ca_bundle, host_and_port, web_address};
use super::{ControllerUser, Reached, Words, no_old_versions};
use crate::auth;
use crate::backend::{self, hdfs};
use crate::config::stores::identities::{self, Controller};
use crate::config::stores::{ControllerKey, Credentials, Identities};

/// What hdfs-native understands and an administrator may want to set.
const OPTIONS: [&str; 4] = [
    "dfs.client.use.datanode.hostname",
    "dfs.client.block.write.replace-datanode-on-failure.enable",
    "dfs.client.block.write.replace-datanode-on-failure.policy",
    "dfs.client.block.write.replace-datanode-on-failure.best-effort",
];

pub(super) fn store(words: &mut Words, base: &Path) -> Result<Reached, String> {
    let kerberos = Login::of(words).realm()?;
    if kerberos.is_some() && words.controller_user.is_some() && words.controller_credential.is_none() {
        return Err(
            "controllerUser with authentication: kerberos says what HDFS calls the principal of controllerCredential, which \
             is missing: a file, or a mounted Secret, with principal and keytab"
                .into(),
        );
    }
    if kerberos.is_none() && words.controller_credential.is_some() {
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
    let connections = words.limits.connections.unwrap_or_else(hdfs::usual_connections);
    if connections == 0 {
        return Err("limits: connections must be at least 1".into());
    }
    let options = words.options.take().unwrap_or_default();
    if let Some(word) = options.keys().find(|word| !OPTIONS.contains(&word.as_str())) {
        return Err(format!("options: {word:?} is none that may be set here; those are {}", OPTIONS.join(", ")));
    }
    let rows = words.identities.take();
    if rows.is_none() && kerberos.is_none() {
        return Err(
            "identities is needed: HDFS without Kerberos believes whatever user it is told, so a table says which namespace \
             may act as whom"
                .into(),
        );
    }
    if rows.is_none() && words.superusers.is_some() {
        return Err("superusers means nothing without identities: add that, or leave it out".into());
    }
    let controller = words.controller_user.take().map(controller_by_name).transpose()?;
    let own = controller.as_ref().map(|(name, _)| Controller::Name(name));
    let identities = rows.map(|rows| Identities::new(rows, words.superusers.take(), own, true)).transpose()?;
    let mut users = BTreeMap::new();
    for user in identities.iter().flat_map(Identities::users) {
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
        kerberos,
        connections,
    };
    let controller = match words.controller_credential.take() {
        Some(path) => Some(ControllerKey::File(base.join(path))),
        None => controller.map(|(user, _)| ControllerKey::User(auth::Credential::Hadoop { user })),
    };
    let credentials = match (identities, &config.kerberos) {
        (Some(identities), None) => Credentials::Listed(identities),
        (identities, _) => Credentials::Principal(identities),
    };
    Ok((backend::Config::Hdfs(config), credentials, controller))
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
    match host_and_port(address) {
        true => Ok(address.to_ascii_lowercase()),
        false => {
            Err(format!("nameNodes: {address:?} is no host:port of a name node's RPC, such as nn1.example.org:8020"))
        }
    }
}
