//! The NICs of the plan: takes them, hands the workers their sockets, follows what becomes of them, takes them again.
//!
//! A NIC may go at any time, and one of the same name may come. What belongs to the LAN stays then, the XDP program with
//! its maps above all; what belongs to the NIC, a [`Device`], goes with it and is taken again. [`Lifecycle`] says when.
//!
//! Taking a NIC again needs CAP_NET_ADMIN (the program's link, offloads), CAP_NET_RAW (AF_XDP and packet sockets),
//! CAP_BPF (the link, where unprivileged BPF is off), CAP_IPC_LOCK (the UMEM is registered anew, unless the limit on
//! locked memory allows it), and files in the state directory.

use super::sizes::Sizes;
use super::{Error, Options};
use crate::ether::Mac;
use crate::fdb::Fdb;
use crate::ids::{Id, SegmentId};
use crate::lan::Lan;
use crate::nic::attach::{PATIENCE, XdpMode};
use crate::nic::device::{Detach, Device, Modes, needs_several_chunks};
use crate::nic::kernel::shares_large_frames;
use crate::nic::links::Links;
use crate::nic::lock::NicLock;
use crate::nic::state::{Lifecycle, LinkEvent};
use crate::nic::{self, Nic};
use crate::plan::Plan;
use crate::steer::layout::{COUNTS, Count, HEAD, RouterState, mac_word};
use crate::steer::{self, Steering};
use crate::sys::ringbuf::RingBuffer;
use crate::worker::{
    Command, CommandSender, CopyRing, NicPart, NicSockets, Pool, QueueSocket, Rings, Steered, batch_chunks,
};
use af_xdp::{Chunk, Config, Registration, Sockets, Umem};
use libbpf_rs::MapHandle;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Chunks for the backlogs of routers that do not read, for all NICs together: 16 MiB.
pub(super) const BACKLOG: usize = 4096;
/// Entries in a TX ring at least: two batches of the largest frames.
const TX_MIN: usize = 2 * batch_chunks(true);
/// Queues that the XDP program has entries for, at least: a NIC that comes back may have more than the one before.
const QUEUES: usize = 64;

/// Lower devices of a NIC that are named at most: a bridge may have a hundred ports.
const WARNINGS: usize = 8;

/// Ports of a LAN that its BPF maps have entries for at least. Their size is fixed when they are made, while the NETMAP may
/// grow; an entry that is not used costs 16 bytes.
const PORTS: usize = 4096;
/// MAC patterns of a port.
const PATTERNS: usize = 3;

/// Ports that a LAN may come to have which starts with `ports`.
fn capacity(ports: usize) -> usize {
    PORTS.max(2 * ports)
}

/// A NIC of the plan, there or not.
pub(super) struct ManagedNic {
    /// As the user names it.
    name: String,
    device: Option<Device>,
    /// The frames that the kernel has of sockets which are being closed.
    closing: Option<Arc<Registration>>,
    state: Lifecycle,
    steering: Steering,
    moves: Option<(RingBuffer, MapHandle)>,
    /// Moves of stations that the XDP program has told of.
    moves_read: u64,
    options: steer::Options,
    sizes: Sizes,
    /// The warnings of its lower devices, or of its other end, that were given last.
    warnings: Vec<String>,
}

/// What a NIC needs of the rest of the forwarder to be taken again.
pub(super) struct Around<'a> {
    pub(super) options: &'a Options,
    pub(super) pool: &'a Pool,
    /// Of every worker.
    pub(super) commands: &'a [&'a CommandSender],
}

impl ManagedNic {
    /// Takes the NIC of LAN `index` and attaches the XDP program, which passes everything as yet.
    pub(super) fn take(plan: &Plan, index: usize, options: &Options) -> Result<Self, Error> {
        let lan = &plan.lans[SegmentId::at(index)];
        let nic = Nic::find(&lan.nic)?;
        if let Some(warning) = nic.warning() {
            tracing::warn!(nic = %lan.nic, "{warning}");
        }
        let lock = NicLock::take_in(&nic, &options.state_dir)?;
        let ports = lan.ports.len();
        let steer_options = steer::Options {
            workers: plan.workers,
            queues: (nic.max_rx_queues() as usize).max(QUEUES),
            exclusive: options.exclusive,
            dynamic_entries: Fdb::capacity(2 * capacity(ports)),
            static_entries: PATTERNS * capacity(ports),
        };
        let steering =
            Steering::load(&steer_options).map_err(|source| Error::Steer { nic: lan.nic.clone(), source })?;
        let device = take_device(nic, lock, &steering, options, PATIENCE)?;
        let mut nic = Self {
            name: lan.nic.clone(),
            closing: None,
            state: Lifecycle::attached(),
            steering,
            moves: None,
            moves_read: 0,
            options: steer_options,
            sizes: Sizes::new(device.queues, plan.workers, needs_several_chunks(device.nic.mtu())),
            device: Some(device),
            warnings: Vec::new(),
        };
        nic.warn_of_lower_devices();
        Ok(nic)
    }

    /// Names what makes frames above the MTU below the NIC, or at its other end, with what prevents it: once, until it is
    /// something else.
    fn warn_of_lower_devices(&mut self) {
        let Some(device) = &self.device else { return };
        let found: Vec<String> = match device.nic.issues(device.attachment.mode == XdpMode::Generic) {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        let new: Vec<&String> = found.iter().filter(|text| !self.warnings.contains(text)).collect();
        for text in new.iter().take(WARNINGS) {
            tracing::warn!(nic = %self.name, "{text}");
        }
        if new.len() > WARNINGS {
            tracing::warn!(nic = %self.name, "and {} more interfaces like these", new.len() - WARNINGS);
        }
        self.warnings = found;
    }

    /// Its name, and what keeps frames from it, in a word or two; `None` if nothing does.
    pub(super) fn condition(&self) -> (&str, Option<&'static str>) {
        (&self.name, self.state.condition())
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
        let mac = self.device.as_ref().map_or(Mac([0; 6]), Device::mac);
        let lan = Arc::new(
            Lan::new(
                &self.name,
                mac,
                &plan.bridge_ports(SegmentId::at(index)),
                self.steering.tables().clone(),
            )
            .map_err(steer_error)?,
        );
        all_down(plan, &lan, index);
        self.share(plan, index);
        for (worker, (part, sockets)) in parts.iter_mut().zip(sockets).enumerate() {
            let (ring, fd) = self.steering.copies(worker).map_err(steer_error)?;
            let fd = fd.try_clone_to_owned().map_err(|error| Error::System("a ring buffer", error))?;
            part.push(NicPart { lan: lan.clone(), sockets, copies: CopyRing { ring, fd } });
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
        let (copy_mode, scatter) = device.binding(options.copy_mode);
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
                // Nothing is in flight: what the former socket of these credits did not take is dropped.
                let steered = shared.credits.get(credits).map_or_else(Steered::default, |credits| {
                    let chunks = credits.steered.load(Relaxed);
                    credits.returned.store(chunks, Relaxed);
                    Steered { chunks, frames: credits.frames.load(Relaxed) }
                });
                workers[worker].queues.push(QueueSocket { socket, rings: rings.clone(), credits, steered });
            }
        }
        Ok(workers)
    }

    /// The NIC's state before the workers run.
    pub(super) fn first_look(&mut self, lan: &Lan) {
        // A NIC that goes already is dealt with when there are workers.
        let _ = self.look(lan);
    }

    /// Looks at the NIC and does what follows: tells the workers its state, gives it back when it has gone, takes it again
    /// when it is back. Waits for a grace period of the kernel at most.
    pub(super) fn follow(&mut self, index: usize, lan: &Lan, around: &Around<'_>) {
        if let Some(detach) = self.look(lan) {
            self.detach(detach, index, lan, around);
        }
        self.recover(index, lan, around);
    }

    /// Looks at the NIC for the last time, when the XDP program passes everything already: if it has gone unnoticed, its
    /// sockets are closed, so that what it took along is counted. One that is still there keeps its sockets, for what is
    /// to be sent.
    pub(super) fn last_look(&mut self, index: usize, lan: &Lan, around: &Around<'_>) {
        if let Some(detach @ Detach::Gone(_)) = self.look(lan) {
            self.detach(detach, index, lan, around);
        }
    }

    /// How long until [`follow`](Self::follow) is due, events apart.
    pub(super) fn next_step(&self) -> Option<Duration> {
        self.state.next_step(Instant::now())
    }

    /// Reads the state of a NIC in use, tells the workers, and logs what changed. Says if it must be taken anew.
    fn look(&mut self, lan: &Lan) -> Option<Detach> {
        let device = self.device.as_mut()?;
        let detach = device.must_detach();
        if detach.is_some() || !self.state.is_attached() {
            return detach;
        }
        let before = self.state.link();
        let link = match device.nic.refresh_state() {
            Ok(link) => {
                if let Some(mac) = device.follow_mac() {
                    tracing::info!(nic = %self.name, "its address is {mac} now");
                    lan.set_nic_mac(mac);
                }
                device.follow_offloads();
                lan.mtu.store(link.mtu, Relaxed);
                if before.is_none_or(|before| before.mtu != link.mtu) {
                    device.warn_of_mtu(link.mtu);
                }
                Some(link)
            }
            Err(error @ nic::Error::Gone { .. }) => return Some(Detach::Gone(error)),
            Err(error) => {
                if before.is_some() {
                    tracing::warn!(nic = %self.name, "{error}");
                }
                None
            }
        };
        let event = self.state.looked(link);
        lan.up.store(self.state.is_up(), Relaxed);
        let dropped = "frames from the routers are dropped until it";
        match event {
            Some(LinkEvent::Down) => tracing::warn!(nic = %self.name, "down; {dropped} is up"),
            Some(LinkEvent::CarrierLost) => {
                tracing::warn!(nic = %self.name, "carrier lost; {dropped} is back")
            }
            Some(LinkEvent::NoCarrier) => tracing::warn!(nic = %self.name, "no carrier; {dropped} is there"),
            Some(LinkEvent::Up) => {
                tracing::info!(nic = %self.name, "up, MTU {}", link.map_or(0, |link| link.mtu));
            }
            None => {}
        }
        None
    }

    /// Has the workers close their sockets, and gives back what was taken from the NIC.
    fn detach(&mut self, detach: Detach, index: usize, lan: &Lan, around: &Around<'_>) {
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
        match detach {
            Detach::Gone(error) => {
                tracing::warn!(nic = %name, "{error}; forwarding goes on when there is one of this name again");
            }
            Detach::Renamed(to) => tracing::warn!(
                nic = %name,
                "{name} is called {to} now; it is given back, and forwarding goes on when there is a {name} again"
            ),
            Detach::ProgramGone => tracing::warn!(
                nic = %name,
                "its XDP program was detached, by another program or because the NIC was removed; attaching again"
            ),
            Detach::Queues(queues) => tracing::info!(nic = %name, "{queues} queues now; attaching again"),
        }
        // Whatever it was: the program as well. A veth that is given queues does not give them the program
        // (veth_set_channels in drivers/net/veth.c), and frames on them would reach the host alone.
        self.device = None;
        self.state.lost(self.closing.is_some(), Instant::now());
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
            self.state.released();
        }
        let now = Instant::now();
        if !self.state.is_due(now) {
            return;
        }
        match self.resume(index, lan, around) {
            Ok(true) => {
                self.state.resumed(now);
                // What is wrong with it now is found again at the next look.
                let _ = self.look(lan);
                tracing::info!(nic = %self.name, "{}; forwarding goes on", self.got());
            }
            Ok(false) => self.state.absent(),
            Err(error) => {
                // Sockets that were not handed out are closed.
                self.closing = self.device.as_mut().and_then(|device| device.registration.take());
                let error = error.to_string();
                if self.state.failed(&error, self.closing.is_some(), now) {
                    tracing::error!(nic = %self.name, "{error}; retrying every second");
                }
            }
        }
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
            self.device = Some(take_device(nic, lock, &self.steering, around.options, Duration::ZERO)?);
            self.warn_of_lower_devices();
        }
        let mut free = Vec::new();
        around.pool.take(&mut free, self.sizes.queues * self.sizes.ring);
        let sockets = self.sockets(around.options, around.pool.umem(), &mut free, Duration::ZERO);
        around.pool.give(&mut free, 0);
        for (commands, sockets) in around.commands.iter().zip(sockets?) {
            commands.send(Command::Nic { lan: index, sockets: Some(sockets) });
        }
        lan.tables.shared.live.store(1, Relaxed);
        Ok(true)
    }

    /// Ports that the LAN may have, without starting again.
    pub(super) fn capacity(&self) -> usize {
        self.options.static_entries / PATTERNS
    }

    /// Writes what the XDP program is to know of the LAN.
    pub(super) fn share(&self, plan: &Plan, index: usize) {
        let shared = &self.steering.tables().shared;
        let workers = plan.workers_on(SegmentId::at(index));
        shared.bum_workers.store(workers, Relaxed);
        shared.bum_owner.store(workers.trailing_zeros() % 64, Relaxed);
        if let Some(device) = &self.device {
            shared.nic_mac.store(mac_word(device.mac()), Relaxed);
        }
        if let Some(port) = plan.lans[SegmentId::at(index)].flood {
            shared.flood_worker.store(plan.router_of(port).worker as u32, Relaxed);
        }
        shared.flood_unknown.store(u32::from(plan.lans[SegmentId::at(index)].flood.is_some()), Relaxed);
    }

    /// True if the NIC takes frames of several chunks and its MTU makes use of it.
    pub(super) fn has_large_frames(&self) -> bool {
        let scatter = self.device.as_ref().is_some_and(|device| device.scatter);
        scatter && self.state.link().is_some_and(|link| needs_several_chunks(link.mtu))
    }

    /// What was got.
    fn got(&self) -> String {
        let Some(device) = &self.device else { return format!("{}: not there", self.name) };
        let copy = if device.zero_copy { "zero-copy" } else { "copy" };
        let large = match self.state.link().map_or(0, |link| link.mtu) {
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
        self.steering.tables().counts().inspect_err(|error| tracing::warn!(nic = %self.name, "{error}")).ok()
    }

    /// Waits until what the XDP program has begun is done: all it counted has then come to the workers' rings.
    pub(super) fn settle(&self) {
        if let Err(error) = self.steering.settle() {
            tracing::warn!(nic = %self.name, "{error}");
        }
    }

    /// Moves that the program has counted.
    pub(super) fn moves(&self) -> u64 {
        self.counts().map_or(0, |counts| counts[Count::Moved as usize])
    }

    /// If the program had no space for the event of one of the `moved` moves that it had counted before its events were
    /// read, the LAN's database is compared with the program's maps.
    pub(super) fn check_moves(&mut self, moved: u64, lan: &Lan, now: Duration) {
        if moved > self.moves_read {
            let stations = lan.resync(now);
            self.moves_read = moved;
            tracing::warn!(
                nic = %lan.nic,
                "so many MAC addresses move that events were dropped; {stations} FDB entries corrected"
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

/// Takes `nic`, which is locked, and attaches the XDP program.
fn take_device(
    nic: Nic,
    lock: NicLock,
    steering: &Steering,
    options: &Options,
    patience: Duration,
) -> Result<Device, Error> {
    let name = nic.name().to_owned();
    let program = steering.program().map_err(|source| Error::Steer { nic: name, source })?;
    let modes = Modes { xdp: options.xdp_mode, copy: options.copy_mode };
    Ok(Device::take(nic, lock, program.as_fd(), modes, patience)?)
}

/// A router that is not connected is down for the XDP programs, too.
fn all_down(plan: &Plan, lan: &Lan, index: usize) {
    for port in &plan.lans[SegmentId::at(index)].ports {
        lan.set_router_state(plan.ports[*port].router, RouterState::Down);
    }
}
