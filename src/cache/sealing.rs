//! Files that the kernel may read without this process: complete, and found right as they lie there.
//!
//! Whoever reads a file past this process gets its bytes as they are, so all of them are compared with their checksums
//! first, put on the disk for good, and the state that the file had is recorded: its inode number, size, and the times of
//! its last changes. A file is given out only while it is in that state, and while it is, it is not changed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::disk::Use;
use super::files::{Files, Found, Names};
use super::layout::Key;
use super::slot::Slot;
use super::store::Store;
use crate::backend::Version;

/// Smaller files come as fast from this process, and putting each on the disk for good costs more than it gives.
const SMALLEST: u64 = 1 << 20;
/// Bytes that are compared at once.
const CHUNK: u64 = 1 << 20;

/// A file that may be read where it lies. It is not changed while this lives.
#[derive(Debug)]
pub struct LocalFile {
    slot: Arc<Slot>,
    name: String,
}

impl LocalFile {
    /// Where it is, from the part's directory.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        self.slot.lock().lent -= 1;
    }
}

impl Store {
    /// The file that holds exactly `version`, if that is known to be so. Otherwise it may be the next time.
    pub(super) async fn local(self: &Arc<Self>, version: &Version) -> Option<LocalFile> {
        if version.size < SMALLEST {
            return None;
        }
        let slot = self.slot(version).await?;
        self.visit(&slot, 0);
        let files = {
            let mut state = slot.lock();
            let files = state.files.clone().filter(|_| state.is_complete())?;
            // From now on nobody changes it, and only then is its state looked at.
            state.lent += 1;
            files
        };
        let Names { shard, data, .. } = Names::of(slot.key);
        let local = LocalFile { slot: slot.clone(), name: format!("{shard}/{data}") };
        let (key, asked) = (slot.key, files.clone());
        match self.disk.call(Use::Read, move || is_sealed(&asked, key)).await? {
            true => Some(local),
            false => {
                self.seal(slot);
                None
            }
        }
    }

    /// Begins to check a complete version, and records that it is right.
    pub(super) fn seal(self: &Arc<Self>, slot: Arc<Slot>) {
        let files = {
            let mut state = slot.lock();
            if slot.version.size < SMALLEST || state.is_sealing || !state.is_complete() {
                return;
            }
            let Some(files) = state.files.clone().filter(|files| files.writable) else { return };
            state.is_sealing = true;
            files
        };
        let store = self.clone();
        self.spawn(async move {
            // One at a time: it is for later.
            if let Ok(_turn) = store.sealing.acquire().await {
                let (asked, key, count) = (files.clone(), slot.key, slot.layout.count());
                let step = (CHUNK / slot.layout.block).max(1);
                // No deadline: a large file takes long, and nobody waits.
                let sealed = tokio::task::spawn_blocking(move || seal(&asked, key, count, step)).await;
                match sealed.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                    Ok(None) => {}
                    Ok(Some(block)) => slot.rotted(&files, block),
                    Err(error) => store.disk.failed(&error),
                }
            }
            slot.lock().is_sealing = false;
        });
    }
}

/// The state of a file whose bytes are right, as a line of text.
fn state(files: &Files) -> io::Result<String> {
    let found = files.data.metadata()?;
    let (ino, size) = (found.ino(), found.size());
    let (mtime, ctime) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Ok(format!("1 {ino} {size} {}.{:09} {}.{:09}\n", mtime.0, mtime.1, ctime.0, ctime.1))
}

fn is_sealed(files: &Files, key: Key) -> io::Result<bool> {
    let (medium, names) = (&files.part.medium, Names::of(key));
    let shard = medium.open_dir(&files.part.dir, &names.shard)?;
    match medium.open(&shard, &names.seal) {
        Ok((seal, _)) => {
            Ok(medium.read(&seal, 0, 256)? == state(files)?.as_bytes() && has_its_name(files, &shard, &names)?)
        }
        Err(error) if super::files::is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the file lies under its name, by which others open it: who was late in making the version's files may have put
/// another there.
fn has_its_name(files: &Files, shard: &OwnedFd, names: &Names) -> io::Result<bool> {
    let (named, open) = (files.part.medium.stat(shard, &names.data), files.data.metadata()?);
    match named {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (open.dev(), open.ino())),
        Err(error) if super::files::is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Compares all blocks, and records the state in which they were right. Or the number of one that is not.
fn seal(files: &Files, key: Key, count: u64, step: u64) -> io::Result<Option<u64>> {
    let (medium, names) = (&files.part.medium, Names::of(key));
    let shard = medium.open_dir(&files.part.dir, &names.shard)?;
    if !has_its_name(files, &shard, &names)? {
        return Ok(None);
    }
    medium.sync(&files.data)?;
    medium.sync(&files.map)?;
    let before = state(files)?;
    for first in (0..count).step_by(step as usize) {
        if let Found::Wrong(block) = files.read(&(first..(first + step).min(count)))? {
            return Ok(Some(block));
        }
    }
    let seal = medium.create(&shard, &names.new)?;
    medium.write(&seal, &[before.clone().into()], 0)?;
    medium.sync(&seal)?;
    if state(files)? == before {
        medium.rename(&shard, &names.new, &names.seal)?;
    } else {
        medium.unlink(&shard, &names.new)?;
    }
    Ok(None)
}
