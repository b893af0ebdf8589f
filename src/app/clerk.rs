//! `millrace clerk`: keeps one store's records for the process that starts it, which is at the other end of its standard
//! input.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::Context;

use super::{log_in_to, on_one_thread};
use crate::auth::memory::wipe_what_is_freed;
use crate::backend::records::apart;
use crate::observability::{self, Log};

/// Threads of the runtime: one may be held up by a login while the other says so.
const THREADS: usize = 2;

/// Serves until the other side has ended.
///
/// # Errors
/// What cannot be told over the socket: it is not that of a process that starts clerks.
pub(super) fn run() -> anyhow::Result<()> {
    wipe_what_is_freed();
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let opened = on_one_thread(async { Ok(apart::open(socket).await) })?;
    let (socket, opening) = opened.context("`millrace clerk` is started by the controller, not by hand")?;
    observability::install(&Log { filter: opening.log_filter.clone(), json: opening.log_json })?;
    log_in_to(&opening.store)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(apart::serve(socket, opening));
    // What hangs must not hold the process.
    runtime.shutdown_background();
    Ok(outcome?)
}
