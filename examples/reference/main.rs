//! Generates documentation from the code: man pages and completions from the command line, the reference of counters from
//! their definitions.
//!
//! ```text
//! cargo run --example reference -- pages OUTDIR                 # OUTDIR/man, OUTDIR/completions
//! cargo run --example reference -- counters docs/counters.md    # a test fails when the page is out of date
//! ```

mod counters;
mod man;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use iou_fast::cli::Cli;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Parser)]
enum Generate {
    /// Man pages and completions.
    Pages {
        /// The directory for them; it is made if it does not exist.
        directory: PathBuf,
    },
    /// The reference of counters.
    Counters {
        /// The file to write.
        file: PathBuf,
    },
}

fn main() -> io::Result<()> {
    match Generate::parse() {
        Generate::Pages { directory } => pages(&directory),
        Generate::Counters { file } => fs::write(file, counters::page()),
    }
}

fn pages(directory: &Path) -> io::Result<()> {
    let (manuals, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&manuals, &completions] {
        fs::create_dir_all(directory)?;
    }
    for (name, page) in man::pages() {
        fs::write(manuals.join(name), page)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "iou-fast", &completions)?;
    }
    Ok(())
}
