//! The one place that turns a file system error into an errno.

use fuser::Errno;

use crate::vfs::Error;

/// The errno of `error`. Never ENOSYS: the kernel would stop asking for good.
pub(super) fn errno(error: Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotADirectory => Errno::ENOTDIR,
        Error::IsADirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::Denied => Errno::EACCES,
        Error::NotPermitted => Errno::EPERM,
        Error::Stale => Errno::ESTALE,
        Error::Unsupported => Errno::EOPNOTSUPP,
        Error::CrossDevice => Errno::EXDEV,
        Error::Invalid => Errno::EINVAL,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::TooLarge => Errno::EFBIG,
        Error::NoSpace => Errno::ENOSPC,
        Error::OverQuota => Errno::EDQUOT,
        Error::ReadOnly => Errno::EROFS,
        Error::Busy => Errno::EBUSY,
        Error::BadHandle => Errno::EBADF,
        Error::NoData => Errno::ENXIO,
        Error::Interrupted => Errno::EINTR,
        Error::Io => Errno::EIO,
    }
}
