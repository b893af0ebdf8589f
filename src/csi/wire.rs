//! A plugin's connection as HTTP/2 reads it, so that no secret of a request stays behind in its receive buffer.
//!
//! h2 reads into one buffer that it uses up from front to end, and hands messages out as parts of it. A sidecar's
//! connection lives for months and is quiet for hours, so what one request held would lie there until as many bytes of
//! later ones had come. This fills the buffer up after each message, by a frame of a type that is unknown and therefore
//! ignored (RFC 9113, 4.1 and 5.5). h2 then takes a new buffer; the old one is freed with its last message, and wiped
//! ([`crate::auth::memory`]). What is left of a buffer is zeroed before each read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client's HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head (RFC 9113, 4.1).
const HEAD: usize = 9;
/// The largest payload that every receiver takes (RFC 9113, 4.2).
const LARGEST: usize = 16384;
/// A type that no specification gives a meaning.
const UNKNOWN: u8 = 0xea;

/// A connection that leaves nothing in the buffers that it is read into.
#[derive(Debug)]
pub(super) struct Wire<T> {
    inside: T,
    frames: Frames,
    /// Filling that has not been read yet.
    filling: Vec<u8>,
}

impl<T> Wire<T> {
    pub(super) fn new(inside: T) -> Wire<T> {
        Wire { inside, frames: Frames::default(), filling: Vec::new() }
    }

    fn fill(&mut self, buffer: &mut ReadBuf<'_>) {
        let part = self.filling.len().min(buffer.remaining());
        let rest = self.filling.split_off(part);
        buffer.put_slice(&self.filling);
        self.filling = rest;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        buffer.initialize_unfilled().fill(0);
        if wire.filling.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut wire.inside).poll_read(cx, buffer))?;
            wire.frames.see(buffer.filled().get(before..).unwrap_or_default());
            if wire.frames.ends_a_message() {
                wire.filling = filling(buffer.remaining());
            }
        }
        wire.fill(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inside).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inside).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inside).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inside).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inside.is_write_vectored()
    }
}

impl<T> Connected for Wire<T> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Frames of zeros with at least `room` bytes together; none where there is no room.
fn filling(room: usize) -> Vec<u8> {
    let mut frames = Vec::with_capacity(room + HEAD);
    while frames.len() < room {
        let payload = (room - frames.len()).saturating_sub(HEAD).min(LARGEST);
        let [.., high, middle, low] = (payload as u64).to_be_bytes();
        frames.extend([high, middle, low, UNKNOWN, 0, 0, 0, 0, 0]);
        frames.resize(frames.len() + payload, 0);
    }
    frames
}

/// Where in a stream of frames the bytes seen so far end.
#[derive(Debug, Default)]
struct Frames {
    at: At,
    /// A header block has begun and not ended; no other frame may come between (RFC 9113, 4.3).
    in_headers: bool,
    /// Part of a message came since the last filling.
    has_data: bool,
}

#[derive(Debug)]
enum At {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// These bytes of a head.
    Head([u8; HEAD], usize),
    /// So many bytes of a payload are to come.
    Payload(usize),
    /// It is no HTTP/2.
    Nowhere,
}

impl Default for At {
    fn default() -> At {
        At::Preface(0)
    }
}

impl Frames {
    fn see(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let taken = match &mut self.at {
                At::Nowhere => return,
                At::Preface(seen) => {
                    if PREFACE.get(*seen) != Some(first) {
                        self.at = At::Nowhere;
                        return;
                    }
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    1
                }
                At::Head(head, seen) => {
                    if let Some(byte) = head.get_mut(*seen) {
                        *byte = *first;
                    }
                    *seen += 1;
                    if *seen == HEAD {
                        let [high, middle, low, kind, flags, ..] = *head;
                        self.enter(kind, flags, u32::from_be_bytes([0, high, middle, low]) as usize);
                    }
                    1
                }
                At::Payload(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// A frame begins (types and flags: RFC 9113, 6).
    fn enter(&mut self, kind: u8, flags: u8, length: usize) {
        const DATA: u8 = 0;
        const BLOCKS: [u8; 3] = [1, 5, 9];
        const END_HEADERS: u8 = 4;
        if BLOCKS.contains(&kind) {
            self.in_headers = flags & END_HEADERS == 0;
        }
        self.has_data |= kind == DATA;
        self.at = if length == 0 { At::Head([0; HEAD], 0) } else { At::Payload(length) };
    }

    /// Once for each end of a frame that some of a message came with or before.
    fn ends_a_message(&mut self) -> bool {
        let between = matches!(self.at, At::Head(_, 0)) && !self.in_headers;
        between && std::mem::take(&mut self.has_data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [.., high, middle, low] = payload.len().to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is left of `bytes` when frames of the unknown type are taken out, which must be whole.
    fn without_filling(mut bytes: &[u8]) -> Vec<u8> {
        let (preface, rest) = bytes.split_at(PREFACE.len());
        let mut kept = preface.to_vec();
        bytes = rest;
        while !bytes.is_empty() {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let (whole, rest) = bytes.split_at(HEAD + length);
            if whole[3] == UNKNOWN {
                assert!(whole[HEAD..].iter().all(|byte| *byte == 0) && length <= LARGEST);
            } else {
                kept.extend(whole);
            }
            bytes = rest;
        }
        kept
    }

    async fn read(bytes: &[u8], buffers: &[usize], chunk: usize) -> Vec<u8> {
        let (mut to, from) = tokio::io::duplex(chunk);
        let sent = bytes.to_vec();
        let sender = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut to, &sent).await });
        let mut wire = Wire::new(from);
        let mut all = Vec::new();
        for size in buffers.iter().cycle() {
            let mut buffer = vec![7; *size];
            match wire.read(&mut buffer).await.unwrap() {
                0 => break,
                count => all.extend(&buffer[..count]),
            }
        }
        sender.await.unwrap().unwrap();
        all
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent(
            payloads in prop::collection::vec((0..10u8, any::<u8>(), 0..300usize), 0..12),
            buffers in prop::collection::vec(1..400usize, 1..4),
            chunk in 1..500usize,
        ) {
            let frames = payloads.iter().map(|(kind, flags, size)| frame(*kind, *flags, &vec![1; *size]));
            let sent = [PREFACE.to_vec(), frames.flatten().collect()].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(read(&sent, &buffers, chunk));
            prop_assert_eq!(without_filling(&read), sent);
        }

        #[test]
        fn a_filling_fills_and_spills_less_than_a_head(room in 0..40_000usize) {
            let filling = filling(room);
            prop_assert!(filling.len() >= room && filling.len() < room + HEAD);
        }
    }

    #[tokio::test]
    async fn a_buffer_is_full_after_each_message_and_between_header_frames_never() {
        let message = [PREFACE.to_vec(), frame(1, 4, b"head"), frame(0, 1, b"message")].concat();
        let read = read(&message, &[1000], 1000).await;
        assert_eq!(read.len(), 1000, "to its end");
        let open = [PREFACE.to_vec(), frame(0, 0, b"message"), frame(1, 0, b"head")].concat();
        assert_eq!(super::tests::read(&open, &[1000], 1000).await, open);
        let closed = [open, frame(9, 4, b"more")].concat();
        assert_eq!(super::tests::read(&closed, &[1000], 1000).await.len(), 1000);
        let other = b"GET / HTTP/1.1\r\n\r\n\0\0\0\0\0\0\0\0\0\0".to_vec();
        assert_eq!(super::tests::read(&other, &[1000], 1000).await, other);
    }
}
