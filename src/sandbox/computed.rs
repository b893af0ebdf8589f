//! Content that is computed instead of kept: gigabytes of known bytes that cost no memory and no disk.
//!
//! The little-endian 64-bit words of a stream are those of a Weyl sequence that begins at the seed: no two of them are
//! alike, so bytes that come from a wrong place are always seen.

use bytes::Bytes;

const WORD: u64 = 8;

/// Writes the bytes `offset..offset + out.len()` of the stream of `seed`.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let start = mix(seed);
    let (head, index) = head(offset, out.len());
    let (first, rest) = out.split_at_mut(head);
    let skip = (offset % WORD) as usize;
    first.copy_from_slice(&word(start, offset / WORD).to_le_bytes()[skip..skip + head]);
    let (words, tail) = rest.as_chunks_mut();
    for (at, bytes) in words.iter_mut().enumerate() {
        *bytes = word(start, index + at as u64).to_le_bytes();
    }
    let last = word(start, index + words.len() as u64).to_le_bytes();
    tail.copy_from_slice(&last[..tail.len()]);
}

/// Whether `bytes` are those at `offset` of the stream of `seed`.
pub fn matches(seed: u64, offset: u64, bytes: &[u8]) -> bool {
    let start = mix(seed);
    let (head, index) = head(offset, bytes.len());
    let (first, rest) = bytes.split_at(head);
    let skip = (offset % WORD) as usize;
    let (words, tail) = rest.as_chunks();
    let mut wrong = 0;
    for (at, bytes) in words.iter().enumerate() {
        wrong |= u64::from_le_bytes(*bytes) ^ word(start, index + at as u64);
    }
    wrong == 0
        && first == &word(start, offset / WORD).to_le_bytes()[skip..skip + head]
        && tail == &word(start, index + words.len() as u64).to_le_bytes()[..tail.len()]
}

/// `length` bytes from `offset` on of the stream of `seed`.
pub fn bytes(seed: u64, offset: u64, length: usize) -> Bytes {
    let mut out = vec![0; length];
    fill(seed, offset, &mut out);
    out.into()
}

/// How many bytes lie before the first whole word, and that word's index.
fn head(offset: u64, length: usize) -> (usize, u64) {
    let head = (offset.wrapping_neg() % WORD) as usize;
    (head.min(length), offset.div_ceil(WORD))
}

fn word(start: u64, index: u64) -> u64 {
    let weyl = start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    weyl ^ (weyl >> 29)
}

/// Spreads neighbouring seeds over the whole range.
fn mix(seed: u64) -> u64 {
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_bytes_of_the_whole() {
        let whole = bytes(7, 0, 100);
        for from in 0..40 {
            for length in 0..40 {
                let part = bytes(7, from, length);
                assert_eq!(part, whole[from as usize..][..length], "{from}+{length}");
                assert!(matches(7, from, &part));
            }
        }
    }

    #[test]
    fn a_wrong_byte_place_or_seed_is_seen() {
        let part = bytes(7, 3, 50);
        for at in 0..50 {
            let mut wrong = part.to_vec();
            wrong[at] ^= 1;
            assert!(!matches(7, 3, &wrong), "{at}");
        }
        assert!(!matches(7, 4, &part));
        assert!(!matches(7, 3 + (1 << 20), &part));
        assert!(!matches(8, 3, &part));
    }
}
