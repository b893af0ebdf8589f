//! What `try` puts into the volume, and how any piece of it can be told from wrong bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;

use crate::sandbox::computed;

/// A tree of files with known content.
#[derive(Debug, Clone)]
pub(super) struct Dataset {
    /// Every file, in name order.
    pub(super) files: Vec<Item>,
}

/// One file: its path below the volume, and where its bytes come from.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Segments joined by `/`.
    pub(super) path: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// Permission bits of a file of one's own.
    pub(super) mode: Option<u32>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Generated { seed: u64 },
    File(PathBuf),
}

const MIB: u64 = 1 << 20;

impl Dataset {
    /// A small training set: a few shards, many small samples in class folders, and the names that trip programs.
    pub(super) fn generated() -> Dataset {
        let mut sizes = Vec::new();
        for shard in 0..3 {
            sizes.push((format!("shards/train-{shard:05}.tar"), 32 * MIB + shard));
        }
        for class in 0..4 {
            for sample in 0..64 {
                sizes.push((format!("samples/class-{class}/{sample:04}.bin"), 48 * 1024 + sample * 97));
            }
        }
        sizes.push(("README.txt".to_owned(), 1234));
        sizes.push(("empty".to_owned(), 0));
        sizes.push(("a name with spaces/\u{e9}t\u{e9} + 100%.bin".to_owned(), 4097));
        sizes.sort();
        let files = sizes
            .into_iter()
            .zip(1..)
            .map(|((path, size), seed)| Item { path, size, mode: None, content: Content::Generated { seed } })
            .collect();
        Dataset { files }
    }

    /// The regular files below `dir`; symbolic links are left out, and counted.
    pub(super) fn of_directory(dir: &Path) -> Result<(Dataset, usize)> {
        let mut files = Vec::new();
        let mut left_out = 0;
        let mut todo = vec![dir.to_path_buf()];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let entry = entry?;
                let (path, kind) = (entry.path(), entry.file_type()?);
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_file() {
                    let below = path.strip_prefix(dir)?.to_str();
                    let Some(below) = below else {
                        bail!("{} is not UTF-8, and an S3 key is: rename it or leave it out", path.display());
                    };
                    let meta = entry.metadata()?;
                    let (size, mode) = (meta.len(), Some(meta.permissions().mode() & 0o777));
                    files.push(Item { path: below.to_owned(), size, mode, content: Content::File(path) });
                } else {
                    left_out += 1;
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if files.is_empty() {
            bail!("{} holds no regular file to try with", dir.display());
        }
        Ok((Dataset { files }, left_out))
    }

    /// Bytes in all.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|item| item.size).sum()
    }
}

impl Item {
    /// The `length` bytes at `offset`.
    pub(super) fn bytes(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; length];
        match &self.content {
            Content::Generated { seed } => computed::fill(*seed, offset, &mut buffer),
            Content::File(path) => File::open(path)?.read_exact_at(&mut buffer, offset)?,
        }
        Ok(buffer.into())
    }

    /// Fails, naming the first wrong byte, where `found` is not what lies at `offset`.
    pub(super) fn check(&self, offset: u64, found: &[u8]) -> Result<()> {
        let expected = self.bytes(offset, found.len())?;
        if let Some(at) = expected.iter().zip(found).position(|(a, b)| a != b) {
            bail!("{}: wrong byte at offset {}", self.path, offset + at as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_named() {
        let set = Dataset::generated();
        let item = set.files.iter().find(|item| item.size > 2000).unwrap();
        let mut bytes = item.bytes(1000, 100).unwrap().to_vec();
        item.check(1000, &bytes).unwrap();
        bytes[42] ^= 1;
        let error = item.check(1000, &bytes).unwrap_err().to_string();
        assert!(error.contains("1042"), "{error}");
    }

    #[test]
    fn files_of_ones_own_keep_their_permission_bits() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("run", 0o755), ("sub/data", 0o640)] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, name).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (set, left_out) = Dataset::of_directory(dir.path()).unwrap();
        let files: Vec<_> = set.files.iter().map(|item| (item.path.as_str(), item.size, item.mode)).collect();
        assert_eq!((files, left_out), (vec![("run", 3, Some(0o755)), ("sub/data", 8, Some(0o640))], 0));
    }
}
