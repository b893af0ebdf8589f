//! fuser's trait over [`Vfs`].

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::answer::Answers;
use super::errno::errno;
use super::words::{fopen, how, kind, nothing, shown, time};
use crate::vfs::{Attr, Error, Handle, Ino, OpenOptions, Opened, Owner, Seek, SetAttr, Vfs};

/// For ever, as far as a kernel's lifetime goes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Entries asked of a directory for one reply; more than a reply of the kernel's usual size holds.
const ENTRIES: usize = 1024;

/// Entries asked for a reply that carries attributes.
const ENTRIES_PLUS: usize = 256;

/// What `df` shows as the volume's size where nothing limits it: 1 PiB.
const CAPACITY: u64 = 1 << 50;

const BLOCK: u32 = 4096;

/// Inode numbers are never used for a second file.
const GENERATION: Generation = Generation(0);

/// A volume as fuser sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    answers: Answers,
    max_background: u16,
}

impl Adapter {
    pub(super) fn new(answers: Answers, max_background: u16) -> Adapter {
        Adapter { answers, max_background }
    }

    /// How long the kernel may believe what it is told now.
    fn ttl(&self) -> Duration {
        let config = self.answers.vfs.config();
        if config.immutable { FOR_EVER } else { config.ttl.get() }
    }

    fn vfs(&self) -> Arc<Vfs> {
        self.answers.vfs.clone()
    }

    /// Replies with a name and its attributes, or with its absence, which the kernel may believe as long.
    fn entry(&self, reply: ReplyEntry) -> impl FnOnce(Result<Attr, Error>) + Send + 'static {
        let ttl = self.ttl();
        move |outcome| match outcome {
            Ok(attr) => reply.entry(&ttl, &shown(&attr), GENERATION),
            Err(Error::NotFound) => reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing(), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// Closes what was opened for a caller that does not wait any more.
async fn close(vfs: Arc<Vfs>, opened: Opened) {
    if let Err(error) = vfs.release(opened.handle).await {
        tracing::warn!("a file whose open nobody waited for was not closed well: {error}");
    }
}

/// Replies with success or an errno.
fn done(reply: ReplyEmpty) -> impl FnOnce(Result<(), Error>) + Send + 'static {
    move |outcome| match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// Every call but `batch_forget`, whose argument cannot be named outside fuser and whose default is right; a default
/// of another may answer ENOSYS, which ends that call for good. A test counts them, since
/// `clippy::missing_trait_methods` cannot spare one.
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it `> f` arrives as a truncation by path, indistinguishable from truncate(2).
        config
            .add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC)
            .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "this kernel has no FUSE_ATOMIC_O_TRUNC"))?;
        for wanted in [
            // Lookups and listings of one directory go side by side.
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            // Set-id bits and capabilities are kept nowhere: no write needs to ask for them.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if let Err(missing) = config.add_capabilities(wanted) {
                tracing::info!(?missing, "this kernel's FUSE lacks a capability");
            }
        }
        let _ = config.set_max_background(self.max_background);
        Ok(())
    }

    fn destroy(&mut self) {}

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        self.answers.ask(req.pid(), async move { vfs.lookup(parent, &name).await }, self.entry(reply));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.answers.vfs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.answers.vfs.getattr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&self.ttl(), &shown(&attr)),
            Err(error) => reply.error(errno(error)),
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
        let set = SetAttr { size, mode, uid, gid, atime: atime.map(time), mtime: mtime.map(time) };
        let (vfs, ino, ttl) = (self.vfs(), Ino(ino.0), self.ttl());
        let handle = fh.map(|fh| Handle(fh.0));
        self.answers.change(
            req.pid(),
            async move { vfs.setattr(ino, handle, set).await },
            move |outcome| match outcome {
                Ok(attr) => reply.attr(&ttl, &shown(&attr)),
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn readlink(&self, _req: &Request, _ino: INodeNo, reply: ReplyData) {
        // There are no symbolic links.
        reply.error(Errno::EINVAL);
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

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let (vfs, parent, name, ttl) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec(), self.ttl());
        let call = {
            let vfs = vfs.clone();
            async move { vfs.mkdir(parent, &name).await }
        };
        let reply = move |outcome: Result<Attr, Error>| match outcome {
            Ok(attr) => reply.entry(&ttl, &shown(&attr), GENERATION),
            Err(error) => reply.error(errno(error)),
        };
        self.answers.grant(req.pid(), call, reply, move |attr| async move { vfs.forget(attr.ino, 1) });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        self.answers.change(req.pid(), async move { vfs.unlink(parent, &name).await }, done(reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec());
        self.answers.change(req.pid(), async move { vfs.rmdir(parent, &name).await }, done(reply));
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _link_name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
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
        self.answers.transfer(req.pid(), call, done(reply));
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, ino) = (self.vfs(), Ino(ino.0));
        let how = OpenOptions { exclusive: false, ..how(flags.0) };
        let call = {
            let vfs = vfs.clone();
            async move { vfs.open(ino, how).await }
        };
        let reply = move |outcome: Result<Opened, Error>| match outcome {
            Ok(opened) => {
                let mut flags = fopen(&opened);
                if !how.write && !how.truncate {
                    // Nothing of it can be left to publish.
                    flags |= FopenFlags::FOPEN_NOFLUSH;
                }
                reply.opened(FileHandle(opened.handle.0), flags);
            }
            Err(error) => reply.error(errno(error)),
        };
        self.answers.grant(req.pid(), call, reply, move |opened| close(vfs, opened));
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        let call = async move { vfs.answer(handle, offset, size).await };
        self.answers.ask(req.pid(), call, move |outcome| match outcome {
            // Told while it is held.
            Ok(answer) => reply.data(&answer.bytes),
            Err(error) => reply.error(errno(error)),
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
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, handle, data) = (self.vfs(), Handle(fh.0), Bytes::copy_from_slice(data));
        let owner = lock_owner.map(|owner| Owner(owner.0));
        let call = async move { vfs.write(handle, offset, data, owner).await };
        self.answers.transfer(req.pid(), call, move |outcome| match outcome {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let (vfs, handle, owner) = (self.vfs(), Handle(fh.0), Owner(lock_owner.0));
        self.answers.transfer(req.pid(), async move { vfs.flush(handle, owner).await }, done(reply));
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
        self.answers.transfer(req.pid(), async move { vfs.release(handle).await }, done(reply));
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        self.answers.transfer(req.pid(), async move { vfs.fsync(handle).await }, done(reply));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Elsewhere a listing that the kernel keeps would hide what others add for as long as the directory is used.
        let flags = match self.answers.vfs.config().immutable {
            true => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        };
        match self.answers.vfs.open_dir(Ino(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle.0), flags),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (vfs, handle) = (self.vfs(), Handle(fh.0));
        let call = async move { vfs.read_dir(handle, offset, ENTRIES).await };
        self.answers.ask(req.pid(), call, move |outcome| match outcome {
            Ok(listed) => {
                for entry in &listed {
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(INodeNo(entry.ino.0), entry.next, kind(entry.kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let (vfs, dir, handle, ttl) = (self.vfs(), Ino(ino.0), Handle(fh.0), self.ttl());
        let call = {
            let vfs = vfs.clone();
            async move { vfs.read_dir(handle, offset, ENTRIES_PLUS).await }
        };
        self.answers.ask(req.pid(), call, move |outcome| {
            let listed = match outcome {
                Ok(listed) => listed,
                Err(error) => return reply.error(errno(error)),
            };
            for entry in &listed {
                // A directory that went meanwhile ends here.
                let Ok(taken) = vfs.take_listed(dir, entry) else { break };
                let (attr, name) = (shown(&taken.attr), OsStr::from_bytes(&entry.name));
                let ttl = if taken.sure { ttl } else { Duration::ZERO };
                if reply.add(attr.ino, entry.next, name, &ttl, &attr, GENERATION) {
                    if taken.counted {
                        vfs.forget(taken.attr.ino, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        done(reply)(self.answers.vfs.close_dir(Handle(fh.0)));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Names are in the store as soon as a call returns.
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let usage = self.answers.vfs.usage();
        let used = usage.bytes.div_ceil(u64::from(BLOCK));
        let blocks = (usage.limit.unwrap_or(CAPACITY) / u64::from(BLOCK)).max(used);
        let (files, free) = (u64::from(u32::MAX), u64::from(u32::MAX).saturating_sub(usage.inodes));
        reply.statfs(blocks, blocks - used, blocks - used, files, free, BLOCK, 255, BLOCK);
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
        reply.error(Errno::EOPNOTSUPP);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        match size {
            0 => reply.size(0),
            _ => reply.data(&[]),
        }
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Asked only of mounts without `default_permissions`, where the store decides when it is used.
        done(reply)(self.answers.vfs.getattr(Ino(ino.0)).map(drop));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, parent, name, ttl) = (self.vfs(), Ino(parent.0), name.as_bytes().to_vec(), self.ttl());
        let call = {
            let vfs = vfs.clone();
            async move { vfs.create(parent, &name, how(flags)).await }
        };
        let reply = move |outcome: Result<(Attr, Opened), Error>| match outcome {
            Ok((attr, opened)) => {
                reply.created(&ttl, &shown(&attr), GENERATION, FileHandle(opened.handle.0), fopen(&opened));
            }
            Err(error) => reply.error(errno(error)),
        };
        self.answers.grant(req.pid(), call, reply, move |(attr, opened)| async move {
            vfs.forget(attr.ino, 1);
            close(vfs, opened).await;
        });
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
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
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

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.answers.vfs.seek(Handle(fh.0), offset, what) {
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
        reply.error(Errno::EOPNOTSUPP);
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
