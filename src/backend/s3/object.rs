//! Putting one object in place under a condition, and finding out what became of a request whose reply was lost.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use bytes::Bytes;
use data_encoding::BASE32_NOPAD;

use super::client::Client;
use super::error::Failure;
use super::{keys, stat};
use crate::backend::{Attributes, Base, ErrorKind, Meta, Path};

/// The metadata key that names the publish an object came from.
const NONCE: &str = "millrace-write";

/// S_IFREG: other tools keep the whole `st_mode`.
const REGULAR: u32 = 0o100_000;

/// What may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing lies there.
    Absent,
    /// The object with this ETag (without quotes).
    Is(String),
    /// Whatever lies there.
    Any,
}

impl Condition {
    pub(super) fn of(base: &Base) -> Condition {
        match base {
            Base::Absent => Condition::Absent,
            Base::Version(version) => Condition::Is(version.bytes.to_string()),
            Base::Any => Condition::Any,
        }
    }

    /// What holds after a publish that made `etag`.
    pub(super) fn after(&self, etag: &str) -> Condition {
        match self {
            Condition::Any => Condition::Any,
            Condition::Absent | Condition::Is(_) => Condition::Is(etag.to_owned()),
        }
    }

    pub(super) fn if_match(&self) -> Option<String> {
        match self {
            Condition::Is(etag) => Some(stat::quoted(etag)),
            Condition::Absent | Condition::Any => None,
        }
    }

    pub(super) fn if_none_match(&self) -> Option<String> {
        (*self == Condition::Absent).then(|| "*".to_owned())
    }

    /// Whether `failure` says that the condition did not hold. `If-Match` on a missing key is answered by 404.
    pub(super) fn failed(&self, failure: &Failure) -> bool {
        failure.status == Some(412) || (matches!(self, Condition::Is(_)) && failure.code == "NoSuchKey")
    }
}

/// A name for one publish, by which its object can be told from another's.
pub(super) fn nonce() -> String {
    BASE32_NOPAD.encode(&rand::random::<[u8; 10]>())
}

/// The metadata of an object: its nonce, and its attributes in the words of s3fs and rclone.
pub(super) fn metadata(nonce: &str, attributes: &Attributes) -> std::collections::HashMap<String, String> {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
    };
    let pairs = [
        (NONCE, Some(nonce.to_owned())),
        ("mode", attributes.mode.map(|mode| (REGULAR | mode & 0o7777).to_string())),
        ("uid", attributes.uid.map(|uid| uid.to_string())),
        ("gid", attributes.gid.map(|gid| gid.to_string())),
        ("mtime", attributes.mtime.map(seconds)),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

impl Client {
    pub(super) fn encryption(&self) -> Option<ServerSideEncryption> {
        self.kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms)
    }

    pub(super) fn class(&self) -> Option<StorageClass> {
        self.storage_class.as_deref().map(StorageClass::from)
    }

    /// `bucket/key` as copy requests name a source.
    pub(super) fn source(&self, key: &str) -> String {
        format!("{}/{}", self.bucket, keys::encoded(key))
    }
}

/// Writes a whole object in one request and returns its ETag.
pub(super) async fn put(
    client: &Client,
    key: &str,
    body: &Bytes,
    condition: &Condition,
    attributes: &Attributes,
) -> Result<String, Failure> {
    let nonce = nonce();
    let metadata = metadata(&nonce, attributes);
    let put = client
        .ask_for(client.sending_budget(body.len()), async || {
            let put = client.sdk.put_object().bucket(&client.bucket).key(key).body(ByteStream::from(body.clone()));
            let put = put.set_metadata(Some(metadata.clone())).set_request_payer(client.payer.clone());
            let put = put.set_if_match(condition.if_match()).set_if_none_match(condition.if_none_match());
            let put = put.set_server_side_encryption(client.encryption()).set_ssekms_key_id(client.kms_key.clone());
            Ok(put.set_storage_class(client.class()).send().await?)
        })
        .await;
    match put {
        Ok(put) => etag(put.e_tag()),
        Err(failure) => settle(client, key, &nonce, condition, failure).await,
    }
}

/// What became of a publish that failed: its object lies there after all, or another, or `failure` stands.
pub(super) async fn settle(
    client: &Client,
    key: &str,
    nonce: &str,
    condition: &Condition,
    failure: Failure,
) -> Result<String, Failure> {
    let refused = condition.failed(&failure);
    if !refused && failure.status.is_some_and(|status| status < 500) && failure.code != "NoSuchUpload" {
        return Err(failure);
    }
    match stat::head(client, key).await {
        Ok(head) if made_by(&head, nonce) => etag(head.e_tag()),
        Ok(_) if refused => Err(overtaken()),
        Err(missing) if refused && missing.kind == ErrorKind::NotFound => Err(overtaken()),
        Err(unknown) if refused => Err(unknown),
        _ => Err(failure),
    }
}

/// The failure of the loser of two writers.
pub(super) fn overtaken() -> Failure {
    Failure::new(ErrorKind::Stale, "another writer changed the file meanwhile: its version stays")
}

pub(super) fn made_by(head: &HeadObjectOutput, nonce: &str) -> bool {
    head.metadata().and_then(|metadata| metadata.get(NONCE)).is_some_and(|found| found == nonce)
}

/// The ETag of an answer to a write; without one the write is not known to have happened.
pub(super) fn etag(given: Option<&str>) -> Result<String, Failure> {
    match given {
        Some(etag) => Ok(stat::bare(etag).to_owned()),
        None => Err(Failure::corrupt("the store's answer to a write has no ETag")),
    }
}

/// The file that a write of ours left at `path`. Its time is the store's; where a HEAD does not tell (who may write may
/// not always read, and another may have replaced it by now) it is this machine's.
pub(super) async fn written(client: &Client, path: &Path, key: &str, etag: &str, size: u64) -> Meta {
    let version = stat::tagged(path, etag, size);
    match stat::head(client, key).await.and_then(|head| stat::file(path, &head)) {
        Ok(meta) if meta.version() == Some(&version) => meta,
        _ => stat::of(version, SystemTime::now()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn attributes_are_kept_in_the_words_of_other_tools() {
        let attributes = Attributes {
            mode: Some(0o640),
            uid: Some(7),
            gid: None,
            mtime: Some(UNIX_EPOCH + Duration::from_millis(1_500)),
        };
        let kept = metadata("N", &attributes);
        assert_eq!(kept["mode"], "33184");
        assert_eq!(kept["uid"], "7");
        assert_eq!(kept["mtime"], "1.500000000");
        assert_eq!(kept[NONCE], "N");
        assert_eq!(kept.len(), 4);
    }

    #[test]
    fn conditions_follow_what_was_published() {
        let absent = Condition::of(&Base::Absent);
        assert_eq!((absent.if_match(), absent.if_none_match()), (None, Some("*".into())));
        assert_eq!(absent.after("e").if_match(), Some("\"e\"".into()));
        assert_eq!(Condition::Any.after("e"), Condition::Any);
        assert_eq!((Condition::Any.if_match(), Condition::Any.if_none_match()), (None, None));
    }
}
