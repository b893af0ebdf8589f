//! The one place that turns a file system error into an errno, and into its name.

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

/// The name of `error`'s errno, for metrics.
pub(super) fn word(error: Error) -> &'static str {
    match error {
        Error::NotFound => "ENOENT",
        Error::Exists => "EEXIST",
        Error::NotADirectory => "ENOTDIR",
        Error::IsADirectory => "EISDIR",
        Error::NotEmpty => "ENOTEMPTY",
        Error::Denied => "EACCES",
        Error::NotPermitted => "EPERM",
        Error::Stale => "ESTALE",
        Error::Unsupported => "EOPNOTSUPP",
        Error::CrossDevice => "EXDEV",
        Error::Invalid => "EINVAL",
        Error::NameTooLong => "ENAMETOOLONG",
        Error::TooLarge => "EFBIG",
        Error::NoSpace => "ENOSPC",
        Error::OverQuota => "EDQUOT",
        Error::ReadOnly => "EROFS",
        Error::Busy => "EBUSY",
        Error::BadHandle => "EBADF",
        Error::NoData => "ENXIO",
        Error::Interrupted => "EINTR",
        Error::Io => "EIO",
    }
}
