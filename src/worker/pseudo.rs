//! One of our pseudo instances, as what routers send to: its socket, its links, who may send on each.

use super::batch::BATCH;
use crate::ether::Address;
use crate::ids::PortId;
use crate::iou::InstanceId;
use crate::iou::header::{Header, TYPE_DATA};
use crate::plan::{Plan, Port, Router};
use crate::stats::DropReason;
use std::os::fd::OwnedFd;

/// A pseudo instance.
pub(super) struct Pseudo {
    pub(super) socket: OwnedFd,
    /// Its id.
    pub(super) id: u16,
    pub(super) table: LinkTable,
    /// Datagrams read at a time: [`BATCH`], and fewer while they are broadcast and multicast frames for many routers.
    pub(super) most: usize,
}

/// The links of a pseudo instance, and which of its interfaces is on which.
#[derive(Debug)]
pub(super) struct LinkTable {
    /// By interface of the pseudo instance: index into `links`, plus one; 0 if no line of the NETMAP has it.
    by_interface: Box<[u16; 256]>,
    pub(super) links: Vec<PseudoLink>,
}

/// A link of a pseudo instance.
#[derive(Debug)]
pub(super) struct PseudoLink {
    /// Index into the worker's NICs.
    pub(super) nic: usize,
    pub(super) sources: Vec<Source>,
}

/// A router's interface, as a sender.
#[derive(Debug)]
pub(super) struct Source {
    /// Index of the port in the plan.
    pub(super) port: PortId,
    /// Index of the router, of which there are fewer than [`STAMP_BUM`](crate::steer::layout::STAMP_BUM).
    pub(super) router: u16,
    /// Its id.
    pub(super) id: InstanceId,
    /// The whole header of a data frame from it, as one word.
    word: u64,
    /// Ports that get its frames without us, ascending.
    pub(super) split_horizon: Vec<PortId>,
    /// The path of its socket, and how much of it is the directory.
    path: Box<[u8]>,
    directory: usize,
    pub(super) checked: Checked,
    /// A log line has said that it sends frames from an address of another.
    pub(super) reported: bool,
}

/// The last source address of a port, which then needs no look-up for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub(super) station: Option<Address>,
    pub(super) generation: u64,
    pub(super) until: u64,
    pub(super) spoofed: bool,
}

/// Which link of a pseudo instance a datagram came on, and from which of its sources, by index.
pub(super) struct LinkSource {
    pub(super) link: usize,
    pub(super) source: usize,
}

impl Pseudo {
    pub(super) fn new(socket: OwnedFd, id: u16, table: LinkTable) -> Self {
        Self { socket, id, table, most: BATCH }
    }

    /// The link and the source that `header` names, or what is wrong with it.
    pub(super) fn check(&self, header: Header) -> Result<LinkSource, DropReason> {
        let word = header.word();
        let LinkTable { by_interface, links } = &self.table;
        let link = usize::from(by_interface[usize::from(header.destination_interface().0)]);
        let known = link.checked_sub(1).map(|link| &links[link].sources);
        if let Some(source) = known.and_then(|sources| sources.iter().position(|source| source.word == word))
        {
            return Ok(LinkSource { link: link - 1, source });
        }
        Err(if header.destination_id() != self.id {
            DropReason::WrongId
        } else if header.message_type() != TYPE_DATA {
            DropReason::WrongType
        } else if known.is_none() {
            DropReason::WrongInterface
        } else {
            DropReason::WrongSource
        })
    }
}

impl LinkTable {
    pub(super) fn new(plan: &Plan, pseudo: usize) -> Self {
        let mut by_interface = Box::new([0u16; 256]);
        let mut links = Vec::new();
        for link in plan.pseudos[pseudo].links.iter().map(|link| &plan.links[*link]) {
            let sources = link.ports.iter().map(|port| Source::new(plan, *port));
            links.push(PseudoLink { nic: link.lan.index(), sources: sources.collect() });
            by_interface[usize::from(link.endpoint.interface.0)] = links.len() as u16;
        }
        Self { by_interface, links }
    }
}

impl Source {
    fn new(plan: &Plan, port: PortId) -> Self {
        let Port { router, from_router, split_horizon, .. } = &plan.ports[port];
        let Router { lab, id, .. } = plan.routers[*router];
        let socket = plan.labs[lab].netio.join(id.to_string());
        let path: Box<[u8]> = socket.as_os_str().as_encoded_bytes().into();
        let directory = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        Self {
            port,
            router: router.get() as u16,
            id,
            word: from_router.word(),
            split_horizon: split_horizon.clone(),
            path,
            directory,
            checked: Checked { station: None, generation: 0, until: 0, spoofed: false },
            reported: false,
        }
    }

    /// Whether a sender bound to `path` may speak for this router: any but one that is bound to another instance's path in
    /// the directory. Routers look at headers alone, and a program that relays for one need not be bound, or not here.
    pub(super) fn may_be_sent_by(&self, path: &[u8]) -> bool {
        if *path == *self.path || path.is_empty() {
            return true;
        }
        let name = path.strip_prefix(&self.path[..self.directory]);
        let id = name.and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| name.parse().ok());
        id.and_then(InstanceId::new).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::Netmap;
    use crate::plan::{Binding, LabRequest};
    use std::collections::HashSet;

    #[test]
    fn sender_bound_to_the_path_of_another_instance_is_refused() {
        let lab = LabRequest {
            netmap: Netmap::parse(b"1:0/0 513:0/0", std::path::Path::new("NETMAP")).unwrap(),
            file: "NETMAP".into(),
            netio: "/tmp/netio1000".into(),
            uid: 1000,
            pseudo: vec![InstanceId::new(513).unwrap()],
            remote: HashSet::new(),
        };
        let binding = Binding { nic: "eth0".to_string(), choice: None };
        let source = Source::new(&Plan::new(&[lab], &[binding], 1, None).unwrap(), PortId::new(0));
        for (path, may) in [
            ("/tmp/netio1000/1", true),
            ("", true),
            ("/tmp/netio1000/2", false),
            ("/tmp/netio1000/513", false),
            ("/tmp/netio1000/0", true),
            ("/tmp/netio1000/relay", true),
            ("/tmp/netio1000/x/2", true),
            ("/tmp/netio1001/2", true),
            ("/tmp/netio10002", true),
            ("2", true),
            ("\0/tmp/netio1000/2", true),
        ] {
            assert_eq!(source.may_be_sent_by(path.as_bytes()), may, "{path:?}");
        }
    }
}
