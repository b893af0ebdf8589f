//! How a version's bytes are cut into blocks, and how a block's checksum stands in the map. Pure.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, Digest};
use sha2::{Digest as _, Sha256};

use crate::backend::Version;

/// The smallest block: what the kernel asks for at least, so that whatever a reader asked can be kept.
const SMALLEST: u64 = 4096;
/// Blocks of one version at most: beyond 4 GiB of them they get larger, so that a map stays below 8 MiB.
const MOST: u64 = 1 << 20;

/// Bytes of a block's entry in the map.
pub(super) const ENTRY: u64 = 8;

/// Sets a present block's entry apart from zeros.
const MARK: u32 = 0x4d4c_5243;

/// Names a version among all of one scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 16]);

impl Key {
    pub(super) fn of(version: &Version) -> Key {
        let mut hash = Sha256::new();
        for part in [version.path.as_bytes(), version.file.as_bytes(), version.bytes.as_bytes()] {
            // Behind its length, so that no two versions are one text.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(version.size.to_le_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        Key(key)
    }

    /// The first eight bytes of it, as good as random.
    pub(super) fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// The blocks of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Length of the version in bytes.
    pub(super) size: u64,
    /// Length of every block but the last.
    pub(super) block: u64,
}

impl Layout {
    pub(super) fn of(size: u64) -> Layout {
        Layout { size, block: size.div_ceil(MOST).next_power_of_two().max(SMALLEST) }
    }

    /// How many blocks.
    pub(super) fn count(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// The bytes of `blocks`.
    pub(super) fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start * self.block..(blocks.end * self.block).min(self.size)
    }

    /// The blocks that have a byte in `range`.
    pub(super) fn touching(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.block..range.end.div_ceil(self.block)
    }

    /// The blocks that lie whole in `range`.
    pub(super) fn within(&self, range: &Range<u64>) -> Range<u64> {
        let end = if range.end == self.size { self.count() } else { range.end / self.block };
        let start = range.start.div_ceil(self.block);
        start..end.max(start)
    }
}

/// Checksums of one version's blocks: CRC32C, begun with what the block is of and where it stands, so that a block that
/// was moved, within a file or to another's, is no more right than one that rotted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums(Key);

impl Sums {
    pub(super) fn of(key: Key) -> Sums {
        Sums(key)
    }

    /// The map's entry of block `number`, which has these bytes.
    pub(super) fn entry<'a>(&self, number: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; ENTRY as usize] {
        // Another state to begin with is another sum of the same bytes; no two blocks of a version have the same.
        let seed = (self.0.number() as u32) ^ (number as u32).wrapping_mul(0x9e37_79b1);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(seed));
        pieces.into_iter().for_each(|piece| digest.update(piece));
        // The algorithm has 32 bits.
        entry(number, digest.finalize() as u32).to_le_bytes()
    }
}

fn entry(number: u64, sum: u32) -> u64 {
    let check = sum.rotate_left(16) ^ MARK ^ (number as u32);
    u64::from(sum) | u64::from(check) << 32
}

/// Whether an entry of the map says that block `number` is there. A damaged one does not.
pub(super) fn is_present(number: u64, stored: [u8; ENTRY as usize]) -> bool {
    let stored = u64::from_le_bytes(stored);
    stored == entry(number, stored as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Path;

    fn version(path: &str, bytes: &str, size: u64) -> Version {
        Version { path: Path::parse(path).unwrap(), file: bytes.into(), bytes: bytes.into(), size }
    }

    #[test]
    fn every_word_of_a_version_makes_another_key() {
        let key = |path, bytes, size| Key::of(&version(path, bytes, size));
        assert_eq!(key("a", "1", 1), key("a", "1", 1));
        for other in [key("b", "1", 1), key("a", "2", 1), key("a", "1", 2), key("a1", "", 1)] {
            assert_ne!(other, key("a", "1", 1));
        }
        let renamed = Version { file: "2".into(), ..version("a", "1", 1) };
        assert_ne!(Key::of(&renamed), key("a", "1", 1));
    }

    #[test]
    fn blocks_cover_a_version_and_stay_few() {
        for size in [1, 4095, 4096, 4097, 1 << 20, 4 << 30, (4 << 30) + 1, 5 << 40] {
            let layout = Layout::of(size);
            assert!(layout.count() <= MOST && layout.block.is_power_of_two() && layout.block >= SMALLEST, "{size}");
            assert_eq!(layout.bytes(&(0..layout.count())), 0..size);
            assert_eq!(
                (layout.within(&(0..size)), layout.touching(&(0..size))),
                (0..layout.count(), 0..layout.count())
            );
        }
        assert_eq!((Layout::of(4 << 30).block, Layout::of(5 << 40).block), (4096, 8 << 20));
        let layout = Layout::of(10_000);
        assert_eq!((layout.within(&(1..10_000)), layout.touching(&(1..10_000))), (1..3, 0..3));
        assert_eq!((layout.within(&(1..8192)), layout.touching(&(4096..8192))), (1..2, 1..2));
        assert_eq!((layout.within(&(5000..6000)).is_empty(), layout.touching(&(5000..6000))), (true, 1..2));
    }

    #[test]
    fn an_entry_is_of_one_block_of_one_version_with_these_bytes() {
        let sums = Sums::of(Key::of(&version("a", "1", 8192)));
        let entry = sums.entry(3, [&b"hello"[..]]);
        assert_eq!(entry, sums.entry(3, [&b"he"[..], b"l", b"lo"]));
        assert!(is_present(3, entry) && !is_present(2, entry) && !is_present(3, [0; 8]));
        let other = Sums::of(Key::of(&version("b", "1", 8192)));
        for wrong in [sums.entry(3, [&b"hellp"[..]]), sums.entry(4, [&b"hello"[..]]), other.entry(3, [&b"hello"[..]])] {
            assert_ne!(wrong, entry);
        }
        for bit in 0..64 {
            let flipped = (u64::from_le_bytes(entry) ^ 1 << bit).to_le_bytes();
            assert!(!is_present(3, flipped), "bit {bit}");
        }
    }
}
