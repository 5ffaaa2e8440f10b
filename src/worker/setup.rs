//! What a worker is made of, and what is left of it.

use super::command::EventSender;
use super::nic_ingress::Steered;
use super::pool::Pool;
use super::rings::Rings;
use crate::ether::control_frames::Blocked;
use crate::lan::Lan;
use crate::plan::Plan;
use crate::stats::{Latencies, WorkerCounts};
use crate::sys::ringbuf::RingBuffer;
use af_xdp::{RxStatistics, Socket};
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

/// A worker's socket on a queue.
#[derive(Debug)]
pub struct QueueSocket {
    /// The socket.
    pub socket: Socket,
    /// What it shares with those of other workers.
    pub rings: Arc<Rings>,
    /// Number of its in-flight credits, for [`SteerShared::credits`](crate::sys::shared::SteerShared).
    pub credits: usize,
    /// What the XDP program had put into the credits before.
    pub steered: Steered,
}

/// A worker's sockets on a NIC.
#[derive(Debug)]
pub struct NicSockets {
    /// One on each queue. Frames leave by the one that can send, so that their order is kept.
    pub queues: Vec<QueueSocket>,
    /// They take frames of several chunks.
    pub scatter: bool,
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

/// What is left of an AF_XDP socket that was closed.
#[derive(Clone, Copy, Debug)]
pub struct SocketResult {
    /// The kernel's counts.
    pub statistics: RxStatistics,
    /// Descriptors in its rings that were invalid.
    pub faults: u64,
}
