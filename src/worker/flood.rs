//! One frame to many routers: frames that the XDP program copied, one that came from a ring (`--exclusive`), and those of a
//! router to the others of its LAN.

use super::copied::CopiedBatch;
use super::poller::Poller;
use super::pool::ChunkCache;
use super::ports::FloodPort;
use super::pseudo::Source;
use super::router_egress::RouterEgress;
use super::router_queue::Origin;
use super::send::Shared;
use crate::iou::header;
use crate::lan::Lan;
use crate::stats::{Fault, WorkerCounts};
use crate::steer::layout::CopyKind;
use crate::sys::mmsg::CHUNKS;
use crate::sys::ringbuf::RingBuffer;

/// This worker's ports on a LAN.
#[derive(Clone, Copy)]
pub(super) struct OwnPorts<'a> {
    /// Those that get broadcast and multicast frames.
    pub(super) all: &'a [FloodPort],
    /// The one that gets unicast to unknown addresses.
    pub(super) flood: Option<&'a FloodPort>,
}

/// Sends the broadcast and multicast frames among the first `count` records of `copies` to all of `ports`, and unicast to
/// unknown addresses to the one that gets it. `batch` is kept for its capacity.
#[expect(clippy::too_many_arguments, reason = "a batch, its destinations, and what a worker has one of")]
pub(super) fn send_copies(
    batch: &mut CopiedBatch,
    copies: &RingBuffer,
    count: usize,
    ports: OwnPorts<'_>,
    lan: &Lan,
    counts: &WorkerCounts,
    egress: &mut RouterEgress,
    cache: &mut ChunkCache,
    poller: &Poller,
) {
    batch.clear();
    if let Some(port) = ports.flood {
        batch.select(copies, count, CopyKind::Unknown);
        batch.remember(copies, lan);
        egress.send_copied(copies, batch, port, cache, poller);
    }
    let unknown = batch.len();
    batch.select(copies, count, CopyKind::Bum);
    batch.remember(copies, lan);
    for port in ports.all {
        egress.send_copied(copies, batch, port, cache, poller);
    }
    let invalid = count - unknown - batch.len();
    if invalid > 0 {
        counts.fault(Fault::BadDescriptor, invalid);
    }
    counts.entries.copies.add(count as u64);
    counts.entries.spread.add((unknown + batch.len() * ports.all.len() + invalid) as u64);
}

/// A datagram from a router, as it was read: the first of its chunks, and the others.
pub(super) struct Original<'a> {
    /// Its header is overwritten by that of each port.
    pub(super) first: &'a mut [u8],
    /// Empty slices where there are none.
    pub(super) others: [&'a [u8]; CHUNKS - 1],
    /// When it was read: `CLOCK_MONOTONIC`, ns.
    pub(super) time: u64,
}

/// Sends a datagram from `source` to those of `ports` that do not get it without us. Returns how many these are.
pub(super) fn replicate(
    original: Original<'_>,
    source: &Source,
    ports: &[FloodPort],
    egress: &mut RouterEgress,
    cache: &mut ChunkCache,
    poller: &Poller,
) -> u64 {
    let Original { first, others: [a, b, c], time } = original;
    let mut replicas = 0;
    for port in ports {
        if source.split_horizon.binary_search(&port.port).is_ok() {
            continue;
        }
        first[..header::LEN].copy_from_slice(&port.header);
        let parts = [&*first, a, b, c];
        // Most fit into one chunk.
        let parts = if a.is_empty() { &parts[..1] } else { &parts };
        let datagram = Shared { parts, time, origin: Origin::Router(source.router) };
        egress.send_shared(port.router, datagram, cache, poller);
        replicas += 1;
    }
    replicas
}
