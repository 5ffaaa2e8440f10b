//! The lab of a case: router n has the id n, and its interface 0/0 is on a NETMAP line with a pseudo endpoint.

use iou_fast::iou::header::Header;
use iou_fast::iou::{Endpoint, InstanceId, Interface, mac};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::PathBuf;
use testbed::{Tag, frame};

/// A station on the wire.
pub(crate) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// First pseudo id where few of them stand for all routers. Routers have the ids below.
const SHARED: u16 = 1001;
/// First pseudo id where each router has its own.
const OWN: u16 = 601;

/// A lab.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Lab {
    /// Where it is: NETMAP and directory `netio`.
    pub(crate) directory: PathBuf,
    /// How many routers it has.
    pub(crate) routers: usize,
    /// Each router is opposite a pseudo id of its own; else 256 share one.
    pub(crate) spread: bool,
}

impl Lab {
    /// Where the sockets are.
    pub(crate) fn netio(&self) -> PathBuf {
        self.directory.join("netio")
    }

    /// The socket of an instance.
    pub(crate) fn socket(&self, id: u16) -> PathBuf {
        self.netio().join(id.to_string())
    }

    /// The NETMAP's text.
    pub(crate) fn netmap(&self) -> String {
        self.ids().fold(String::new(), |mut text, id| {
            let pseudo = self.pseudo(id);
            let _ = writeln!(text, "{} {}:{}", router(id), pseudo.id, pseudo.interface.0);
            text
        })
    }

    /// The pseudo ids as `--pseudo` takes them.
    pub(crate) fn pseudo_ids(&self) -> String {
        let last = self.pseudo(self.routers as u16).id;
        format!("{}-{last}", self.pseudo(1).id)
    }

    /// The routers' ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.routers as u16
    }

    /// The pseudo endpoint on router `id`'s line.
    pub(crate) fn pseudo(&self, id: u16) -> Endpoint {
        let n = id - 1;
        if self.spread { endpoint(OWN + n, 0) } else { endpoint(SHARED + n / 256, (n % 256) as u8) }
    }

    /// A datagram of router `id` with a frame of `len` bytes for `to` in it.
    pub(crate) fn sent_by(&self, id: u16, to: [u8; 6], len: usize) -> Vec<u8> {
        datagram(Header::data(self.pseudo(id), router(id)), &plain(to, router_mac(id), len))
    }

    /// A datagram for router `id` with a frame of `len` bytes from the station in it.
    pub(crate) fn to_router(&self, id: u16, len: usize) -> Vec<u8> {
        datagram(self.header_to(id), &plain(router_mac(id), STATION, len))
    }

    /// The header that router `id` wants.
    pub(crate) fn header_to(&self, id: u16) -> Header {
        Header::data(router(id), self.pseudo(id))
    }
}

/// A frame of `len` bytes without tags.
pub(crate) fn plain(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    frame(to, from, &[] as &[Tag], testbed::frame::ETHERTYPE, len, 0)
}

/// The MAC address of router `id`'s interface.
pub(crate) fn router_mac(id: u16) -> [u8; 6] {
    mac::current(router(id)).0
}

fn datagram(header: Header, frame: &[u8]) -> Vec<u8> {
    [&header.0[..], frame].concat()
}

fn router(id: u16) -> Endpoint {
    endpoint(id, 0)
}

/// # Panics
/// If `id` is none: the bench makes no such lab.
fn endpoint(id: u16, interface: u8) -> Endpoint {
    let id = InstanceId::new(id).expect("ids of the bench are within 1-1024");
    Endpoint { id, interface: Interface(interface) }
}
