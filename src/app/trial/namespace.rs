//! `try` without root: a user and a mount namespace in which this process is root over one uid, its own.

use std::fs;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Enters the namespaces. Must run while the process has one thread (unshare(2): CLONE_NEWUSER).
///
/// # Errors
/// Where the machine forbids unprivileged user namespaces; the message says which switch does.
pub(super) fn enter() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context(
        "no user namespace for this user, and without root `try` needs one: run it as root, or allow them \
         (sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0)",
    )?;
    // One line each: without a privilege outside, only the process's own id can be mapped (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("cannot make the mounts of the new namespace private")
}
