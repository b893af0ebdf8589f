//! What the RPC library has no calls for: what a superuser does to directories. Each may be done twice.

use http::Method;

use super::WebHdfs;
use super::answers::{OfQuota, QuotaUsage};
use crate::backend::hdfs::error::Outcome;

impl WebHdfs {
    /// Holds a directory to so many bytes of replicas.
    pub(in crate::backend::hdfs) async fn set_quota(&self, path: &str, bytes: u64) -> Outcome<()> {
        let more = format!("&storagespacequota={bytes}");
        self.ask_for("other", Method::PUT, path, "SETQUOTA", &more).await.map(drop)
    }

    /// A directory's quotas and what of them is used. Only where it has any: else the name node walks all of it.
    pub(in crate::backend::hdfs) async fn quota_usage(&self, path: &str) -> Outcome<QuotaUsage> {
        let answer: OfQuota = self.ask("stat", Method::GET, path, "GETQUOTAUSAGE", "").await?;
        Ok(answer.quota_usage)
    }
}
