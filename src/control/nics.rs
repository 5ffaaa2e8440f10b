//! A network card in use: everything that was taken from it and is given back.

use super::{Error, Options, all_down};
use crate::ethernet;
use crate::fdb::Fdb;
use crate::lan::Lan;
use crate::nic::attach::{Attachment, XdpMode, XdpModeChoice, attach};
use crate::nic::hold::Hold;
use crate::nic::kernel::shares_large_frames;
use crate::nic::offload::Offloads;
use crate::nic::promisc::Promiscuous;
use crate::nic::{LinkState, Nic};
use crate::plan::Plan;
use crate::steer::layout::{COUNTS, Count, HEAD, MAX_LARGE, MAX_STEERED, mac_word};
use crate::steer::{self, Steering};
use crate::sys::mmsg::CHUNKS;
use crate::sys::ringbuf::RingBuffer;
use crate::worker::{NicPart, Rings, batch_chunks, reserve};
use af_xdp::{Config, CopyMode, Frame, Sockets, Umem};
use libbpf_rs::MapHandle;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Chunks for the backlogs of routers that do not read, for all NICs together: 16 MiB.
pub(super) const BACKLOG: usize = 4096;
/// Places in the fill rings of a NIC together; a NIC with many queues gets less for each.
const FILL: usize = 8192;
/// Places in a worker's ring at most, and in a fill ring at least and at most.
const RING_MAX: usize = 2048;
const FILL_MIN: usize = 256;
const FILL_MAX: usize = 2 * RING_MAX;
/// Places in a TX ring at least: two batches of the largest frames.
const TX_MIN: usize = 2 * batch_chunks(true);
/// Chunks in a worker's TX ring and stock beyond what it reads at a time.
const WORKER_CHUNKS: usize = 1024;

/// Whether a card of this MTU has frames that do not fit into one chunk; those with two VLAN tags are the largest.
fn needs_several_chunks(mtu: u32) -> bool {
    mtu as usize + ethernet::HEADER + 2 * ethernet::TAG > MAX_STEERED
}

/// How to bind to a card: whether to copy, and whether frames may take several chunks. A driver may have zero-copy for
/// frames of one chunk only; it is then given up for `large` frames, unless the user insists on it.
fn binding(choice: CopyMode, attachment: Option<&Attachment>, large: bool) -> (CopyMode, bool) {
    let native = attachment.filter(|attachment| attachment.mode == XdpMode::Native);
    let zero_copy = native.and_then(|attachment| attachment.zero_copy_chunks);
    let enough = zero_copy.is_some_and(|chunks| chunks as usize >= CHUNKS);
    match choice {
        _ if native.is_none() => (CopyMode::Copy, true),
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

/// A NIC in use. Fields are dropped in this order: the program goes before the offloads come back, for some
/// drivers refuse to change them under XDP; the hold goes last.
pub(super) struct Card {
    attachment: Option<Attachment>,
    steering: Steering,
    moves: Option<(RingBuffer, MapHandle)>,
    _promiscuous: Promiscuous,
    _offloads: Offloads,
    _hold: Hold,
    nic: Nic,
    state: Option<LinkState>,
    zero_copy: bool,
    /// Frames may take several chunks.
    scatter: bool,
    /// Moves of stations that the XDP program has told of.
    moves_read: u64,
    options: steer::Options,
}

/// How large a NIC's rings are.
pub(super) struct Sizes {
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

impl Card {
    /// Takes the NIC of LAN `index` and attaches the XDP program, which passes everything as yet.
    pub(super) fn take(plan: &Plan, index: usize, options: &Options) -> Result<Self, Error> {
        let lan = &plan.lans[index];
        let nic = Nic::find(&lan.nic)?;
        if let Some(caution) = nic.caution() {
            tracing::warn!("{}: {caution}", lan.nic);
        }
        let hold = Hold::take_in(&nic, &options.state_dir)?;
        let ports = lan.ports.len();
        let steer_options = steer::Options {
            workers: plan.workers,
            queues: nic.rx_queues() as usize,
            exclusive: options.exclusive,
            learned: Fdb::capacity(2 * room(ports)),
            predicted: PATTERNS * room(ports),
        };
        let steer_error = |source| Error::Steer { nic: lan.nic.clone(), source };
        let steering = Steering::load(&steer_options).map_err(steer_error)?;
        let mut offloads = Offloads::quiet(&nic, &hold, options.xdp_mode == XdpModeChoice::Generic)?;
        let promiscuous = Promiscuous::join(&nic)?;
        if nic.state().carrier {
            tracing::info!("{}: attaching; some cards lose carrier for two seconds now", lan.nic);
        }
        let program = steering.program().map_err(steer_error)?;
        let attachment = attach(program.as_fd(), &nic, options.xdp_mode)?;
        drop(program);
        if attachment.mode == XdpMode::Generic {
            if options.copy_mode == CopyMode::ZeroCopy {
                return Err(Error::ZeroCopyGeneric(lan.nic.clone()));
            }
            offloads.quiet_for_generic()?;
            if let Some(caution) = nic.generic_caution() {
                tracing::warn!("{}: {caution}", lan.nic);
            }
        }
        for feature in offloads.still_on() {
            tracing::warn!("{}: {feature}", lan.nic);
        }
        Ok(Self {
            attachment: Some(attachment),
            steering,
            moves: None,
            _promiscuous: promiscuous,
            _offloads: offloads,
            _hold: hold,
            nic,
            state: None,
            zero_copy: false,
            scatter: false,
            moves_read: 0,
            options: steer_options,
        })
    }

    pub(super) fn sizes(&self, workers: usize) -> Sizes {
        let queues = self.options.queues.max(1);
        let most = (RING_MAX * workers).next_power_of_two().min(FILL_MAX);
        let ring = (FILL / queues).next_power_of_two().clamp(FILL_MIN, most);
        // The power of two at or below an equal share.
        let share = (1 << (ring / workers.max(1)).max(1).ilog2()).min(RING_MAX);
        let large = needs_several_chunks(self.nic.mtu());
        let reserve = reserve(queues, ring, workers, large);
        let own = workers * (batch_chunks(large) + WORKER_CHUNKS);
        Sizes { ring, share, reserve, chunks: queues * ring + reserve + own }
    }

    /// Opens the AF_XDP sockets, and adds each worker's to its `parts`.
    #[expect(clippy::too_many_arguments, reason = "called once; what it needs comes from everywhere")]
    pub(super) fn open(
        &mut self,
        plan: &Plan,
        index: usize,
        options: &Options,
        sizes: &Sizes,
        umem: &Arc<Umem>,
        free: &mut Vec<Frame>,
        parts: &mut [Vec<NicPart>],
    ) -> Result<Arc<Lan>, Error> {
        let name = plan.lans[index].nic.clone();
        let steer_error = |source| Error::Steer { nic: name.clone(), source };
        let large = needs_several_chunks(self.nic.mtu());
        let sockets = self.options.queues * plan.workers;
        let (copy_mode, scatter) = binding(options.copy_mode, self.attachment.as_ref(), large);
        let config = Config {
            ifindex: self.nic.index(),
            queues: self.options.queues as u32,
            sockets_per_queue: plan.workers as u32,
            fill_size: sizes.ring as u32,
            completion_size: sizes.ring as u32,
            rx_size: sizes.share as u32,
            tx_size: sizes.share.max(TX_MIN) as u32,
            copy_mode,
            scatter: scatter && (sockets == 1 || shares_large_frames()),
        };
        let sockets = Sockets::open(umem, free, &config)
            .map_err(|source| Error::AfXdp { nic: name.clone(), source })?;
        self.zero_copy = sockets.zero_copy;
        self.scatter = sockets.scatter;
        let lan = Arc::new(
            Lan::new(plan, index, self.nic.mac(), self.steering.tables().clone()).map_err(steer_error)?,
        );
        all_down(plan, &lan, index);
        self.share(plan, index);
        let shared = &self.steering.tables().shared;
        shared.lane_share.store(sizes.share as u32, Relaxed);
        shared.lane_head.store(if self.zero_copy { 0 } else { HEAD as u32 }, Relaxed);
        let mut queues: Vec<Vec<_>> = parts.iter().map(|_| Vec::new()).collect();
        for (number, queue) in sockets.queues.into_iter().enumerate() {
            let rings = Arc::new(Rings::new(queue.fill, queue.completion));
            for (worker, socket) in queue.sockets.into_iter().enumerate() {
                self.steering
                    .set_ring(&self.options, number, worker, socket.rx.as_fd())
                    .map_err(steer_error)?;
                queues[worker].push((socket, rings.clone()));
            }
        }
        for (worker, (part, queues)) in parts.iter_mut().zip(queues).enumerate() {
            let (ring, fd) = self.steering.copies(worker).map_err(steer_error)?;
            let fd = fd.try_clone_to_owned().map_err(|error| Error::System("a ring buffer", error))?;
            part.push(NicPart {
                lan: lan.clone(),
                queues,
                tx_queues: self.nic.tx_queues() as usize,
                scatter: self.scatter,
                copies: (ring, fd),
            });
        }
        self.moves = Some(self.steering.moves().map_err(steer_error)?);
        Ok(lan)
    }

    /// Ports that the LAN may have, without starting again.
    pub(super) fn room(&self) -> usize {
        self.options.predicted / PATTERNS
    }

    /// Writes what the XDP program is to know of the LAN.
    pub(super) fn share(&self, plan: &Plan, index: usize) {
        let shared = &self.steering.tables().shared;
        shared.largest.store(self.largest() as u32, Relaxed);
        let workers = plan.workers_on(index);
        shared.group_workers.store(workers, Relaxed);
        shared.group_owner.store(workers.trailing_zeros() % 64, Relaxed);
        shared.nic_mac.store(mac_word(self.nic.mac()), Relaxed);
        if let Some(port) = plan.lans[index].flood {
            shared.flood_worker.store(plan.router_of(port).worker as u32, Relaxed);
        }
        shared.flood_unknown.store(u32::from(plan.lans[index].flood.is_some()), Relaxed);
    }

    fn mode(&self) -> Option<XdpMode> {
        self.attachment.as_ref().map(|attachment| attachment.mode)
    }

    /// What was got, for the user.
    pub(super) fn describe(&self, workers: &str) -> String {
        let mode = self.mode().map_or_else(|| "no".to_string(), |mode| mode.to_string());
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let large = match self.state.map_or(0, |state| state.mtu) {
            mtu if needs_several_chunks(mtu) => format!(", frames up to {} bytes", self.largest()),
            _ => String::new(),
        };
        let queues = match self.options.queues {
            1 => "1 queue".to_string(),
            n => format!("{n} queues"),
        };
        format!("{}: {mode} XDP, {copy}{large}, {queues}, {workers}", self.nic.name())
    }

    /// The largest frame that is steered to routers, bytes.
    fn largest(&self) -> usize {
        if self.scatter { MAX_LARGE } else { MAX_STEERED }
    }

    /// True if the card takes frames of several chunks and its MTU makes use of it.
    pub(super) fn has_large_frames(&self) -> bool {
        self.scatter && self.state.is_some_and(|state| needs_several_chunks(state.mtu))
    }

    /// Says what does not fit into the buffers under this MTU, and what can be done.
    fn warn_of_mtu(&self, mtu: u32) {
        let (name, largest) = (self.nic.name(), self.largest());
        if mtu as usize + ethernet::HEADER <= largest {
            return;
        }
        let why = match self.attachment.as_ref().and_then(|attachment| attachment.zero_copy_chunks) {
            _ if self.scatter => "the largest that buffers are made for",
            Some(_) if self.zero_copy => {
                "its driver takes no larger ones with zero-copy: start iou-fast again, with `--copy-mode copy`"
            }
            _ => "larger ones need kernel 6.6 or newer, 6.7 with several queues or workers",
        };
        tracing::warn!(
            "{name}: its MTU is {mtu}, and frames above {largest} bytes are dropped and counted ({why})"
        );
    }

    /// Reads the NIC's state, tells the workers, and logs what changed.
    pub(super) fn follow_link(&mut self, lan: &Lan) {
        let state = match self.nic.refresh_state() {
            Ok(state) => state,
            Err(error) => {
                if self.state.take().is_some() {
                    tracing::warn!("{error}");
                }
                lan.up.store(false, Relaxed);
                return;
            }
        };
        lan.up.store(state.up && state.carrier, Relaxed);
        lan.mtu.store(state.mtu, Relaxed);
        let before = self.state.replace(state);
        if before == Some(state) {
            return;
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
    }

    /// What the XDP program counted; `None`, with a warning, if it cannot be read.
    pub(super) fn counts(&self) -> Option<[u64; COUNTS]> {
        self.steering
            .tables()
            .counts()
            .inspect_err(|error| tracing::warn!("{}: {error}", self.nic.name()))
            .ok()
    }

    /// Waits until what the XDP program has begun is done: all it counted has then come to the workers' rings.
    pub(super) fn settle(&self) {
        if let Err(error) = self.steering.settle() {
            tracing::warn!("{}: {error}", self.nic.name());
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
            assert_eq!(binding(choice, Some(&native), false), small, "{choice:?} {chunks:?}");
            assert_eq!(binding(choice, Some(&native), true), large, "{choice:?} {chunks:?}, large");
            let generic = attachment(XdpMode::Generic, chunks);
            assert_eq!(binding(choice, Some(&generic), true), (Copy, true));
        }
    }

    #[test]
    fn a_card_of_the_usual_mtu_needs_one_chunk_a_frame() {
        assert!(!needs_several_chunks(1500) && !needs_several_chunks(3802));
        assert!(needs_several_chunks(3803) && needs_several_chunks(9000));
    }
}
