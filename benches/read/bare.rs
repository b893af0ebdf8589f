//! The yardstick of what is served from the node's disk without passthrough: a FUSE server of one thread that answers each
//! read by one `pread`, and does nothing else.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    Request, Session,
};
use procfs::process::Process;

/// Nothing changes while it serves.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A local directory, shown again at another place. Unmounted when this is dropped.
pub(crate) struct Bare {
    _session: BackgroundSession,
    target: PathBuf,
}

impl Bare {
    /// Shows `root` at `target`.
    pub(crate) fn start(root: &Path, target: &Path) -> Result<Bare> {
        fs::create_dir_all(target)?;
        let served = Served(Mutex::new(Known { paths: vec![root.to_owned()], ..Known::default() }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("bare".into()), MountOption::RO];
        let session = Session::new(served, target, &config).context("the bare server cannot be mounted")?;
        Ok(Bare { _session: session.spawn()?, target: target.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.target
    }

    /// Processor seconds of the thread that serves.
    pub(crate) fn cpu() -> Result<f64> {
        let mut ticks = 0;
        for task in Process::myself()?.tasks()? {
            let stat = task?.stat()?;
            // As the library names its threads.
            if stat.comm.starts_with("fuser-") {
                ticks += stat.utime + stat.stime;
            }
        }
        Ok(ticks as f64 / procfs::ticks_per_second() as f64)
    }
}

/// What the kernel knows of the tree, by number: that of an inode is its path's place here, and one more.
#[derive(Default)]
struct Known {
    paths: Vec<PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, Arc<File>>,
    last_open: u64,
}

struct Served(Mutex<Known>);

impl Served {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, ino: INodeNo) -> PathBuf {
        self.known().paths[ino.0 as usize - 1].clone()
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let path = self.path(parent).join(name);
        let metadata = fs::symlink_metadata(&path)?;
        let Known { paths, numbers, .. } = &mut *self.known();
        let number = *numbers.entry(path.clone()).or_insert_with(|| {
            paths.push(path);
            paths.len() as u64
        });
        Ok(attributes(INodeNo(number), &metadata))
    }

    fn entries(&self, dir: INodeNo) -> io::Result<Vec<(OsString, FileType)>> {
        let entry =
            |entry: io::Result<fs::DirEntry>| entry.and_then(|one| Ok((one.file_name(), kind(one.file_type()?))));
        fs::read_dir(self.path(dir))?.map(entry).collect()
    }
}

fn kind(kind: fs::FileType) -> FileType {
    if kind.is_dir() { FileType::Directory } else { FileType::RegularFile }
}

fn attributes(ino: INodeNo, metadata: &Metadata) -> FileAttr {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino,
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: kind(metadata.file_type()),
        perm: (metadata.mode() & 0o777) as u16,
        nlink: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(attributes) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match fs::symlink_metadata(self.path(ino)) {
            Ok(metadata) => reply.attr(&FOR_EVER, &attributes(ino, &metadata)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match File::open(self.path(ino)) {
            Ok(file) => {
                let known = &mut *self.known();
                known.last_open += 1;
                known.open.insert(known.last_open, Arc::new(file));
                reply.opened(FileHandle(known.last_open), FopenFlags::empty());
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.known().open.get(&fh.0).cloned() else { return reply.error(Errno::EBADF) };
        let mut buffer = vec![0; size as usize];
        match file.read_at(&mut buffer, offset) {
            Ok(length) => reply.data(&buffer[..length]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.known().open.remove(&fh.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.entries(ino) {
            Ok(entries) => {
                for (at, (name, kind)) in entries.iter().enumerate().skip(offset as usize) {
                    // The number counts only where somebody looks it up.
                    if reply.add(INodeNo(u64::MAX), at as u64 + 1, *kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }
}
