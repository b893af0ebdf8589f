//! fuser's trait over [`Vfs`]: a request's words to a call. What the call comes to is replied in [`super::reply`].

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::time::Instant;

use super::answer::Answers;
use super::errno::errno;
use super::gather::Gather;
use super::handshake::negotiate;
use super::never_again::NEVER_AGAIN;
use super::operations::Operation;
use super::reply::{self, done};
use super::silences::Silences;
use super::words::{announcement, how, rights, time};
use crate::vfs::{Attr, Error, Handle, Ino, OpenOptions, Opened, Owner, Seek, SetAttributes, Vfs};

/// Entries asked of a directory for one reply; more than a reply of the kernel's usual size holds.
const ENTRIES: usize = 1024;

/// Entries asked for a reply that carries attributes.
const ENTRIES_PLUS: usize = 256;

/// A volume as fuser sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    answers: Answers,
    max_background: u16,
    /// Whether files may be read past this process; false from INIT on where the kernel cannot.
    passes: Arc<AtomicBool>,
    /// Whether the kernel opens files without asking; false from INIT on where it cannot.
    skips: bool,
    gather: Gather,
    silent_names: Arc<Silences<(Ino, Vec<u8>)>>,
    silent_ranges: Arc<Silences<(Ino, Range<u64>)>>,
}

impl Adapter {
    pub(super) fn new(
        answers: Answers,
        max_background: u16,
        passes: Arc<AtomicBool>,
        skips: bool,
        gather: Gather,
    ) -> Adapter {
        let (silent_names, silent_ranges) = (Arc::default(), Arc::default());
        Adapter { answers, max_background, passes, skips, gather, silent_names, silent_ranges }
    }

    /// How long the kernel may believe what it is told now.
    fn ttl(&self) -> Duration {
        self.answers.vfs.believed()
    }

    fn vfs(&self) -> Arc<Vfs> {
        self.answers.vfs.clone()
    }
}

/// Closes what was opened for a caller that does not wait any more.
async fn close(vfs: Arc<Vfs>, opened: Opened) {
    if let Err(error) = vfs.release(opened.handle).await {
        tracing::warn!("a file whose open nobody waited for was not closed well: {error}");
    }
}

/// Every call but `batch_forget`, whose argument cannot be named outside fuser and whose default is right; a default
/// of another may answer ENOSYS, which ends that call for good. A test counts them, since
/// `clippy::missing_trait_methods` cannot spare one.
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.max_background, &self.passes, &mut self.skips, self.answers.vfs.in_place())
    }

    fn destroy(&mut self) {}

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        let (looked_for, reply) = ((parent, name.clone()), reply::looked_up(reply, self.ttl()));
        if self.silent_names.take(|name| *name == looked_for) {
            return self.answers.operations.counted(Operation::Lookup, reply)(Err(Error::Io));
        }
        let (silences, asked) = (self.silent_names.clone(), Instant::now());
        let call = async move { vfs.look_up(parent, &name).await };
        self.answers.ask(Operation::Lookup, req.pid(), call, move |outcome| {
            if outcome == Err(Error::Io) {
                silences.note(looked_for, asked);
            }
            reply(outcome);
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.answers.vfs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, ino, reply) = (self.vfs(), Ino(ino.0), reply::attributes(reply, self.vfs()));
        match vfs.in_place() {
            true => self.answers.ask(Operation::GetAttr, req.pid(), async move { vfs.getattr_now(ino).await }, reply),
            false => self.answers.operations.counted(Operation::GetAttr, reply)(vfs.getattr(ino)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes { size, mode, uid, gid, atime: atime.map(time), mtime: mtime.map(time) };
        let (vfs, ino) = (self.vfs(), Ino(ino.0));
        // The kernel tells the lock owner here too, but fuser keeps it to itself.
        let through = fh.map(|fh| (Handle(fh.0), (req.pid() != 0).then_some(Owner::Thread(req.pid()))));
        let call = async move { vfs.setattr(ino, through, set).await };
        self.answers.change(Operation::SetAttr, req.pid(), call, reply::attributes(reply, self.vfs()));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (vfs, ino) = (self.vfs(), Ino(ino.0));
        self.answers.ask(Operation::Link, req.pid(), async move { vfs.readlink(ino).await }, move |outcome| {
            match outcome {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        let call = {
            let vfs = vfs.clone();
            async move { vfs.mkdir_with(parent, &name, Some(mode)).await }
        };
        let take_back = move |attr: Attr| async move { vfs.forget(attr.ino, 1) };
        self.answers.grant(Operation::MkDir, req.pid(), call, reply::made(reply, self.ttl()), take_back);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        self.answers.change(Operation::Unlink, req.pid(), async move { vfs.unlink(parent, &name).await }, done(reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        self.answers.change(Operation::RmDir, req.pid(), async move { vfs.rmdir(parent, &name).await }, done(reply));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), link_name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        let call = {
            let vfs = vfs.clone();
            async move { vfs.symlink(parent, &name, &target).await }
        };
        let take_back = move |attr: Attr| async move { vfs.forget(attr.ino, 1) };
        self.answers.grant(Operation::Link, req.pid(), call, reply::made(reply, self.ttl()), take_back);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let vfs = self.vfs();
        let (parent, name) = (Ino(parent.0), name.as_bytes().to_vec());
        let (newparent, newname) = (Ino(newparent.0), newname.as_bytes().to_vec());
        let call = async move { vfs.rename((parent, &name), (newparent, &newname), keep).await };
        self.answers.transfer(Operation::Rename, req.pid(), call, done(reply));
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (vfs, ino, parent) = (self.vfs(), Ino(ino.0), Ino(newparent.0));
        let name = newname.as_bytes().to_vec();
        let call = {
            let vfs = vfs.clone();
            async move { vfs.link(ino, parent, &name).await }
        };
        let take_back = move |attr: Attr| async move { vfs.forget(attr.ino, 1) };
        self.answers.grant(Operation::Link, req.pid(), call, reply::made(reply, self.ttl()), take_back);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.skips {
            return reply.error(NEVER_AGAIN);
        }
        let (vfs, ino) = (self.vfs(), Ino(ino.0));
        let how = OpenOptions { exclusive: false, ..how(flags.0) };
        let call = {
            let vfs = vfs.clone();
            async move { vfs.open(ino, how).await }
        };
        // Nothing of one that only reads can be left to publish.
        let more = if how.write || how.truncate { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH };
        self.answers
            .grant(Operation::Open, req.pid(), call, reply::opened(reply, more), move |opened| close(vfs, opened));
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, skips) = (self.vfs(), self.skips);
        let call = async move {
            match skips {
                true => vfs.answer_unopened(Ino(ino.0), offset, size).await,
                false => vfs.answer(Handle(fh.0), offset, size).await,
            }
        };
        let (operations, reply) =
            (self.answers.operations.clone(), reply::data(reply, req.unique().0, self.gather.clone()));
        if self.silent_ranges.take(|(of, range)| *of == Ino(ino.0) && range.contains(&offset)) {
            return operations.counted(Operation::Read, reply)(Err(Error::Io));
        }
        let (silences, asked, wanted) = (self.silent_ranges.clone(), Instant::now(), offset..offset + u64::from(size));
        self.answers.ask(Operation::Read, req.pid(), call, move |outcome| {
            if matches!(outcome, Err(Error::Io)) {
                silences.note((Ino(ino.0), wanted), asked);
            }
            operations.read(outcome.as_ref().map_or(0, |answer| answer.data.len()));
            reply(outcome);
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, handle, data) = (self.vfs(), Handle(fh.0), Bytes::copy_from_slice(data));
        let owner = lock_owner.map(|owner| Owner::Files(owner.0));
        let call = async move {
            match flags.0 & libc::O_APPEND != 0 {
                true => vfs.append(handle, offset, data, owner).await,
                false => vfs.write(handle, offset, data, owner).await,
            }
        };
        let (operations, reply) = (self.answers.operations.clone(), reply::written(reply));
        self.answers.transfer(Operation::Write, req.pid(), call, move |outcome| {
            operations.written(outcome.unwrap_or_default());
            reply(outcome);
        });
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        if self.skips {
            return reply.error(NEVER_AGAIN);
        }
        let (vfs, handle, owners) = (self.vfs(), Handle(fh.0), [Owner::Files(lock_owner.0), Owner::Thread(req.pid())]);
        let call = async move { vfs.flush(handle, &owners).await };
        self.answers.transfer(Operation::Flush, req.pid(), call, done(reply));
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        self.answers.transfer(Operation::Release, req.pid(), async move { vfs.release(handle).await }, done(reply));
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if self.skips {
            // Nothing is ever written there.
            return reply.ok();
        }
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        self.answers.transfer(Operation::Fsync, req.pid(), async move { vfs.fsync(handle).await }, done(reply));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Elsewhere a listing that the kernel keeps would hide what others add for as long as the directory is used.
        let flags = match self.answers.vfs.config().immutable {
            true => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        };
        let outcome = self.answers.vfs.open_dir(Ino(ino.0));
        self.answers.operations.ended(Operation::OpenDir, &outcome);
        match outcome {
            Ok(handle) => reply.opened(FileHandle(handle.0), flags),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        let call = async move { vfs.read_dir(handle, offset, ENTRIES).await };
        self.answers.ask(Operation::ReadDir, req.pid(), call, reply::listed(reply));
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        let call = async move { vfs.read_dir(handle, offset, ENTRIES_PLUS).await };
        self.answers.ask(Operation::ReadDir, req.pid(), call, reply::listed_plus(reply, self.vfs(), Ino(ino.0)));
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        done(reply)(self.answers.vfs.close_dir(Handle(fh.0)));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Names are in the store as soon as a call returns.
        reply.ok();
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs();
        let call = async move { Ok((vfs.space().await, vfs.usage())) };
        self.answers.ask(Operation::StatFs, req.pid(), call, reply::usage(reply));
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(NEVER_AGAIN);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(NEVER_AGAIN);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        match size {
            0 => reply.size(0),
            _ => reply.data(&[]),
        }
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(NEVER_AGAIN);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Asked by access(2) and chdir(2), and only of mounts without `default_permissions`.
        let (vfs, ino, asked) = (self.vfs(), Ino(ino.0), rights(mask));
        self.answers.ask(Operation::Access, req.pid(), async move { vfs.access(ino, asked).await }, done(reply));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        let (call, told) = {
            let (vfs, told) = (vfs.clone(), vfs.clone());
            (async move { vfs.create_with(parent, &name, how(flags), mode & 0o7777).await }, told)
        };
        let take_back = move |(attr, opened): (Attr, Opened)| async move {
            vfs.forget(attr.ino, 1);
            close(vfs, opened).await;
        };
        self.answers.grant(Operation::Create, req.pid(), call, reply::created(reply, told), take_back);
    }

    fn getlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        // Not negotiated: the kernel keeps the locks of a mount.
        reply.error(Errno::EOPNOTSUPP);
    }

    fn setlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let Some(anew) = announcement(cmd).filter(|_| fh.0 != 0) else { return reply.error(Errno::ENOTTY) };
        let (vfs, handle, paths) = (self.vfs(), Handle(fh.0), Bytes::copy_from_slice(in_data));
        let call = async move { vfs.announce(handle, &paths, anew) };
        self.answers.ask(Operation::Ioctl, req.pid(), call, reply::announced(reply));
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // A regular file is always ready.
        reply.poll(events & (PollEvents::POLLIN | PollEvents::POLLOUT));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let outcome = match self.skips {
            true => self.answers.vfs.seek_unopened(Ino(ino.0), offset, what),
            false => self.answers.vfs.seek(Handle(fh.0), offset, what),
        };
        self.answers.operations.ended(Operation::Seek, &outcome);
        match outcome {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then reads and writes.
        reply.error(NEVER_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    /// The calls of `fuser::Filesystem` 0.18.0 on Linux, without `batch_forget`.
    const CALLS: &[&str] = &[
        "init",
        "destroy",
        "lookup",
        "forget",
        "getattr",
        "setattr",
        "readlink",
        "mknod",
        "mkdir",
        "unlink",
        "rmdir",
        "symlink",
        "rename",
        "link",
        "open",
        "read",
        "write",
        "flush",
        "release",
        "fsync",
        "opendir",
        "readdir",
        "readdirplus",
        "releasedir",
        "fsyncdir",
        "statfs",
        "setxattr",
        "getxattr",
        "listxattr",
        "removexattr",
        "access",
        "create",
        "getlk",
        "setlk",
        "bmap",
        "ioctl",
        "poll",
        "fallocate",
        "lseek",
        "copy_file_range",
    ];

    #[test]
    fn no_call_is_left_to_a_default() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(r#"fuser = { version = "=0.18.0""#), "revise CALLS for the new fuser");
        let code = include_str!("adapter.rs").split("#[cfg(test)]").next().unwrap_or_default();
        for call in CALLS {
            assert!(code.contains(&format!("    fn {call}(")), "{call} is left to fuser's default");
        }
        assert!(!code.contains(concat!("Errno::", "ENOSYS")));
    }
}
