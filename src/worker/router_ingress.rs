//! From the routers: datagrams straight into UMEM chunks, checked, their sources learned, and on to a NIC or another router.

use super::batch::{BATCH, FLOOD_SENDS};
use super::clock;
use super::flood::{Original, replicate};
use super::nic_egress::{NicEgress, TxFrame};
use super::poller::Poller;
use super::pool::ChunkCache;
use super::pseudo::{Checked, LinkSource, Pseudo, Source};
use super::router_egress::RouterEgress;
use super::router_queue::{Cast, Datagram, Origin};
use crate::ether::control_frames::{self, Blocked, Protocol};
use crate::ether::{self, Address, View};
use crate::fdb::{Learned, Refusal};
use crate::iou::header::{self, Header};
use crate::lan::{Lan, explain};
use crate::stats::{self, DropReason, Latency, WorkerCounts};
use crate::sys::mmsg::{CHUNKS, Receiver, TooFew};
use af_xdp::Fragment;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

/// Where in its chunk a datagram is put, in bytes: the frame then begins on a cache line.
pub(super) const DATAGRAM_OFFSET: usize = 56;
/// Batches read from one pseudo socket before others get their turn.
const BATCHES: usize = 4;
/// How long a source that was looked up needs no look-up again, ns. Short enough for the table's reckoning of what
/// was used last, and for a refused source to get another chance.
const SOURCE_GOOD_FOR: u64 = 1_000_000_000;

/// What a frame from a router meets on its way, for the time of a turn.
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
    /// A broadcast or multicast frame is work for every router of the LAN: a router that floods them takes no more of a turn
    /// than one that floods unicast.
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
                nic.transmit(self.cache, self.counts, self.latency);
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

    /// Takes datagram `n` of the batch to where it belongs: checks its header and sender, learns its source, and sends it to
    /// routers, the NIC, or both.
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
        let LinkSource { link, source } = pseudo.check(header)?;
        let link = &mut pseudo.table.links[link];
        let source = &mut link.sources[source];
        if !source.may_be_sent_by(self.receiver.sender(n)) {
            return Err(DropReason::WrongSender);
        }
        let nic = &mut self.nics[link.nic];
        let bytes = self.receiver.bytes_mut(n);
        let frame = &bytes[header::LEN..here];
        learn(&nic.lan, source, view.source, frame, now)?;
        if view.destination.mac.is_multicast() {
            // A loop behind another port must not teach that the sender is there.
            nic.lan.heard(frame, now);
            self.copies += nic.ports.len();
            let (first, others) = self.receiver.parts_mut(n);
            let original = Original { first, others, time: now };
            let replicas = replicate(original, source, &nic.ports, self.egress, self.cache, self.poller);
            self.counts.entries.replicas.add(replicas);
        } else if let Some(port) = nic.port_of(&view.destination) {
            if source.split_horizon.binary_search(&port).is_ok() {
                self.counts.split_horizon.add(1);
                return Ok(());
            }
            // A port that is not known here came with a change of the NETMAP just now: its router is not there.
            let port = nic.port_at.get(&port).map(|at| nic.ports[*at]).ok_or(DropReason::RouterDown)?;
            bytes[..header::LEN].copy_from_slice(&port.header);
            let origin = Origin::Router(source.router);
            let datagram = |fragment| Datagram { fragment, time: now, origin, cast: Cast::Unicast };
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
        } else if let Some(at) = nic.flood {
            let (first, others) = self.receiver.parts_mut(n);
            let original = Original { first, others, time: now };
            let port = std::slice::from_ref(&nic.ports[at]);
            let replicas = replicate(original, source, port, self.egress, self.cache, self.poller);
            self.counts.entries.replicas.add(replicas);
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
                nic.lan.warn_of_spanning_tree(source.port);
            }
        }
        let most = ether::HEADER + view.tags + nic.lan.mtu.load(Relaxed) as usize;
        // A NIC's MTU is for what is behind tags and labels: that it can send them, too, is for its driver to say.
        if frame_len > most && frame_len > most + ether::labels(&bytes[header::LEN..here], view.tags) {
            return Err(DropReason::AboveMtu);
        }
        let counted = TxFrame { bytes: frame_len, time: received.time };
        if is_large {
            if !nic.takes_large() {
                return Err(DropReason::TooLong);
            }
            take_parts(self.receiver, n, self.cache, self.parts)?;
            if let Some(first) = self.parts.first_mut() {
                first.advance(header::LEN);
            }
            return nic.send_large(self.parts, counted, self.cache, self.counts, self.latency);
        }
        if frame_len < ether::SHORTEST {
            bytes[len..header::LEN + ether::SHORTEST].fill(0);
            frame_len = ether::SHORTEST;
        }
        let fresh = self.cache.take().ok_or(DropReason::NoChunk)?;
        let chunk = self.receiver.replace(n, fresh);
        let fragment = Fragment::new(chunk, DATAGRAM_OFFSET + header::LEN, frame_len);
        nic.send(fragment, counted, self.cache, self.counts, self.latency)
    }
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

/// Learns that `station` is behind the port of `source`, unless a frame of that port taught it a moment ago.
fn learn(lan: &Lan, source: &mut Source, station: Address, frame: &[u8], now: u64) -> Result<(), DropReason> {
    let generation = lan.generation();
    let Checked { station: known, generation: then, until, spoofed } = source.checked;
    if known == Some(station) && then == generation && now < until {
        return if spoofed { Err(DropReason::Spoofed) } else { Ok(()) };
    }
    let port = source.port;
    let mut spoofed = false;
    match lan.learn(station, port, frame, now) {
        Learned::Known => {}
        Learned::New { .. } => {
            let nic = &*lan.nic;
            tracing::debug!(nic, "{} is behind {}", station.mac, lan.name(port));
        }
        Learned::Moved { from, .. } => {
            if let Some(more) = lan.may_report(now) {
                let (nic, from, to) = (&*lan.nic, lan.name(from), lan.name(port));
                tracing::info!(nic, "{} moved from {from} to {to}{more}", station.mac);
            }
        }
        Learned::Refused(why) => {
            let nic = &*lan.nic;
            tracing::debug!(nic, "{} is not learned: {}", station.mac, explain(why));
            match why {
                // Neither says anything of the port's next frame, a moment later.
                Refusal::Echo | Refusal::RateLimited => return Ok(()),
                _ => spoofed = lan.is_spoofed(why, port),
            }
            if spoofed && !std::mem::replace(&mut source.reported, true) {
                let router = source.id.get();
                tracing::warn!(
                    nic,
                    router,
                    "router {router} sends frames from {} on {}: {}; they are dropped, this is said once. A loop, or an address set by hand?",
                    station.mac,
                    lan.name(port),
                    explain(why)
                );
            }
        }
    }
    let until = now + SOURCE_GOOD_FOR;
    source.checked = Checked { station: Some(station), generation: lan.generation(), until, spoofed };
    if spoofed { Err(DropReason::Spoofed) } else { Ok(()) }
}
