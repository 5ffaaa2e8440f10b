//! From the wire: what the XDP program steered into a NIC's RX rings is sorted into runs, one for each router; what it copied
//! into the ring buffer goes to all of them.

use super::batch::{BATCH, FLOOD_SENDS};
use super::clock;
use super::copied::CopiedBatch;
use super::flood::{self, OwnPorts};
use super::poller::Poller;
use super::pool::ChunkCache;
use super::ports::FloodPort;
use super::request_response::{Direction, RequestResponse};
use super::rings::Rings;
use super::router_egress::RouterEgress;
use super::router_queue::{Cast, Datagram, Origin};
use super::send::Shared;
use super::sockets::Steered;
use crate::ether::checksum;
use crate::iou::header;
use crate::lan::Lan;
use crate::stats::{Fault, WorkerCounts};
use crate::steer::layout::{HEAD, MAX_STEERED, STAMP, STAMP_BUM, STEER_CHUNK, Stamp};
use crate::sys::mmsg::CHUNKS;
use crate::sys::ringbuf::RingBuffer;
use crate::sys::shared::SteerCredits;
use af_xdp::{Fragment, Rx, RxStatistics};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Frames taken at a time from an RX ring, before broadcast and multicast frames get their turn: the more there are, the
/// longer the runs to each of many routers.
const RX_BATCH: usize = 8 * BATCH;
/// Fragments that a batch may have: its last frame may go on.
pub(super) const RX_FRAGMENTS: usize = RX_BATCH + CHUNKS;
/// Frames whose memory is fetched ahead of the one that is looked at.
const AHEAD: usize = 8;

/// A queue of a NIC, as what frames are received from.
pub(super) struct RxQueue {
    rx: Rx,
    rings: Arc<Rings>,
    /// Chunks received and not yet replaced in the fill ring.
    fill_deficit: usize,
    /// Number of its in-flight credits, for [`SteerShared::credits`](crate::sys::shared::SteerShared).
    credits: usize,
    /// Chunks received in all, as the credits count them; those that expired are among them.
    received: u32,
    /// Chunks that the XDP program had put into the credits when it was last looked at.
    steered: u32,
    /// Frames received in all, as the credits count them.
    frames: u32,
}

impl RxQueue {
    pub(super) fn new(rx: Rx, rings: Arc<Rings>, credits: usize, before: Steered) -> Self {
        let Steered { chunks, frames } = before;
        Self { rx, rings, fill_deficit: 0, credits, received: chunks, steered: chunks, frames }
    }

    pub(super) fn rx(&self) -> &Rx {
        &self.rx
    }

    pub(super) fn rings(&self) -> &Rings {
        &self.rings
    }

    fn credits<'a>(&self, lan: &'a Lan) -> Option<&'a SteerCredits> {
        lan.tables.shared.credits.get(self.credits)
    }

    /// Replaces in the fill ring what was received, and returns as many credits to the XDP program.
    fn refill(&mut self, lan: &Lan, cache: &mut ChunkCache) {
        self.fill_deficit -= self.rings.refill(cache, self.fill_deficit);
        if let Some(credits) = self.credits(lan) {
            credits.returned.store(self.received.wrapping_sub(self.fill_deficit as u32), Release);
        }
    }

    /// Frames that took credits and have not come since the last look are lost, as when the kernel takes a NIC's rings away:
    /// they do not hold their credits for ever.
    fn expire_in_flight(&mut self, lan: &Lan) {
        let Some(credits) = self.credits(lan) else { return };
        let before = std::mem::replace(&mut self.steered, credits.steered.load(Acquire));
        if before == self.steered && self.fill_deficit == 0 && self.rx.is_empty() {
            self.received = self.steered;
            credits.returned.store(self.received, Release);
        }
    }

    /// Frames that took credits, never came, and are not in the kernel's `statistics`: it does not count what comes for the
    /// socket of a NIC that was taken away from it.
    pub(super) fn unaccounted(&self, lan: &Lan, statistics: &RxStatistics) -> u64 {
        let Some(credits) = self.credits(lan) else { return 0 };
        let missing = credits.frames.load(Acquire).wrapping_sub(self.frames).cast_signed();
        u64::from(missing.max(0).unsigned_abs()).saturating_sub(statistics.dropped + statistics.ring_full)
    }
}

/// A NIC, as what frames are received from.
pub(super) struct NicRx {
    pub(super) lan: Arc<Lan>,
    pub(super) queues: Vec<RxQueue>,
    /// Broadcast and multicast frames, and unicast to unknown addresses, that the XDP program copied for this worker.
    pub(super) copies: RingBuffer,
    /// This worker's ports on the LAN.
    pub(super) ports: Vec<FloodPort>,
    pub(super) flood: Option<FloodPort>,
}

impl NicRx {
    /// True if something is in a ring.
    pub(super) fn has_frames(&mut self) -> bool {
        !self.copies.is_empty() || self.queues.iter_mut().any(|queue| !queue.rx.is_empty())
    }

    /// True if a fill ring lacks chunks that were received.
    pub(super) fn has_fill_deficit(&self) -> bool {
        self.queues.iter().any(|queue| queue.fill_deficit > 0)
    }

    /// Tries again to replace what was received.
    pub(super) fn refill(&mut self, cache: &mut ChunkCache) {
        for queue in self.queues.iter_mut().filter(|queue| queue.fill_deficit > 0) {
            queue.refill(&self.lan, cache);
        }
    }

    /// Lets credits expire, of frames that have not come since the last time.
    pub(super) fn expire_in_flight(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.expire_in_flight(&self.lan));
    }
}

/// What the stage keeps from one turn to the next, for its capacity.
pub(super) struct Scratch {
    fragments: Vec<Fragment>,
    batch: CopiedBatch,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { fragments: Vec::with_capacity(RX_FRAGMENTS), batch: CopiedBatch::default() }
    }
}

/// What came in from NICs in a turn of the loop.
#[derive(Default)]
pub(super) struct Arrived {
    /// Frames for routers.
    pub(super) frames: usize,
    /// For how many routers.
    pub(super) routers: usize,
}

/// What a frame from the wire meets on its way, for the time of a turn.
pub(super) struct NicIngress<'a> {
    pub(super) nic: &'a mut NicRx,
    pub(super) scratch: &'a mut Scratch,
    /// The chunks of one large frame; empty in between.
    pub(super) parts: &'a mut Vec<Fragment>,
    pub(super) egress: &'a mut RouterEgress,
    pub(super) cache: &'a mut ChunkCache,
    pub(super) poller: &'a Poller,
    pub(super) counts: &'a WorkerCounts,
    pub(super) request_response: &'a mut RequestResponse,
    pub(super) arrived: &'a mut Arrived,
}

/// Chunks of a frame that takes several.
struct ChunkCount {
    /// As the driver filled them.
    received: usize,
    /// As the XDP program reckoned, which fills them in its own way.
    reckoned: usize,
}

impl NicIngress<'_> {
    /// Takes what arrived to the routers: unicast first, then a bounded share of the broadcast and multicast frames, so that
    /// a storm of those delays unicast by little. True if there was anything.
    pub(super) fn receive(&mut self) -> bool {
        let mut busy = false;
        for queue in 0..self.nic.queues.len() {
            busy |= self.receive_steered(queue);
        }
        busy | self.receive_copies()
    }

    /// Takes a batch from an RX ring to the routers. True if there was anything.
    fn receive_steered(&mut self, queue: usize) -> bool {
        let mut fragments = std::mem::take(&mut self.scratch.fragments);
        let rx = &mut self.nic.queues[queue];
        let count = rx.rx.receive(&mut fragments, RX_BATCH);
        if count > 0 {
            self.arrived.frames += count;
            let mut frames = count as u64;
            rx.fill_deficit += count;
            rx.received = rx.received.wrapping_add(count as u32);
            let now = clock::monotonic();
            self.request_response.saw(Direction::ToRouter, now);
            for fragment in fragments.iter().take(AHEAD) {
                self.cache.umem().prefetch(fragment);
            }
            let mut rest = fragments.drain(..);
            while let Some(fragment) = rest.next() {
                if let Some(ahead) = rest.as_slice().get(AHEAD - 1) {
                    self.cache.umem().prefetch(ahead);
                }
                if fragment.continues() {
                    let ChunkCount { received, reckoned } = self.sort_large(fragment, &mut rest, now);
                    frames -= received as u64 - 1;
                    let rx = &mut self.nic.queues[queue];
                    rx.received = rx.received.wrapping_sub(received as u32).wrapping_add(reckoned as u32);
                } else {
                    self.sort(fragment, now);
                }
            }
            drop(rest);
            self.counts.entries.from_rings.add(frames);
            let runs = self.egress.send_runs(self.cache, self.poller);
            self.arrived.routers = self.arrived.routers.max(runs);
            let NicRx { lan, queues, .. } = &mut *self.nic;
            queues[queue].frames = queues[queue].frames.wrapping_add(frames as u32);
            queues[queue].refill(lan, self.cache);
        }
        self.scratch.fragments = fragments;
        count > 0
    }

    /// The stamp in front of a steered fragment, unless it is invalid.
    fn stamp(&self, fragment: &Fragment) -> Option<Stamp> {
        let stamp = Stamp::read(self.cache.umem().data(fragment)).filter(|_| fragment.len() > HEAD)?;
        let known = usize::from(stamp.router()) < self.egress.routers() || stamp.router() == STAMP_BUM;
        known.then_some(stamp)
    }

    /// Completes the checksum of a steered frame and puts it into its router's run.
    fn sort(&mut self, fragment: Fragment, now: u64) {
        let Some(stamp) = self.stamp(&fragment) else {
            self.counts.fault(Fault::BadDescriptor, 1);
            return self.cache.put(fragment.into_chunk());
        };
        let umem = self.cache.umem();
        let time = stamp.time(now);
        let mut fragment = fragment.skip(STAMP);
        checksum::complete(&mut umem.data_mut(&mut fragment)[header::LEN..]);
        if stamp.router() != STAMP_BUM {
            return self.egress.queue(usize::from(stamp.router()), datagram(fragment, time));
        }
        self.nic.lan.heard(&umem.data(&fragment)[header::LEN..], time);
        // With --exclusive broadcast and multicast frames come by the RX ring: to each port, each time behind its header.
        self.counts.entries.group_from_rings.add(1);
        self.counts.entries.spread.add(self.nic.ports.len() as u64);
        for port in &self.nic.ports {
            let umem = self.cache.umem().clone();
            let bytes = umem.data_mut(&mut fragment);
            bytes[..header::LEN].copy_from_slice(&port.header);
            let datagram = Shared { parts: &[&*bytes], time, origin: Origin::Wire };
            self.egress.send_shared(port.router, datagram, self.cache, self.poller);
        }
        self.cache.put(fragment.into_chunk());
    }

    /// The same for a frame that takes several chunks, of which `first` is the first.
    #[cold]
    fn sort_large(
        &mut self,
        first: Fragment,
        rest: &mut impl Iterator<Item = Fragment>,
        now: u64,
    ) -> ChunkCount {
        let stamp = self.stamp(&first);
        let mut len = first.len();
        let parts = &mut *self.parts;
        parts.push(first.skip(STAMP));
        while parts.last().is_some_and(Fragment::continues) {
            let Some(next) = rest.next() else { break };
            len += next.len();
            parts.push(next);
        }
        let received = parts.len();
        let in_front = HEAD - HEAD.min(self.nic.lan.tables.shared.credit_head.load(Relaxed) as usize);
        let reckoned = len.saturating_sub(in_front).div_ceil(STEER_CHUNK);
        let umem = self.cache.umem().clone();
        if let Some(stamp) = stamp
            && let [first, others @ ..] = parts.as_mut_slice()
            && others.len() < CHUNKS
        {
            let time = stamp.time(now);
            let mut slices = [&[][..]; CHUNKS];
            for (slice, fragment) in slices[1..].iter_mut().zip(&*others) {
                *slice = umem.data(fragment);
            }
            checksum::complete_in(&mut umem.data_mut(first)[header::LEN..], &slices[1..received]);
            if stamp.router() != STAMP_BUM {
                for fragment in parts.drain(..) {
                    self.egress.queue(usize::from(stamp.router()), datagram(fragment, time));
                }
            } else {
                self.nic.lan.heard(&umem.data(first)[header::LEN..], time);
                self.counts.entries.group_from_rings.add(1);
                self.counts.entries.spread.add(self.nic.ports.len() as u64);
                for port in &self.nic.ports {
                    umem.data_mut(first)[..header::LEN].copy_from_slice(&port.header);
                    let mut slices = slices;
                    slices[0] = umem.data(first);
                    let datagram = Shared { parts: &slices[..received], time, origin: Origin::Wire };
                    self.egress.send_shared(port.router, datagram, self.cache, self.poller);
                }
            }
        } else {
            self.counts.fault(Fault::BadDescriptor, 1);
        }
        self.parts.drain(..).for_each(|fragment| self.cache.put(fragment.into_chunk()));
        ChunkCount { received, reckoned }
    }

    /// Sends a batch of copied frames to this worker's routers. True if there was anything.
    fn receive_copies(&mut self) -> bool {
        let NicRx { lan, copies, ports, flood, .. } = &mut *self.nic;
        let count = copies.peek_up_to(FLOOD_SENDS / ports.len().max(1));
        if count == 0 {
            return false;
        }
        let ports = OwnPorts { all: ports, flood: flood.as_ref() };
        let (batch, counts) = (&mut self.scratch.batch, self.counts);
        flood::send_copies(batch, copies, count, ports, lan, counts, self.egress, self.cache, self.poller);
        copies.release();
        self.arrived.frames += count;
        true
    }
}

/// A frame, or a chunk of one, for the router that the XDP program steered it to.
fn datagram(fragment: Fragment, time: u64) -> Datagram {
    Datagram { fragment, time, origin: Origin::Wire, cast: Cast::Unicast }
}

const _: () = assert!(MAX_STEERED + HEAD + 256 == af_xdp::CHUNK_SIZE);
