//! Replies to READ that are gathered from the pieces in which bytes came from the store. fuser takes one slice, for which
//! every byte would be copied once more: a seventh of what a worker costs that reads as fast as it can.
//!
//! A reply is a `fuse_out_header` and the bytes behind it, written to the connection's descriptor at once
//! (include/uapi/linux/fuse.h).

use std::fs::File;
use std::io::{IoSlice, Write};
use std::sync::Arc;

use bytes::Bytes;
use fuser::ReplyData;

/// Length of the header.
const HEADER: usize = 16;
/// Slices that are written at once (IOV_MAX of Linux), without that of the header.
const MOST: usize = 1023;

/// Writes replies to a connection.
#[derive(Debug, Clone)]
pub(super) struct Gather(Arc<File>);

impl Gather {
    /// On `device`, the connection's descriptor.
    pub(super) fn on(device: File) -> Gather {
        Gather(Arc::new(device))
    }

    /// Replies to the request `unique`, whose reply `reply` is, with all of `pieces` in their order.
    pub(super) fn reply(&self, unique: u64, reply: ReplyData, pieces: &[Bytes]) {
        match pieces {
            [] => reply.data(&[]),
            [one] => reply.data(one),
            many if many.len() > MOST => reply.data(&many.concat()),
            many => {
                // It is answered here: dropped, it would answer once more. What it holds is the connection, which the
                // process keeps to its end anyway.
                std::mem::forget(reply);
                if let Err(error) = self.write(unique, many) {
                    tracing::error!("Failed to send FUSE reply: {error}");
                }
            }
        }
    }

    fn write(&self, unique: u64, pieces: &[Bytes]) -> std::io::Result<()> {
        let length = HEADER + pieces.iter().map(Bytes::len).sum::<usize>();
        let header = header(length, unique);
        let slices: Vec<_> = std::iter::once(&header[..]).chain(pieces.iter().map(|piece| &piece[..])).collect();
        let slices: Vec<_> = slices.into_iter().map(IoSlice::new).collect();
        // The kernel takes all of a reply or nothing.
        (&*self.0).write_vectored(&slices).map(drop)
    }
}

fn header(length: usize, unique: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    // No error.
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_header_and_the_pieces_in_their_order() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let gather = Gather::on(place.reopen().unwrap());
        let pieces: Vec<_> = (0..300u32).map(|number| Bytes::from(vec![number as u8; number as usize])).collect();
        gather.write(0x0102_0304_0506_0708, &pieces).unwrap();
        let written = std::fs::read(place.path()).unwrap();
        let body = pieces.concat();
        assert_eq!(u32::from_ne_bytes(written[..4].try_into().unwrap()) as usize, HEADER + body.len());
        assert_eq!(written[4..8], [0; 4]);
        assert_eq!(u64::from_ne_bytes(written[8..16].try_into().unwrap()), 0x0102_0304_0506_0708);
        assert!(written[16..] == body);
    }
}
