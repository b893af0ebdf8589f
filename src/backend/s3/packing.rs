//! Keeps what came of an answer's body in little more memory than it has bytes.
//!
//! What hyper hands out is a slice of the buffer that it read into, and holds all of that: short pieces, as a connection
//! that is waited for gives them, would take several times their length of memory for as long as they wait for a reader.
//! They are copied together. Hyper then reads into the same buffer again.

use bytes::{Bytes, BytesMut};

/// What hyper reads at once, at most.
pub(super) const BUFFER: usize = 256 << 10;
/// A shorter piece is copied: a longer one fills its buffer well enough.
const SHORT: usize = BUFFER / 4 * 3;
/// Where short pieces are copied to, of a long body.
const ROOM: usize = 1 << 20;

/// The pieces of one body.
#[derive(Debug, Default)]
pub(super) struct Packing {
    room: BytesMut,
}

impl Packing {
    /// `piece`, or a copy of it that holds no more than its share of memory. `rest` is how many bytes of the body follow it,
    /// as far as that is known.
    pub(super) fn pack(&mut self, piece: Bytes, rest: u64) -> Bytes {
        if piece.len() >= SHORT {
            return piece;
        }
        if self.room.capacity() < piece.len() {
            let all = usize::try_from(rest).unwrap_or(ROOM).saturating_add(piece.len());
            // No more than the body still needs.
            self.room = BytesMut::with_capacity(all.min(ROOM).max(piece.len()));
        }
        self.room.extend_from_slice(&piece);
        self.room.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Where the memory that `pieces` lie in begins, to the next `ROOM`.
    fn rooms(pieces: &[Bytes]) -> usize {
        let mut rooms = BTreeSet::new();
        let mut end = 0;
        for piece in pieces {
            let start = piece.as_ptr() as usize;
            if start != end {
                rooms.insert(start);
            }
            end = start + piece.len();
        }
        rooms.len()
    }

    #[test]
    fn short_pieces_share_their_memory_and_keep_their_bytes() {
        let body: Vec<u8> = (0..4 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        // The length of the pieces that come, and in how many rooms they are then.
        for (length, most) in [(100, 5), (16 << 10, 4), (100_000, 5), (SHORT - 1, 5)] {
            let mut packing = Packing::default();
            let mut rest = body.len() as u64;
            let mut packed = Vec::new();
            for piece in body.chunks(length) {
                rest -= piece.len() as u64;
                packed.push(packing.pack(Bytes::copy_from_slice(piece), rest));
            }
            assert_eq!(packed.concat(), body, "{length}");
            assert!(rooms(&packed) <= most, "{length}: {}", rooms(&packed));
        }
    }

    #[test]
    fn a_short_body_takes_what_it_has_and_a_long_piece_is_not_copied() {
        let mut packing = Packing::default();
        let first = packing.pack(Bytes::from(vec![1; 1000]), 9000);
        assert_eq!(packing.room.capacity(), 9000);
        assert_eq!(packing.pack(Bytes::from(vec![2; 9000]), 0).as_ptr(), first[1000..].as_ptr());
        let long = Bytes::from(vec![3; SHORT]);
        assert_eq!(packing.pack(long.clone(), 0).as_ptr(), long.as_ptr());
        // The store sends more than it said.
        assert_eq!(packing.pack(Bytes::from(vec![4; 5000]), 0), vec![4; 5000]);
    }
}
