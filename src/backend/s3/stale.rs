//! Uploads that a dead worker left behind: invisible to readers, but stored and paid for until somebody aborts them.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{EncodingType, MultipartUpload};

use super::client::Client;
use super::error::Failure;
use super::{keys, stat};
use crate::backend::{ErrorKind, Path};

/// An upload to which no part came for so long is nobody's.
pub(super) const AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Aborts the uploads below the volume's directory that are older than `age` and got no part since, and says how many.
/// Whose they were cannot be told, as in the bucket lifecycle rule that does the same.
pub(super) async fn abort(client: &Client, age: Duration) -> Result<usize, Failure> {
    let Some(before) = SystemTime::now().checked_sub(age) else { return Ok(0) };
    let prefix = client.keys.directory(&Path::root())?;
    let (mut marker, mut aborted) = ((None, None), 0);
    loop {
        let page = client
            .ask(async || {
                let list = client.sdk.list_multipart_uploads().bucket(&client.bucket).prefix(&prefix);
                let list = list.encoding_type(EncodingType::Url).set_request_payer(client.payer.clone());
                let list = list.set_key_marker(marker.0.clone()).set_upload_id_marker(marker.1.clone());
                Ok(list.send().await?)
            })
            .await?;
        let encoding = page.encoding_type.clone();
        let plain = |key: &str| String::from_utf8(keys::listed(key, encoding.as_ref())).ok();
        for upload in page.uploads() {
            let Some(key) = upload.key().and_then(plain).filter(|key| key.starts_with(&prefix)) else { continue };
            aborted += usize::from(abort_one(client, &key, upload, before).await?);
        }
        let next = (page.next_key_marker().and_then(plain), page.next_upload_id_marker);
        if page.is_truncated != Some(true) || next == marker {
            return Ok(aborted);
        }
        marker = next;
    }
}

/// Whether `upload` was of those.
async fn abort_one(client: &Client, key: &str, upload: &MultipartUpload, before: SystemTime) -> Result<bool, Failure> {
    let is_old = |time: Option<&aws_smithy_types::DateTime>| time.is_some() && stat::time(time) < before;
    let Some(id) = upload.upload_id().filter(|_| is_old(upload.initiated())) else { return Ok(false) };
    if newest_part(client, key, id).await?.is_some_and(|newest| newest >= before) {
        return Ok(false);
    }
    let gone = client
        .ask(async || {
            let abort = client.sdk.abort_multipart_upload().bucket(&client.bucket).key(key).upload_id(id);
            Ok(abort.set_request_payer(client.payer.clone()).send().await?)
        })
        .await;
    match gone {
        Err(failure) if failure.kind != ErrorKind::NotFound && failure.code != "NoSuchUpload" => Err(failure),
        _ => Ok(true),
    }
}

/// When the last part of an upload came.
async fn newest_part(client: &Client, key: &str, id: &str) -> Result<Option<SystemTime>, Failure> {
    let (mut marker, mut newest) = (None, None);
    loop {
        let page = client
            .ask(async || {
                let list = client.sdk.list_parts().bucket(&client.bucket).key(key).upload_id(id);
                let list = list.set_part_number_marker(marker.clone()).set_request_payer(client.payer.clone());
                Ok(list.send().await?)
            })
            .await;
        let page = match page {
            Err(failure) if failure.code == "NoSuchUpload" => return Ok(newest),
            page => page?,
        };
        newest = newest.max(page.parts().iter().map(|part| stat::time(part.last_modified())).max());
        if page.is_truncated() != Some(true) || page.next_part_number_marker() == marker.as_deref() {
            return Ok(newest);
        }
        marker = page.next_part_number_marker;
    }
}
