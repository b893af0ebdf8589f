//! One process with daemons of Hadoop's, and what it is asked to do.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// A process that runs, and ends with this value.
#[derive(Debug)]
pub(super) struct Jvm {
    child: Child,
    /// It ends when this is closed.
    stdin: Option<ChildStdin>,
    pub(super) ready: Ready,
}

/// What it says when it serves.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pid: i32,
    pub(super) namenode: String,
    pub(super) webhdfs: String,
    control: String,
    pub(super) superuser: String,
    pub(super) kerberos: Option<Kdc>,
}

/// The KDC of a cluster that demands Kerberos.
#[derive(Debug, Clone, Deserialize)]
pub struct Kdc {
    /// Its realm.
    pub realm: String,
    /// Its `host:port`.
    #[serde(rename = "kdc")]
    pub address: String,
    keytabs: PathBuf,
}

impl Kdc {
    /// The keytab of one of the cluster's users.
    ///
    /// # Errors
    /// Where there is none.
    pub fn keytab(&self, user: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.keytabs.join(format!("{user}.keytab")))
    }
}

impl Jvm {
    /// Starts one with these words of HadoopCluster.java, and waits until it serves.
    ///
    /// # Errors
    /// Where it ends at once, with what it said.
    pub(super) fn start(binary: &Path, dir: &Path, words: &[String]) -> io::Result<Jvm> {
        let mut said = tempfile::tempfile()?;
        let mut command = Command::new(binary);
        command.arg(format!("-Dmr.dir={}", dir.display())).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said.try_clone()?);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        match child.stdout.take().map(ready) {
            Some(Ok(Some(ready))) => Ok(Jvm { child, stdin, ready }),
            outcome => {
                drop(stdin);
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other(format!("Hadoop does not serve ({outcome:?}); it said: {}", all(&mut said)?)))
            }
        }
    }

    /// Has it do something: a word of `control` in HadoopCluster.java, with what belongs to it.
    ///
    /// # Errors
    /// What it failed with.
    pub(super) async fn control(&self, what: &str, words: &[(&str, &str)], body: Bytes) -> io::Result<Bytes> {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(words).finish();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/{what}?{query}", self.ready.control))
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        match status.is_success() {
            true => Ok(body),
            false => Err(io::Error::other(format!("{what}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it does not run.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.ready.pid), signal)?)
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has it end.
    pub(super) fn end(&mut self) {
        self.stdin = None;
        // A frozen one does not see that.
        let _ = self.signal(Signal::SIGCONT);
        let begun = Instant::now();
        while begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ready(stdout: ChildStdout) -> io::Result<Option<Ready>> {
    for line in BufReader::new(stdout).lines() {
        if let Some(words) = line?.strip_prefix("READY ") {
            return serde_json::from_str(words).map(Some).map_err(io::Error::other);
        }
    }
    Ok(None)
}

fn all(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
