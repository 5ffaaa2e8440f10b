//! One simulated router: its socket, its interfaces, and what stands behind each.

use super::counters::Counters;
use super::keepalives::{Keepalives, L1, LinkChange};
use super::socket::Socket;
use super::stack::{Outbox, Stack};
use super::wiring::{SHORTEST, Wiring};
use super::{Addresses, Error};
use crate::ether::Mac;
use crate::iou::header::{self, Header};
use crate::iou::mac;
use crate::iou::{Endpoint, InstanceId};
use crate::sys::drain::Drain;
use crate::sys::tap::Tap;
use smoltcp::wire::IpCidr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The largest datagram: no frame on Ethernet comes near.
const LARGEST: usize = 65536;

/// Frames handled for one router before the others get their turn.
const BURST: usize = 64;

/// The number of the keepalive socket among a router's descriptors.
const L1_SOURCE: u32 = u32::MAX;

/// What stands behind a router's interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// A small IP stack with the addresses of its id on the first interface (by bay and unit); the others only count.
    Stack {
        /// The networks of the addresses.
        addresses: Addresses,
        /// Bytes after the Ethernet header, 1280 or more.
        mtu: u16,
    },
    /// A TAP device for each interface, with the interface's MAC address, so that the kernel or a routing daemon is
    /// the router. It has no addresses yet.
    Tap {
        /// Its name; with several interfaces the names are NAME0, NAME1, … by bay and unit.
        name: String,
        /// The file of its network namespace.
        namespace: PathBuf,
        /// Bytes after the Ethernet header.
        mtu: u16,
    },
    /// Every unicast frame for the interface's MAC address goes back at once, with the addresses swapped.
    Echo,
    /// Everything is read as fast as possible, checked and counted; nothing is ever sent.
    Sink,
}

enum Attached {
    Stack(Box<Stack>),
    Tap(Tap),
    Echo,
    Sink,
}

struct Port {
    mac: Mac,
    peers: Vec<Peer>,
    attached: Attached,
}

/// An endpoint at the other end: the header of what goes there and the socket it goes to.
struct Peer {
    header: Header,
    address: SocketAddr,
}

/// Memory that all routers of a process use in turn.
pub(super) struct Scratch {
    pub(super) input: Box<[u8]>,
    pub(super) out: Outbox,
    pub(super) drain: Drain<SHORTEST>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { input: vec![0; LARGEST].into(), out: Outbox::default(), drain: Drain::default() }
    }
}

/// A simulated router.
pub struct Router {
    wiring: Wiring,
    socket: Socket,
    ports: Vec<Port>,
    sink: bool,
    counters: Counters,
    l1: Option<L1>,
}

impl Router {
    /// Boots a router: takes its lock, binds its socket in `directory`, makes its interfaces.
    ///
    /// # Errors
    /// The router has no interface in NETMAP, its id is in use, the socket cannot be bound, its addresses do not fit
    /// their network, or the TAP device cannot be made.
    pub fn boot(directory: &Path, wiring: Wiring, role: &Role) -> Result<Self, Error> {
        let id = wiring.router();
        if wiring.interfaces().is_empty() {
            return Err(Error::NotWired { id });
        }
        let socket = Socket::bind(directory, id)?;
        let mut ports = Vec::with_capacity(wiring.interfaces().len());
        for (number, (interface, peers)) in wiring.interfaces().iter().enumerate() {
            let own = Endpoint { id, interface: *interface };
            let mac = mac::current(own);
            let peers = peers
                .iter()
                .map(|&peer| {
                    let path = directory.join(peer.id.to_string());
                    let address =
                        SocketAddr::from_pathname(&path).map_err(|source| Error::Bind { path, source })?;
                    Ok(Peer { header: Header::data(peer, own), address })
                })
                .collect::<Result<_, Error>>()?;
            let attached = match role {
                Role::Stack { addresses, mtu } if number == 0 => {
                    let [v4, v6] = addresses.both(id)?;
                    let addresses = [
                        IpCidr::new(v4.into(), addresses.v4.prefix),
                        IpCidr::new(v6.into(), addresses.v6.prefix),
                    ];
                    Attached::Stack(Box::new(Stack::new(mac, addresses, *mtu, Instant::now())))
                }
                Role::Tap { name, namespace, mtu } => {
                    let several = wiring.interfaces().len() > 1;
                    let name = if several { format!("{name}{number}") } else { name.clone() };
                    Attached::Tap(Tap::create(&name, mac, *mtu, namespace)?)
                }
                Role::Echo => Attached::Echo,
                Role::Stack { .. } | Role::Sink => Attached::Sink,
            };
            ports.push(Port { mac, peers, attached });
        }
        Ok(Self { wiring, socket, ports, sink: *role == Role::Sink, counters: Counters::default(), l1: None })
    }

    /// Has it send L1 keepalives, and its interfaces go down without, as `-l` does.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn with_keepalives(mut self, keepalives: &Keepalives) -> Result<Self, Error> {
        self.l1 = Some(L1::bind(&self.wiring, keepalives, Instant::now())?);
        Ok(self)
    }

    /// Its interfaces that went up or down since the last call.
    pub(super) fn link_changes(&mut self) -> Vec<LinkChange> {
        self.l1.as_mut().map_or_else(Vec::new, L1::changes)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.wiring.router()
    }

    /// What it counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Echo replies to [`super::Simulation::ping`] that arrived.
    #[must_use]
    pub fn pongs(&self) -> u64 {
        self.stack().map_or(0, Stack::pongs)
    }

    /// The descriptors to wait for, each with the number that [`Router::readable`] wants: 0 the socket, then the
    /// TAP devices.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let taps = self.ports.iter().zip(1..).filter_map(|(port, source)| match &port.attached {
            Attached::Tap(tap) => Some((source, tap.as_fd())),
            _ => None,
        });
        let l1 = self.l1.as_ref().map(|l1| (L1_SOURCE, l1.as_fd()));
        std::iter::once((0, self.socket.as_fd())).chain(taps).chain(l1)
    }

    /// Handles what waits at one of its descriptors, a burst at most.
    pub(super) fn readable(&mut self, source: u32, now: Instant, scratch: &mut Scratch) -> Result<(), Error> {
        let id = self.id();
        if source == L1_SOURCE {
            self.l1.iter_mut().for_each(|l1| l1.read(BURST, now));
            return Ok(());
        }
        let result = match (source, self.sink) {
            (0, true) => self.drain(scratch),
            (0, false) => self.read_socket(now, scratch),
            (tap, _) => self.read_tap(tap as usize - 1, scratch),
        };
        match result {
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Err(Error::Receive { id, source: e })
            }
            _ => Ok(()),
        }
    }

    fn drain(&mut self, scratch: &mut Scratch) -> io::Result<()> {
        for _ in 0..BURST {
            let more = scratch.drain.recv(&self.socket)?;
            for (head, length) in scratch.drain.batch() {
                self.counters.arrival(length, self.wiring.check(head));
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn read_socket(&mut self, now: Instant, scratch: &mut Scratch) -> io::Result<()> {
        for _ in 0..BURST {
            let length = self.socket.recv(&mut scratch.input)?;
            let datagram = &mut scratch.input[..length];
            if let Some(port) = self.counters.arrival(length, self.wiring.check(datagram)) {
                if self.l1.as_ref().is_some_and(|l1| !l1.is_up(port)) {
                    self.counters.link_down += 1;
                    continue;
                }
                self.ports[port].deliver(datagram, now, &mut scratch.out, &self.socket, &mut self.counters);
            }
        }
        Ok(())
    }

    fn read_tap(&mut self, port: usize, scratch: &mut Scratch) -> io::Result<()> {
        let Port { attached: Attached::Tap(tap), peers, .. } = &self.ports[port] else { return Ok(()) };
        for _ in 0..BURST {
            let length = tap.recv(&mut scratch.input[header::LEN..])?;
            if self.l1.as_ref().is_some_and(|l1| !l1.is_up(port)) {
                continue;
            }
            let datagram = &mut scratch.input[..header::LEN + length];
            send(&self.socket, peers, &mut self.counters, datagram);
        }
        Ok(())
    }

    /// When [`Router::expire`] is due; `None`: never.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let keepalive = self.l1.as_ref().map(L1::deadline);
        let stack = self.stack_mut().and_then(|stack| stack.deadline(now));
        [keepalive, stack].into_iter().flatten().min()
    }

    /// Does what its timers ask for: the stack's, and those of its keepalives.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Outbox) {
        self.l1.iter_mut().for_each(|l1| l1.expire(now));
        for (number, port) in self.ports.iter_mut().enumerate() {
            if self.l1.as_ref().is_some_and(|l1| !l1.is_up(number)) {
                continue;
            }
            if let Attached::Stack(stack) = &mut port.attached {
                stack.egress(now, out);
                out.each(|datagram| send(&self.socket, &port.peers, &mut self.counters, datagram));
                out.clear();
            }
        }
    }

    /// Queues an echo request. False if there is no stack or its queue is full.
    pub(super) fn ping(&mut self, target: IpAddr, sequence: u16) -> bool {
        self.stack_mut().is_some_and(|stack| stack.ping(target, sequence))
    }

    fn stack(&self) -> Option<&Stack> {
        self.ports.iter().find_map(|port| match &port.attached {
            Attached::Stack(stack) => Some(&**stack),
            _ => None,
        })
    }

    fn stack_mut(&mut self) -> Option<&mut Stack> {
        self.ports.iter_mut().find_map(|port| match &mut port.attached {
            Attached::Stack(stack) => Some(&mut **stack),
            _ => None,
        })
    }
}

impl Port {
    /// Gives an accepted datagram to whoever stands behind the interface, and sends the answers.
    fn deliver(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
        out: &mut Outbox,
        socket: &Socket,
        counters: &mut Counters,
    ) {
        let frame = &mut datagram[header::LEN..];
        match &mut self.attached {
            Attached::Stack(_) if is_tagged(frame) => counters.tagged += 1,
            Attached::Stack(stack) => {
                stack.frame(frame, now, out);
                out.each(|answer| send(socket, &self.peers, counters, answer));
                out.clear();
            }
            Attached::Tap(tap) => {
                if tap.send(frame).is_err() {
                    counters.tap_down += 1;
                }
            }
            Attached::Echo if frame[..6] == self.mac.0 => {
                let (destination, source) = frame[..12].split_at_mut(6);
                destination.swap_with_slice(source);
                send(socket, &self.peers, counters, datagram);
            }
            Attached::Echo | Attached::Sink => {}
        }
    }
}

/// Sends one copy of the frame in `datagram` to every endpoint at the other end, each with its own header in front.
fn send(socket: &Socket, peers: &[Peer], counters: &mut Counters, datagram: &mut [u8]) {
    for peer in peers {
        datagram[..header::LEN].copy_from_slice(&peer.header.0);
        counters.departure(datagram.len(), socket.send(datagram, &peer.address));
    }
}

/// 802.1Q, 802.1ad, and the type that older switches used for double tags.
fn is_tagged(frame: &[u8]) -> bool {
    matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00])
}
