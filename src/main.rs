//! The binary: reads the command line, runs, and says what went wrong.

use std::process::ExitCode;

use clap::Parser;
use millrace::auth::memory::Wiping;
use millrace::{app, cli};

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    match app::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
