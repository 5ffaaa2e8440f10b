//! `cargo xtask soak`: the soak test for any number of hours.

use crate::error::{Error, Result};
use crate::{setup, shell, test};
use std::time::{SystemTime, UNIX_EPOCH};

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long, in hours.
    #[arg(long, default_value_t = 2.0)]
    hours: f64,
    /// Which faults, in which order: what a failure has printed, to see it again. Drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; true if it passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    setup::install(setup::For::Tests)?;
    if !shell::can_be_root() {
        return Err(Error::NoRoot("the soak test"));
    }
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs() % 1_000_000);
    let seed = options.seed.unwrap_or_else(drawn);
    let seconds = (options.hours * 3600.0).max(10.0) as u64;
    println!("{seconds} s of faults, seed {seed}");
    let arguments = ["test", "--test", "soak", "--", "--nocapture"];
    let mut command = shell::cargo(&[test::runner(), &arguments].concat());
    command.env("IOU_FAST_SOAK_SECONDS", seconds.to_string()).env("IOU_FAST_SOAK_SEED", seed.to_string());
    let status = command.status().map_err(|source| shell::start_error(&command, source))?;
    Ok(status.success())
}
