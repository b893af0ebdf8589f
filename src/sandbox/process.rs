//! A child process that ends with what owns it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// A process that is killed when this is dropped, and with the thread that started it.
#[derive(Debug)]
pub(super) struct Process(pub(super) Child);

impl Process {
    pub(super) fn spawn(command: &mut Command) -> io::Result<Process> {
        let set = || set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
        #[expect(unsafe_code, reason = "there is no safe way to have the child itself call prctl(2)")]
        // SAFETY: between fork and exec the closure makes one system call and does not allocate.
        unsafe {
            command.pre_exec(set);
        }
        command.spawn().map(Process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
