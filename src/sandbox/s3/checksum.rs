//! Checksums beyond the ETag: verified when sent, stored, and returned when asked for.

use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, TrailingHeaders, s3_error};

use super::content::Content;

/// Takes the five `checksum_*` fields of an s3s structure.
macro_rules! sent {
    ($from:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $from.checksum_crc32.clone(),
            checksum_crc32c: $from.checksum_crc32c.clone(),
            checksum_crc64nvme: $from.checksum_crc64nvme.clone(),
            checksum_sha1: $from.checksum_sha1.clone(),
            checksum_sha256: $from.checksum_sha256.clone(),
            checksum_type: None,
        }
    };
}

/// Fills the `checksum_*` fields of an s3s structure.
macro_rules! fill {
    ($into:expr, $from:expr) => {
        $into.checksum_crc32 = $from.checksum_crc32.clone();
        $into.checksum_crc32c = $from.checksum_crc32c.clone();
        $into.checksum_crc64nvme = $from.checksum_crc64nvme.clone();
        $into.checksum_sha1 = $from.checksum_sha1.clone();
        $into.checksum_sha256 = $from.checksum_sha256.clone();
    };
}

pub(super) use {fill, sent};

/// Adds what came in trailers behind an aws-chunked body.
pub(super) fn with_trailers(mut sent: Checksum, trailers: Option<&TrailingHeaders>) -> Checksum {
    let Some(headers) = trailers.and_then(TrailingHeaders::take) else { return sent };
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    sent.checksum_crc32 = sent.checksum_crc32.or(value("x-amz-checksum-crc32"));
    sent.checksum_crc32c = sent.checksum_crc32c.or(value("x-amz-checksum-crc32c"));
    sent.checksum_crc64nvme = sent.checksum_crc64nvme.or(value("x-amz-checksum-crc64nvme"));
    sent.checksum_sha1 = sent.checksum_sha1.or(value("x-amz-checksum-sha1"));
    sent.checksum_sha256 = sent.checksum_sha256.or(value("x-amz-checksum-sha256"));
    sent
}

/// The checksum of `content` by the algorithms that `sent` uses; as S3 does, CRC64NVME where it uses none.
///
/// # Errors
/// BadDigest where one of them is not that of the content.
pub(super) fn verify(content: &Content, sent: &Checksum) -> S3Result<Checksum> {
    let own = full(content, sent);
    if differ(sent, &own) {
        return Err(s3_error!(BadDigest, "The checksum you specified did not match what we received."));
    }
    Ok(own)
}

/// Whether `sent` says something of the content that `own` does not.
pub(super) fn differ(sent: &Checksum, own: &Checksum) -> bool {
    let differs = |sent: &Option<String>, own: &Option<String>| sent.is_some() && sent != own;
    differs(&sent.checksum_crc32, &own.checksum_crc32)
        || differs(&sent.checksum_crc32c, &own.checksum_crc32c)
        || differs(&sent.checksum_crc64nvme, &own.checksum_crc64nvme)
        || differs(&sent.checksum_sha1, &own.checksum_sha1)
        || differs(&sent.checksum_sha256, &own.checksum_sha256)
}

/// The full-object checksum of `content` by the algorithms of `like`, or CRC64NVME.
pub(super) fn full(content: &Content, like: &Checksum) -> Checksum {
    let mut hasher = hasher(like);
    content.clone().for_each(|chunk| hasher.update(&chunk));
    finish(hasher, ChecksumType::FULL_OBJECT)
}

/// The checksum of an upload whose parts have `parts`: of their checksums (SHA, and CRC32 by default), else none.
pub(super) fn composite(parts: &[&Checksum]) -> Option<Checksum> {
    let like = parts.first()?;
    let mut hasher = hasher(like);
    for part in parts {
        hasher.update(&raw(part)?);
    }
    let mut whole = finish(hasher, ChecksumType::COMPOSITE);
    let fields = [
        &mut whole.checksum_crc32,
        &mut whole.checksum_crc32c,
        &mut whole.checksum_crc64nvme,
        &mut whole.checksum_sha1,
        &mut whole.checksum_sha256,
    ];
    for value in fields.into_iter().flatten() {
        *value = format!("{value}-{}", parts.len());
    }
    Some(whole)
}

/// A checksum structure that uses `algorithm`, for [`full`].
pub(super) fn using(algorithm: Option<&ChecksumAlgorithm>) -> Checksum {
    let mut like = Checksum::default();
    match algorithm.map(ChecksumAlgorithm::as_str) {
        Some(ChecksumAlgorithm::CRC32) => like.checksum_crc32 = Some(String::new()),
        Some(ChecksumAlgorithm::CRC32C) => like.checksum_crc32c = Some(String::new()),
        Some(ChecksumAlgorithm::SHA1) => like.checksum_sha1 = Some(String::new()),
        Some(ChecksumAlgorithm::SHA256) => like.checksum_sha256 = Some(String::new()),
        _ => like.checksum_crc64nvme = Some(String::new()),
    }
    like
}

fn hasher(like: &Checksum) -> ChecksumHasher {
    let mut hasher = ChecksumHasher {
        crc32: like.checksum_crc32.as_ref().map(|_| Crc32::new()),
        crc32c: like.checksum_crc32c.as_ref().map(|_| Crc32c::new()),
        sha1: like.checksum_sha1.as_ref().map(|_| Sha1::new()),
        sha256: like.checksum_sha256.as_ref().map(|_| Sha256::new()),
        crc64nvme: like.checksum_crc64nvme.as_ref().map(|_| Crc64Nvme::new()),
    };
    let none = hasher.crc32.is_none() && hasher.crc32c.is_none() && hasher.sha1.is_none() && hasher.sha256.is_none();
    if none {
        hasher.crc64nvme = Some(Crc64Nvme::new());
    }
    hasher
}

fn finish(hasher: ChecksumHasher, kind: &'static str) -> Checksum {
    let mut checksum = hasher.finalize();
    checksum.checksum_type = Some(ChecksumType::from_static(kind));
    checksum
}

/// The bytes of a part's one checksum.
fn raw(checksum: &Checksum) -> Option<Vec<u8>> {
    let values = [
        &checksum.checksum_crc32,
        &checksum.checksum_crc32c,
        &checksum.checksum_crc64nvme,
        &checksum.checksum_sha1,
        &checksum.checksum_sha256,
    ];
    let value = values.into_iter().flatten().next()?;
    data_encoding::BASE64.decode(value.as_bytes()).ok()
}
