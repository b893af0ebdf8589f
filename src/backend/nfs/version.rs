//! A file's version, and what the server says of it.
//!
//! *Same file* is the handle with fsid and fileid, since some servers use a fileid again at once and others a handle;
//! from it a file is read without asking for its path again. *Same bytes* adds size, mtime and ctime.

use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::BASE64URL_NOPAD;
use nfs3_types::nfs3::{fattr3, ftype3, nfs_fh3, nfstime3};
use nfs3_types::xdr_codec::Opaque;

use crate::backend::{Meta, Node, Path, Permissions, Version};

/// What lies at `path`.
pub(super) fn meta(path: &Path, handle: &nfs_fh3, attributes: &fattr3) -> Meta {
    let node = match attributes.type_ {
        ftype3::NF3DIR => Node::Directory,
        ftype3::NF3LNK => Node::Symlink(version(path, handle, attributes)),
        _ => Node::File(version(path, handle, attributes)),
    };
    Meta {
        node,
        mtime: time(&attributes.mtime),
        permissions: Some(Permissions { uid: attributes.uid, gid: attributes.gid, mode: attributes.mode & 0o7777 }),
        // Sockets, pipes, devices: they are shown, and have no content.
        readable: matches!(attributes.type_, ftype3::NF3REG | ftype3::NF3DIR | ftype3::NF3LNK),
        links: attributes.nlink.max(1),
    }
}

/// The version of the file at `path`.
pub(super) fn version(path: &Path, handle: &nfs_fh3, attributes: &fattr3) -> Version {
    let file = file(handle, attributes);
    let bytes = format!("{file}/{}", bytes(attributes)).into();
    Version { path: path.clone(), file, bytes, size: attributes.size }
}

/// What two versions have in common that are of the same file.
pub(super) fn file(handle: &nfs_fh3, attributes: &fattr3) -> Arc<str> {
    format!("{}.{:x}.{:x}", BASE64URL_NOPAD.encode(&handle.data), attributes.fsid, attributes.fileid).into()
}

fn bytes(attributes: &fattr3) -> String {
    let time = |time: &nfstime3| format!("{}.{:09}", time.seconds, time.nseconds);
    format!("{}.{}.{}", attributes.size, time(&attributes.mtime), time(&attributes.ctime))
}

/// The handle that a version was seen with; `None` for a version of another store.
pub(super) fn handle(version: &Version) -> Option<nfs_fh3> {
    let (handle, _) = version.file.split_once('.')?;
    let handle = BASE64URL_NOPAD.decode(handle.as_bytes()).ok()?;
    Some(nfs_fh3 { data: Opaque::owned(handle) })
}

/// How what the server says of a version's handle now differs from the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Not at all.
    None,
    /// It is longer: as far as can be told, something was added at its end.
    Grown,
    /// Its bytes may be others.
    Other,
}

/// Compares `version` with attributes that its own handle has now.
pub(super) fn change(version: &Version, handle: &nfs_fh3, attributes: &fattr3) -> Change {
    if version.file != file(handle, attributes) {
        return Change::Other;
    }
    let known = version.bytes.strip_prefix(&*version.file).and_then(|rest| rest.strip_prefix('/'));
    match known {
        // See `Version::any_bytes`.
        None => Change::None,
        Some(known) if known == bytes(attributes) => Change::None,
        Some(_) if attributes.size > version.size => Change::Grown,
        Some(_) => Change::Other,
    }
}

/// A server's time.
pub(super) fn time(time: &nfstime3) -> SystemTime {
    SystemTime::from(time)
}
