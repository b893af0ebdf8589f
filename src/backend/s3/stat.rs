//! What lies at a path: one HEAD of the key and one LIST of a single key below it, at once, since either may decide.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{EncodingType, Object};
use aws_smithy_types::DateTime;

use super::client::Client;
use super::error::Failure;
use super::keys;
use crate::backend::{Error, ErrorKind, Meta, Node, Op, Path, Result, Version};

/// `Backend::stat`.
pub(super) async fn stat(client: &Client, path: &Path, op: Op) -> Result<Meta> {
    let fail = |failure: Failure| failure.at(op, path);
    if path.is_root() {
        has_children(client, path).await.map_err(fail)?;
        return Ok(directory());
    }
    let missing = || Error::new(ErrorKind::NotFound, op, path, "nothing lies there");
    let Ok(key) = client.keys.file(path) else { return Err(missing()) };
    let (head, below) = tokio::join!(head(client, &key), has_children(client, path));
    match (head, below) {
        (_, Ok(true)) => Ok(directory()),
        (Ok(head), Ok(false)) => file(path, &head).map_err(fail),
        // Who may not list still reads the files whose names it knows.
        (Ok(head), Err(failure)) if failure.kind == ErrorKind::Denied => file(path, &head).map_err(fail),
        (Err(refused), Ok(false)) if refused.status == Some(400) => match listed(client, path, &key).await {
            Ok(Some(meta)) => Ok(meta),
            Ok(None) => Err(missing()),
            Err(failure) => Err(fail(failure)),
        },
        (Err(failure), Ok(false)) => Err(fail(failure)),
        // The LIST's answer has a body, and so a reason.
        (_, Err(failure)) => Err(fail(failure)),
    }
}

/// HEAD of an object.
pub(super) async fn head(client: &Client, key: &str) -> std::result::Result<HeadObjectOutput, Failure> {
    client
        .ask(async || {
            let head = client.sdk.head_object().bucket(&client.bucket).key(key);
            Ok(head.set_request_payer(client.payer.clone()).send().await?)
        })
        .await
}

/// Whether any key begins with the directory's prefix, its marker included.
pub(super) async fn has_children(client: &Client, path: &Path) -> std::result::Result<bool, Failure> {
    let prefix = client.keys.directory(path)?;
    Ok(!first_keys(client, &prefix, 1).await?.is_empty())
}

/// The first `most` objects whose keys begin with `prefix`, with their keys. A store may give a page that has fewer, and
/// more behind it.
pub(super) async fn first_keys(
    client: &Client,
    prefix: &str,
    most: usize,
) -> std::result::Result<Vec<(Vec<u8>, Object)>, Failure> {
    let (mut token, mut found) = (None, Vec::new());
    loop {
        let missing = i32::try_from(most - found.len()).unwrap_or(i32::MAX);
        let page = client
            .ask(async || {
                let list = client.sdk.list_objects_v2().bucket(&client.bucket).prefix(prefix).max_keys(missing);
                let list = list.encoding_type(EncodingType::Url).set_continuation_token(token.clone());
                Ok(list.set_request_payer(client.payer.clone()).send().await?)
            })
            .await?;
        let next = follows(token.as_deref(), page.is_truncated(), page.next_continuation_token());
        let encoding = page.encoding_type;
        let objects = page.contents.unwrap_or_default().into_iter();
        let keyed = objects.map(|object| (keys::listed(object.key().unwrap_or_default(), encoding.as_ref()), object));
        found.extend(keyed.take(most - found.len()));
        if found.len() == most {
            return Ok(found);
        }
        match next? {
            Some(next) => token = Some(next),
            None => return Ok(found),
        }
    }
}

/// What to ask for behind the page that was asked for by `token`; `None` behind the last.
pub(super) fn follows(
    token: Option<&str>,
    is_truncated: Option<bool>,
    next: Option<&str>,
) -> std::result::Result<Option<String>, Failure> {
    match (is_truncated, next) {
        (Some(true), None) => Err(Failure::corrupt("the store's listing ends in its middle")),
        (Some(true), next) if next == token => Err(Failure::corrupt("the store's listing goes round in a circle")),
        (Some(true), next) => Ok(next.map(str::to_owned)),
        _ => Ok(None),
    }
}

/// The file `key` as a LIST shows it: HEAD is refused with a bare 400 where the object is encrypted with a key of its
/// writer's. Nobody can read it here, but it is there.
async fn listed(client: &Client, path: &Path, key: &str) -> std::result::Result<Option<Meta>, Failure> {
    let found = first_keys(client, key, 1).await?;
    let Some((_, object)) = found.first().filter(|(found, _)| found == key.as_bytes()) else { return Ok(None) };
    let version = version(path, object.e_tag(), object.size())?;
    Ok(Some(Meta { readable: false, ..of(version, time(object.last_modified())) }))
}

/// A HEAD's answer as a file.
pub(super) fn file(path: &Path, head: &HeadObjectOutput) -> std::result::Result<Meta, Failure> {
    let archived =
        head.archive_status().is_some() || head.storage_class().is_some_and(|class| is_archive(class.as_str()));
    // `x-amz-restore: ongoing-request="false", expiry-date=...` stands on a copy that can be read.
    let restored = head.restore().is_some_and(|restore| restore.contains("ongoing-request=\"false\""));
    let version = version(path, head.e_tag(), head.content_length())?;
    Ok(Meta { readable: !archived || restored, ..of(version, time(head.last_modified())) })
}

/// Storage classes whose objects must be restored before a GET.
pub(super) fn is_archive(class: &str) -> bool {
    matches!(class, "GLACIER" | "DEEP_ARCHIVE")
}

/// What a store says of an object, as a version of the file at `path`.
pub(super) fn version(path: &Path, etag: Option<&str>, size: Option<i64>) -> std::result::Result<Version, Failure> {
    match (etag, size.and_then(|size| u64::try_from(size).ok())) {
        (Some(etag), Some(size)) => Ok(tagged(path, bare(etag), size)),
        _ => Err(Failure::corrupt("the store gave an object without ETag or length")),
    }
}

/// A version of the file at `path`. S3 has one name for both of its halves, the ETag (here without quotes).
pub(super) fn tagged(path: &Path, etag: &str, size: u64) -> Version {
    let tag: Arc<str> = etag.into();
    Version { path: path.clone(), file: tag.clone(), bytes: tag, size }
}

/// A file that can be read.
pub(super) fn of(version: Version, mtime: SystemTime) -> Meta {
    Meta { node: Node::File(version), mtime, permissions: None, readable: true, links: 1 }
}

/// An ETag without its quotes, which some stores leave out in listings, and without the mark of weakness that some
/// gateways add.
pub(super) fn bare(etag: &str) -> &str {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(etag)
}

/// A version's ETag as conditions carry it.
pub(super) fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// A directory. Its time is always the epoch, marker or not: a LIST of the directory above does not tell a marker's.
pub(super) fn directory() -> Meta {
    Meta { node: Node::Directory, mtime: SystemTime::UNIX_EPOCH, permissions: None, readable: true, links: 1 }
}

/// A store's time; the epoch where it gives none.
pub(super) fn time(time: Option<&DateTime>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(*time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}
