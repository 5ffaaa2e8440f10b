//! What a worker keeps of one router: its socket, the run of the current batch, what waits for it and whose that is.

use super::backlog::{Backlog, Waiting, between_bound, copy_bound, source_bound};
use super::batch::BATCH;
use crate::plan::{Plan, Router};
use crate::stats;
use crate::steer::layout::RouterState;
use af_xdp::{Fragment, Umem};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// Whether a frame is for one router or for many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cast {
    /// For this one.
    Unicast,
    /// One of many copies.
    Copy,
}

/// A datagram for a router: header and frame in a chunk of UMEM. One that takes several chunks is as many of these in a
/// row, whose fragments [continue](Fragment::continues). Small, because thousands go through the backlogs and the cache.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) fragment: Fragment,
    /// When its frame arrived: `CLOCK_MONOTONIC`, ns.
    pub(super) time: u64,
    pub(super) origin: Origin,
    pub(super) cast: Cast,
}

const _: () = assert!(size_of::<Datagram>() <= 32);

impl Waiting for Datagram {
    fn since(&self) -> u64 {
        self.time
    }
}

impl Datagram {
    /// A part for the sender, and whether the datagram goes on in the next.
    pub(super) fn part<'a>(&'a self, umem: &'a Umem) -> (&'a [u8], bool) {
        (umem.data(&self.fragment), self.fragment.continues())
    }

    /// 1 for the last chunk of a frame, 0 for those before: as many frames are counted as end.
    pub(super) fn frames(&self) -> usize {
        usize::from(!self.fragment.continues())
    }
}

/// A router's socket, as its worker gets it.
#[derive(Debug)]
pub struct RouterSocket {
    /// A connected datagram socket.
    pub fd: OwnedFd,
    /// Number of the connection, for [`Event::RouterGone`](super::Event::RouterGone).
    pub connection: u64,
}

/// The part of a worker in a router.
#[derive(Debug)]
pub(super) struct Membership {
    /// False for a retired one.
    pub(super) live: bool,
    /// This worker gets what arrives for it from the wire.
    pub(super) owned: bool,
    /// LANs it is on.
    pub(super) lans: Vec<usize>,
}

impl Membership {
    /// The part of `worker` in each router of `plan`.
    pub(super) fn of_worker(plan: &Plan, worker: usize) -> Vec<Self> {
        let member =
            |router: &Router| Self { live: router.live, owned: router.worker == worker, lans: Vec::new() };
        let mut members: Vec<Self> = plan.routers.iter().map(member).collect();
        for (number, lan) in plan.lans.iter().enumerate() {
            for port in &lan.ports {
                let lans = &mut members[plan.ports[*port].router.index()].lans;
                if lans.last() != Some(&number) {
                    lans.push(number);
                }
            }
        }
        members
    }
}

/// See [`RouterQueue::from`].
const SOURCES: usize = 64;

/// Chunks in a backlog that have a share of it.
#[derive(Clone, Copy, Default)]
struct Held {
    /// Those of copies of broadcast and multicast frames.
    copies: usize,
    /// Those of unicast from other routers.
    between: usize,
}

/// What a worker keeps of a router.
pub(super) struct RouterQueue {
    /// The connected socket; `None` while the router has none.
    pub(super) socket: Option<RouterSocket>,
    /// Datagrams of the current batch.
    pub(super) run: Vec<Datagram>,
    pub(super) backlog: Backlog<Datagram>,
    /// What the backlog holds, by share.
    held: Held,
    /// Of that, what is from which router. Routers whose numbers differ by [`SOURCES`] count as one, as in stochastic fair
    /// queueing: what matters is that one that floods does not count with all the others.
    from: Box<[Held; SOURCES]>,
    /// This worker gets what arrives for it from the wire: it tells the XDP program about it.
    pub(super) owned: bool,
    /// LANs it is on.
    pub(super) lans: Vec<usize>,
}

impl RouterQueue {
    pub(super) fn new(router: Membership) -> Self {
        Self {
            socket: None,
            run: Vec::with_capacity(BATCH),
            backlog: Backlog::default(),
            held: Held::default(),
            from: Box::new([Held::default(); SOURCES]),
            owned: router.owned,
            lans: router.lans,
        }
    }

    /// What the XDP program is to do with its frames.
    pub(super) fn state(&self) -> RouterState {
        match &self.socket {
            None => RouterState::Down,
            Some(_) if self.backlog.is_paused() => RouterState::Paused,
            Some(_) => RouterState::Ready,
        }
    }

    /// Whether the shares of `bound` leave capacity for a frame of this kind and so many chunks: copies of broadcast and
    /// multicast frames, and unicast from other routers, have a share each, and each router a share of either.
    pub(super) fn has_room(&self, origin: Origin, cast: Cast, chunks: usize, bound: usize) -> bool {
        let copy = cast == Cast::Copy;
        let Origin::Router(from) = origin else {
            return !copy || self.held.copies + chunks <= copy_bound(bound);
        };
        let held = self.from[usize::from(from) % SOURCES];
        if copy {
            let bound = copy_bound(bound);
            self.held.copies + chunks <= bound && held.copies + chunks <= source_bound(bound)
        } else {
            self.held.between + chunks <= between_bound(bound) && held.between + chunks <= source_bound(bound)
        }
    }

    /// The socket, if nothing waits that would have to go first.
    pub(super) fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| self.backlog.is_empty()).map(|socket| socket.fd.as_fd())
    }

    /// Adds one datagram, or a chunk of one, to the backlog.
    pub(super) fn push(&mut self, datagram: Datagram) {
        self.account(&datagram, |held| *held += 1);
        self.backlog.push(datagram);
    }

    /// Takes the oldest out of the backlog, one chunk of it.
    pub(super) fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.backlog.pop()?;
        self.account(&datagram, |held| *held -= 1);
        Some(datagram)
    }

    /// Takes the oldest out of the backlog, one chunk of it, if it has waited too long at `now` (ns).
    pub(super) fn pop_stale(&mut self, now: u64) -> Option<Datagram> {
        let datagram = self.backlog.pop_stale(now)?;
        self.account(&datagram, |held| *held -= 1);
        Some(datagram)
    }

    /// Changes the shares that a chunk of `datagram` counts to.
    fn account(&mut self, datagram: &Datagram, change: impl Fn(&mut usize)) {
        let from = match datagram.origin {
            Origin::Wire => None,
            Origin::Router(from) => Some(&mut self.from[usize::from(from) % SOURCES]),
        };
        match (datagram.cast, from) {
            (Cast::Copy, from) => {
                change(&mut self.held.copies);
                if let Some(from) = from {
                    change(&mut from.copies);
                }
            }
            (Cast::Unicast, Some(from)) => {
                change(&mut self.held.between);
                change(&mut from.between);
            }
            (Cast::Unicast, None) => {}
        }
    }
}
