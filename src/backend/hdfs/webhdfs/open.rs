//! OPEN: bytes of a file, through a DataNode's own client. It gives all that was synced, also of a file that is still
//! being written, of which the RPC library gives nothing behind the last complete block.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{Method, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use percent_encoding::utf8_percent_encode;
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::Redirect;
use super::{IN_QUERY, WebHdfs, answer_word, refused, unreached};
use crate::backend::ErrorKind;
use crate::backend::hdfs::error::{Failure, Outcome};
use crate::backend::meter::{UNREACHED, answered};

/// DataNodes that are asked one after the other where each is silent.
const MOST: u32 = 3;

/// How long one may take at most to begin an answer of which no more is wanted.
const SOON: Duration = Duration::from_secs(5);

/// Bytes of an answer that is an error.
const LONGEST_REFUSAL: usize = 64 << 10;

impl WebHdfs {
    /// Bytes of `range`, or fewer where the file ends before. `known` is the length that the name node gives, which
    /// takes no offset at or behind it: what lies between comes, too, and is thrown away.
    pub(in crate::backend::hdfs) async fn open(&self, path: &str, range: Range<u64>, known: u64) -> Outcome<Bytes> {
        let start = range.start.min(known.saturating_sub(1));
        let more = format!("&offset={start}&length={}", range.end - start);
        let patience = self.timeout.get() / MOST;
        let within = |answer| self.within(answer, start, range.clone());
        self.at_datanode("read", path, &more, patience, within).await
    }

    /// How long the file is as far as it can be read now; `known` as of [`WebHdfs::open`].
    pub(in crate::backend::hdfs) async fn readable(&self, path: &str, known: u64) -> Outcome<u64> {
        let start = known.saturating_sub(1);
        let patience = (self.timeout.get() / MOST).min(SOON);
        // The body is not read: its length is all that is wanted.
        let length = |answer: Response<Incoming>| async move {
            let length = answer.headers().get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            Ok(length.map_or(known, |length| start + length))
        };
        self.at_datanode("stat", path, &format!("&offset={start}"), patience, length).await
    }

    /// What `take` makes of the answer of the DataNode that the name node sends to; of another one's where that is silent.
    async fn at_datanode<T, F>(
        &self,
        kind: &'static str,
        path: &str,
        more: &str,
        patience: Duration,
        take: impl Fn(Response<Incoming>) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let (mut silent, mut failed, deadline) = (Vec::new(), None, Instant::now() + self.timeout.get());
        loop {
            let more = match silent.join(",").as_str() {
                "" => format!("{more}&noredirect=true"),
                hosts => format!("{more}&excludedatanodes={}&noredirect=true", utf8_percent_encode(hosts, IN_QUERY)),
            };
            let named: Outcome<Redirect> = self.ask(kind, Method::GET, path, "OPEN", &more).await;
            let location = match named {
                Ok(Redirect { location }) => location,
                // It knows of no other.
                Err(failure) => return Err(failed.unwrap_or(failure)),
            };
            let host = location.parse().ok().and_then(|url: Uri| url.host().map(str::to_owned)).unwrap_or_default();
            let begun = Instant::now();
            let asking = async {
                let sent = timeout(patience, self.send(&Method::GET, location)).await;
                let answer = sent.unwrap_or_else(|_| Err(Failure::late(patience)))?;
                let status = answer.status();
                let outcome = match status.is_success() {
                    true => Ok(take(answer).await?),
                    false => Err(refused(status, &refusal(answer).await)),
                };
                Ok((status, outcome))
            };
            let late = |_| Err(Failure::late(self.timeout.get()));
            let asked = timeout_at(deadline, asking).await.unwrap_or_else(late);
            answered(kind, asked.as_ref().map_or(UNREACHED, |(status, _)| answer_word(*status)), begun.elapsed());
            match asked.and_then(|(_, outcome)| outcome) {
                Err(failure)
                    if failure.kind == ErrorKind::Unavailable
                        && silent.len() + 1 < MOST as usize
                        && Instant::now() < deadline =>
                {
                    silent.push(address(host).await);
                    failed.get_or_insert(failure);
                }
                outcome => return outcome,
            }
        }
    }

    /// What lies in `range` of an answer that begins at `start`.
    async fn within(&self, answer: Response<Incoming>, start: u64, range: Range<u64>) -> Outcome<Bytes> {
        let (mut body, mut at, mut within) = (answer.into_body(), start, BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| unreached("a DataNode's connection broke in the middle of an answer"))?;
            let Ok(data) = frame.into_data() else { continue };
            self.meter.fetched(data.len());
            let before = range.start.saturating_sub(at).min(data.len() as u64);
            at += data.len() as u64;
            if at > range.end {
                return Err(Failure::corrupt("a DataNode gave more bytes than were asked for"));
            }
            within.extend_from_slice(&data[before as usize..]);
        }
        Ok(within.freeze())
    }
}

/// The name node knows a DataNode that is to be passed over by its address alone.
async fn address(host: String) -> String {
    let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), 0)).await;
    found.ok().and_then(|mut all| all.next()).map_or(host, |address| address.ip().to_string())
}

/// What an answer says that is an error.
async fn refusal(answer: Response<Incoming>) -> Bytes {
    let body = Limited::new(answer.into_body(), LONGEST_REFUSAL).collect().await;
    body.map(|body| body.to_bytes()).unwrap_or_default()
}
