//! The disk's own calls. All of them pass through here, so that tests can stage a full, slow or failing disk, and the
//! end of the process between any two changes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
#[cfg(test)]
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// See the module. Cloning shares what is staged.
#[derive(Debug, Clone, Default)]
pub(super) struct Medium {
    #[cfg(test)]
    pub(super) staged: Arc<Mutex<Staged>>,
}

/// What a test has the disk do.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// So many more changes are made; of the next a half, and then nothing more.
    pub(super) changes_left: Option<u64>,
    /// Changes so far.
    pub(super) changes: u64,
    /// Every change fails with this.
    pub(super) refuse: Option<rustix::io::Errno>,
    /// Every call takes so long.
    pub(super) slow: std::time::Duration,
}

impl Medium {
    #[cfg(test)]
    fn before_change(&self) -> io::Result<Fate> {
        self.before_read();
        let mut staged = self.staged.lock().unwrap();
        if let Some(errno) = staged.refuse {
            return Err(errno.into());
        }
        staged.changes += 1;
        match &mut staged.changes_left {
            Some(0) => Err(io::Error::other("the process is gone")),
            Some(left) => {
                *left -= 1;
                Ok(if *left == 0 { Fate::Half } else { Fate::Whole })
            }
            None => Ok(Fate::Whole),
        }
    }

    #[cfg(test)]
    fn before_read(&self) {
        let slow = self.staged.lock().unwrap().slow;
        std::thread::sleep(slow);
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "tests have it fail")]
    fn before_change(&self) -> io::Result<Fate> {
        Ok(Fate::Whole)
    }

    #[cfg(not(test))]
    fn before_read(&self) {}

    /// Opens `name` in `dir`, for writing too where that is allowed; tells whether it is. `NotFound` where there is none.
    pub(super) fn open(&self, dir: impl AsFd, name: &str) -> io::Result<(File, bool)> {
        self.before_read();
        let open = |how| rustix::fs::openat(&dir, name, how | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        match open(OFlags::RDWR) {
            Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => Ok((open(OFlags::RDONLY)?.into(), false)),
            other => Ok((other?.into(), true)),
        }
    }

    /// Makes an empty file in `dir`, in the place of whatever has its name.
    pub(super) fn create(&self, dir: impl AsFd, name: &str) -> io::Result<File> {
        self.before_change()?;
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(dir, name, how, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a directory where there is none.
    pub(super) fn make_dir(&self, dir: impl AsFd, name: &str) -> io::Result<()> {
        self.before_change()?;
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Opens a directory in `dir`.
    pub(super) fn open_dir(&self, dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
        self.before_read();
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(dir, name, how, Mode::empty())?)
    }

    /// The names in a directory.
    pub(super) fn names(&self, dir: impl AsFd) -> io::Result<Vec<String>> {
        self.before_read();
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            // What has no text for a name is none of ours.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    pub(super) fn stat(&self, dir: impl AsFd, name: &str) -> io::Result<Stat> {
        self.before_read();
        Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Says that `file` was used now.
    pub(super) fn touch(&self, file: &File) -> io::Result<()> {
        self.before_change()?;
        let at = |nsec| Timespec { tv_sec: 0, tv_nsec: nsec };
        let times = Timestamps { last_access: at(UTIME_OMIT), last_modification: at(UTIME_NOW) };
        Ok(rustix::fs::futimens(file, &times)?)
    }

    pub(super) fn rename(&self, dir: impl AsFd, from: &str, to: &str) -> io::Result<()> {
        self.before_change()?;
        Ok(rustix::fs::renameat(&dir, from, &dir, to)?)
    }

    /// Removes a file; fine where there is none.
    pub(super) fn unlink(&self, dir: impl AsFd, name: &str) -> io::Result<()> {
        self.before_change()?;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes a file, which is empty, so long, without a byte in it.
    pub(super) fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.before_change()?;
        file.set_len(length)
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.before_change()?;
        file.sync_all()
    }

    /// Writes `pieces` one after the other from `at` on.
    pub(super) fn write(&self, file: &File, pieces: &[Bytes], mut at: u64) -> io::Result<()> {
        #[cfg_attr(not(test), expect(unused_variables, reason = "tests end a write in its middle"))]
        let fate = self.before_change()?;
        for piece in pieces {
            #[cfg(test)]
            if fate == Fate::Half {
                file.write_all_at(&piece[..piece.len() / 2], at)?;
                return Err(io::Error::other("the process is gone"));
            }
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The bytes of `file` from `at` on: `length` of them, or fewer at its end.
    pub(super) fn read(&self, file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
        self.before_read();
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let from = at + bytes.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), from) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Bytes of the file system below `dir` that are free for its owner, and that there are at all.
    pub(super) fn space(&self, dir: impl AsFd) -> io::Result<(u64, u64)> {
        self.before_read();
        let stat = rustix::fs::fstatvfs(dir)?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    #[cfg(test)]
    Half,
}
