//! The Unix socket that a plugin serves on: only its owner may connect, and a dead predecessor's file is no obstacle.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_socket, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

/// Listens at `path`, mode 0600. Makes the directories above it, and replaces the socket of a process that has gone.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// `AddrInUse` where a living process listens there, `AlreadyExists` where something that is no socket lies there, and
/// whatever the system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    remove_stale(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // bind(2) makes the file with the mode of the socket itself: it is never open to others, not even for a moment.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind_socket(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(128)?)?;
    UnixListener::from_std(fd.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        let text = format!("{} is in the way: it is not a socket, so it is not removed", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let text = format!("another process serves on {}", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Removes a listener's file when dropped, unless another process has put its own there.
#[derive(Debug)]
pub struct RemoveAtEnd(Option<(PathBuf, u64)>);

impl RemoveAtEnd {
    /// Of `listener`.
    pub fn of(listener: &UnixListener) -> RemoveAtEnd {
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
        RemoveAtEnd(path.and_then(|path| inode(&path).map(|inode| (path, inode))))
    }
}

impl Drop for RemoveAtEnd {
    fn drop(&mut self) {
        if let Some((path, ours)) = &self.0
            && inode(path) == Some(*ours)
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/csi.example.org/csi.sock");
        let _listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("csi.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let listener = bind(&path).unwrap();
        drop(RemoveAtEnd::of(&listener));
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
