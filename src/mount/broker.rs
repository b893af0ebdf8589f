//! Lets a worker's mount be read from files of its part of the cache without the worker (FUSE passthrough), for which
//! the kernel wants CAP_SYS_ADMIN.
//!
//! The worker is not trusted. The kernel opens what it is given anew with this process's rights and the reader's flags,
//! so that a file of somebody else would be a hole to root; therefore: only for a mount that is read-only; only a regular
//! file beneath the worker's own part, reached by no link and on no other file system; only one that is the worker's uid's;
//! and only for the connection that was made for that worker, to which the descriptor that it sends must belong.
//!
//! An id that the worker has done with is closed here. All others end with the connection.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;

use super::handover::ToWorker;
use super::kernel;

/// Files lent at once to one worker.
const MOST: usize = 4096;
/// Requests of one worker that wait for their turn; what is more is refused.
const WAITING: usize = 256;
/// The longest name of a file in a part.
const LONGEST: usize = 128;

/// What FUSE_DEV_IOC_BACKING_OPEN takes (linux/fuse.h).
#[repr(C)]
#[derive(Debug)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

mod calls {
    nix::ioctl_write_ptr!(backing_open, 229, 1, super::BackingMap);
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// See the module. One a worker.
#[derive(Debug)]
pub(super) struct Broker {
    /// The directory of the worker's part.
    part: OwnedFd,
    uid: u32,
    /// The minor number of the worker's mount, by which its connection is called.
    connection: u32,
    lent: Mutex<HashSet<u32>>,
}

/// What a worker asks.
#[derive(Debug)]
pub(super) enum Errand {
    Borrow { ticket: u64, name: String, device: OwnedFd },
    Return { id: u32, device: OwnedFd },
}

impl Broker {
    /// For the worker of `uid`, whose part `part` is and whose mount has the `device` (`major:minor`). `None` where that
    /// is no anonymous device.
    pub(super) fn new(part: impl AsFd, uid: u32, device: &str) -> io::Result<Option<Broker>> {
        let Some(connection) = device.strip_prefix("0:").and_then(|minor| minor.parse().ok()) else { return Ok(None) };
        // The worker's own descriptor holds the part's lock, which this must not.
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let part = rustix::fs::openat(part, ".", how, Mode::empty())?;
        Ok(Some(Broker { part, uid, connection, lent: Mutex::default() }))
    }

    /// Does errands one after the other, for as long as there is somebody to do them for.
    pub(super) fn serve(self: &std::sync::Arc<Self>, answers: mpsc::UnboundedSender<ToWorker>) -> mpsc::Sender<Errand> {
        let (errands, mut queue) = mpsc::channel(WAITING);
        let broker = self.clone();
        tokio::spawn(async move {
            while let Some(errand) = queue.recv().await {
                let broker = broker.clone();
                match errand {
                    Errand::Borrow { ticket, name, device } => {
                        let lent = kernel::within(kernel::PROMPT, move || broker.lend(&name, &device)).await;
                        let id = match lent {
                            Ok(Some(Ok(id))) => Some(id),
                            // Such as a kernel without passthrough, or a cache on a stacked file system.
                            other => {
                                tracing::debug!(?other, "a file is not lent");
                                None
                            }
                        };
                        let _ = answers.send(ToWorker::Lent { ticket, id });
                    }
                    Errand::Return { id, device } => {
                        let _ = kernel::within(kernel::PROMPT, move || broker.take_back(id, &device)).await;
                    }
                }
            }
        });
        errands
    }

    /// Has the kernel know the file `name` of the part; returns how it calls it.
    fn lend(&self, name: &str, device: &OwnedFd) -> io::Result<u32> {
        if self.lent().len() >= MOST {
            return Err(io::Error::other("too many files are lent to it"));
        }
        self.is_its_own(device)?;
        let file = self.open(name)?;
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        #[expect(unsafe_code, reason = "an ioctl has no safe form")]
        // SAFETY: the structure is the one that the kernel reads, and outlives the call.
        let id = unsafe { calls::backing_open(device.as_raw_fd(), &raw const map) }?;
        let id = u32::try_from(id).map_err(io::Error::other)?;
        self.lent().insert(id);
        Ok(id)
    }

    /// Has the kernel forget a file that it has done with; whoever still reads it reads on.
    fn take_back(&self, id: u32, device: &OwnedFd) -> io::Result<()> {
        self.is_its_own(device)?;
        if !self.lent().remove(&id) {
            return Err(io::Error::other("this was not lent to it"));
        }
        #[expect(unsafe_code, reason = "an ioctl has no safe form")]
        // SAFETY: the kernel reads one u32, which outlives the call.
        unsafe { calls::backing_close(device.as_raw_fd(), &raw const id) }?;
        Ok(())
    }

    /// A file of the part that is the worker's.
    fn open(&self, name: &str) -> io::Result<File> {
        if name.len() > LONGEST {
            return Err(io::Error::other("no file of a part is called so"));
        }
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file: File = rustix::fs::openat2(&self.part, name, how, Mode::empty(), resolve)?.into();
        let found = file.metadata()?;
        if !found.is_file() || found.uid() != self.uid {
            return Err(io::Error::other("it is no regular file of the worker's own"));
        }
        Ok(file)
    }

    /// Whether a descriptor is of `/dev/fuse`, of the connection of the worker's mount: the kernel says so (since 6.18).
    fn is_its_own(&self, device: &OwnedFd) -> io::Result<()> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd()))?;
        let connection = info.lines().find_map(|line| line.strip_prefix("fuse_connection:")?.trim().parse().ok());
        if connection == Some(self.connection) {
            Ok(())
        } else {
            Err(io::Error::other("its descriptor is not that of its mount, or this kernel does not tell"))
        }
    }

    fn lent(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn only_its_own_files_beneath_its_part_are_opened() {
        let place = tempfile::tempdir().unwrap();
        let own = fs::metadata(place.path()).unwrap().uid();
        let [part, other] = ["part", "other"].map(|name| place.path().join(name));
        for dir in [&part, &other] {
            fs::create_dir_all(dir.join("v1/00")).unwrap();
            fs::write(dir.join("v1/00/k.data"), "x").unwrap();
        }
        symlink(other.join("v1/00/k.data"), part.join("v1/00/link")).unwrap();
        symlink("k.data", part.join("v1/00/near")).unwrap();
        symlink(&other, part.join("v1/far")).unwrap();
        let fifo = part.join("v1/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let broker = |uid: u32| Broker::new(File::open(&part).unwrap(), uid, "0:50").unwrap().unwrap();
        broker(own).open("v1/00/k.data").unwrap();
        let absolute = other.join("v1/00/k.data");
        let long = "./".repeat(100) + "v1/00/k.data";
        for name in [
            "v1/00/link",
            "v1/00/near",
            "v1/far/v1/00/k.data",
            "../other/v1/00/k.data",
            "v1/../../other/v1/00/k.data",
            absolute.to_str().unwrap(),
            "v1",
            "v1/fifo",
            "",
            "v1/00/none",
            "/etc/passwd",
            &long,
        ] {
            assert!(broker(own).open(name).is_err(), "{name}");
        }
        // Of another uid, though it lies in the part.
        assert!(broker(own + 1).open("v1/00/k.data").is_err());
        if nix::unistd::geteuid().is_root() {
            chown(part.join("v1/00/k.data"), Some(7), None).unwrap();
            assert!(broker(own).open("v1/00/k.data").is_err());
            broker(7).open("v1/00/k.data").unwrap();
        }
    }

    #[test]
    fn no_descriptor_of_another_mount_is_taken() {
        if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("f"), "x").unwrap();
        let own = fs::metadata(place.path()).unwrap().uid();
        let mounts: Vec<_> = ["a", "b"]
            .iter()
            .map(|name| {
                let (device, point) = (kernel::open_device().unwrap(), place.path().join(name));
                let source = "broker".into();
                let options = kernel::Options { source, read_only: true, default_permissions: false };
                kernel::mount(&device, &point, &options).unwrap();
                let table = crate::mount::table::Table::read().unwrap();
                (OwnedFd::from(device), table.top(&point).unwrap().device.clone(), point)
            })
            .collect();
        let broker = |device: &str| Broker::new(File::open(place.path()).unwrap(), own, device).unwrap().unwrap();
        let theirs = broker(&mounts[0].1).lend("f", &mounts[1].0).unwrap_err();
        let ours = broker(&mounts[0].1).lend("f", &mounts[0].0).unwrap_err();
        for (_, _, point) in &mounts {
            kernel::unmount(point, true).unwrap();
        }
        assert!(theirs.to_string().contains("not that of its mount"), "{theirs}");
        // Nobody has answered the kernel's handshake, so it lends nothing; but it was asked.
        assert!(ours.raw_os_error().is_some(), "{ours}");
    }

    #[test]
    fn no_descriptor_but_its_mounts_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let broker = Broker::new(File::open(place.path()).unwrap(), 7, "0:50").unwrap().unwrap();
        fs::write(place.path().join("f"), "x").unwrap();
        let file: OwnedFd = File::open(place.path().join("f")).unwrap().into();
        assert!(broker.lend("f", &file).is_err() && broker.take_back(1, &file).is_err());
        assert!(Broker::new(File::open(place.path()).unwrap(), 7, "8:1").unwrap().is_none());
    }
}
