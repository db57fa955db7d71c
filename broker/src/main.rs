//! The broker's process: everything is in the library.

use std::process::ExitCode;

/// The system's allocator on musl takes a lock that all threads share.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dunlin_broker::cli::run().into()
}
