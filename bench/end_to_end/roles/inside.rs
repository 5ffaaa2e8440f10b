//! `iou-fast` in a process that tells what goes on inside: its allocator counts, its workers' counters can be read.
//! The product's own binary carries no such thing.

use crate::Result;
use crate::board::{Board, Word};
use crate::sys::Counting;
use clap::Parser;
use iou_fast::cli::Cli;
use iou_fast::control::{Forwarder, Options, labs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// [`super::Role::Inside`]: as `main` of the product. Of its threads the workers count, the control thread does not.
pub(super) fn forward(board: &Board, arguments: &[String]) -> Result<()> {
    Counting::except_this_thread();
    let args = Cli::parse_from(std::iter::once("iou-fast").chain(arguments.iter().map(String::as_str))).start;
    let cpus = args.cpus.as_ref().map_or_else(Vec::new, |list| list.0.clone());
    let prepared = labs::prepare(&args.lab(), cpus.len().max(1))?;
    let options = Options {
        cpus,
        xdp_mode: args.xdp_mode.into(),
        copy_mode: args.copy_mode.into(),
        poll: args.poll.into(),
        exclusive: args.exclusive,
        state_dir: args.state_dir.unwrap_or_else(iou_fast::nic::lock::state_dir),
        blocked: args.block.unwrap_or_default(),
        netl1_dir: args.netl1_dir,
    };
    let ((stop, signalled), (again, _never)) = (UnixStream::pair()?, UnixStream::pair()?);
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, signalled)?;
    let mut forwarder = Forwarder::start(prepared, &options)?;
    let workers = forwarder.worker_counts();
    let end = AtomicBool::new(false);
    super::ready();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            Counting::except_this_thread();
            while !end.load(Relaxed) {
                board.set(Word::Allocations, Counting::so_far());
                for (word, counts) in [Word::FirstWorker, Word::SecondWorker].into_iter().zip(&workers) {
                    board.set(word, counts.to_routers.frames.get() + counts.to_nics.frames.get());
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let result = forwarder.run(&stop, &again);
        end.store(true, Relaxed);
        result
    });
    println!("{}", forwarder.stop());
    Ok(result?)
}
