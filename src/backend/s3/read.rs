//! Exactly the bytes of one version.
//!
//! Every GET is pinned by `If-Match`, and little is taken from a store's word: Content-Range, length and ETag of each
//! answer are compared with what was asked, since a store or a gateway may ignore a condition or a range. A whole object
//! that its end vouches for, by a checksum or by its length alone, is held back until then. A body that breaks off goes on
//! with the rest of the range and the same pin.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumType;
use backon::{BackoffBuilder, ExponentialBackoff};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::client::{Client, backoff};
use super::direct::Get;
use super::error::Failure;
use super::{Checksums, stat};
use crate::backend::{ErrorKind, Intent, Op, Result, Version, reading};
use crate::observability::metrics::STORE_RETRIES;

/// `Backend::read`.
pub(super) async fn read(
    client: Arc<Client>,
    file: &Version,
    range: Range<u64>,
    why: Intent,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(answer) = reading::at_once(file, &range) {
        return answer;
    }
    let patience = client.limits.timeout.get();
    match why {
        Intent::Demand => {
            client.turns.waits();
            // Who waits for a connection waits for an answer.
            let until = Instant::now() + patience;
            let ask = |range| ask(client.clone(), file.clone(), range, until, None).boxed();
            let late = || Err(Failure::late(patience).at(Op::Read, &file.path));
            client.together.read(file, range, until, ask).await.unwrap_or_else(late)
        }
        Intent::Ahead => {
            let turn = client.turns.guess().await;
            // Whoever only queues up here does no more than that.
            tokio::task::yield_now().await;
            ask(client, file.clone(), range, Instant::now() + patience, turn).await
        }
    }
}

/// Asks the store, which is to answer `until` then.
async fn ask(
    client: Arc<Client>,
    file: Version,
    range: Range<u64>,
    until: Instant,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let fail = {
        let path = file.path.clone();
        move |failure: Failure| failure.at(Op::Read, &path)
    };
    let key = client.keys.file(&file.path).map_err(&fail)?;
    let ready = VecDeque::new();
    let mut reading = Reading { client, key, file, range, until, body: None, ready, trouble: None, _turn: turn };
    reading.open().await.map_err(&fail)?;
    let body = stream::try_unfold(reading, async |mut reading| {
        let piece = reading.piece().await?;
        Ok(piece.map(|piece| (piece, reading)))
    });
    Ok(body.map_err(fail).boxed())
}

struct Reading {
    client: Arc<Client>,
    key: String,
    file: Version,
    /// What is still to come.
    range: Range<u64>,
    /// When the first answer is late.
    until: Instant,
    body: Option<Body>,
    /// What has come and was not given out yet; not to be, while the body's end is awaited.
    ready: VecDeque<Bytes>,
    trouble: Option<Trouble>,
    _turn: Option<OwnedSemaphorePermit>,
}

struct Body {
    bytes: ByteStream,
    /// A checksum that does not fit means wrong bytes.
    vouched: bool,
    /// Only its end tells whether its bytes are right.
    awaits_end: bool,
    /// How long it is was not said before: its end is the object's.
    unmeasured: bool,
}

/// Breaks since the last byte was given out.
struct Trouble {
    until: Instant,
    pauses: ExponentialBackoff,
}

impl Reading {
    async fn open(&mut self) -> std::result::Result<(), Failure> {
        let this = &*self;
        let until = this.trouble.as_ref().map_or(this.until, |trouble| trouble.until);
        let least = Duration::from_secs(1).min(this.client.limits.timeout.get());
        let budget = (until - Instant::now()).max(least);
        let body =
            this.client.ask_for(budget, async || this.get().await).await.map_err(|failure| match failure.kind {
                ErrorKind::NotFound => Failure::new(ErrorKind::Stale, "the object is gone"),
                _ => failure,
            })?;
        self.body = Some(body);
        Ok(())
    }

    /// One GET of what is still to come, its head compared with what was asked.
    async fn get(&self) -> std::result::Result<Body, Failure> {
        let client = &self.client;
        let whole = self.range == (0..self.file.size);
        let get = Get {
            key: &self.key,
            if_match: Some(stat::quoted(&self.file.bytes)),
            range: (!whole).then(|| format!("bytes={}-{}", self.range.start, self.range.end - 1)),
            checksum: whole && client.checksums == Checksums::Supported,
            ..Get::default()
        };
        let answer = client.direct.get(get).await?;
        check(&answer, &self.file, &self.range, whole)?;
        let (vouched, unmeasured) = (is_of_the_whole(&answer), whole && answer.content_length().is_none());
        let awaits_end = unmeasured || whole && vouched && has_sum(&answer);
        Ok(Body { vouched, awaits_end, unmeasured, bytes: answer.body })
    }

    /// The next bytes; `None` at the end.
    async fn piece(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        loop {
            let is_held = self.body.as_ref().is_some_and(|body| body.awaits_end);
            if !is_held && let Some(piece) = self.ready.pop_front() {
                if self.body.is_some() || self.range.is_empty() {
                    self.trouble = None;
                }
                return Ok(Some(piece));
            }
            if self.range.is_empty() {
                return Ok(None);
            }
            self.receive().await?;
        }
    }

    /// Takes what comes next.
    async fn receive(&mut self) -> std::result::Result<(), Failure> {
        let Some(body) = &mut self.body else { return self.open().await };
        let left = self.range.end - self.range.start;
        match body.bytes.next().await {
            Some(Ok(piece)) if piece.is_empty() => Ok(()),
            Some(Ok(piece)) if piece.len() as u64 > left => Err(too_much()),
            Some(Ok(piece)) => {
                self.range.start += piece.len() as u64;
                self.ready.push_back(piece);
                // Only at its end does a body tell whether its checksum holds.
                if self.range.is_empty() { self.finish().await } else { Ok(()) }
            }
            Some(Err(broken)) if body.vouched && is_wrong(&broken) => Err(wrong_sum()),
            Some(Err(broken)) => {
                tracing::debug!(error = %broken, "a body broke off");
                if body.unmeasured { self.begin_anew().await } else { self.pause().await }
            }
            None if body.unmeasured => Err(Failure::corrupt("the store's answer ends before the object does")),
            None => self.pause().await,
        }
    }

    /// Reads the end of a body whose bytes have all come.
    async fn finish(&mut self) -> std::result::Result<(), Failure> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        match body.bytes.next().await {
            Some(Err(broken)) if body.vouched && is_wrong(&broken) => Err(wrong_sum()),
            Some(Ok(more)) if !more.is_empty() => Err(too_much()),
            Some(Err(broken)) if body.awaits_end => {
                tracing::debug!(error = %broken, "a body broke off at its end");
                self.begin_anew().await
            }
            _ => Ok(()),
        }
    }

    /// Asks for the whole object again, of which nothing was given out.
    async fn begin_anew(&mut self) -> std::result::Result<(), Failure> {
        self.ready.clear();
        self.range.start = 0;
        self.pause().await
    }

    /// Waits before the rest is asked for, as long as the volume's timeout has not passed without a byte.
    async fn pause(&mut self) -> std::result::Result<(), Failure> {
        self.body = None;
        let patience = self.client.limits.timeout.get();
        let trouble =
            self.trouble.get_or_insert_with(|| Trouble { until: Instant::now() + patience, pauses: backoff().build() });
        let pause = trouble.pauses.next().unwrap_or_default();
        if Instant::now() + pause >= trouble.until {
            let why = format!("the object's bytes broke off again and again for {} s", patience.as_secs_f32());
            return Err(Failure::new(ErrorKind::Unavailable, why));
        }
        tokio::time::sleep(pause).await;
        metrics::counter!(STORE_RETRIES).increment(1);
        Ok(())
    }
}

/// Whether a body does not fit its checksum.
pub(super) fn is_wrong(broken: &aws_sdk_s3::primitives::ByteStreamError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(broken);
    while let Some(cause) = next {
        if cause.to_string().contains("checksum mismatch") {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Whether the checksums of an answer are those of the whole object. Some stores give a sum of the parts' sums without
/// saying so, or one of another algorithm's length.
pub(super) fn is_of_the_whole(answer: &GetObjectOutput) -> bool {
    let in_parts = answer.e_tag().is_some_and(|etag| etag.contains('-'));
    let has_length = |sum: Option<&str>, length| {
        sum.is_none_or(|sum| BASE64.decode(sum.as_bytes()).is_ok_and(|sum| sum.len() == length))
    };
    (!in_parts || answer.checksum_type() == Some(&ChecksumType::FullObject))
        && has_length(answer.checksum_crc32(), 4)
        && has_length(answer.checksum_crc32_c(), 4)
        && has_length(answer.checksum_crc64_nvme(), 8)
        && has_length(answer.checksum_sha1(), 20)
        && has_length(answer.checksum_sha256(), 32)
}

/// Whether there is anything that the body is compared with.
fn has_sum(answer: &GetObjectOutput) -> bool {
    let sums = [
        answer.checksum_crc32(),
        answer.checksum_crc32_c(),
        answer.checksum_crc64_nvme(),
        answer.checksum_sha1(),
        answer.checksum_sha256(),
    ];
    sums.iter().any(Option::is_some)
}

fn too_much() -> Failure {
    Failure::corrupt("the store sent more than was asked")
}

pub(super) fn wrong_sum() -> Failure {
    Failure::corrupt("the object's bytes do not fit the checksum that the store keeps of them")
}

/// Compares an answer with the question.
fn check(
    answer: &GetObjectOutput,
    file: &Version,
    range: &Range<u64>,
    whole: bool,
) -> std::result::Result<(), Failure> {
    match answer.e_tag() {
        Some(etag) if *stat::bare(etag) == *file.bytes => {}
        Some(_) => return Err(Failure::new(ErrorKind::Stale, "the store ignored If-Match and gave another version")),
        None => return Err(Failure::corrupt("the store's answer has no ETag")),
    }
    // A chunked answer has none; its bytes are counted as they come.
    let length = answer.content_length().map(i64::cast_unsigned);
    if length.is_some_and(|length| length != range.end - range.start) {
        return Err(Failure::corrupt("the store's answer has another length than was asked"));
    }
    let expected = format!("bytes {}-{}/{}", range.start, range.end - 1, file.size);
    match answer.content_range() {
        // A whole object has no need of one.
        None if whole => Ok(()),
        Some(given) if given.trim() == expected => Ok(()),
        _ => Err(Failure::corrupt("the store gave another range than was asked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Path;

    #[test]
    fn an_answer_to_another_question_is_seen() {
        let file = Version { path: Path::parse("f").unwrap(), file: "e".into(), bytes: "e".into(), size: 100 };
        let answer = |etag: &str, length, range: Option<&str>| {
            GetObjectOutput::builder()
                .e_tag(etag)
                .content_length(length)
                .set_content_range(range.map(Into::into))
                .build()
        };
        let kind = |answer: GetObjectOutput, range: Range<u64>| {
            let whole = range == (0..100);
            check(&answer, &file, &range, whole).err().map(|failure| failure.kind)
        };
        assert_eq!(kind(answer("\"e\"", 10, Some("bytes 5-14/100")), 5..15), None);
        assert_eq!(kind(answer("\"e\"", 100, None), 0..100), None);
        assert_eq!(kind(answer("\"f\"", 10, Some("bytes 5-14/100")), 5..15), Some(ErrorKind::Stale));
        for (length, range) in [
            (100, None),
            (10, None),
            (10, Some("bytes 0-9/100")),
            (10, Some("bytes 5-14/99")),
            (9, Some("bytes 5-14/100")),
        ] {
            assert_eq!(kind(answer("\"e\"", length, range), 5..15), Some(ErrorKind::Corrupt), "{length} {range:?}");
        }
    }
}
