//! The project's own tasks: `cargo xtask lab`, `test`, `soak`, `fuzz`, `bare`, `package`, `instructions`, `words`, `spec`
//! and `setup`.
//!
//! Each installs what is missing first, so that a fresh machine with a Rust toolchain is enough.

mod bare;
#[cfg(test)]
mod docs;
mod error;
mod fuzz;
mod instructions;
mod lab;
mod machine;
mod package;
mod setup;
mod shell;
mod soak;
mod spec;
mod test;
mod vm;
mod words;

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
    /// Builds iou-fast and runs `iou-fast lab`: simulated routers in network namespaces, each pinged from the wire.
    Lab(lab::Options),
    /// Runs every test, the end-to-end tests as root.
    Test(test::Options),
    /// Faults at random while frames flow in all directions, for hours.
    Soak(soak::Options),
    /// Feeds hostile input to every part that reads any: the targets in fuzz/, from their corpora on.
    Fuzz(fuzz::Options),
    /// Builds the Debian package, with man pages, completions and the unit of the service: target/debian.
    Package(package::Options),
    /// Counts a worker's instructions per frame and compares them with those of the last change that was meant to change
    /// them: the gate for a change of the fast path. Needs root.
    Instructions(instructions::Options),
    /// Runs the README's commands on a minimal Debian in a directory of its own: nothing that they need is there by chance.
    Bare(bare::Options),
    /// Finds words that the project has given up, with the word that docs/glossary.md has in the place of each.
    Words,
    /// Compares SPECIFICATION.md with the promises at the tests, or writes it.
    Spec(spec::Options),
    /// Installs what building and testing need, nothing else.
    Setup {
        /// Installs nothing, and prints the list as a Markdown table, with the names of Debian, Fedora and Arch.
        #[arg(long)]
        list: bool,
    },
}

fn main() -> ExitCode {
    fuzz::rustc();
    let outcome = match Cli::parse().task {
        Task::Lab(options) => lab::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Package(options) => package::run(&options),
        Task::Instructions(options) => instructions::run(&options),
        Task::Bare(options) => match bare::run(&options) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Task::Words => words::run(),
        Task::Setup { list: true } => {
            print!("{}", setup::table());
            Ok(true)
        }
        Task::Setup { list: false } => setup::install(setup::For::Tests).map(|()| true),
        Task::Spec(options) => spec::run(&options),
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
