//! versitygw: a real S3 server on loopback, with real users and policies, for the tests.
//!
//! Two processes, as its manual has it for policies: the AWS IAM API, and the S3 gateway on a directory, which asks the
//! first about users over a Unix socket.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::process::Process;
use super::raw::{Access, Raw, good, tagged};
use super::requirement::{Requirement, VERSITYGW, met, program};

/// The region that it expects requests to be signed for.
pub const REGION: &str = "us-east-1";

/// The key pair that may do everything.
pub const ROOT: (&str, &str) = ("rootkey", "rootsecret0123456789");

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Another process may take a port between our look and the server's bind.
const ATTEMPTS: usize = 3;

/// A running server; its processes end when it is dropped, and with the thread that started it.
#[derive(Debug)]
pub struct Versitygw {
    endpoint: String,
    iam: Raw,
    home: TempDir,
    processes: [Process; 2],
}

impl Versitygw {
    /// Starts it in a new directory, on free ports of 127.0.0.1; `None`, with a word, where this machine has none
    /// ([`VERSITYGW`]).
    ///
    /// # Errors
    /// Where it ends at once or does not listen, with the end of its log.
    ///
    /// # Panics
    /// Under `MILLRACE_REQUIRE_ALL=1`, where this machine has none.
    pub async fn start() -> io::Result<Option<Versitygw>> {
        let Requirement::Program { variable, name } = VERSITYGW else { return Ok(None) };
        let Some(binary) = program(variable, name).filter(|_| met(&[VERSITYGW])) else {
            met(&[VERSITYGW]);
            return Ok(None);
        };
        let home = tempfile::Builder::new().prefix("versitygw-").tempdir()?;
        for dir in ["root", "versions", "iam"] {
            std::fs::create_dir(home.path().join(dir))?;
        }
        let at = |name: &str| home.path().join(name);
        let socket = at("iam.sock");
        let (iam_endpoint, iam) = listening(&at("iam.log"), |port| {
            let mut command = command(&binary, port);
            command.arg("iam").arg("--dir").arg(at("iam")).arg("--private-ports").arg(&socket);
            command
        })
        .await?;
        let (endpoint, gateway) = listening(&at("gateway.log"), |port| {
            let mut command = command(&binary, port);
            command.arg("--iam-cache-disable").arg("--iam-standalone-endpoint").arg(&socket);
            command.arg("posix").arg("--versioning-dir").arg(at("versions")).arg(at("root"));
            command
        })
        .await?;
        let iam_client = Raw::new(access(&iam_endpoint, "", ROOT.0, ROOT.1))?;
        Ok(Some(Versitygw { endpoint, iam: iam_client, home, processes: [gateway, iam] }))
    }

    /// `http://127.0.0.1:port` of S3.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A client of `bucket` with a key pair, [`ROOT`] or one that [`user`](Self::user) made.
    ///
    /// # Errors
    /// As [`Raw::new`].
    pub fn client(&self, bucket: &str, (key_id, secret): (&str, &str)) -> io::Result<Raw> {
        Raw::new(access(&self.endpoint, bucket, key_id, secret))
    }

    /// Makes a bucket, owned by root.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn create_bucket(&self, bucket: &str) -> io::Result<()> {
        self.client(bucket, ROOT)?.create_bucket().await
    }

    /// Makes a user with a policy in IAM's JSON; its access key id and secret.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn user(&self, name: &str, policy: &str) -> io::Result<(String, String)> {
        self.ask_iam("CreateUser", &[("UserName", name)]).await?;
        let policy = [("UserName", name), ("PolicyName", "policy"), ("PolicyDocument", policy)];
        self.ask_iam("PutUserPolicy", &policy).await?;
        let reply = self.ask_iam("CreateAccessKey", &[("UserName", name)]).await?;
        let field = |tag| tagged(&reply, tag).ok_or_else(|| io::Error::other(format!("CreateAccessKey without {tag}")));
        Ok((field("AccessKeyId")?, field("SecretAccessKey")?))
    }

    /// Takes a key from a user: requests with it are refused from now on.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn delete_key(&self, name: &str, key_id: &str) -> io::Result<()> {
        self.ask_iam("DeleteAccessKey", &[("UserName", name), ("AccessKeyId", key_id)]).await.map(drop)
    }

    /// Freezes it (SIGSTOP), or lets it go on where it was: connections stay, and are not answered.
    ///
    /// # Errors
    /// Where a process of it is gone.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        for Process(child) in &self.processes {
            kill(Pid::from_raw(child.id().try_into().map_err(io::Error::other)?), signal)?;
        }
        Ok(())
    }

    /// Where a bucket's objects lie as files.
    pub fn disk_path(&self, bucket: &str) -> PathBuf {
        self.home.path().join("root").join(bucket)
    }

    async fn ask_iam(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<String> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([("Action", action), ("Version", "2010-05-08")]).extend_pairs(parameters);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/", self.iam.endpoint()))
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let reply = good(self.iam.send("iam", request, Bytes::from(form.finish())).await?).await?;
        let bytes = reply.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn access(endpoint: &str, bucket: &str, key_id: &str, secret: &str) -> Access {
    Access {
        endpoint: endpoint.to_owned(),
        bucket: bucket.to_owned(),
        region: REGION.to_owned(),
        key_id: key_id.to_owned(),
        secret: secret.to_owned(),
        session_token: None,
        ca_pem: None,
    }
}

fn command(binary: &Path, port: u16) -> Command {
    let mut command = Command::new(binary);
    command.args(["-q", "-p", &format!("127.0.0.1:{port}")]);
    command.env("ROOT_ACCESS_KEY", ROOT.0).env("ROOT_SECRET_KEY", ROOT.1);
    command
}

/// Starts what `command` makes for a free port, and waits until it listens there; its endpoint.
async fn listening(log: &Path, command: impl Fn(u16) -> Command) -> io::Result<(String, Process)> {
    for _ in 0..ATTEMPTS {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let output = std::fs::File::create(log)?;
        let mut command = command(port);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = Process::spawn(&mut command)?;
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                if process.0.try_wait()?.is_some() {
                    return Ok::<bool, io::Error>(false);
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(true)
        };
        if timeout(START, listens).await.map_err(io::Error::from)?? {
            return Ok((format!("http://127.0.0.1:{port}"), process));
        }
    }
    let said = std::fs::read_to_string(log)?;
    let last = said.lines().last().unwrap_or("nothing");
    Err(io::Error::other(format!("versitygw ended {ATTEMPTS} times before it listened; it said: {last}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn users_reach_what_their_policy_says() {
        let Some(server) = Versitygw::start().await.unwrap() else { return };
        server.create_bucket("data").await.unwrap();
        let policy = r#"{"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::data/open/*"}]}"#;
        let (key_id, secret) = server.user("alice", policy).await.unwrap();
        let root = server.client("data", ROOT).unwrap();
        root.put("closed/a", Bytes::from_static(b"no")).await.unwrap();
        let alice = server.client("data", (&key_id, &secret)).unwrap();
        alice.put("open/a", Bytes::from_static(b"yes")).await.unwrap();
        assert_eq!(std::fs::read(server.disk_path("data").join("open/a")).unwrap(), b"yes");
        let denied =
            |outcome: io::Result<_>| outcome.err().map(|error| error.kind()) == Some(io::ErrorKind::PermissionDenied);
        assert!(denied(alice.get("closed/a", None).await.map(drop)));
        assert!(denied(alice.put("closed/b", Bytes::new()).await));
        server.delete_key("alice", &key_id).await.unwrap();
        assert!(denied(alice.get("open/a", None).await.map(drop)));
    }

    #[tokio::test]
    async fn its_processes_end_with_it() {
        let Some(server) = Versitygw::start().await.unwrap() else { return };
        let address = server.endpoint().trim_start_matches("http://").to_owned();
        let home = server.home.path().to_owned();
        drop(server);
        assert!(TcpStream::connect(address).await.is_err());
        assert!(!home.exists());
    }
}
