//! What a worker tells the control thread.

use crate::sys::eventfd::wake;
use crossbeam::channel::Sender;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a worker tells the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A router's socket is gone.
    RouterGone {
        /// Index in the plan.
        router: usize,
        /// Number of the connection.
        connection: u64,
    },
    /// A worker has carried out [`Command::Event`](super::Command::Event).
    Alive {
        /// Its number.
        worker: usize,
        /// The command's number.
        round: u64,
    },
}

/// By what a worker sends events to the control thread: a channel, and an eventfd that wakes it.
#[derive(Clone, Debug)]
pub struct EventSender {
    /// The channel. Unbounded, because events are rare and none may be lost.
    pub channel: Sender<Event>,
    /// What the control thread waits on.
    pub wake: Arc<OwnedFd>,
}

impl EventSender {
    pub(super) fn send(&self, event: Event) {
        if self.channel.send(event).is_ok() {
            wake(&self.wake);
        }
    }
}
