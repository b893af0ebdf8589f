//! What a file system call can fail with.

use std::sync::LazyLock;

use super::repeats::Repeats;
use crate::backend::{self, BadName, ErrorKind, Op};

/// The result of a file system call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed, in POSIX' words. Each is one errno (`fuse::errno`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// ENOENT
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST
    #[error("file exists")]
    Exists,
    /// ENOTDIR
    #[error("not a directory")]
    NotADirectory,
    /// EISDIR
    #[error("is a directory")]
    IsADirectory,
    /// ENOTEMPTY
    #[error("directory not empty")]
    NotEmpty,
    /// EACCES: the store, or the state of an object, refuses.
    #[error("permission denied")]
    Denied,
    /// EPERM: the volume does not do that for anybody.
    #[error("operation not permitted")]
    NotPermitted,
    /// ESTALE: the file is no longer that version.
    #[error("the file was replaced")]
    Stale,
    /// EOPNOTSUPP
    #[error("not supported")]
    Unsupported,
    /// EXDEV: a copy and a removal can do it, as `mv` does.
    #[error("cannot be moved in one step")]
    CrossDevice,
    /// EINVAL
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG
    #[error("name too long")]
    NameTooLong,
    /// EFBIG
    #[error("file too large")]
    TooLarge,
    /// ENOSPC
    #[error("no space left")]
    NoSpace,
    /// EDQUOT
    #[error("quota exceeded")]
    OverQuota,
    /// EROFS
    #[error("read-only file system")]
    ReadOnly,
    /// EBUSY: written bytes that are no longer in memory cannot be read before the file is published; or another client
    /// of the store is writing the file.
    #[error("being written")]
    Busy,
    /// EBADF
    #[error("bad file handle")]
    BadHandle,
    /// ENXIO: no data at or after that offset.
    #[error("no data there")]
    NoData,
    /// EINTR: the caller is being killed.
    #[error("interrupted")]
    Interrupted,
    /// EIO: the store failed; the log says how.
    #[error("input/output error")]
    Io,
}

/// What an errno cannot say of a store that fails.
static FAILURES: LazyLock<Repeats<(Op, ErrorKind)>> = LazyLock::new(|| {
    Repeats::new(|(op, kind), times| tracing::warn!(%op, ?kind, times, "the store failed in the same way again"))
});

impl From<backend::Error> for Error {
    /// Total over [`ErrorKind`]. What an errno cannot say goes to the log.
    fn from(error: backend::Error) -> Error {
        let (translated, ordinary) = match error.kind {
            ErrorKind::NotFound => (Error::NotFound, true),
            ErrorKind::AlreadyExists => (Error::Exists, true),
            ErrorKind::NotADirectory => (Error::NotADirectory, true),
            ErrorKind::IsADirectory => (Error::IsADirectory, true),
            ErrorKind::NotEmpty => (Error::NotEmpty, true),
            ErrorKind::Stale => (Error::Stale, true),
            ErrorKind::Unsupported => (Error::Unsupported, true),
            ErrorKind::InvalidName => (Error::Invalid, true),
            ErrorKind::NameTooLong => (Error::NameTooLong, true),
            ErrorKind::NotPermitted => (Error::NotPermitted, true),
            ErrorKind::ReadOnly => (Error::ReadOnly, true),
            ErrorKind::Busy => (Error::Busy, false),
            ErrorKind::Denied | ErrorKind::Unauthenticated => (Error::Denied, false),
            ErrorKind::TooLarge => (Error::TooLarge, false),
            ErrorKind::NoSpace => (Error::NoSpace, false),
            ErrorKind::OverQuota => (Error::OverQuota, false),
            ErrorKind::Throttled
            | ErrorKind::Unavailable
            | ErrorKind::Corrupt
            | ErrorKind::Misconfigured
            | ErrorKind::Other => (Error::Io, false),
        };
        if ordinary {
            tracing::debug!(%error, "refused");
        } else if !FAILURES.is_news((error.op, error.kind)) {
            tracing::debug!(%error, kind = ?error.kind, "the store failed");
        } else {
            tracing::warn!(%error, kind = ?error.kind, "the store failed");
        }
        translated
    }
}

impl From<BadName> for Error {
    fn from(bad: BadName) -> Error {
        match bad {
            BadName::TooLong => Error::NameTooLong,
            BadName::Empty | BadName::Dots | BadName::Separator => Error::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::backend::Path;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_again_and_again_is_told_once_and_counted() {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO);
        let _here = tracing::subscriber::set_default(subscriber.with_writer(move || to.clone()).finish());
        // Of an operation that is no mount's, so that no other test's are counted with them.
        let failure = || backend::Error::new(ErrorKind::Corrupt, Op::Record, &Path::root(), "canary");
        assert!((0..1000).all(|_| Error::from(failure()) == Error::Io));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("canary"), "{text}");
        assert!(lines[1].contains("op=record") && lines[1].contains("times=999"), "{text}");
    }
}
