//! Towards the routers: runs of frames to one socket, broadcast and multicast frames to many, backlogs of those that do not read.

use super::backlog::{Backlog, Pause, Waiting, between_bound, bound, copy_bound, source_bound};
use super::poller::{Poller, Token};
use super::pool::ChunkCache;
use super::{BATCH, Event, EventSender, clock};
use crate::ether::checksum;
use crate::iou::header;
use crate::lan::Lan;
use crate::stats::{self, DropReason, Fault, Latency, WorkerCounts};
use crate::steer::layout::{Copied, CopyKind, RouterState};
use crate::sys::mmsg::{CHUNKS, Sender, Sent};
use crate::sys::ringbuf::RingBuffer;
use af_xdp::{CHUNK_SIZE, Fragment, Umem};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Datagrams tried at once when a full router has room: somewhat more than fit into a queue of the default length.
const WRITABLE_BATCH: usize = 16;

/// Where a frame for a router came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// From the wire.
    Wire,
    /// From another router of the LAN: index in the plan.
    Router(u16),
}

impl From<Origin> for stats::Origin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Wire => Self::Wire,
            Origin::Router(_) => Self::Router,
        }
    }
}

/// A datagram for a router: header and frame in a chunk of UMEM. One that takes several chunks is as many of these in a
/// row, whose fragments [continue](Fragment::continues). Small, for thousands go through the backlogs and the cache.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) fragment: Fragment,
    /// When its frame arrived: `CLOCK_MONOTONIC`, ns.
    pub(super) time: u64,
    pub(super) origin: Origin,
    /// One of many copies of a frame.
    pub(super) copy: bool,
}

const _: () = assert!(size_of::<Datagram>() <= 32);

impl Waiting for Datagram {
    fn since(&self) -> u64 {
        self.time
    }
}

impl Datagram {
    /// Unicast from another router.
    fn is_between(&self) -> bool {
        self.origin != Origin::Wire && !self.copy
    }

    /// A part for the sender, and whether the datagram goes on in the next.
    fn part<'a>(&'a self, umem: &'a Umem) -> (&'a [u8], bool) {
        (umem.data(&self.fragment), self.fragment.continues())
    }

    /// 1 for the last chunk of a frame, 0 for those before: as many frames are counted as end.
    fn frames(&self) -> usize {
        usize::from(!self.fragment.continues())
    }
}

/// A router's interface, as a destination of broadcast and multicast frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct FloodPort {
    /// Index in the plan.
    pub(super) port: usize,
    /// The router.
    pub(super) router: usize,
    /// What the router wants in front.
    pub(super) header: [u8; header::LEN],
}

/// See [`RouterQueue::from`].
const SOURCES: usize = 64;

/// What one router has in another's backlog, in chunks.
#[derive(Clone, Copy, Default)]
struct Held {
    copies: usize,
    between: usize,
}

/// What this worker keeps of a router.
struct RouterQueue {
    /// The connected socket; `None` while the router has none.
    socket: Option<OwnedFd>,
    /// Number of the connection.
    connection: u64,
    /// Datagrams of the current batch.
    run: Vec<Datagram>,
    backlog: Backlog<Datagram>,
    /// Chunks of copies in the backlog.
    copies: usize,
    /// Those of unicast from other routers.
    between: usize,
    /// Of both, what is from which router. Routers whose numbers differ by [`SOURCES`] count as one, as in stochastic fair
    /// queueing: what matters is that one that floods is not with all the others.
    from: Box<[Held; SOURCES]>,
    /// This worker gets what arrives for it from the wire: it tells the XDP program about it.
    owned: bool,
    /// LANs it is on.
    lans: Vec<usize>,
}

impl RouterQueue {
    fn new(router: Membership) -> Self {
        Self {
            socket: None,
            connection: 0,
            run: Vec::with_capacity(BATCH),
            backlog: Backlog::default(),
            copies: 0,
            between: 0,
            from: Box::new([Held::default(); SOURCES]),
            owned: router.owned,
            lans: router.lans,
        }
    }

    /// What the XDP program is to do with its frames.
    fn state(&self) -> RouterState {
        match &self.socket {
            None => RouterState::Down,
            Some(_) if self.backlog.is_paused() => RouterState::Paused,
            Some(_) => RouterState::Ready,
        }
    }

    /// Whether the shares of `bound` leave room for a frame of this kind and so many chunks: copies of broadcast and multicast frames, and
    /// unicast from other routers, have a share each, and a router a share of either.
    fn has_room(&self, origin: Origin, copy: bool, chunks: usize, bound: usize) -> bool {
        let Origin::Router(from) = origin else {
            return !copy || self.copies + chunks <= copy_bound(bound);
        };
        let held = self.from[usize::from(from) % SOURCES];
        if copy {
            let bound = copy_bound(bound);
            self.copies + chunks <= bound && held.copies + chunks <= source_bound(bound)
        } else {
            self.between + chunks <= between_bound(bound) && held.between + chunks <= source_bound(bound)
        }
    }

    /// The socket, if nothing waits that would have to go first.
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| self.backlog.is_empty()).map(AsFd::as_fd)
    }
}

/// The broadcast and multicast frames among a batch of copies. Records of a ring buffer are read-only: those with a checksum to be
/// completed are copied first. There are few: UDP to a group, such as DHCP's, from a split_horizon of our own host.
#[derive(Default)]
struct Batch {
    /// Which record, and where its copy is.
    frames: Vec<(usize, Option<Range<usize>>)>,
    completed: Vec<u8>,
}

impl Batch {
    fn clear(&mut self) {
        self.frames.clear();
        self.completed.clear();
    }

    /// Takes record `n` of `copies` in, whose frame is `frame`.
    fn push(&mut self, n: usize, frame: &[u8]) {
        let copy = checksum::unfinished(frame).map(|checksum| {
            let start = self.completed.len();
            self.completed.extend_from_slice(frame);
            checksum.complete(&mut self.completed[start..]);
            start..self.completed.len()
        });
        self.frames.push((n, copy));
    }

    /// Number of frames.
    fn len(&self) -> usize {
        self.frames.len()
    }

    /// Has `lan` remember the frames as they are sent, to know them again if a loop sends them back.
    fn remember(&self, copies: &RingBuffer, lan: &Lan) {
        for copied in (0..self.len()).filter_map(|n| self.get(copies, n)) {
            lan.heard(copied.frame, copied.time);
        }
    }

    /// Chunk `n` as it is to be sent.
    fn get<'a>(&'a self, copies: &'a RingBuffer, n: usize) -> Option<Copied<'a>> {
        let (record, copy) = &self.frames[n];
        let copied = Copied::read(copies.record(*record))?;
        Some(match copy {
            Some(range) => Copied { frame: &self.completed[range.clone()], ..copied },
            None => copied,
        })
    }
}

/// Sends to the routers. One a worker.
pub(super) struct RouterEgress {
    sides: Vec<RouterQueue>,
    /// Routers with a run, in command of their first datagram.
    touched: Vec<usize>,
    /// Routers with a backlog.
    waiting: Vec<usize>,
    sender: Sender,
    lans: Vec<Arc<Lan>>,
    counts: Arc<WorkerCounts>,
    /// Chunks that no backlog may take.
    reserve: usize,
    events_to_control: EventSender,
    /// Kept for its room.
    batch: Batch,
    /// The chunks of one datagram, kept for its room.
    parts: Vec<Datagram>,
    pub(super) latency: Latency,
}

/// What a worker has to do with a router.
#[derive(Debug)]
pub(super) struct Membership {
    /// False for a retired one.
    pub(super) live: bool,
    /// This worker gets what arrives for it from the wire.
    pub(super) owned: bool,
    /// LANs it is on.
    pub(super) lans: Vec<usize>,
}

impl RouterEgress {
    pub(super) fn new(
        routers: Vec<Membership>,
        lans: Vec<Arc<Lan>>,
        counts: Arc<WorkerCounts>,
        reserve: usize,
        events_to_control: EventSender,
    ) -> Self {
        let sides: Vec<RouterQueue> = routers.into_iter().map(RouterQueue::new).collect();
        Self {
            touched: Vec::with_capacity(sides.len()),
            waiting: Vec::with_capacity(sides.len()),
            batch: Batch::default(),
            parts: Vec::with_capacity(CHUNKS),
            sides,
            sender: Sender::new(BATCH),
            lans,
            counts,
            reserve,
            events_to_control,
            latency: Latency::default(),
        }
    }

    /// This worker's direction to the control thread.
    pub(super) fn events_to_control(&self) -> &EventSender {
        &self.events_to_control
    }

    /// Number of routers in the plan.
    pub(super) fn routers(&self) -> usize {
        self.sides.len()
    }

    /// Adds a datagram, or the next chunk of one, to the run of `router`; [`send_runs`](Self::send_runs) sends it.
    pub(super) fn queue(&mut self, router: usize, datagram: Datagram) {
        let run = &mut self.sides[router].run;
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
        let side = &mut self.sides[router];
        let mut run = std::mem::take(&mut side.run);
        let mut sent = 0;
        let mut refused = None;
        if let Some(socket) = side.ready() {
            (sent, refused) = send_all(&mut self.sender, socket, &run, cache.umem());
        }
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
                let frames = datagram.frames();
                self.counts.count_drop(datagram.origin, DropReason::SendFailed, frames);
                cache.put(datagram.fragment.into_chunk());
                if frames > 0 {
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
        self.sides[router].run = run;
    }

    /// Sends the broadcast and multicast frames among the `count` records of `copies` to each of `ports`, and frames to unknown
    /// stations to `flood`.
    #[expect(
        clippy::too_many_arguments,
        reason = "called once; what it needs are the parts of a LAN's arrival side"
    )]
    pub(super) fn send_copies(
        &mut self,
        lan: &Lan,
        copies: &RingBuffer,
        count: usize,
        ports: &[FloodPort],
        flood: Option<&FloodPort>,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        let mut batch = std::mem::take(&mut self.batch);
        if let Some(port) = flood {
            batch.clear();
            for n in 0..count {
                if let Some(Copied { kind: CopyKind::Unknown, frame, .. }) = Copied::read(copies.record(n)) {
                    batch.push(n, frame);
                }
            }
            batch.remember(copies, lan);
            self.send_flooded(copies, &batch, port, cache, poller);
        }
        let unknown = if flood.is_some() { batch.len() } else { 0 };
        batch.clear();
        for n in 0..count {
            if let Some(Copied { kind: CopyKind::Group, frame, .. }) = Copied::read(copies.record(n)) {
                batch.push(n, frame);
            }
        }
        batch.remember(copies, lan);
        for port in ports {
            self.send_flooded(copies, &batch, port, cache, poller);
        }
        let invalid = count - unknown - batch.len();
        if invalid > 0 {
            self.counts.fault(Fault::BadDescriptor, invalid);
        }
        self.counts.entries.copies.add(count as u64);
        self.counts.entries.spread.add((unknown + batch.len() * ports.len() + invalid) as u64);
        self.batch = batch;
    }

    fn send_flooded(
        &mut self,
        copies: &RingBuffer,
        batch: &Batch,
        port: &FloodPort,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        if batch.len() == 0 {
            return;
        }
        let copied = |n: usize| batch.get(copies, n);
        let side = &self.sides[port.router];
        let mut sent = 0;
        let mut refused = None;
        if let Some(socket) = side.ready() {
            let frames = (0..batch.len()).filter_map(copied).map(|copied| copied.frame);
            (sent, refused) = taken(self.sender.load(frames).send(socket, &port.header, 0));
        }
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
        for copied in (sent..batch.len()).filter_map(copied) {
            let parts = [&port.header[..], copied.frame];
            self.hold_copy(port.router, &parts, copied.time, Origin::Wire, cache, poller);
        }
    }

    /// Sends a datagram whose chunks are needed further, at once or by direction of a copy in the backlog. Its header is in the
    /// first of its `parts`.
    pub(super) fn send_shared(
        &mut self,
        router: usize,
        parts: &[&[u8]],
        time: u64,
        origin: Origin,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        if let Some(socket) = self.sides[router].ready() {
            let sent = match parts {
                [datagram] => send_one(socket, datagram),
                // All but the last go on, also into one without bytes.
                parts => {
                    let parts = parts.iter().zip(1..).map(|(part, n)| (*part, n < parts.len()));
                    self.sender.send(socket, 1, parts).map(drop)
                }
            };
            match sent {
                Ok(()) => {
                    let len = parts.iter().map(|part| part.len()).sum::<usize>() - header::LEN;
                    return self.count(len as u64, time, origin, clock::monotonic());
                }
                Err(Errno::AGAIN) => {}
                Err(errno) => {
                    if !self.refused(router, errno) {
                        return self.counts.count_drop(origin, DropReason::SendFailed, 1);
                    }
                }
            }
        }
        self.hold_copy(router, parts, time, origin, cache, poller);
    }

    /// Puts a copy of a datagram that cannot be kept where it is into the backlog.
    fn hold_copy(
        &mut self,
        router: usize,
        parts: &[&[u8]],
        time: u64,
        origin: Origin,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        let side = &self.sides[router];
        let chunks = parts.iter().map(|part| part.len()).sum::<usize>().div_ceil(CHUNK_SIZE);
        let why = if side.socket.is_none() {
            DropReason::RouterDown
        } else if !side.has_room(origin, true, chunks, bound(cache.available(), self.reserve)) {
            if origin == Origin::Wire { DropReason::GroupSurplus } else { DropReason::RouterFull }
        } else {
            let mut copied = std::mem::take(&mut self.parts);
            let whole = copy(parts, chunks, cache, |fragment| {
                copied.push(Datagram { fragment, time, origin, copy: true });
            });
            if whole {
                self.hold(router, &mut copied, cache, poller);
            } else {
                self.counts.count_drop(origin, DropReason::RouterFull, 1);
                copied.drain(..).for_each(|datagram| cache.put(datagram.fragment.into_chunk()));
            }
            self.parts = copied;
            return;
        };
        self.counts.count_drop(origin, why, 1);
    }

    /// Moves one datagram, the chunks of which are `parts`, into the backlog, or drops it: the bound, or no socket.
    fn hold(&mut self, router: usize, parts: &mut Vec<Datagram>, cache: &mut ChunkCache, poller: &Poller) {
        let Some(first) = parts.first() else { return };
        let (copy, between, origin, chunks) = (first.copy, first.is_between(), first.origin, parts.len());
        let mut bound = bound(cache.available(), self.reserve);
        let side = &mut self.sides[router];
        let room = side.has_room(origin, copy, chunks, bound);
        let why = match &side.socket {
            None => Some(DropReason::RouterDown),
            Some(_) if !room || !side.backlog.has_room(chunks, bound) => Some(DropReason::RouterFull),
            Some(socket) => {
                if side.backlog.is_empty() {
                    // Watched only while there is a backlog: the kernel would wake us for every datagram a router reads.
                    self.waiting.push(router);
                    poller.watch_writable(socket.as_fd(), Token::Router(router));
                }
                None
            }
        };
        if let Some(why) = why {
            self.counts.count_drop(origin, why, 1);
            parts.drain(..).for_each(|datagram| cache.put(datagram.fragment.into_chunk()));
            if room {
                // What has no room for this one is full, though a chunk or two may be left.
                bound = bound.min(side.backlog.len());
            }
        } else {
            side.copies += if copy { chunks } else { 0 };
            side.between += if between { chunks } else { 0 };
            if let Origin::Router(from) = origin {
                let held = &mut side.from[usize::from(from) % SOURCES];
                held.copies += if copy { chunks } else { 0 };
                held.between += if between { chunks } else { 0 };
            }
            parts.drain(..).for_each(|datagram| side.backlog.push(datagram));
        }
        self.pause(router, bound);
    }

    /// A router that was full has room: sends what waits. Returns how many chunks that were.
    pub(super) fn writable(&mut self, router: usize, cache: &mut ChunkCache, poller: &Poller) -> usize {
        let mut sent = 0;
        loop {
            let side = &mut self.sides[router];
            let Some(socket) = &side.socket else { break };
            if side.backlog.is_empty() {
                break;
            }
            for datagram in side.backlog.iter().take(WRITABLE_BATCH) {
                cache.umem().prefetch(&datagram.fragment);
            }
            let waiting = side.backlog.iter().map(|datagram| datagram.part(cache.umem()));
            match self.sender.send(socket.as_fd(), WRITABLE_BATCH, waiting) {
                Ok(Sent { parts, all }) => {
                    sent += parts;
                    let now = clock::monotonic();
                    for _ in 0..parts {
                        let Some(datagram) = self.pop(router) else { break };
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
                    while let Some(datagram) = self.pop(router) {
                        let frames = datagram.frames();
                        self.counts.count_drop(datagram.origin, DropReason::SendFailed, frames);
                        cache.put(datagram.fragment.into_chunk());
                        if frames > 0 {
                            break;
                        }
                    }
                }
            }
        }
        self.settle(router, cache, poller);
        sent
    }

    /// Throws away what waited too long, and tries to send the rest.
    pub(super) fn expire(&mut self, now: u64, cache: &mut ChunkCache, poller: &Poller) {
        for n in (0..self.waiting.len()).rev() {
            let router = self.waiting[n];
            // The chunks of a datagram have the same age.
            while let Some(datagram) = self.pop_stale(router, now) {
                self.counts.count_drop(datagram.origin, DropReason::Stale, datagram.frames());
                cache.put(datagram.fragment.into_chunk());
            }
            self.writable(router, cache, poller);
        }
    }

    /// Takes the oldest out of a router's backlog, one chunk of it.
    fn pop(&mut self, router: usize) -> Option<Datagram> {
        let datagram = self.sides[router].backlog.pop();
        self.took_out(router, datagram)
    }

    /// Takes the oldest out of a router's backlog, one chunk of it, if it has waited too long.
    fn pop_stale(&mut self, router: usize, now: u64) -> Option<Datagram> {
        let datagram = self.sides[router].backlog.pop_stale(now);
        self.took_out(router, datagram)
    }

    fn took_out(&mut self, router: usize, datagram: Option<Datagram>) -> Option<Datagram> {
        let datagram = datagram?;
        let side = &mut self.sides[router];
        side.copies -= usize::from(datagram.copy);
        side.between -= usize::from(datagram.is_between());
        if let Origin::Router(from) = datagram.origin {
            let held = &mut side.from[usize::from(from) % SOURCES];
            held.copies -= usize::from(datagram.copy);
            held.between -= usize::from(!datagram.copy);
        }
        Some(datagram)
    }

    /// True if frames wait for a router.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The router's socket is this one from now on, or it has none. What waits goes to the new one.
    pub(super) fn set_socket(
        &mut self,
        router: usize,
        socket: Option<(OwnedFd, u64)>,
        cache: &mut ChunkCache,
        poller: &Poller,
    ) {
        let side = &mut self.sides[router];
        if !side.backlog.is_empty() {
            if let Some(old) = &side.socket {
                poller.forget(old.as_fd());
            }
            if let Some((new, _)) = &socket {
                poller.watch_writable(new.as_fd(), Token::Router(router));
            }
        }
        (side.socket, side.connection) =
            socket.map_or((None, 0), |(socket, connection)| (Some(socket), connection));
        // What the XDP program is told next is the truth about the new one.
        side.backlog.forget_pause();
        let state = if side.socket.is_some() { RouterState::Ready } else { RouterState::Down };
        self.tell(router, state);
        self.writable(router, cache, poller);
    }

    /// Goes over to another plan: new routers come, without a socket as yet; those that are retired lose theirs, and what
    /// waits for them is given back.
    pub(super) fn follow(&mut self, routers: Vec<Membership>, cache: &mut ChunkCache, poller: &Poller) {
        for (router, member) in routers.into_iter().enumerate() {
            let live = member.live;
            match self.sides.get_mut(router) {
                Some(side) => (side.owned, side.lans) = (member.owned, member.lans),
                None => self.sides.push(RouterQueue::new(member)),
            }
            if live {
                // It may be on another LAN than before.
                self.tell(router, self.sides[router].state());
            } else if self.sides[router].socket.is_some() {
                self.set_socket(router, None, cache, poller);
            }
        }
        let routers = self.sides.len();
        self.touched.reserve(routers.saturating_sub(self.touched.len()));
        self.waiting.reserve(routers.saturating_sub(self.waiting.len()));
    }

    /// Takes all datagrams back, at the end.
    pub(super) fn drain(&mut self, cache: &mut ChunkCache) {
        for router in 0..self.sides.len() {
            for datagram in self.sides[router].run.drain(..) {
                self.counts.count_drop(datagram.origin, DropReason::Stopped, datagram.frames());
                cache.put(datagram.fragment.into_chunk());
            }
            while let Some(datagram) = self.pop(router) {
                self.counts.count_drop(datagram.origin, DropReason::Stopped, datagram.frames());
                cache.put(datagram.fragment.into_chunk());
            }
        }
    }

    /// What the kernel said of a send, other than "full". True if the router's socket is gone, with its backlog's
    /// hope; false if only this datagram was refused.
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
        if gone {
            self.sides[router].socket = None;
            self.tell(router, RouterState::Down);
            self.events_to_control
                .send(Event::RouterGone { router, connection: self.sides[router].connection });
        }
        gone
    }

    /// After the backlog shrank or the socket went: what follows for the poller and the XDP program.
    fn settle(&mut self, router: usize, cache: &mut ChunkCache, poller: &Poller) {
        if self.sides[router].socket.is_none() {
            while let Some(datagram) = self.pop(router) {
                self.counts.count_drop(datagram.origin, DropReason::RouterDown, datagram.frames());
                cache.put(datagram.fragment.into_chunk());
            }
        }
        let side = &self.sides[router];
        if side.backlog.is_empty() {
            if let Some(socket) = &side.socket {
                poller.forget(socket.as_fd());
            }
            self.waiting.retain(|other| *other != router);
        }
        self.pause(router, bound(cache.available(), self.reserve));
    }

    fn pause(&mut self, router: usize, bound: usize) {
        let side = &mut self.sides[router];
        match side.backlog.pause(bound) {
            None => {}
            Some(_) if side.socket.is_none() => {}
            Some(Pause::Begin) => self.tell(router, RouterState::Paused),
            Some(Pause::End) => self.tell(router, RouterState::Ready),
        }
    }

    fn tell(&self, router: usize, state: RouterState) {
        let side = &self.sides[router];
        if side.owned {
            for lan in &side.lans {
                self.lans[*lan].set_router_state(router, state);
            }
        }
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

/// How many datagrams the kernel took, and the error it gave unless that was a full queue. When it took some, an error
/// of the next is hidden: the rest goes to the backlog, and the error shows when that is tried.
fn taken(result: Result<usize, Errno>) -> (usize, Option<Errno>) {
    match result {
        Ok(count) => (count, None),
        Err(Errno::AGAIN) => (0, None),
        Err(errno) => (0, Some(errno)),
    }
}

/// Copies `parts`, one after the other, into `chunks` chunks, each of which goes to `each` as a fragment of one frame.
/// False if there were too few of them.
fn copy(parts: &[&[u8]], chunks: usize, cache: &mut ChunkCache, mut each: impl FnMut(Fragment)) -> bool {
    let mut rest = parts.iter().copied();
    let mut part = rest.next().unwrap_or_default();
    for n in 1..=chunks {
        let Some(mut frame) = cache.take() else { return false };
        let chunk = cache.umem().chunk_mut(&mut frame);
        let mut len = 0;
        while len < CHUNK_SIZE {
            if part.is_empty() {
                let Some(next) = rest.next() else { break };
                part = next;
            }
            let (here, after) = part.split_at(part.len().min(CHUNK_SIZE - len));
            chunk[len..len + here.len()].copy_from_slice(here);
            (len, part) = (len + here.len(), after);
        }
        let fragment = Fragment::new(frame, 0, len);
        each(if n < chunks { fragment.continued() } else { fragment });
    }
    true
}

/// Sends as much of a run as the router has room for; returns how many chunks of it, and what [`taken`] does.
fn send_all(
    sender: &mut Sender,
    socket: BorrowedFd<'_>,
    run: &[Datagram],
    umem: &Umem,
) -> (usize, Option<Errno>) {
    if let [one] = run {
        return taken(send_one(socket, umem.data(&one.fragment)).map(|()| 1));
    }
    let mut sent = 0;
    while sent < run.len() {
        let parts = run[sent..].iter().map(|datagram| datagram.part(umem));
        match sender.send(socket, BATCH, parts) {
            Ok(Sent { parts, all }) => {
                sent += parts;
                if !all || parts == 0 {
                    break;
                }
            }
            Err(errno) => return (sent, taken(Err(errno)).1),
        }
    }
    (sent, None)
}

fn send_one(socket: BorrowedFd<'_>, datagram: &[u8]) -> Result<(), Errno> {
    rustix::net::send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(|_| ())
}
