//! Control frames of switches: spanning tree, CDP, VTP and their like.
//!
//! A switch image sends them on every port, to the wire as well. There a switch with BPDU guard takes the port down,
//! and the whole server off the network with it; so `--block` keeps them inside. Pure: the worker asks.

use crate::ether;
use std::fmt;
use std::str::FromStr;

/// A protocol by which switches talk to their split_horizon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Spanning tree: 802.1D, RSTP, MSTP, of provider bridges, and Cisco's PVST+.
    Stp,
    /// Cisco Discovery Protocol.
    Cdp,
    /// VLAN Trunking Protocol.
    Vtp,
    /// Dynamic Trunking Protocol.
    Dtp,
    /// Port Aggregation Protocol.
    Pagp,
    /// Unidirectional Link Detection.
    Udld,
    /// Link Layer Discovery Protocol.
    Lldp,
    /// Link aggregation, and the other slow protocols (marker, OAM, ESMC).
    Lacp,
    /// Port authentication: EAPOL.
    Dot1x,
    /// Flow control, 802.3x and priority-based: a host that stops its switch from sending to it. No bridge may
    /// forward it (802.1Q, table 8-1), and a router could silence the server by it.
    Pause,
}

/// All of them, with the names that `--block` takes.
pub const NAMES: [(&str, Protocol); 10] = [
    ("stp", Protocol::Stp),
    ("cdp", Protocol::Cdp),
    ("vtp", Protocol::Vtp),
    ("dtp", Protocol::Dtp),
    ("pagp", Protocol::Pagp),
    ("udld", Protocol::Udld),
    ("lldp", Protocol::Lldp),
    ("lacp", Protocol::Lacp),
    ("dot1x", Protocol::Dot1x),
    ("pause", Protocol::Pause),
];

/// Bridge group addresses of 802.1Q, table 8-1: 01:80:c2:00:00:00 to 0f.
const BRIDGE_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0, 0];
/// Cisco's groups.
const CISCO_GROUP: [u8; 3] = [0x01, 0, 0x0c];
/// CDP, VTP, DTP, PAgP, UDLD, told apart by their SNAP type.
const CISCO: [u8; 6] = [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc];
/// PVST+.
const PVST: [u8; 6] = [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd];
/// Types below this are lengths: an LLC header follows.
const LEAST_TYPE: u16 = 0x600;
/// LLC and SNAP headers in front of a Cisco protocol's type: unnumbered information, OUI 00000c.
const SNAP_CISCO: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0x0c];

/// Whether a frame to `destination` can be a control frame at all: no other needs a closer look.
#[must_use]
pub fn may_be(destination: [u8; 6]) -> bool {
    destination[0] == 1 && (destination[..5] == BRIDGE_GROUP || destination[..3] == CISCO_GROUP)
}

/// The protocol of a control frame that has `tags` bytes of VLAN tags; `None` for all other frames.
#[must_use]
pub fn protocol(frame: &[u8], tags: usize) -> Option<Protocol> {
    let destination: [u8; 6] = *frame.first_chunk()?;
    let payload = frame.get(ether::HEADER + tags..)?;
    let kind = u16::from_be_bytes(*frame[..ether::HEADER + tags].last_chunk()?);
    if destination == PVST {
        return Some(Protocol::Stp);
    }
    if destination == CISCO {
        let kind = payload.strip_prefix(&SNAP_CISCO).filter(|_| kind < LEAST_TYPE)?;
        return match u16::from_be_bytes(*kind.first_chunk()?) {
            0x2000 => Some(Protocol::Cdp),
            0x2003 => Some(Protocol::Vtp),
            0x2004 => Some(Protocol::Dtp),
            0x0104 => Some(Protocol::Pagp),
            0x0111 => Some(Protocol::Udld),
            _ => None,
        };
    }
    if destination[..5] != BRIDGE_GROUP {
        return None;
    }
    // LLDP, LACP and EAPOL choose among these addresses how far they reach.
    match (destination[5], kind) {
        (0x00..=0x0f, 0x88cc) => Some(Protocol::Lldp),
        (0x00..=0x0f, 0x8809) => Some(Protocol::Lacp),
        (0x00..=0x0f, 0x888e) => Some(Protocol::Dot1x),
        (0x00..=0x0f, 0x8808) => Some(Protocol::Pause),
        // Switches know BPDUs by their address, whatever the LLC header says.
        (0x00 | 0x08, 0..LEAST_TYPE) => Some(Protocol::Stp),
        _ => None,
    }
}

/// Some of the protocols: what `--block` was given. Flow control is always among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked(u16);

impl Blocked {
    /// Whether `protocol` is among them.
    #[must_use]
    pub const fn has(self, protocol: Protocol) -> bool {
        self.0 >> protocol as u8 & 1 == 1
    }

    const fn with(self, protocol: Protocol) -> Self {
        Self(self.0 | 1 << protocol as u8)
    }
}

impl Default for Blocked {
    fn default() -> Self {
        Self(0).with(Protocol::Pause)
    }
}

impl FromStr for Blocked {
    type Err = String;

    /// Reads `stp,cdp`, or `all`.
    fn from_str(list: &str) -> Result<Self, String> {
        list.split(',').try_fold(Self::default(), |blocked, name| {
            let name = name.trim().to_ascii_lowercase();
            if name == "all" {
                return Ok(NAMES.iter().fold(blocked, |blocked, (_, protocol)| blocked.with(*protocol)));
            }
            let known = NAMES.iter().find(|(known, _)| *known == name);
            let names = || NAMES.map(|(name, _)| name).join(", ");
            known
                .map(|(_, protocol)| blocked.with(*protocol))
                .ok_or_else(|| format!("\"{name}\" is none of {} and all", names()))
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, protocol)| protocol == self).map_or("?", |(name, _)| *name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BRIDGES: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
    const LLC_STP: [u8; 3] = [0x42, 0x42, 0x03];

    fn bridge_group(last: u8) -> [u8; 6] {
        [0x01, 0x80, 0xc2, 0, 0, last]
    }

    fn snap(kind: u16) -> Vec<u8> {
        [&SNAP_CISCO[..], &kind.to_be_bytes()].concat()
    }

    /// What `frame` is, untagged and in one and two VLANs.
    #[track_caller]
    fn is(expected: Option<Protocol>, destination: [u8; 6], kind: u16, payload: &[u8]) {
        for tags in [&[][..], &[0x81, 0, 0, 10], &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 20]] {
            let addresses = [&destination[..], &[0xaa, 0xbb, 0xcc, 0, 1, 0]].concat();
            let frame = [&addresses, tags, &kind.to_be_bytes(), payload, &[0; 30]].concat();
            assert_eq!(protocol(&frame, tags.len()), expected, "{frame:02x?}");
            assert!(expected.is_none() || may_be(destination), "{frame:02x?}");
        }
    }

    #[test]
    fn what_switches_say_to_each_other() {
        is(Some(Protocol::Stp), BRIDGES, 38, &LLC_STP);
        is(Some(Protocol::Stp), bridge_group(8), 39, &LLC_STP);
        is(Some(Protocol::Stp), PVST, 50, &snap(0x010b));
        for (kind, expected) in [
            (0x2000, Some(Protocol::Cdp)),
            (0x2003, Some(Protocol::Vtp)),
            (0x2004, Some(Protocol::Dtp)),
            (0x0104, Some(Protocol::Pagp)),
            (0x0111, Some(Protocol::Udld)),
            (0x2007, None),
        ] {
            is(expected, CISCO, 200, &snap(kind));
        }
        for last in [0, 3, 0x0e] {
            is(Some(Protocol::Lldp), bridge_group(last), 0x88cc, &[2, 7]);
        }
        is(Some(Protocol::Lacp), bridge_group(2), 0x8809, &[1, 1]);
        is(Some(Protocol::Dot1x), bridge_group(3), 0x888e, &[1, 1]);
        is(Some(Protocol::Pause), bridge_group(1), 0x8808, &[0, 1]);
    }

    #[test]
    fn what_only_looks_like_it() {
        is(None, [0xff; 6], 38, &LLC_STP);
        // HSRP version 2, OSPF, GARP, and a protocol of Cisco's that is none of these.
        is(None, [0x01, 0, 0x5e, 0, 0, 0x66], 0x0800, &[0x45]);
        is(None, bridge_group(0x21), 38, &LLC_STP);
        is(None, bridge_group(2), 38, &LLC_STP);
        is(None, bridge_group(0), 0x0800, &LLC_STP);
        is(None, CISCO, 0x0800, &snap(0x2000));
        is(None, [0x01, 0, 0x0c, 0xdd, 0xdd, 0xdd], 200, &snap(0x2001));
        assert!(!may_be([0x01, 0, 0x5e, 0, 0, 5]) && !may_be([0x33, 0x33, 0, 0, 0, 1]));
    }

    #[test]
    fn lists_as_a_user_writes_them() {
        let blocked = "stp, DTP,vtp".parse::<Blocked>().unwrap();
        let names = NAMES.iter().filter(|(_, protocol)| blocked.has(*protocol)).map(|(name, _)| *name);
        assert_eq!(names.collect::<Vec<_>>(), ["stp", "vtp", "dtp", "pause"]);
        let all = "all".parse::<Blocked>().unwrap();
        assert!(NAMES.iter().all(|(_, protocol)| all.has(*protocol)));
        assert!(!Blocked::default().has(Protocol::Stp));
        for wrong in ["", "stp,", "spanning-tree"] {
            let said = wrong.parse::<Blocked>().unwrap_err();
            assert!(said.contains("is none of stp, cdp") && said.ends_with("and all"), "{said}");
        }
        assert_eq!(Protocol::Udld.to_string(), "udld");
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(group: bool, frame: Vec<u8>, tags in 0usize..3) {
            let start: &[u8] = if group { &CISCO } else { &BRIDGES };
            let _ = protocol(&[start, &frame].concat(), 4 * tags);
            let _ = protocol(&frame, 4 * tags);
        }
    }
}
