//! The words of a store of backend nfs.

use super::shape::{absolute, host};
use super::{ControllerUser, Reached, Words, no_old_versions};
use crate::auth;
use crate::backend::{self, nfs};
use crate::config::stores::{ControllerKey, Credentials, Identities, identities::Controller};

pub(super) fn store(words: &mut Words) -> Result<Reached, String> {
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
        privileged_ports: words.privileged_ports.unwrap_or_default(),
    };
    Ok((backend::Config::Nfs(config), Credentials::Listed(identities), controller.map(|(_, key)| key)))
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
