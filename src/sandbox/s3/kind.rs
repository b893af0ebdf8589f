//! What a request asks for, told from its first line and headers alone: faults come before the signature check.

use http::{HeaderMap, Method, Uri};

/// An S3 operation, as counters and faults tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the S3 API")]
pub enum Kind {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    HeadBucket,
    CreateBucket,
    /// Everything else, known to the server or not.
    Other,
}

/// The operation and the key, empty where there is none. Path style only.
pub(super) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> (Kind, String) {
    let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy();
    let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let query = uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let copies = headers.contains_key("x-amz-copy-source");
    let kind = match (method.as_str(), bucket.is_empty(), key.is_empty()) {
        (_, true, _) => Kind::Other,
        ("GET", _, true) if has("versions") => Kind::ListObjectVersions,
        ("GET", _, true) if has("uploads") => Kind::ListMultipartUploads,
        ("GET", _, true) if has("list-type") => Kind::ListObjectsV2,
        ("HEAD", _, true) => Kind::HeadBucket,
        ("PUT", _, true) if query.is_empty() => Kind::CreateBucket,
        ("POST", _, true) if has("delete") => Kind::DeleteObjects,
        (_, _, true) => Kind::Other,
        ("GET", ..) if has("uploadId") => Kind::ListParts,
        ("GET", ..) => Kind::GetObject,
        ("HEAD", ..) => Kind::HeadObject,
        ("PUT", ..) if has("partNumber") && copies => Kind::UploadPartCopy,
        ("PUT", ..) if has("partNumber") => Kind::UploadPart,
        ("PUT", ..) if copies => Kind::CopyObject,
        ("PUT", ..) => Kind::PutObject,
        ("POST", ..) if has("uploads") => Kind::CreateMultipartUpload,
        ("POST", ..) if has("uploadId") => Kind::CompleteMultipartUpload,
        ("DELETE", ..) if has("uploadId") => Kind::AbortMultipartUpload,
        ("DELETE", ..) => Kind::DeleteObject,
        _ => Kind::Other,
    };
    (kind, key.to_owned())
}
