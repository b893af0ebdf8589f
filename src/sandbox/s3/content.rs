//! The bytes of an object: a rope of kept and computed pieces, cut and joined without a copy.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::crypto::{Checksum as _, Md5};
use s3s::stream::{ByteStream, RemainingLength};

use super::objects::hex;
use crate::sandbox::computed;

/// The most that one chunk of a body holds: few system calls, and little kept ahead of a slow reader.
const CHUNK: u64 = 256 * 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pieces: VecDeque<Piece>,
    length: u64,
}

#[derive(Debug, Clone)]
enum Piece {
    Held(Bytes),
    Computed { seed: u64, offset: u64, length: u64 },
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Held(bytes) => bytes.len() as u64,
            Piece::Computed { length, .. } => *length,
        }
    }

    fn slice(&self, range: Range<u64>) -> Piece {
        match self {
            Piece::Held(bytes) => Piece::Held(bytes.slice(range.start as usize..range.end as usize)),
            Piece::Computed { seed, offset, .. } => {
                Piece::Computed { seed: *seed, offset: offset + range.start, length: range.end - range.start }
            }
        }
    }
}

impl Content {
    pub(super) fn computed(seed: u64, length: u64) -> Content {
        let pieces = [Piece::Computed { seed, offset: 0, length }];
        Content { pieces: pieces.into(), length }
    }

    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Whether all of it is kept, so that hashing it costs no more than reading memory.
    pub(super) fn is_held(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Held(_)))
    }

    pub(super) fn append(&mut self, other: Content) {
        self.length += other.length;
        self.pieces.extend(other.pieces);
    }

    /// The part inside `range`, which must lie inside the content.
    pub(super) fn slice(&self, range: Range<u64>) -> Content {
        let mut pieces = VecDeque::new();
        let mut at = 0;
        for piece in &self.pieces {
            let (from, to) = (range.start.max(at), range.end.min(at + piece.len()));
            if from < to {
                pieces.push_back(piece.slice(from - at..to - at));
            }
            at += piece.len();
        }
        Content { pieces, length: range.end - range.start }
    }

    /// The MD5 of its bytes. Computed pieces are not read for it: their description stands for them.
    pub(super) fn etag(&self) -> String {
        let mut hash = Md5::new();
        for piece in &self.pieces {
            match piece {
                Piece::Held(bytes) => hash.update(bytes),
                Piece::Computed { .. } => hash.update(format!("{piece:?}").as_bytes()),
            }
        }
        hex(&hash.finalize())
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        let mut all = Vec::with_capacity(self.length as usize);
        self.clone().for_each(|chunk| all.extend_from_slice(&chunk));
        all.into()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        let length = bytes.len() as u64;
        Content { pieces: [Piece::Held(bytes)].into(), length }
    }
}

/// Consumes the content in chunks.
impl Iterator for Content {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = self.pieces.pop_front()?;
            let length = piece.len().min(CHUNK);
            if length < piece.len() {
                self.pieces.push_front(piece.slice(length..piece.len()));
            }
            if length == 0 {
                continue;
            }
            self.length -= length;
            return Some(match piece.slice(0..length) {
                Piece::Held(bytes) => bytes,
                Piece::Computed { seed, offset, length } => computed::bytes(seed, offset, length as usize),
            });
        }
    }
}

impl Stream for Content {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(Ok))
    }
}

impl ByteStream for Content {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_joined_is_what_it_was() {
        let mut rope = Content::from(Bytes::from_static(b"hello "));
        rope.append(Content::computed(3, 600_000));
        rope.append(Content::default());
        rope.append(Content::from(Bytes::from_static(b" world")));
        let whole = rope.to_bytes();
        assert_eq!(rope.len(), whole.len() as u64);
        assert_eq!(whole[6..600_006], computed::bytes(3, 0, 600_000));
        for (from, to) in [(0, 0), (0, 6), (4, 9), (6, 600_006), (300_000, 600_012), (600_011, 600_012)] {
            let part = rope.slice(from..to);
            assert_eq!(part.len(), to - from);
            assert_eq!(part.to_bytes(), whole[from as usize..to as usize], "{from}..{to}");
        }
        let mut joined = rope.slice(0..300_001);
        joined.append(rope.slice(300_001..rope.len()));
        assert_eq!(joined.to_bytes(), whole);
    }
}
