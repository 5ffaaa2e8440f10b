//! Towards the routers: runs of frames to one socket, one frame to many, backlogs of those that do not read.

use super::backlog::{Pause, bound};
use super::batch::BATCH;
use super::clock;
use super::copied::CopiedBatch;
use super::event::{Event, EventSender};
use super::poller::{Poller, Token};
use super::pool::ChunkCache;
use super::ports::FloodPort;
use super::router_queue::{Cast, Datagram, Membership, Origin, RouterQueue, RouterSocket};
use super::send::{Progress, Shared, copy, send_all, send_one};
use crate::ids::RouterId;
use crate::iou::header;
use crate::lan::Lan;
use crate::stats::{DropReason, Latency, WorkerCounts};
use crate::steer::layout::{Copied, RouterState};
use crate::sys::mmsg::{CHUNKS, Sender, Sent};
use crate::sys::ringbuf::RingBuffer;
use af_xdp::CHUNK_SIZE;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Datagrams tried at once when a full router has room: somewhat more than fit into a queue of the default length.
const WRITABLE_BATCH: usize = 16;

/// Sends to the routers. One per worker.
pub(super) struct RouterEgress {
    queues: Vec<RouterQueue>,
    /// Routers with a run, in the order of their first datagrams.
    touched: Vec<usize>,
    /// Routers with a backlog.
    waiting: Vec<usize>,
    sender: Sender,
    lans: Vec<Arc<Lan>>,
    counts: Arc<WorkerCounts>,
    /// Chunks that no backlog may take.
    reserve: usize,
    events_to_control: EventSender,
    /// The chunks of one datagram, kept for its capacity.
    parts: Vec<Datagram>,
    pub(super) latency: Latency,
}

impl RouterEgress {
    pub(super) fn new(
        routers: Vec<Membership>,
        lans: Vec<Arc<Lan>>,
        counts: Arc<WorkerCounts>,
        reserve: usize,
        events_to_control: EventSender,
    ) -> Self {
        let queues: Vec<RouterQueue> = routers.into_iter().map(RouterQueue::new).collect();
        Self {
            touched: Vec::with_capacity(queues.len()),
            waiting: Vec::with_capacity(queues.len()),
            parts: Vec::with_capacity(CHUNKS),
            queues,
            sender: Sender::new(BATCH),
            lans,
            counts,
            reserve,
            events_to_control,
            latency: Latency::default(),
        }
    }

    /// By what this worker sends events to the control thread.
    pub(super) fn events_to_control(&self) -> &EventSender {
        &self.events_to_control
    }

    /// Number of routers in the plan.
    pub(super) fn routers(&self) -> usize {
        self.queues.len()
    }

    /// Adds a datagram, or the next chunk of one, to the run of `router`; [`send_runs`](Self::send_runs) sends it.
    pub(super) fn queue(&mut self, router: usize, datagram: Datagram) {
        let run = &mut self.queues[router].run;
        if run.is_empty() {
            self.touched.push(router);
        }
        run.push(datagram);
    }

    /// Sends all runs: a `send` for a single datagram, a `sendmmsg` for more. Returns how many there were.
    pub(super) fn send_runs(&mut self, cache: &mut ChunkCache, poller: &Poller) -> usize {
        let runs = self.touched.len();
        for n in 0..runs {
            self.send_run(self.touched[n], cache, poller);
        }
        self.touched.clear();
        runs
    }

    fn send_run(&mut self, router: usize, cache: &mut ChunkCache, poller: &Poller) {
        let queue = &mut self.queues[router];
        let mut run = std::mem::take(&mut queue.run);
        let Progress { sent, refused } = match queue.ready() {
            Some(socket) => send_all(&mut self.sender, socket, &run, cache.umem()),
            None => Progress::NONE,
        };
        if sent > 0 {
            let now = clock::monotonic();
            for datagram in run.drain(..sent) {
                self.delivered(datagram, now, cache);
            }
        }
        let mut rest = run.drain(..);
        if let Some(errno) = refused
            && !self.refused(router, errno)
        {
            // Only the first is to blame: the others get their chance through the backlog.
            for datagram in rest.by_ref() {
                let ends = datagram.frames() > 0;
                self.discard(datagram, DropReason::SendFailed, cache);
                if ends {
                    break;
                }
            }
        }
        let mut parts = std::mem::take(&mut self.parts);
        for datagram in rest {
            let frames = datagram.frames();
            parts.push(datagram);
            if frames > 0 {
                self.hold(router, &mut parts, cache, poller);
            }
        }
        self.parts = parts;
        self.queues[router].run = run;
    }

    /// Sends the frames of `batch` to `port`, each behind the port's header.
    pub(super) fn send_copied(
        &mut self,
        copies: &RingBuffer,
        batch: &CopiedBatch,
        port: &FloodPort,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        if batch.len() == 0 {
            return;
        }
        let copied = |n: usize| batch.get(copies, n);
        let Progress { mut sent, refused } = match self.queues[port.router].ready() {
            Some(socket) => {
                let frames = (0..batch.len()).filter_map(copied).map(|copied| copied.frame);
                Progress::of(self.sender.load(frames).send(socket, &port.header, 0))
            }
            None => Progress::NONE,
        };
        if sent > 0 {
            let now = clock::monotonic();
            for copied in (0..sent).filter_map(copied) {
                self.counts.to_routers.add(1, copied.frame.len() as u64);
                self.latency.record(now.saturating_sub(copied.time), 1);
            }
        }
        if let Some(errno) = refused
            && !self.refused(port.router, errno)
        {
            self.counts.count_drop(Origin::Wire, DropReason::SendFailed, 1);
            sent += 1;
        }
        for Copied { frame, time, .. } in (sent..batch.len()).filter_map(copied) {
            let parts = [&port.header[..], frame];
            self.hold_copy(port.router, Shared { parts: &parts, time, origin: Origin::Wire }, cache, poller);
        }
    }

    /// Sends a datagram whose chunks are needed further, at once or as a copy in the backlog.
    pub(super) fn send_shared(
        &mut self,
        router: usize,
        datagram: Shared<'_>,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        if let Some(socket) = self.queues[router].ready() {
            let sent = match datagram.parts {
                [one] => send_one(socket, one).map(|()| one.len()),
                // All but the last go on, also into one without bytes.
                parts => {
                    let parts = parts.iter().zip(1..).map(|(part, n)| (*part, n < parts.len()));
                    self.sender.send(socket, 1, parts).map(|_| datagram.len())
                }
            };
            match sent {
                Ok(len) => {
                    let Shared { time, origin, .. } = datagram;
                    return self.count((len - header::LEN) as u64, time, origin, clock::monotonic());
                }
                Err(Errno::AGAIN) => {}
                Err(errno) => {
                    if !self.refused(router, errno) {
                        return self.counts.count_drop(datagram.origin, DropReason::SendFailed, 1);
                    }
                }
            }
        }
        self.hold_copy(router, datagram, cache, poller);
    }

    /// Puts a copy of a datagram that cannot be kept where it is into the backlog.
    fn hold_copy(&mut self, router: usize, datagram: Shared<'_>, cache: &mut ChunkCache, poller: &Poller) {
        let Shared { parts, time, origin } = datagram;
        let queue = &self.queues[router];
        let chunks = datagram.len().div_ceil(CHUNK_SIZE);
        if queue.socket.is_none() {
            return self.counts.count_drop(origin, DropReason::RouterDown, 1);
        }
        if !queue.has_room(origin, Cast::Copy, chunks, bound(cache.available(), self.reserve)) {
            let why =
                if origin == Origin::Wire { DropReason::MulticastOverflow } else { DropReason::RouterFull };
            return self.counts.count_drop(origin, why, 1);
        }
        let mut copied = std::mem::take(&mut self.parts);
        let whole = copy(parts, chunks, cache, |fragment| {
            copied.push(Datagram { fragment, time, origin, cast: Cast::Copy });
        });
        if whole {
            self.hold(router, &mut copied, cache, poller);
        } else {
            self.counts.count_drop(origin, DropReason::RouterFull, 1);
            copied.drain(..).for_each(|datagram| cache.put(datagram.fragment.into_chunk()));
        }
        self.parts = copied;
    }

    /// Moves one datagram, whose chunks are `parts`, into the backlog, or drops it: the backlog is at its bound, or the
    /// router has no socket.
    fn hold(&mut self, router: usize, parts: &mut Vec<Datagram>, cache: &mut ChunkCache, poller: &Poller) {
        let Some(first) = parts.first() else { return };
        let (cast, origin, chunks) = (first.cast, first.origin, parts.len());
        let mut bound = bound(cache.available(), self.reserve);
        let queue = &mut self.queues[router];
        let room = queue.has_room(origin, cast, chunks, bound);
        let why = match &queue.socket {
            None => Some(DropReason::RouterDown),
            Some(_) if !room || !queue.backlog.has_room(chunks, bound) => Some(DropReason::RouterFull),
            Some(socket) => {
                if queue.backlog.is_empty() {
                    // Watched only while there is a backlog: the kernel would wake us for every datagram a router reads.
                    self.waiting.push(router);
                    poller.watch_writable(socket.fd.as_fd(), Token::Router(router));
                }
                None
            }
        };
        if let Some(why) = why {
            self.counts.count_drop(origin, why, 1);
            parts.drain(..).for_each(|datagram| cache.put(datagram.fragment.into_chunk()));
            if room {
                // A backlog that cannot take this one is full, though a chunk or two may be left.
                bound = bound.min(queue.backlog.len());
            }
        } else {
            parts.drain(..).for_each(|datagram| queue.push(datagram));
        }
        self.pause(router, bound);
    }

    /// A router that was full is writable again: sends what waits. Returns how many chunks that were.
    pub(super) fn writable(&mut self, router: usize, cache: &mut ChunkCache, poller: &Poller) -> usize {
        let mut sent = 0;
        loop {
            let queue = &mut self.queues[router];
            let Some(socket) = &queue.socket else { break };
            if queue.backlog.is_empty() {
                break;
            }
            for datagram in queue.backlog.iter().take(WRITABLE_BATCH) {
                cache.umem().prefetch(&datagram.fragment);
            }
            let waiting = queue.backlog.iter().map(|datagram| datagram.part(cache.umem()));
            match self.sender.send(socket.fd.as_fd(), WRITABLE_BATCH, waiting) {
                Ok(Sent { parts, all }) => {
                    sent += parts;
                    let now = clock::monotonic();
                    for _ in 0..parts {
                        let Some(datagram) = self.queues[router].pop() else { break };
                        self.delivered(datagram, now, cache);
                    }
                    if !all {
                        break; // full again; whatever else it was shows at the next try
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    if self.refused(router, errno) {
                        break;
                    }
                    while let Some(datagram) = self.queues[router].pop() {
                        let ends = datagram.frames() > 0;
                        self.discard(datagram, DropReason::SendFailed, cache);
                        if ends {
                            break;
                        }
                    }
                }
            }
        }
        self.settle(router, cache, poller);
        sent
    }

    /// Drops what waited too long, and tries to send the rest.
    pub(super) fn expire(&mut self, now: u64, cache: &mut ChunkCache, poller: &Poller) {
        for n in (0..self.waiting.len()).rev() {
            let router = self.waiting[n];
            // The chunks of a datagram have the same age.
            while let Some(datagram) = self.queues[router].pop_stale(now) {
                self.discard(datagram, DropReason::Stale, cache);
            }
            self.writable(router, cache, poller);
        }
    }

    /// True if frames wait for a router.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The router's socket is this one from now on, or it has none. What waits goes to the new one.
    pub(super) fn set_socket(
        &mut self,
        router: usize,
        socket: Option<RouterSocket>,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        let queue = &mut self.queues[router];
        if !queue.backlog.is_empty() {
            if let Some(old) = &queue.socket {
                poller.forget(old.fd.as_fd());
            }
            if let Some(new) = &socket {
                poller.watch_writable(new.fd.as_fd(), Token::Router(router));
            }
        }
        queue.socket = socket;
        // What the XDP program is told next is the truth about the new one.
        queue.backlog.forget_pause();
        let state = if queue.socket.is_some() { RouterState::Ready } else { RouterState::Down };
        self.tell(router, state);
        self.writable(router, cache, poller);
    }

    /// Goes over to another plan: new routers come, without a socket as yet; those that are retired lose theirs, and what
    /// waits for them is given back.
    pub(super) fn follow(&mut self, routers: Vec<Membership>, cache: &mut ChunkCache, poller: &Poller) {
        for (router, member) in routers.into_iter().enumerate() {
            let live = member.live;
            match self.queues.get_mut(router) {
                Some(queue) => (queue.owned, queue.lans) = (member.owned, member.lans),
                None => self.queues.push(RouterQueue::new(member)),
            }
            if live {
                // It may be on another LAN than before.
                self.tell(router, self.queues[router].state());
            } else if self.queues[router].socket.is_some() {
                self.set_socket(router, None, cache, poller);
            }
        }
        let routers = self.queues.len();
        self.touched.reserve(routers.saturating_sub(self.touched.len()));
        self.waiting.reserve(routers.saturating_sub(self.waiting.len()));
    }

    /// Takes all datagrams back, at the end.
    pub(super) fn drain(&mut self, cache: &mut ChunkCache) {
        for router in 0..self.queues.len() {
            for datagram in std::mem::take(&mut self.queues[router].run) {
                self.discard(datagram, DropReason::Stopped, cache);
            }
            while let Some(datagram) = self.queues[router].pop() {
                self.discard(datagram, DropReason::Stopped, cache);
            }
        }
    }

    /// What the kernel said of a send, other than "full". True if the router's socket is gone, so that its backlog cannot be
    /// sent; false if only this datagram was refused.
    fn refused(&mut self, router: usize, errno: Errno) -> bool {
        let gone = matches!(
            errno,
            Errno::CONNREFUSED
                | Errno::NOTCONN
                | Errno::CONNRESET
                | Errno::PIPE
                | Errno::NOENT
                | Errno::DESTADDRREQ
        );
        if gone && let Some(RouterSocket { connection, .. }) = self.queues[router].socket.take() {
            self.tell(router, RouterState::Down);
            self.events_to_control.send(Event::RouterGone { router, connection });
        }
        gone
    }

    /// After the backlog shrank or the socket went: what follows for the poller and the XDP program.
    fn settle(&mut self, router: usize, cache: &mut ChunkCache, poller: &Poller) {
        if self.queues[router].socket.is_none() {
            while let Some(datagram) = self.queues[router].pop() {
                self.discard(datagram, DropReason::RouterDown, cache);
            }
        }
        let queue = &self.queues[router];
        if queue.backlog.is_empty() {
            if let Some(socket) = &queue.socket {
                poller.forget(socket.fd.as_fd());
            }
            self.waiting.retain(|other| *other != router);
        }
        self.pause(router, bound(cache.available(), self.reserve));
    }

    fn pause(&mut self, router: usize, bound: usize) {
        let queue = &mut self.queues[router];
        match queue.backlog.pause(bound) {
            None => {}
            Some(_) if queue.socket.is_none() => {}
            Some(Pause::Begin) => self.tell(router, RouterState::Paused),
            Some(Pause::End) => self.tell(router, RouterState::Ready),
        }
    }

    fn tell(&self, router: usize, state: RouterState) {
        let queue = &self.queues[router];
        if queue.owned {
            for lan in &queue.lans {
                self.lans[*lan].set_router_state(RouterId::new(router as u32), state);
            }
        }
    }

    /// Drops a datagram, or a chunk of one.
    fn discard(&self, datagram: Datagram, why: DropReason, cache: &mut ChunkCache) {
        self.counts.count_drop(datagram.origin, why, datagram.frames());
        cache.put(datagram.fragment.into_chunk());
    }

    fn delivered(&mut self, datagram: Datagram, now: u64, cache: &mut ChunkCache) {
        let Datagram { fragment, time, origin, .. } = datagram;
        let bytes = fragment.len() as u64;
        if fragment.continues() {
            match origin {
                Origin::Wire => self.counts.to_routers.add(0, bytes),
                Origin::Router(_) => self.counts.between.add(0, bytes),
            }
        } else {
            // The last chunk may hold less than the header, which was in the first: the sum is right.
            self.count(bytes.wrapping_sub(header::LEN as u64), time, origin, now);
        }
        cache.put(fragment.into_chunk());
    }

    fn count(&mut self, bytes: u64, time: u64, origin: Origin, now: u64) {
        match origin {
            Origin::Wire => {
                self.counts.to_routers.add(1, bytes);
                self.latency.record(now.saturating_sub(time), 1);
            }
            Origin::Router(_) => self.counts.between.add(1, bytes),
        }
    }
}
