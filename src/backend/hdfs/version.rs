//! A file's version, and what a name node says of it.
//!
//! *Same file* is the file id, which HDFS never gives twice. *Same bytes* adds the time of the last change and the
//! length: a closed file changes by being appended to or cut, which another client's open for append, its close and its
//! cut show in the time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::owners::Owners;
use super::webhdfs::Status;
use crate::backend::{Meta, Node, Path, Permissions, Version};

/// What lies at `path`.
pub(super) fn meta(path: &Path, status: &Status, owners: &Owners) -> Meta {
    let is_directory = status.kind == "DIRECTORY";
    let node = match is_directory {
        true => Node::Directory,
        false => Node::File(version(path, status)),
    };
    let permissions = Permissions {
        uid: owners.uid(&status.owner),
        gid: owners.gid(&status.group),
        mode: u32::from_str_radix(&status.permission, 8).unwrap_or_default() & 0o7777,
    };
    Meta {
        node,
        mtime: SystemTime::UNIX_EPOCH + Duration::from_millis(status.modification_time),
        permissions: Some(permissions),
        // Its symbolic links are switched off.
        readable: is_directory || status.kind == "FILE",
        links: 1,
    }
}

/// The version of the file at `path`.
pub(super) fn version(path: &Path, status: &Status) -> Version {
    Version { path: path.clone(), file: file(status.file_id), bytes: bytes(status).into(), size: status.length }
}

/// What two versions have in common that are of the same file.
pub(super) fn file(id: u64) -> Arc<str> {
    id.to_string().into()
}

/// What two versions have in common that are the same bytes.
pub(super) fn bytes(status: &Status) -> String {
    format!("{}/{}.{}", status.file_id, status.modification_time, status.length)
}

/// The file id; `None` for a version of another store.
pub(super) fn id(version: &Version) -> Option<u64> {
    version.file.parse().ok()
}

/// The absolute path that names a file by its id, wherever it lies. Whoever uses it needs the rights that its other path
/// asks for.
pub(super) fn by_id(id: u64) -> String {
    format!("/.reserved/.inodes/{id}")
}

/// Milliseconds since 1970; none before.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
