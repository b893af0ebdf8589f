//! The composition root: builds the parts from words and joins them, one short function a role.

mod check_config;
mod clerk;
mod columns;
mod control;
mod controller;
mod events;
mod locate;
mod monitor;
mod node;
mod place;
mod records;
#[cfg(feature = "sandbox")]
mod serve_s3;
mod status;
#[cfg(feature = "sandbox")]
mod trial;
mod worker;

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::backend::hdfs::kerberos;
use crate::backend::records::apart::Clerks;
use crate::cli::{Cli, Command, LogFormat, Plugin};
use crate::observability::audit::Audit;
use crate::observability::{self, Log};

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for the person at the terminal.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let log = Log { filter: cli.log.log_level, json: cli.log.log_format == LogFormat::Json };
    // These learn from whoever starts them how to log.
    if !matches!(cli.command, Command::Worker | Command::Clerk) {
        observability::install(&log)?;
    }
    match cli.command {
        Command::Controller(words) => block_on(controller::run(&words, clerks(log)?)),
        Command::Node(words) => block_on(node::run(&words, log)),
        Command::Worker => worker::run(),
        Command::Clerk => clerk::run(),
        #[cfg(feature = "sandbox")]
        Command::Try(words) => trial::run(&words),
        #[cfg(feature = "sandbox")]
        Command::ServeS3 { file } => block_on(serve_s3::run(&file)),
        Command::CheckConfig(words) => block_on(check_config::run(&words, &clerks(log)?)),
        Command::Records(words) => block_on(records::run(&words, &clerks(log)?)),
        Command::Locate(words) => locate::run(&words),
        Command::Status(words) => block_on(status::run(&words)),
        Command::LogLevel(words) => block_on(status::log_level(&words)),
    }
}

/// How processes are started that keep records, which log like this one.
fn clerks(log: Log) -> anyhow::Result<Clerks> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(Clerks { program, log_filter: log.filter, log_json: log.json })
}

/// Has this process log in where `store` demands Kerberos, and nowhere else; to be called before there is a second thread.
///
/// # Errors
/// Where Kerberos' configuration cannot be kept in memory.
fn log_in_to(store: &backend::Config) -> anyhow::Result<()> {
    let Some(realm) = store.realm() else { return Ok(()) };
    kerberos::load();
    #[expect(unsafe_code, reason = "the environment is changed")]
    // SAFETY: this process has one thread, as the roles that come here see to.
    unsafe { kerberos::settle(realm, None) }.context("Kerberos' configuration")
}

/// What must be done while the process has one thread.
fn on_one_thread<T>(first: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(first)
}

/// Each role starts its own runtime: some must do things first while the process has one thread.
fn block_on<T>(role: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(role);
    // A name that is being resolved would hold the process up.
    runtime.shutdown_background();
    outcome
}

/// Cancelled by SIGTERM and SIGINT.
fn until_told_to_stop() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        stop.cancel();
    });
    Ok(token)
}

/// The audit trail of the plugin called `plugin`, of the node or cluster `instance`.
fn audit(plugin: &'static str, instance: &str, words: &Plugin) -> anyhow::Result<Audit> {
    let audit = Audit::to_log(plugin, instance);
    let Some(file) = &words.audit_log else { return Ok(audit) };
    let audit = audit.to_file(file).with_context(|| format!("cannot append to the audit log {}", file.display()))?;
    let (mut hang_up, rotated) = (signal(SignalKind::hangup())?, audit.clone());
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            rotated.reopen();
        }
    });
    Ok(audit)
}
