//! The same files on the local disk: the limit of what is cached, and of what is only looked at.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use millrace::sandbox::computed;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::dataset::Object;

const CHUNK: u64 = 1 << 20;

/// Writes `objects` below `root`.
pub(crate) fn write(root: &Path, objects: &[Object]) -> Result<()> {
    let mut chunk = vec![0; CHUNK as usize];
    for Object { name, seed, size } in objects {
        let mut file = made(root, name)?;
        for at in (0..*size).step_by(CHUNK as usize) {
            let part = &mut chunk[..CHUNK.min(size - at) as usize];
            computed::fill(*seed, at, part);
            file.write_all(part)?;
        }
    }
    Ok(())
}

/// Makes files of the sizes of `objects` that nobody reads.
pub(crate) fn lay_out(root: &Path, objects: &[Object]) -> Result<()> {
    objects.iter().try_for_each(|object| Ok(made(root, &object.name)?.set_len(object.size)?))
}

fn made(root: &Path, name: &str) -> Result<File> {
    let path = root.join(name);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    Ok(File::create(path)?)
}

/// Has the kernel have every page of the files below `dir`.
pub(crate) fn take_pages(dir: &Path) -> Result<()> {
    each_file(dir, &|mut file| {
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(())
    })
}

/// Has the kernel keep no page of any file below `dir`: they are on the disk alone then.
pub(crate) fn drop_pages(dir: &Path) -> Result<()> {
    each_file(dir, &|file| {
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    })
}

fn each_file(dir: &Path, visit: &impl Fn(File) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            each_file(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(File::open(entry.path())?)?;
        }
    }
    Ok(())
}
