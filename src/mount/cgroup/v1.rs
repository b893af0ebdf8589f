//! Version 1 (the kernel's Documentation/admin-guide/cgroup-v1/memory.rst). A cgroup with children may hold processes, so
//! that the node plugin stays where it is.

use std::io;
use std::path::{Path, PathBuf};

use super::{create_dir, number, read, write};

const LIMIT: &str = "memory.limit_in_bytes";
/// Memory and swap together; only where the kernel counts swap.
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

/// Tries whether cgroups can be made below `own`.
pub(super) fn prepare(own: &Path) -> io::Result<PathBuf> {
    let probe = own.join(format!("millrace-probe-{}", std::process::id()));
    create_dir(&probe)?;
    std::fs::remove_dir(&probe)?;
    Ok(own.to_owned())
}

/// Allows `bytes`, and no swap: what a worker holds never comes to a disk.
pub(super) fn limit(dir: &Path, bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    // The kernel keeps the second at least as large as the first, so that the order depends on what they were.
    let first = write(&dir.join(LIMIT), &bytes);
    match write(&dir.join(WITH_SWAP), &bytes) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    first.or_else(|_| write(&dir.join(LIMIT), &bytes))
}

pub(super) fn limit_of(dir: &Path) -> io::Result<u64> {
    read(&dir.join(LIMIT))?.trim().parse().map_err(io::Error::other)
}

/// How many processes were killed because the limit was reached.
pub(super) fn kills(dir: &Path) -> io::Result<u64> {
    number(&dir.join("memory.oom_control"), "oom_kill")
}
