//! The composition root: builds the parts from words and joins them, one short function a role.

mod records;

use anyhow::Context;

use crate::cli::{Cli, Command};

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for the person at the terminal.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match cli.command {
        Command::Records(words) => runtime.block_on(records::run(&words)),
    }
}
