//! Simulated routers for the lab and the tests: what IOU is to the netio directory, without an IOU image.
//!
//! A [`Router`] binds and locks its socket as IOU does, checks every header as strictly as IOU does, and sends one copy
//! of each frame to every other endpoint on its NETMAP line, by path. Behind its interfaces stands a small IP stack, a
//! TAP device, an echo or a counter: [`Role`]. A [`Simulation`] runs any number of them in one thread.

mod addresses;
pub mod command;
mod counters;
mod keepalives;
mod router;
mod socket;
mod stack;
mod wiring;

pub use addresses::{Addresses, Network};
pub use counters::Counters;
pub use keepalives::{Keepalives, LinkChange, directory_beside};
pub use router::{Role, Router};
pub use wiring::{Refusal, SHORTEST, Wiring};

use crate::iou::InstanceId;
use router::Scratch;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a simulated router cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// No line of NETMAP has the id.
    #[error("router {id} has no interface in NETMAP: add a line for it or leave it out of the ids")]
    NotWired {
        /// The router.
        id: InstanceId,
    },
    /// The lock is taken, or cannot be made.
    #[error(transparent)]
    Lock(#[from] crate::iou::lock::Error),
    /// The socket cannot be bound, or its path is too long for a socket address.
    #[error("socket {path}: {source}", path = path.display())]
    Bind {
        /// The socket file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The network has too few addresses.
    #[error("{network} has no address for router {id}: give a larger network")]
    Address {
        /// The router.
        id: InstanceId,
        /// The network.
        network: String,
    },
    /// The TAP device cannot be made.
    #[error(transparent)]
    Tap(#[from] crate::sys::tap::Error),
    /// A socket or TAP device failed while in use.
    #[error("router {id} cannot receive any more: {source}; was its TAP device or namespace removed?")]
    Receive {
        /// The router.
        id: InstanceId,
        /// What the system said.
        source: io::Error,
    },
    /// Waiting for frames failed.
    #[error("epoll: {0}; with very many routers raise the limit of open files (`ulimit -n`)")]
    Epoll(io::Error),
}

/// Marks the descriptors of [`Simulation::watch`] among those of the routers.
const WATCHED: u64 = 1 << 63;

/// Simulated routers that one thread runs. Idle ones cost nothing: the thread sleeps until a frame or a timer is due.
pub struct Simulation {
    routers: Vec<Router>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// When which router's stack has something to do. Empty as long as routers only answer.
    timers: BTreeSet<(Instant, usize)>,
    scratch: Scratch,
}

impl Simulation {
    /// Puts `routers` to work. Nothing happens outside [`Simulation::poll`].
    ///
    /// # Errors
    /// [`Error::Epoll`] when the kernel refuses.
    pub fn new(routers: Vec<Router>) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::Epoll(e.into()))?;
        for (index, router) in routers.iter().enumerate() {
            for (source, descriptor) in router.descriptors() {
                let token = epoll::EventData::new_u64((index as u64) << 32 | u64::from(source));
                epoll::add(&epoll, descriptor, token, epoll::EventFlags::IN)
                    .map_err(|e| Error::Epoll(e.into()))?;
            }
        }
        let events = Vec::with_capacity(256);
        let mut simulation =
            Self { routers, epoll, events, timers: BTreeSet::new(), scratch: Scratch::default() };
        let now = Instant::now();
        (0..simulation.routers.len()).for_each(|index| simulation.schedule(index, now));
        Ok(simulation)
    }

    /// Makes [`Simulation::poll`] return `token` when `descriptor` is readable. It must stay open as long as the simulation.
    ///
    /// # Errors
    /// [`Error::Epoll`] when the kernel refuses.
    pub fn watch(&self, descriptor: impl AsFd, token: u32) -> Result<(), Error> {
        let data = epoll::EventData::new_u64(WATCHED | u64::from(token));
        epoll::add(&self.epoll, descriptor, data, epoll::EventFlags::IN).map_err(|e| Error::Epoll(e.into()))
    }

    /// The routers, in the order they were given.
    #[must_use]
    pub fn routers(&self) -> &[Router] {
        &self.routers
    }

    /// Interfaces that went up or down since the last call.
    pub fn link_changes(&mut self) -> Vec<LinkChange> {
        self.routers.iter_mut().flat_map(Router::link_changes).collect()
    }

    /// Lets the stack of the router at `index` send an echo request to `target`. Its answer counts in
    /// [`Router::pongs`]. Returns false if there is no stack or it cannot queue more.
    pub fn ping(&mut self, index: usize, target: IpAddr, sequence: u16) -> bool {
        let queued = self.routers[index].ping(target, sequence);
        if queued {
            let now = Instant::now();
            self.routers[index].expire(now, &mut self.scratch.out);
            self.schedule(index, now);
        }
        queued
    }

    /// Waits until a frame, a timer or a watched descriptor is there, `timeout` at most, and handles all that is.
    /// Returns the token of one watched descriptor that is readable; it is returned again until it is read.
    ///
    /// # Errors
    /// [`Error::Receive`] when a TAP device went away, [`Error::Epoll`] when waiting failed.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Option<u32>, Error> {
        let due = self.timers.first().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let wait = [timeout, due].into_iter().flatten().min().map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::Epoll(e.into())),
        }
        let now = Instant::now();
        let mut watched = None;
        for n in 0..self.events.len() {
            let token = self.events[n].data.u64();
            if token & WATCHED != 0 {
                watched = Some(token as u32);
                continue;
            }
            let index = (token >> 32) as usize;
            self.routers[index].readable(token as u32, now, &mut self.scratch)?;
            self.schedule(index, now);
        }
        while let Some(&(due, index)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            self.routers[index].expire(now, &mut self.scratch.out);
            self.schedule(index, now);
        }
        Ok(watched)
    }

    fn schedule(&mut self, index: usize, now: Instant) {
        // A timer that is no longer due is harmless, so nothing is ever looked for to remove it; and no timer is set
        // to the present, which would make the loop of `poll` endless.
        if let Some(due) = self.routers[index].deadline(now) {
            self.timers.insert((due.max(now + Duration::from_millis(1)), index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iou::header::Header;
    use crate::iou::{Endpoint, Interface, mac};
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    pub(super) fn endpoint(id: u16, bay: u8, unit: u8) -> Endpoint {
        Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface::new(bay, unit).unwrap() }
    }

    /// A 60-byte frame to the interface's own address, with the header in front.
    pub(super) fn datagram(to: Endpoint, from: Endpoint) -> Vec<u8> {
        let frame = [&mac::current(to).0[..], &mac::current(from).0, &[0x88, 0xb5], &[7; 46]].concat();
        [&Header::data(to, from).0[..], &frame].concat()
    }

    fn role() -> Role {
        let v4 = "10.10.0.0/16".parse().unwrap();
        Role::Stack { addresses: Addresses { v4, v6: "fd00:10::/64".parse().unwrap() }, mtu: 1500 }
    }

    fn simulation(directory: &Path, lines: &[Vec<Endpoint>], ids: &[u16], role: &Role) -> Simulation {
        let boot = |id: &u16| {
            Router::boot(directory, Wiring::of(InstanceId::new(*id).unwrap(), lines), role).unwrap()
        };
        Simulation::new(ids.iter().map(boot).collect()).unwrap()
    }

    /// Polls until `done`, five seconds at most.
    fn until(simulation: &mut Simulation, done: impl Fn(&Simulation) -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        while !done(simulation) {
            assert!(Instant::now() < end, "not within five seconds: {}", simulation.routers[0].counters());
            simulation.poll(Some(Duration::from_millis(50))).unwrap();
        }
    }

    #[test]
    fn two_routers_ping_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 1), endpoint(2, 1, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1, 2], &role());
        for (sequence, target) in ["10.10.0.3", "fd00:10::2"].iter().enumerate() {
            assert!(simulation.ping(0, target.parse().unwrap(), sequence as u16));
            until(&mut simulation, |simulation| simulation.routers[0].pongs() == sequence as u64 + 1);
        }
        assert!(simulation.ping(1, "10.10.0.2".parse().unwrap(), 1));
        until(&mut simulation, |simulation| simulation.routers[1].pongs() == 1);
        for router in simulation.routers() {
            let counters = router.counters();
            assert_eq!((counters.dropped(), counters.failed, counters.full), (0, 0, 0), "{counters}");
        }
        assert_eq!(simulation.routers[0].counters().sent, simulation.routers[1].counters().received);
    }

    #[test]
    fn an_unanswered_ping_is_asked_again_and_the_loop_sleeps_between() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 0), endpoint(9, 0, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1], &role());
        let forwarder = UnixDatagram::bind(directory.path().join("9")).unwrap();
        forwarder.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(simulation.ping(0, "10.10.9.9".parse().unwrap(), 1));
        let start = Instant::now();
        let mut polls = 0;
        while simulation.routers[0].counters().sent < 2 {
            simulation.poll(Some(Duration::from_secs(5))).unwrap();
            polls += 1;
        }
        assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&start.elapsed()));
        assert!(polls < 10, "{polls} polls for one timer");
        let mut question = [0; 128];
        let length = forwarder.recv(&mut question).unwrap();
        assert_eq!(question[..8], Header::data(endpoint(9, 0, 0), endpoint(1, 0, 0)).0);
        assert_eq!(&question[8..length][12..14], [8, 6]);
    }

    #[test]
    fn each_wrong_header_is_counted_and_not_delivered() {
        let directory = tempfile::tempdir().unwrap();
        let lines =
            [vec![endpoint(1, 0, 1), endpoint(501, 0, 0)], vec![endpoint(1, 1, 0), endpoint(2, 0, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1], &Role::Echo);
        let forwarder = UnixDatagram::bind(directory.path().join("501")).unwrap();
        forwarder.set_nonblocking(true).unwrap();
        let router = directory.path().join("1");
        let good = datagram(endpoint(1, 0, 1), endpoint(501, 0, 0));
        for (at, value) in [(1, 3), (4, 0x20), (4, 0x01), (5, 0x10), (3, 0xf4), (6, 3)] {
            let mut bad = good.clone();
            bad[at] = value;
            forwarder.send_to(&bad, &router).unwrap();
        }
        forwarder.send_to(&good[..21], &router).unwrap();
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        let wanted = Counters {
            short: 1,
            wrong_id: 1,
            wrong_interface: 1,
            wrong_source: 3,
            wrong_type: 1,
            ..Counters::default()
        };
        assert_eq!(*simulation.routers[0].counters(), wanted);
        let mut answer = [0; 128];
        assert_eq!(forwarder.recv(&mut answer).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        forwarder.send_to(&good, &router).unwrap();
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(forwarder.recv(&mut answer).unwrap(), good.len());
        assert_eq!(answer[..8], Header::data(endpoint(501, 0, 0), endpoint(1, 0, 1)).0);
        assert_eq!(answer[8..14], good[14..20]);
        assert_eq!(answer[14..20], good[8..14]);
        assert_eq!(answer[20..good.len()], good[20..]);
    }

    #[test]
    fn echo_ignores_other_addresses_and_multicast() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 0), endpoint(501, 0, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1], &Role::Echo);
        let sender = UnixDatagram::unbound().unwrap();
        let mut frame = datagram(endpoint(1, 0, 0), endpoint(501, 0, 0));
        frame[8..14].copy_from_slice(&[0xff; 6]);
        sender.send_to(&frame, directory.path().join("1")).unwrap();
        frame[8..14].copy_from_slice(&[0xaa, 0xbb, 0xcc, 0, 2, 0]);
        sender.send_to(&frame, directory.path().join("1")).unwrap();
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        let counters = simulation.routers[0].counters();
        assert_eq!((counters.received, counters.received_bytes), (2, 120));
        assert_eq!((counters.sent, counters.no_socket), (0, 0));
    }

    #[test]
    fn one_copy_to_every_other_endpoint_and_every_failure_counted() {
        let directory = tempfile::tempdir().unwrap();
        let line = vec![
            endpoint(2, 0, 0),
            endpoint(1, 0, 0),
            endpoint(3, 0, 1),
            endpoint(4, 0, 0),
            endpoint(5, 0, 0),
        ];
        let mut simulation = simulation(directory.path(), &[line], &[1], &Role::Echo);
        let two = UnixDatagram::bind(directory.path().join("2")).unwrap();
        let full = UnixDatagram::bind(directory.path().join("3")).unwrap();
        drop(UnixDatagram::bind(directory.path().join("4")).unwrap());
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"x", directory.path().join("3")).is_ok() {}

        two.send_to(&datagram(endpoint(1, 0, 0), endpoint(2, 0, 0)), directory.path().join("1")).unwrap();
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        let counters = *simulation.routers[0].counters();
        assert_eq!(
            (counters.sent, counters.full, counters.refused, counters.no_socket),
            (1, 1, 1, 1),
            "{counters}"
        );
        let mut answer = [0; 128];
        two.recv(&mut answer).unwrap();
        assert_eq!(answer[..8], Header::data(endpoint(2, 0, 0), endpoint(1, 0, 0)).0);
        drop(full);
    }

    #[test]
    fn a_sink_counts_and_never_sends() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 0), endpoint(501, 0, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1], &Role::Sink);
        let sender = UnixDatagram::unbound().unwrap();
        let good = datagram(endpoint(1, 0, 0), endpoint(501, 0, 0));
        let mut bad = good.clone();
        bad[1] = 9;
        for _ in 0..3 {
            sender.send_to(&good, directory.path().join("1")).unwrap();
            sender.send_to(&bad, directory.path().join("1")).unwrap();
        }
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        let wanted = Counters { received: 3, received_bytes: 180, wrong_id: 3, ..Counters::default() };
        assert_eq!(*simulation.routers[0].counters(), wanted);
    }

    #[test]
    fn tagged_frames_are_counted_by_the_stack() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 0), endpoint(501, 0, 0)]];
        let mut simulation = simulation(directory.path(), &lines, &[1], &role());
        let mut tagged = datagram(endpoint(1, 0, 0), endpoint(501, 0, 0));
        tagged[20..22].copy_from_slice(&[0x81, 0]);
        UnixDatagram::unbound().unwrap().send_to(&tagged, directory.path().join("1")).unwrap();
        simulation.poll(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(
            (simulation.routers[0].counters().received, simulation.routers[0].counters().tagged),
            (1, 1)
        );
    }

    #[test]
    fn a_router_that_is_not_in_netmap() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [vec![endpoint(1, 0, 0)]];
        let booted =
            Router::boot(directory.path(), Wiring::of(InstanceId::new(2).unwrap(), lines), &Role::Echo);
        assert!(matches!(booted, Err(Error::NotWired { .. })));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
