//! One version on the disk: a sparse file with its bytes where they are in the version, and a map with a checksum for
//! each block that is there.
//!
//! ```text
//! <xx>/<key>.data   as long as the version; blocks that are not there are holes
//! <xx>/<key>.map    "MILLRACE", format, what it is of, and 8 bytes a block, zeros for one that is not there
//! <xx>/<key>.seal   in what state of the data's file all of it was right (see `sealing`)
//! <xx>/<key>.new    a map or a seal that is not whole yet
//! ```
//!
//! The map is made whole and then given its name, the data's file before it, and a block's entry is written after the
//! block. No order of the disk's own is relied on: whatever of it a crash leaves, a block counts only where its checksum,
//! which says what it is of and where it stands, fits its bytes, each time it is read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::bits::Bits;
use super::layout::{ENTRY, Key, Layout, Sums, is_present};
use super::medium::Medium;
use crate::backend::{Path, Version};

const MAGIC: &[u8; 8] = b"MILLRACE";
const FORMAT: u32 = 1;
/// Magic, format, the lengths of three texts, the version's length; the texts follow.
const FIXED: usize = 8 + 4 + 3 * 4 + 8;
/// The longest that a map's beginning may be: a path and two version words.
const LONGEST_HEAD: usize = 64 << 10;

/// How exactly the disk knows when a version was last used, in seconds.
const PRECISION: u64 = 60;

/// The directory of a part.
#[derive(Debug)]
pub(super) struct Part {
    /// As it was handed over; holds the part's lock.
    pub(super) dir: OwnedFd,
    pub(super) medium: Medium,
}

/// How the directory of this format's shards is called. A later format takes another.
pub(super) const TREE: &str = "v1";

/// The names of a version's files, and the shard that they are in.
pub(super) struct Names {
    pub(super) shard: String,
    pub(super) data: String,
    pub(super) map: String,
    /// Says of what state of the data every block was found right.
    pub(super) seal: String,
    pub(super) new: String,
}

impl Names {
    pub(super) fn of(key: Key) -> Names {
        let key = format!("{key:?}");
        Names {
            shard: format!("{TREE}/{}", &key[..2]),
            data: format!("{key}.data"),
            map: format!("{key}.map"),
            seal: format!("{key}.seal"),
            new: format!("{key}.new"),
        }
    }

    /// The key that a map's name says.
    pub(super) fn key(map: &str) -> Option<Key> {
        let bytes = data_encoding::HEXLOWER.decode(map.strip_suffix(".map")?.as_bytes()).ok()?;
        Some(Key(bytes.try_into().ok()?))
    }
}

/// A version's two files, open.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) part: Arc<Part>,
    pub(super) data: File,
    pub(super) map: File,
    /// Where the entries begin in the map.
    entries_at: u64,
    layout: Layout,
    sums: Sums,
    /// The disk lets them be changed.
    pub(super) writable: bool,
    /// When the disk was last told that they are used, in seconds since 1970.
    used: AtomicU64,
}

/// What was found of some blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Their bytes, all right.
    Right(Bytes),
    /// Of this block not what was written.
    Wrong(u64),
}

impl Files {
    /// Opens what is there of a version, and tells of each block whether it is said to be there. Nothing where there is
    /// nothing, or nothing that could be right.
    pub(super) fn open(part: &Arc<Part>, key: Key, version: &Version) -> io::Result<Option<(Files, Bits)>> {
        let (names, medium, layout) = (Names::of(key), &part.medium, Layout::of(version.size));
        let found = (|| {
            let shard = medium.open_dir(&part.dir, &names.shard)?;
            let (map, may_map) = medium.open(&shard, &names.map)?;
            let (data, may_data) = medium.open(&shard, &names.data)?;
            Ok((map, data, may_map && may_data))
        })();
        let (map, data, writable) = match found {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let head = head(version);
        let length = head.len() + (layout.count() * ENTRY) as usize;
        let found = medium.read(&map, 0, length)?;
        if found.len() != length || found[..head.len()] != head || data.metadata()?.len() != version.size {
            // Not what this could have written: of another key, or cut short.
            return Ok(None);
        }
        let entries = found[head.len()..].chunks_exact(ENTRY as usize);
        let mut present = Bits::none(layout.count());
        for (number, entry) in (0..).zip(entries) {
            if is_present(number, as_entry(entry)) {
                present.set(number..number + 1);
            }
        }
        let used = AtomicU64::new(map.metadata()?.mtime().cast_unsigned());
        let (part, entries_at, sums) = (part.clone(), head.len() as u64, Sums::of(key));
        Ok(Some((Files { part, data, map, entries_at, layout, sums, writable, used }, present)))
    }

    /// Begins a version anew, with no block of it there.
    pub(super) fn create(part: &Arc<Part>, key: Key, version: &Version) -> io::Result<Files> {
        let (names, medium, layout) = (Names::of(key), &part.medium, Layout::of(version.size));
        let shard = match medium.open_dir(&part.dir, &names.shard) {
            Err(error) if is_absent(&error) => {
                medium.make_dir(&part.dir, TREE)?;
                medium.make_dir(&part.dir, &names.shard)?;
                medium.open_dir(&part.dir, &names.shard)?
            }
            other => other?,
        };
        // Whatever had the name may be open in somebody's hands: it is left as it is.
        medium.unlink(&shard, &names.map)?;
        medium.unlink(&shard, &names.seal)?;
        medium.unlink(&shard, &names.data)?;
        let data = medium.create(&shard, &names.data)?;
        medium.set_len(&data, version.size)?;
        let map = medium.create(&shard, &names.new)?;
        let head = head(version);
        medium.set_len(&map, head.len() as u64 + layout.count() * ENTRY)?;
        medium.write(&map, &[Bytes::from(head.clone())], 0)?;
        medium.rename(&shard, &names.new, &names.map)?;
        let (part, entries_at, sums) = (part.clone(), head.len() as u64, Sums::of(key));
        let used = AtomicU64::new(now());
        Ok(Files { part, data, map, entries_at, layout, sums, writable: true, used })
    }

    /// The bytes of `blocks`, each compared with its checksum.
    pub(super) fn read(&self, blocks: &Range<u64>) -> io::Result<Found> {
        let (medium, range) = (&self.part.medium, self.layout.bytes(blocks));
        let count = (blocks.end - blocks.start) as usize;
        let entries = medium.read(&self.map, self.entry_at(blocks.start), count * ENTRY as usize)?;
        let bytes = medium.read(&self.data, range.start, (range.end - range.start) as usize)?;
        let mut stored = entries.chunks_exact(ENTRY as usize);
        let mut held = bytes.chunks(self.layout.block as usize);
        for number in blocks.clone() {
            let is_right = match (stored.next(), held.next()) {
                (Some(stored), Some(bytes)) => self.sums.entry(number, [bytes]) == stored,
                _ => false,
            };
            if !is_right {
                return Ok(Found::Wrong(number));
            }
        }
        Ok(Found::Right(bytes.into()))
    }

    /// Writes whole blocks from block `first` on. `pieces` are their bytes in order.
    pub(super) fn write(&self, first: u64, pieces: &[Bytes]) -> io::Result<()> {
        let medium = &self.part.medium;
        medium.write(&self.data, pieces, first * self.layout.block)?;
        let mut entries = Vec::new();
        let mut block: Vec<&[u8]> = Vec::new();
        let (mut number, mut length) = (first, 0);
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let whole = self.layout.bytes(&(number..number + 1));
                let missing = (whole.end - whole.start) as usize - length;
                let (taken, left) = rest.split_at(missing.min(rest.len()));
                block.push(taken);
                length += taken.len();
                rest = left;
                if taken.len() == missing {
                    entries.extend_from_slice(&self.sums.entry(number, block.drain(..)));
                    (number, length) = (number + 1, 0);
                }
            }
        }
        medium.write(&self.map, &[Bytes::from(entries)], self.entry_at(first))
    }

    /// Whether the disk has not been told for a while that the version is used. Once it was asked, it has.
    pub(super) fn is_to_touch(&self) -> bool {
        let now = now();
        now.saturating_sub(self.used.swap(now, Ordering::Relaxed)) >= PRECISION
    }

    /// Says that the version was used now.
    pub(super) fn touch(&self) -> io::Result<()> {
        self.part.medium.touch(&self.map)
    }

    fn entry_at(&self, number: u64) -> u64 {
        self.entries_at + number * ENTRY
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

fn as_entry(bytes: &[u8]) -> [u8; ENTRY as usize] {
    let mut entry = [0; ENTRY as usize];
    entry.copy_from_slice(bytes);
    entry
}

/// Whether there is no such file, nor a directory that it could be in.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The beginning of a version's map.
fn head(version: &Version) -> Vec<u8> {
    let texts = [version.path.as_bytes(), version.file.as_bytes(), version.bytes.as_bytes()];
    let mut head = Vec::with_capacity(FIXED);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    for text in texts {
        head.extend_from_slice(&(text.len() as u32).to_le_bytes());
    }
    head.extend_from_slice(&version.size.to_le_bytes());
    texts.iter().for_each(|text| head.extend_from_slice(text));
    head.resize(head.len().next_multiple_of(ENTRY as usize), 0);
    head
}

/// The path of the version that the map `name` in `shard` is of, as far as it can be told.
pub(super) fn path_of(medium: &Medium, shard: impl AsFd, name: &str) -> io::Result<Option<Path>> {
    let (map, _) = medium.open(shard, name)?;
    let start = medium.read(&map, 0, LONGEST_HEAD)?;
    let path = start.get(12..16).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    let text = path.and_then(|length| start.get(FIXED..FIXED + length as usize));
    Ok(text.filter(|_| start.starts_with(MAGIC)).and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| {
        // The root is no file.
        Path::parse(text).ok().filter(|path| !path.is_root())
    }))
}
