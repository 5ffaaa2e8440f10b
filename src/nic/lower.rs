//! Lower devices of a NIC, or its other end, that make frames which no router takes: the NIC itself cannot turn that off,
//! so the user is told what does.
//!
//! A generic program on a VLAN, macvlan, bridge or bond runs behind GRO and LRO of the NICs below. What a veth or a
//! virtual machine sends is not cut into frames at all: they leave that to hardware.

use super::links::{Base, Link, Links};
use super::merging::{fix_where_fixed, in_the_way};
use super::{Error, Nic};
use crate::sys::ethtool::Feature;
use std::fmt;

/// What leaves the cutting of large TCP and UDP segments to the far end of a veth pair, by the kernel's names.
const SEGMENTS: [&str; 5] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];
/// Those of them that `tso` of ethtool stands for.
const TSO: &str = "tx-tcp";

/// What makes frames above the MTU before they come to a NIC. Its message says what prevents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The interface where it is, and where it is from the NIC: empty for the NIC itself.
    what: String,
    /// What is done to frames there.
    does: String,
    /// What prevents it.
    fix: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, does, fix } = self;
        write!(f, "{what} {does}, so that TCP crawls; {fix} prevents it")
    }
}

/// What stands in the way of a program on `nic`; of a generic one, if it is that.
///
/// # Errors
/// [`Error::Watch`].
pub(super) fn issues(nic: &Nic, generic: bool) -> Result<Vec<Issue>, Error> {
    nic.require_own_namespace()?;
    let links = Links::read()?;
    let features = |link: &Link| nic.socket.features(&link.name).unwrap_or_default();
    let mut found = Vec::new();
    for base in links.bases(nic.index) {
        let link = match base {
            Base::Here(link) => link,
            Base::Elsewhere(link) => {
                found.extend(generic.then(|| unseen(link)));
                continue;
            }
        };
        let below = link.index != nic.index;
        if below {
            let driver = nic.socket.driver(&link.name).unwrap_or_default();
            found.extend(merging(link, &driver, &nic.name, &features(link), generic));
        }
        match &*link.kind {
            // A native program has the kernel turn it off at the other end (veth_xdp_set).
            "veth" if generic => match links.peer(link) {
                Some(peer) => found.extend(segmenting(peer, link, &features(peer))),
                None => found.push(far_end(link)),
            },
            // It is generic on a segment in any mode (tun_get_user in drivers/net/tun.c).
            "tun" if link.segments && (generic || !below) => found.push(guest(link)),
            _ => {}
        }
    }
    Ok(found)
}

/// What `link`, which is below `nic`, merges frames by.
fn merging(link: &Link, driver: &str, nic: &str, features: &[Feature], generic: bool) -> Option<Issue> {
    // A generic program sees frames behind the place where the kernel takes a tag out in any case.
    let spoils = |name: &str| in_the_way(name, generic) && !name.contains("vlan");
    let active = features.iter().filter(|feature| feature.active && spoils(&feature.name));
    let (changeable, fixed): (Vec<&Feature>, Vec<&Feature>) = active.partition(|feature| feature.changeable);
    if changeable.is_empty() && fixed.is_empty() {
        return None;
    }
    let names = |features: &[&Feature], after: &str| -> String {
        features.iter().map(|feature| format!(" {}{after}", feature.name)).collect()
    };
    let mut fixes = Vec::new();
    if !changeable.is_empty() {
        fixes.push(format!("`ethtool -K {}{}`", link.name, names(&changeable, " off")));
    }
    if !fixed.is_empty() {
        fixes.push(fix_where_fixed(driver).to_owned());
    }
    Some(Issue {
        what: format!("{}, below {nic},", link.name),
        does: format!(
            "has{}{} on and merges frames from the wire above the MTU",
            names(&changeable, ""),
            names(&fixed, "")
        ),
        fix: fixes.join(" and "),
    })
}

/// What `peer`, the other end of `link`, leaves uncut.
fn segmenting(peer: &Link, link: &Link, features: &[Feature]) -> Option<Issue> {
    let is_on = |name: &str| features.iter().any(|feature| feature.active && feature.name == name);
    let on = SEGMENTS.into_iter().filter(|name| is_on(name));
    let (tcp, udp): (Vec<&str>, Vec<&str>) = on.partition(|name| name.starts_with(TSO));
    let words: String = [(!tcp.is_empty(), " tso off"), (!udp.is_empty(), " tx-udp-segmentation off")]
        .into_iter()
        .filter_map(|(is_on, word)| is_on.then_some(word))
        .collect();
    (!words.is_empty()).then(|| Issue {
        what: format!("{}, the other end of {},", peer.name, link.name),
        does: "sends segments above the MTU".into(),
        fix: format!("`ethtool -K {}{words}`", peer.name),
    })
}

/// The other end of `link` is in another network namespace.
fn far_end(link: &Link) -> Issue {
    Issue {
        what: format!("the other end of {}, in another network namespace,", link.name),
        does: "sends TCP segments above the MTU unless it was told otherwise".into(),
        fix: "there, `ethtool -K PEER tso off tx-udp-segmentation off`".into(),
    }
}

/// `link` is on an interface in another network namespace.
fn unseen(link: &Link) -> Issue {
    Issue {
        what: format!("what {} is on, in another network namespace,", link.name),
        does: "merges frames from the wire above the MTU unless it was told otherwise".into(),
        fix: "there, `ethtool -K LOWER gro off lro off` (and if it is a veth, at its other end, `ethtool -K PEER tso off \
               tx-udp-segmentation off`)"
            .into(),
    }
}

/// Who holds the other side of TAP device `link` may write segments.
fn guest(link: &Link) -> Issue {
    Issue {
        what: format!("the virtual machine behind {}", link.name),
        does: "sends TCP segments above the MTU unless it was told otherwise".into(),
        fix: "its NIC with `host_tso4=off,host_tso6=off,host_ufo=off,host_uso=off` in QEMU, or `ethtool -K CARD tso off \
               tx-udp-segmentation off` in it,"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link { name: name.into(), ..Link::default() }
    }

    /// `k` is on, `-` off, `K` on for good.
    fn feature(name: &str, state: char) -> Feature {
        let on = state != '-';
        Feature { name: name.into(), changeable: state != 'K', requested: on, active: on }
    }

    #[test]
    fn a_lower_nic_that_merges_is_named_with_the_command() {
        let features = [
            feature("rx-gro", 'k'),
            feature("rx-lro", 'k'),
            feature("rx-gro-hw", '-'),
            feature("rx-vlan-hw-parse", 'k'),
            feature("tx-tcp-segmentation", 'k'),
        ];
        let said = |features: &[Feature], generic| {
            merging(&link("eth0"), "ixgbe", "eth0.10", features, generic).map(|found| found.to_string())
        };
        let text = said(&features, true).unwrap();
        assert!(text.starts_with("eth0, below eth0.10, has rx-gro rx-lro on and merges"), "{text}");
        assert!(text.contains("TCP crawls; `ethtool -K eth0 rx-gro off rx-lro off` prevents it"), "{text}");
        // GRO comes behind a native program, and what hardware does before it.
        assert!(said(&features, false).unwrap().contains("`ethtool -K eth0 rx-lro off`"));
        assert_eq!(said(&features[2..], true), None);
    }

    #[test]
    fn what_a_driver_has_fixed_is_turned_off_elsewhere() {
        let features = [feature("rx-gro", 'k'), feature("rx-gro-hw", 'K')];
        let text = merging(&link("eth0"), "virtio_net", "br0", &features, true).unwrap().to_string();
        assert!(text.contains("`ethtool -K eth0 rx-gro off` and the virtual machine's NIC with"), "{text}");
        assert!(text.contains("guest_tso4=off"), "{text}");
        assert!(!text.contains("rx-gro-hw off"), "{text}");
    }

    #[test]
    fn a_peer_is_named_if_it_sends_segments() {
        let said = |features: &[Feature]| {
            segmenting(&link("vethA"), &link("vethB"), features).map(|found| found.to_string())
        };
        let [tcp, udp] = ["tx-tcp6-segmentation", "tx-udp-segmentation"];
        let text = said(&[feature(tcp, 'k'), feature(udp, 'k')]).unwrap();
        assert!(text.contains("`ethtool -K vethA tso off tx-udp-segmentation off`"), "{text}");
        assert!(
            said(&[feature(tcp, '-'), feature(udp, 'k')]).unwrap().contains("vethA tx-udp-segmentation off`")
        );
        assert_eq!(said(&[feature(tcp, '-'), feature(udp, '-'), feature("rx-gro", 'k')]), None);
    }
}
