//! Two NameNodes of one file system, of which one is active, and its DataNodes: three processes. Nothing fences a NameNode
//! that is made to give way: one that was frozen is killed before it could go on.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use nix::sys::signal::Signal;

use super::jvm::Jvm;
use super::{Hadoop, binary, clear, somewhere};

/// A running pair, of which the first is active, with three DataNodes.
#[derive(Debug)]
pub struct Pair {
    binary: PathBuf,
    dir: PathBuf,
    /// What both are told of each other.
    ports: String,
    addresses: [(String, String); 2],
    nodes: [Option<Jvm>; 2],
    data: Option<Hadoop>,
}

impl Pair {
    /// Starts it; `None` as [`Hadoop::start`].
    ///
    /// # Errors
    /// As [`Hadoop::start`].
    ///
    /// # Panics
    /// As [`Hadoop::start`].
    pub async fn start() -> io::Result<Option<Pair>> {
        let Some(binary) = binary() else { return Ok(None) };
        let [one, other] = [free_ports()?, free_ports()?];
        let text = |(rpc, http): &(u16, u16)| (format!("127.0.0.1:{rpc}"), format!("http://127.0.0.1:{http}"));
        let mut pair = Pair {
            binary,
            dir: somewhere(),
            ports: format!("{}:{},{}:{}", one.0, one.1, other.0, other.1),
            addresses: [text(&one), text(&other)],
            nodes: [None, None],
            data: None,
        };
        let other = format!("-Dmr.first={}", pair.node(1).display());
        pair.start_node(0, &[other]).await?;
        pair.activate(0).await?;
        pair.start_node(1, &[]).await?;
        let words = [format!("-Dmr.pair={}", pair.ports), "-Dmr.role=data".into(), "-Dmr.datanodes=3".into()];
        let (binary, dir) = (pair.binary.clone(), pair.dir.join("data"));
        let start = move || Hadoop::spawn(&binary, dir, &words);
        pair.data = Some(tokio::task::spawn_blocking(start).await.map_err(io::Error::other)??);
        Ok(Some(pair))
    }

    fn node(&self, number: usize) -> PathBuf {
        self.dir.join(format!("n{number}"))
    }

    async fn start_node(&mut self, number: usize, more: &[String]) -> io::Result<()> {
        let (binary, dir) = (self.binary.clone(), self.node(number));
        let own = [format!("-Dmr.pair={}", self.ports), "-Dmr.role=node".into(), format!("-Dmr.i={number}")];
        let words = [&own, more].concat();
        let start = move || Jvm::start(&binary, &dir, &words);
        self.nodes[number] = Some(tokio::task::spawn_blocking(start).await.map_err(io::Error::other)??);
        Ok(())
    }

    /// `host:port` of both NameNodes' RPC.
    pub fn namenodes(&self) -> [&str; 2] {
        [0, 1].map(|number: usize| self.addresses[number].0.as_str())
    }

    /// `http://host:port` of both NameNodes.
    pub fn webhdfs(&self) -> [&str; 2] {
        [0, 1].map(|number: usize| self.addresses[number].1.as_str())
    }

    /// Hadoop's own client of whichever is active.
    ///
    /// # Panics
    /// Never: it is there since the start.
    pub fn client(&self) -> &Hadoop {
        match &self.data {
            Some(data) => data,
            None => unreachable!("a pair has DataNodes"),
        }
    }

    /// Makes a NameNode the active one, whatever the other is.
    ///
    /// # Errors
    /// Where it does not run, or refuses.
    pub async fn activate(&self, number: usize) -> io::Result<()> {
        let node = self.nodes[number].as_ref().ok_or(io::ErrorKind::NotConnected)?;
        node.control("active", &[], Bytes::new()).await.map(drop)
    }

    /// Stops a NameNode for ever: connections stay, and nothing is answered.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self, number: usize) -> io::Result<()> {
        self.nodes[number].as_ref().ok_or(io::ErrorKind::NotConnected)?.signal(Signal::SIGSTOP)
    }

    /// Ends a NameNode at once.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number] = None;
    }

    /// Starts one that was killed, as a standby.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self, number: usize) -> io::Result<()> {
        self.start_node(number, &[]).await
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.data = None;
        self.nodes = [None, None];
        clear(&self.dir);
    }
}

/// Two ports that nobody has.
fn free_ports() -> io::Result<(u16, u16)> {
    let taken = [std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?];
    Ok((taken[0].local_addr()?.port(), taken[1].local_addr()?.port()))
}
