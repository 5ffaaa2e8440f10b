//! `cargo xtask lab`: builds iou-fast and runs `iou-fast lab` as root.

use crate::error::{Error, Result};
use crate::{setup, shell};
use std::os::unix::process::CommandExt;
use testbed::Bin;

/// Options of `cargo xtask lab`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Installs nothing.
    #[arg(long)]
    no_setup: bool,
    /// Options of `iou-fast lab`, such as --routers 1000, --keep or --down.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    lab: Vec<String>,
}

/// Becomes the lab; returns only if it cannot be started.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !options.no_setup {
        setup::install(setup::For::Lab)?;
    }
    shell::run(&mut shell::cargo(&["build", "--release", "--package", "iou-fast"]))?;
    let program = Bin::find_in_profile("release", "iou-fast")?;
    if !shell::can_be_root() {
        return Err(Error::NoRoot("the lab (network namespaces, XDP)"));
    }
    // It is built as the user and run as root.
    let mut command = shell::as_root(&program.to_string_lossy());
    let source = command.arg("lab").args(&options.lab).exec();
    Err(shell::start_error(&command, source))
}
