//! What a worker is made of, and what is left of it.

use super::event::EventSender;
use super::pool::Pool;
use super::sockets::{NicSockets, SocketResult};
use crate::ether::control_frames::Blocked;
use crate::lan::Lan;
use crate::plan::Plan;
use crate::stats::{Latencies, WorkerCounts};
use crate::sys::ringbuf::RingBuffer;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// When a worker that found nothing to do looks again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// When the kernel wakes it.
    Adaptive,
    /// At once: a core is given for the last microseconds.
    Busy,
}

/// The ring buffer of the frames that the XDP program copies for a worker.
pub struct CopyRing {
    /// The ring buffer.
    pub ring: RingBuffer,
    /// The descriptor to wait on.
    pub fd: OwnedFd,
}

/// A worker's part of a NIC.
pub struct NicPart {
    /// The LAN, in the order of the plan.
    pub lan: Arc<Lan>,
    /// Its sockets.
    pub sockets: NicSockets,
    /// Broadcast and multicast frames, and unicast to unknown addresses.
    pub copies: CopyRing,
}

/// What a worker is made of.
pub struct Setup {
    /// Its number.
    pub index: usize,
    /// Everything, connected.
    pub plan: Arc<Plan>,
    /// How it waits.
    pub poll: Poll,
    /// Control frames from routers that are kept off the wire.
    pub blocked: Blocked,
    /// Its part of each NIC, in the order of the plan's LANs.
    pub nics: Vec<NicPart>,
    /// The pseudo sockets it reads: index in the plan, socket.
    pub pseudos: Vec<(usize, OwnedFd)>,
    /// Free chunks.
    pub pool: Arc<Pool>,
    /// Chunks that no backlog may take.
    pub reserve: usize,
    /// Frames may take several chunks.
    pub large: bool,
    /// Its counters.
    pub counts: Arc<WorkerCounts>,
    /// By what it sends events to the control thread.
    pub events_to_control: EventSender,
}

/// What is left of a worker that has ended.
pub struct WorkerResult {
    /// Latencies it measured.
    pub latencies: Latencies,
    /// Chunks it held, all of them given to the pool.
    pub chunks: usize,
    /// What was counted for each of its sockets.
    pub sockets: Vec<SocketResult>,
}
