//! The project's own tasks: `cargo xtask lab`, `cargo xtask test`, `cargo xtask setup`.
//!
//! Each installs what is missing first, so that a fresh machine with a Rust toolchain is enough.

mod error;
mod lab;
mod setup;
mod shell;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, shows and tests iou-fast, and installs what that needs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// A classroom in network namespaces: simulated routers on a network card, each of them pinged from the wire.
    Lab(lab::Options),
    /// Runs every test, the end-to-end tests as root.
    Test(test::Options),
    /// Installs what building and testing need, nothing else.
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Lab(options) => lab::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Setup => setup::install(setup::For::Tests).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, error::Error::Interrupted) { 130 } else { 1 })
        }
    }
}
