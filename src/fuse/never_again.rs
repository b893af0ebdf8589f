//! Calls that a connection switches off: ENOSYS to the first has the kernel make no other.
//!
//! Extended attributes and copies within a volume, which there are none of: the kernel then answers by itself what was
//! answered here, EOPNOTSUPP, where `ls -l` and `cp` ask for them file by file. And, where that was agreed
//! (FUSE_NO_OPEN_SUPPORT), opens and flushes: a file then has no handle, READ and LSEEK name its inode, and there is no
//! RELEASE. An opened directory has both, so what a program says of its order by an ioctl goes to that of `.millrace`.

use fuser::Errno;

/// The one place where ENOSYS is meant.
pub(super) const NEVER_AGAIN: Errno = Errno::ENOSYS;
