//! The file system's words in fuser's, and back.

use std::time::SystemTime;

use fuser::{AccessFlags, FileAttr, FileType, FopenFlags, INodeNo, OpenAccMode, OpenFlags, TimeOrNow};

use crate::vfs::{Attr, Kind, OpenOptions, Opened, Pages, Rights};

/// What access(2) asks for.
pub(super) fn rights(mask: AccessFlags) -> Rights {
    Rights {
        read: mask.contains(AccessFlags::R_OK),
        write: mask.contains(AccessFlags::W_OK),
        execute: mask.contains(AccessFlags::X_OK),
    }
}

/// What stat(2) shows.
pub(super) fn shown(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: attr.mtime,
        kind: kind(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block,
        flags: 0,
    }
}

/// The attributes of an absence: only the number 0 in them counts.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

pub(super) fn how(flags: i32) -> OpenOptions {
    OpenOptions {
        write: OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

pub(super) fn fopen(opened: &Opened) -> FopenFlags {
    match opened.pages {
        Pages::None => FopenFlags::FOPEN_DIRECT_IO,
        Pages::Keep => FopenFlags::FOPEN_KEEP_CACHE,
        Pages::Drop => FopenFlags::empty(),
    }
}

/// Whether an ioctl announces an order of files: `Some(false)` what comes next, `Some(true)` another order than before.
///
/// `_IOC(_IOC_WRITE, 'M', 1 or 2, length of the paths)`: a size has 14 bits (include/uapi/asm-generic/ioctl.h).
pub(super) fn announcement(command: u32) -> Option<bool> {
    match (command >> 30, (command >> 8) as u8, command as u8) {
        (1, b'M', 1) => Some(false),
        (1, b'M', 2) => Some(true),
        _ => None,
    }
}

pub(super) fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}
