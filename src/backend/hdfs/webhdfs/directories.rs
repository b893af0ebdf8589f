//! What the RPC library has no calls for: what a superuser does to directories. Each may be done twice.

use http::Method;
use percent_encoding::utf8_percent_encode;

use super::answers::{OfQuota, QuotaUsage};
use super::{IN_QUERY, WebHdfs};
use crate::backend::hdfs::error::Outcome;

impl WebHdfs {
    /// Holds a directory to so many bytes of replicas.
    pub(in crate::backend::hdfs) async fn set_quota(&self, path: &str, bytes: u64) -> Outcome<()> {
        let more = format!("&storagespacequota={bytes}");
        self.ask_for("other", Method::PUT, path, "SETQUOTA", &more).await.map(drop)
    }

    /// Lets snapshots be taken of a directory from now on. For a superuser.
    pub(in crate::backend::hdfs) async fn allow_snapshots(&self, path: &str) -> Outcome<()> {
        self.ask_for("other", Method::PUT, path, "ALLOWSNAPSHOT", "").await.map(drop)
    }

    /// Lets none be taken any more. For a superuser.
    pub(in crate::backend::hdfs) async fn disallow_snapshots(&self, path: &str) -> Outcome<()> {
        self.ask_for("other", Method::PUT, path, "DISALLOWSNAPSHOT", "").await.map(drop)
    }

    /// Takes a snapshot. `AlreadyExists`; `Unsupported` of a directory of which none may be taken.
    pub(in crate::backend::hdfs) async fn take_snapshot(&self, path: &str, name: &str) -> Outcome<()> {
        let more = format!("&snapshotname={}", utf8_percent_encode(name, IN_QUERY));
        self.ask_for("other", Method::PUT, path, "CREATESNAPSHOT", &more).await.map(drop)
    }

    /// Removes a snapshot. `NotFound`; `Unsupported` as [`WebHdfs::take_snapshot`].
    pub(in crate::backend::hdfs) async fn discard_snapshot(&self, path: &str, name: &str) -> Outcome<()> {
        let more = format!("&snapshotname={}", utf8_percent_encode(name, IN_QUERY));
        self.ask_for("remove", Method::DELETE, path, "DELETESNAPSHOT", &more).await.map(drop)
    }

    /// A directory's quotas and what of them is used. Only where it has any: else the name node walks all of it.
    pub(in crate::backend::hdfs) async fn quota_usage(&self, path: &str) -> Outcome<QuotaUsage> {
        let answer: OfQuota = self.ask("stat", Method::GET, path, "GETQUOTAUSAGE", "").await?;
        Ok(answer.quota_usage)
    }
}
