//! Clients of one bucket of versitygw, a real server started for one test.

use super::*;
use crate::sandbox::versitygw::{ROOT, Versitygw};

/// A running server with one bucket, `bucket`; it ends when dropped.
pub(super) struct Gateway(Versitygw);

impl Gateway {
    /// `None` where this machine has no versitygw.
    pub(super) async fn start() -> Option<Gateway> {
        let server = Versitygw::start().await.unwrap()?;
        server.create_bucket("bucket").await.unwrap();
        Some(Gateway(server))
    }

    pub(super) fn config(&self) -> Config {
        config(self.0.endpoint())
    }

    /// A client of the whole bucket or a directory of it, as the administrator.
    pub(super) fn store(&self, root: &str, limits: Limits) -> Arc<dyn Backend> {
        self.store_as(ROOT, root, limits)
    }

    pub(super) fn store_as(&self, user: (&str, &str), root: &str, limits: Limits) -> Arc<dyn Backend> {
        connect(&crate::backend::Config::S3(self.config()), &keys(user.0, user.1), &path(root), limits).unwrap()
    }

    pub(super) fn client(&self, root: &str) -> Arc<Client> {
        Arc::new(Client::new(&self.config(), (&keys(ROOT.0, ROOT.1)).into(), &path(root), limits()).unwrap())
    }

    /// The key pair of a new user with a policy in IAM's JSON.
    pub(super) async fn user(&self, name: &str, policy: &str) -> (String, String) {
        self.0.user(name, policy).await.unwrap()
    }
}
