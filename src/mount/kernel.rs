//! The system calls of mounting. What may block is called off the runtime's threads, with a deadline.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::Error;
use super::state::absent_is_fine;
use super::table::FILE_SYSTEM;

/// How long an unmount may take before it is forced. It blocks where the file system is asked something.
const UNMOUNT: Duration = Duration::from_secs(5);

/// A FUSE file system to be mounted.
#[derive(Debug, Clone)]
pub(super) struct Fuse {
    /// What the mount table shows as its source: the volume's id.
    pub(super) source: String,
    /// The worker's uid, and gid.
    pub(super) owner: u32,
    pub(super) read_only: bool,
    /// The kernel checks mode bits.
    pub(super) check_modes: bool,
}

impl Fuse {
    /// Opens `/dev/fuse` and mounts it at `point`, whose directory is made. The file system answers once a worker
    /// serves the descriptor, and is dead when the last copy of it is closed.
    pub(super) fn mount(&self, point: &Path) -> Result<File, Error> {
        let fail = |what: &str, error: io::Error| Error::System(format!("{what}: {error}"));
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(|error| {
            let cure = "load the fuse module on this node, and give the node plugin's container the device";
            fail("cannot open /dev/fuse", io::Error::new(error.kind(), format!("{error}; {cure}")))
        })?;
        make_dir(point, 0o700)?;
        let check = if self.check_modes { ",default_permissions" } else { "" };
        let (fd, owner) = (device.as_raw_fd(), self.owner);
        let data = format!("fd={fd},rootmode=40000,user_id={owner},group_id={owner},allow_other{check}");
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        flags.set(MsFlags::MS_RDONLY, self.read_only);
        nix::mount::mount(Some(self.source.as_str()), point, Some(FILE_SYSTEM), flags, Some(data.as_str()))
            .map_err(|errno| fail(&format!("cannot mount at {}", point.display()), errno.into()))?;
        Ok(device)
    }
}

/// Makes a directory; one that is there is fine.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::System(format!("cannot make the directory {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Removes an empty directory; one that is gone is fine. Never what lies in it.
pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    absent_is_fine(fs::remove_dir(path)).map_err(|error| {
        Error::System(format!("cannot remove the directory {}: {error}; what lies in it is not ours", path.display()))
    })
}

/// Shows at `target` what is mounted at `point`.
pub(super) async fn bind(point: PathBuf, target: PathBuf) -> Result<(), Error> {
    let shown = target.display().to_string();
    let nothing = None::<&str>;
    let bound = blocking(UNMOUNT, move || nix::mount::mount(Some(&point), &target, nothing, MsFlags::MS_BIND, nothing));
    bound.await.map_err(|error| Error::System(format!("cannot mount at the target path {shown}: {error}")))
}

/// Unmounts what is on top at `point`, plainly: a mount that is in use stays.
pub(super) async fn unmount(point: &Path) -> io::Result<()> {
    let path = point.to_owned();
    blocking(UNMOUNT, move || nix::mount::umount2(&path, MntFlags::UMOUNT_NOFOLLOW)).await
}

/// Ends the connection of a dead or frozen file system and takes the mount away from everybody. Not for a healthy
/// one: its other mounts die too.
pub(super) async fn unmount_by_force(point: &Path) -> io::Result<()> {
    let path = point.to_owned();
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    blocking(UNMOUNT, move || nix::mount::umount2(&path, flags)).await
}

async fn blocking(deadline: Duration, call: impl FnOnce() -> nix::Result<()> + Send + 'static) -> io::Result<()> {
    match tokio::time::timeout(deadline, tokio::task::spawn_blocking(call)).await {
        Ok(Ok(outcome)) => outcome.map_err(io::Error::from),
        Ok(Err(panicked)) => Err(io::Error::other(panicked)),
        Err(_) => Err(Errno::ETIMEDOUT.into()),
    }
}

/// Aborts a FUSE connection, named by the `major:minor` of its mount: every request of it ends with ECONNABORTED and
/// later ones with ENOTCONN (kernel Documentation/filesystems/fuse.rst, "Control filesystem").
pub(super) fn abort(device: &str) {
    let Some((_, minor)) = device.split_once(':') else { return };
    let path = format!("/sys/fs/fuse/connections/{minor}/abort");
    if let Err(error) = fs::write(&path, "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path, %error, "a FUSE connection cannot be aborted; the unmount is forced instead");
    }
}

/// Sets the kernel's read-ahead of a mount. Only after the handshake, which resets it to 128.
pub(super) fn set_read_ahead(device: &str, kib: u32) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}
