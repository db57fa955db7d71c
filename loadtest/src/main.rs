//! The `loadtest` binary.

use std::process::ExitCode;

use clap::Parser as _;
use dunlin_loadtest::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}: {error}", error.code());
            ExitCode::from(error.exit_code())
        }
    }
}
