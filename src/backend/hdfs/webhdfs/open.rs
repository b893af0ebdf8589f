//! OPEN: bytes of a file, through a DataNode's own client. It gives all that was synced, also of a file that is still
//! being written, of which the RPC library gives nothing behind the last complete block.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::answers::Redirect;
use super::{WebHdfs, refused, unreached};
use crate::backend::hdfs::error::{Failure, Outcome};
use crate::backend::meter::{UNREACHED, answered};

impl WebHdfs {
    /// Bytes of `range`, or fewer where the file ends before. `known` is the length that the name node gives, which
    /// takes no offset at or behind it.
    pub(in crate::backend::hdfs) async fn open(&self, path: &str, range: Range<u64>, known: u64) -> Outcome<Bytes> {
        let start = range.start.min(known.saturating_sub(1));
        let more = format!("&offset={start}&length={}&noredirect=true", range.end - start);
        let Redirect { location } = self.ask("read", Method::GET, path, "OPEN", &more).await?;
        let (begun, deadline) = (Instant::now(), Instant::now() + self.timeout.get());
        let reading = async {
            let answer = self.send(&Method::GET, location).await?;
            let status = answer.status();
            let mut body = answer.into_body();
            let mut whole = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| unreached("a DataNode's connection broke in the middle of an answer"))?;
                if let Ok(data) = frame.into_data() {
                    whole.extend_from_slice(&data);
                }
                if whole.len() as u64 > range.end - start {
                    return Err(Failure::corrupt("a DataNode gave more bytes than were asked for"));
                }
            }
            Ok((status, whole.freeze()))
        };
        let patience = deadline.saturating_duration_since(begun);
        let read = timeout(patience, reading).await.unwrap_or_else(|_| Err(Failure::late(patience)));
        answered("read", read.as_ref().map_or(UNREACHED, |(status, _)| super::answer_word(*status)), begun.elapsed());
        match read? {
            (status, bytes) if status.is_success() => {
                self.meter.fetched(bytes.len());
                let skipped = usize::try_from(range.start - start).unwrap_or(usize::MAX);
                Ok(bytes.slice(skipped.min(bytes.len())..))
            }
            (status, bytes) => Err(refused(status, &bytes)),
        }
    }

    /// How long the file is as far as it can be read now; `known` as of [`WebHdfs::open`].
    pub(in crate::backend::hdfs) async fn readable(&self, path: &str, known: u64) -> Outcome<u64> {
        let start = known.saturating_sub(1);
        let more = format!("&offset={start}&noredirect=true");
        let Redirect { location } = self.ask("stat", Method::GET, path, "OPEN", &more).await?;
        let patience = self.timeout.get();
        // The body is not read: its length is all that is wanted.
        let answer = timeout(patience, self.send(&Method::GET, location)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::late(patience)))?;
        if !answer.status().is_success() {
            return Err(refused(answer.status(), b""));
        }
        let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        Ok(length.map_or(known, |length| start + length))
    }
}
