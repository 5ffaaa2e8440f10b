//! A NIC in use: everything that was taken from it and is given back.
//!
//! A NIC may go at any time, and one of the same name may come. What belongs to the LAN stays then, the XDP program
//! with its maps above all; what belongs to the NIC goes with it and is taken again:
//!
//! ```text
//!   in use ──► lost: workers close their sockets ──► the kernel lets go of the frames ──► one of this name is there:
//!     ▲                                                                                   lock, offloads, promiscuous
//!     └──────────── workers get new sockets ◄──────── AF_XDP sockets, with those frames ◄─────── mode, program
//! ```
//!
//! Taking a NIC again needs CAP_NET_ADMIN (the program's link, offloads), CAP_NET_RAW (AF_XDP and packet sockets),
//! CAP_BPF (the link, where unprivileged BPF is off), CAP_IPC_LOCK (the UMEM is registered anew, unless the limit on
//! locked memory allows it), and files in the state directory.

use super::{Error, Options, all_down};
use crate::ether;
use crate::ether::Mac;
use crate::fdb::Fdb;
use crate::lan::Lan;
use crate::nic::attach::{Attachment, PATIENCE, XdpMode, XdpModeChoice, attach_within};
use crate::nic::kernel::shares_large_frames;
use crate::nic::links::Links;
use crate::nic::lock::NicLock;
use crate::nic::offload::Offloads;
use crate::nic::promisc::Promiscuous;
use crate::nic::{self, LinkState, Nic};
use crate::plan::Plan;
use crate::steer::layout::{COUNTS, Count, HEAD, MAX_LARGE, MAX_STEERED, mac_word};
use crate::steer::{self, Steering};
use crate::sys::mmsg::CHUNKS;
use crate::sys::ringbuf::RingBuffer;
use crate::worker::{
    BATCH, Command, CommandSender, NicPart, NicSockets, Pool, QueueSocket, Rings, batch_chunks, reserve,
};
use af_xdp::{Chunk, Config, CopyMode, Registration, Sockets, Umem};
use libbpf_rs::MapHandle;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Chunks for the backlogs of routers that do not read, for all NICs together: 16 MiB.
pub(super) const BACKLOG: usize = 4096;
/// Places in the fill rings of a NIC together; a NIC with many queues gets less for each.
const FILL: usize = 8192;
/// Places in a worker's ring at most, and in a fill ring at least and at most.
const RING_MAX: usize = 2048;
const FILL_MIN: usize = 256;
const FILL_MAX: usize = 2 * RING_MAX;
/// Places in a fill ring at the very least, where a NIC was given queues that no memory was taken for.
const FILL_SHARED: usize = BATCH;
/// Places in a TX ring at least: two batches of the largest frames.
const TX_MIN: usize = 2 * batch_chunks(true);
/// Chunks in a worker's TX ring and stock beyond what it reads at a time.
const WORKER_CHUNKS: usize = 1024;
/// Queues that the XDP program has room for, at least: a NIC that comes back may have more than the one before.
const QUEUES: usize = 64;

/// The kernel is asked this often whether it has let go of frames: a few milliseconds are usual.
const RELEASE: Duration = Duration::from_millis(2);
/// How long after its loss a NIC is tried again at short intervals, and failures are not worth a word: whoever
/// removed it may still be at work.
const SETTLING: Duration = Duration::from_millis(500);
/// Between two tries, during that time.
const SOON: Duration = Duration::from_millis(50);
/// Between two tries after it, and at least between a return and the next try.
const LATER: Duration = Duration::from_secs(1);
/// While a NIC has no carrier, this often it is looked for: the kernel tells of it up to a second late.
const CARRIER: Duration = Duration::from_millis(100);
/// Offloads that are turned on under us are turned off again so often. Then somebody insists...
const QUIETED: u32 = 3;
/// ...until they have been off for so long.
const GIVEN_IN: Duration = Duration::from_secs(60);

/// Interfaces below a NIC that are named at most: a bridge may have a hundred ports.
const WARNINGS: usize = 8;

/// Whether a NIC of this MTU has frames that do not fit into one chunk; those with two VLAN tags are the largest.
fn needs_several_chunks(mtu: u32) -> bool {
    mtu as usize + ether::HEADER + 2 * ether::TAG > MAX_STEERED
}

/// How to bind to a NIC: whether to copy, and whether frames may take several chunks. A driver may have zero-copy for
/// frames of one chunk only; it is then given up for `large` frames, unless the user insists on it.
fn binding(choice: CopyMode, attachment: &Attachment, large: bool) -> (CopyMode, bool) {
    let native = attachment.mode == XdpMode::Native;
    let zero_copy = attachment.zero_copy_chunks.filter(|_| native);
    let enough = zero_copy.is_some_and(|chunks| chunks as usize >= CHUNKS);
    match choice {
        _ if !native => (CopyMode::Copy, true),
        CopyMode::Copy => (CopyMode::Copy, true),
        CopyMode::ZeroCopy => (CopyMode::ZeroCopy, enough),
        CopyMode::Auto if zero_copy.is_none() || enough => (CopyMode::Auto, true),
        CopyMode::Auto if large => (CopyMode::Copy, true),
        CopyMode::Auto => (CopyMode::Auto, false),
    }
}

/// Ports of a LAN that its BPF maps have room for at least. Their size is fixed when they are made, while the NETMAP may
/// grow; a place that is not used costs 16 bytes.
const ROOM: usize = 4096;
/// MAC patterns of a port.
const PATTERNS: usize = 3;

/// Ports that a LAN may come to have which starts with `ports`.
fn room(ports: usize) -> usize {
    ROOM.max(2 * ports)
}

/// What is in use of a NIC while it is there. Fields are dropped in this order: the program goes before the offloads
/// come back, for some drivers refuse to change them under XDP; the lock goes last.
struct Device {
    attachment: Attachment,
    _promiscuous: Promiscuous,
    offloads: Offloads,
    _hold: NicLock,
    nic: Nic,
    /// Its address, as the LAN knows it.
    mac: Mac,
    state: Option<LinkState>,
    /// Its AF_XDP sockets, once they are open: on so many queues.
    registration: Option<Arc<Registration>>,
    queues: usize,
    zero_copy: bool,
    /// Frames may take several chunks.
    scatter: bool,
    flap_damping: FlapDamping,
}

/// Offloads that somebody turns on under us.
#[derive(Debug, Default)]
struct FlapDamping {
    /// How often they were found on, since they were off for a while.
    times: u32,
    /// When they were found on last.
    last: Option<Instant>,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    TurnOff,
    /// Left on, which is to be said.
    GiveUp,
    /// All is well, or has been said.
    Nothing,
}

impl FlapDamping {
    /// At `now` they are found `on`, or off.
    fn found(&mut self, on: bool, now: Instant) -> Answer {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= GIVEN_IN) {
            *self = Self::default();
        }
        if !on {
            return Answer::Nothing;
        }
        self.last = Some(now);
        self.times = (self.times + 1).min(QUIETED + 2);
        match self.times {
            times if times <= QUIETED => Answer::TurnOff,
            times if times == QUIETED + 1 => Answer::GiveUp,
            _ => Answer::Nothing,
        }
    }
}

/// Why a NIC, or its sockets, must be taken anew.
enum Change {
    /// It is not there any more, or has another name.
    Gone(nic::Error),
    Renamed(String),
    /// It lost the XDP program: somebody detached it, or this is another NIC of the same name and number.
    Detached,
    /// It has so many queues now.
    Queues(usize),
}

/// A NIC that cannot be used at present.
struct Lost {
    /// Since when; if there was none of its name, since when there is one.
    since: Instant,
    /// There is none of its name.
    absent: bool,
    /// What was said about why.
    said: Option<String>,
}

/// A NIC of the plan, there or not.
pub(super) struct ManagedNic {
    /// As the user names it.
    name: String,
    device: Option<Device>,
    /// The frames that the kernel has of sockets which are being closed.
    closing: Option<Arc<Registration>>,
    /// It, or its sockets, cannot be used.
    lost: Option<Lost>,
    /// Not tried again before, but then.
    not_before: Option<Instant>,
    steering: Steering,
    moves: Option<(RingBuffer, MapHandle)>,
    /// Moves of stations that the XDP program has told of.
    moves_read: u64,
    options: steer::Options,
    sizes: Sizes,
    /// What was said of interfaces below it, or at its other end.
    warnings: Vec<String>,
}

/// How large a NIC's rings are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    queues: usize,
    workers: usize,
    /// Frames take several chunks.
    large: bool,
    /// Places in the fill and completion ring of each queue.
    ring: usize,
    /// Places in each worker's RX ring on a queue: one that stalls cannot take all of a queue's chunks. Its TX ring has as
    /// many, or more.
    share: usize,
    /// Chunks for its rings and workers.
    pub(super) chunks: usize,
    /// Chunks that no backlog may take.
    pub(super) reserve: usize,
}

impl Sizes {
    fn new(queues: usize, workers: usize, large: bool) -> Self {
        let queues = queues.max(1);
        let most = (RING_MAX * workers).next_power_of_two().min(FILL_MAX);
        let ring = (FILL / queues).next_power_of_two().clamp(FILL_MIN, most);
        Self::with_ring(queues, workers, large, ring)
    }

    fn with_ring(queues: usize, workers: usize, large: bool, ring: usize) -> Self {
        // The power of two at or below an equal share.
        let share = (1 << (ring / workers.max(1)).max(1).ilog2()).min(RING_MAX);
        let reserve = reserve(queues, ring, workers, large);
        let own = workers * (batch_chunks(large) + WORKER_CHUNKS);
        Self { queues, workers, large, ring, share, chunks: queues * ring + reserve + own, reserve }
    }

    /// For another number of queues, out of the same memory. `None` if that is too little.
    fn shared_by(&self, queues: usize) -> Option<Self> {
        let queues = queues.max(1);
        let ring = (1_usize << (self.queues * self.ring / queues).checked_ilog2()?)
            .min(Self::new(queues, self.workers, self.large).ring);
        (ring >= FILL_SHARED).then(|| Self::with_ring(queues, self.workers, self.large, ring))
    }
}

/// What a NIC needs of the rest of the forwarder to be taken again.
pub(super) struct Around<'a> {
    pub(super) options: &'a Options,
    pub(super) pool: &'a Pool,
    /// Of every worker.
    pub(super) commands: &'a [&'a CommandSender],
}

impl Lost {
    fn is_settling(&self) -> bool {
        self.since.elapsed() < SETTLING
    }
}

impl Device {
    /// Takes `nic`, which is held, and attaches the XDP program.
    fn take(
        nic: Nic,
        lock: NicLock,
        steering: &Steering,
        options: &Options,
        patience: Duration,
    ) -> Result<Self, Error> {
        let name = nic.name().to_owned();
        let steer_error = |source| Error::Steer { nic: name.clone(), source };
        let mut offloads = Offloads::quiet(&nic, &lock, options.xdp_mode == XdpModeChoice::Generic)?;
        let promiscuous = Promiscuous::join(&nic)?;
        if nic.state().carrier {
            tracing::info!("{name}: attaching; some NICs lose carrier for two seconds now");
        }
        let program = steering.program().map_err(steer_error)?;
        let attachment = attach_within(program.as_fd(), &nic, options.xdp_mode, patience)?;
        drop(program);
        if attachment.mode == XdpMode::Generic {
            if options.copy_mode == CopyMode::ZeroCopy {
                return Err(Error::ZeroCopyGeneric(name));
            }
            offloads.quiet_for_generic()?;
        }
        // What is stacked has what merges from the interface below, which is named below if it matters.
        for feature in offloads.still_on().iter().filter(|feature| !nic.is_stacked() || feature.is_of_tags())
        {
            tracing::warn!("{name}: {feature}");
        }
        Ok(Self {
            attachment,
            _promiscuous: promiscuous,
            offloads,
            _hold: lock,
            mac: nic.mac(),
            state: None,
            registration: None,
            queues: nic.rx_queues() as usize,
            zero_copy: false,
            scatter: false,
            flap_damping: FlapDamping::default(),
            nic,
        })
    }

    /// Reads the NIC's state, tells the workers, and logs what changed.
    fn look(&mut self, lan: &Lan) -> Option<Change> {
        match self.nic.name_now() {
            Err(error) => return Some(Change::Gone(error)),
            Ok(name) if name != self.nic.name() => return Some(Change::Renamed(name)),
            Ok(_) => {}
        }
        if !self.attachment.is_on(&self.nic) {
            // The first that goes when a NIC is removed is the program.
            return Some(self.nic.name_after_all().map_or_else(Change::Gone, |_| Change::Detached));
        }
        let queues = self.nic.refresh_queues().0 as usize;
        if self.registration.is_some() && queues != self.queues {
            return Some(Change::Queues(queues));
        }
        let state = match self.nic.refresh_state() {
            Ok(state) => state,
            Err(error @ nic::Error::Gone { .. }) => return Some(Change::Gone(error)),
            Err(error) => {
                if self.state.take().is_some() {
                    tracing::warn!("{error}");
                }
                lan.up.store(false, Relaxed);
                return None;
            }
        };
        self.follow_mac(lan);
        self.follow_offloads();
        lan.mtu.store(state.mtu, Relaxed);
        lan.up.store(self.registration.is_some() && state.up && state.carrier, Relaxed);
        let before = self.state.replace(state);
        if before == Some(state) {
            return None;
        }
        if before.is_none_or(|before| before.mtu != state.mtu) {
            self.warn_of_mtu(state.mtu);
        }
        let name = self.nic.name();
        match (state.up, state.carrier) {
            (false, _) => {
                tracing::warn!("{name} is down: frames from the routers are dropped until it is up")
            }
            (true, false) => {
                tracing::warn!("{name} has no carrier: frames from the routers are dropped until it has")
            }
            (true, true) if before.is_some() => tracing::info!("{name} is up, MTU {}", state.mtu),
            (true, true) => {}
        }
        None
    }

    /// The largest frame that is steered to routers, bytes.
    const fn largest(&self) -> usize {
        if self.scatter { MAX_LARGE } else { MAX_STEERED }
    }

    /// Says what does not fit into the buffers under this MTU, and what can be done.
    fn warn_of_mtu(&self, mtu: u32) {
        let (name, largest) = (self.nic.name(), self.largest());
        if self.registration.is_none() || mtu as usize + ether::HEADER <= largest {
            return;
        }
        let why = match self.attachment.zero_copy_chunks {
            _ if self.scatter => "the largest that buffers are made for",
            Some(_) if self.zero_copy => {
                "its driver takes no larger ones with zero-copy: start iou-fast again, with `--copy-mode copy`"
            }
            _ => "larger ones need kernel 6.7 or newer, or 6.6.11",
        };
        tracing::warn!(
            "{name}: its MTU is {mtu}, and frames above {largest} bytes are dropped and counted ({why})"
        );
    }

    fn follow_mac(&mut self, lan: &Lan) {
        let mac = self.nic.refresh_mac();
        if mac != self.mac {
            tracing::info!("{}: its address is {mac} now", self.nic.name());
            lan.set_nic_mac(mac);
            self.mac = mac;
        }
    }

    /// What is in the way of an XDP program and was turned on since is turned off again, a few times.
    fn follow_offloads(&mut self) {
        let Ok(turned_on) = self.offloads.turned_on() else { return };
        let name = self.nic.name();
        match self.flap_damping.found(!turned_on.is_empty(), Instant::now()) {
            Answer::Nothing => return,
            Answer::GiveUp => {
                for feature in turned_on {
                    tracing::error!(
                        "{name}: {} is turned on again and again, and now left on: {}; find out who does it, then `{}`",
                        feature.feature,
                        feature.consequence(),
                        feature.command()
                    );
                }
                return;
            }
            Answer::TurnOff => {}
        }
        let quieted = self.offloads.quiet_again();
        for feature in turned_on {
            let (what, so) = (&feature.feature, feature.consequence());
            match &quieted {
                Ok(()) => tracing::warn!(
                    "{name}: {what} was turned on; it is off again, for with it {so}. It is turned on when iou-fast ends"
                ),
                Err(error) => {
                    tracing::error!("{name}: {what} was turned on: {so}; `{}`. {error}", feature.command())
                }
            }
        }
    }
}

impl ManagedNic {
    /// Takes the NIC of LAN `index` and attaches the XDP program, which passes everything as yet.
    pub(super) fn take(plan: &Plan, index: usize, options: &Options) -> Result<Self, Error> {
        let lan = &plan.lans[index];
        let nic = Nic::find(&lan.nic)?;
        if let Some(warning) = nic.warning() {
            tracing::warn!("{}: {warning}", lan.nic);
        }
        let lock = NicLock::take_in(&nic, &options.state_dir)?;
        let ports = lan.ports.len();
        let steer_options = steer::Options {
            workers: plan.workers,
            queues: (nic.max_rx_queues() as usize).max(QUEUES),
            exclusive: options.exclusive,
            dynamic_entries: Fdb::capacity(2 * room(ports)),
            static_entries: PATTERNS * room(ports),
        };
        let steering =
            Steering::load(&steer_options).map_err(|source| Error::Steer { nic: lan.nic.clone(), source })?;
        let device = Device::take(nic, lock, &steering, options, PATIENCE)?;
        let mut nic = Self {
            name: lan.nic.clone(),
            closing: None,
            lost: None,
            not_before: None,
            steering,
            moves: None,
            moves_read: 0,
            options: steer_options,
            sizes: Sizes::new(device.queues, plan.workers, needs_several_chunks(device.nic.mtu())),
            device: Some(device),
            warnings: Vec::new(),
        };
        nic.warning();
        Ok(nic)
    }

    /// Names what makes frames above the MTU below the NIC, or at its other end, with what prevents it: once, until it is
    /// something else.
    fn warning(&mut self) {
        let Some(device) = &self.device else { return };
        let found: Vec<String> = match device.nic.issues(device.attachment.mode == XdpMode::Generic) {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        let new: Vec<&String> = found.iter().filter(|text| !self.warnings.contains(text)).collect();
        for text in new.iter().take(WARNINGS) {
            tracing::warn!("{}: {text}", self.name);
        }
        if new.len() > WARNINGS {
            tracing::warn!("{}: and {} more interfaces like these", self.name, new.len() - WARNINGS);
        }
        self.warnings = found;
    }

    /// Its name, and what keeps frames from it, in a word or two; `None` if nothing does.
    pub(super) fn condition(&self) -> (&str, Option<&'static str>) {
        let state = self.device.as_ref().filter(|_| self.lost.is_none()).map(|device| device.state);
        let what = match state {
            None => Some("away"),
            Some(Some(LinkState { up: true, carrier: true, .. })) => None,
            Some(Some(LinkState { up: true, .. })) => Some("no carrier"),
            Some(_) => Some("down"),
        };
        (&self.name, what)
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Tells the LAN under which addresses the host itself is on it. False if the NIC is not there: they stay.
    pub(super) fn follow_addresses(&self, links: &Links, lan: &Lan) -> bool {
        let Some(device) = &self.device else { return false };
        lan.set_host(links.own_addresses(device.nic.index()));
        true
    }

    /// Opens the AF_XDP sockets, and adds each worker's to its `parts`.
    pub(super) fn open(
        &mut self,
        plan: &Plan,
        index: usize,
        options: &Options,
        umem: &Arc<Umem>,
        free: &mut Vec<Chunk>,
        parts: &mut [Vec<NicPart>],
    ) -> Result<Arc<Lan>, Error> {
        let name = self.name.clone();
        let steer_error = |source| Error::Steer { nic: name.clone(), source };
        let sockets = self.sockets(options, umem, free, PATIENCE)?;
        let mac = self.device.as_ref().map_or(Mac([0; 6]), |device| device.mac);
        let lan = Arc::new(Lan::new(plan, index, mac, self.steering.tables().clone()).map_err(steer_error)?);
        all_down(plan, &lan, index);
        self.share(plan, index);
        for (worker, (part, sockets)) in parts.iter_mut().zip(sockets).enumerate() {
            let (ring, fd) = self.steering.copies(worker).map_err(steer_error)?;
            let fd = fd.try_clone_to_owned().map_err(|error| Error::System("a ring buffer", error))?;
            part.push(NicPart { lan: lan.clone(), sockets, copies: (ring, fd) });
        }
        self.moves = Some(self.steering.moves().map_err(steer_error)?);
        Ok(lan)
    }

    /// Opens AF_XDP sockets on every queue, and has the XDP program redirect to them. Each worker's.
    fn sockets(
        &mut self,
        options: &Options,
        umem: &Arc<Umem>,
        free: &mut Vec<Chunk>,
        patience: Duration,
    ) -> Result<Vec<NicSockets>, Error> {
        let name = &self.name;
        let Some(device) = &mut self.device else { return Ok(Vec::new()) };
        let (queues, tx_queues) = device.nic.refresh_queues();
        device.queues = queues as usize;
        let sizes = self.sizes.shared_by(device.queues).filter(|_| device.queues <= self.options.queues);
        let Some(sizes) = sizes else {
            return Err(Error::Queues { nic: name.clone(), queues: device.queues });
        };
        let large = needs_several_chunks(device.nic.mtu());
        let (copy_mode, scatter) = binding(options.copy_mode, &device.attachment, large);
        let config = Config::new(device.nic.index())
            .queues(device.queues as u32)
            .sockets_per_queue(sizes.workers as u32)
            .fill_size(sizes.ring as u32)
            .completion_size(sizes.ring as u32)
            .rx_size(sizes.share as u32)
            .tx_size(sizes.share.max(TX_MIN) as u32)
            .tx_queues(tx_queues)
            .copy_mode(copy_mode)
            .scatter(scatter && shares_large_frames())
            .busy_timeout(patience);
        let sockets = Sockets::open(umem, free, &config)
            .map_err(|source| Error::AfXdp { nic: name.clone(), source })?;
        device.zero_copy = sockets.zero_copy;
        device.scatter = sockets.scatter;
        device.registration = Some(sockets.registration);
        let shared = &self.steering.tables().shared;
        shared.credit_limit.store(sizes.share as u32, Relaxed);
        shared.credit_head.store(if device.zero_copy { 0 } else { HEAD as u32 }, Relaxed);
        shared.largest.store(device.largest() as u32, Relaxed);
        let empty = || NicSockets { queues: Vec::new(), scatter: device.scatter };
        let mut workers: Vec<NicSockets> = (0..sizes.workers).map(|_| empty()).collect();
        for (number, queue) in sockets.queues.into_iter().enumerate() {
            let rings = Arc::new(Rings::new(queue.fill, queue.completion));
            for (worker, socket) in queue.sockets.into_iter().enumerate() {
                self.steering
                    .set_ring(&self.options, number, worker, socket.rx.as_fd())
                    .map_err(|source| Error::Steer { nic: name.clone(), source })?;
                let credits = number * sizes.workers + worker;
                // Nothing is on its way: what the credits's former socket did not take is lost.
                let steered = shared.credits.get(credits).map_or((0, 0), |credits| {
                    let steered = credits.steered.load(Relaxed);
                    credits.returned.store(steered, Relaxed);
                    (steered, credits.frames.load(Relaxed))
                });
                workers[worker].queues.push(QueueSocket { socket, rings: rings.clone(), credits, steered });
            }
        }
        Ok(workers)
    }

    /// The NIC's state before the workers run.
    pub(super) fn first_look(&mut self, lan: &Lan) {
        if let Some(device) = &mut self.device {
            // A NIC that goes already is dealt with when there are workers.
            let _ = device.look(lan);
        }
    }

    /// Looks at the NIC and does what follows: tells the workers its state, gives it up when it has gone, takes it again
    /// when it is back. Waits for a grace period of the kernel at most.
    pub(super) fn follow(&mut self, index: usize, lan: &Lan, around: &Around<'_>) {
        if let Some(change) = self.device.as_mut().and_then(|device| device.look(lan)) {
            self.lose(change, index, lan, around);
        }
        self.recover(index, lan, around);
    }

    /// Looks at the NIC for the last time, when the XDP program passes everything already: if it has gone and nobody has
    /// noticed, its sockets are given up, so that what it took along is counted. One that is still there keeps its
    /// sockets, for what is to be sent.
    pub(super) fn last_look(&mut self, index: usize, lan: &Lan, around: &Around<'_>) {
        if let Some(change @ Change::Gone(_)) = self.device.as_mut().and_then(|device| device.look(lan)) {
            self.lose(change, index, lan, around);
        }
    }

    /// How long until [`follow`](Self::follow) is due, events apart.
    pub(super) fn next_step(&self) -> Option<Duration> {
        let Some(lost) = &self.lost else {
            let state = self.device.as_ref()?.state?;
            return (state.up && !state.carrier).then_some(CARRIER);
        };
        match (&self.closing, self.not_before) {
            (Some(_), _) if lost.is_settling() => Some(RELEASE),
            (Some(_), _) => Some(SOON),
            (None, due) => due.map(|due| due.saturating_duration_since(Instant::now())),
        }
    }

    /// Has the workers close their sockets, and gives back what was taken from the NIC.
    fn lose(&mut self, change: Change, index: usize, lan: &Lan, around: &Around<'_>) {
        lan.up.store(false, Relaxed);
        // The program leaves everything to the host until the workers have sockets again.
        lan.tables.shared.live.store(0, Relaxed);
        self.settle();
        for commands in around.commands {
            commands.send(Command::Nic { lan: index, sockets: None });
        }
        // There is none if they are being closed already.
        if let Some(registration) = self.device.as_mut().and_then(|device| device.registration.take()) {
            self.closing = Some(registration);
        }
        let name = &self.name;
        match change {
            Change::Gone(error) => {
                tracing::warn!("{error}; forwarding goes on when there is one of this name again");
            }
            Change::Renamed(to) => tracing::warn!(
                "{name} is called {to} now: it is given back, and forwarding goes on when there is a {name} again"
            ),
            Change::Detached => tracing::warn!(
                "{name} has lost the XDP program: somebody detached it, or it was removed; it is taken again"
            ),
            Change::Queues(queues) => tracing::info!("{name} has {queues} queues now: it is taken again"),
        }
        // Whatever it was: the program as well. A veth that is given queues does not give them the program
        // (veth_set_channels in drivers/net/veth.c), and frames on them would reach the host alone.
        self.device = None;
        self.lost.get_or_insert(Lost { since: Instant::now(), absent: false, said: None });
    }

    /// Takes the NIC again, as far as that can be done now.
    fn recover(&mut self, index: usize, lan: &Lan, around: &Around<'_>) {
        if let Some(registration) = self.closing.take() {
            let mut free = Vec::new();
            match registration.reclaim(&mut free) {
                Ok(_) => around.pool.give(&mut free, 0),
                Err(registration) => {
                    self.closing = Some(registration);
                    return;
                }
            }
        }
        let Some(mut lost) = self.lost.take() else { return };
        let now = Instant::now();
        if self.not_before.is_none_or(|due| now >= due) {
            self.not_before = None;
            let resumed = self.resume(index, lan, around);
            // Whoever brings a NIC back may not be done with it: that time begins with the first sight of it.
            if std::mem::replace(&mut lost.absent, matches!(resumed, Ok(false))) {
                lost.since = now;
            }
            match resumed {
                Ok(true) => {
                    tracing::info!("{}; forwarding goes on", self.got());
                    // One that goes at once, again and again, does not take all of our time.
                    self.not_before = Some(now + SETTLING);
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    // Sockets that were not handed out are closed.
                    self.closing = self.device.as_mut().and_then(|device| device.registration.take());
                    let (settling, error) = (lost.is_settling(), error.to_string());
                    if !settling && lost.said.as_ref() != Some(&error) {
                        tracing::error!("{error}; it is tried again every second");
                        lost.said = Some(error);
                    }
                    self.not_before = Some(now + if settling { SOON } else { LATER });
                }
            }
        }
        self.lost = Some(lost);
    }

    /// Takes what is missing. False if there is no NIC of this name.
    fn resume(&mut self, index: usize, lan: &Lan, around: &Around<'_>) -> Result<bool, Error> {
        if self.device.is_none() {
            let nic = match Nic::find(&self.name) {
                Err(nic::Error::NoSuchInterface { .. }) => return Ok(false),
                found => found?,
            };
            let lock = NicLock::take_within(&nic, &around.options.state_dir, Duration::ZERO)?;
            lan.set_nic_mac(nic.mac());
            self.device = Some(Device::take(nic, lock, &self.steering, around.options, Duration::ZERO)?);
            self.warning();
        }
        let mut free = Vec::new();
        around.pool.take(&mut free, self.sizes.queues * self.sizes.ring);
        let sockets = self.sockets(around.options, around.pool.umem(), &mut free, Duration::ZERO);
        around.pool.give(&mut free, 0);
        for (commands, sockets) in around.commands.iter().zip(sockets?) {
            commands.send(Command::Nic { lan: index, sockets: Some(sockets) });
        }
        lan.tables.shared.live.store(1, Relaxed);
        if let Some(device) = &mut self.device {
            // What it finds wrong now, it finds again the next time.
            device.state = None;
            let _ = device.look(lan);
        }
        Ok(true)
    }

    /// Ports that the LAN may have, without starting again.
    pub(super) fn room(&self) -> usize {
        self.options.static_entries / PATTERNS
    }

    /// Writes what the XDP program is to know of the LAN.
    pub(super) fn share(&self, plan: &Plan, index: usize) {
        let shared = &self.steering.tables().shared;
        let workers = plan.workers_on(index);
        shared.group_workers.store(workers, Relaxed);
        shared.group_owner.store(workers.trailing_zeros() % 64, Relaxed);
        if let Some(device) = &self.device {
            shared.nic_mac.store(mac_word(device.mac), Relaxed);
        }
        if let Some(port) = plan.lans[index].flood {
            shared.flood_worker.store(plan.router_of(port).worker as u32, Relaxed);
        }
        shared.flood_unknown.store(u32::from(plan.lans[index].flood.is_some()), Relaxed);
    }

    /// True if the NIC takes frames of several chunks and its MTU makes use of it.
    pub(super) fn has_large_frames(&self) -> bool {
        let device = self.device.as_ref().filter(|device| device.scatter);
        device.and_then(|device| device.state).is_some_and(|state| needs_several_chunks(state.mtu))
    }

    /// What was got.
    fn got(&self) -> String {
        let Some(device) = &self.device else { return format!("{}: not there", self.name) };
        let copy = if device.zero_copy { "zero-copy" } else { "copy" };
        let large = match device.state.map_or(0, |state| state.mtu) {
            mtu if needs_several_chunks(mtu) => format!(", frames up to {} bytes", device.largest()),
            _ => String::new(),
        };
        let queues = match device.queues {
            1 => "1 queue".to_string(),
            n => format!("{n} queues"),
        };
        format!("{}: {} XDP, {copy}{large}, {queues}", device.nic.name(), device.attachment.mode)
    }

    /// What was got, for the user.
    pub(super) fn describe(&self, workers: &str) -> String {
        format!("{}, {workers}", self.got())
    }

    /// What the XDP program counted; `None`, with a warning, if it cannot be read.
    pub(super) fn counts(&self) -> Option<[u64; COUNTS]> {
        self.steering.tables().counts().inspect_err(|error| tracing::warn!("{}: {error}", self.name)).ok()
    }

    /// Waits until what the XDP program has begun is done: all it counted has then come to the workers' rings.
    pub(super) fn settle(&self) {
        if let Err(error) = self.steering.settle() {
            tracing::warn!("{}: {error}", self.name);
        }
    }

    /// Moves that the program has counted.
    pub(super) fn moves(&self) -> u64 {
        self.counts().map_or(0, |counts| counts[Count::Moved as usize])
    }

    /// If the program found no room to tell of one of the `moved` moves that it had counted before its news were read,
    /// the LAN's database is compared with the program's maps.
    pub(super) fn check_moves(&mut self, moved: u64, lan: &Lan, now: Duration) {
        if moved > self.moves_read {
            let stations = lan.resync(now);
            self.moves_read = moved;
            tracing::warn!(
                "{}: so many stations move that news were lost; {stations} entries mended",
                lan.nic
            );
        }
    }

    pub(super) fn moves_fd(&self) -> Option<BorrowedFd<'_>> {
        self.moves.as_ref().map(|(_, map)| map.as_fd())
    }

    /// Hands every record of a station that moved to `each`.
    pub(super) fn read_moves(&mut self, mut each: impl FnMut(&[u8])) {
        let Some((ring, _)) = &mut self.moves else { return };
        loop {
            let count = ring.peek();
            for n in 0..count {
                each(ring.record(n));
            }
            self.moves_read += count as u64;
            ring.release();
            if count == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CopyMode::{Auto, Copy, ZeroCopy};
    use std::os::fd::OwnedFd;

    fn attachment(mode: XdpMode, zero_copy_chunks: Option<u32>) -> Attachment {
        let link = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        Attachment { link, mode, zero_copy_chunks }
    }

    #[test]
    fn zero_copy_is_given_up_for_large_frames_only_and_not_where_the_user_insists() {
        for (choice, chunks, small, large) in [
            // veth; virtio-net and igc; i40e.
            (Auto, None, (Auto, true), (Auto, true)),
            (Auto, Some(1), (Auto, false), (Copy, true)),
            (Auto, Some(8), (Auto, true), (Auto, true)),
            (ZeroCopy, Some(1), (ZeroCopy, false), (ZeroCopy, false)),
            (ZeroCopy, Some(8), (ZeroCopy, true), (ZeroCopy, true)),
            (Copy, Some(1), (Copy, true), (Copy, true)),
        ] {
            let native = attachment(XdpMode::Native, chunks);
            assert_eq!(binding(choice, &native, false), small, "{choice:?} {chunks:?}");
            assert_eq!(binding(choice, &native, true), large, "{choice:?} {chunks:?}, large");
            let generic = attachment(XdpMode::Generic, chunks);
            assert_eq!(binding(choice, &generic, true), (Copy, true));
        }
    }

    #[test]
    fn who_turned_offloads_on_and_gave_in_is_not_held_to_insist_for_ever() {
        let second = |n| Duration::from_secs(n);
        let start = Instant::now();
        let mut flap_damping = FlapDamping::default();
        let mut found = |on, after| flap_damping.found(on, start + second(after));
        assert_eq!(found(false, 0), Answer::Nothing);
        for after in [1, 2, 3] {
            assert_eq!(found(true, after), Answer::TurnOff);
            assert_eq!(found(false, after), Answer::Nothing);
        }
        // Said once, however long it stays on.
        assert_eq!(found(true, 4), Answer::GiveUp);
        for after in 5..200 {
            assert_eq!(found(true, after), Answer::Nothing);
        }
        // Turned off by the command that was named, and on again: at once, and after a while.
        assert_eq!(found(false, 200), Answer::Nothing);
        assert_eq!(found(true, 201), Answer::Nothing);
        assert_eq!(found(false, 202), Answer::Nothing);
        assert_eq!(found(true, 262), Answer::TurnOff);
        // Three times in months are three times three, not a fourth.
        for day in 1..10 {
            assert_eq!(found(true, 1000 + day * 86_400), Answer::TurnOff);
        }
    }

    #[test]
    fn a_nic_of_the_usual_mtu_needs_one_chunk_a_frame() {
        assert!(!needs_several_chunks(1500) && !needs_several_chunks(3802));
        assert!(needs_several_chunks(3803) && needs_several_chunks(9000));
    }
}
