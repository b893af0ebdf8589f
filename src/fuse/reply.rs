//! Outcomes of calls as fuser's replies. Each function takes a reply and returns what gives it, once there is an outcome.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite,
};

use super::errno::errno;
use super::gather::Gather;
use super::words::{fopen, kind, nothing, shown};
use crate::vfs::{Answer, Attr, Error, Ino, Listed, Opened, Result, Space, Usage, Vfs};

/// A number that the kernel has given back may be used again: it asks for none that it does not know.
const GENERATION: Generation = Generation(0);

/// What `df` shows as the volume's size where nothing limits it: 1 PiB.
const CAPACITY: u64 = 1 << 50;

const BLOCK: u32 = 4096;

/// Success or an errno.
pub(super) fn done(reply: ReplyEmpty) -> impl FnOnce(Result<()>) + Send + 'static {
    move |outcome| match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// A name and its attributes, with how long the kernel may believe them, or its absence, which it may believe for `ttl`.
pub(super) fn looked_up(reply: ReplyEntry, ttl: Duration) -> impl FnOnce(Result<(Attr, Duration)>) + Send + 'static {
    move |outcome| match outcome {
        Ok((attr, believed)) => reply.entry(&believed, &shown(&attr), GENERATION),
        Err(Error::NotFound) => reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing(), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

/// How many bytes of an announced order were taken; any other file knows no ioctl.
pub(super) fn announced(reply: ReplyIoctl) -> impl FnOnce(Result<usize>) + Send + 'static {
    move |outcome| match outcome {
        Ok(taken) => reply.ioctl(i32::try_from(taken).unwrap_or(i32::MAX), &[]),
        Err(Error::BadHandle) => reply.error(Errno::ENOTTY),
        Err(error) => reply.error(errno(error)),
    }
}

/// A name that was just made, and its attributes.
pub(super) fn made(reply: ReplyEntry, ttl: Duration) -> impl FnOnce(Result<Attr>) + Send + 'static {
    move |outcome| match outcome {
        Ok(attr) => reply.entry(&ttl, &shown(&attr), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

/// Attributes, with how long the kernel may believe them.
pub(super) fn attributes(reply: ReplyAttr, vfs: Arc<Vfs>) -> impl FnOnce(Result<Attr>) + Send + 'static {
    move |outcome| match outcome {
        Ok(attr) => reply.attr(&vfs.believed_of(attr.ino), &shown(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

/// An open file, with `more` said of it than how its pages are kept.
pub(super) fn opened(reply: ReplyOpen, more: FopenFlags) -> impl FnOnce(Result<Opened>) + Send + 'static {
    move |outcome| match outcome {
        Ok(Opened { handle, backing: Some(id), .. }) => {
            #[expect(unsafe_code, reason = "fuser cannot know that the id is one")]
            // SAFETY: the id is of this connection and is not closed before the handle is released.
            let backing = unsafe { reply.wrap_backing(id) };
            // Never with FOPEN_KEEP_CACHE, which the kernel answers with EIO.
            reply.opened_passthrough(FileHandle(handle.0), more, &backing);
            // Who lent it closes it.
            let _ = backing.into_raw();
        }
        Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen(&opened) | more),
        Err(error) => reply.error(errno(error)),
    }
}

/// A file that was just made, open.
pub(super) fn created(reply: ReplyCreate, vfs: Arc<Vfs>) -> impl FnOnce(Result<(Attr, Opened)>) + Send + 'static {
    move |outcome| match outcome {
        Ok((attr, opened)) => {
            let believed = vfs.believed_of(attr.ino);
            reply.created(&believed, &shown(&attr), GENERATION, FileHandle(opened.handle.0), fopen(&opened));
        }
        Err(error) => reply.error(errno(error)),
    }
}

/// Bytes of a file, told while they are held.
pub(super) fn data(reply: ReplyData, unique: u64, gather: Gather) -> impl FnOnce(Result<Answer>) + Send + 'static {
    move |outcome| match outcome {
        Ok(answer) => gather.reply(unique, reply, answer.data.pieces()),
        Err(error) => reply.error(errno(error)),
    }
}

/// How many bytes were taken.
pub(super) fn written(reply: ReplyWrite) -> impl FnOnce(Result<u32>) + Send + 'static {
    move |outcome| match outcome {
        Ok(written) => reply.written(written),
        Err(error) => reply.error(errno(error)),
    }
}

/// As many names as the reply holds.
pub(super) fn listed(mut reply: ReplyDirectory) -> impl FnOnce(Result<Vec<Listed>>) + Send + 'static {
    move |outcome| {
        let listed = match outcome {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(error)),
        };
        for entry in &listed {
            if reply.add(INodeNo(entry.ino.0), entry.next, kind(entry.kind), OsStr::from_bytes(&entry.name)) {
                break;
            }
        }
        reply.ok();
    }
}

/// As many names of `dir` as the reply holds with their attributes: the kernel counts each as looked up.
pub(super) fn listed_plus(
    mut reply: ReplyDirectoryPlus,
    vfs: Arc<Vfs>,
    dir: Ino,
) -> impl FnOnce(Result<Vec<Listed>>) + Send + 'static {
    move |outcome| {
        let listed = match outcome {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(error)),
        };
        for entry in &listed {
            // A directory that went meanwhile ends here.
            let Ok(taken) = vfs.take_listed(dir, entry) else { break };
            let (attr, name) = (shown(&taken.attr), OsStr::from_bytes(&entry.name));
            let ttl = if taken.sure { vfs.believed_of(taken.attr.ino) } else { Duration::ZERO };
            if reply.add(attr.ino, entry.next, name, &ttl, &attr, GENERATION) {
                if taken.counted {
                    vfs.forget(taken.attr.ino, 1);
                }
                break;
            }
        }
        reply.ok();
    }
}

/// What `df` shows: the volume's own size, where it has one, else that of the store's file system, where it has such.
pub(super) fn usage(reply: ReplyStatfs) -> impl FnOnce(Result<(Option<Space>, Usage)>) + Send + 'static {
    move |outcome| match outcome {
        Ok((space, usage)) => {
            let Shown { blocks, free, available, files, free_files } = shown_space(space, &usage);
            reply.statfs(blocks, free, available, files, free_files, BLOCK, 255, BLOCK);
        }
        Err(error) => reply.error(errno(error)),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Shown {
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    free_files: u64,
}

fn shown_space(space: Option<Space>, usage: &Usage) -> Shown {
    let block = u64::from(BLOCK);
    let used = usage.bytes.div_ceil(block);
    let inodes = (u64::from(u32::MAX), u64::from(u32::MAX).saturating_sub(usage.inodes));
    let (files, free_files) =
        space.filter(|space| space.files > 0).map_or(inodes, |space| (space.files, space.free_files));
    match (usage.limit, space) {
        (None, Some(Space { total, free, available, .. })) => {
            Shown { blocks: total / block, free: free / block, available: available / block, files, free_files }
        }
        (limit, space) => {
            let blocks = (limit.unwrap_or(CAPACITY) / block).max(used);
            let available = space.map_or(u64::MAX, |space| space.available / block);
            Shown { blocks, free: blocks - used, available: (blocks - used).min(available), files, free_files }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_shows_the_volumes_size_or_the_servers() {
        let usage = |limit| Usage { bytes: 3 * 4096 - 1, inodes: 7, limit, counted: None };
        let space = Space { total: 4096 * 100, free: 4096 * 50, available: 4096 * 40, files: 9, free_files: 5 };
        let shown = |space, limit| {
            let Shown { blocks, free, available, files, free_files } = shown_space(space, &usage(limit));
            [blocks, free, available, files, free_files]
        };
        let (all, left) = (u64::from(u32::MAX), u64::from(u32::MAX) - 7);
        assert_eq!(shown(Some(space), None), [100, 50, 40, 9, 5]);
        let used = 3;
        let (few, many) = (4096 * 20, 4096 * 90);
        assert_eq!(shown(Some(space), Some(few)), [20, 20 - used, 20 - used, 9, 5]);
        assert_eq!(shown(Some(space), Some(many)), [90, 90 - used, 40, 9, 5]);
        assert_eq!(shown(None, Some(few))[..3], [20, 20 - used, 20 - used]);
        assert_eq!(shown(None, None)[3..], [all, left]);
        assert_eq!(shown(Some(Space { files: 0, free_files: 0, ..space }), None), [100, 50, 40, all, left]);
    }
}
