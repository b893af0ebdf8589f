//! The set of `try`: a temporary directory, the two plugins as processes of their own, and the clearing away.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a plugin may take to open its socket, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that must be gone in the end. Dropping it clears away what is left, whatever happened before.
#[derive(Debug)]
pub(super) struct Stage {
    dir: tempfile::TempDir,
    plugins: Vec<(&'static str, Child)>,
    /// The plugins' logs go to a file here, shown when something fails.
    log: PathBuf,
}

impl Stage {
    /// A directory that workers, who have uids of their own, may pass through but not read.
    pub(super) fn build() -> Result<Stage> {
        let dir = tempfile::Builder::new().prefix("millrace-try-").tempdir().context("no temporary directory")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
        let log = dir.path().join("plugins.log");
        Ok(Stage { dir, plugins: Vec::new(), log })
    }

    /// A path on the stage.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts this program again in the role `role` and waits for its socket. It runs in a process group of its own,
    /// so that a Ctrl-C reaches `try` alone and the clearing away keeps its order.
    pub(super) fn start(&mut self, role: &'static str, arguments: &[(&str, &Path)], words: &[&str]) -> Result<PathBuf> {
        let socket = self.path(&format!("{role}.sock"));
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).arg("--endpoint").arg(format!("unix://{}", socket.display()));
        for (flag, value) in arguments {
            command.arg(flag).arg(value);
        }
        let child = command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).spawn();
        self.plugins.push((role, child.with_context(|| format!("cannot start the {role}"))?));
        let until = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if let Some(status) = self.plugins.last_mut().and_then(|(_, child)| child.try_wait().transpose()) {
                bail!("the {role} ended at once ({}):\n{}", status?, self.log_tail());
            }
            if Instant::now() > until {
                bail!("the {role} opened no socket within {PATIENCE:?}:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(socket)
    }

    /// The process of a role.
    pub(super) fn pid(&self, role: &str) -> Option<u32> {
        self.plugins.iter().find(|(name, _)| *name == role).map(|(_, child)| child.id())
    }

    /// The last lines that the plugins and workers logged.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Ends the plugins in order and removes the directory; fails where something had to be forced or stayed.
    #[expect(clippy::disallowed_methods, reason = "nothing is mounted there any more")]
    pub(super) fn strike(mut self) -> Result<()> {
        self.end_plugins()?;
        let left = mounts_below(self.dir.path());
        if !left.is_empty() {
            bail!("still mounted after the plugins ended: {}", left.join(", "));
        }
        let dir = self.dir.path().to_path_buf();
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }

    fn end_plugins(&mut self) -> Result<()> {
        while let Some((role, mut child)) = self.plugins.pop() {
            if let Ok(pid) = i32::try_from(child.id()) {
                // Fails only where the child has ended already, which `wait` then tells.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            let until = Instant::now() + PATIENCE;
            while child.try_wait()?.is_none() {
                if Instant::now() > until {
                    child.kill()?;
                    child.wait()?;
                    bail!("the {role} did not end within {PATIENCE:?} of SIGTERM and was killed:\n{}", self.log_tail());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // After `strike` nothing of this finds anything; after a failure it leaves nothing behind. A mount that is
        // detached ends its worker.
        for mount in mounts_below(self.dir.path()) {
            let _ = umount2(mount.as_str(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
        if let Err(error) = self.end_plugins() {
            eprintln!("{error:#}");
        }
    }
}

/// Mount points below `dir`, the deepest first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let Ok(mounts) = procfs::process::Process::myself().and_then(|me| me.mountinfo()) else { return Vec::new() };
    let below = mounts.into_iter().map(|mount| mount.mount_point).filter(|point| point.starts_with(dir));
    let mut points: Vec<_> = below.map(|point| point.to_string_lossy().into_owned()).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    points
}
