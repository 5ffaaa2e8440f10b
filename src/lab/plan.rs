//! Who is who in the lab: addresses, the NETMAP, pseudo instance ids.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// More routers than this leave no ids for the pseudo instances.
pub(super) const MOST_ROUTERS: u16 = 1000;

/// Up to here every router has a pseudo instance of its own, 513 and up as in most labs.
const OWN_PSEUDO: u16 = 512;

/// IPv4 prefix in which everybody is.
pub(super) const IPV4: &str = "10.10.0.0/16";
/// IPv6 prefix in which everybody is.
pub(super) const IPV6: &str = "fd00:10::/64";

/// The host on the wire that pings.
pub(super) const WIRE: [IpAddr; 2] = [v4(10, 10, 255, 254), v6(0xfffe)];
/// The host, on the NIC that it shares with the routers.
pub(super) const HOST: [IpAddr; 2] = [v4(10, 10, 255, 1), v6(0xffff)];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, host))
}

/// The addresses of router `id`, which it makes from its id and the prefixes.
pub(super) fn router(id: u16) -> [IpAddr; 2] {
    [v4(10, 10, (id / 250) as u8, (id % 250) as u8 + 1), v6(id)]
}

/// The far end of router `id`'s line: pseudo instance id, bay, unit.
fn pseudo(id: u16, routers: u16) -> (u16, u16, u16) {
    if routers <= OWN_PSEUDO {
        return (OWN_PSEUDO + id, 0, 0);
    }
    // A pseudo instance has 256 interfaces; fill them from the highest id down.
    let interface = (id - 1) % 256;
    (1024 - (id - 1) / 256, interface % 16, interface / 16)
}

/// The NETMAP: interface 0/0 of every router on a line with a pseudo instance.
pub(super) fn netmap(routers: u16) -> String {
    (1..=routers).fold(String::new(), |mut text, id| {
        let (pseudo, bay, unit) = pseudo(id, routers);
        let _ = writeln!(text, "{id}:0/0 {pseudo}:{bay}/{unit}");
        text
    })
}

/// The pseudo instance ids, as `-p` takes them.
pub(super) fn pseudo_ids(routers: u16) -> String {
    let ends = [pseudo(1, routers).0, pseudo(routers, routers).0];
    match (ends[0].min(ends[1]), ends[0].max(ends[1])) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn addresses() {
        let text = |id| router(id).map(|a| a.to_string());
        assert_eq!(text(1), ["10.10.0.2", "fd00:10::1"]);
        assert_eq!(text(249), ["10.10.0.250", "fd00:10::f9"]);
        assert_eq!(text(250), ["10.10.1.1", "fd00:10::fa"]);
        assert_eq!(text(1000), ["10.10.4.1", "fd00:10::3e8"]);
        let mut seen: HashSet<_> = WIRE.into_iter().chain(HOST).collect();
        assert!((1..=MOST_ROUTERS).flat_map(router).all(|address| seen.insert(address)));
    }

    #[test]
    fn few_routers_have_a_pseudo_instance_each() {
        assert_eq!(netmap(3), "1:0/0 513:0/0\n2:0/0 514:0/0\n3:0/0 515:0/0\n");
        assert_eq!(pseudo_ids(1), "513");
        assert_eq!(pseudo_ids(50), "513-562");
        assert_eq!(pseudo_ids(512), "513-1024");
    }

    #[test]
    fn many_routers_share_them() {
        let text = netmap(1000);
        let line = |id: usize| text.lines().nth(id - 1).unwrap();
        assert_eq!(line(1), "1:0/0 1024:0/0");
        assert_eq!(line(17), "17:0/0 1024:0/1");
        assert_eq!(line(256), "256:0/0 1024:15/15");
        assert_eq!(line(257), "257:0/0 1023:0/0");
        assert_eq!(line(1000), "1000:0/0 1021:7/14");
        assert_eq!(pseudo_ids(513), "1022-1024");
        assert_eq!(pseudo_ids(1000), "1021-1024");
    }

    #[test]
    fn no_endpoint_stands_twice() {
        for routers in [1, 2, 511, 512, 513, 768, 769, MOST_ROUTERS] {
            let text = netmap(routers);
            let mut seen = HashSet::new();
            assert!(text.split_whitespace().all(|endpoint| seen.insert(endpoint)), "{routers}");
            assert_eq!(seen.len(), 2 * usize::from(routers));
            // A pseudo instance is no router.
            let lowest = pseudo(1, routers).0.min(pseudo(routers, routers).0);
            assert!(lowest > routers, "{routers}");
        }
    }
}
