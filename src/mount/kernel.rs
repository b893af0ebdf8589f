//! The system calls behind a mount. Each may wait for a file system that does not answer, so each runs on a thread of
//! its own that nobody has to wait for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use tokio::sync::oneshot;

use super::table::{FILE_SYSTEM, Table};
use super::{Error, Usage};

/// How long a system call may take that normally takes microseconds.
pub(super) const PROMPT: Duration = Duration::from_secs(10);

/// Runs `call` on a thread of its own. `None` where it has not returned within `deadline`; the thread is then left to
/// its call, which ends with the connection it waits for. A blocking task of the runtime would hold up its shutdown.
pub(super) async fn within<T: Send + 'static>(
    deadline: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("mount-call".into()).spawn(move || {
        let _ = tell.send(call());
    })?;
    Ok(tokio::time::timeout(deadline, told).await.ok().and_then(Result::ok))
}

/// `within`, for a call whose failure is an [`Error`].
pub(super) async fn promptly<T: Send + 'static>(
    what: &str,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match within(PROMPT, call).await {
        Ok(Some(result)) => result,
        Ok(None) => Err(Error::System(format!("{what}: no answer from the kernel within {} s", PROMPT.as_secs()))),
        Err(error) => Err(Error::System(format!("{what}: no thread for it: {error}"))),
    }
}

/// Opens the FUSE device.
pub(super) fn open_device() -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::NotFound => {
                "load the kernel's fuse module (modprobe fuse) and give the container the device"
            }
            _ => "the node plugin must be privileged",
        };
        Error::System(format!("/dev/fuse: {error}; {mend}"))
    })
}

/// What a mount is to be.
#[derive(Debug)]
pub(super) struct Options {
    /// The volume, as the table of mounts shows it.
    pub(super) source: String,
    /// Every change is EROFS, decided by the kernel.
    pub(super) read_only: bool,
    /// The kernel decides by owner and mode.
    pub(super) default_permissions: bool,
}

/// Mounts `device` at a new private mount point. The first request waits until somebody reads the device.
pub(super) fn mount(device: &File, point: &Path, options: &Options) -> Result<(), Error> {
    fs::create_dir(point).map_err(|error| Error::System(format!("the mount point {}: {error}", point.display())))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let flags = if options.read_only { flags | MsFlags::MS_RDONLY } else { flags };
    let mut data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    nix::mount::mount(Some(options.source.as_str()), point, Some(FILE_SYSTEM), flags, Some(data.as_str()))
        .map_err(|errno| Error::System(format!("mounting FUSE at {}: {errno}", point.display())))
}

/// Shows our mount of `device` at `from` at `to` too. False where it is not there any more: what lies under it, a
/// directory of this machine, must never be shown in its place.
pub(super) fn bind(from: &Path, device: &str, to: &Path) -> Result<bool, Error> {
    use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
    let fail = |error: rustix::io::Errno| Error::System(format!("the mount point {}: {error}", from.display()));
    let root =
        rustix::fs::open(from, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    // Nothing is asked of the worker: neither by the flag nor for no field.
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(&root, "", how, StatxFlags::empty()).map_err(fail)?;
    if format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) != device {
        return Ok(false);
    }
    let root = format!("/proc/self/fd/{}", root.as_raw_fd());
    match nix::mount::mount(Some(root.as_str()), to, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
        Ok(()) => Ok(true),
        // It was unmounted just now: it is in no namespace any more.
        Err(Errno::EINVAL) => Ok(false),
        Err(errno) => Err(Error::System(format!("bind mount at {}: {errno}", to.display()))),
    }
}

/// Takes the topmost mount at `point` away. `force` also where it is in use or does not answer: its connection ends.
/// Nothing mounted there is fine.
pub(super) fn unmount(point: &Path, force: bool) -> Result<(), Errno> {
    let how = if force { MntFlags::MNT_FORCE | MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match nix::mount::umount2(point, how | MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount point, or not there.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// How far the kernel reads ahead of a sequential reader; only after the handshake, which resets it.
pub(super) fn set_read_ahead(device: &str, kib: u32) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

/// Ends the connection of our mount of `device` at its private mount point, so that all who wait for it get an error
/// (ENOTCONN, EIO). A mount that is gone is left alone: the next one may have the same device.
pub(super) fn abort(point: &Path, device: &str) {
    let Ok(table) = Table::read() else { return };
    if !table.top(point).is_some_and(|mount| mount.is_ours() && mount.device == device) {
        return;
    }
    // Anonymous devices have major 0; the connection is called by the minor number.
    let Some(minor) = device.strip_prefix("0:") else { return };
    let done = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    // Where fusectl is not mounted: force aborts before it finds the mount in use.
    if done.is_err() {
        let _ = nix::mount::umount2(point, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// What our mount at `point` says of its use. Waits for its worker.
pub(super) fn usage(point: &Path) -> Result<Usage, Error> {
    if !Table::read()?.top(point).is_some_and(|mount| mount.is_ours()) {
        return Err(Error::NotMounted(format!("nothing of this driver is mounted at {}", point.display())));
    }
    match nix::sys::statvfs::statvfs(point) {
        Ok(stat) => Ok(Usage {
            used_bytes: stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(stat.fragment_size()),
            used_inodes: stat.files().saturating_sub(stat.files_free()),
            ..Usage::default()
        }),
        Err(errno) => Err(Error::Worker(format!("the mount at {} does not answer: {errno}", point.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_is_left_behind() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let answer = within(Duration::from_millis(20), move || wait.recv()).await.unwrap();
        assert!(answer.is_none());
        drop(release);
        assert_eq!(within(Duration::from_secs(30), || 7).await.unwrap(), Some(7));
    }

    #[test]
    fn what_is_no_mount_needs_no_unmount_and_has_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        match unmount(&missing, false) {
            Ok(()) | Err(Errno::EPERM) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(matches!(usage(dir.path()), Err(Error::NotMounted(_))));
    }
}
