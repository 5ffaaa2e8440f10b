//! L1 keepalives of a simulated router, as IOU with `-l` has them: what goes out, what comes in, and which interfaces are
//! down for want of them.

use super::Error;
use super::socket::{inode, unlink_own};
use super::wiring::Wiring;
use crate::iou::header::{self, Header, TYPE_KEEPALIVE};
use crate::iou::{Endpoint, Interface};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a router uses keepalives.
#[derive(Clone, Debug)]
pub struct Keepalives {
    /// The directory of the sockets, `/tmp/netl1<uid>`. Made if it is not there.
    pub directory: PathBuf,
    /// How often an interface that is up sends one.
    pub period: Duration,
    /// An interface that received none for so long goes down.
    pub timeout: Duration,
}

impl Keepalives {
    /// With the timers of IOU: one per second, and down after ten.
    #[must_use]
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory, period: Duration::from_secs(1), timeout: Duration::from_secs(10) }
    }
}

/// A router's interface went up or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkChange {
    /// The interface.
    pub endpoint: Endpoint,
    /// Whether it is up now.
    pub up: bool,
}

struct Port {
    interface: Interface,
    /// Header and socket of each peer.
    peers: Vec<(Header, PathBuf)>,
    up: bool,
    heard: Instant,
}

/// The keepalive socket of a router, and the state of its interfaces.
pub(super) struct L1 {
    socket: UnixDatagram,
    path: PathBuf,
    inode: Option<(u64, u64)>,
    ports: Vec<Port>,
    period: Duration,
    timeout: Duration,
    next: Instant,
    changes: Vec<LinkChange>,
    wiring: Wiring,
}

impl L1 {
    pub(super) fn bind(wiring: &Wiring, keepalives: &Keepalives, now: Instant) -> Result<Self, Error> {
        let id = wiring.router();
        let socket_of = |id| keepalives.directory.join(format!("L1{id}"));
        let path = socket_of(id);
        let failed = |source| Error::Bind { path: path.clone(), source };
        fs::create_dir_all(&keepalives.directory).map_err(failed)?;
        // The router's lock in the netio directory is held: what is here was left behind.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let ports = wiring.interfaces().iter().map(|(interface, peers)| {
            let own = Endpoint { id, interface: *interface };
            let peers = peers.iter().map(|peer| (Header::data(*peer, own).keepalive(), socket_of(peer.id)));
            Port { interface: *interface, peers: peers.collect(), up: true, heard: now }
        });
        Ok(Self {
            ports: ports.collect(),
            inode: inode(fs::metadata(&path)),
            socket,
            path,
            period: keepalives.period,
            timeout: keepalives.timeout,
            next: now,
            changes: Vec::new(),
            wiring: wiring.clone(),
        })
    }

    /// Whether the interface at `port` of the wiring is up.
    pub(super) fn is_up(&self, port: usize) -> bool {
        self.ports[port].up
    }

    /// Reads what arrived, at most `most` datagrams.
    pub(super) fn read(&mut self, most: usize, now: Instant) {
        let mut datagram = [0; 64];
        for _ in 0..most {
            let Ok(length) = self.socket.recv(&mut datagram) else { break };
            if length != header::LEN {
                continue;
            }
            let Some(header) = Header::read(&datagram) else { continue };
            if header.message_type() == TYPE_KEEPALIVE
                && let Some(port) = self.port_of(header)
            {
                self.ports[port].heard = now;
                self.set(port, true);
            }
        }
    }

    /// The interface that a keepalive is for, if it is from the other end of that one's line.
    fn port_of(&self, header: Header) -> Option<usize> {
        let to = header.destination()?;
        let source = header.source()?;
        let here = |(interface, peers): &(Interface, Vec<Endpoint>)| {
            to.id == self.wiring.router() && to.interface == *interface && peers.contains(&source)
        };
        self.wiring.interfaces().iter().position(here)
    }

    /// When [`L1::expire`] is due.
    pub(super) fn deadline(&self) -> Instant {
        let ends = self.ports.iter().filter(|port| port.up).map(|port| port.heard + self.timeout);
        ends.fold(self.next, Instant::min)
    }

    /// Takes interfaces down whose time is over, and sends for those that are up.
    pub(super) fn expire(&mut self, now: Instant) {
        for port in 0..self.ports.len() {
            if now >= self.ports[port].heard + self.timeout {
                self.set(port, false);
            }
        }
        if now >= self.next {
            self.next = now + self.period;
            for (header, path) in self.ports.iter().filter(|port| port.up).flat_map(|port| &port.peers) {
                // No peer, or its queue is full: keepalives exist to find that out.
                let _ = self.socket.send_to(&header.0, path);
            }
        }
    }

    /// What changed since the last call.
    pub(super) fn changes(&mut self) -> Vec<LinkChange> {
        std::mem::take(&mut self.changes)
    }

    fn set(&mut self, port: usize, up: bool) {
        let id = self.wiring.router();
        let Port { interface, up: was, .. } = &mut self.ports[port];
        if std::mem::replace(was, up) != up {
            self.changes.push(LinkChange { endpoint: Endpoint { id, interface: *interface }, up });
        }
    }
}

impl AsFd for L1 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for L1 {
    fn drop(&mut self) {
        unlink_own(&self.path, self.inode);
    }
}

/// The directory of keepalives that goes with the netio directory `netio`.
#[must_use]
pub fn directory_beside(netio: &Path, uid: u32) -> PathBuf {
    crate::iou::netio::keepalive_path(netio, uid)
}

#[cfg(test)]
mod tests {
    use super::super::tests::endpoint;
    use super::*;

    #[test]
    fn an_interface_is_down_without_keepalives_and_up_with_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let lines = [[endpoint(1, 0, 0), endpoint(513, 0, 0)], [endpoint(1, 0, 1), endpoint(513, 0, 1)]];
        let wiring = Wiring::of(endpoint(1, 0, 0).id, lines);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let peer = UnixDatagram::bind(directory.path().join("L1513")).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut l1 =
            L1::bind(&wiring, &Keepalives::in_directory(directory.path().to_path_buf()), start).unwrap();
        let heard = || std::iter::from_fn(|| peer.recv(&mut [0; 16]).ok()).count();

        assert_eq!(l1.deadline(), start);
        l1.expire(start);
        assert_eq!((heard(), l1.deadline()), (2, at(1000)));
        let keepalive = Header::data(endpoint(1, 0, 1), endpoint(513, 0, 1)).keepalive().0;
        // No data, not from the other end of this line.
        let wrong = [
            Header::data(endpoint(1, 0, 0), endpoint(513, 0, 0)),
            Header::data(endpoint(1, 0, 0), endpoint(513, 0, 1)).keepalive(),
            Header::data(endpoint(2, 0, 0), endpoint(513, 0, 0)).keepalive(),
        ];
        for datagram in wrong.iter().map(|header| header.0).chain([keepalive]) {
            peer.send_to(&datagram, directory.path().join("L11")).unwrap();
        }
        l1.read(64, at(5000));
        l1.expire(at(9999));
        assert!(l1.is_up(0) && l1.is_up(1) && l1.changes().is_empty());
        l1.expire(at(10_000));
        assert_eq!(l1.changes(), [LinkChange { endpoint: endpoint(1, 0, 0), up: false }]);
        assert!(!l1.is_up(0) && l1.is_up(1));
        heard();
        l1.expire(at(12_000));
        assert_eq!(heard(), 1, "the one that is down is silent");
        l1.expire(at(15_000));
        assert!(!l1.is_up(1));
        peer.send_to(&keepalive, directory.path().join("L11")).unwrap();
        l1.read(64, at(16_000));
        assert!(l1.is_up(1) && !l1.is_up(0));
        drop(l1);
        assert!(!directory.path().join("L11").exists());
    }
}
