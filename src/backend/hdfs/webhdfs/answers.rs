//! The forms of WebHDFS' answers, as far as they are looked at.

use serde::{Deserialize, Deserializer};

/// What lies at a path.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend::hdfs) struct Status {
    pub(in crate::backend::hdfs) path_suffix: String,
    #[serde(rename = "type")]
    pub(in crate::backend::hdfs) kind: String,
    pub(in crate::backend::hdfs) file_id: u64,
    pub(in crate::backend::hdfs) length: u64,
    /// Milliseconds since 1970; 0 before.
    #[serde(deserialize_with = "millis")]
    pub(in crate::backend::hdfs) modification_time: u64,
    pub(in crate::backend::hdfs) owner: String,
    pub(in crate::backend::hdfs) group: String,
    /// Octal, without leading zeros.
    pub(in crate::backend::hdfs) permission: String,
    #[serde(default)]
    pub(in crate::backend::hdfs) block_size: u64,
    /// Of an erasure-coded file.
    pub(in crate::backend::hdfs) ec_policy: Option<String>,
}

/// Whoever may set a time may set one before 1970.
fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    i64::deserialize(from).map(|millis| u64::try_from(millis).unwrap_or_default())
}

/// What the DataNodes have room for, in bytes of replicas.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(in crate::backend::hdfs) struct Capacity {
    pub(in crate::backend::hdfs) capacity: u64,
    pub(in crate::backend::hdfs) remaining: u64,
}

/// A user's home, whose last name is the user's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Home {
    pub(super) path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FileSystem {
    pub(super) fs_status: Capacity,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfServer {
    pub(super) fs_server_defaults: Defaults,
}

/// What a file has whose writer does not say otherwise.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend::hdfs) struct Defaults {
    /// Replicas.
    pub(in crate::backend::hdfs) replication: u64,
    /// Bytes.
    pub(in crate::backend::hdfs) block_size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfQuota {
    pub(super) quota_usage: QuotaUsage,
}

/// A directory's quotas, and what of them is used; a quota of less than 1 is none.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend::hdfs) struct QuotaUsage {
    /// Files and directories, itself included.
    pub(in crate::backend::hdfs) file_and_directory_count: i64,
    pub(in crate::backend::hdfs) quota: i64,
    /// Bytes of replicas.
    pub(in crate::backend::hdfs) space_consumed: i64,
    pub(in crate::backend::hdfs) space_quota: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneStatus {
    pub(super) file_status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OnePage {
    pub(super) directory_listing: Page,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    pub(super) partial_listing: Partial,
    pub(super) remaining_entries: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Partial {
    pub(super) file_statuses: Statuses,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Statuses {
    pub(super) file_status: Vec<Status>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Located {
    pub(super) located_blocks: Blocks,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blocks {
    pub(super) is_under_construction: bool,
    #[serde(default)]
    pub(super) located_blocks: Vec<Block>,
}

/// A block, and the DataNodes that have it.
#[derive(Debug, Deserialize)]
pub(in crate::backend::hdfs) struct Block {
    pub(in crate::backend::hdfs) block: Extended,
    #[serde(default)]
    pub(in crate::backend::hdfs) locations: Vec<DataNode>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend::hdfs) struct Extended {
    pub(in crate::backend::hdfs) num_bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend::hdfs) struct DataNode {
    pub(in crate::backend::hdfs) host_name: String,
    #[serde(default)]
    pub(in crate::backend::hdfs) network_location: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Redirect {
    pub(super) location: String,
}

/// A delegation token.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Given {
    pub(super) token: Token,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    pub(super) url_string: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Truth {
    pub(super) boolean: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Thrown {
    pub(super) remote_exception: RemoteException,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RemoteException {
    pub(super) java_class_name: Option<String>,
    pub(super) exception: String,
    #[serde(default)]
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_listing_is_read() {
        let text = r#"{"DirectoryListing":{"partialListing":{"FileStatuses":{"FileStatus":[{"accessTime":1795742278054,
            "blockSize":1048576,"childrenNum":0,"fileId":16391,"group":"users","length":5,"modificationTime":1795742278724,
            "owner":"alice","pathSuffix":"a?b%#41","permission":"644","replication":1,"storagePolicy":0,"type":"FILE"}]}},
            "remainingEntries":7}}"#;
        let OnePage { directory_listing: page } = serde_json::from_str(text).unwrap();
        let [status] = &page.partial_listing.file_statuses.file_status[..] else { panic!("{page:?}") };
        assert_eq!((status.path_suffix.as_str(), status.file_id, page.remaining_entries), ("a?b%#41", 16391, 7));
        assert_eq!(status.modification_time, 1_795_742_278_724);
        let OnePage { directory_listing: page } = serde_json::from_str(&text.replace("1795742278724", "-2")).unwrap();
        assert_eq!(page.partial_listing.file_statuses.file_status[0].modification_time, 0);
    }
}
