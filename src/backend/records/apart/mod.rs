//! Records kept by a process of their own: where the store's client library has things that are the whole process's, as
//! HDFS' has logins and connections, two stores would meet in them.
//!
//! The process ([`serve`]) is started with its end of a socket pair as standard input, with an empty environment, when
//! something is first asked of it ([`Clerks`]). Whoever asks gives up what nobody waits for any more. One that dies, or
//! says nothing for [`SILENCE`] while it is asked something, is killed; what was asked of it is `Unavailable`, and what is
//! asked next starts another.

mod calls;
mod carrier;
mod clerk;
#[cfg(test)]
mod tests;
mod words;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use self::carrier::Apart;
use self::words::{Line, VERSION};
use super::Records;
use crate::auth::Credential;
use crate::backend::Config;
use crate::backend::snapshots::Snapshots;

pub use clerk::{open, serve};
pub use words::Opening;

/// The subcommand that serves.
pub const COMMAND: &str = "clerk";

/// How long a process may say nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// How such processes are started.
#[derive(Debug, Clone)]
pub struct Clerks {
    /// The binary.
    pub program: PathBuf,
    /// What they log, as `tracing_subscriber::EnvFilter` reads it.
    pub log_filter: String,
    /// JSON rather than text.
    pub log_json: bool,
}

impl Clerks {
    /// The control plane's view of a whole store that has snapshots, used as `credential`, by a process that is started when it
    /// is needed, and ends with both of what this returns. Asks nothing.
    pub fn open(&self, store: &Config, credential: &Credential) -> (Arc<dyn Records>, Arc<dyn Snapshots>) {
        let (clerks, store, credential) = (self.clone(), store.clone(), credential.clone());
        let apart = Apart::new(SILENCE, move || {
            let opening = Opening {
                version: VERSION.into(),
                store: store.clone(),
                credential: credential.clone(),
                log_filter: clerks.log_filter.clone(),
                log_json: clerks.log_json,
            };
            let program = clerks.program.clone();
            Box::pin(async move {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let child = Command::new(program)
                    .arg(COMMAND)
                    .env_clear()
                    .current_dir("/")
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::null())
                    .kill_on_drop(true)
                    .spawn()?;
                let mut line = Line::new(tokio::net::UnixStream::from_std(ours)?);
                line.send(&opening).await?;
                Ok((line, Some(child)))
            })
        });
        (Arc::new(apart.clone()), Arc::new(apart))
    }
}
