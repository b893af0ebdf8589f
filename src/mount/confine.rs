//! How a worker gives up what its parent had, before it hears a secret.

use std::io;

use caps::CapSet;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Becomes `uid` (and the gid of the same number) for good: no group, no capability in any set, no way to gain one, no
/// core dump, and nobody but root may look into its memory.
///
/// Capability sets are a thread's own, so this comes before any other thread. `None` keeps the uid, where there is
/// only one: in a user namespace without privilege.
///
/// # Errors
/// Whatever could not be given up. The worker must end then.
pub fn confine(uid: Option<u32>) -> io::Result<()> {
    if let Some(uid) = uid {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        for capability in caps::all() {
            // The bounding set has more than this kernel knows, or fewer: what is not there is dropped.
            if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
                caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
            }
        }
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        // From root to another uid the kernel clears the permitted and effective sets (capabilities(7)).
        setresuid(uid, uid, uid)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // execve and the change of uid reset it, so it comes last.
    prctl::set_dumpable(false)?;
    Ok(())
}
