//! The `loadtest` binary.

use std::process::ExitCode;

use clap::Parser as _;
use dunlin_loadtest::cli::{Cli, run};

/// The allocator of musl takes a lock that all threads share.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}: {error}", error.code());
            ExitCode::from(error.exit_code())
        }
    }
}
