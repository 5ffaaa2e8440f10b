//! From the routers: datagrams straight into UMEM chunks, checked, and on to a NIC or another router.

use super::poller::Poller;
use super::pool::ChunkCache;
use super::router_egress::{Datagram, FloodPort, Origin, RouterEgress};
use super::{BATCH, FLOOD_SENDS, Rings, batch_chunks, clock};
use crate::ether::Address;
use crate::ether::control_frames::{self, Blocked, Protocol};
use crate::ether::{self, View};
use crate::fdb::{AddressMap, Learned, Refusal};
use crate::iou::InstanceId;
use crate::iou::header::{self, Header, TYPE_DATA};
use crate::lan::{Lan, explain};
use crate::plan::{Plan, Port, Router};
use crate::rate_limiter::RateLimiter;
use crate::stats::{self, DropReason, Fault, Latency, WorkerCounts};
use crate::sys::mmsg::{CHUNKS, Receiver, TooFew};
use af_xdp::{Fragment, Kick, RingFull, Tx};
use rustc_hash::FxHashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Where in its chunk a datagram is put, in bytes: the frame then begins on a cache line.
pub(super) const DATAGRAM_OFFSET: usize = 56;
/// Batches read from one pseudo socket before others get their turn.
const BATCHES: usize = 4;
/// How long a source that was looked up needs no look-up again, ns. Short enough for the table's reckoning of what
/// was used last, and for a refused source to get another chance.
const SOURCE_GOOD_FOR: u64 = 1_000_000_000;
/// Stations whose place a worker remembers, for each LAN.
const REMEMBERED: usize = 4096;
/// Kicks in a row that may bring nothing before what is left stays for the next turn.
const IDLE_KICKS: usize = 64;
/// How long routers wait for a NIC that takes nothing, ns; then what they send is thrown away and counted.
const PATIENCE: u64 = 1_000_000_000;

/// One of our pseudo instances: a socket that routers send to.
pub(super) struct Pseudo {
    pub(super) socket: OwnedFd,
    /// Its id.
    pub(super) id: u16,
    /// By destination interface: index into `links`, plus one.
    pub(super) by_interface: Box<[u16; 256]>,
    pub(super) links: Vec<PseudoLink>,
    /// Datagrams read at a time: [`BATCH`], and fewer while they are broadcast and multicast frames for many routers.
    pub(super) most: usize,
}

/// A link of a pseudo instance.
#[derive(Debug)]
pub(super) struct PseudoLink {
    /// Index into the worker's NICs.
    pub(super) nic: usize,
    pub(super) sources: Vec<Source>,
}

/// A router's interface, as a sender.
#[derive(Debug)]
pub(super) struct Source {
    /// Index of the port in the plan.
    pub(super) port: usize,
    /// Index of the router, of which there are fewer than [`STAMP_GROUP`](crate::steer::layout::STAMP_GROUP).
    router: u16,
    /// The whole header of a data frame from it, as one word.
    pub(super) word: u64,
    /// Ports that hear it without us, ascending.
    pub(super) split_horizon: Vec<usize>,
    /// The path of its socket, and how much of it is the directory.
    path: Box<[u8]>,
    directory: usize,
    checked: Checked,
    /// That it speaks as somebody else was said.
    reported: bool,
}

/// The last source address of a port, which then needs no look-up for a while.
#[derive(Clone, Copy, Debug)]
struct Checked {
    station: Option<Address>,
    generation: u64,
    until: u64,
    spoofed: bool,
}

impl Source {
    pub(super) fn new(plan: &Plan, port: usize) -> Self {
        let Port { router, from_router, split_horizon, .. } = &plan.ports[port];
        let Router { lab, id, .. } = plan.routers[*router];
        let socket = plan.labs[lab].netio.join(id.to_string());
        let checked = Checked { station: None, generation: 0, until: 0, spoofed: false };
        let path: Box<[u8]> = socket.as_os_str().as_encoded_bytes().into();
        let directory = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        Self {
            port,
            router: *router as u16,
            word: from_router.word(),
            split_horizon: split_horizon.clone(),
            path,
            directory,
            checked,
            reported: false,
        }
    }

    /// Whether a sender bound to `path` may speak for this router: anybody but who is bound to another instance's
    /// path in the directory. Routers look at headers alone, and whoever relays for one need not be bound, or not here.
    fn may_be_sent_by(&self, path: &[u8]) -> bool {
        if *path == *self.path || path.is_empty() {
            return true;
        }
        let name = path.strip_prefix(&self.path[..self.directory]);
        let id = name.and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| name.parse().ok());
        id.and_then(InstanceId::new).is_none()
    }
}

/// A worker's direction out of a NIC.
pub(super) struct TxQueue {
    pub(super) tx: Tx,
    /// It takes frames of several chunks.
    scatter: bool,
    /// Places in the TX ring that a batch of datagrams may need, or all of them if that is fewer.
    batch: usize,
    /// The rings of the queue that `tx` is on.
    pub(super) rings: Arc<Rings>,
}

impl TxQueue {
    /// By `tx`, with `scatter` also frames of several chunks; datagrams may be such now if `large`.
    pub(super) fn new(tx: Tx, rings: Arc<Rings>, scatter: bool, large: bool) -> Self {
        Self { batch: places(&tx, scatter && large), tx, scatter, rings }
    }
}

/// A NIC, as a place to send to.
pub(super) struct NicEgress {
    pub(super) lan: Arc<Lan>,
    /// `None` while the NIC is not there.
    pub(super) tx_queue: Option<TxQueue>,
    /// All ports of the LAN.
    pub(super) ports: Vec<FloodPort>,
    /// Where in `ports` a port of the plan is.
    pub(super) port_at: FxHashMap<u32, usize>,
    pub(super) flood: Option<usize>,
    /// When the frames of this batch came into their queue, `CLOCK_REALTIME`, ns, and how many did then.
    times: Vec<(u64, usize)>,
    remembered: Remembered,
    /// Something is in the TX ring that the kernel has not taken.
    pub(super) unsent: bool,
    /// Since when that is so although the kernel was told, ns; 0 if it is not.
    behind_since: u64,
    /// Frames and bytes put into the TX ring since it was last empty, and how many of them the driver threw away.
    pushed: (u64, u64),
    refused: u64,
    /// What the kernel says when it does not send may come with every batch.
    kick_errors: RateLimiter,
}

/// A worker's memory of where stations are.
struct Remembered {
    generation: u64,
    places: AddressMap<Option<u32>>,
}

impl NicEgress {
    /// Without sockets as yet.
    pub(super) fn new(lan: Arc<Lan>, ports: Vec<FloodPort>, flood: Option<usize>) -> Self {
        let mut side = Self {
            lan,
            tx_queue: None,
            ports: Vec::new(),
            port_at: FxHashMap::default(),
            flood: None,
            times: Vec::with_capacity(BATCH),
            remembered: Remembered {
                generation: u64::MAX,
                places: AddressMap::with_capacity_and_hasher(REMEMBERED, Default::default()),
            },
            unsent: false,
            behind_since: 0,
            pushed: (0, 0),
            refused: 0,
            kick_errors: RateLimiter::default(),
        };
        side.set_ports(ports, flood);
        side
    }

    /// Datagrams may take several chunks from now on.
    pub(super) fn take_large(&mut self) {
        if let Some(tx_queue) = &mut self.tx_queue {
            tx_queue.batch = places(&tx_queue.tx, tx_queue.scatter);
        }
    }

    /// The LAN has these ports from now on.
    pub(super) fn set_ports(&mut self, ports: Vec<FloodPort>, flood: Option<usize>) {
        self.port_at = ports.iter().enumerate().map(|(at, port)| (port.port as u32, at)).collect();
        (self.ports, self.flood) = (ports, flood);
    }

    /// True if the NIC is slower than the routers: what they send waits in their sockets rather than be thrown away.
    pub(super) fn is_behind(&self, now: u64) -> bool {
        self.unsent && self.lan.up.load(Relaxed) && now < self.behind_since + PATIENCE
    }

    /// True if something of the TX ring is still to be sent; [`transmit`] then goes on with it.
    pub(super) fn is_sending(&mut self) -> bool {
        self.unsent |= self.tx_queue.as_mut().is_some_and(|tx_queue| tx_queue.tx.pending() > 0);
        self.unsent && self.lan.up.load(Relaxed)
    }

    fn push(&mut self, fragment: Fragment) -> Result<(), RingFull> {
        match &mut self.tx_queue {
            Some(tx_queue) => tx_queue.tx.push(fragment),
            None => Err(RingFull(fragment)),
        }
    }

    /// A frame of so many bytes, which came into its queue at `time`, was put into the TX ring.
    fn pushed(&mut self, bytes: usize, time: u64) {
        self.pushed = (self.pushed.0 + 1, self.pushed.1 + bytes as u64);
        match self.times.last_mut() {
            Some((last, frames)) if *last == time => *frames += 1,
            _ => self.times.push((time, 1)),
        }
        self.unsent = true;
    }

    /// The port that `station` is behind, from memory if nothing has changed.
    fn place_of(&mut self, station: &Address) -> Option<u32> {
        let generation = self.lan.generation();
        let Remembered { generation: known, places } = &mut self.remembered;
        if *known != generation || places.len() >= REMEMBERED {
            places.clear();
            *known = generation;
        }
        *places.entry(*station).or_insert_with(|| self.lan.lookup(station))
    }
}

/// What a frame from a router meets on its direction; one a worker.
pub(super) struct RouterIngress<'a> {
    pub(super) nics: &'a mut [NicEgress],
    pub(super) receiver: &'a mut Receiver,
    /// The chunks of one large frame; empty in between.
    pub(super) parts: &'a mut Vec<Fragment>,
    pub(super) egress: &'a mut RouterEgress,
    pub(super) cache: &'a mut ChunkCache,
    pub(super) poller: &'a Poller,
    pub(super) counts: &'a WorkerCounts,
    pub(super) latency: &'a mut Latency,
    /// Control frames that are kept off the wire.
    pub(super) blocked: Blocked,
    /// Copies made of the broadcast and multicast frames of a batch.
    pub(super) copies: usize,
}

impl RouterIngress<'_> {
    /// Reads what waits in the socket of `pseudo`, a few batches of it. Returns how many datagrams that were.
    ///
    /// A broadcast or multicast frame is work for every router of the LAN: a router that floods them takes no more of a turn than one
    /// that floods unicast.
    pub(super) fn read(&mut self, pseudo: &mut Pseudo) -> usize {
        let (mut read, mut copies) = (0, 0);
        for _ in 0..BATCHES {
            let most = pseudo.most;
            let Ok(count) = self.receiver.receive(pseudo.socket.as_fd(), most) else { break };
            read += count;
            self.counts.entries.read.add(count as u64);
            self.cache.refill(count);
            let now = clock::monotonic();
            self.copies = 0;
            for n in 0..count {
                if let Err(why) = self.forward(pseudo, n, now) {
                    self.counts.count_drop(stats::Origin::Router, why, 1);
                }
            }
            self.egress.send_runs(self.cache, self.poller);
            for nic in &mut *self.nics {
                transmit(nic, self.cache, self.counts, self.latency);
            }
            pseudo.most = if self.copies > FLOOD_SENDS {
                (most * FLOOD_SENDS / self.copies).max(1)
            } else {
                BATCH.min(most * 2)
            };
            copies += self.copies;
            if count < most || copies >= FLOOD_SENDS || self.nics.iter().any(|nic| nic.unsent) {
                break;
            }
        }
        read
    }

    fn forward(&mut self, pseudo: &mut Pseudo, n: usize, now: u64) -> Result<(), DropReason> {
        let received = self.receiver.received(n);
        if received.truncated {
            return Err(DropReason::TooLong);
        }
        let len = received.len;
        // A datagram that takes several chunks has its headers in the first.
        let (is_large, here) = (len > self.receiver.first_room(), len.min(self.receiver.first_room()));
        let datagram = &self.receiver.bytes_mut(n)[..here];
        let (Some(header), Some(view)) =
            (Header::read(datagram), datagram.get(header::LEN..).and_then(View::read))
        else {
            return Err(DropReason::Short);
        };
        let (link, source) = check(pseudo, header)?;
        let link = &mut pseudo.links[link];
        let source = &mut link.sources[source];
        if !source.may_be_sent_by(self.receiver.sender(n)) {
            return Err(DropReason::WrongSender);
        }
        let nic = &mut self.nics[link.nic];
        let bytes = self.receiver.bytes_mut(n);
        let frame = &bytes[header::LEN..here];
        learn(&nic.lan, source, view.source, frame, now)?;
        if view.destination.mac.is_group() {
            // A loop behind another port must not teach that the sender is there.
            nic.lan.heard(frame, now);
            self.copies += nic.ports.len();
            let mut replicas = 0;
            let (first, others) = self.receiver.parts_mut(n);
            for port in &nic.ports {
                replicas +=
                    replicate(port, source, first, &others, now, self.egress, self.cache, self.poller);
            }
            self.counts.entries.replicas.add(replicas);
        } else {
            match nic.place_of(&view.destination) {
                Some(port) if source.split_horizon.binary_search(&(port as usize)).is_ok() => {
                    self.counts.split_horizon.add(1);
                    return Ok(());
                }
                Some(port) => {
                    // A port that is not known here came with a change of the NETMAP just now: its router is not there.
                    let port =
                        nic.port_at.get(&port).map(|at| nic.ports[*at]).ok_or(DropReason::RouterDown)?;
                    bytes[..header::LEN].copy_from_slice(&port.header);
                    let origin = Origin::Router(source.router);
                    let datagram = |fragment| Datagram { fragment, time: now, origin, copy: false };
                    if is_large {
                        take_parts(self.receiver, n, self.cache, self.parts)?;
                        for fragment in self.parts.drain(..) {
                            self.egress.queue(port.router, datagram(fragment));
                        }
                        return Ok(());
                    }
                    let fresh = self.cache.take().ok_or(DropReason::NoChunk)?;
                    let fragment = Fragment::new(self.receiver.replace(n, fresh), DATAGRAM_OFFSET, len);
                    self.egress.queue(port.router, datagram(fragment));
                    return Ok(());
                }
                None => {
                    if let Some(port) = nic.flood.map(|at| nic.ports[at]) {
                        let (first, others) = self.receiver.parts_mut(n);
                        let (egress, cache) = (&mut *self.egress, &mut *self.cache);
                        let replicas =
                            replicate(&port, source, first, &others, now, egress, cache, self.poller);
                        self.counts.entries.replicas.add(replicas);
                    }
                }
            }
        }

        let mut frame_len = len - header::LEN;
        if !nic.lan.up.load(Relaxed) || nic.tx_queue.is_none() {
            return Err(DropReason::NicDown);
        }
        let bytes = self.receiver.bytes_mut(n);
        if control_frames::may_be(view.destination.mac.0)
            && let Some(protocol) = control_frames::protocol(&bytes[header::LEN..here], view.tags)
        {
            if self.blocked.has(protocol) {
                return Err(DropReason::Blocked);
            }
            if protocol == Protocol::Stp {
                nic.lan.warn_of_spanning_tree(source.port as u32);
            }
        }
        let most = ether::HEADER + view.tags + nic.lan.mtu.load(Relaxed) as usize;
        // A NIC's MTU is for what is behind tags and labels: that it can send them, too, is for its driver to say.
        if frame_len > most && frame_len > most + ether::labels(&bytes[header::LEN..here], view.tags) {
            return Err(DropReason::AboveMtu);
        }
        if is_large {
            return self.send_large(link.nic, n, frame_len);
        }
        if frame_len < ether::SHORTEST {
            bytes[len..header::LEN + ether::SHORTEST].fill(0);
            frame_len = ether::SHORTEST;
        }
        let fresh = self.cache.take().ok_or(DropReason::NoChunk)?;
        let frame = self.receiver.replace(n, fresh);
        let mut fragment = Fragment::new(frame, DATAGRAM_OFFSET + header::LEN, frame_len);
        for last in [false, true] {
            match nic.push(fragment) {
                Ok(()) => break,
                Err(RingFull(back)) if last => {
                    self.cache.put(back.into_chunk());
                    return Err(DropReason::NicRefused);
                }
                Err(RingFull(back)) => {
                    fragment = back;
                    self.counts.fault(Fault::TxRingFull, 1);
                    transmit(nic, self.cache, self.counts, self.latency);
                }
            }
        }
        nic.pushed(len - header::LEN, received.time);
        Ok(())
    }

    /// Sends the frame of `frame_len` bytes in datagram `n`, which takes several chunks, to a NIC.
    #[cold]
    fn send_large(&mut self, nic: usize, n: usize, frame_len: usize) -> Result<(), DropReason> {
        let nic = &mut self.nics[nic];
        if !nic.tx_queue.as_ref().is_some_and(|tx_queue| tx_queue.scatter) {
            return Err(DropReason::TooLong);
        }
        take_parts(self.receiver, n, self.cache, self.parts)?;
        if let Some(first) = self.parts.first_mut() {
            first.advance(header::LEN);
        }
        for last in [false, true] {
            if nic.tx_queue.as_mut().is_some_and(|tx_queue| tx_queue.tx.push_frame(self.parts)) {
                break;
            }
            if last {
                self.parts.drain(..).for_each(|fragment| self.cache.put(fragment.into_chunk()));
                return Err(DropReason::NicRefused);
            }
            self.counts.fault(Fault::TxRingFull, 1);
            transmit(nic, self.cache, self.counts, self.latency);
        }
        nic.pushed(frame_len, self.receiver.received(n).time);
        Ok(())
    }
}

/// See [`TxQueue::batch`].
fn places(tx: &Tx, large: bool) -> usize {
    batch_chunks(large).min(tx.size())
}

/// Moves the chunks of datagram `n` to `parts`.
fn take_parts(
    receiver: &mut Receiver,
    n: usize,
    cache: &mut ChunkCache,
    parts: &mut Vec<Fragment>,
) -> Result<(), DropReason> {
    cache.refill(CHUNKS);
    receiver.take_parts(n, &mut cache.free, parts).map_err(|TooFew| DropReason::NoChunk)
}

/// Sends a datagram to `port` as well, unless `source` reaches that by itself. Returns how many that makes.
#[expect(clippy::too_many_arguments, reason = "a datagram, its ends, and what a worker has one of")]
fn replicate(
    port: &FloodPort,
    source: &Source,
    first: &mut [u8],
    others: &[&[u8]; CHUNKS - 1],
    now: u64,
    egress: &mut RouterEgress,
    cache: &mut ChunkCache,
    poller: &Poller,
) -> u64 {
    if source.split_horizon.binary_search(&port.port).is_ok() {
        return 0;
    }
    first[..header::LEN].copy_from_slice(&port.header);
    let [a, b, c] = *others;
    let parts = [&*first, a, b, c];
    // Most fit into one chunk.
    let parts = if a.is_empty() { &parts[..1] } else { &parts };
    egress.send_shared(port.router, parts, now, Origin::Router(source.router), cache, poller);
    1
}

/// The link and the source that `header` names, by index, or what is wrong with it.
fn check(pseudo: &Pseudo, header: Header) -> Result<(usize, usize), DropReason> {
    let word = header.word();
    let link = usize::from(pseudo.by_interface[usize::from(header.destination_interface().0)]);
    let known = link.checked_sub(1).map(|link| &pseudo.links[link].sources);
    if let Some(source) = known.and_then(|sources| sources.iter().position(|source| source.word == word)) {
        return Ok((link - 1, source));
    }
    Err(if header.destination_id() != pseudo.id {
        DropReason::WrongId
    } else if header.message_type() != TYPE_DATA {
        DropReason::WrongType
    } else if known.is_none() {
        DropReason::WrongInterface
    } else {
        DropReason::WrongSource
    })
}

/// Learns where `station` is, unless this port said so a moment ago.
fn learn(lan: &Lan, source: &mut Source, station: Address, frame: &[u8], now: u64) -> Result<(), DropReason> {
    let generation = lan.generation();
    let Checked { station: known, generation: then, until, spoofed } = source.checked;
    if known == Some(station) && then == generation && now < until {
        return if spoofed { Err(DropReason::Spoofed) } else { Ok(()) };
    }
    let port = source.port as u32;
    let mut spoofed = false;
    match lan.learn(station, port, frame, now) {
        Learned::Known => {}
        Learned::New { .. } => {
            tracing::debug!("{}: {} is behind {}", lan.nic, station.mac, lan.name(port));
        }
        Learned::Moved { from, .. } => {
            if let Some(more) = lan.may_report(now) {
                let (from, to) = (lan.name(from), lan.name(port));
                tracing::info!("{}: {} moved from {from} to {to}{more}", lan.nic, station.mac);
            }
        }
        Learned::Refused(why) => {
            tracing::debug!("{}: {} is not learned: {}", lan.nic, station.mac, explain(why));
            match why {
                // What it says of its own, or with fewer others, is another matter, also a moment later.
                Refusal::Echo | Refusal::TooMany => return Ok(()),
                _ => spoofed = lan.is_spoofed(why, port),
            }
            if spoofed && !std::mem::replace(&mut source.reported, true) {
                tracing::warn!(
                    "{}: {} sends frames from {}: {}; they are dropped, this is said once. A loop, or an address set by hand?",
                    lan.nic,
                    lan.name(port),
                    station.mac,
                    explain(why)
                );
            }
        }
    }
    let until = now + SOURCE_GOOD_FOR;
    source.checked = Checked { station: Some(station), generation: lan.generation(), until, spoofed };
    if spoofed { Err(DropReason::Spoofed) } else { Ok(()) }
}

/// Hands what was pushed to the kernel: one kick, more only where it takes no more at a time.
pub(super) fn transmit(
    nic: &mut NicEgress,
    cache: &mut ChunkCache,
    counts: &WorkerCounts,
    latency: &mut Latency,
) {
    if !nic.unsent {
        return;
    }
    let Some(TxQueue { tx, batch, rings, .. }) = &mut nic.tx_queue else { return };
    tx.publish();
    if !nic.times.is_empty() {
        let now = clock::realtime();
        for (time, frames) in nic.times.drain(..) {
            latency.record(age(time, now), frames);
        }
    }
    for _ in 0..IDLE_KICKS {
        match tx.kick() {
            Ok(Kick::Taken) => {
                // With zero-copy the NIC takes them in its own time, and may be behind as well.
                nic.unsent = tx.room(*batch) < *batch;
                break;
            }
            Ok(Kick::Again) => rings.reap(cache),
            Ok(Kick::Dropped) => nic.refused += 1,
            Ok(Kick::Down) => break,
            Err(error) => {
                if let Some(suppressed) = nic.kick_errors.ask(clock::monotonic()) {
                    tracing::warn!("{}: cannot send: {error} ({suppressed} times before it)", nic.lan.nic);
                }
                break;
            }
        }
    }
    rings.reap(cache);
    if !nic.unsent {
        nic.behind_since = 0;
        settle(nic, counts, 0);
    } else if nic.behind_since == 0 {
        nic.behind_since = clock::monotonic();
    }
}

/// How long ago `time` was, both `CLOCK_REALTIME`, ns: this clock may be set while a frame lies in its queue. One that
/// was set back makes a frame younger than nothing: that counts as no time at all. What is more than the histograms
/// hold, as after a step forward, counts there as their longest.
fn age(time: u64, now: u64) -> u64 {
    now.saturating_sub(time)
}

/// Counts what was put into the TX ring, now that all but `left` frames have been taken. Which frames the driver threw
/// away it does not tell: their bytes go by the mean.
fn settle(nic: &mut NicEgress, counts: &WorkerCounts, left: u64) {
    let (frames, bytes) = std::mem::take(&mut nic.pushed);
    let refused = std::mem::take(&mut nic.refused).min(frames - left);
    let sent = frames - left - refused;
    counts.count_drop(stats::Origin::Router, DropReason::NicRefused, refused as usize);
    counts.to_nics.add(sent, bytes * sent / frames.max(1));
}

/// Closes the direction out. What is left in the TX ring the NIC has not taken: it is lost for the reason `why`.
pub(super) fn close_tx(nic: &mut NicEgress, why: DropReason, cache: &mut ChunkCache, counts: &WorkerCounts) {
    let Some(TxQueue { mut tx, rings, .. }) = nic.tx_queue.take() else { return };
    rings.reap(cache);
    nic.behind_since = 0;
    if std::mem::take(&mut nic.unsent) {
        let left = (tx.pending() as u64).min(nic.pushed.0);
        counts.count_drop(stats::Origin::Router, why, left as usize);
        settle(nic, counts, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::Netmap;
    use crate::plan::{Binding, LabRequest};
    use af_xdp::Umem;
    use af_xdp::simulated::rings;
    use std::collections::HashSet;

    /// What is read next has room in the ring, or is not read: with frames of several chunks that is four times as much.
    #[test]
    fn a_batch_of_datagrams_fits_into_the_room_that_is_asked_for() {
        let (umem, mut free) = Umem::new(512).unwrap();
        let (_fill, _completion, _rx, mut tx, _kernel) = rings(&Arc::new(umem), 512).unwrap();
        assert_eq!((places(&tx, false), places(&tx, true)), (BATCH, BATCH * CHUNKS));
        let mut parts = Vec::new();
        let mut push = |tx: &mut Tx| {
            parts.extend(free.drain(..CHUNKS).map(|frame| Fragment::new(frame, 0, 4000)));
            tx.push_frame(&mut parts)
        };
        while tx.room(places(&tx, true)) >= places(&tx, true) {
            for n in 0..BATCH {
                assert!(push(&mut tx), "frame {n} of a batch");
            }
        }
        assert_eq!(tx.room(512), 0);
        let (umem, _free) = Umem::new(8).unwrap();
        let (_fill, _completion, _rx, tx, _kernel) = rings(&Arc::new(umem), 32).unwrap();
        assert_eq!((places(&tx, false), places(&tx, true)), (32, 32), "a ring that is empty will do");
    }

    #[test]
    fn a_clock_that_is_set_makes_no_frame_older_than_the_scale_or_younger_than_nothing() {
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

    #[test]
    fn who_may_speak_for_a_router() {
        let lab = LabRequest {
            netmap: Netmap::parse(b"1:0/0 513:0/0", std::path::Path::new("NETMAP")).unwrap(),
            file: "NETMAP".into(),
            netio: "/tmp/netio1000".into(),
            uid: 1000,
            pseudo: vec![InstanceId::new(513).unwrap()],
            remote: HashSet::new(),
        };
        let binding = Binding { nic: "eth0".to_string(), choice: None };
        let source = Source::new(&Plan::new(&[lab], &[binding], 1, None).unwrap(), 0);
        for (path, may) in [
            ("/tmp/netio1000/1", true),
            ("", true),
            ("/tmp/netio1000/2", false),
            ("/tmp/netio1000/513", false),
            ("/tmp/netio1000/0", true),
            ("/tmp/netio1000/relay", true),
            ("/tmp/netio1000/x/2", true),
            ("/tmp/netio1001/2", true),
            ("/tmp/netio10002", true),
            ("2", true),
            ("\0/tmp/netio1000/2", true),
        ] {
            assert_eq!(source.may_be_sent_by(path.as_bytes()), may, "{path:?}");
        }
    }
}
