//! All interfaces of a network namespace, and what is stacked on what, as netlink tells (`rtnetlink(7)`).

use super::Error;
use crate::ether::Mac;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::collections::{BTreeMap, BTreeSet};

// include/uapi/linux/if_link.h, if_tun.h, netlink.h and rtnetlink.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_VNET_HDR: u16 = 5;
/// `struct nlmsghdr`, `struct ifinfomsg`, `struct rtattr`, bytes.
const MESSAGE: usize = 16;
const INTERFACE: usize = 16;
const ATTRIBUTE: usize = 4;
/// Upper bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// A piece of the list is no larger (`netlink_dump` in net/netlink/af_netlink.c).
const PIECE: usize = 32 << 10;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address, if it is an Ethernet interface.
    pub mac: Option<Mac>,
    /// `vlan`, `macvlan`, `bridge`, `bond`, `veth`, `tun` and so on; empty for a NIC.
    pub kind: String,
    /// A TAP device whose frames have virtio-net's header, so that they may be segments.
    pub segments: bool,
    /// Number of the interface that it is on; of a veth its other end.
    pub(super) link: u32,
    /// `link` is in another network namespace.
    pub(super) elsewhere: bool,
    /// Number of the bridge or bond that it is a member of.
    pub(super) master: u32,
}

/// What a link is stacked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base<'a> {
    /// This one, which may be the link itself.
    Here(&'a Link),
    /// One in another network namespace, on which this one is.
    Elsewhere(&'a Link),
}

/// The interfaces of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Links(BTreeMap<u32, Link>);

impl Links {
    /// Those of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub fn read() -> Result<Self, Error> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
                .map_err(Error::Watch)?;
        rustix::net::send(&socket, &request(), SendFlags::empty()).map_err(Error::Watch)?;
        let (mut links, mut piece) = (Self::default(), vec![0; PIECE]);
        loop {
            let (_, length) = match rustix::net::recv(&socket, &mut piece[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                result => result.map_err(Error::Watch)?,
            };
            if length == 0 || !links.add(&piece[..length.min(PIECE)])? {
                return Ok(links);
            }
        }
    }

    /// Adds what one message of the kernel tells; false at the end of the list.
    fn add(&mut self, mut messages: &[u8]) -> Result<bool, Error> {
        while let (Some(length), Some(kind)) = (u32_at(messages, 0), u16_at(messages, 4)) {
            let length = length as usize;
            let Some(message) = messages.get(MESSAGE..length) else { return Ok(false) };
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(false),
                libc::NLMSG_ERROR => {
                    let errno = u32_at(message, 0).unwrap_or(0).cast_signed().wrapping_neg();
                    return Err(Error::Watch(Errno::from_raw_os_error(errno)));
                }
                _ => {}
            }
            if kind == libc::RTM_NEWLINK
                && let Some(link) = link(message)
            {
                self.0.insert(link.index, link);
            }
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(true)
    }

    /// The other end of a veth pair, if it is here.
    #[must_use]
    pub fn peer(&self, link: &Link) -> Option<&Link> {
        if link.kind != "veth" || link.elsewhere { None } else { self.0.get(&link.link) }
    }

    /// What interface number `index` gets its frames from in the end: itself, if it is on no other; what is at the bottom of
    /// its members, of what it is a VLAN of, and so on.
    #[must_use]
    pub fn bases(&self, index: u32) -> Vec<Base<'_>> {
        let mut bases = Vec::new();
        for link in self.closure([index], |link| self.below(link)) {
            if link.is_stacked() && link.elsewhere {
                bases.push(Base::Elsewhere(link));
            } else if self.below(link).is_empty() {
                bases.push(Base::Here(link));
            }
        }
        bases
    }

    /// Addresses under which this host itself is on the LAN of interface number `index`: those of what is stacked on it or
    /// under it, bridges and bonds included; for a veth whose other end is here, that end and what is stacked on it.
    ///
    /// Other ports of a bridge are not among them: behind them are stations of the LAN, and the host speaks as the bridge.
    /// Nor are addresses that routers share by design (VRRP, RFC 9568): one is on a macvlan here if this host is one of them.
    #[must_use]
    pub fn own_addresses(&self, index: u32) -> BTreeSet<Mac> {
        let carriers = |link: &Link| if link.kind == "bridge" { Vec::new() } else { self.below(link) };
        let below = self.closure([index], carriers);
        let ends = below.iter().filter_map(|link| self.peer(link)).map(|peer| peer.index);
        let below = below.iter().map(|link| link.index).chain(ends);
        let all = self.closure(below, |link| self.above(link));
        let own = all.into_iter().filter_map(|link| link.mac);
        own.filter(|mac| !mac.is_zero() && !mac.is_multicast() && !is_shared(*mac)).collect()
    }

    /// What `link` gets frames from directly.
    fn below(&self, link: &Link) -> Vec<u32> {
        let members = self.0.values().filter(|member| member.master == link.index).map(|member| member.index);
        let base = self.0.get(&link.link).filter(|_| link.is_stacked() && !link.elsewhere);
        members.chain(base.map(|base| base.index)).collect()
    }

    /// What gets frames from `link` directly.
    fn above(&self, link: &Link) -> Vec<u32> {
        let on_it = |other: &&Link| other.is_stacked() && !other.elsewhere && other.link == link.index;
        let master = self.0.get(&link.master);
        self.0.values().filter(on_it).chain(master).map(|other| other.index).collect()
    }

    /// Those numbers, and all that `next` leads to, each once.
    fn closure(&self, from: impl IntoIterator<Item = u32>, next: impl Fn(&Link) -> Vec<u32>) -> Vec<&Link> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut open: Vec<u32> = from.into_iter().collect();
        while let Some(index) = open.pop() {
            if seen.insert(index)
                && let Some(link) = self.0.get(&index)
            {
                open.extend(next(link));
                found.push(link);
            }
        }
        found
    }
}

impl Link {
    /// Whether `link` is what it is on. A veth has its other end there instead.
    fn is_stacked(&self) -> bool {
        self.kind != "veth" && self.link != 0 && (self.elsewhere || self.link != self.index)
    }
}

/// An address that several routers have in turn: VRRP's, for IPv4 and IPv6.
fn is_shared(mac: Mac) -> bool {
    matches!(mac.0, [0, 0, 0x5e, 0, 1 | 2, _])
}

/// Asks for all interfaces, without their counters.
fn request() -> Vec<u8> {
    let length = (MESSAGE + INTERFACE + ATTRIBUTE + 4) as u32;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::new();
    request.extend(length.to_ne_bytes());
    request.extend(libc::RTM_GETLINK.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.resize(MESSAGE + INTERFACE, 0);
    request.extend((ATTRIBUTE as u16 + 4).to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    request
}

/// The interface that a message without its header tells of.
fn link(message: &[u8]) -> Option<Link> {
    let hardware = u16_at(message, 2)?;
    let mut link = Link { index: u32_at(message, 4)?, ..Link::default() };
    for (kind, value) in attributes(message.get(INTERFACE..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS if hardware == libc::ARPHRD_ETHER => link.mac = value.try_into().ok().map(Mac),
            IFLA_LINK => link.link = u32_at(value, 0)?,
            IFLA_LINK_NETNSID => link.elsewhere = true,
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        // Which comes after the kind (rtnl_link_info_fill in net/core/rtnetlink.c).
                        IFLA_INFO_DATA if link.kind == "tun" => {
                            let mut flags = attributes(value);
                            link.segments = flags.any(|flag| flag == (IFLA_TUN_VNET_HDR, &[1]));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// Type and value of each attribute in a row of them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & ATTRIBUTE_TYPE, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Up to the zero at its end.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or(&[])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kind` on `link`, a member of `master`; the address ends in its number.
    fn made(index: u32, name: &str, kind: &str, link: u32, master: u32) -> Link {
        let mac = Some(Mac([2, 0, 0, 0, 0, index as u8]));
        Link { index, name: name.into(), mac, kind: kind.into(), link, master, ..Link::default() }
    }

    fn links(all: &[Link]) -> Links {
        Links(all.iter().map(|link| (link.index, link.clone())).collect())
    }

    fn bases(links: &Links, index: u32) -> BTreeSet<&str> {
        let name = |base| match base {
            Base::Here(link) | Base::Elsewhere(link) => &*link.name,
        };
        links.bases(index).into_iter().map(name).collect()
    }

    fn own(links: &Links, index: u32) -> Vec<u8> {
        links.own_addresses(index).into_iter().map(|mac| mac.0[5]).collect()
    }

    /// Two NICs in a bond, a bridge on it with a TAP and one end of a veth pair; VLANs and macvlans.
    fn house() -> Links {
        links(&[
            made(1, "eth0", "", 0, 3),
            made(2, "eth1", "", 0, 3),
            made(3, "bond0", "bond", 0, 4),
            made(4, "br0", "bridge", 0, 0),
            made(5, "vethA", "veth", 6, 4),
            made(6, "vethB", "veth", 5, 0),
            made(7, "tap0", "tun", 0, 4),
            made(8, "br0.10", "vlan", 4, 0),
            made(9, "mv0", "macvlan", 8, 0),
            made(10, "mv1", "macvlan", 8, 0),
            made(11, "eth2", "", 0, 0),
            made(12, "eth2.5", "vlan", 11, 0),
        ])
    }

    #[test]
    fn frames_come_from_what_is_at_the_bottom() {
        let house = house();
        assert_eq!(bases(&house, 1), ["eth0"].into());
        assert_eq!(bases(&house, 3), ["eth0", "eth1"].into());
        assert_eq!(bases(&house, 12), ["eth2"].into());
        // The other end of a pair is no base, it is a peer.
        assert_eq!(bases(&house, 6), ["vethB"].into());
        assert_eq!(bases(&house, 9), ["eth0", "eth1", "tap0", "vethA"].into());
        assert_eq!(bases(&house, 99), [].into());
        let far = Link { elsewhere: true, ..made(1, "eth0", "macvlan", 1, 0) };
        assert_eq!(links(std::slice::from_ref(&far)).bases(1), [Base::Elsewhere(&far)]);
    }

    #[test]
    fn the_hosts_addresses_are_those_above_and_below_and_not_the_neighbours() {
        let house = house();
        // Of the bridge's far side: its port, itself, and what is on it; not the TAP, nor the bond beside it.
        assert_eq!(own(&house, 6), [4, 5, 6, 8, 9, 10]);
        assert_eq!(own(&house, 1), [1, 3, 4, 8, 9, 10]);
        assert_eq!(own(&house, 12), [11, 12]);
        assert_eq!(own(&house, 11), [11, 12]);
        // A sibling is the host's, and so is what both are on; behind the bridge are others.
        assert_eq!(own(&house, 10), [4, 8, 9, 10]);
        assert_eq!(own(&house, 3), [1, 2, 3, 4, 8, 9, 10]);
        // A peer in another namespace has a number that says nothing here.
        let far = Link { elsewhere: true, ..made(20, "eth0", "veth", 21, 0) };
        assert_eq!(own(&links(&[far, made(21, "other", "", 0, 0)]), 20), [20]);
    }

    /// Promise `host-addresses`.
    #[test]
    fn an_address_that_routers_share_is_not_the_hosts_alone() {
        let vrrp = Link { mac: Some(Mac([0, 0, 0x5e, 0, 1, 77])), ..made(2, "vrrp4", "macvlan", 1, 0) };
        assert_eq!(own(&links(&[made(1, "eth0", "", 0, 0), vrrp]), 1), [1]);
    }

    #[test]
    fn a_ring_of_interfaces_has_an_end() {
        let ring = links(&[made(1, "a", "vlan", 2, 0), made(2, "b", "vlan", 1, 0)]);
        assert_eq!(own(&ring, 1), [1, 2]);
        assert_eq!(ring.bases(1), []);
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let message = |kind: u16, body: &[u8]| {
            let length = (MESSAGE + body.len()) as u32;
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(MESSAGE, 0);
            bytes.extend(body);
            bytes
        };
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (ATTRIBUTE as u16 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut body = vec![0; INTERFACE];
        body[2] = 1;
        body[4..8].copy_from_slice(&7u32.to_ne_bytes());
        let info = [
            attribute(IFLA_INFO_KIND, b"tun\0"),
            attribute(IFLA_INFO_DATA, &attribute(IFLA_TUN_VNET_HDR, &[1])),
        ]
        .concat();
        body.extend(attribute(IFLA_IFNAME, b"tap0\0"));
        body.extend(attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]));
        body.extend(attribute(IFLA_LINKINFO | 0x8000, &info));
        body.extend(attribute(IFLA_MASTER, &4u32.to_ne_bytes()));
        let whole = message(libc::RTM_NEWLINK, &body);
        let expected = Link { segments: true, ..made(7, "tap0", "tun", 0, 4) };
        let mut links = Links::default();
        let two = [&whole[..], &message(libc::NLMSG_DONE as u16, &[0; 4])].concat();
        assert!(!links.add(&two).unwrap());
        assert_eq!(links.0.get(&7), Some(&expected));
        for length in 0..whole.len() {
            let mut links = Links::default();
            let _ = links.add(&whole[..length]);
            assert!(links.0.is_empty(), "{length}");
        }
        let refused = message(libc::NLMSG_ERROR as u16, &(-1i32).to_ne_bytes());
        assert!(matches!(Links::default().add(&refused), Err(Error::Watch(Errno::PERM))));
    }
}
