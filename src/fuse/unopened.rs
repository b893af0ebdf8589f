//! Connections on which the kernel opens files without asking (FUSE_NO_OPEN_SUPPORT).
//!
//! A file then has no handle: READ and LSEEK name its inode, and there is no RELEASE. An opened directory has both, so
//! what a program says of its order by an ioctl goes to that of `.millrace`.

use fuser::Errno;

/// The answer to the first OPEN and FLUSH of such a connection, upon which the kernel sends no other: the one place where
/// ENOSYS, which switches a call off for good, is meant.
pub(super) const NEVER_AGAIN: Errno = Errno::ENOSYS;
