//! Version 2 (the kernel's Documentation/admin-guide/cgroup-v2.rst). A cgroup whose children are limited may hold no
//! process itself, so that the node plugin moves to a leaf.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{PROCESSES, create_dir, number, read, write};

/// The node plugin's own leaf.
const LEAF: &str = "millrace-plugin";
const LIMIT: &str = "memory.max";
/// 1: an out-of-memory kill takes the whole cgroup.
const AS_ONE: &str = "memory.oom.group";

/// Moves this process to a leaf and has the memory of what is beside it counted. Returns the cgroup that holds both.
pub(super) fn prepare(own: &Path) -> io::Result<PathBuf> {
    // In the leaf already: started by a process of an earlier node plugin's.
    let own = if own.ends_with(LEAF) { own.parent().unwrap_or(own) } else { own };
    let controllers = read(&own.join("cgroup.controllers"))?;
    if !controllers.split_whitespace().any(|one| one == "memory") {
        return Err(io::Error::other("it has no memory controller"));
    }
    let leaf = own.join(LEAF);
    create_dir(&leaf)?;
    write(&leaf.join(PROCESSES), "0")?;
    if let Err(error) = write(&own.join("cgroup.subtree_control"), "+memory") {
        // Back to where it was: best effort, since it runs as well in the leaf.
        let _ = write(&own.join(PROCESSES), "0");
        let _ = fs::remove_dir(&leaf);
        let why = match error.kind() {
            io::ErrorKind::ResourceBusy => format!("{error}; another process is in the node plugin's cgroup"),
            _ => error.to_string(),
        };
        return Err(io::Error::new(error.kind(), why));
    }
    // The kubelet sets it for a container, and one worker's end would be everybody's. Not every container may.
    if let Err(error) = write(&own.join(AS_ONE), "0") {
        tracing::debug!("an out-of-memory kill of the container takes all of it: {error}");
    }
    Ok(own.to_owned())
}

/// Allows `bytes`, and no swap: what a worker holds never comes to a disk.
pub(super) fn limit(dir: &Path, bytes: u64) -> io::Result<()> {
    write(&dir.join(LIMIT), &bytes.to_string())?;
    match write(&dir.join("memory.swap.max"), "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(&dir.join(AS_ONE), "1")
}

pub(super) fn limit_of(dir: &Path) -> io::Result<u64> {
    match read(&dir.join(LIMIT))?.trim() {
        "max" => Ok(u64::MAX),
        number => number.parse().map_err(io::Error::other),
    }
}

/// How many processes were killed because the limit was reached.
pub(super) fn kills(dir: &Path) -> io::Result<u64> {
    number(&dir.join("memory.events"), "oom_kill")
}
