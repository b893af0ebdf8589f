//! A small object, whole, by one GET.

use aws_smithy_types::DateTime;
use bytes::{Bytes, BytesMut};

use super::client::Client;
use super::direct::Get;
use super::error::Failure;
use super::{Checksums, read, stat};
use crate::backend::{ErrorKind, Fetched, Op, Path, Result, Version};

/// `Backend::fetch`.
pub(super) async fn fetch(client: &Client, path: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
    let fail = |failure: Failure| failure.at(Op::Fetch, path);
    let key = client.keys.file(path).map_err(fail)?;
    let known = known.map(|version| &*version.bytes);
    // Nobody knows yet that there is such a file, and so nobody waits for it.
    let _turn = client.turns.guess().await;
    let Some(whole) = whole(client, &key, longest, known).await.map_err(fail)? else { return Ok(Fetched::Same) };
    let version = stat::tagged(path, &whole.etag, whole.bytes.len() as u64);
    Ok(Fetched::New { meta: stat::of(version, stat::time(whole.modified.as_ref())), bytes: whole.bytes })
}

/// An object as one GET gave it.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    /// Without quotes.
    pub(super) etag: String,
    modified: Option<DateTime>,
}

/// The object `key`, or `None` where its ETag is `known`, also from a store that ignores conditions. More than
/// `longest` bytes are `TooLarge`.
pub(super) async fn whole(
    client: &Client,
    key: &str,
    longest: u64,
    known: Option<&str>,
) -> std::result::Result<Option<Whole>, Failure> {
    client.ask(async || get(client, key, longest, known).await).await
}

async fn get(
    client: &Client,
    key: &str,
    longest: u64,
    known: Option<&str>,
) -> std::result::Result<Option<Whole>, Failure> {
    let (if_none_match, checksum) = (known.map(stat::quoted), client.checksums == Checksums::Supported);
    let answer = match client.direct.get(Get { key, if_none_match, checksum, ..Get::default() }).await {
        Err(failure) if failure.status == Some(304) && known.is_some() => return Ok(None),
        outcome => outcome?,
    };
    let etag = answer.e_tag().map(|etag| stat::bare(etag).to_owned());
    let etag = etag.ok_or_else(|| Failure::corrupt("the store's answer has no ETag"))?;
    if known == Some(&*etag) {
        return Ok(None);
    }
    let too_long = || Failure::new(ErrorKind::TooLarge, format!("the object is longer than {longest} bytes"));
    let length = answer.content_length().map(i64::cast_unsigned);
    if length.is_some_and(|length| length > longest) {
        return Err(too_long());
    }
    let (vouched, modified) = (read::is_of_the_whole(&answer), answer.last_modified);
    let (mut body, mut bytes) = (answer.body, BytesMut::new());
    let ended = loop {
        match body.next().await {
            Some(Ok(piece)) if bytes.len() as u64 + piece.len() as u64 > longest => return Err(too_long()),
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
            Some(Err(broken)) if vouched && read::is_wrong(&broken) => return Err(read::wrong_sum()),
            Some(Err(broken)) => break read::is_wrong(&broken),
            None => break true,
        }
    };
    if !ended || length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Failure::passing(ErrorKind::Unavailable, "the object's bytes broke off"));
    }
    Ok(Some(Whole { bytes: bytes.freeze(), etag, modified }))
}
