//! Out of a NIC: frames into its TX ring, and kicks until the kernel has taken them.

use super::batch::{BATCH, batch_chunks};
use super::clock;
use super::pool::ChunkCache;
use super::ports::FloodPort;
use super::rings::Rings;
use crate::ether::Address;
use crate::fdb::AddressMap;
use crate::ids::PortId;
use crate::lan::Lan;
use crate::rate_limiter::RateLimiter;
use crate::stats::{self, DropReason, Fault, Latency, WorkerCounts};
use af_xdp::{Fragment, Kick, RingFull, Tx};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Addresses whose port a worker remembers, for each LAN.
const REMEMBERED: usize = 4096;
/// Kicks in a row that may have no effect before what is left stays for the next turn.
const IDLE_KICKS: usize = 64;
/// How long routers wait for a NIC that takes nothing, ns; then what they send is dropped and counted.
const PATIENCE: u64 = 1_000_000_000;

/// A worker's TX ring on a NIC.
pub(super) struct TxQueue {
    tx: Tx,
    /// It takes frames of several chunks.
    scatter: bool,
    /// Slots in the TX ring that a batch of datagrams may need, or all of them if that is fewer.
    batch: usize,
    /// The rings of the queue that `tx` is on.
    rings: Arc<Rings>,
}

impl TxQueue {
    /// By `tx`, with `scatter` also frames of several chunks; datagrams may be such now if `large`.
    pub(super) fn new(tx: Tx, rings: Arc<Rings>, scatter: bool, large: bool) -> Self {
        Self { batch: slots(&tx, scatter && large), tx, scatter, rings }
    }
}

/// A NIC, as what frames are sent to.
pub(super) struct NicEgress {
    pub(super) lan: Arc<Lan>,
    /// `None` while the NIC is not there.
    pub(super) tx_queue: Option<TxQueue>,
    /// All ports of the LAN.
    pub(super) ports: Vec<FloodPort>,
    /// Where in `ports` a port of the plan is.
    pub(super) port_at: FxHashMap<PortId, usize>,
    pub(super) flood: Option<usize>,
    /// When the frames of this batch came into their queue.
    times: Vec<Queued>,
    remembered: Remembered,
    /// Something is in the TX ring that the kernel has not taken.
    pub(super) unsent: bool,
    /// Since when that is so although the kernel was told, ns; 0 if it is not.
    behind_since: u64,
    /// What was put into the TX ring since it was last empty, and how many of those frames the driver dropped.
    pushed: Pushed,
    refused: u64,
    /// What the kernel says when it does not send may come with every batch.
    kick_errors: RateLimiter,
}

/// What is counted of a frame that goes into the TX ring.
#[derive(Clone, Copy)]
pub(super) struct TxFrame {
    /// Its length, without what it was padded by.
    pub(super) bytes: usize,
    /// When it came into the pseudo socket's queue: `CLOCK_REALTIME`, ns.
    pub(super) time: u64,
}

/// Frames that came into a queue at the same time.
struct Queued {
    /// `CLOCK_REALTIME`, ns.
    time: u64,
    frames: usize,
}

/// Frames put into a TX ring.
#[derive(Clone, Copy, Default)]
struct Pushed {
    frames: u64,
    bytes: u64,
}

/// A worker's memory of which address is behind which port.
struct Remembered {
    generation: u64,
    ports: AddressMap<Option<PortId>>,
}

impl NicEgress {
    /// Without sockets as yet.
    pub(super) fn new(lan: Arc<Lan>, ports: Vec<FloodPort>, flood: Option<usize>) -> Self {
        let mut nic = Self {
            lan,
            tx_queue: None,
            ports: Vec::new(),
            port_at: FxHashMap::default(),
            flood: None,
            times: Vec::with_capacity(BATCH),
            remembered: Remembered {
                generation: u64::MAX,
                ports: AddressMap::with_capacity_and_hasher(REMEMBERED, Default::default()),
            },
            unsent: false,
            behind_since: 0,
            pushed: Pushed::default(),
            refused: 0,
            kick_errors: RateLimiter::default(),
        };
        nic.set_ports(ports, flood);
        nic
    }

    /// Datagrams may take several chunks from now on.
    pub(super) fn take_large(&mut self) {
        if let Some(tx_queue) = &mut self.tx_queue {
            tx_queue.batch = slots(&tx_queue.tx, tx_queue.scatter);
        }
    }

    /// The LAN has these ports from now on.
    pub(super) fn set_ports(&mut self, ports: Vec<FloodPort>, flood: Option<usize>) {
        self.port_at = ports.iter().enumerate().map(|(at, port)| (port.port, at)).collect();
        (self.ports, self.flood) = (ports, flood);
    }

    /// True if the NIC is slower than the routers: what they send waits in their sockets rather than be dropped.
    pub(super) fn is_behind(&self, now: u64) -> bool {
        self.unsent && self.lan.up.load(Relaxed) && now < self.behind_since + PATIENCE
    }

    /// True if something of the TX ring is still to be sent; [`transmit`](Self::transmit) then goes on with it.
    pub(super) fn is_sending(&mut self) -> bool {
        self.unsent |= self.tx_queue.as_mut().is_some_and(|tx_queue| tx_queue.tx.pending() > 0);
        self.unsent && self.lan.up.load(Relaxed)
    }

    /// True if it takes frames of several chunks.
    pub(super) fn takes_large(&self) -> bool {
        self.tx_queue.as_ref().is_some_and(|tx_queue| tx_queue.scatter)
    }

    /// Puts the frame in `fragment` into the TX ring; where the ring is full, the kernel is told to send first.
    #[inline]
    pub(super) fn send(
        &mut self,
        mut fragment: Fragment,
        frame: TxFrame,
        cache: &mut ChunkCache,
        counts: &WorkerCounts,
        latency: &mut Latency,
    ) -> Result<(), DropReason> {
        for last in [false, true] {
            let result = match &mut self.tx_queue {
                Some(tx_queue) => tx_queue.tx.push(fragment),
                None => Err(RingFull(fragment)),
            };
            match result {
                Ok(()) => break,
                Err(RingFull(back)) if last => {
                    cache.put(back.into_chunk());
                    return Err(DropReason::NicRefused);
                }
                Err(RingFull(back)) => {
                    fragment = back;
                    counts.fault(Fault::TxRingFull, 1);
                    self.transmit(cache, counts, latency);
                }
            }
        }
        self.pushed(frame);
        Ok(())
    }

    /// The same for a frame of several chunks, `parts`, none of which is left there.
    #[cold]
    pub(super) fn send_large(
        &mut self,
        parts: &mut Vec<Fragment>,
        frame: TxFrame,
        cache: &mut ChunkCache,
        counts: &WorkerCounts,
        latency: &mut Latency,
    ) -> Result<(), DropReason> {
        for last in [false, true] {
            if self.tx_queue.as_mut().is_some_and(|tx_queue| tx_queue.tx.push_frame(parts)) {
                break;
            }
            if last {
                parts.drain(..).for_each(|fragment| cache.put(fragment.into_chunk()));
                return Err(DropReason::NicRefused);
            }
            counts.fault(Fault::TxRingFull, 1);
            self.transmit(cache, counts, latency);
        }
        self.pushed(frame);
        Ok(())
    }

    fn pushed(&mut self, frame: TxFrame) {
        let TxFrame { bytes, time } = frame;
        self.pushed.frames += 1;
        self.pushed.bytes += bytes as u64;
        match self.times.last_mut() {
            Some(last) if last.time == time => last.frames += 1,
            _ => self.times.push(Queued { time, frames: 1 }),
        }
        self.unsent = true;
    }

    /// The port that `address` is behind, from memory if nothing has changed.
    pub(super) fn port_of(&mut self, address: &Address) -> Option<PortId> {
        let generation = self.lan.generation();
        let Remembered { generation: known, ports } = &mut self.remembered;
        if *known != generation || ports.len() >= REMEMBERED {
            ports.clear();
            *known = generation;
        }
        *ports.entry(*address).or_insert_with(|| self.lan.lookup(address))
    }
    /// Hands what was pushed to the kernel: one kick, more only where it takes no more at a time.
    pub(super) fn transmit(&mut self, cache: &mut ChunkCache, counts: &WorkerCounts, latency: &mut Latency) {
        if !self.unsent {
            return;
        }
        let Some(TxQueue { tx, batch, rings, .. }) = &mut self.tx_queue else { return };
        tx.publish();
        if !self.times.is_empty() {
            let now = clock::realtime();
            for Queued { time, frames } in self.times.drain(..) {
                latency.record(age(time, now), frames);
            }
        }
        for _ in 0..IDLE_KICKS {
            match tx.kick() {
                Ok(Kick::Taken) => {
                    // With zero-copy the NIC takes them in its own time, and may be behind as well.
                    self.unsent = tx.room(*batch) < *batch;
                    break;
                }
                Ok(Kick::Again) => rings.reap(cache),
                Ok(Kick::Dropped) => self.refused += 1,
                Ok(Kick::Down) => break,
                Err(error) => {
                    if let Some(suppressed) = self.kick_errors.ask(clock::monotonic()) {
                        let nic = &*self.lan.nic;
                        tracing::warn!(nic, "cannot send: {error} ({suppressed} times before it)");
                    }
                    break;
                }
            }
        }
        rings.reap(cache);
        if !self.unsent {
            self.behind_since = 0;
            self.settle(counts, 0);
        } else if self.behind_since == 0 {
            self.behind_since = clock::monotonic();
        }
    }

    /// Counts what was put into the TX ring, now that all but `left` frames have been taken. The driver does
    /// not tell which frames it dropped: their bytes go by the mean.
    fn settle(&mut self, counts: &WorkerCounts, left: u64) {
        let Pushed { frames, bytes } = std::mem::take(&mut self.pushed);
        let refused = std::mem::take(&mut self.refused).min(frames - left);
        let sent = frames - left - refused;
        counts.count_drop(stats::Origin::Router, DropReason::NicRefused, refused as usize);
        counts.to_nics.add(sent, bytes * sent / frames.max(1));
    }

    /// Closes the TX ring. The NIC has not taken what is left in it, and that is dropped for the reason `why`.
    pub(super) fn close(&mut self, why: DropReason, cache: &mut ChunkCache, counts: &WorkerCounts) {
        let Some(TxQueue { mut tx, rings, .. }) = self.tx_queue.take() else { return };
        rings.reap(cache);
        self.behind_since = 0;
        if std::mem::take(&mut self.unsent) {
            let left = (tx.pending() as u64).min(self.pushed.frames);
            counts.count_drop(stats::Origin::Router, why, left as usize);
            self.settle(counts, left);
        }
    }
}

/// How long ago `time` was, both `CLOCK_REALTIME`, ns: this clock may be set while a frame lies in its queue. One that
/// was set back makes a frame younger than nothing: that counts as no time at all. What is more than the histograms
/// hold, as after a step forward, counts there as their longest.
fn age(time: u64, now: u64) -> u64 {
    now.saturating_sub(time)
}

/// See [`TxQueue::batch`].
fn slots(tx: &Tx, large: bool) -> usize {
    batch_chunks(large).min(tx.size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmsg::CHUNKS;
    use af_xdp::Umem;
    use af_xdp::simulated::rings;

    /// A batch is read only if the ring has the slots for it: four times as many where frames may take several chunks.
    ///
    /// Promise `jumbo-whole`.
    #[test]
    fn tx_ring_has_slots_for_a_batch_of_large_datagrams() {
        let (umem, mut free) = Umem::new(512).unwrap();
        let (_fill, _completion, _rx, mut tx, _kernel) = rings(&Arc::new(umem), 512).unwrap();
        assert_eq!((slots(&tx, false), slots(&tx, true)), (BATCH, BATCH * CHUNKS));
        let mut parts = Vec::new();
        let mut push = |tx: &mut Tx| {
            parts.extend(free.drain(..CHUNKS).map(|frame| Fragment::new(frame, 0, 4000)));
            tx.push_frame(&mut parts)
        };
        while tx.room(slots(&tx, true)) >= slots(&tx, true) {
            for n in 0..BATCH {
                assert!(push(&mut tx), "frame {n} of a batch");
            }
        }
        assert_eq!(tx.room(512), 0);
        let (umem, _free) = Umem::new(8).unwrap();
        let (_fill, _completion, _rx, tx, _kernel) = rings(&Arc::new(umem), 32).unwrap();
        assert_eq!((slots(&tx, false), slots(&tx, true)), (32, 32), "all of a ring that is smaller");
    }

    /// Promise `stopped`.
    #[test]
    fn latency_survives_a_clock_that_is_set() {
        const HOUR: u64 = 3_600_000_000_000;
        let queued = 500 * HOUR;
        assert_eq!(age(queued, queued + 7), 7);
        assert_eq!(age(queued, queued - HOUR), 0);
        let mut latency = Latency::default();
        for now in [queued + 7, queued - HOUR, queued + 1000 * HOUR, u64::MAX] {
            latency.record(age(queued, now), 1);
        }
        assert_eq!(latency.count(), 4);
        assert!(latency.quantile(0.5) <= 7, "{latency}");
        assert!(latency.quantile(1.0) <= 61_000_000_000, "{latency}");
    }
}
