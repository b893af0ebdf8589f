//! What a worker gives up before it reads a credential: the node's files, every capability, its parent's uid, and being
//! looked into.

use std::io;

use caps::{CapSet, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::namespaces;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Error {
    step: &'static str,
    source: io::Error,
}

/// Where a confined worker that asked for it finds a folder of its own, in memory.
pub const FOLDER: &str = "/own";

/// Gives up everything that serving a mount does not need. Becomes `uid` (and the gid of the same number, without
/// further groups) where there is one, and sees the node's files no more; without one it could not. `folder` asks for a
/// [`FOLDER`] in their place.
///
/// Capabilities belong to a thread: to be called while the process has one.
///
/// # Errors
/// Where a step fails. The process must then end: it may keep rights.
pub fn confine(uid: Option<u32>, folder: bool) -> Result<(), Error> {
    let step = |step: &'static str| move |source: io::Error| Error { step, source };
    // A terminal's Ctrl-C is for the node plugin, which unmounts first. A leader of a group is out of it already.
    let _ = setsid();
    if let Some(uid) = uid {
        namespaces::leave_the_nodes_files(folder.then_some((FOLDER, uid)))
            .map_err(step("leaving the node's files behind"))?;
    }
    // While this is still root: CAP_SETPCAP is needed for it.
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability)
            .map_err(io::Error::other)
            .map_err(step("dropping the bounding set of capabilities"))?;
    }
    if let Some(uid) = uid {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setgroups(&[]).map_err(io::Error::from).map_err(step("dropping groups"))?;
        setresgid(group, group, group).map_err(io::Error::from).map_err(step("taking the worker's gid"))?;
        setresuid(user, user, user).map_err(io::Error::from).map_err(step("taking the worker's uid"))?;
    }
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(io::Error::other).map_err(step("dropping capabilities"))?;
    }
    prctl::set_no_new_privs().map_err(io::Error::from).map_err(step("no_new_privs"))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(io::Error::from)
        .map_err(step("forbidding core dumps"))?;
    // Last: execve and the change of uid set it anew. Memory and descriptors are then root's to see alone.
    prctl::set_dumpable(false).map_err(io::Error::from).map_err(step("PR_SET_DUMPABLE"))?;
    // Many connections to a store are many descriptors.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .map_err(io::Error::from)
        .map_err(step("raising the limit of open files"))?;
    verify(uid)
}

/// Reads back what cannot be allowed to have failed silently.
fn verify(uid: Option<u32>) -> Result<(), Error> {
    let failed = |what: &str| Err(Error { step: "reading back", source: io::Error::other(what.to_owned()) });
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Bounding, CapSet::Ambient] {
        if caps::read(None, set).ok() != Some(CapsHashSet::new()) {
            return failed("capabilities are left");
        }
    }
    if uid.is_some_and(|uid| Uid::current().as_raw() != uid || Uid::effective().as_raw() != uid) {
        return failed("the uid is another");
    }
    if uid.is_some() && namespaces::sees_the_nodes_files() {
        return failed("the node's files are in sight");
    }
    if prctl::get_dumpable() != Ok(false) || prctl::get_no_new_privs() != Ok(true) {
        return failed("the process can still be looked into or gain rights");
    }
    Ok(())
}
