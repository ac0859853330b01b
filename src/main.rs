//! Arguments -> run -> exit code; no logic.

use std::process::ExitCode;

use clap::Parser as _;

// Measured: a bare proxy uses 9 % less CPU with it than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    torana::cli::Cli::parse().run()
}
