//! Puts Cisco IOU/IOL routers on a real network.

#![cfg_attr(
    not(test),
    warn(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "they panic where a stream is closed: see `output`"
    )
)]

use clap::Parser;
use iou_fast::cli::{Args, Cli, Command};
use iou_fast::control::{Forwarder, Notify, Options, labs};
use iou_fast::guard::Guard;
use iou_fast::nic::lock;
use iou_fast::privileges::{self, Role};
use iou_fast::{clean, lab, log, output, sim};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use tracing::Level;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _last = output::Finish;
    log::init(cli.start.log_format);
    let outcome = match cli.command {
        None => start(&cli.start).map(|()| true),
        Some(Command::Lab(options)) => lab::run(&options).map_err(Into::into),
        Some(Command::Clean(options)) => clean::run(&options),
        Some(Command::Sim(options)) => sim::command::run(options).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::line(Level::ERROR, &format!("iou-fast: {error}"));
            let interrupted = matches!(error.downcast_ref(), Some(lab::Error::Interrupted));
            ExitCode::from(if interrupted { 130 } else { 1 })
        }
    }
}

/// Forwards until SIGINT or SIGTERM.
fn start(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    log::report_panics();
    let lab = args.lab();
    let users = labs::users(&lab)?;
    privileges::drop_privileges(users.lab, users.caller)?;
    let state_dir = args.state_dir.clone().unwrap_or_else(lock::state_dir);
    // Now, because later there are threads. Declared first: it is dismissed when everything else has been given back.
    let guard = Guard::start(&state_dir)
        .inspect_err(|error| tracing::warn!("no iou-guard; after a kill -9 offloads stay off: {error}"))
        .ok();
    output::start(log::missing).map_err(|error| format!("cannot start a thread for the log: {error}"))?;
    let cpus = args.cpus.as_ref().map_or_else(Vec::new, |list| list.0.clone());
    let prepared = labs::prepare(&lab, cpus.len().max(1))?;
    for warning in &prepared.warnings {
        log::line(Level::INFO, warning);
    }
    // Before anything is taken: a signal from here on ends in a clean stop.
    let (stop, signalled) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    // Beyond a limit for the size of files, such as the log, writing fails: that is enough.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    let (again, signalled) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGHUP, signalled)?;
    let options = Options {
        cpus,
        xdp_mode: args.xdp_mode.into(),
        copy_mode: args.copy_mode.into(),
        poll: args.poll.into(),
        exclusive: args.exclusive,
        state_dir,
        blocked: args.block.unwrap_or_default(),
        netl1_dir: args.netl1_dir.clone(),
    };
    let mut forwarder = Forwarder::start(prepared, &options)?;
    forwarder.guard(guard);
    forwarder.notify(Notify::from_environment());
    privileges::confine(Role::Control)?;
    output::print(&format!("{}\nready\n", forwarder.describe().join("\n")));
    let result = forwarder.run(&stop, &again);
    let summary = forwarder.stop();
    output::print(&format!("{summary}\n"));
    Ok(result?)
}
