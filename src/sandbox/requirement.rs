//! What a test needs from its machine, and what happens where it is missing.
//!
//! `cargo test` passes on a machine with Rust alone and says what it could not run; under `make test`, which sets
//! `MILLRACE_REQUIRE_ALL=1` and installs everything, a missing thing fails the test.

#![expect(clippy::disallowed_methods, reason = "`make` says by environment variables where the tests' tools are")]

use std::fs::OpenOptions;
use std::path::PathBuf;

/// A thing that not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Requirement {
    /// Effective uid 0.
    Root,
    /// `/dev/fuse` that can be opened.
    Fuse,
    /// A program, by the environment variable that may name it and by its name on PATH.
    Program {
        /// Environment variable with the program's path.
        variable: &'static str,
        /// Its name on PATH.
        name: &'static str,
    },
}

/// versitygw, the real S3 server that the tests run against.
pub const VERSITYGW: Requirement = Requirement::Program { variable: "MILLRACE_VERSITYGW", name: "versitygw" };

/// nfs-ganesha, the real NFS server that the tests run against.
pub const GANESHA: Requirement = Requirement::Program { variable: "MILLRACE_GANESHA", name: "ganesha.nfsd" };

/// Hadoop's NameNode and DataNodes, the real HDFS that the tests run against.
pub const HADOOP: Requirement = Requirement::Program { variable: "MILLRACE_HADOOP", name: "millrace-hadoop" };

impl Requirement {
    /// Why it is not met, in words that say how to meet it; `None` where it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Requirement::Root if nix::unistd::geteuid().is_root() => None,
            Requirement::Root => Some("not root".into()),
            Requirement::Fuse => match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
                Ok(_) => None,
                Err(error) => Some(format!("/dev/fuse: {error}")),
            },
            Requirement::Program { variable, name } => match program(variable, name) {
                Some(_) => None,
                None => Some(format!("no {name} on PATH or in {variable} (`make tools` provides it)")),
            },
        }
    }
}

/// True where all of `needs` are met. Else prints what is missing, or fails under `MILLRACE_REQUIRE_ALL=1`.
///
/// # Panics
/// Under `MILLRACE_REQUIRE_ALL=1`, where something is missing.
pub fn met(needs: &[Requirement]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join("; ");
    assert!(std::env::var_os("MILLRACE_REQUIRE_ALL").is_none(), "required here but missing: {missing}");
    eprintln!("skipped: {missing}");
    false
}

/// How many, or for how many seconds: `usual`, unless `variable` asks for more, as `make faults` does.
///
/// # Panics
/// Where the variable holds no number.
pub fn size(variable: &str, usual: usize) -> usize {
    let Some(value) = std::env::var_os(variable) else { return usual };
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.unwrap_or_else(|| panic!("{variable} is {value:?} and not a number"))
}

/// Where a program is: what `variable` names, else the first `name` on PATH.
pub fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    on_path(name)
}

/// The first program of that name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}
