//! Removing what lies below a prefix, page by page: nothing else, and nothing silently left.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::types::{Delete, EncodingType, MultipartUpload, ObjectIdentifier};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::client::Client;
use super::error::Failure;
use super::keys;
use super::records::{self, Begin, below};
use crate::backend::records::{Extent, Removed};
use crate::backend::{ErrorKind, Path};

/// Single deletes in flight at once.
const AT_ONCE: usize = 16;

/// One entry: a key, or one version of it.
#[derive(Debug, Clone)]
struct Entry {
    key: String,
    version: Option<String>,
}

/// See [`crate::backend::records::Records::remove_page`].
pub(super) async fn page(
    client: &Client,
    dir: &Path,
    extent: Extent,
    refuses_batches: &AtomicBool,
) -> Result<Removed, Failure> {
    let prefix = client.keys.directory(dir)?;
    let mut uploads = Removed { count: 0, done: true };
    let (mut entries, last) = match extent {
        Extent::Current => current(client, &prefix).await?,
        Extent::All => {
            uploads = abort_uploads(client, &prefix).await?;
            match versions(client, &prefix).await {
                // A store without versions has only what is there now.
                Err(failure) if failure.kind == ErrorKind::Unsupported => current(client, &prefix).await?,
                listed => listed?,
            }
        }
    };
    // Children before their directory, which some stores demand.
    entries.reverse();
    let left = match refuses_batches.load(Ordering::Relaxed) {
        true => entries.clone(),
        false => batch(client, &entries, refuses_batches).await?,
    };
    let failed = singly(client, left).await;
    let removed = entries.len() - failed.len();
    let count = removed as u64 + uploads.count;
    match failed.into_iter().next() {
        // What failed is tried again with the next page, as long as something goes.
        Some(failure) if count == 0 => Err(failure),
        failure => Ok(Removed { count, done: last && uploads.done && failure.is_none() }),
    }
}

/// The first keys below `prefix`, and whether these are all. A page may be empty though more follow.
async fn current(client: &Client, prefix: &str) -> Result<(Vec<Entry>, bool), Failure> {
    let mut begin = Begin::First;
    loop {
        let page = records::page(client, prefix, &begin).await?;
        match page.next {
            Some(next) if page.keys.is_empty() => begin = Begin::Where(next),
            next => {
                let entries = page.keys.into_iter().map(|key| Entry { key, version: None });
                return Ok((entries.collect(), next.is_none()));
            }
        }
    }
}

/// The first versions and delete markers below `prefix`, and whether these are all.
async fn versions(client: &Client, prefix: &str) -> Result<(Vec<Entry>, bool), Failure> {
    let mut marker = Marker::default();
    loop {
        let page = client
            .ask(async || {
                let list = client.sdk.list_object_versions().bucket(&client.bucket).prefix(prefix);
                let list = list.set_key_marker(marker.key.clone()).set_version_id_marker(marker.id.clone());
                let list = list.encoding_type(EncodingType::Url);
                Ok(list.set_request_payer(client.payer.clone()).send().await?)
            })
            .await?;
        let encoding = page.encoding_type();
        let versions = page.versions().iter().map(|version| (version.key(), version.version_id()));
        let markers = page.delete_markers().iter().map(|marker| (marker.key(), marker.version_id()));
        let entries = versions.chain(markers).map(|(key, version)| {
            let version = version.filter(|id| !id.is_empty()).map(str::to_owned);
            Ok(Entry { key: below(prefix, key, encoding)?, version })
        });
        let mut entries = entries.collect::<Result<Vec<_>, Failure>>()?;
        entries.sort_by(|one, two| one.key.cmp(&two.key));
        let is_last = page.is_truncated() != Some(true);
        if is_last || !entries.is_empty() {
            return Ok((entries, is_last));
        }
        marker = marker.next(page.next_key_marker(), page.next_version_id_marker(), encoding)?;
    }
}

/// Where a page of versions or of uploads begins.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marker {
    key: Option<String>,
    id: Option<String>,
}

impl Marker {
    /// Of the page that follows, as the one that began here says.
    fn next(&self, key: Option<&str>, id: Option<&str>, encoding: Option<&EncodingType>) -> Result<Marker, Failure> {
        let key = key.and_then(|key| String::from_utf8(keys::listed(key, encoding)).ok());
        let next = Marker { key, id: id.filter(|id| !id.is_empty()).map(str::to_owned) };
        match next.key.is_none() || next == *self {
            true => Err(Failure::corrupt("the store's listing does not go on where it says it does")),
            false => Ok(next),
        }
    }
}

/// Aborts the first unfinished uploads of keys below `prefix`.
async fn abort_uploads(client: &Client, prefix: &str) -> Result<Removed, Failure> {
    let mut marker = Marker::default();
    loop {
        let listed = client
            .ask(async || {
                let list = client.sdk.list_multipart_uploads().bucket(&client.bucket).prefix(prefix);
                let list = list.set_key_marker(marker.key.clone()).set_upload_id_marker(marker.id.clone());
                let list = list.encoding_type(EncodingType::Url);
                Ok(list.set_request_payer(client.payer.clone()).send().await?)
            })
            .await;
        let page = match listed {
            Err(failure) if failure.kind == ErrorKind::Unsupported => return Ok(Removed { count: 0, done: true }),
            listed => listed?,
        };
        let (encoding, uploads) = (page.encoding_type.as_ref(), page.uploads.unwrap_or_default());
        let (count, done) = (uploads.len() as u64, page.is_truncated != Some(true));
        if done || count > 0 {
            let aborts = stream::iter(uploads).map(async |upload| abort(client, prefix, upload, encoding).await);
            aborts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            return Ok(Removed { count, done });
        }
        marker = marker.next(page.next_key_marker.as_deref(), page.next_upload_id_marker.as_deref(), encoding)?;
    }
}

async fn abort(
    client: &Client,
    prefix: &str,
    upload: MultipartUpload,
    encoding: Option<&EncodingType>,
) -> Result<(), Failure> {
    let key = below(prefix, upload.key(), encoding)?;
    let aborted = client
        .ask(async || {
            let abort = client.sdk.abort_multipart_upload().bucket(&client.bucket).key(&key);
            let abort = abort.set_upload_id(upload.upload_id().map(str::to_owned));
            Ok(abort.set_request_payer(client.payer.clone()).send().await?)
        })
        .await;
    match aborted {
        Err(failure) if failure.code != "NoSuchUpload" && failure.kind != ErrorKind::NotFound => Err(failure),
        _ => Ok(()),
    }
}

/// Deletes `entries` in one request and returns those that it did not say were deleted: errors of single keys stand
/// inside a 200.
async fn batch(client: &Client, entries: &[Entry], refuses_batches: &AtomicBool) -> Result<Vec<Entry>, Failure> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let unmade = |_| Failure::new(ErrorKind::Other, "the request cannot be made");
    let objects = entries.iter().map(|entry| {
        ObjectIdentifier::builder().key(&entry.key).set_version_id(entry.version.clone()).build().map_err(unmade)
    });
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    let delete = Delete::builder().set_objects(Some(objects)).quiet(false).build().map_err(unmade)?;
    let answer = client
        .ask(async || {
            let request = client.sdk.delete_objects().bucket(&client.bucket).delete(delete.clone());
            Ok(request.set_request_payer(client.payer.clone()).send().await?)
        })
        .await;
    match answer {
        Ok(answer) => {
            let gone: HashSet<_> =
                answer.deleted().iter().map(|deleted| (deleted.key(), deleted.version_id())).collect();
            let keys: HashSet<_> = gone.iter().map(|(key, _)| *key).collect();
            let is_gone = |entry: &Entry| match &entry.version {
                Some(version) => gone.contains(&(Some(entry.key.as_str()), Some(version.as_str()))),
                None => keys.contains(&Some(entry.key.as_str())),
            };
            Ok(entries.iter().filter(|entry| !is_gone(entry)).cloned().collect())
        }
        Err(failure) if is_refusal(&failure) => {
            tracing::info!(code = failure.code, status = failure.status, "the store refuses DeleteObjects");
            refuses_batches.store(true, Ordering::Relaxed);
            Ok(entries.to_vec())
        }
        Err(failure) => Err(failure),
    }
}

/// Whether single deletes might do where a batch failed so.
fn is_refusal(failure: &Failure) -> bool {
    let mends_nothing = matches!(failure.kind, ErrorKind::Unauthenticated | ErrorKind::Misconfigured);
    failure.status.is_some_and(|status| (400..500).contains(&status) || status == 501)
        && !failure.again
        && !mends_nothing
}

/// Deletes `entries` one by one and returns the failures.
async fn singly(client: &Client, entries: Vec<Entry>) -> Vec<Failure> {
    let deletes = stream::iter(entries).map(async |entry| {
        let deleted = client
            .ask(async || {
                let delete = client.sdk.delete_object().bucket(&client.bucket).key(&entry.key);
                let delete = delete.set_version_id(entry.version.clone());
                Ok(delete.set_request_payer(client.payer.clone()).send().await?)
            })
            .await;
        deleted.err().filter(|failure| failure.kind != ErrorKind::NotFound)
    });
    deletes.buffered(AT_ONCE).filter_map(async |failure| failure).collect().await
}
