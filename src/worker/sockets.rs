//! A worker's AF_XDP sockets on a NIC, as the control thread hands them over, and what is left of them.

use super::rings::Rings;
use af_xdp::{RxStatistics, Socket};
use std::sync::Arc;

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

/// What the XDP program had put into an RX ring's in-flight credits when it was last looked at; both wrap.
#[derive(Clone, Copy, Default, Debug)]
pub struct Steered {
    /// Chunks.
    pub chunks: u32,
    /// Frames.
    pub frames: u32,
}

/// What is left of an AF_XDP socket that was closed.
#[derive(Clone, Copy, Debug)]
pub struct SocketResult {
    /// The kernel's counts.
    pub statistics: RxStatistics,
    /// Descriptors in its rings that were invalid.
    pub faults: u64,
}
