//! What the server holds: buckets, versions of objects, and the conditions under which they are read and replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use s3s::dto::{Checksum, ETag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::content::Content;
use super::multipart::Upload;

/// How a bucket behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// Every write keeps what it replaces; a delete leaves a marker.
    pub versioned: bool,
    /// Requests must carry `x-amz-request-payer`.
    pub requester_pays: bool,
}

/// What is kept beside an object's bytes, as its writer sent it.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) metadata: HashMap<String, String>,
    pub(super) content_type: Option<String>,
    pub(super) storage_class: Option<String>,
    pub(super) encryption: Option<String>,
    pub(super) kms_key: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) content: Content,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified: SystemTime,
    pub(super) attributes: Attributes,
    pub(super) checksum: Checksum,
}

impl Object {
    pub(super) fn new(etag: String, content: Content, attributes: Attributes, checksum: Checksum) -> Object {
        Object { content, etag, modified: now(), attributes, checksum }
    }

    pub(super) fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    /// Archived objects are listed but cannot be read.
    pub(super) fn is_archived(&self) -> bool {
        matches!(self.attributes.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
    }
}

/// One entry of a key's history; without an object it is a delete marker.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// `null` in a bucket without versions.
    pub(super) id: String,
    pub(super) object: Option<Arc<Object>>,
    pub(super) modified: SystemTime,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) behaviour: Bucket,
    /// Oldest version first; never empty.
    keys: BTreeMap<String, Vec<Version>>,
    pub(super) uploads: BTreeMap<String, Upload>,
}

impl Contents {
    /// The current object of `key`.
    pub(super) fn current(&self, key: &str) -> Option<&Arc<Object>> {
        self.keys.get(key)?.last()?.object.as_ref()
    }

    /// Current objects from `start` on, in key order.
    pub(super) fn current_from(&self, start: std::ops::Bound<String>) -> impl Iterator<Item = (&String, &Arc<Object>)> {
        let all = self.keys.range((start, std::ops::Bound::Unbounded));
        all.filter_map(|(key, versions)| Some((key, versions.last()?.object.as_ref()?)))
    }

    /// Every version from `key` on in key order, newest first; and whether it is the latest.
    pub(super) fn history(&self, key: &str) -> impl Iterator<Item = (&String, &Version, bool)> {
        self.keys.range(key.to_owned()..).flat_map(|(key, versions)| {
            let last = versions.len() - 1;
            versions.iter().enumerate().rev().map(move |(at, version)| (key, version, at == last))
        })
    }

    /// The object that a request names, by its version where it says one.
    pub(super) fn find(&self, key: &str, version: Option<&str>) -> S3Result<(Arc<Object>, Option<String>)> {
        let missing = || s3_error!(NoSuchKey, "The specified key does not exist.");
        let versions = self.keys.get(key).ok_or_else(missing)?;
        let found = match version {
            Some(id) => versions.iter().find(|version| version.id == id).ok_or(s3_error!(NoSuchVersion))?,
            None => versions.last().ok_or_else(missing)?,
        };
        match (&found.object, version) {
            (Some(object), _) => Ok((Arc::clone(object), self.named(&found.id))),
            (None, Some(_)) => Err(s3_error!(MethodNotAllowed, "This version is a delete marker.")),
            (None, None) => Err(missing()),
        }
    }

    /// Makes `object` the current one; its version id in a versioned bucket.
    pub(super) fn put(&mut self, key: &str, object: Object) -> Option<String> {
        let modified = object.modified;
        self.push(key, Some(Arc::new(object)), modified)
    }

    /// Removes the current object; the version id of the marker that a versioned bucket gets.
    pub(super) fn delete(&mut self, key: &str) -> Option<String> {
        if !self.behaviour.versioned {
            self.keys.remove(key);
            return None;
        }
        self.push(key, None, now())
    }

    /// Removes one version for good; true where it was a delete marker.
    pub(super) fn delete_version(&mut self, key: &str, id: &str) -> bool {
        let Some(versions) = self.keys.get_mut(key) else { return false };
        let marker = versions.iter().any(|version| version.id == id && version.object.is_none());
        versions.retain(|version| version.id != id);
        if versions.is_empty() {
            self.keys.remove(key);
        }
        marker
    }

    fn push(&mut self, key: &str, object: Option<Arc<Object>>, modified: SystemTime) -> Option<String> {
        let versions = self.keys.entry(key.to_owned()).or_default();
        if !self.behaviour.versioned {
            versions.clear();
        }
        let id = if self.behaviour.versioned { unique("v") } else { "null".to_owned() };
        versions.push(Version { id: id.clone(), object, modified });
        self.named(&id)
    }

    fn named(&self, id: &str) -> Option<String> {
        self.behaviour.versioned.then(|| id.to_owned())
    }
}

/// All buckets. No lock is held across an await.
#[derive(Debug, Default)]
pub(super) struct Store {
    buckets: Mutex<BTreeMap<String, Contents>>,
}

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Contents>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on a bucket's contents, as one step that no other request sees half done.
    pub(super) fn with<T>(&self, bucket: &str, f: impl FnOnce(&mut Contents) -> S3Result<T>) -> S3Result<T> {
        match self.lock().get_mut(bucket) {
            Some(contents) => f(contents),
            None => Err(s3_error!(NoSuchBucket, "The specified bucket does not exist")),
        }
    }
}

/// The conditions of a write, judged against the object that it would replace.
pub(super) fn may_write(
    current: Option<&Arc<Object>>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let failed = || s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold");
    match (if_match, current) {
        (Some(_), None) => return Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        (Some(condition), Some(object)) if !holds(condition, object) => return Err(failed()),
        _ => {}
    }
    match (if_none_match, current) {
        (Some(condition), Some(object)) if holds(condition, object) => Err(failed()),
        _ => Ok(()),
    }
}

/// The conditions of a read or of a copy's source.
#[derive(Debug, Default)]
pub(super) struct ReadConditions<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

/// Why a read's conditions refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    PreconditionFailed,
    NotModified,
}

impl ReadConditions<'_> {
    pub(super) fn judge(&self, object: &Object) -> Result<(), Refused> {
        let modified = Timestamp::from(object.modified);
        match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !holds(condition, object) => return Err(Refused::PreconditionFailed),
            (None, Some(since)) if modified > *since => return Err(Refused::PreconditionFailed),
            _ => {}
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) if holds(condition, object) => Err(Refused::NotModified),
            (None, Some(since)) if modified <= *since => Err(Refused::NotModified),
            _ => Ok(()),
        }
    }
}

fn holds(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A fresh id; later ones sort after earlier ones.
pub(super) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}{:016x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// S3 knows whole seconds.
pub(super) fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// An object as a test sees it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its bytes; do not ask for those of a large computed object.
    pub bytes: Bytes,
    /// Without quotes.
    pub etag: String,
    /// User metadata, names without `x-amz-meta-`.
    pub metadata: HashMap<String, String>,
    /// As its writer said it.
    pub content_type: Option<String>,
    /// As its writer said it.
    pub storage_class: Option<String>,
    /// `x-amz-server-side-encryption` and the KMS key, as its writer said them.
    pub encryption: (Option<String>, Option<String>),
    /// LastModified, in whole seconds.
    pub modified: SystemTime,
}

impl From<&Object> for Stored {
    fn from(object: &Object) -> Stored {
        let Attributes { metadata, content_type, storage_class, encryption, kms_key } = object.attributes.clone();
        Stored {
            bytes: object.content.to_bytes(),
            etag: object.etag.clone(),
            metadata,
            content_type,
            storage_class,
            encryption: (encryption, kms_key),
            modified: object.modified,
        }
    }
}
