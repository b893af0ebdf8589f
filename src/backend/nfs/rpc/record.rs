//! Records on a byte stream (RFC 5531, section 11): a message in fragments, each behind a word with its length.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The bit that marks a record's last fragment.
const LAST: u32 = 1 << 31;

/// The longest record that is taken: more than the largest READ and a page of a directory need.
const LONGEST: usize = 4 << 20;

/// The word before a record of `length` bytes in one fragment.
pub(super) fn mark(length: usize) -> [u8; 4] {
    (LAST | length as u32).to_be_bytes()
}

/// Reads one whole record; `None` where the stream ends before one begins.
///
/// # Errors
/// Where the stream breaks, or ends inside a record; `InvalidData` for one that is too long.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut record = BytesMut::new();
    let mut begun = false;
    loop {
        let mut word = [0; 4];
        if !begun && stream.read(&mut word[..1]).await? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut word[usize::from(!begun)..]).await?;
        begun = true;
        let word = u32::from_be_bytes(word);
        let length = (word & !LAST) as usize;
        if record.len() + length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is longer than 4 MiB"));
        }
        record.reserve(length);
        let mut fragment = stream.take(length as u64);
        while fragment.limit() > 0 {
            if fragment.read_buf(&mut record).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if word & LAST != 0 {
            return Ok(Some(record.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(data: &[u8], last: bool) -> Vec<u8> {
        let word = data.len() as u32 | if last { LAST } else { 0 };
        [&word.to_be_bytes()[..], data].concat()
    }

    #[tokio::test]
    async fn a_record_is_put_together_from_its_fragments() {
        let stream =
            [fragment(b"ab", false), fragment(b"", false), fragment(b"c", true), fragment(b"next", true)].concat();
        let mut stream = stream.as_slice();
        assert_eq!(read(&mut stream).await.unwrap().unwrap(), "abc");
        assert_eq!(read(&mut stream).await.unwrap().unwrap(), "next");
        assert_eq!(read(&mut stream).await.unwrap(), None);
        assert_eq!(mark(3), (LAST | 3).to_be_bytes());
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_record_is_an_error() {
        let whole = [fragment(b"ab", false), fragment(b"c", true)].concat();
        for length in 1..whole.len() {
            let error = read(&mut &whole[..length]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }

    #[tokio::test]
    async fn a_length_is_not_believed_before_it_is_looked_at() {
        let mut endless = fragment(&[0; 1000], false);
        endless.extend_from_slice(&(LAST - 1).to_be_bytes());
        assert_eq!(read(&mut endless.as_slice()).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
