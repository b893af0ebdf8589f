//! What the operations share: a request's conditions, body, source and attributes.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::Extensions;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{CopySource, Range as AskedRange, RequestPayer, StreamingBlob};
use s3s::{S3Error, S3Result, StdError, s3_error};

use super::content::Content;
use super::multipart::Upload;
use super::objects::{Contents, Object, ReadConditions, Refused, Store};
use super::users::Rights;

/// Set where a fault makes the store ignore what it was asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ignored {
    /// If-Match, If-None-Match and their kin, those of a copy's source too.
    pub(super) conditions: bool,
    pub(super) range: bool,
    /// A listing's encoding-type.
    pub(super) encoding: bool,
    /// A listing begins with an empty page.
    pub(super) empty_page: bool,
}

pub(super) fn ignored(extensions: &Extensions) -> Ignored {
    extensions.get().copied().unwrap_or_default()
}

/// `condition` unless conditions are ignored.
pub(super) fn unless<T>(ignored: Ignored, condition: &Option<T>) -> Option<&T> {
    condition.as_ref().filter(|_| !ignored.conditions)
}

pub(super) async fn receive(body: Option<StreamingBlob>, md5: Option<&str>) -> S3Result<Content> {
    let mut received = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.try_next().await.map_err(|error| refused_body(&error))? {
            received.extend_from_slice(&chunk);
        }
    }
    let received = received.freeze();
    if md5.is_some_and(|md5| data_encoding::BASE64.decode(md5.as_bytes()).ok() != Some(md5_of(&received))) {
        return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
    }
    Ok(received.into())
}

fn md5_of(bytes: &Bytes) -> Vec<u8> {
    Md5::checksum(bytes).to_vec()
}

/// A body that ends early, or whose hash is not the signed one.
fn refused_body(error: &StdError) -> S3Error {
    s3_error!(IncompleteBody, "The request body was refused: {error}")
}

pub(super) fn requester_pays(contents: &Contents, payer: Option<&RequestPayer>) -> S3Result<()> {
    match contents.behaviour.requester_pays && payer.is_none() {
        true => Err(s3_error!(AccessDenied, "Access Denied")),
        false => Ok(()),
    }
}

pub(super) fn refuse(refused: Refused, object: &Object) -> S3Error {
    match refused {
        Refused::PreconditionFailed => s3_error!(PreconditionFailed, "At least one of the pre-conditions did not hold"),
        Refused::NotModified => {
            let mut error = s3_error!(NotModified);
            let etag = object.etag().to_http_header().ok();
            error.set_headers(etag.into_iter().map(|etag| (http::header::ETAG, etag)).collect());
            error
        }
    }
}

/// The source of a copy, pinned by its conditions.
pub(super) fn source(
    store: &Store,
    extensions: &Extensions,
    source: &CopySource,
    conditions: &ReadConditions<'_>,
) -> S3Result<Arc<Object>> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "access points"));
    };
    if let Some(rights) = extensions.get::<Rights>() {
        rights.check(bucket, key)?;
    }
    let (object, _) = store.with(bucket, |contents| contents.find(key, version_id.as_deref()))?;
    match conditions.judge(&object) {
        Err(_) if !ignored(extensions).conditions => Err(refuse(Refused::PreconditionFailed, &object)),
        _ if object.is_archived() => Err(s3_error!(InvalidObjectState, "The source is archived")),
        _ => Ok(object),
    }
}

pub(super) fn copy_range(text: &str, length: u64) -> S3Result<Range<u64>> {
    let bad = || s3_error!(InvalidArgument, "The x-amz-copy-source-range value must be of the form bytes=first-last");
    match AskedRange::parse(text).map_err(|_| bad())? {
        AskedRange::Int { first, last: Some(last) } if last < length => Ok(first..last + 1),
        AskedRange::Int { last: Some(_), .. } => Err(s3_error!(InvalidRange, "Range is beyond the source's end")),
        _ => Err(bad()),
    }
}

pub(super) fn upload<'a>(contents: &'a mut Contents, id: &str, key: &str) -> S3Result<&'a mut Upload> {
    let found = contents.uploads.get_mut(id).filter(|upload| upload.key == key);
    found.ok_or_else(|| s3_error!(NoSuchUpload, "The specified multipart upload does not exist."))
}

macro_rules! attributes {
    ($input:expr) => {
        Attributes {
            metadata: $input.metadata.clone().unwrap_or_default(),
            content_type: $input.content_type.clone(),
            storage_class: $input.storage_class.as_ref().map(|value| value.as_str().to_owned()),
            encryption: $input.server_side_encryption.as_ref().map(|value| value.as_str().to_owned()),
            kms_key: $input.ssekms_key_id.clone(),
        }
    };
}

/// The conditions that both kinds of copy put on their source.
macro_rules! pins {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.copy_source_if_match.as_ref(),
            if_none_match: $input.copy_source_if_none_match.as_ref(),
            if_modified_since: $input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref(),
        }
    };
}

/// Fills what GET and HEAD both say of an object.
macro_rules! describe {
    ($output:expr, $object:expr, $version:expr) => {
        let attributes = &$object.attributes;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.e_tag = Some($object.etag());
        $output.last_modified = Some($object.modified.into());
        $output.metadata = Some(attributes.metadata.clone());
        let plain = || "binary/octet-stream".to_owned();
        $output.content_type = Some(attributes.content_type.clone().unwrap_or_else(plain));
        $output.storage_class = attributes.storage_class.clone().map(StorageClass::from);
        $output.server_side_encryption = attributes.encryption.clone().map(ServerSideEncryption::from);
        $output.ssekms_key_id = attributes.kms_key.clone();
        $output.version_id = $version;
    };
}

pub(super) use {attributes, describe, pins};
