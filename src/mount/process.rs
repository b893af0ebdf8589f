//! A process that is certainly the one meant, also after the node plugin's restart.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

/// How readily the kernel ends a worker where the node runs out of memory (oom_score_adj, proc(5)). A worker would inherit
/// the node plugin's, by which it goes last; it is to go before that, before what has a Guaranteed pod's (-997) and before
/// the node's own services (0). Its end hurts every pod that reads through it, so that it goes after those Burstable pods
/// which asked for less than half of the node's memory: these have more than 500.
const OUT_OF_MEMORY: i16 = 500;

/// A pid is reused; a pid and the clock tick in which it began are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: i32,
    /// Clock ticks since boot (field 22 of proc_pid_stat(5)).
    start_time: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Identity> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        Some(Identity { pid, start_time: stat.starttime })
    }

    pub(super) fn pid(self) -> i32 {
        self.pid
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pid.fmt(f)
    }
}

/// Of these threads those that are being killed: SIGKILL is pending, and they wait where only a reply lets them go. A
/// thread that cannot be seen is not known to be.
pub(super) fn being_killed(threads: &[u32]) -> Vec<u32> {
    const SIGKILL: u64 = 1 << (Signal::KILL.as_raw() - 1);
    let is_killed = |thread: u32| -> Option<bool> {
        let status = procfs::process::Process::new(i32::try_from(thread).ok()?).ok()?.status().ok()?;
        // A signal to the process becomes one of each thread; see complete_signal in kernel/signal.c.
        Some((status.sigpnd | status.shdpnd) & SIGKILL != 0)
    };
    threads.iter().copied().filter(|thread| is_killed(*thread) == Some(true)).collect()
}

/// A running process, held by a pidfd (pidfd_open(2)): a signal never meets another one.
#[derive(Debug)]
pub(super) struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Process {
    /// The process of that identity; `None` where it has ended and been reaped.
    pub(super) fn open(identity: Identity) -> io::Result<Option<Process>> {
        let Some(pid) = Pid::from_raw(identity.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            // After a reboot the pid may be that of another process's thread, which is INVAL or, on newer kernels, NOENT.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the pidfd was opened: equal, and the pidfd is of that process.
        if Identity::of(identity.pid) != Some(identity) {
            return Ok(None);
        }
        Ok(Some(Process { identity, pidfd }))
    }

    /// This one.
    #[cfg(test)]
    pub(super) fn own() -> Process {
        let identity = Identity::of(std::process::id().cast_signed()).unwrap();
        Process::open(identity).unwrap().unwrap()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Resolves when it has ended. Looks again and again, ever more seldom: tokio offers no sound way to wait for a
    /// descriptor that it does not own.
    pub(super) async fn ended(&self) {
        let mut pause = Duration::from_millis(2);
        while self.is_running() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Its resident memory in bytes; `None` where it has ended.
    pub(super) fn memory(&self) -> Option<u64> {
        let found = procfs::process::Process::new(self.identity.pid).ok()?.statm().ok()?;
        // Read before: a pid that was reused since was not this process's any more.
        self.is_running().then(|| found.resident * procfs::page_size())
    }

    /// Has the kernel end it before this process where the node runs out of memory. What goes as early already stays so.
    fn go_first(&self) -> io::Result<()> {
        let path = format!("/proc/{}/oom_score_adj", self.identity.pid);
        let inherited: i16 = fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)?;
        if inherited < OUT_OF_MEMORY { fs::write(path, OUT_OF_MEMORY.to_string()) } else { Ok(()) }
    }

    /// Sends SIGKILL; fine where it has ended.
    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Whether it runs still.
    pub(super) fn is_running(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(poll(&mut fds, Some(&now)), Ok(1..))
    }
}

/// Runs `program worker` with an empty environment and its end of the socket as standard input, in a pid namespace of
/// its own if it is to be `alone`.
///
/// Reaps it whenever it ends. Returns it with our end and with what becomes its exit status.
pub(super) fn spawn(program: &Path, alone: bool) -> io::Result<(Process, UnixStream, ExitStatus)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.arg("worker").env_clear().current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let mut child = if alone { spawn_alone(command)? } else { command.spawn()? };
    let identity = child.id().and_then(|pid| Identity::of(i32::try_from(pid).ok()?));
    let process = identity.map(Process::open).transpose();
    // It has not been waited for, so that its pid is its own.
    if let Ok(Some(Some(process))) = &process
        && let Err(error) = process.go_first()
    {
        tracing::warn!(worker = %process.identity, "where memory runs out, it goes no sooner than the node plugin: {error}");
    }
    let (tell, exit) = tokio::sync::watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await;
        tell.send_replace(Some(match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("an unknown end ({error})"),
        }));
    });
    match process?.flatten() {
        Some(process) => Ok((process, ours, ExitStatus(exit))),
        // It was not waited for before, so that its entry in /proc was there unless /proc is not.
        None => Err(io::Error::other("the new process is not to be found in /proc")),
    }
}

/// As the first process of a new pid namespace: it sees no other.
///
/// A thread that asks for a namespace for its children can start no thread and only one such child, so each has its own.
fn spawn_alone(mut command: Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("spawn".into()).spawn(move || {
        let _entered = runtime.enter();
        unshare(CloneFlags::CLONE_NEWPID).map_err(|error| io::Error::other(format!("a pid namespace: {error}")))?;
        command.spawn()
    })?;
    thread.join().map_err(|_| io::Error::other("the thread that starts it panicked"))?
}

/// How a child of ours ended, once it has.
#[derive(Debug, Clone)]
pub(super) struct ExitStatus(tokio::sync::watch::Receiver<Option<String>>);

impl ExitStatus {
    /// Waits for the end. Words such as `exit status: 1` or `signal: 9 (SIGKILL)`.
    pub(super) async fn words(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(words) => words.clone().unwrap_or_default(),
            Err(_) => "an unknown end".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_a_thread_has_by_now_is_of_no_process() {
        let thread = std::thread::spawn(|| {
            let tid = nix::unistd::gettid().as_raw();
            Process::open(Identity::of(tid).unwrap())
        });
        assert!(thread.join().unwrap().unwrap().is_none());
        assert!(Process::own().is_running());
    }
}
