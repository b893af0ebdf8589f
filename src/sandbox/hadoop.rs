//! Hadoop's NameNode and DataNodes: a real HDFS on loopback, for the tests; and Hadoop's own client, which writes and
//! reads what a test wants written and read by others.
//!
//! A cluster takes seconds of processor time to start, so that a test shares one unless it stops, freezes or configures it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::requirement::{HADOOP, Requirement, met, program};

/// How long its process may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// In memory, where the machine has it: what is synced then waits for no disk.
const MEMORY: &str = "/dev/shm";

/// A running cluster, which ends with this value, and with this process.
#[derive(Debug)]
pub struct Hadoop {
    child: Child,
    /// It ends when this is closed.
    stdin: Option<ChildStdin>,
    dir: PathBuf,
    ready: Ready,
    given: AtomicUsize,
}

/// What it says when it serves.
#[derive(Debug, Deserialize)]
struct Ready {
    pid: i32,
    namenode: String,
    webhdfs: String,
    control: String,
}

impl Hadoop {
    /// The cluster that the tests of this process share: three DataNodes, blocks of 1 MiB, one replica of each, and the
    /// users alice and bob of the group users and carol of staff. `None` as [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn shared() -> io::Result<Option<&'static Hadoop>> {
        static SHARED: OnceCell<Option<Hadoop>> = OnceCell::const_new();
        Ok(SHARED.get_or_try_init(|| Hadoop::start(&[])).await?.as_ref())
    }

    /// Starts one with other words than usual, those of `scripts/hadoop/HadoopCluster.java`; `None`, with a word, where
    /// this machine has none.
    ///
    /// # Errors
    /// Where it ends at once, with what it said.
    ///
    /// # Panics
    /// Under `MILLRACE_REQUIRE_ALL=1`, where it is missing.
    pub async fn start(words: &[(&str, &str)]) -> io::Result<Option<Hadoop>> {
        let Requirement::Program { variable, name } = HADOOP else { return Ok(None) };
        let Some(binary) = program(variable, name).filter(|_| met(&[HADOOP])) else {
            met(&[HADOOP]);
            return Ok(None);
        };
        let words: Vec<String> = words.iter().map(|(word, value)| format!("-Dmr.{word}={value}")).collect();
        tokio::task::spawn_blocking(move || spawn(&binary, &words)).await.map_err(io::Error::other)?.map(Some)
    }

    /// `host:port` of the NameNode's RPC.
    pub fn namenode(&self) -> &str {
        &self.ready.namenode
    }

    /// `http://host:port` of WebHDFS.
    pub fn webhdfs(&self) -> &str {
        &self.ready.webhdfs
    }

    /// A new empty directory of `user`'s that nobody else uses, without a leading slash.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn fresh(&self, user: &str) -> io::Result<String> {
        let path = format!("user/{user}/{}", self.given.fetch_add(1, Ordering::Relaxed));
        self.control("mkdir", &[("path", &format!("/{path}")), ("user", user)], Bytes::new()).await?;
        Ok(path)
    }

    /// Hadoop's own client writes a file.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn put(&self, path: &str, user: &str, content: impl Into<Bytes>) -> io::Result<()> {
        self.control("put", &[("path", path), ("user", user)], content.into()).await.map(drop)
    }

    /// Hadoop's own client reads a file, as the superuser.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn get(&self, path: &str) -> io::Result<Bytes> {
        self.control("get", &[("path", path)], Bytes::new()).await
    }

    /// Hadoop's own client writes more of a file that it keeps open, made by the first call, and calls plain `hsync()`.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn hsync(&self, path: &str, user: &str, more: impl Into<Bytes>) -> io::Result<()> {
        self.control("hsync", &[("path", path), ("user", user)], more.into()).await.map(drop)
    }

    /// Closes what [`hsync`](Self::hsync) wrote.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn close(&self, path: &str) -> io::Result<()> {
        self.control("close", &[("path", path)], Bytes::new()).await.map(drop)
    }

    /// Has the cluster do something else: a word of `control` in HadoopCluster.java, with what belongs to it.
    ///
    /// # Errors
    /// What the cluster failed with.
    pub async fn control(&self, what: &str, words: &[(&str, &str)], body: Bytes) -> io::Result<Bytes> {
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

    /// Stops all of it: connections stay, and nothing is answered.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.ready.pid), Signal::SIGSTOP)?)
    }

    /// It goes on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn thaw(&self) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.ready.pid), Signal::SIGCONT)?)
    }
}

impl Drop for Hadoop {
    fn drop(&mut self) {
        self.stdin = None;
        // A frozen one does not see that.
        let _ = self.thaw();
        let begun = Instant::now();
        while begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        clear(&self.dir);
    }
}

fn spawn(binary: &Path, words: &[String]) -> io::Result<Hadoop> {
    let place = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    let dir = place.join(format!("millrace-hadoop-{:016x}", rand::random::<u64>()));
    let mut said = tempfile::tempfile()?;
    let mut command = Command::new(binary);
    command.arg(format!("-Dmr.dir={}", dir.display())).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said.try_clone()?);
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    match child.stdout.take().map(ready) {
        Some(Ok(Some(ready))) => Ok(Hadoop { child, stdin, dir, ready, given: AtomicUsize::new(0) }),
        outcome => {
            drop(stdin);
            let _ = child.kill();
            let _ = child.wait();
            clear(&dir);
            Err(io::Error::other(format!("Hadoop does not serve ({outcome:?}); it said: {}", all(&mut said)?)))
        }
    }
}

/// What it did not remove itself, where it had to be killed.
#[expect(clippy::disallowed_methods, reason = "a directory of Hadoop's own, in which nothing is ever mounted")]
fn clear(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn it_serves_and_ends_with_its_value() {
        let Some(cluster) = Hadoop::start(&[("datanodes", "1")]).await.unwrap() else { return };
        let dir = cluster.fresh("alice").await.unwrap();
        let path = format!("/{dir}/file");
        cluster.put(&path, "alice", "content").await.unwrap();
        assert_eq!(cluster.get(&path).await.unwrap(), "content");
        cluster.hsync(&path, "alice", "first").await.unwrap();
        cluster.hsync(&path, "alice", " second").await.unwrap();
        assert_eq!(cluster.get(&path).await.unwrap(), "first second");
        cluster.close(&path).await.unwrap();
        assert!(cluster.put(&path, "carol", "theirs").await.is_err());
        let (address, home) = (cluster.namenode().to_owned(), cluster.dir.clone());
        assert!(TcpStream::connect(&address).await.is_ok() && home.exists());
        cluster.freeze().unwrap();
        drop(cluster);
        assert!(TcpStream::connect(&address).await.is_err() && !home.exists());
    }
}
