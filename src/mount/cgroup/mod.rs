//! Each worker in a memory cgroup of its own, so that an out-of-memory kill takes one mount.
//!
//! ```text
//! <own>/                       the cgroup that this node plugin was started in (its container's)
//! <own>/millrace-plugin/       v2 alone: the node plugin, since a cgroup with limited children may hold no process
//! <own>/millrace-<tag>-<id>/   the worker of a mount; <tag> stands for the state directory
//! ```
//!
//! Version 1 and version 2 differ in the names of files and in what must be prepared; `v1` and `v2` know these, and know
//! no place. A cgroup is made after its mount's record and removed before it.

mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use procfs::process::MountInfo;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest, Sha256};

use super::state::MountId;

/// What a worker needs beside its volume's `memory`: the program, stacks, TLS, the kernel's own records.
const BESIDE_BUDGET: u64 = 96 << 20;

/// How long an ended worker may keep its cgroup busy.
const REMOVAL: Duration = Duration::from_secs(10);

const PROCESSES: &str = "cgroup.procs";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// All cgroups of this node plugin's workers, or none where this machine lets it have none.
#[derive(Debug)]
pub(super) struct Cgroups {
    own: Option<(Version, PathBuf)>,
    /// Beginning of the names of its workers' cgroups. Another node plugin may have the same `own`.
    prefix: String,
}

impl Cgroups {
    /// None: workers stay where the node plugin is.
    pub(super) fn none() -> Cgroups {
        Cgroups { own: None, prefix: String::new() }
    }

    /// Those of the node plugin with that state directory. Where there can be none, says why in the log.
    pub(super) fn open(state_dir: &Path) -> Cgroups {
        let own = here().and_then(|(version, own)| {
            let prepared = match version {
                Version::V1 => v1::prepare(&own),
                Version::V2 => v2::prepare(&own),
            };
            let shown = own.display().to_string();
            let own = prepared.map_err(|error| format!("{shown}: {error}"))?;
            Ok((version, own))
        });
        match own {
            Ok(own) => Cgroups::at(own, state_dir),
            Err(why) => {
                tracing::warn!(
                    "workers have no memory limit of their own, and one that runs out of memory may take others with \
                     it: {why}; give the node plugin a cgroup that it may write (a privileged container has one)"
                );
                Cgroups::none()
            }
        }
    }

    fn at(own: (Version, PathBuf), state_dir: &Path) -> Cgroups {
        let tag = HEXLOWER.encode(&Sha256::digest(state_dir.as_os_str().as_encoded_bytes())[..4]);
        Cgroups { own: Some(own), prefix: format!("millrace-{tag}-") }
    }

    /// Makes the cgroup of a mount's worker, which may then use `budget` bytes and what every worker needs.
    pub(super) fn make(&self, mount: &MountId, budget: u64) -> io::Result<Option<Cgroup>> {
        let Some(cgroup) = self.of(mount) else { return Ok(None) };
        create_dir(&cgroup.dir)?;
        cgroup.limit(budget)?;
        Ok(Some(cgroup))
    }

    /// The cgroup of a mount's worker, which may be gone.
    pub(super) fn of(&self, mount: &MountId) -> Option<Cgroup> {
        let (version, own) = self.own.as_ref()?;
        Some(Cgroup { version: *version, dir: own.join(format!("{}{mount}", self.prefix)) })
    }

    /// Removes the cgroup of a mount whose worker has ended. Fine where it is gone.
    pub(super) async fn remove(&self, mount: &MountId) -> io::Result<()> {
        let Some(cgroup) = self.of(mount) else { return Ok(()) };
        let mut pause = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        loop {
            match fs::remove_dir(&cgroup.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && waited < REMOVAL => cgroup.end_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// The mounts that have a cgroup here.
    pub(super) fn mounts(&self) -> io::Result<Vec<MountId>> {
        let Some((_, own)) = &self.own else { return Ok(Vec::new()) };
        let entries = fs::read_dir(own)?.collect::<io::Result<Vec<_>>>()?;
        let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| MountId::parse(name.strip_prefix(&self.prefix)?)).collect())
    }
}

/// One worker's.
#[derive(Debug, Clone)]
pub(super) struct Cgroup {
    version: Version,
    dir: PathBuf,
}

impl Cgroup {
    /// A directory that looks like one of version 2.
    #[cfg(test)]
    pub(super) fn of_version_2(dir: &Path) -> Cgroup {
        Cgroup { version: Version::V2, dir: dir.to_owned() }
    }

    /// Allows the worker at least `budget` bytes and what every worker needs. Never lowered: the kernel would kill a
    /// worker that has not given back yet what it had.
    pub(super) fn raise(&self, budget: u64) -> io::Result<()> {
        let now = match self.version {
            Version::V1 => v1::limit_of(&self.dir),
            Version::V2 => v2::limit_of(&self.dir),
        };
        if now? < most(budget) { self.limit(budget) } else { Ok(()) }
    }

    fn limit(&self, budget: u64) -> io::Result<()> {
        match self.version {
            Version::V1 => v1::limit(&self.dir, most(budget)),
            Version::V2 => v2::limit(&self.dir, most(budget)),
        }
    }

    /// Takes a process in. What it has used until then counts where it was. Fine where it has ended.
    pub(super) fn take(&self, pid: i32) -> io::Result<()> {
        match fs::write(self.dir.join(PROCESSES), pid.to_string()) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            outcome => named(&self.dir, outcome),
        }
    }

    /// Kills what is left in it: a worker of which no record came to the disk.
    fn end_all(&self) -> io::Result<()> {
        let processes = || -> io::Result<Vec<Pid>> {
            let text = read(&self.dir.join(PROCESSES))?;
            Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
        };
        for pid in processes()? {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Read after the pidfd was opened: there still, and the pidfd is of that process.
            if processes()?.contains(&pid) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        Ok(())
    }

    /// The limit in bytes, where the kernel killed the worker because it reached it.
    pub(super) fn was_exceeded(&self) -> Option<u64> {
        let (kills, limit) = match self.version {
            Version::V1 => (v1::kills(&self.dir), v1::limit_of(&self.dir)),
            Version::V2 => (v2::kills(&self.dir), v2::limit_of(&self.dir)),
        };
        if kills.ok()? > 0 { limit.ok() } else { None }
    }
}

fn most(budget: u64) -> u64 {
    budget.saturating_add(BESIDE_BUDGET)
}

/// The memory cgroup of this process.
fn here() -> Result<(Version, PathBuf), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    find(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

/// Finds the directory of a process's memory cgroup by what `/proc/PID/cgroup` (cgroups(7)) and `/proc/PID/mountinfo`
/// say. Version 1 where it has the memory controller: a controller is in one of the two.
fn find(cgroups: &str, mounts: &str) -> Result<(Version, PathBuf), String> {
    let lines: Vec<_> = cgroups.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>()).collect();
    let path = |fits: &dyn Fn(&str, &str) -> bool| {
        lines.iter().find_map(|line| match line[..] {
            [id, controllers, path] if fits(id, controllers) => Some(path),
            _ => None,
        })
    };
    let v1 = path(&|_, controllers| controllers.split(',').any(|one| one == "memory"));
    let v2 = path(&|id, controllers| id == "0" && controllers.is_empty());
    let (version, file_system, path) = match (v1, v2) {
        (Some(path), _) => (Version::V1, "cgroup", path),
        (None, Some(path)) => (Version::V2, "cgroup2", path),
        (None, None) => return Err("this kernel has no memory cgroup".into()),
    };
    let mounts = mounts.lines().filter_map(|line| MountInfo::from_line(line).ok());
    let fits = |mount: &MountInfo| {
        mount.fs_type == file_system && (version == Version::V2 || mount.super_options.contains_key("memory"))
    };
    let below = |mount: MountInfo| Some(mount.mount_point.join(Path::new(path).strip_prefix(&mount.root).ok()?));
    match mounts.filter(fits).find_map(below) {
        Some(dir) => Ok((version, dir)),
        None => Err(format!("the memory cgroup {path} is not mounted here")),
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => named(dir, outcome),
    }
}

/// Writes to a file of the kernel's, never making one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let file = fs::File::options().write(true).open(path);
    named(path, file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())))
}

fn read(path: &Path) -> io::Result<String> {
    named(path, fs::read_to_string(path))
}

/// The number after `key` in a file of lines of a key and a number.
fn number(path: &Path, key: &str) -> io::Result<u64> {
    let text = read(path)?;
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    found.ok_or_else(|| io::Error::other(format!("{}: no {key}", path.display())))
}

fn named<T>(path: &Path, outcome: io::Result<T>) -> io::Result<T> {
    outcome.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
