//! The forwarding database (FDB) of a segment: which address is behind which port.
//!
//! *Static* entries are the addresses that images derive from their id and interface ([`crate::iou::mac`]); they hold in
//! every VLAN and are there from the start. *Dynamic* entries are learned from what the routers send; they are keyed by
//! VLAN, because one virtual MAC can be active on different routers in different VLANs. An address that sends from the
//! wire is on the wire: the XDP program removes its entry and reports it.
//!
//! Pure: the caller carries decisions into the BPF maps and to the workers.

mod behind;
mod echo;
mod moves;

pub use echo::Echoes;

use crate::ether::{Address, Mac};
use crate::ids::{PortId, RouterId};
use crate::iou::header::Header;
use behind::Behind;
use hashlink::DefaultHashBuilder;
use moves::Moves;
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What forwarding needs to know of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BridgePort {
    /// Its number.
    pub id: PortId,
    /// The router whose interface it is.
    pub router: RouterId,
    /// The worker that sends to the router.
    pub worker: usize,
    /// What stands in front of frames to the router.
    pub header: Header,
    /// The addresses that the router's image may have derived for the interface, the likeliest first.
    pub static_macs: [Mac; 3],
}

/// At most this many dynamic entries per port...
const SHARE_MAX: usize = 1024;
/// ...and never fewer.
const SHARE_MIN: usize = 16;
/// Dynamic entries per segment, if the ports' shares allow.
const DYNAMIC: usize = 16384;

/// What became of an attempt to learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was there already; now it counts as recently used.
    Known,
    /// It is new here. The port's least recently used address was evicted for it, if one is named.
    New {
        /// The address that was evicted.
        evicted: Option<Address>,
    },
    /// It was behind another port before.
    Moved {
        /// That port.
        from: PortId,
        /// What was evicted for it here, if anything.
        evicted: Option<Address>,
    },
    /// It is not learned.
    Refused(Refusal),
}

/// Why an address is not learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// A multicast address, or all zeros, is not the address of an interface.
    NotUnicast,
    /// The address is the NIC's own.
    Nic,
    /// The host itself has the address on this segment, on another interface: a bridge, say.
    Host,
    /// The address is a static entry of another port.
    Static(PortId),
    /// It moved too often of late.
    Flapping,
    /// Too many addresses appear behind this port just now.
    RateLimited,
    /// The very frame has just come from the wire: a loop behind the port sends it back.
    Echo,
    /// The NETMAP no longer has the port.
    Retired,
}

/// A map whose keys routers choose: seeded, so that none can choose keys that all share a bucket.
pub type AddressMap<T> = HashMap<Address, T, DefaultHashBuilder>;

/// The database.
#[derive(Debug)]
pub struct Fdb {
    nic: Mac,
    /// The host's other addresses on this segment.
    host: BTreeSet<Mac>,
    /// `false` once the address has sent from the wire.
    static_entries: FxHashMap<Mac, (PortId, bool)>,
    dynamic: AddressMap<PortId>,
    by_port: FxHashMap<PortId, Behind>,
    moves: Moves,
    share: usize,
}

impl Fdb {
    /// An empty database for a segment whose NIC has the address `nic`, with `ports` ports.
    #[must_use]
    pub fn new(nic: Mac, ports: usize) -> Self {
        Self {
            nic,
            host: BTreeSet::new(),
            static_entries: FxHashMap::default(),
            dynamic: AddressMap::default(),
            by_port: FxHashMap::default(),
            moves: Moves::default(),
            share: Self::share(ports),
        }
    }

    /// Dynamic entries that a port may have, on a segment with `ports` ports.
    #[must_use]
    pub fn share(ports: usize) -> usize {
        (DYNAMIC / ports.max(1)).clamp(SHARE_MIN, SHARE_MAX)
    }

    /// Dynamic entries that a segment with `ports` ports may have.
    #[must_use]
    pub fn capacity(ports: usize) -> usize {
        Self::share(ports) * ports.max(1)
    }

    /// Adds a static entry of `port`. Returns false, and changes nothing, if it is the NIC's own address or another
    /// port's static entry.
    pub fn add_static(&mut self, mac: Mac, port: PortId) -> bool {
        if mac == self.nic {
            return false;
        }
        let entry = self.static_entries.entry(mac).or_insert((port, true));
        entry.0 == port
    }

    /// The NIC's own address is `mac` from now on, and no router's. Returns the entries that are removed for that:
    /// address, and whether the entry was static.
    pub fn set_nic(&mut self, mac: Mac) -> Vec<(Address, bool)> {
        self.nic = mac;
        let mut gone: Vec<(Address, bool)> =
            self.entries().into_iter().filter(|(address, _)| address.mac == mac).collect();
        gone.sort_unstable();
        for (address, is_static) in &gone {
            if *is_static {
                self.static_entries.remove(&mac);
            } else {
                self.forget(address);
            }
        }
        gone
    }

    /// The host has these addresses on the segment from now on, on whatever interface. Returns the dynamic entries that
    /// are removed for that. A static entry stays its port's: the NETMAP says whose it is.
    pub fn set_host(&mut self, addresses: BTreeSet<Mac>) -> Vec<Address> {
        if addresses == self.host {
            return Vec::new();
        }
        self.host = addresses;
        let is_hosts = |mac: &Mac| self.host.contains(mac) && !self.static_entries.contains_key(mac);
        let mut gone: Vec<Address> =
            self.dynamic.keys().filter(|address| is_hosts(&address.mac)).copied().collect();
        gone.sort_unstable();
        for address in &gone {
            self.forget(address);
        }
        gone
    }

    /// Why `address`, whatever is known of it, cannot be behind `port`: what no router may use as its source.
    #[must_use]
    pub fn forbidden(&self, address: &Address, port: PortId) -> Option<Refusal> {
        if address.mac.is_multicast() || address.mac.is_zero() {
            return Some(Refusal::NotUnicast);
        }
        if address.mac == self.nic {
            return Some(Refusal::Nic);
        }
        match self.static_entries.get(&address.mac) {
            Some((owner, _)) if *owner == port => None,
            Some((owner, _)) => Some(Refusal::Static(*owner)),
            None => self.host.contains(&address.mac).then_some(Refusal::Host),
        }
    }

    /// Whether `address` is a static entry of `port`.
    #[must_use]
    pub fn is_own(&self, address: &Address, port: PortId) -> bool {
        self.static_entries.get(&address.mac).is_some_and(|(owner, _)| *owner == port)
    }

    /// A frame from `address` came from `port`, at `now` on any monotonic clock.
    pub fn learn(&mut self, address: Address, port: PortId, now: Duration) -> Learned {
        if let Some(why) = self.forbidden(&address, port) {
            return Learned::Refused(why);
        }
        let own_static = match self.static_entries.get(&address.mac) {
            Some((_, true)) => return Learned::Known,
            Some((_, false)) => true,
            None => false,
        };
        let behind = self.by_port.entry(port).or_insert_with(|| Behind::new(now));
        let before = self.dynamic.get(&address).copied();
        if before == Some(port) {
            behind.addresses.to_back(&address);
            return Learned::Known;
        }
        // An interface may always return to its static address, which no other port can have.
        if !own_static && !behind.may_learn(now) {
            return Learned::Refused(Refusal::RateLimited);
        }
        let moving = before.is_some() || self.moves.has(&address);
        if moving && !own_static && !self.moves.may_move(address, now) {
            return Learned::Refused(Refusal::Flapping);
        }
        if before.is_some() {
            self.forget(&address);
        }
        let evicted = self.evict(port);
        self.dynamic.insert(address, port);
        if let Some(behind) = self.by_port.get_mut(&port) {
            behind.addresses.insert(address);
        }
        match before {
            Some(from) => Learned::Moved { from, evicted },
            None => Learned::New { evicted },
        }
    }

    /// `address` sent from the wire; it was known to be behind a router, by a static entry if `is_static`. Returns its
    /// port, if it was known.
    pub fn moved_to_wire(&mut self, address: Address, is_static: bool, now: Duration) -> Option<PortId> {
        if is_static {
            let entry = self.static_entries.get_mut(&address.mac)?;
            entry.1 = false;
            return Some(entry.0);
        }
        let port = self.forget(&address)?;
        self.moves.may_move(address, now);
        Some(port)
    }

    /// `port` is removed. Returns its dynamic and its static entries.
    pub fn retire(&mut self, port: PortId) -> (Vec<Address>, Vec<Mac>) {
        let behind = self.by_port.remove(&port).into_iter();
        let dynamic: Vec<Address> = behind.flat_map(|behind| behind.addresses).collect();
        for address in &dynamic {
            self.dynamic.remove(address);
        }
        let static_macs =
            self.static_entries.extract_if(|_, (owner, _)| *owner == port).map(|(mac, _)| mac).collect();
        (dynamic, static_macs)
    }

    /// The segment has `ports` ports from now on. A port with more than its share keeps it, and evicts its own.
    pub fn set_ports(&mut self, ports: usize) {
        self.share = Self::share(ports);
    }

    /// The port that `address` is behind, if any.
    #[must_use]
    pub fn lookup(&self, address: &Address) -> Option<PortId> {
        self.dynamic.get(address).copied().or_else(|| match self.static_entries.get(&address.mac) {
            Some((port, true)) => Some(*port),
            _ => None,
        })
    }

    /// All entries: address, and whether the entry is static. Needed only where they must be compared with the XDP
    /// program's.
    #[must_use]
    pub fn entries(&self) -> Vec<(Address, bool)> {
        let standing = self.static_entries.iter().filter(|(_, (_, stands))| *stands);
        let standing = standing.map(|(mac, _)| (Address { mac: *mac, outer_vid: 0, inner_vid: 0 }, true));
        standing.chain(self.dynamic.keys().map(|address| (*address, false))).collect()
    }

    /// Number of dynamic entries.
    #[must_use]
    pub fn dynamic_len(&self) -> usize {
        self.dynamic.len()
    }

    fn forget(&mut self, address: &Address) -> Option<PortId> {
        let port = self.dynamic.remove(address)?;
        if let Some(behind) = self.by_port.get_mut(&port) {
            behind.addresses.remove(address);
        }
        Some(port)
    }

    /// Evicts `port`'s least recently used address if its share is used up.
    fn evict(&mut self, port: PortId) -> Option<Address> {
        let addresses = &mut self.by_port.get_mut(&port)?.addresses;
        if addresses.len() < self.share {
            return None;
        }
        let oldest = addresses.pop_front()?;
        self.dynamic.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::behind::{LEARN_BURST, LEARN_RATE};
    use super::moves::{MOVES, REMEMBERED};
    use super::*;
    use proptest::prelude::*;

    const NIC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HSRP: Mac = Mac([0, 0, 0x0c, 7, 0xac, 1]);

    const A: PortId = PortId::new(0);
    const B: PortId = PortId::new(1);

    fn untagged(mac: Mac) -> Address {
        Address { mac, outer_vid: 0, inner_vid: 0 }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn moved(from: PortId) -> Learned {
        Learned::Moved { from, evicted: None }
    }

    fn newly_learned() -> Learned {
        Learned::New { evicted: None }
    }

    #[test]
    fn one_virtual_mac_on_two_routers_in_two_vlans() {
        let mut fdb = Fdb::new(NIC, 2);
        let in_vlan = |outer_vid| Address { mac: HSRP, outer_vid, inner_vid: 0 };
        assert_eq!(fdb.learn(in_vlan(10), A, at(0)), newly_learned());
        assert_eq!(fdb.learn(in_vlan(20), B, at(0)), newly_learned());
        assert_eq!(fdb.lookup(&in_vlan(10)), Some(A));
        assert_eq!(fdb.lookup(&in_vlan(20)), Some(B));
        assert_eq!(fdb.lookup(&in_vlan(30)), None);
    }

    #[test]
    fn multicast_and_the_nics_and_other_ports_addresses_are_never_learned() {
        let mut fdb = Fdb::new(NIC, 2);
        let derived = Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]);
        assert!(fdb.add_static(derived, A));
        assert!(!fdb.add_static(NIC, A), "the NIC's own address");
        assert!(!fdb.add_static(derived, B), "another port's static entry");
        for (mac, why) in [
            (NIC, Refusal::Nic),
            (Mac([1, 0, 0x5e, 0, 0, 1]), Refusal::NotUnicast),
            (Mac([0; 6]), Refusal::NotUnicast),
            (derived, Refusal::Static(A)),
        ] {
            assert_eq!(fdb.learn(untagged(mac), B, at(0)), Learned::Refused(why));
            assert_ne!(fdb.lookup(&untagged(mac)), Some(B));
        }
        assert_eq!(fdb.learn(untagged(derived), A, at(0)), Learned::Known);
    }

    /// Promise `host-addresses`.
    #[test]
    fn an_address_of_the_host_is_not_learned_and_static_entries_keep_theirs() {
        let mut fdb = Fdb::new(NIC, 2);
        let [bridge, derived] = [Mac([2, 0, 0, 0, 0, 7]), Mac([0xaa, 0xbb, 0xcc, 0, 1, 0])];
        fdb.add_static(derived, A);
        fdb.learn(untagged(HSRP), A, at(0));
        let in_vlan = Address { outer_vid: 10, ..untagged(bridge) };
        fdb.learn(in_vlan, A, at(0));
        fdb.learn(untagged(bridge), B, at(0));
        assert_eq!(fdb.set_host([bridge, derived].into()), [untagged(bridge), in_vlan]);
        assert_eq!(fdb.set_host([bridge, derived].into()), []);
        for port in [A, B] {
            assert_eq!(fdb.learn(in_vlan, port, at(1)), Learned::Refused(Refusal::Host));
            assert_eq!(fdb.lookup(&in_vlan), None);
        }
        assert_eq!(fdb.learn(untagged(derived), A, at(1)), Learned::Known);
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(A));
        // It is no longer the host's.
        assert_eq!(fdb.set_host([].into()), []);
        assert_eq!(fdb.learn(in_vlan, B, at(2)), newly_learned());
    }

    #[test]
    fn flap_damping_follows_a_failover_and_not_a_loop() {
        let mut fdb = Fdb::new(NIC, 2);
        fdb.learn(untagged(HSRP), A, at(0));
        assert_eq!(fdb.learn(untagged(HSRP), B, at(1)), moved(A));
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(B));
        let mut followed = 0;
        for n in 0..100 {
            if let Learned::Moved { .. } = fdb.learn(untagged(HSRP), [A, B][n % 2], at(2)) {
                followed += 1;
            }
        }
        assert!(followed < MOVES, "{followed} moves within a second");
        let here = fdb.lookup(&untagged(HSRP)).unwrap();
        let other = if here == A { B } else { A };
        assert_eq!(fdb.learn(untagged(HSRP), other, at(20)), moved(here));
    }

    #[test]
    fn a_gateway_whose_frames_loop_back_stays_on_the_wire() {
        let mut fdb = Fdb::new(NIC, 1);
        let gateway = untagged(Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]));
        for n in 0..20 {
            fdb.learn(gateway, A, at(0));
            let was = fdb.moved_to_wire(gateway, false, at(0));
            assert!(n < 10 || was.is_none(), "still captured on round {n}");
            assert_eq!(fdb.lookup(&gateway), None);
        }
    }

    #[test]
    fn a_static_entry_whose_address_moved_to_the_wire_is_not_used_until_its_interface_sends() {
        let mut fdb = Fdb::new(NIC, 1);
        let address = untagged(Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]));
        fdb.add_static(address.mac, A);
        assert_eq!(fdb.lookup(&address), Some(A));
        for _ in 0..20 {
            assert_eq!(fdb.moved_to_wire(address, true, at(0)), Some(A));
            assert_eq!(fdb.learn(address, A, at(0)), newly_learned());
            assert_eq!(fdb.lookup(&address), Some(A));
            assert_eq!(fdb.moved_to_wire(address, false, at(0)), Some(A));
            assert_eq!(fdb.lookup(&address), None);
        }
    }

    /// Promise `fdb-bound`.
    #[test]
    fn a_port_that_floods_addresses_evicts_only_its_own() {
        let mut fdb = Fdb::new(NIC, 2);
        let address = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            untagged(Mac([0, 2, a, b, c, d]))
        };
        fdb.learn(untagged(HSRP), B, at(0));
        let share = Fdb::share(2) as u32;
        for n in 0..share {
            assert_eq!(fdb.learn(address(n), A, at(u64::from(n))), newly_learned());
        }
        assert_eq!(fdb.learn(address(0), A, at(1_000_000)), Learned::Known);
        assert_eq!(fdb.learn(address(share), A, at(1_000_001)), Learned::New { evicted: Some(address(1)) });
        assert_eq!(fdb.lookup(&address(0)), Some(A), "recently used");
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(B));
        assert_eq!(fdb.dynamic_len(), share as usize + 1);
        // An address that moves here takes an entry as well; the caller is told what to remove from the XDP program's maps.
        let evicted = Some(address(2));
        assert_eq!(fdb.learn(untagged(HSRP), A, at(1_000_002)), Learned::Moved { from: B, evicted });
        assert_eq!(fdb.dynamic_len(), share as usize);
    }

    #[test]
    fn learning_is_rate_limited_per_port() {
        let mut fdb = Fdb::new(NIC, 2);
        let address = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            untagged(Mac([0, 2, a, b, c, d]))
        };
        let mut flood = (0u32..).map(address);
        let mut learned = |fdb: &mut Fdb, ms: u64| {
            let now = Duration::from_millis(ms);
            let tried = flood.by_ref().take(5000).map(|address| fdb.learn(address, A, now));
            tried.filter(|learned| *learned != Learned::Refused(Refusal::RateLimited)).count() as u32
        };
        assert_eq!(learned(&mut fdb, 0), LEARN_BURST);
        assert_eq!(learned(&mut fdb, 0), 0);
        assert_eq!(learned(&mut fdb, 10), LEARN_RATE / 100);
        // What is known already, or is another port's, or is the port's own static address, is not slowed down.
        assert_eq!(fdb.learn(address(LEARN_BURST - 1), A, at(0)), Learned::Known);
        assert_eq!(fdb.learn(untagged(HSRP), B, at(0)), newly_learned());
        let own = untagged(Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]));
        fdb.add_static(own.mac, A);
        fdb.moved_to_wire(own, true, at(0));
        assert!(matches!(fdb.learn(own, A, Duration::from_millis(10)), Learned::New { .. }));
        assert_eq!(learned(&mut fdb, 3_600_000), LEARN_BURST);
    }

    #[test]
    fn flap_damping_remembers_the_latest_of_many_moves() {
        let mut fdb = Fdb::new(NIC, 2);
        for n in 0..2 * REMEMBERED as u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let address = untagged(Mac([0, 2, a, b, c, d]));
            let now = Duration::from_millis(u64::from(n));
            fdb.learn(address, A, now);
            fdb.learn(address, B, now);
        }
        assert!(fdb.moves.len() <= REMEMBERED);
        fdb.learn(untagged(HSRP), A, at(10));
        assert!(matches!(fdb.learn(untagged(HSRP), B, at(10)), Learned::Moved { from: A, .. }));
    }

    #[test]
    fn a_retired_port_leaves_nothing_and_another_may_have_its_static_entries() {
        let mut fdb = Fdb::new(NIC, 2);
        let derived = Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]);
        assert!(fdb.add_static(derived, A));
        fdb.learn(untagged(HSRP), A, at(0));
        let other = untagged(Mac([2, 0, 0, 0, 0, 7]));
        fdb.learn(other, B, at(0));
        assert_eq!(fdb.retire(A), (vec![untagged(HSRP)], vec![derived]));
        assert_eq!(fdb.lookup(&untagged(HSRP)), None);
        assert_eq!(fdb.lookup(&untagged(derived)), None);
        assert_eq!(fdb.lookup(&other), Some(B));
        assert_eq!(fdb.retire(A), (vec![], vec![]));
        assert!(fdb.add_static(derived, B));
        assert_eq!(fdb.lookup(&untagged(derived)), Some(B));
        assert_eq!(fdb.learn(untagged(HSRP), B, at(0)), newly_learned());
    }

    proptest! {
        /// Bounded, and consistent with its index by port, whatever happens.
        ///
        /// Promise `fdb-bound` (Addresses): The FDB is bounded, and a router that floods addresses displaces
        /// only its own.
        #[test]
        fn dynamic_entries_stay_bounded(events in prop::collection::vec((0u8..40, 0u32..3, 0u8..4, 0u64..60), 0..600)) {
            let mut fdb = Fdb::new(NIC, 2000);
            for (mac, port, what, now) in events {
                let port = PortId::new(port);
                let address = untagged(Mac([0, 0, 0, 0, 1, mac]));
                if what == 0 { fdb.moved_to_wire(address, false, at(now)); }
                else if now == 59 { fdb.retire(port); }
                else { fdb.learn(address, port, at(now)); }
                let indexed: usize = fdb.by_port.values().map(|behind| behind.addresses.len()).sum();
                prop_assert_eq!(indexed, fdb.dynamic_len());
                prop_assert!(fdb.by_port.values().all(|behind| behind.addresses.len() <= SHARE_MIN));
            }
        }
    }
}
