//! What the library reads by a path, and nobody else by any: a file in memory.
//!
//! It is one without a name (memfd_create(2)), which this process finds below `/proc/self/fd`. A worker that sees nothing
//! of the node's files has no `/proc`: it has an empty file system in memory of its own instead, in a mount namespace of
//! its own. Both end with the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};

static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Where files are made from now on, once for the process; without a folder they have no name.
pub(super) fn keep_in(folder: Option<PathBuf>) {
    let _ = FOLDER.set(folder);
}

/// A file, for as long as this is there.
#[derive(Debug)]
pub(super) struct Held {
    path: String,
    /// Where it has no name.
    file: Option<File>,
}

impl Held {
    /// # Errors
    /// Where there is no memory for it.
    pub(super) fn new(content: &[u8]) -> io::Result<Held> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let held = match FOLDER.get().and_then(Option::as_ref) {
            Some(folder) => {
                let path = folder.join(MADE.fetch_add(1, Ordering::Relaxed).to_string());
                Held { path: path.to_string_lossy().into_owned(), file: None }
            }
            None => {
                let file = File::from(memfd_create("kerberos", MemfdFlags::CLOEXEC)?);
                Held { path: format!("/proc/self/fd/{}", file.as_raw_fd()), file: Some(file) }
            }
        };
        held.replace(content)?;
        Ok(held)
    }

    /// From now on it holds `content`.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub(super) fn replace(&self, content: &[u8]) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(content, 0)?;
            return file.set_len(content.len() as u64);
        }
        let new = format!("{}.new", self.path);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        fs::rename(new, &self.path)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.file.is_none() {
            // It fails where it is gone.
            let _ = fs::remove_file(Path::new(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_by_its_path_again_and_again_and_gone_with_its_value() {
        let held = Held::new(b"content").unwrap();
        for _ in 0..2 {
            assert_eq!(fs::read(held.path()).unwrap(), b"content");
        }
        held.replace(b"other").unwrap();
        assert_eq!(fs::read(held.path()).unwrap(), b"other");
        let link = fs::read_link(held.path()).unwrap();
        assert!(link.to_string_lossy().starts_with("/memfd:kerberos"), "{link:?}");
        let path = held.path().to_owned();
        drop(held);
        assert!(fs::read(&path).ok().is_none_or(|content| content != b"other"));
    }
}
