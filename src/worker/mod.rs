//! A worker: one pinned thread that moves frames in both directions.
//!
//! The life of a frame *towards a router*: the XDP program put it into this worker's RX ring with the router's index and the
//! IOU header in front. [`nic_ingress`] completes its checksum if need be and sorts a batch into runs, one for each router.
//! [`router_egress`] sends a run from UMEM by one `send` or `sendmmsg`; the chunks go back into the fill ring. What finds the
//! router's queue full waits in its [`backlog`].
//!
//! The life of a frame *from a router*: [`router_ingress`] reads its datagram into a chunk by `recvmmsg`, checks it and learns
//! its source. [`nic_egress`] puts the frame, 8 bytes in, into the TX ring; or [`router_egress`] sends it to another router
//! behind another header.
//!
//! Frames for many routers are replicated by [`flood`] in both directions.
//!
//! Towards a router its worker owns everything; from the routers the worker that owns the pseudo socket does. Workers share the
//! fill and completion ring of a queue ([`Rings`]) and the pool of chunks, a batch at a time.

mod backlog;
mod batch;
mod clock;
mod coalesce;
mod command;
mod copied;
mod event;
mod flood;
mod lifecycle;
mod nic_egress;
mod nic_ingress;
mod poller;
mod pool;
mod ports;
mod pseudo;
mod request_response;
mod rings;
mod router_egress;
mod router_ingress;
mod router_queue;
mod send;
mod setup;
mod sleep;
mod sockets;
#[cfg(feature = "fuzzing")]
mod stepper;

pub use crate::sys::eventfd::{eventfd, wake, woken};
pub use batch::{BATCH, batch_chunks, reserve};
pub(crate) use clock::monotonic;
pub use command::{Change, Command, CommandSender};
pub use event::{Event, EventSender};
pub use pool::Pool;
pub use rings::Rings;
pub use router_queue::RouterSocket;
pub use setup::{CopyRing, NicPart, Poll, Setup, WorkerResult};
pub use sockets::{NicSockets, QueueSocket, SocketResult, Steered};
#[cfg(feature = "fuzzing")]
pub use stepper::Stepper;

use crate::ether::control_frames::Blocked;
use crate::lan::Lan;
use crate::stats::{Fault, Latencies, WorkerCounts};
use crate::sys::mmsg::Receiver;
use af_xdp::Fragment;
use coalesce::Coalescing;
use nic_egress::NicEgress;
use nic_ingress::{Arrived, NicIngress, NicRx, Scratch};
use poller::{Events, Poller, Token, Wait};
use pool::ChunkCache;
use pseudo::Pseudo;
use request_response::{Direction, RequestResponse};
use router_egress::RouterEgress;
use router_ingress::RouterIngress;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a worker waits for a NIC that is behind, before it looks again: 64 of the smallest frames take 43 us at
/// 1 Gbit/s.
const NIC_PAUSE: Duration = Duration::from_micros(50);
/// How much later than asked a worker's timer may end, ns.
const TIMER_SLACK: Option<NonZeroU64> = NonZeroU64::new(1000);
/// While frames wait for routers, this often the worker looks for stale ones.
const UPKEEP: Duration = Duration::from_millis(100);
/// A worker with nothing to do looks this often whether it should have been woken.
const SLEEP: Duration = Duration::from_secs(1);
/// What is in a ring of a worker that sleeps may be about to wake it: the program that put it there can have been off its
/// CPU just then. After so long the wake-up is lost.
const WAKE_UP: Duration = Duration::from_millis(20);
/// While a NIC has not taken what is in its TX ring, this often it is told again.
const RETRY: Duration = Duration::from_millis(10);

/// A worker.
pub struct Worker {
    index: usize,
    poll: Poll,
    blocked: Blocked,
    /// The NICs, as what frames are received from and sent to: by index of the LAN in the plan.
    nic_rx: Vec<NicRx>,
    nics: Vec<NicEgress>,
    /// By index in the plan; `None`: another worker's, or retired.
    pseudos: Vec<Option<Pseudo>>,
    egress: RouterEgress,
    cache: ChunkCache,
    receiver: Receiver,
    scratch: Scratch,
    /// The chunks of one large frame, kept for its capacity.
    parts: Vec<Fragment>,
    poller: Poller,
    commands: crossbeam::channel::Receiver<Command>,
    wake: Arc<OwnedFd>,
    counts: Arc<WorkerCounts>,
    latencies: Latencies,
    /// What [`WorkerResult::sockets`] will say of those that are closed.
    closed: Vec<SocketResult>,
    next_upkeep: u64,
    /// It was told to [`enlarge`](Self::enlarge), and had too few chunks as yet.
    wants_large: bool,
    request_response: RequestResponse,
    coalescing: Coalescing,
    turn: Turn,
    /// The XDP programs were told to wake this worker.
    sleeping: bool,
}

/// What happened in a turn of the loop.
#[derive(Default)]
struct Turn {
    /// What arrived for routers.
    arrived: Arrived,
    /// Chunks that had waited for a router and were taken by it.
    relieved: usize,
    /// Datagrams read from routers.
    read: usize,
    /// A socket was not read, because a NIC is behind.
    held_back: bool,
}

impl Worker {
    /// Moves frames until it is told to stop.
    pub fn run(mut self) -> WorkerResult {
        let mut events = Events::new();
        // The kernel's default lets a pause be 50 us longer than asked for. Without it pauses are only less exact.
        let _ = rustix::thread::set_current_timer_slack(TIMER_SLACK);
        while self.turn(&mut events).is_continue() {}
        self.end()
    }

    /// Moves what has arrived, and waits for more. Breaks if it was told to stop.
    fn turn(&mut self, events: &mut Events) -> ControlFlow<()> {
        let mut busy = false;
        for nic in 0..self.nic_rx.len() {
            busy |= self.receive(nic);
        }
        self.wait(events, busy);
        for n in 0..events.len() {
            match events.token(n) {
                Token::Ring => {}
                Token::Router(router) => {
                    self.turn.relieved += self.egress.writable(router, &mut self.cache, &self.poller);
                }
                Token::Pseudo(pseudo) => {
                    self.read(pseudo);
                    // However many routers send, what arrives for others does not wait for all of them.
                    for nic in 0..self.nic_rx.len() {
                        self.receive(nic);
                    }
                }
                Token::Command => self.handle_commands()?,
            }
        }
        self.upkeep();
        self.coalesce();
        ControlFlow::Continue(())
    }

    /// Takes what arrived on a NIC to the routers. True if there was anything.
    fn receive(&mut self, nic: usize) -> bool {
        let mut ingress = NicIngress {
            nic: &mut self.nic_rx[nic],
            scratch: &mut self.scratch,
            parts: &mut self.parts,
            egress: &mut self.egress,
            cache: &mut self.cache,
            poller: &self.poller,
            counts: &self.counts,
            request_response: &mut self.request_response,
            arrived: &mut self.turn.arrived,
        };
        ingress.receive()
    }

    /// Reads what routers send, unless a NIC they send to is behind: their queue in the kernel is the better place.
    fn read(&mut self, pseudo: usize) {
        let now = clock::monotonic();
        let Some(table) = self.pseudos.get(pseudo).and_then(Option::as_ref).map(|pseudo| &pseudo.table)
        else {
            return;
        };
        if table.links.iter().any(|link| self.nics[link.nic].is_behind(now)) {
            self.turn.held_back = true;
        } else {
            self.read_now(pseudo, now);
        }
    }

    fn read_now(&mut self, pseudo: usize, now: u64) {
        let Some(pseudo) = self.pseudos.get_mut(pseudo).and_then(Option::as_mut) else { return };
        self.request_response.saw(Direction::FromRouter, now);
        let mut ingress = RouterIngress {
            nics: &mut self.nics,
            receiver: &mut self.receiver,
            parts: &mut self.parts,
            egress: &mut self.egress,
            cache: &mut self.cache,
            poller: &self.poller,
            counts: &self.counts,
            latency: &mut self.latencies.to_nics,
            blocked: self.blocked,
            copies: 0,
        };
        self.turn.read += ingress.read(pseudo);
    }

    /// Waits for events; not at all if the worker is `busy`.
    fn wait(&mut self, events: &mut Events, busy: bool) {
        let timeout = self.timeout(busy);
        let wait = self.poller.wait(events, timeout);
        // Before the XDP programs are told that it is awake: what comes after that need not wake it.
        if wait == Wait::TimedOut
            && !timeout.is_zero()
            && self.has_frames()
            && self.poller.wait(events, WAKE_UP) == Wait::TimedOut
        {
            self.counts.fault(Fault::LostWakeup, 1);
        }
        if std::mem::take(&mut self.sleeping) {
            for nic in &self.nic_rx {
                asleep(&nic.lan, self.index).store(0, Ordering::Relaxed);
            }
        }
    }

    /// How long to wait for events. Before a real wait the XDP programs are told to wake this worker for broadcast and
    /// multicast frames, and the rings are looked at once more: see `copy_to_worker` in bpf/steer.bpf.c.
    fn timeout(&mut self, busy: bool) -> Duration {
        if busy || self.poll == Poll::Busy {
            return Duration::ZERO;
        }
        let now = clock::monotonic();
        if self.request_response.expects_answer(now) {
            return Duration::ZERO;
        }
        if let Some(pause) = self.request_response.short_sleep(now) {
            clock::sleep(pause);
            return Duration::ZERO;
        }
        self.sleeping = true;
        sleep::announce(self.nic_rx.iter().map(|nic| asleep(&nic.lan, self.index)));
        if self.has_frames() {
            Duration::ZERO
        } else if self.must_retry() {
            RETRY
        } else if self.egress.is_waiting() {
            UPKEEP
        } else {
            SLEEP
        }
    }

    /// True if something is in a ring.
    fn has_frames(&mut self) -> bool {
        self.nic_rx.iter_mut().any(NicRx::has_frames)
    }

    /// True if the kernel has not taken what is in a TX ring, or a fill ring lacks chunks.
    fn must_retry(&self) -> bool {
        self.nics.iter().any(|nic| nic.unsent) || self.nic_rx.iter().any(NicRx::has_fill_deficit)
    }

    /// What is due now and then.
    fn upkeep(&mut self) {
        if self.must_retry() {
            for nic in &mut self.nics {
                nic.transmit(&mut self.cache, &self.counts, &mut self.latencies.to_nics);
            }
            for nic in &mut self.nic_rx {
                nic.refill(&mut self.cache);
            }
        }
        self.cache.spill();
        let now = clock::monotonic();
        if now >= self.next_upkeep {
            self.next_upkeep = now + UPKEEP.as_nanos() as u64;
            if self.egress.is_waiting() {
                self.egress.expire(now, &mut self.cache, &self.poller);
            }
            self.wants_large = self.wants_large && !self.enlarge();
            self.nic_rx.iter_mut().for_each(NicRx::expire_in_flight);
        }
    }

    /// In dense traffic, lets some frames gather; in a request-response exchange, and when told to poll busily, does not.
    fn coalesce(&mut self) {
        let Turn { arrived, relieved, read, held_back } = std::mem::take(&mut self.turn);
        if self.poll == Poll::Busy {
            return;
        }
        // The sockets stay readable: without a pause the loop would spin until the NIC takes frames again.
        if held_back {
            return clock::sleep(NIC_PAUSE);
        }
        // Where frames wait, most are both: they arrive in one turn, and are taken in a later one.
        let moved = arrived.frames.max(relieved);
        // Routers that send as fast as they can fill batches by themselves; they would only find a full queue.
        if moved == 0 || read > 0 {
            return;
        }
        let now = clock::monotonic();
        if let Some(pause) = self.coalescing.turn(moved, arrived.routers, now)
            && !self.request_response.expects_answer(now)
        {
            clock::sleep(pause);
        }
    }
}

/// Where the XDP program of `lan` looks whether `worker` wants to be woken.
fn asleep(lan: &Lan, worker: usize) -> &AtomicU32 {
    &lan.tables.shared.asleep[worker]
}
