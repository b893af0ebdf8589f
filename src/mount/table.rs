//! The truth about what is mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Reading it asks nothing of any mounted file system, so it answers where one is dead or frozen. A mount point is
//! never looked at in any other way here.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::MountInfo;

use super::{Error, kernel};

/// The type of our mounts, as mountinfo shows it.
pub(super) const FILE_SYSTEM: &str = "fuse.millrace";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) point: PathBuf,
    /// `major:minor` of the file system's device. The minor number names a FUSE connection.
    pub(super) device: String,
    /// `fuse.millrace`, `ext4`, ...
    pub(super) file_system: String,
    /// What it says it is a mount of.
    pub(super) source: String,
}

impl Mount {
    /// Made by this driver.
    pub(super) fn is_ours(&self) -> bool {
        self.file_system == FILE_SYSTEM
    }
}

/// All mounts that this process sees, in the order they were made: of several at one point the last is on top.
#[derive(Debug)]
pub(super) struct Table(Vec<Mount>);

impl Table {
    /// Reads the table anew.
    pub(super) fn read() -> Result<Table, Error> {
        match std::fs::read("/proc/self/mountinfo") {
            Ok(text) => Ok(Table::parse(&text)),
            Err(error) => Err(Error::System(format!("the table of mounts, /proc/self/mountinfo: {error}"))),
        }
    }

    /// A line that cannot be understood (a foreign mount's odd words) is passed over.
    fn parse(text: &[u8]) -> Table {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Table(lines.filter_map(|line| MountInfo::from_line(&String::from_utf8_lossy(line)).ok()).map(mount).collect())
    }

    /// What is on top at `point`.
    pub(super) fn top(&self, point: &Path) -> Option<&Mount> {
        self.0.iter().rfind(|mount| mount.point == point)
    }

    /// Whether our mount of `device` is to be seen anywhere but below `private`.
    pub(super) fn is_shown(&self, device: &str, private: &Path) -> bool {
        self.of(device).any(|mount| !mount.point.starts_with(private))
    }

    /// Our mounts of `device`: a private one, and those at targets.
    pub(super) fn of(&self, device: &str) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.is_ours() && mount.device == device)
    }
}

fn mount(info: MountInfo) -> Mount {
    Mount {
        point: unescape(info.mount_point.as_os_str()),
        device: info.majmin,
        file_system: info.fs_type,
        source: unescape(OsStr::new(&info.mount_source.unwrap_or_default())).to_string_lossy().into_owned(),
    }
}

/// mountinfo writes blank, tab, newline, `\` and `#` as a backslash and three octal digits; procfs leaves them.
fn unescape(text: &OsStr) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &rest[4..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// [`resolve_now`], for a file system that may not answer.
pub(super) async fn resolve(target: &Path) -> Result<Option<PathBuf>, Error> {
    let target = target.to_owned();
    kernel::promptly("looking at the parent of the target path", move || resolve_now(&target)).await
}

/// The path under which mountinfo knows `target`: its parent without symbolic links. `None` where the parent is not
/// there, so that nothing can be mounted either. The target itself is not touched.
fn resolve_now(target: &Path) -> Result<Option<PathBuf>, Error> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::System(format!("the target path {target:?} names no directory below another")));
    };
    if !target.is_absolute() {
        return Err(Error::System(format!("the target path {target:?} is not absolute")));
    }
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.is_dir().then(|| parent.join(name))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::System(format!("the parent of the target path, {parent:?}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"36 35 98:0 / / rw,noatime master:1 - ext3 /dev/root rw\n\
        40 36 0:50 / /pods/a\\040b\\134c rw,nosuid,nodev shared:7 - fuse.millrace pv-1 rw,user_id=0,allow_other\n\
        41 36 0:51 / /odd\xff\xfe rw - fuse.other x rw\n\
        nonsense\n\
        42 36 0:52 / /pods/a\\040b\\134c rw - tmpfs none rw\n\
        43 36 0:53 / /state/mounts/1 ro - fuse.millrace vol\\043ume rw\n";

    #[test]
    fn paths_come_as_they_are_and_the_last_is_on_top() {
        let table = Table::parse(LINES);
        let top = table.top(Path::new("/pods/a b\\c")).unwrap();
        assert_eq!((top.device.as_str(), top.is_ours()), ("0:52", false));
        let other = table.top(Path::new("/state/mounts/1")).unwrap();
        assert_eq!((other.device.as_str(), other.source.as_str(), other.is_ours()), ("0:53", "vol#ume", true));
        assert!(table.top(Path::new("/")).is_some());
        assert!(table.is_shown("0:50", Path::new("/state")) && !table.is_shown("0:53", Path::new("/state")));
        assert!(!table.is_shown("0:52", Path::new("/state")), "not ours");
    }

    #[test]
    fn a_target_is_known_by_its_real_parent() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("real")).unwrap();
        std::os::unix::fs::symlink(real.join("real"), real.join("link")).unwrap();
        std::fs::write(real.join("file"), "").unwrap();
        assert_eq!(resolve_now(&real.join("link/target")).unwrap(), Some(real.join("real/target")));
        assert_eq!(resolve_now(&real.join("none/target")).unwrap(), None);
        assert_eq!(resolve_now(&real.join("file/target")).unwrap(), None);
        assert!(resolve_now(Path::new("relative/target")).is_err());
        assert!(resolve_now(Path::new("/")).is_err());
    }
}
