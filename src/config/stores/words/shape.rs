//! What a word must look like, whichever backend it is for.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::backend;

/// The name of a store, which begins the ids of its volumes.
pub(super) fn store_name(name: &str) -> Result<(), String> {
    let good = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good { Ok(()) } else { Err("a name is 1 to 32 of a-z, 0-9 and '-', not first or last".into()) }
}

pub(super) fn prefix(prefix: &str) -> Result<(), String> {
    let path = backend::Path::parse(prefix)
        .map_err(|why| format!("prefix {prefix:?}: {why}; write segments joined by '/', without one at either end"))?;
    if path.names().any(|name| name.is_reserved()) {
        return Err(format!("prefix {prefix:?}: the name {:?} is the driver's own", backend::RESERVED));
    }
    Ok(())
}

/// A name or address, without a port.
pub(super) fn host(server: &str) -> Result<(), String> {
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

/// Whether it is a name or address with a port.
pub(super) fn host_and_port(address: &str) -> bool {
    let is_name = |name: &str| host(name.trim_start_matches('[').trim_end_matches(']')).is_ok();
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    address.rsplit_once(':').is_some_and(|(name, port)| is_name(name) && is_port(port))
}

/// An absolute path of plain segments; the root is one.
pub(super) fn absolute(word: &str, path: &str) -> Result<(), String> {
    let rest = path.strip_prefix('/').ok_or_else(|| format!("{word} {path:?} is an absolute path"))?;
    backend::Path::parse(rest).map(drop).map_err(|why| format!("{word} {path:?}: {why}; no slash stands at its end"))
}

pub(super) fn web_address(word: &str, text: &str, schemes: &[&str]) -> Result<(), String> {
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

pub(super) fn ca_bundle(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).map_err(|why| format!("caBundle {shown}: {why}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(pem),
        Ok(_) => Err(format!("caBundle {shown} holds no certificate in PEM form")),
        Err(why) => Err(format!("caBundle {shown}: {why}")),
    }
}
