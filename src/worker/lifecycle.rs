//! How a worker begins, what it does when it is told to change, and how it ends.

use super::batch::BATCH;
use super::clock;
use super::coalesce::Coalescing;
use super::command::{Change, Command, CommandSender, PseudoChange};
use super::event::Event;
use super::nic_egress::{NicEgress, TxQueue};
use super::nic_ingress::{NicRx, RxQueue, Scratch};
use super::poller::{Poller, Token};
use super::pool::ChunkCache;
use super::ports::LanPorts;
use super::pseudo::{LinkTable, Pseudo};
use super::request_response::RequestResponse;
use super::router_egress::RouterEgress;
use super::router_ingress::DATAGRAM_OFFSET;
use super::router_queue::Membership;
use super::setup::{Setup, WorkerResult};
use super::sockets::{NicSockets, QueueSocket, SocketResult};
use super::{NIC_PAUSE, Turn, Worker};
use crate::ids::SegmentId;
use crate::lan::Lan;
use crate::stats::{DropReason, Latencies};
use crate::sys::eventfd::{eventfd, woken};
use crate::sys::mmsg::{CHUNKS, Receiver};
use af_xdp::Socket;
use rustc_hash::FxHashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// How long the NICs have at the end for what is in their rings, ns: 2048 frames of 1514 bytes take 25 ms at 1 Gbit/s.
const LAST_MOMENT: u64 = 500_000_000;
/// The same when a pseudo socket is closed while others go on.
const CLOSING: u64 = 10_000_000;
/// Datagrams read from a pseudo socket before it is closed at most: its queue holds no more, and a router that still sends
/// is not waited for.
const LAST_READ: usize = 8192;

/// Why a worker closes its sockets on a NIC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    /// The NIC is detached.
    Detached,
    /// The worker ends.
    End,
}

impl Worker {
    /// Makes a worker, and what it gets commands by.
    ///
    /// # Errors
    /// What `epoll` and `eventfd` say; too few chunks for its receive batch.
    pub fn new(setup: Setup) -> io::Result<(Self, CommandSender)> {
        let Setup {
            index,
            plan,
            poll,
            blocked,
            nics: parts,
            pseudos: sockets,
            pool,
            reserve,
            large,
            counts,
            events_to_control,
        } = setup;
        let poller = Poller::new()?;
        let wake = eventfd()?;
        poller.watch(wake.as_fd(), Token::Command)?;
        let (channel, commands) = crossbeam::channel::unbounded();
        let lans: Vec<Arc<Lan>> = parts.iter().map(|nic| nic.lan.clone()).collect();

        let mut nic_rx = Vec::new();
        let mut nics = Vec::new();
        let mut nic_sockets = Vec::new();
        for (lan, part) in parts.into_iter().enumerate() {
            let ports = LanPorts::new(&plan, SegmentId::new(lan as u32), index);
            poller.watch_edge(part.copies.fd.as_fd(), Token::Ring)?;
            nic_sockets.push(part.sockets);
            nic_rx.push(NicRx {
                lan: part.lan.clone(),
                queues: Vec::new(),
                copies: part.copies.ring,
                ports: ports.own,
                flood: ports.own_flood,
            });
            nics.push(NicEgress::new(part.lan, ports.all, ports.flood));
        }

        let mut pseudos: Vec<Option<Pseudo>> = plan.pseudos.iter().map(|_| None).collect();
        for (number, socket) in sockets {
            poller.watch(socket.as_fd(), Token::Pseudo(number))?;
            let id = plan.pseudos[number].id.get();
            pseudos[number] = Some(Pseudo::new(socket, id, LinkTable::new(&plan, number)));
        }

        let mut cache = ChunkCache::new(pool);
        cache.refill(BATCH);
        let keep = cache.free.len().saturating_sub(BATCH);
        let chunks = cache.free.split_off(keep);
        if chunks.len() < BATCH {
            return Err(io::Error::other("too few chunks for a worker"));
        }
        let members = Membership::of_worker(&plan, index);
        let egress = RouterEgress::new(members, lans, counts.clone(), reserve, events_to_control);
        let mut worker = Self {
            index,
            poll,
            blocked,
            nic_rx,
            nics,
            pseudos,
            egress,
            receiver: Receiver::new(cache.umem().clone(), chunks, DATAGRAM_OFFSET),
            cache,
            scratch: Scratch::default(),
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
            turn: Turn::default(),
            sleeping: false,
        };
        for (lan, sockets) in nic_sockets.into_iter().enumerate() {
            worker.attach(lan, sockets)?;
        }
        if large && !worker.enlarge() {
            return Err(io::Error::other("too few chunks for a worker and large frames"));
        }
        Ok((worker, CommandSender { channel, wake }))
    }

    /// From now on reads datagrams of several chunks. False if there are too few of those.
    pub(super) fn enlarge(&mut self) -> bool {
        if self.receiver.is_large() {
            return true;
        }
        let needed = BATCH * (CHUNKS - 1);
        self.cache.refill(needed);
        let Some(keep) = self.cache.free.len().checked_sub(needed) else { return false };
        self.nics.iter_mut().for_each(NicEgress::take_large);
        let mut chunks = self.cache.free.drain(keep..);
        let others = std::iter::from_fn(|| Some([chunks.next()?, chunks.next()?, chunks.next()?]));
        self.receiver.enlarge(others.collect());
        true
    }

    /// Carries out the commands of the control thread. Breaks if the worker is to stop.
    pub(super) fn handle_commands(&mut self) -> ControlFlow<()> {
        woken(&self.wake);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Router { router, socket } => {
                    self.egress.set_socket(router, socket, &mut self.cache, &self.poller);
                }
                Command::Nic { lan, sockets } => self.replace_nic(lan, sockets),
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
                Command::Pseudo { pseudo, socket } => self.replace_pseudo(pseudo, socket),
                Command::Answer(to) => {
                    let _ = to.send(());
                }
                Command::Event(round) => {
                    self.egress.events_to_control().send(Event::Alive { worker: self.index, round });
                }
                Command::Stop => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// Closes its sockets on NIC `lan`, and takes `sockets` into use if there are such.
    fn replace_nic(&mut self, lan: usize, sockets: Option<NicSockets>) {
        // What has arrived is delivered. Nothing more does: the XDP program was told to pass everything. When there are sockets
        // again it may be at work before this worker is, and a storm would have no end.
        while !self.nic_rx[lan].queues.is_empty() && self.receive(lan) {}
        self.close_nic(lan, Close::Detached);
        if let Some(Err(error)) = sockets.map(|sockets| self.attach(lan, sockets)) {
            let nic = &*self.nics[lan].lan.nic;
            tracing::error!(nic, "a worker cannot use its sockets: {error}");
        }
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
            self.nic_rx[lan].queues.push(RxQueue::new(rx, rings, credits, steered));
        }
        if self.nics[lan].tx_queue.is_none() {
            return Err(io::Error::other("a NIC without a queue to send on"));
        }
        Ok(())
    }

    /// Closes the sockets on NIC `lan`. What they have not sent is dropped.
    fn close_nic(&mut self, lan: usize, why: Close) {
        let reason = match why {
            Close::Detached => DropReason::NicDown,
            Close::End => DropReason::NicRefused,
        };
        self.nics[lan].close(reason, &mut self.cache, &self.counts);
        let NicRx { lan, queues, .. } = &mut self.nic_rx[lan];
        for queue in queues.drain(..) {
            let mut statistics = queue.rx().statistics().unwrap_or_default();
            if why == Close::Detached {
                statistics.dropped += queue.unaccounted(lan, &statistics);
            }
            let mut faults = queue.rx().faults();
            // What a queue's sockets share is counted once.
            if self.index == 0 {
                faults += queue.rings().faults();
            } else {
                statistics.fill_ring_empty = 0;
            }
            self.closed.push(SocketResult { statistics, faults });
            self.poller.forget(queue.rx().as_fd());
        }
    }

    /// Goes over to another plan. Routers that stay keep their sockets and what waits for them.
    fn follow(&mut self, change: Change) {
        let Change { lans, members, pseudos, sockets } = change;
        for index in 0..self.pseudos.len() {
            let stays = pseudos.binary_search_by_key(&index, |pseudo| pseudo.index).is_ok();
            if self.pseudos[index].is_some() && !stays {
                self.read_out(index, clock::monotonic() + CLOSING);
                if let Some(pseudo) = self.pseudos[index].take() {
                    self.poller.forget(pseudo.socket.as_fd());
                }
            }
        }
        for ((rx, nic), ports) in self.nic_rx.iter_mut().zip(&mut self.nics).zip(lans) {
            (rx.ports, rx.flood) = (ports.own, ports.own_flood);
            nic.set_ports(ports.all, ports.flood);
        }
        self.egress.follow(members, &mut self.cache, &self.poller);
        let mut sockets: FxHashMap<usize, OwnedFd> = sockets.into_iter().collect();
        for PseudoChange { index, id, table } in pseudos {
            if self.pseudos.len() <= index {
                self.pseudos.resize_with(index + 1, || None);
            }
            match (&mut self.pseudos[index], sockets.remove(&index)) {
                (Some(pseudo), _) => pseudo.table = table,
                (none, Some(socket)) => {
                    watch_pseudo(&self.poller, index, id, &socket);
                    *none = Some(Pseudo::new(socket, id, table));
                }
                (None, None) => tracing::error!("pseudo id {id} has no socket: its links are cut off"),
            }
        }
    }

    /// A pseudo instance has another socket: what routers sent to the one before is read.
    fn replace_pseudo(&mut self, index: usize, socket: OwnedFd) {
        self.read_out(index, clock::monotonic() + CLOSING);
        if let Some(pseudo) = self.pseudos.get_mut(index).and_then(Option::as_mut) {
            self.poller.forget(pseudo.socket.as_fd());
            watch_pseudo(&self.poller, index, pseudo.id, &socket);
            pseudo.socket = socket;
        }
    }

    /// Reads what waits in the socket of a pseudo instance that is to be closed. NICs have until `until` for it.
    fn read_out(&mut self, pseudo: usize, until: u64) {
        let start = self.turn.read;
        while self.turn.read < start + LAST_READ {
            let before = self.turn.read;
            self.read_now(pseudo, clock::monotonic());
            self.finish_sending(until);
            if self.turn.read == before {
                break;
            }
        }
    }

    /// Lets the NICs send what is in their rings, until `until` at most: it goes with the sockets.
    fn finish_sending(&mut self, until: u64) {
        for nic in &mut self.nics {
            while nic.is_sending() && clock::monotonic() < until {
                nic.transmit(&mut self.cache, &self.counts, &mut self.latencies.to_nics);
                clock::sleep(NIC_PAUSE);
            }
        }
    }

    /// Delivers what has arrived already, and gives everything back.
    pub(super) fn end(mut self) -> WorkerResult {
        for nic in 0..self.nic_rx.len() {
            while self.receive(nic) {}
        }
        let until = clock::monotonic() + LAST_MOMENT;
        for pseudo in 0..self.pseudos.len() {
            self.read_out(pseudo, until);
        }
        self.egress.drain(&mut self.cache);
        for lan in 0..self.nics.len() {
            self.close_nic(lan, Close::End);
        }
        for chunk in self.receiver.into_chunks() {
            self.cache.put(chunk);
        }
        let chunks = self.cache.free.len();
        self.cache.release();
        self.latencies.to_routers = std::mem::take(&mut self.egress.latency);
        WorkerResult { latencies: self.latencies, chunks, sockets: self.closed }
    }
}

fn watch_pseudo(poller: &Poller, index: usize, id: u16, socket: &OwnedFd) {
    if let Err(error) = poller.watch(socket.as_fd(), Token::Pseudo(index)) {
        tracing::error!("pseudo id {id} cannot be watched, its links are cut off: {error}");
    }
}
