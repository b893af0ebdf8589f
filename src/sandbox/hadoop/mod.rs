//! Hadoop's NameNode and DataNodes: a real HDFS on loopback, for the tests; and Hadoop's own client, which writes and
//! reads what a test wants written and read by others.
//!
//! A cluster takes seconds of processor time to start, so that a test shares one unless it stops, freezes or configures it.

mod jvm;
pub mod pair;

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use self::jvm::Jvm;
pub use self::jvm::Kdc;
use super::requirement::{HADOOP, Requirement, met, program};

/// In memory, where the machine has it: what is synced then waits for no disk.
const MEMORY: &str = "/dev/shm";

/// A running cluster, which ends with this value, and with this process.
#[derive(Debug)]
pub struct Hadoop {
    jvm: Jvm,
    dir: PathBuf,
    given: AtomicUsize,
}

impl Hadoop {
    /// The cluster that the tests of this process share: three DataNodes, blocks of 1 MiB, one replica of each, and the
    /// users alice and bob of the group users and carol of staff. Its name node lets a file be closed before it has heard
    /// of the last block's arrival, which others wait for. `None` as [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn shared() -> io::Result<Option<&'static Hadoop>> {
        static SHARED: OnceCell<Option<Hadoop>> = OnceCell::const_new();
        let words = [("conf", "dfs.namenode.file.close.num-committed-allowed=1")];
        Ok(SHARED.get_or_try_init(|| Hadoop::start(&words)).await?.as_ref())
    }

    /// Another one of this process, of one DataNode, that demands Kerberos. `None` as [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn secured() -> io::Result<Option<&'static Hadoop>> {
        static SHARED: OnceCell<Option<Hadoop>> = OnceCell::const_new();
        let words = [("datanodes", "1"), ("kerberos", "true")];
        Ok(SHARED.get_or_try_init(|| Hadoop::start(&words)).await?.as_ref())
    }

    /// Another one of this process, of one DataNode, which tests freeze or put into safe mode, one after the other; its
    /// owners of directories set quotas. `None` as [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn by_turns() -> io::Result<Option<Turn>> {
        static SHARED: OnceCell<Option<Mutex<Hadoop>>> = OnceCell::const_new();
        let words = [("datanodes", "1"), ("conf", "dfs.permissions.allow.owner.set.quota=true")];
        let start = async || Ok::<_, io::Error>(Hadoop::start(&words).await?.map(Mutex::new));
        match SHARED.get_or_try_init(start).await? {
            Some(cluster) => Ok(Some(Turn(cluster.lock().await))),
            None => Ok(None),
        }
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
        let Some(binary) = binary() else { return Ok(None) };
        let words: Vec<String> = words.iter().map(|(word, value)| format!("-Dmr.{word}={value}")).collect();
        let start = move || Hadoop::spawn(&binary, somewhere(), &words);
        tokio::task::spawn_blocking(start).await.map_err(io::Error::other)?.map(Some)
    }

    fn spawn(binary: &Path, dir: PathBuf, words: &[String]) -> io::Result<Hadoop> {
        match Jvm::start(binary, &dir, words) {
            Ok(jvm) => Ok(Hadoop { jvm, dir, given: AtomicUsize::new(0) }),
            Err(error) => {
                clear(&dir);
                Err(error)
            }
        }
    }

    /// `host:port` of the NameNode's RPC.
    pub fn namenode(&self) -> &str {
        &self.jvm.ready.namenode
    }

    /// `http://host:port` of WebHDFS.
    pub fn webhdfs(&self) -> &str {
        &self.jvm.ready.webhdfs
    }

    /// The user who may do everything.
    pub fn superuser(&self) -> &str {
        &self.jvm.ready.superuser
    }

    /// The KDC that everybody has to log in to, where it was started with `kerberos`.
    pub fn kdc(&self) -> Option<&Kdc> {
        self.jvm.ready.kerberos.as_ref()
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

    /// A file with a delegation token of `user`'s, fetched and written as `hdfs fetchdt` does; of one started with `kerberos`.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn token(&self, user: &str) -> io::Result<Bytes> {
        self.control("token", &[("user", user)], Bytes::new()).await
    }

    /// Has the name node forget a token that [`token`](Self::token) gave to `user`.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn cancel(&self, user: &str, token: Bytes) -> io::Result<()> {
        self.control("token/cancel", &[("user", user)], token).await.map(drop)
    }

    /// Has the cluster do something else: a word of `control` in HadoopCluster.java, with what belongs to it.
    ///
    /// # Errors
    /// What the cluster failed with.
    pub async fn control(&self, what: &str, words: &[(&str, &str)], body: Bytes) -> io::Result<Bytes> {
        self.jvm.control(what, words, body).await
    }

    /// Stops all of it: connections stay, and nothing is answered.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self) -> io::Result<()> {
        self.jvm.signal(Signal::SIGSTOP)
    }

    /// It goes on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn thaw(&self) -> io::Result<()> {
        self.jvm.signal(Signal::SIGCONT)
    }
}

/// A cluster for one test, which leaves it running.
#[derive(Debug)]
pub struct Turn(MutexGuard<'static, Hadoop>);

impl Deref for Turn {
    type Target = Hadoop;

    fn deref(&self) -> &Hadoop {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Only where a test failed does it not run.
        let _ = self.0.thaw();
    }
}

impl Drop for Hadoop {
    fn drop(&mut self) {
        self.jvm.end();
        clear(&self.dir);
    }
}

/// What starts a cluster, where this machine has it.
fn binary() -> Option<PathBuf> {
    let Requirement::Program { variable, name } = HADOOP else { return None };
    met(&[HADOOP]).then(|| program(variable, name))?
}

/// A directory that is not there.
fn somewhere() -> PathBuf {
    let place = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    place.join(format!("millrace-hadoop-{:016x}", rand::random::<u64>()))
}

/// What it did not remove itself, where it had to be killed.
#[expect(clippy::disallowed_methods, reason = "a directory of Hadoop's own, in which nothing is ever mounted")]
fn clear(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
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
