//! S3 as a backend.

use serde::{Deserialize, Serialize};

/// How to reach a bucket, or a prefix of it: the administrator's words, no credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `http(s)://host[:port]`; `None` for AWS by region.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// The store's root inside the bucket, without leading or trailing slash; empty for the whole bucket.
    pub prefix: String,
    /// The region requests are signed for.
    pub region: String,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM certificates that are trusted instead of the system's.
    pub ca_bundle: Option<String>,
    /// `http://host[:port]` of a proxy (CONNECT for https).
    pub proxy: Option<String>,
    /// Sends `x-amz-request-payer: requester`.
    pub requester_pays: bool,
    /// Objects are written with SSE-KMS under this key.
    pub sse_kms_key: Option<String>,
    /// Storage class of written objects.
    pub storage_class: Option<String>,
    /// When request and response checksums are used.
    pub checksums: Checksums,
    /// Requests in flight at once.
    pub max_connections: u32,
    /// Requests a second; `None` for no limit.
    pub requests_per_second: Option<u32>,
}

/// When checksums beyond those that an operation demands are sent and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// Where the store can.
    Supported,
    /// Only where an operation demands one: for stores that do not know them.
    Required,
}
