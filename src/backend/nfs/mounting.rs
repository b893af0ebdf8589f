//! From the administrator's words to an export's root: portmapper (RFC 1833, version 2), MOUNT (RFC 1813, appendix I)
//! and FSINFO.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use nfs3_types::nfs3::{self as wire, nfs_fh3, nfsstat3};
use nfs3_types::xdr_codec::{Opaque, Pack};
use nfs3_types::{mount, portmap};

use super::Config;
use super::calls::{Outcome, Server};
use super::error::Failure;
use super::privileged::{Dialer, Service};
use super::rpc::{Address, Call, Client, Credential, Refusal, Trouble};
use crate::backend::ErrorKind;
use crate::tunable::Span;

/// The longest that any one question on the way may take: who publishes a volume waits for the answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// And the one whether a server without a MOUNT service speaks another version of NFS.
const NEWER: Duration = Duration::from_secs(2);

/// What moves in one READ or WRITE at most, whatever the server prefers.
const LARGEST_TRANSFER: u32 = 1 << 20;

/// What moves in one READ or WRITE where the server prefers less: every server must take this much.
const SMALLEST_TRANSFER: u32 = 8 << 10;

/// What many a server means by refusing a mount.
const WANTS_PRIVILEGED: &str = "a server that takes calls from privileged ports alone says so too: set privilegedPorts: true in the stores file then";

/// AUTH_NONE and AUTH_SYS.
const FLAVORS: [u32; 2] = [0, 1];

/// Longer lists of flavors are not looked at.
const MOST_FLAVORS: u32 = 64;

/// A server whose export is open to this principal.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) server: Server,
    /// The export's own directory.
    pub(super) root: nfs_fh3,
    /// Bytes of one READ.
    pub(super) read_size: u32,
    /// Bytes of one WRITE.
    pub(super) write_size: u32,
}

/// Finds the server, and asks it for the export's root.
///
/// `dialer` makes the connections where the server wants privileged source ports.
pub(super) async fn mounted(
    config: &Config,
    credential: &Credential,
    dialer: Option<&Arc<dyn Dialer>>,
    timeout: &Span,
) -> Outcome<Mounted> {
    let patience = timeout.get().min(PATIENCE);
    let client = |service, port, connections| {
        let dialer = dialer.map(|dialer| (dialer.clone(), service));
        Client::by(dialer, &at(config, port), credential, connections)
    };
    let mount_port = port_of(config, Service::Mount, patience).await?;
    let mounting = client(Service::Mount, mount_port, 1);
    let root = match root_of(config, mount_port, &mounting, patience).await {
        // A server that speaks only NFSv4 has no MOUNT service.
        Err(failure) if failure.kind == ErrorKind::Unavailable => Err(newer_only(config).await.unwrap_or(failure)),
        root => root,
    }?;
    drop(mounting);
    let port = port_of(config, Service::Nfs, patience).await?;
    let server = Server::new(client(Service::Nfs, port, config.connections as usize), timeout.clone());
    let asked = tokio::time::timeout(patience, server.fsinfo(&root)).await;
    let info = asked.unwrap_or_else(|_| Err(Trouble::Late(patience, None).into())).map_err(|failure| {
        let at = at(config, port);
        match failure.status {
            Some(nfsstat3::NFS3ERR_PERM | nfsstat3::NFS3ERR_ACCES) if !config.privileged_ports => {
                Failure::new(ErrorKind::Misconfigured, format!("NFS at {at}: {failure}; {WANTS_PRIVILEGED}"))
            }
            _ => Failure { message: format!("NFS at {at}: {failure}"), ..failure },
        }
    })?;
    let size = |preferred: u32, most: u32| {
        let preferred = if preferred == 0 { most } else { preferred };
        preferred.clamp(SMALLEST_TRANSFER, LARGEST_TRANSFER)
    };
    Ok(Mounted { server, root, read_size: size(info.rtpref, info.rtmax), write_size: size(info.wtpref, info.wtmax) })
}

/// Asks without a credential whether NFSv3 is served there.
pub(super) async fn answers(config: &Config, patience: Duration) -> Outcome<()> {
    let asking = async {
        let port = port_of(config, Service::Nfs, patience).await?;
        let address = at(config, port);
        let call = Call { procedure: (wire::PROGRAM, wire::VERSION, 0), arguments: Vec::new(), data: Bytes::new() };
        let answer = Client::new(&address, &Credential::None, 1).call(&call, patience).await;
        answer.map(drop).map_err(|trouble| {
            let message = format!("NFS at {address}: {trouble}");
            Failure { message, ..Failure::from(trouble) }
        })
    };
    let late = |_| Err(Trouble::Late(patience, None).into());
    tokio::time::timeout(patience, asking).await.unwrap_or_else(late)
}

/// How the server says that it speaks NFSv4 alone, where it does.
async fn newer_only(config: &Config) -> Option<Failure> {
    let address = at(config, config.port?);
    let call = Call { procedure: (wire::PROGRAM, wire::VERSION, 0), arguments: Vec::new(), data: Bytes::new() };
    match Client::new(&address, &Credential::None, 1).call(&call, NEWER).await {
        Err(trouble @ Trouble::Refused(Refusal::Versions(low, _))) if low > wire::VERSION => {
            let message = format!(
                "NFS at {address}: {trouble}: this driver speaks NFSv3, and a server that speaks only NFSv4 cannot be used"
            );
            Some(Failure { message, ..Failure::from(trouble) })
        }
        _ => None,
    }
}

fn at(config: &Config, port: u16) -> Address {
    Address { host: config.server.clone(), port }
}

/// Where a service listens: as the administrator says, or else the server's portmapper.
pub(super) async fn port_of(config: &Config, service: Service, patience: Duration) -> Outcome<u16> {
    let (port, program, name) = match service {
        Service::Mount => (config.mount_port, (mount::PROGRAM, mount::VERSION), "MOUNT"),
        Service::Nfs => (config.port, (wire::PROGRAM, wire::VERSION), "NFS"),
    };
    match port {
        Some(port) => Ok(port),
        None => mapped(config, program, name, patience).await,
    }
}

async fn mapped(config: &Config, program: (u32, u32), name: &str, patience: Duration) -> Outcome<u16> {
    let address = at(config, portmap::PMAP_PORT);
    let asked = portmap::mapping { prog: program.0, vers: program.1, prot: portmap::IPPROTO_TCP, port: 0 };
    let mut arguments = Vec::new();
    asked.pack(&mut arguments)?;
    let procedure = (portmap::PROGRAM, portmap::VERSION, portmap::PMAP_PROG::PMAPPROC_GETPORT as u32);
    let call = Call { procedure, arguments, data: Bytes::new() };
    let portmapper = Client::new(&address, &Credential::None, 1);
    let answer = portmapper.call(&call, patience).await.map_err(|trouble| {
        let kind = Failure::from(trouble.clone()).kind;
        let mend = "give port and mountPort in the stores file where the server has no portmapper";
        Failure::new(kind, format!("the portmapper at {address}: {trouble}; {mend}"))
    });
    match answer?.results.try_get_u32().map(u16::try_from) {
        Ok(Ok(0)) => Err(Failure::new(
            ErrorKind::Misconfigured,
            format!(
                "the portmapper at {address} knows of no {name} in version 3 over TCP: this driver speaks NFSv3, and a \
                 server that speaks only NFSv4 cannot be used"
            ),
        )),
        Ok(Ok(port)) => Ok(port),
        _ => Err(Failure::corrupt(format!("the portmapper at {address} did not answer with a port"))),
    }
}

/// Asks the MOUNT service for the root of the export.
async fn root_of(config: &Config, port: u16, client: &Client, patience: Duration) -> Outcome<nfs_fh3> {
    let (address, export) = (at(config, port), &config.export);
    let mut arguments = Vec::new();
    Opaque::borrowed(export.as_bytes()).pack(&mut arguments)?;
    let procedure = (mount::PROGRAM, mount::VERSION, mount::MOUNT_PROGRAM::MOUNTPROC3_MNT as u32);
    let call = Call { procedure, arguments, data: Bytes::new() };
    let answer = client.call(&call, patience).await;
    let mut results = answer.map_err(|trouble| unserved(&address, trouble))?.results;
    let odd = |_| Failure::corrupt("the MOUNT service's answer cannot be understood");
    let refused =
        |kind, why: &str| Err(Failure::new(kind, format!("the server at {address}: export {export:?}: {why}")));
    match results.try_get_u32().map_err(odd)? {
        0 => {}
        2 => return refused(ErrorKind::Misconfigured, "there is no such export (MNT3ERR_NOENT)"),
        20 => return refused(ErrorKind::Misconfigured, "it is no directory (MNT3ERR_NOTDIR)"),
        1 | 13 => {
            // Whoever asks: no user is named here.
            let why = "the server does not let this machine mount it (MNT3ERR_ACCES)";
            let hint = if config.privileged_ports { String::new() } else { format!("; {WANTS_PRIVILEGED}") };
            return refused(ErrorKind::Misconfigured, &format!("{why}{hint}"));
        }
        10004 | 10006 => return refused(ErrorKind::Unavailable, "the server cannot mount it now"),
        status => return refused(ErrorKind::Other, &format!("MOUNT status {status}")),
    }
    let length = results.try_get_u32().map_err(odd)? as usize;
    if length > wire::NFS3_FHSIZE || results.len() < length.next_multiple_of(4) {
        return Err(Failure::corrupt("the MOUNT service's answer has no file handle"));
    }
    let root = nfs_fh3 { data: Opaque::owned(results[..length].to_vec()) };
    results.advance(length.next_multiple_of(4));
    let count = results.try_get_u32().map_err(odd)?.min(MOST_FLAVORS);
    let flavors: Vec<u32> = (0..count).map_while(|_| results.try_get_u32().ok()).collect();
    if !flavors.is_empty() && !flavors.iter().any(|flavor| FLAVORS.contains(flavor)) {
        let why =
            "it is exported with other security than AUTH_SYS (such as sec=krb5), which this driver does not speak";
        return refused(ErrorKind::Misconfigured, why);
    }
    Ok(root)
}

fn unserved(address: &Address, trouble: Trouble) -> Failure {
    let message = match &trouble {
        Trouble::Refused(Refusal::NoProgram | Refusal::Versions(..)) => format!(
            "{address} serves no MOUNT in version 3 ({trouble}): this driver speaks NFSv3, and a server that speaks only \
             NFSv4 cannot be used"
        ),
        _ => format!("the MOUNT service at {address}: {trouble}"),
    };
    Failure { message, ..Failure::from(trouble) }
}
