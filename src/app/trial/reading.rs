//! Reads the whole tree through the mount, as a training job would, and checks every byte.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::dataset::{Dataset, Item};

/// Files read at once.
const READERS: usize = 8;
/// Bytes asked of the kernel at once.
const CHUNK: usize = 1 << 20;

/// Reads every file of `set` below `mount`, after seeing that the tree holds these files and no others. `stop` ends
/// it early.
pub(super) fn read_all(mount: &Path, set: &Dataset, bar: &ProgressBar, stop: &CancellationToken) -> Result<Duration> {
    let began = Instant::now();
    same_names(mount, set)?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut buffer = vec![0; CHUNK];
                    while let Some(item) = set.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let file = File::open(mount.join(&item.path))
                            .with_context(|| format!("cannot open {} in the mount", item.path))?;
                        read_one(item, file, &mut buffer, bar, stop)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok(began.elapsed())
    })
}

fn read_one(item: &Item, mut file: File, buffer: &mut [u8], bar: &ProgressBar, stop: &CancellationToken) -> Result<()> {
    let mut offset = 0;
    loop {
        if stop.is_cancelled() {
            bail!("interrupted");
        }
        let count = file.read(buffer).with_context(|| format!("cannot read {} at {offset}", item.path))?;
        if count == 0 {
            break;
        }
        if offset + count as u64 > item.size {
            bail!("{} is longer in the mount than its source ({} bytes)", item.path, item.size);
        }
        item.check(offset, &buffer[..count])?;
        offset += count as u64;
        bar.inc(count as u64);
    }
    if offset != item.size {
        bail!("{} ends at {offset} in the mount, its source at {}", item.path, item.size);
    }
    Ok(())
}

fn same_names(mount: &Path, set: &Dataset) -> Result<()> {
    let (listed, _) = Dataset::of_directory(mount)?;
    let listed: BTreeSet<_> = listed.files.into_iter().map(|item| (item.path, item.size)).collect();
    let expected: BTreeSet<_> = set.files.iter().map(|item| (item.path.clone(), item.size)).collect();
    if let Some((path, size)) = listed.symmetric_difference(&expected).next() {
        let side = if expected.contains(&(path.clone(), *size)) { "source" } else { "mount" };
        bail!("{path} of {size} bytes stands in the {side} alone");
    }
    Ok(())
}
