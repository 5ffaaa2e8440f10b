//! What is to be connected with what: NETMAP and options become labs, LANs, links, ports, routers and workers.
//!
//! Pure: nothing is opened here. Everything later is an index into a [`Plan`]. When the NETMAP changes, the new plan
//! is numbered like the one before ([`follow`]): an index keeps its meaning.
//!
//! - A *lab* is one NETMAP with its netio directory and uid.
//! - A *link* is one pseudo endpoint with the router endpoints on its line.
//! - A *port* is one of those router endpoints: what a MAC address is behind.
//! - A *LAN* is a NIC with the links bound to it.

mod build;
mod error;
pub mod follow;
mod request;

pub use error::Error;
pub use request::{Binding, Choice, LabRequest};

use crate::ether::Mac;
use crate::fdb::BridgePort;
use crate::ids::{IdVec, PortId, RouterId, SegmentId};
use crate::iou::header::Header;
use crate::iou::mac;
use crate::iou::{Endpoint, InstanceId};
use std::path::PathBuf;

/// Everything, connected.
#[derive(Debug, Default)]
pub struct Plan {
    /// Number of workers.
    pub workers: usize,
    /// The labs.
    pub labs: Vec<Lab>,
    /// The LANs, one per NIC.
    pub lans: IdVec<SegmentId, Lan>,
    /// The pseudo instances, whose sockets are ours.
    pub pseudos: Vec<Pseudo>,
    /// The links.
    pub links: Vec<Link>,
    /// The ports.
    pub ports: IdVec<PortId, Port>,
    /// The routers.
    pub routers: IdVec<RouterId, Router>,
    /// What the user should know: parts of the request that come to nothing.
    pub notes: Vec<String>,
}

/// A netio directory and whose it is.
#[derive(Debug)]
pub struct Lab {
    /// Where the routers' sockets are.
    pub netio: PathBuf,
    /// The user who runs the routers.
    pub uid: u32,
}

/// A NIC and what is bound to it.
#[derive(Debug)]
pub struct Lan {
    /// Name of the NIC.
    pub nic: String,
    /// Its links.
    pub links: Vec<usize>,
    /// Their ports.
    pub ports: Vec<PortId>,
    /// The port that gets unknown unicast.
    pub flood: Option<PortId>,
}

/// A pseudo instance.
#[derive(Clone, Debug)]
pub struct Pseudo {
    /// Its lab.
    pub lab: usize,
    /// Its id.
    pub id: InstanceId,
    /// The worker that reads its socket.
    pub worker: usize,
    /// Its links.
    pub links: Vec<usize>,
    /// False once the NETMAP no longer has it; its number is kept.
    pub live: bool,
}

/// A pseudo endpoint and what is on its line.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its pseudo instance.
    pub pseudo: usize,
    /// The pseudo endpoint.
    pub endpoint: Endpoint,
    /// Its LAN.
    pub lan: SegmentId,
    /// The NETMAP line.
    pub line: u32,
    /// The router endpoints on the line.
    pub ports: Vec<PortId>,
    /// False once the NETMAP no longer has it; then nothing refers to it, and its number is free for another.
    pub live: bool,
}

/// A router's interface, as reached over one link.
#[derive(Clone, Debug)]
pub struct Port {
    /// The router.
    pub router: RouterId,
    /// The router's endpoint.
    pub endpoint: Endpoint,
    /// The link.
    pub link: usize,
    /// What stands in front of frames to it.
    pub to_router: Header,
    /// What stands in front of frames from it.
    pub from_router: Header,
    /// Ports that this one reaches without us, on a common NETMAP line, and itself; ascending.
    pub split_horizon: Vec<PortId>,
    /// False once the NETMAP no longer has it; then nothing refers to it, and its number is free for another.
    pub live: bool,
}

/// A router.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its lab.
    pub lab: usize,
    /// Its id.
    pub id: InstanceId,
    /// The worker that sends to it.
    pub worker: usize,
    /// False once the NETMAP no longer has it; its number is kept because frames under way bear it.
    pub live: bool,
}

impl Plan {
    /// The router of `port`.
    #[must_use]
    pub fn router_of(&self, port: PortId) -> &Router {
        &self.routers[self.ports[port].router]
    }

    /// The addresses that the router's image may have derived for `port`, the likeliest first.
    #[must_use]
    pub fn static_addresses(&self, port: PortId) -> [Mac; 3] {
        mac::static_addresses(self.ports[port].endpoint, self.labs[self.router_of(port).lab].uid)
    }

    /// What the bridge needs to know of `port`.
    #[must_use]
    pub fn bridge_port(&self, port: PortId) -> BridgePort {
        let Port { router, to_router, .. } = self.ports[port];
        let worker = self.routers[router].worker;
        BridgePort { id: port, router, worker, header: to_router, static_macs: self.static_addresses(port) }
    }

    /// [`Self::bridge_port`] of all ports on `segment`.
    #[must_use]
    pub fn bridge_ports(&self, segment: SegmentId) -> Vec<BridgePort> {
        self.lans[segment].ports.iter().map(|port| self.bridge_port(*port)).collect()
    }

    /// The workers that have routers on `segment`, a bit each.
    #[must_use]
    pub fn workers_on(&self, segment: SegmentId) -> u64 {
        self.lans[segment].ports.iter().fold(0, |mask, port| mask | 1 << self.router_of(*port).worker)
    }
}
