//! `iou-fast` in a process whose allocator counts. The product's own binary carries no such thing.

use crate::Result;
use crate::board::{Board, Word};
use crate::sys::Counting;
use clap::Parser;
use iou_fast::cli::Args;
use iou_fast::control::{Forwarder, Options, labs};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// [`super::Role::Counted`]: as `main` of the product. Of its threads the workers count, the control thread does not.
pub(super) fn forward(board: &Board, arguments: &[String]) -> Result<()> {
    Counting::except_this_thread();
    let args = Args::parse_from(std::iter::once("iou-fast").chain(arguments.iter().map(String::as_str)));
    let cpus = args.cpus.as_ref().map_or_else(Vec::new, |list| list.0.clone());
    let labs::Prepared { plan, folders, .. } = labs::prepare(&args, cpus.len().max(1))?;
    let options = Options {
        cpus,
        xdp_mode: args.xdp_mode.into(),
        copy_mode: args.copy_mode.into(),
        poll: args.poll.into(),
        exclusive: args.exclusive,
        state_dir: args.state_dir,
    };
    let (stop, _never) = UnixStream::pair()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            Counting::except_this_thread();
            loop {
                board.set(Word::Allocations, Counting::so_far());
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut forwarder = Forwarder::start(plan, folders, &options)?;
        super::ready();
        forwarder.run(&stop)?;
        Ok(())
    })
}
