//! A worker: one pinned thread that moves frames both ways.
//!
//! The life of a frame *towards a router* ([`router_egress`]): the XDP program put it into this worker's AF_XDP ring
//! with the router's index and the IOU header in front. [`Worker::receive`] completes its checksum if need be
//! ([`checksum`]) and sorts a batch into runs, one for each router; a run is one `send` or `sendmmsg` from UMEM; the
//! chunks go back into the fill ring. What finds the router's queue full waits in its backlog.
//!
//! The life of a frame *from a router* ([`router_ingress`]): `recvmmsg` put its datagram into a chunk. It is checked, its
//! source learned; the frame, 8 bytes in, goes to the TX ring or, behind another header, to another router.
//!
//! Towards a router its worker owns everything; from the routers the worker that owns the pseudo socket does.
//! Workers share the fill and completion ring of a queue ([`Rings`]) and the pool of chunks, a batch at a time.

mod backlog;
mod clock;
mod coalesce;
mod poller;
mod pool;
mod request_response;
mod sleep;
#[cfg(feature = "fuzzing")]
mod stepper;
mod router_ingress;
mod router_egress;

pub(crate) use clock::monotonic;
pub use pool::Pool;
#[cfg(feature = "fuzzing")]
pub use stepper::Stepper;

use crate::ether::checksum;
use crate::ether::control_frames::Blocked;
use crate::iou::header;
use crate::lan::Lan;
use crate::plan::Plan;
use crate::stats::{DropReason, Fault, Latencies, WorkerCounts};
use crate::steer::layout::{HEAD, MAX_STEERED, STAMP, STAMP_GROUP, STEER_CHUNK, Stamp};
use crate::sys::mmsg::{CHUNKS, Receiver};
use crate::sys::ringbuf::RingBuffer;
use af_xdp::{Completion, Fill, Fragment, Rx, RxStatistics, Socket};
use coalesce::Coalescing;
use poller::{Events, Poller, Token};
use pool::ChunkCache;
use request_response::{Direction, RequestResponse};
use rustc_hash::FxHashMap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use router_ingress::{
    DATAGRAM_OFFSET, NicEgress, Pseudo, PseudoLink, RouterIngress, Source, TxQueue, close_tx, transmit,
};
use router_egress::{Datagram, FloodPort, Membership, Origin, RouterEgress};

/// Frames taken at a time from a socket.
pub const BATCH: usize = 64;
/// Frames taken at a time from a ring, before broadcast and multicast frames get their turn: the more there are, the longer the runs to
/// each of many routers.
const ARRIVALS: usize = 8 * BATCH;
/// Frames whose memory is fetched ahead of the one that is looked at.
const AHEAD: usize = 8;
/// Datagrams with broadcast and multicast frames sent before unicast gets its turn again: one broadcast or multicast frame is one for each router.
const FLOOD_SENDS: usize = 128;
/// How long a worker waits for a NIC that is behind, before it looks again: 64 of the smallest frames take 43 us at
/// 1 Gbit/s.
const NIC_PAUSE: Duration = Duration::from_micros(50);
/// How long the NICs have at the end for what is in their rings, ns: 2048 frames of 1514 bytes take 25 ms at 1 Gbit/s.
const LAST_MOMENT: u64 = 500_000_000;
/// The same when a pseudo socket is closed while others go on.
const CLOSING: u64 = 10_000_000;
/// Datagrams read from a pseudo socket before it is closed at most: its queue holds no more, and who still sends is not
/// waited for.
const LAST_READ: usize = 8192;
/// How much later than asked a worker's timer may end, ns.
const TIMER_SLACK: Option<NonZeroU64> = NonZeroU64::new(1000);
/// While frames wait for routers, this often the worker looks for stale ones.
const UPKEEP: Duration = Duration::from_millis(100);
/// A worker with nothing to do looks this often whether it should have been woken.
const SLEEP: Duration = Duration::from_secs(1);
/// What is in a ring of a worker that sleeps may be about to wake it: whoever put it there can have been off its CPU just
/// then. After so long the wake-up is lost.
const WAKE_UP: Duration = Duration::from_millis(20);
/// While a NIC has not taken what is in its TX ring, this often it is told again.
const RETRY: Duration = Duration::from_millis(10);

/// When a worker that found nothing to do looks again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// When the kernel wakes it.
    Adaptive,
    /// At once: a core is given for the last microseconds.
    Busy,
}

/// The rings that all workers of a queue share.
#[derive(Debug)]
pub struct Rings(Mutex<(Fill, Completion)>);

impl Rings {
    /// Shares `fill` and `completion`.
    #[must_use]
    pub fn new(fill: Fill, completion: Completion) -> Self {
        Self(Mutex::new((fill, completion)))
    }

    /// Takes frames that have been sent back into `cache`.
    fn reap(&self, cache: &mut ChunkCache) {
        self.lock().1.reap(&mut cache.free);
    }

    /// Gives the kernel `count` frames to receive into; returns how many it got. Takes back what has been sent.
    fn refill(&self, cache: &mut ChunkCache, count: usize) -> usize {
        let mut rings = self.lock();
        let (fill, completion) = &mut *rings;
        completion.reap(&mut cache.free);
        cache.refill(count);
        let given = fill.push(&mut cache.free, count);
        fill.wake();
        given
    }

    /// Addresses that the kernel gave back without having been lent them.
    fn faults(&self) -> u64 {
        self.lock().1.faults()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Fill, Completion)> {
        // Each method leaves the rings whole; a panic elsewhere does not change that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Frames may take several chunks from now on.
    Large,
    /// The router's socket is this one from now on, or it has none.
    Router {
        /// Index in the plan.
        router: usize,
        /// A connected datagram socket, and the number of the connection.
        socket: Option<(OwnedFd, u64)>,
    },
    /// These are its sockets on a NIC from now on, or it has none there: it closes those that it had.
    Nic {
        /// Index of the LAN in the plan.
        lan: usize,
        /// The sockets.
        sockets: Option<NicSockets>,
    },
    /// The plan is another from now on; it follows the one before. What goes with it was made beforehand.
    Plan(Box<Change>),
    /// A pseudo instance's socket is this one from now on.
    Pseudo {
        /// Index in the plan.
        pseudo: usize,
        /// The socket.
        socket: OwnedFd,
    },
    /// The worker is to answer: it has carried out every command before this one.
    Answer(crossbeam::channel::Sender<()>),
    /// The worker is to report that it is alive, with this number: [`Event::Alive`].
    Event(u64),
    /// The worker ends.
    Stop,
}

/// What another plan means for a worker: [`Command::Plan`].
#[derive(Debug)]
pub struct Change {
    lans: Vec<LanPorts>,
    members: Vec<Membership>,
    /// The pseudo instances that it reads, ascending: index in the plan, id, what leads to them.
    pseudos: Vec<(usize, u16, LinkTable)>,
    /// Sockets of those that are new.
    sockets: Vec<(usize, OwnedFd)>,
}

impl Change {
    /// What `plan` means for `worker`. `sockets` are those of the pseudo instances that it comes to read: index in the
    /// plan, socket.
    #[must_use]
    pub fn new(plan: &Plan, worker: usize, sockets: Vec<(usize, OwnedFd)>) -> Self {
        let own = |(_, pseudo): &(usize, &crate::plan::Pseudo)| pseudo.live && pseudo.worker == worker;
        let pseudos = plan.pseudos.iter().enumerate().filter(own);
        Self {
            lans: (0..plan.lans.len()).map(|lan| LanPorts::new(plan, lan, worker)).collect(),
            members: memberships(plan, worker),
            pseudos: pseudos
                .map(|(index, pseudo)| (index, pseudo.id.get(), LinkTable::new(plan, index)))
                .collect(),
            sockets,
        }
    }
}

/// The ports of a LAN, as a worker sees them.
#[derive(Debug)]
struct LanPorts {
    /// All of them.
    all: Vec<FloodPort>,
    /// Where among them the one is that gets unicast to unknown stations.
    flood: Option<usize>,
    /// Those whose router is this worker's.
    own: Vec<FloodPort>,
    /// The one of those that gets unicast to unknown stations.
    own_flood: Option<FloodPort>,
}

impl LanPorts {
    fn new(plan: &Plan, lan: usize, worker: usize) -> Self {
        let planned = &plan.lans[lan];
        let all: Vec<FloodPort> = planned.ports.iter().map(|port| flood_port(plan, *port)).collect();
        let flood = planned.flood.and_then(|flood| all.iter().position(|port| port.port == flood));
        let own = |port: &&FloodPort| plan.routers[port.router].worker == worker;
        Self {
            flood,
            own: all.iter().filter(own).copied().collect(),
            own_flood: flood.map(|at| all[at]).filter(|port| own(&port)),
            all,
        }
    }
}

/// What leads to a pseudo instance: its links, and which interface is whose.
#[derive(Debug)]
struct LinkTable {
    by_interface: Box<[u16; 256]>,
    links: Vec<PseudoLink>,
}

impl LinkTable {
    fn new(plan: &Plan, pseudo: usize) -> Self {
        let mut by_interface = Box::new([0u16; 256]);
        let mut links = Vec::new();
        for link in plan.pseudos[pseudo].links.iter().map(|link| &plan.links[*link]) {
            let sources = link.ports.iter().map(|port| Source::new(plan, *port));
            links.push(PseudoLink { nic: link.lan, sources: sources.collect() });
            by_interface[usize::from(link.endpoint.interface.0)] = links.len() as u16;
        }
        Self { by_interface, links }
    }
}

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
    /// A worker has carried out [`Command::Event`].
    Alive {
        /// Its number.
        worker: usize,
        /// The command's number.
        round: u64,
    },
}

/// A worker's direction to the control thread: a channel, and an eventfd that wakes it.
#[derive(Clone, Debug)]
pub struct EventSender {
    /// The channel. Unbounded, for a report is rare and none may be lost.
    pub channel: crossbeam::channel::Sender<Event>,
    /// What the control thread waits on.
    pub wake: Arc<OwnedFd>,
}

impl EventSender {
    fn send(&self, report: Event) {
        if self.channel.send(report).is_ok() {
            wake(&self.wake);
        }
    }
}

/// The control thread's direction to a worker.
#[derive(Clone, Debug)]
pub struct CommandSender {
    channel: crossbeam::channel::Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl CommandSender {
    /// Gives the worker an command. One that has ended takes none, which is no error.
    pub fn send(&self, command: Command) {
        if self.channel.send(command).is_ok() {
            wake(&self.wake);
        }
    }
}

/// Adds 1 to an eventfd; that it is full already means it is readable, which is all that is wanted.
pub fn wake(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Resets an eventfd.
pub fn woken(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}

/// An eventfd, not blocking.
///
/// # Errors
/// What `eventfd` says.
pub fn eventfd() -> io::Result<Arc<OwnedFd>> {
    use rustix::event::EventfdFlags;
    Ok(Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
}

/// A worker's socket on a queue.
#[derive(Debug)]
pub struct QueueSocket {
    /// The socket.
    pub socket: Socket,
    /// What it shares with those of other workers.
    pub rings: Arc<Rings>,
    /// Number of its credits, for [`SteerShared::credits`](crate::sys::shared::SteerShared).
    pub credits: usize,
    /// Chunks and frames that the XDP program had put into the credits before.
    pub steered: (u32, u32),
}

/// A worker's sockets on a NIC.
#[derive(Debug)]
pub struct NicSockets {
    /// One on each queue. Frames leave by the one that can send, so that their command is kept.
    pub queues: Vec<QueueSocket>,
    /// They take frames of several chunks.
    pub scatter: bool,
}

/// A worker's part of a NIC.
pub struct NicPart {
    /// The LAN, in the command of the plan.
    pub lan: Arc<Lan>,
    /// Its sockets.
    pub sockets: NicSockets,
    /// The ring buffer of broadcast and multicast frames, and the descriptor to wait on.
    pub copies: (RingBuffer, OwnedFd),
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
    /// Its part of each NIC, in the command of the plan's LANs.
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
    /// Its direction to the control thread.
    pub events_to_control: EventSender,
}

/// What is left of a worker that has ended.
pub struct WorkerResult {
    /// Latencies it measured.
    pub latencies: Latencies,
    /// Chunks it held, all of them given to the pool.
    pub chunks: usize,
    /// The kernel's counts for each of its sockets, and descriptors that was invalid.
    pub sockets: Vec<(RxStatistics, u64)>,
}

/// A queue of a NIC, as a place to receive from.
struct RxQueue {
    rx: Rx,
    rings: Arc<Rings>,
    /// Frames received and not yet replaced in the fill ring.
    fill_deficit: usize,
    /// Number of the credits, for [`SteerShared::credits`](crate::sys::shared::SteerShared).
    credits: usize,
    /// Chunks received in all, as the credits counts; those written off are among them.
    received: u32,
    /// Chunks the XDP program had put into the credits when it was last looked at.
    steered: u32,
    /// Frames received in all, as the credits counts them.
    frames: u32,
}

impl RxQueue {
    /// Replaces what is fill_deficit in the fill ring, and tells the XDP program that there is so much more room.
    fn refill(&mut self, lan: &Lan, cache: &mut ChunkCache) {
        self.fill_deficit -= self.rings.refill(cache, self.fill_deficit);
        if let Some(credits) = lan.tables.shared.credits.get(self.credits) {
            credits.returned.store(self.received.wrapping_sub(self.fill_deficit as u32), Ordering::Release);
        }
    }

    /// Frames that were put into the credits and have not come since the last look are lost, as when the kernel takes a
    /// NIC's rings away: they do not hold their places for ever.
    fn expire_in_flight(&mut self, lan: &Lan) {
        let Some(credits) = lan.tables.shared.credits.get(self.credits) else { return };
        let before = std::mem::replace(&mut self.steered, credits.steered.load(Ordering::Acquire));
        if before == self.steered && self.fill_deficit == 0 && self.rx.is_empty() {
            self.received = self.steered;
            credits.returned.store(self.received, Ordering::Release);
        }
    }

    /// Frames that were put into the credits, never came, and are not in the kernel's `statistics`: it does not count what
    /// comes for the socket of a NIC that was taken away from it.
    fn unaccounted(&self, lan: &Lan, statistics: &RxStatistics) -> u64 {
        let Some(credits) = lan.tables.shared.credits.get(self.credits) else { return 0 };
        let missing = credits.frames.load(Ordering::Acquire).wrapping_sub(self.frames).cast_signed();
        u64::from(missing.max(0).unsigned_abs()).saturating_sub(statistics.dropped + statistics.ring_full)
    }
}

/// The receiving side of a NIC.
struct NicIngress {
    lan: Arc<Lan>,
    queues: Vec<RxQueue>,
    copies: RingBuffer,
    /// This worker's ports on the LAN.
    ports: Vec<FloodPort>,
    flood: Option<FloodPort>,
}

/// A worker.
pub struct Worker {
    index: usize,
    poll: Poll,
    blocked: Blocked,
    arrivals: Vec<NicIngress>,
    nics: Vec<NicEgress>,
    /// By index in the plan; `None`: another worker's, or retired.
    pseudos: Vec<Option<Pseudo>>,
    egress: RouterEgress,
    cache: ChunkCache,
    receiver: Receiver,
    fragments: Vec<Fragment>,
    /// The chunks of one large frame, kept for its room.
    parts: Vec<Fragment>,
    poller: Poller,
    commands: crossbeam::channel::Receiver<Command>,
    wake: Arc<OwnedFd>,
    counts: Arc<WorkerCounts>,
    latencies: Latencies,
    /// What [`WorkerResult::sockets`] will say of those that are closed.
    closed: Vec<(RxStatistics, u64)>,
    next_upkeep: u64,
    /// It was told to [`enlarge`](Self::enlarge), and had too few chunks as yet.
    wants_large: bool,
    request_response: RequestResponse,
    coalescing: Coalescing,
    /// Frames that arrived for routers in this turn of the loop, and for how many routers.
    moved: usize,
    routers: usize,
    /// Frames that had waited for a router and were taken by it in this turn.
    relieved: usize,
    /// Datagrams read from routers in this turn.
    read: usize,
    /// A socket was not read in this turn, because a NIC is behind.
    held_back: bool,
    /// The XDP programs were told to wake this worker.
    sleeping: bool,
}

impl Worker {
    /// Makes a worker, and the direction to give it commands.
    ///
    /// # Errors
    /// What `epoll` and `eventfd` say; too few chunks for its receive batch.
    pub fn new(setup: Setup) -> io::Result<(Self, CommandSender)> {
        let Setup {
            index,
            plan,
            poll,
            blocked,
            nics,
            pseudos,
            pool,
            reserve,
            large,
            counts,
            events_to_control,
        } = setup;
        let poller = Poller::new()?;
        let wake = eventfd()?;
        poller.watch(wake.as_fd(), Token::CommandSender)?;
        let (send, commands) = crossbeam::channel::unbounded();
        let lans: Vec<Arc<Lan>> = nics.iter().map(|nic| nic.lan.clone()).collect();

        let mut arrivals = Vec::new();
        let mut sides = Vec::new();
        let mut sockets = Vec::new();
        for (lan_index, nic) in nics.into_iter().enumerate() {
            let ports = LanPorts::new(&plan, lan_index, index);
            poller.watch_edge(nic.copies.1.as_fd(), Token::Ring)?;
            sockets.push(nic.sockets);
            arrivals.push(NicIngress {
                lan: nic.lan.clone(),
                queues: Vec::new(),
                copies: nic.copies.0,
                ports: ports.own,
                flood: ports.own_flood,
            });
            sides.push(NicEgress::new(nic.lan, ports.all, ports.flood));
        }

        let mut own_pseudos: Vec<Option<Pseudo>> = plan.pseudos.iter().map(|_| None).collect();
        for (number, socket) in pseudos {
            poller.watch(socket.as_fd(), Token::Pseudo(number))?;
            let (id, LinkTable { by_interface, links }) =
                (plan.pseudos[number].id.get(), LinkTable::new(&plan, number));
            own_pseudos[number] = Some(Pseudo { socket, id, by_interface, links, most: BATCH });
        }

        let mut cache = ChunkCache::new(pool);
        cache.refill(BATCH);
        let keep = cache.free.len().saturating_sub(BATCH);
        let frames = cache.free.split_off(keep);
        if frames.len() < BATCH {
            return Err(io::Error::other("too few chunks for a worker"));
        }
        let egress =
            RouterEgress::new(memberships(&plan, index), lans, counts.clone(), reserve, events_to_control);
        let mut worker = Self {
            index,
            poll,
            blocked,
            arrivals,
            nics: sides,
            pseudos: own_pseudos,
            egress,
            receiver: Receiver::new(cache.umem().clone(), frames, DATAGRAM_OFFSET),
            cache,
            fragments: Vec::with_capacity(ARRIVALS + CHUNKS),
            parts: Vec::with_capacity(CHUNKS),
            poller,
            commands,
            wake: wake.clone(),
            counts,
            latencies: Latencies::default(),
            closed: Vec::new(),
            next_upkeep: 0,
            wants_large: false,
            request_response: RequestResponse::default(),
            coalescing: Coalescing::default(),
            moved: 0,
            routers: 0,
            relieved: 0,
            read: 0,
            held_back: false,
            sleeping: false,
        };
        for (lan, sockets) in sockets.into_iter().enumerate() {
            worker.attach(lan, sockets)?;
        }
        if large && !worker.enlarge() {
            return Err(io::Error::other("too few chunks for a worker and large frames"));
        }
        Ok((worker, CommandSender { channel: send, wake }))
    }

    /// From now on reads datagrams of several chunks. False if there are too few of those.
    fn enlarge(&mut self) -> bool {
        if self.receiver.is_large() {
            return true;
        }
        let needed = BATCH * (CHUNKS - 1);
        self.cache.refill(needed);
        let Some(keep) = self.cache.free.len().checked_sub(needed) else { return false };
        self.nics.iter_mut().for_each(NicEgress::take_large);
        let mut frames = self.cache.free.drain(keep..);
        let others = std::iter::from_fn(|| Some([frames.next()?, frames.next()?, frames.next()?]));
        self.receiver.enlarge(others.collect());
        true
    }

    /// Moves frames until it is told to stop.
    pub fn run(mut self) -> WorkerResult {
        let mut events = Events::new();
        // The kernel's default lets a coalesce be 50 us longer than asked for. Without it naps are only less exact.
        let _ = rustix::thread::set_current_timer_slack(TIMER_SLACK);
        while !self.turn(&mut events) {}
        self.end()
    }

    /// Moves what has arrived, and waits for more. True if it was told to stop.
    fn turn(&mut self, events: &mut Events) -> bool {
        let mut busy = false;
        for nic in 0..self.arrivals.len() {
            busy |= self.arrive(nic);
        }
        let timeout = self.timeout(busy);
        let in_vain = self.poller.wait(events, timeout);
        // Before the XDP programs are told that it is awake: what comes after that need not wake it.
        if in_vain && !timeout.is_zero() && self.frames_wait() && self.poller.wait(events, WAKE_UP) {
            self.counts.fault(Fault::LostWakeup, 1);
        }
        self.awake();
        for n in 0..events.len() {
            match events.token(n) {
                Token::Ring => {}
                Token::Router(router) => {
                    self.relieved += self.egress.writable(router, &mut self.cache, &self.poller);
                }
                Token::Pseudo(pseudo) => {
                    self.read(pseudo);
                    // However many routers send, what arrives for others does not wait for all of them.
                    for nic in 0..self.arrivals.len() {
                        self.arrive(nic);
                    }
                }
                Token::CommandSender => {
                    if self.handle_commands() {
                        return true;
                    }
                }
            }
        }
        self.upkeep();
        self.coalesce();
        false
    }

    /// In dense traffic, lets some frames gather; in a conversation, and when told to poll busily, does not.
    fn coalesce(&mut self) {
        let (arrived, read) = (std::mem::take(&mut self.moved), std::mem::take(&mut self.read));
        let routers = std::mem::take(&mut self.routers);
        // The sockets stay readable: without a pause the loop would spin until the NIC has room.
        if std::mem::take(&mut self.held_back) && self.poll != Poll::Busy {
            return clock::sleep(NIC_PAUSE);
        }
        // Where frames wait, most are both: they arrive in one turn, and are taken in a later one.
        let moved = arrived.max(std::mem::take(&mut self.relieved));
        // Routers that send as fast as they can fill batches by themselves; they would only find a full queue.
        if moved == 0 || read > 0 || self.poll == Poll::Busy {
            return;
        }
        let now = clock::monotonic();
        if let Some(coalesce) = self.coalescing.turn(moved, routers, now)
            && !self.request_response.expects_answer(now)
        {
            clock::sleep(coalesce);
        }
    }

    /// Takes what arrived on a NIC to the routers: unicast first, then a bounded share of the broadcast and multicast frames, so that
    /// a storm of those delays unicast by little. True if there was anything.
    fn arrive(&mut self, nic: usize) -> bool {
        let unicast = self.receive(nic);
        unicast | self.copies(nic)
    }

    /// Takes a batch from each queue of a NIC to the routers. True if there was anything.
    fn receive(&mut self, nic: usize) -> bool {
        let mut busy = false;
        for queue in 0..self.arrivals[nic].queues.len() {
            let side = &mut self.arrivals[nic].queues[queue];
            let count = side.rx.receive(&mut self.fragments, ARRIVALS);
            if count == 0 {
                continue;
            }
            busy = true;
            self.moved += count;
            let mut frames = count as u64;
            side.fill_deficit += count;
            side.received = side.received.wrapping_add(count as u32);
            let now = clock::monotonic();
            self.request_response.saw(Direction::ToRouter, now);
            let mut fragments = std::mem::take(&mut self.fragments);
            for fragment in fragments.iter().take(AHEAD) {
                self.cache.umem().prefetch(fragment);
            }
            let mut rest = fragments.drain(..);
            while let Some(fragment) = rest.next() {
                if let Some(ahead) = rest.as_slice().get(AHEAD - 1) {
                    self.cache.umem().prefetch(ahead);
                }
                if fragment.continues() {
                    let (parts, reckoned) = self.sort_large(nic, fragment, &mut rest, now);
                    frames -= parts as u64 - 1;
                    let side = &mut self.arrivals[nic].queues[queue];
                    side.received = side.received.wrapping_sub(parts as u32).wrapping_add(reckoned as u32);
                } else {
                    self.sort(nic, fragment, now);
                }
            }
            drop(rest);
            self.fragments = fragments;
            self.counts.entries.from_rings.add(frames);
            let side = &mut self.arrivals[nic].queues[queue];
            side.frames = side.frames.wrapping_add(frames as u32);
            self.routers = self.routers.max(self.egress.send_runs(&mut self.cache, &self.poller));
            let NicIngress { lan, queues, .. } = &mut self.arrivals[nic];
            queues[queue].refill(lan, &mut self.cache);
        }
        busy
    }

    /// The stamp in front of a steered fragment, unless it is invalid.
    fn stamp(&self, fragment: &Fragment) -> Option<Stamp> {
        let stamp = Stamp::read(self.cache.umem().data(fragment)).filter(|_| fragment.len() > HEAD)?;
        let known = usize::from(stamp.router()) < self.egress.routers() || stamp.router() == STAMP_GROUP;
        known.then_some(stamp)
    }

    /// Puts a steered fragment into its router's run.
    fn sort(&mut self, nic: usize, fragment: Fragment, now: u64) {
        let Some(stamp) = self.stamp(&fragment) else {
            self.counts.fault(Fault::BadDescriptor, 1);
            return self.cache.put(fragment.into_chunk());
        };
        let umem = self.cache.umem();
        let time = stamp.time(now);
        let mut fragment = fragment.skip(STAMP);
        checksum::complete(&mut umem.data_mut(&mut fragment)[header::LEN..]);
        if stamp.router() != STAMP_GROUP {
            let router = usize::from(stamp.router());
            return self.egress.queue(router, Datagram { fragment, time, origin: Origin::Wire, copy: false });
        }
        self.arrivals[nic].lan.heard(&umem.data(&fragment)[header::LEN..], time);
        // With --exclusive broadcast and multicast frames come this direction: to each port, each time behind its header.
        self.counts.entries.group_from_rings.add(1);
        self.counts.entries.spread.add(self.arrivals[nic].ports.len() as u64);
        for port in &self.arrivals[nic].ports {
            let umem = self.cache.umem().clone();
            let bytes = umem.data_mut(&mut fragment);
            bytes[..header::LEN].copy_from_slice(&port.header);
            let parts = [&*bytes];
            self.egress.send_shared(port.router, &parts, time, Origin::Wire, &mut self.cache, &self.poller);
        }
        self.cache.put(fragment.into_chunk());
    }

    /// The same for a frame that takes several chunks, of which `first` is the first. Returns how many there are, and how
    /// many the XDP program reckoned: a driver need not fill them as it does.
    #[cold]
    fn sort_large(
        &mut self,
        nic: usize,
        first: Fragment,
        rest: &mut impl Iterator<Item = Fragment>,
        now: u64,
    ) -> (usize, usize) {
        let stamp = self.stamp(&first);
        let mut len = first.len();
        let mut parts = std::mem::take(&mut self.parts);
        parts.push(first.skip(STAMP));
        while parts.last().is_some_and(Fragment::continues) {
            let Some(next) = rest.next() else { break };
            len += next.len();
            parts.push(next);
        }
        let count = parts.len();
        let in_front = HEAD
            - HEAD.min(self.arrivals[nic].lan.tables.shared.credit_head.load(Ordering::Relaxed) as usize);
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
            checksum::complete_in(&mut umem.data_mut(first)[header::LEN..], &slices[1..count]);
            if stamp.router() != STAMP_GROUP {
                let router = usize::from(stamp.router());
                for fragment in parts.drain(..) {
                    self.egress.queue(router, Datagram { fragment, time, origin: Origin::Wire, copy: false });
                }
            } else {
                self.arrivals[nic].lan.heard(&umem.data(first)[header::LEN..], time);
                self.counts.entries.group_from_rings.add(1);
                self.counts.entries.spread.add(self.arrivals[nic].ports.len() as u64);
                for port in &self.arrivals[nic].ports {
                    umem.data_mut(first)[..header::LEN].copy_from_slice(&port.header);
                    let mut slices = slices;
                    slices[0] = umem.data(first);
                    let (router, parts) = (port.router, &slices[..count]);
                    self.egress.send_shared(router, parts, time, Origin::Wire, &mut self.cache, &self.poller);
                }
            }
        } else {
            self.counts.fault(Fault::BadDescriptor, 1);
        }
        parts.drain(..).for_each(|fragment| self.cache.put(fragment.into_chunk()));
        self.parts = parts;
        (count, reckoned)
    }

    /// Sends a batch of copied broadcast and multicast frames to this worker's routers. True if there was anything.
    fn copies(&mut self, nic: usize) -> bool {
        let NicIngress { lan, copies, ports, flood, .. } = &mut self.arrivals[nic];
        let count = copies.peek_up_to(FLOOD_SENDS / ports.len().max(1));
        if count == 0 {
            return false;
        }
        self.egress.send_copies(lan, copies, count, ports, flood.as_ref(), &mut self.cache, &self.poller);
        copies.release();
        self.moved += count;
        true
    }

    /// Reads what routers send, unless a NIC they send to is behind: their queue in the kernel is the better place.
    fn read(&mut self, pseudo: usize) {
        let now = clock::monotonic();
        let Some(links) = self.pseudos.get(pseudo).and_then(Option::as_ref).map(|pseudo| &pseudo.links)
        else {
            return;
        };
        if links.iter().any(|link| self.nics[link.nic].is_behind(now)) {
            self.held_back = true;
        } else {
            self.read_now(pseudo, now);
        }
    }

    fn read_now(&mut self, pseudo: usize, now: u64) {
        let Some(pseudo) = self.pseudos.get_mut(pseudo).and_then(Option::as_mut) else { return };
        self.request_response.saw(Direction::FromRouter, now);
        let mut reading = RouterIngress {
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
        self.read += reading.read(pseudo);
    }

    /// Reads what waits in the socket of a pseudo instance that is to be closed. NICs have until `until` for it.
    fn read_out(&mut self, pseudo: usize, until: u64) {
        let start = self.read;
        while self.read < start + LAST_READ {
            let before = self.read;
            self.read_now(pseudo, clock::monotonic());
            self.finish_sending(until);
            if self.read == before {
                break;
            }
        }
    }

    /// How long to wait for events. Before a real wait the XDP programs are told to wake this worker for group
    /// frames, and the rings are looked at once more: see `copy_to_worker` in bpf/steer.bpf.c.
    fn timeout(&mut self, busy: bool) -> Duration {
        if busy || self.poll == Poll::Busy {
            return Duration::ZERO;
        }
        let now = clock::monotonic();
        if self.request_response.expects_answer(now) {
            return Duration::ZERO;
        }
        if let Some(coalesce) = self.request_response.short_sleep(now) {
            clock::sleep(coalesce);
            return Duration::ZERO;
        }
        self.sleeping = true;
        sleep::announce(self.arrivals.iter().map(|arrival| asleep(&arrival.lan, self.index)));
        if self.frames_wait() {
            Duration::ZERO
        } else if self.nics.iter().any(|nic| nic.unsent) || self.has_fill_deficit() {
            RETRY
        } else if self.egress.is_waiting() {
            UPKEEP
        } else {
            SLEEP
        }
    }

    /// True if something is in a ring.
    fn frames_wait(&mut self) -> bool {
        self.arrivals.iter_mut().any(|arrival| {
            !arrival.copies.is_empty() || arrival.queues.iter_mut().any(|queue| !queue.rx.is_empty())
        })
    }

    fn awake(&mut self) {
        if std::mem::take(&mut self.sleeping) {
            for arrival in &self.arrivals {
                asleep(&arrival.lan, self.index).store(0, Ordering::Relaxed);
            }
        }
    }

    fn has_fill_deficit(&self) -> bool {
        self.arrivals.iter().flat_map(|arrival| &arrival.queues).any(|queue| queue.fill_deficit > 0)
    }

    /// What is due now and then.
    fn upkeep(&mut self) {
        if self.nics.iter().any(|nic| nic.unsent) || self.has_fill_deficit() {
            for nic in &mut self.nics {
                transmit(nic, &mut self.cache, &self.counts, &mut self.latencies.to_nics);
            }
            for NicIngress { lan, queues, .. } in &mut self.arrivals {
                for queue in queues.iter_mut().filter(|queue| queue.fill_deficit > 0) {
                    queue.refill(lan, &mut self.cache);
                }
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
            for NicIngress { lan, queues, .. } in &mut self.arrivals {
                for queue in queues {
                    queue.expire_in_flight(lan);
                }
            }
        }
    }

    /// Carries out what the control thread ordered. True if it is to stop.
    fn handle_commands(&mut self) -> bool {
        woken(&self.wake);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Router { router, socket } => {
                    self.egress.set_socket(router, socket, &mut self.cache, &self.poller);
                }
                Command::Nic { lan, sockets } => {
                    // What has arrived is delivered. Nothing more does: the XDP program was told to pass everything. When
                    // there are sockets again it may be at work before this worker is, and a storm would have no end.
                    while !self.arrivals[lan].queues.is_empty() && self.arrive(lan) {}
                    self.detach(lan, true);
                    if let Some(Err(error)) = sockets.map(|sockets| self.attach(lan, sockets)) {
                        tracing::error!(
                            "{}: a worker cannot use its sockets: {error}",
                            self.nics[lan].lan.nic
                        );
                    }
                }
                Command::Large => {
                    self.wants_large = !self.enlarge();
                    if self.wants_large {
                        tracing::warn!(
                            "worker {}: no memory is left for large frames from routers; they are `too-long` until some is",
                            self.index
                        );
                    }
                }
                Command::Plan(change) => self.follow(*change),
                Command::Pseudo { pseudo, socket } => self.replace(pseudo, socket),
                Command::Answer(to) => {
                    let _ = to.send(());
                }
                Command::Event(round) => {
                    self.egress.events_to_control().send(Event::Alive { worker: self.index, round });
                }
                Command::Stop => return true,
            }
        }
        false
    }

    /// Takes `sockets` on NIC `lan` into use.
    fn attach(&mut self, lan: usize, sockets: NicSockets) -> io::Result<()> {
        let NicSockets { queues, scatter } = sockets;
        for queue in queues {
            let QueueSocket { socket: Socket { rx, tx }, rings, credits, steered } = queue;
            self.poller.watch_edge(rx.as_fd(), Token::Ring)?;
            if let Some(tx) = tx {
                let large = self.receiver.is_large();
                self.nics[lan].tx_queue = Some(TxQueue::new(tx, rings.clone(), scatter, large));
            }
            let (steered, frames) = steered;
            let side = RxQueue { rx, rings, fill_deficit: 0, credits, received: steered, steered, frames };
            self.arrivals[lan].queues.push(side);
        }
        if self.nics[lan].tx_queue.is_none() {
            return Err(io::Error::other("a NIC without a queue to send on"));
        }
        Ok(())
    }

    /// Closes the sockets on NIC `lan`, for the NIC is given up, or this is the end. What they have not sent is lost.
    fn detach(&mut self, lan: usize, detached: bool) {
        let why = if detached { DropReason::NicDown } else { DropReason::NicRefused };
        close_tx(&mut self.nics[lan], why, &mut self.cache, &self.counts);
        let NicIngress { lan, queues, .. } = &mut self.arrivals[lan];
        for queue in queues.drain(..) {
            let mut statistics = queue.rx.statistics().unwrap_or_default();
            if detached {
                statistics.dropped += queue.unaccounted(lan, &statistics);
            }
            let mut faults = queue.rx.faults();
            // What a queue's sockets share is counted once.
            if self.index == 0 {
                faults += queue.rings.faults();
            } else {
                statistics.fill_ring_empty = 0;
            }
            self.closed.push((statistics, faults));
            self.poller.forget(queue.rx.as_fd());
        }
    }

    /// Goes over to another plan. Routers that stay keep their sockets and what waits for them.
    fn follow(&mut self, change: Change) {
        let Change { lans, members, pseudos, sockets } = change;
        for index in 0..self.pseudos.len() {
            let stays = pseudos.binary_search_by_key(&index, |(stays, ..)| *stays).is_ok();
            if self.pseudos[index].is_some() && !stays {
                self.read_out(index, clock::monotonic() + CLOSING);
                if let Some(pseudo) = self.pseudos[index].take() {
                    self.poller.forget(pseudo.socket.as_fd());
                }
            }
        }
        for ((arrival, side), ports) in self.arrivals.iter_mut().zip(&mut self.nics).zip(lans) {
            (arrival.ports, arrival.flood) = (ports.own, ports.own_flood);
            side.set_ports(ports.all, ports.flood);
        }
        self.egress.follow(members, &mut self.cache, &self.poller);
        let mut sockets: FxHashMap<usize, OwnedFd> = sockets.into_iter().collect();
        for (index, id, LinkTable { by_interface, links }) in pseudos {
            if self.pseudos.len() <= index {
                self.pseudos.resize_with(index + 1, || None);
            }
            match (&mut self.pseudos[index], sockets.remove(&index)) {
                (Some(pseudo), _) => (pseudo.by_interface, pseudo.links) = (by_interface, links),
                (none, Some(socket)) => {
                    watch_pseudo(&self.poller, index, id, &socket);
                    *none = Some(Pseudo { socket, id, by_interface, links, most: BATCH });
                }
                (None, None) => tracing::error!("pseudo id {id} has no socket: its links are cut off"),
            }
        }
    }

    /// A pseudo instance has another socket: what routers sent to the one before is read.
    fn replace(&mut self, index: usize, socket: OwnedFd) {
        self.read_out(index, clock::monotonic() + CLOSING);
        if let Some(pseudo) = self.pseudos.get_mut(index).and_then(Option::as_mut) {
            self.poller.forget(pseudo.socket.as_fd());
            watch_pseudo(&self.poller, index, pseudo.id, &socket);
            pseudo.socket = socket;
        }
    }

    /// Delivers what has arrived already, and gives everything back.
    fn end(mut self) -> WorkerResult {
        for nic in 0..self.arrivals.len() {
            while self.arrive(nic) {}
        }
        let until = clock::monotonic() + LAST_MOMENT;
        for pseudo in 0..self.pseudos.len() {
            self.read_out(pseudo, until);
        }
        self.egress.drain(&mut self.cache);
        for lan in 0..self.nics.len() {
            self.detach(lan, false);
        }
        for frame in self.receiver.into_chunks() {
            self.cache.put(frame);
        }
        let chunks = self.cache.free.len();
        self.cache.release();
        self.latencies.to_routers = std::mem::take(&mut self.egress.latency);
        WorkerResult { latencies: self.latencies, chunks, sockets: self.closed }
    }
}

impl Worker {
    /// Lets the NICs send what is in their rings, until `until` at most: it goes with the sockets.
    fn finish_sending(&mut self, until: u64) {
        for nic in &mut self.nics {
            while nic.is_sending() && clock::monotonic() < until {
                transmit(nic, &mut self.cache, &self.counts, &mut self.latencies.to_nics);
                clock::sleep(NIC_PAUSE);
            }
        }
    }
}

fn asleep(lan: &Lan, worker: usize) -> &AtomicU32 {
    &lan.tables.shared.asleep[worker]
}

fn flood_port(plan: &Plan, port: usize) -> FloodPort {
    FloodPort { port, router: plan.ports[port].router, header: plan.ports[port].to_router.0 }
}

/// What `worker` has to do with each router.
fn memberships(plan: &Plan, worker: usize) -> Vec<Membership> {
    let member = |router: &crate::plan::Router| Membership {
        live: router.live,
        owned: router.worker == worker,
        lans: Vec::new(),
    };
    let mut members: Vec<Membership> = plan.routers.iter().map(member).collect();
    for (number, lan) in plan.lans.iter().enumerate() {
        for port in &lan.ports {
            let lans = &mut members[plan.ports[*port].router].lans;
            if lans.last() != Some(&number) {
                lans.push(number);
            }
        }
    }
    members
}

fn watch_pseudo(poller: &Poller, index: usize, id: u16, socket: &OwnedFd) {
    if let Err(error) = poller.watch(socket.as_fd(), Token::Pseudo(index)) {
        tracing::error!("pseudo id {id} cannot be watched, its links are cut off: {error}");
    }
}

/// Chunks that no backlog may take: what the RX rings of `workers` workers can hold of `queues` queues, and two
/// batches a worker, of `large` frames if there are such.
#[must_use]
pub const fn reserve(queues: usize, fill_size: usize, workers: usize, large: bool) -> usize {
    queues * fill_size + 2 * batch_chunks(large) * workers
}

/// Chunks that a worker reads into at a time.
#[must_use]
pub const fn batch_chunks(large: bool) -> usize {
    if large { BATCH * CHUNKS } else { BATCH }
}

const _: () = assert!(MAX_STEERED + HEAD + 256 == af_xdp::CHUNK_SIZE);
