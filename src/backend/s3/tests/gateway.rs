//! versitygw on loopback, with users and a bucket policy: a real server, started for one test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::sandbox::requirement::{Requirement, VERSITYGW, met, program};

const ROOT: (&str, &str) = ("rootkey", "rootsecret0123456789");

/// A running server with one bucket, `bucket`; it ends when dropped.
pub(super) struct Gateway {
    endpoint: String,
    process: Child,
    _home: TempDir,
}

impl Gateway {
    /// `None` where this machine has no versitygw.
    pub(super) async fn start() -> Option<Gateway> {
        if !met(&[VERSITYGW]) {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        for dir in ["root/bucket", "versions", "users"] {
            std::fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = versitygw();
        command.args(["-q", "--iam-cache-disable", "-p", &format!("127.0.0.1:{port}"), "--iam-dir"]);
        command.arg(home.path().join("users")).args(["posix", "--versioning-dir"]);
        command.arg(home.path().join("versions")).arg(home.path().join("root"));
        command.env("ROOT_ACCESS_KEY", ROOT.0).env("ROOT_SECRET_KEY", ROOT.1);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut gateway = Gateway { endpoint: format!("http://127.0.0.1:{port}"), process, _home: home };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(gateway.process.try_wait().unwrap().is_none(), "versitygw ended at once");
            assert!(begun.elapsed() < Duration::from_secs(30), "versitygw does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(gateway)
    }

    pub(super) fn config(&self) -> Config {
        config(&self.endpoint)
    }

    /// A client of the whole bucket or a directory of it, as the administrator.
    pub(super) fn store(&self, root: &str, limits: Limits) -> Arc<dyn Backend> {
        self.store_as(ROOT, root, limits)
    }

    pub(super) fn store_as(&self, user: (&str, &str), root: &str, limits: Limits) -> Arc<dyn Backend> {
        connect(&crate::backend::Config::S3(self.config()), &keys(user.0, user.1), &path(root), limits).unwrap()
    }

    pub(super) fn client(&self, root: &str) -> Arc<Client> {
        Arc::new(Client::new(&self.config(), &keys(ROOT.0, ROOT.1), &path(root), limits()).unwrap())
    }

    pub(super) fn add_user(&self, user: (&str, &str)) {
        let mut command = versitygw();
        command.args(["admin", "--allow-insecure", "-a", ROOT.0, "-s", ROOT.1, "-er", &self.endpoint]);
        command.args(["create-user", "-a", user.0, "-s", user.1, "-r", "user"]);
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }

    pub(super) async fn set_policy(&self, policy: &str) {
        let client = self.client("");
        client.sdk.put_bucket_policy().bucket(&client.bucket).policy(policy).send().await.unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn versitygw() -> Command {
    let Requirement::Program { variable, name } = VERSITYGW else { unreachable!() };
    Command::new(program(variable, name).unwrap())
}
