//! nfs-ganesha: a real NFSv3 server on loopback, for the tests.
//!
//! It runs in a mount namespace and a pid namespace of its own, so that it finds a registrar there that says yes to all
//! and listens nowhere, and so that nothing of it is left. Needs root.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::process::Process;
use super::requirement::{GANESHA, Requirement, met};

const START_SCRIPT: &str = include_str!("../../scripts/ganesha/start.sh");
const REGISTRAR: &str = include_str!("../../scripts/ganesha/rpcbind.py");

/// How long it may take until it serves.
const START: Duration = Duration::from_secs(60);

/// Another process may take a port between our look and the server's bind.
const ATTEMPTS: usize = 3;

/// In memory, where the machine has it: a COMMIT then waits for no disk.
const MEMORY: &str = "/dev/shm";

/// A running server; it ends when this is dropped, and with the thread that started it.
#[derive(Debug)]
pub struct Ganesha {
    process: Option<Process>,
    ports: [u16; 2],
    home: TempDir,
}

impl Ganesha {
    /// Starts it on free ports of 127.0.0.1, with the exports [`root`](Self::root) and [`squash`](Self::squash);
    /// `None`, with a word, where this machine has none or this is not root.
    ///
    /// # Errors
    /// Where it ends at once or does not serve, with what it said.
    ///
    /// # Panics
    /// Under `MILLRACE_REQUIRE_ALL=1`, where something is missing.
    pub async fn start() -> io::Result<Option<Ganesha>> {
        Ganesha::start_with(|_| String::new()).await
    }

    /// As [`start`](Self::start), with more in its configuration, made from the directory in which exports may lie.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(more: impl Fn(&Path) -> String) -> io::Result<Option<Ganesha>> {
        if !met(&[Requirement::Root, GANESHA]) {
            return Ok(None);
        }
        let mut builder = tempfile::Builder::new();
        let home = builder.prefix("ganesha-").tempdir_in(MEMORY).or_else(|_| builder.tempdir())?;
        fs::write(home.path().join("start.sh"), START_SCRIPT)?;
        fs::write(home.path().join("rpcbind.py"), REGISTRAR)?;
        fs::write(home.path().join("exports.conf"), more(home.path()))?;
        let mut server = Ganesha { process: None, ports: [0, 0], home };
        let mut attempts = 0;
        loop {
            attempts += 1;
            server.ports = free_ports()?;
            match server.restart().await {
                Err(_) if attempts < ATTEMPTS => {}
                outcome => return outcome.map(|()| Some(server)),
            }
        }
    }

    /// Kills it, if it runs, and starts it again on the same ports and directories.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.process = None;
        let at = |name: &str| self.home.path().join(name);
        let output = fs::File::create(at("start.log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]);
        command.arg(at("start.sh")).arg(self.home.path()).args(self.ports.map(|port| port.to_string()));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = self.process.insert(Process::spawn(&mut command)?);
        let begun = Instant::now();
        loop {
            let said = fs::read_to_string(self.home.path().join("start.log"))?;
            if said.lines().any(|line| line == "READY") {
                return Ok(());
            }
            if process.0.try_wait()?.is_some() || begun.elapsed() > START {
                return Err(io::Error::other(format!("nfs-ganesha does not serve; it said: {said}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it, as a crash of the server would: when this returns, nobody listens.
    pub fn kill(&mut self) {
        let Ok(server) = self.pid() else { return };
        self.process = None;
        let begun = std::time::Instant::now();
        while Path::new(&format!("/proc/{server}")).exists() && begun.elapsed() < START {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it: connections stay, and from when this returns nothing is answered.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self) -> io::Result<()> {
        let server = self.pid()?;
        kill(server, Signal::SIGSTOP)?;
        // A thread on another processor may run on for a moment.
        let is_stopped = |task: io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            Ok::<_, io::Error>(stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T')))
        };
        loop {
            let states: io::Result<Vec<bool>> = fs::read_dir(format!("/proc/{server}/task"))?.map(is_stopped).collect();
            if states?.into_iter().all(|stopped| stopped) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It goes on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn thaw(&self) -> io::Result<()> {
        Ok(kill(self.pid()?, Signal::SIGCONT)?)
    }

    /// The port of NFS.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of MOUNT.
    pub fn mount_port(&self) -> u16 {
        self.ports[1]
    }

    /// The export whose root is root; a directory of this machine, empty at first and only root's.
    pub fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// The export whose root is nobody; as [`root`](Self::root).
    pub fn squash(&self) -> PathBuf {
        self.home.path().join("squash")
    }

    /// The server itself, among the descendants of what was started.
    fn pid(&self) -> io::Result<Pid> {
        let gone = || io::Error::other("nfs-ganesha does not run");
        let mut above = vec![self.process.as_ref().ok_or_else(gone)?.0.id().cast_signed()];
        while let Some(pid) = above.pop() {
            if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ganesha.nfsd") {
                return Ok(Pid::from_raw(pid));
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            above.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        Err(gone())
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_ports() -> io::Result<[u16; 2]> {
    let [one, other] = [TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?];
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn it_comes_back_where_it_was_and_ends_with_its_value() {
        let Some(mut server) = Ganesha::start().await.unwrap() else { return };
        let address = format!("127.0.0.1:{}", server.port());
        let home = server.home.path().to_owned();
        assert!(TcpStream::connect(&address).await.is_ok());
        server.freeze().unwrap();
        server.thaw().unwrap();
        server.kill();
        assert!(TcpStream::connect(&address).await.is_err() && server.freeze().is_err());
        server.restart().await.unwrap();
        assert!(TcpStream::connect(&address).await.is_ok());
        drop(server);
        assert!(TcpStream::connect(&address).await.is_err() && !home.exists());
    }
}
