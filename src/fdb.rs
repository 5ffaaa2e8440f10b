//! The forwarding database of a LAN: which station is behind which router interface.
//!
//! *Static* entries are the MAC patterns of the bridged interfaces ([`crate::iou::mac`]); they hold in every
//! VLAN and stand from the start. *Learned* entries come from what the routers send; they are keyed by VLAN, for
//! one virtual MAC can be active on different routers in different VLANs. A station that speaks from the wire is
//! on the wire: the XDP program takes its entry out and tells us.
//!
//! Pure: the caller carries decisions into the BPF maps and to the workers.

use crate::ether::{Address, Mac};
use hashlink::{DefaultHashBuilder, LinkedHashMap, LinkedHashSet};
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A port: the index of a router's interface in the plan.
pub type Port = u32;

/// Moves of one station that are followed within [`MOVE_WINDOW`]; further ones are not, until it is over.
/// A failover moves once or twice; a loop moves with every frame.
const MOVES: u32 = 5;
/// See [`MOVES`].
const MOVE_WINDOW: Duration = Duration::from_secs(10);
/// Stations whose moves are remembered after their entry is gone; the one that moved first makes room.
const REMEMBERED: usize = 4096;
/// Stations a second that are learned, or move, behind one port. Each costs up to two system calls, 3 us: a router that
/// makes addresses up gets this much of a worker, 0.3 %, and no more.
const LEARN_RATE: u32 = 1000;
/// So many at once: as many as a port's share can be.
const LEARN_BURST: u32 = SHARE_MAX as u32;
/// At most this many learned stations a port...
const SHARE_MAX: usize = 1024;
/// ...and never fewer.
const SHARE_MIN: usize = 16;
/// Learned stations a LAN, if the ports' shares allow.
const LEARNED: usize = 16384;

/// What became of an attempt to learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was there already; now it counts as recently used.
    Known,
    /// It is new here. The port's least recently used station had to go for it, if one is named.
    New {
        /// The station that went.
        evicted: Option<Address>,
    },
    /// It was behind another port before.
    Moved {
        /// That port.
        from: Port,
        /// What had to go for it here, if one is named.
        evicted: Option<Address>,
    },
    /// It is not learned.
    Refused(Refusal),
}

/// Why a station is not learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// A group address, or all zeros, is no station.
    NoStation,
    /// The address is the NIC's own.
    Nic,
    /// The host itself is on this LAN with the address, by another interface: a bridge, say.
    Host,
    /// The address follows the pattern of another interface.
    Static(Port),
    /// It moved too often of late.
    Unsteady,
    /// Too many stations appear behind this port just now.
    TooMany,
    /// The very frame has just come from the wire: a loop behind the port sends it back.
    Echo,
    /// The NETMAP has the port no more.
    Retired,
}

/// How long a frame from the wire is remembered, ns: what a frame may wait for a router, and as much for the router.
const ECHO: u64 = 2_000_000_000;
/// Frames remembered; a newer one takes the place of an older one of the same hash.
const ECHOES: usize = 4096;

/// Frames from the wire that went to many ports. A switch image with a loop sends them back as they were, and their
/// senders are not behind it. A station that did move to a router says something of its own. Any thread may ask.
#[derive(Debug)]
pub struct Echoes(Box<[AtomicU64]>);

impl Default for Echoes {
    fn default() -> Self {
        Self((0..ECHOES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Echoes {
    /// `frame` came from the wire at `now` (ns on any monotonic clock).
    pub fn heard(&self, frame: &[u8], now: u64) {
        let (place, mark) = Self::mark(frame);
        self.0[place].store(mark | Self::ticks(now), Relaxed);
    }

    /// Whether this very frame came from the wire of late.
    #[must_use]
    pub fn is_echo(&self, frame: &[u8], now: u64) -> bool {
        let (place, mark) = Self::mark(frame);
        let (seen, low) = (self.0[place].load(Relaxed), u64::from(u32::MAX));
        seen != 0 && seen & !low == mark && (Self::ticks(now).wrapping_sub(seen) & low) <= ECHO >> TICK
    }

    /// Place and upper half of an entry; the lower half is the time.
    fn mark(frame: &[u8]) -> (usize, u64) {
        let mut hasher = rustc_hash::FxHasher::default();
        // Of a frame that does not fit into a chunk not all is at hand everywhere; this much is.
        frame[..frame.len().min(ECHO_BYTES)].hash(&mut hasher);
        let hash = hasher.finish();
        (hash as usize % ECHOES, hash & !u64::from(u32::MAX))
    }

    fn ticks(ns: u64) -> u64 {
        ns >> TICK & u64::from(u32::MAX)
    }
}

/// By so many of its first bytes a frame is known again.
const ECHO_BYTES: usize = 2048;

/// A tick is 2^20 ns, about a millisecond.
const TICK: u32 = 20;

#[derive(Clone, Copy, Debug)]
struct Moves {
    count: u32,
    since: Duration,
}

/// A map whose keys routers choose: seeded, so that none can choose keys that all fall into one place.
pub type AddressMap<T> = HashMap<Address, T, DefaultHashBuilder>;

/// What is behind a port.
#[derive(Debug)]
struct Behind {
    /// Least recently used first.
    stations: LinkedHashSet<Address>,
    /// Stations that may be learned at once, as of `since`.
    tokens: u32,
    since: Duration,
}

impl Behind {
    fn new(now: Duration) -> Self {
        Self { stations: LinkedHashSet::new(), tokens: LEARN_BURST, since: now }
    }

    /// Whether one more may be learned at `now`.
    fn may_learn(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.since).as_nanos() * u128::from(LEARN_RATE) / 1_000_000_000;
        if earned > 0 {
            self.tokens =
                self.tokens.saturating_add(earned.min(u128::from(LEARN_BURST)) as u32).min(LEARN_BURST);
            self.since = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }
}

/// The database.
#[derive(Debug)]
pub struct Fdb {
    nic: Mac,
    /// The host's other addresses on this LAN.
    host: BTreeSet<Mac>,
    /// By pattern; `false` once the address has spoken from the wire.
    is_static: FxHashMap<Mac, (Port, bool)>,
    learned: AddressMap<Port>,
    by_port: FxHashMap<Port, Behind>,
    /// The one that first moved, of those remembered, first.
    moves: LinkedHashMap<Address, Moves>,
    share: usize,
}

impl Fdb {
    /// An empty database for a LAN whose NIC has the address `nic`, with `ports` ports.
    #[must_use]
    pub fn new(nic: Mac, ports: usize) -> Self {
        Self {
            nic,
            host: BTreeSet::new(),
            is_static: FxHashMap::default(),
            learned: AddressMap::default(),
            by_port: FxHashMap::default(),
            moves: LinkedHashMap::new(),
            share: Self::share(ports),
        }
    }

    /// Learned stations a port may have, on a LAN with `ports` ports.
    #[must_use]
    pub fn share(ports: usize) -> usize {
        (LEARNED / ports.max(1)).clamp(SHARE_MIN, SHARE_MAX)
    }

    /// Learned stations a LAN with `ports` ports may have.
    #[must_use]
    pub fn capacity(ports: usize) -> usize {
        Self::share(ports) * ports.max(1)
    }

    /// Enters a MAC pattern of `port`. Returns false, and changes nothing, if it is the NIC's own address or
    /// another port's pattern.
    pub fn add_static(&mut self, mac: Mac, port: Port) -> bool {
        if mac == self.nic {
            return false;
        }
        let entry = self.is_static.entry(mac).or_insert((port, true));
        entry.0 == port
    }

    /// The NIC's own address is `mac` from now on, and no router's. Returns the entries that go for that: station, and
    /// whether it is by pattern.
    pub fn set_nic(&mut self, mac: Mac) -> Vec<(Address, bool)> {
        self.nic = mac;
        let mut gone: Vec<(Address, bool)> =
            self.entries().into_iter().filter(|(station, _)| station.mac == mac).collect();
        gone.sort_unstable();
        for (station, is_static) in &gone {
            if *is_static {
                self.is_static.remove(&mac);
            } else {
                self.forget(station);
            }
        }
        gone
    }

    /// The host has these addresses on the LAN from now on, by whatever interface. Returns the learned stations that go for
    /// that. A pattern stays its port's: NETMAP says whose it is.
    pub fn set_host(&mut self, addresses: BTreeSet<Mac>) -> Vec<Address> {
        if addresses == self.host {
            return Vec::new();
        }
        self.host = addresses;
        let is_hosts = |mac: &Mac| self.host.contains(mac) && !self.is_static.contains_key(mac);
        let mut gone: Vec<Address> =
            self.learned.keys().filter(|station| is_hosts(&station.mac)).copied().collect();
        gone.sort_unstable();
        for station in &gone {
            self.forget(station);
        }
        gone
    }

    /// Why `station`, whatever is known of it, cannot be behind `port`: what no router may say of itself.
    #[must_use]
    pub fn forbidden(&self, station: &Address, port: Port) -> Option<Refusal> {
        if station.mac.is_group() || station.mac.is_zero() {
            return Some(Refusal::NoStation);
        }
        if station.mac == self.nic {
            return Some(Refusal::Nic);
        }
        match self.is_static.get(&station.mac) {
            Some((owner, _)) if *owner == port => None,
            Some((owner, _)) => Some(Refusal::Static(*owner)),
            None => self.host.contains(&station.mac).then_some(Refusal::Host),
        }
    }

    /// Whether the address of `station` follows the pattern of `port`.
    #[must_use]
    pub fn is_own(&self, station: &Address, port: Port) -> bool {
        self.is_static.get(&station.mac).is_some_and(|(owner, _)| *owner == port)
    }

    /// `station` spoke from `port`, at `now` on any monotonic clock.
    pub fn learn(&mut self, station: Address, port: Port, now: Duration) -> Learned {
        if let Some(why) = self.forbidden(&station, port) {
            return Learned::Refused(why);
        }
        let own_pattern = match self.is_static.get(&station.mac) {
            Some((_, true)) => return Learned::Known,
            Some((_, false)) => true,
            None => false,
        };
        let behind = self.by_port.entry(port).or_insert_with(|| Behind::new(now));
        let before = self.learned.get(&station).copied();
        if before == Some(port) {
            behind.stations.to_back(&station);
            return Learned::Known;
        }
        // An interface may always return to the address that is its own by pattern: nobody else can be meant.
        if !own_pattern && !behind.may_learn(now) {
            return Learned::Refused(Refusal::TooMany);
        }
        let moving = before.is_some() || self.moves.contains_key(&station);
        if moving && !own_pattern && !self.may_move(station, now) {
            return Learned::Refused(Refusal::Unsteady);
        }
        if before.is_some() {
            self.forget(&station);
        }
        let evicted = self.make_room(port);
        self.learned.insert(station, port);
        if let Some(behind) = self.by_port.get_mut(&port) {
            behind.stations.insert(station);
        }
        match before {
            Some(from) => Learned::Moved { from, evicted },
            None => Learned::New { evicted },
        }
    }

    /// `station` spoke from the wire; it was held to be behind a router, by pattern if `is_static`. Returns the
    /// port it was at, if it was known.
    pub fn moved_to_wire(&mut self, station: Address, is_static: bool, now: Duration) -> Option<Port> {
        if is_static {
            let entry = self.is_static.get_mut(&station.mac)?;
            entry.1 = false;
            return Some(entry.0);
        }
        let port = self.forget(&station)?;
        self.may_move(station, now);
        Some(port)
    }

    /// `port` is no more. Returns the stations that were behind it: learned, and by pattern.
    pub fn retire(&mut self, port: Port) -> (Vec<Address>, Vec<Mac>) {
        let behind = self.by_port.remove(&port).into_iter();
        let learned: Vec<Address> = behind.flat_map(|behind| behind.stations).collect();
        for station in &learned {
            self.learned.remove(station);
        }
        let patterns =
            self.is_static.extract_if(|_, (owner, _)| *owner == port).map(|(mac, _)| mac).collect();
        (learned, patterns)
    }

    /// The LAN has `ports` ports from now on. Who has more than the share of one keeps it, and displaces its own.
    pub fn set_ports(&mut self, ports: usize) {
        self.share = Self::share(ports);
    }

    /// The port of `station`, if it is behind one.
    #[must_use]
    pub fn lookup(&self, station: &Address) -> Option<Port> {
        self.learned.get(station).copied().or_else(|| match self.is_static.get(&station.mac) {
            Some((port, true)) => Some(*port),
            _ => None,
        })
    }

    /// All entries: station and whether it is by pattern. For the seldom case that they must be compared with the
    /// XDP program's.
    #[must_use]
    pub fn entries(&self) -> Vec<(Address, bool)> {
        let by_pattern = self.is_static.iter().filter(|(_, (_, stands))| *stands);
        let by_pattern = by_pattern.map(|(mac, _)| (Address { mac: *mac, outer_vid: 0, inner_vid: 0 }, true));
        by_pattern.chain(self.learned.keys().map(|station| (*station, false))).collect()
    }

    /// Number of learned stations.
    #[must_use]
    pub fn learned(&self) -> usize {
        self.learned.len()
    }

    /// Counts a move; false if there were too many.
    fn may_move(&mut self, station: Address, now: Duration) -> bool {
        if self.moves.len() >= REMEMBERED && !self.moves.contains_key(&station) {
            self.moves.pop_front();
        }
        let moves = self.moves.entry(station).or_insert(Moves { count: 0, since: now });
        if now.saturating_sub(moves.since) >= MOVE_WINDOW {
            *moves = Moves { count: 0, since: now };
        }
        moves.count = moves.count.saturating_add(1);
        moves.count <= MOVES
    }

    fn forget(&mut self, station: &Address) -> Option<Port> {
        let port = self.learned.remove(station)?;
        if let Some(behind) = self.by_port.get_mut(&port) {
            behind.stations.remove(station);
        }
        Some(port)
    }

    /// Evicts `port`'s least recently used station if its share is used up.
    fn make_room(&mut self, port: Port) -> Option<Address> {
        let stations = &mut self.by_port.get_mut(&port)?.stations;
        if stations.len() < self.share {
            return None;
        }
        let oldest = stations.pop_front()?;
        self.learned.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NIC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HSRP: Mac = Mac([0, 0, 0x0c, 7, 0xac, 1]);

    fn untagged(mac: Mac) -> Address {
        Address { mac, outer_vid: 0, inner_vid: 0 }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn moved(from: Port) -> Learned {
        Learned::Moved { from, evicted: None }
    }

    fn new_station() -> Learned {
        Learned::New { evicted: None }
    }

    #[test]
    fn one_virtual_mac_on_two_routers_in_two_vlans() {
        let mut fdb = Fdb::new(NIC, 2);
        let in_vlan = |outer_vid| Address { mac: HSRP, outer_vid, inner_vid: 0 };
        assert_eq!(fdb.learn(in_vlan(10), 0, at(0)), new_station());
        assert_eq!(fdb.learn(in_vlan(20), 1, at(0)), new_station());
        assert_eq!(fdb.lookup(&in_vlan(10)), Some(0));
        assert_eq!(fdb.lookup(&in_vlan(20)), Some(1));
        assert_eq!(fdb.lookup(&in_vlan(30)), None);
    }

    #[test]
    fn what_is_never_learned() {
        let mut fdb = Fdb::new(NIC, 2);
        let pattern = Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]);
        assert!(fdb.add_static(pattern, 0));
        assert!(!fdb.add_static(NIC, 0), "the NIC's own address");
        assert!(!fdb.add_static(pattern, 1), "another port's pattern");
        for (mac, why) in [
            (NIC, Refusal::Nic),
            (Mac([1, 0, 0x5e, 0, 0, 1]), Refusal::NoStation),
            (Mac([0; 6]), Refusal::NoStation),
            (pattern, Refusal::Static(0)),
        ] {
            assert_eq!(fdb.learn(untagged(mac), 1, at(0)), Learned::Refused(why));
            assert_ne!(fdb.lookup(&untagged(mac)), Some(1));
        }
        assert_eq!(fdb.learn(untagged(pattern), 0, at(0)), Learned::Known);
    }

    #[test]
    fn what_the_host_has_by_another_interface_is_no_routers_unless_the_netmap_says_so() {
        let mut fdb = Fdb::new(NIC, 2);
        let [bridge, pattern] = [Mac([2, 0, 0, 0, 0, 7]), Mac([0xaa, 0xbb, 0xcc, 0, 1, 0])];
        fdb.add_static(pattern, 0);
        fdb.learn(untagged(HSRP), 0, at(0));
        let in_vlan = Address { outer_vid: 10, ..untagged(bridge) };
        fdb.learn(in_vlan, 0, at(0));
        fdb.learn(untagged(bridge), 1, at(0));
        assert_eq!(fdb.set_host([bridge, pattern].into()), [untagged(bridge), in_vlan]);
        assert_eq!(fdb.set_host([bridge, pattern].into()), []);
        for port in [0, 1] {
            assert_eq!(fdb.learn(in_vlan, port, at(1)), Learned::Refused(Refusal::Host));
            assert_eq!(fdb.lookup(&in_vlan), None);
        }
        assert_eq!(fdb.learn(untagged(pattern), 0, at(1)), Learned::Known);
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(0));
        // It is not the host's any more.
        assert_eq!(fdb.set_host([].into()), []);
        assert_eq!(fdb.learn(in_vlan, 1, at(2)), new_station());
    }

    #[test]
    fn a_failover_is_followed_and_a_loop_is_not() {
        let mut fdb = Fdb::new(NIC, 2);
        fdb.learn(untagged(HSRP), 0, at(0));
        assert_eq!(fdb.learn(untagged(HSRP), 1, at(1)), moved(0));
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(1));
        let mut followed = 0;
        for n in 0..100 {
            if let Learned::Moved { .. } = fdb.learn(untagged(HSRP), n % 2, at(2)) {
                followed += 1;
            }
        }
        assert!(followed < MOVES, "{followed} moves within a second");
        let other = 1 - fdb.lookup(&untagged(HSRP)).unwrap();
        assert_eq!(fdb.learn(untagged(HSRP), other, at(20)), moved(1 - other));
    }

    #[test]
    fn an_echo_is_the_same_frame_within_two_seconds() {
        let echoes = Echoes::default();
        let second = 1_000_000_000;
        let start = u64::from(u32::MAX) << TICK;
        assert!(!echoes.is_echo(b"hello", start));
        echoes.heard(b"hello", start);
        for (frame, now, echo) in [
            (&b"hello"[..], start, true),
            (b"hello", start + 2 * second, true),
            (b"hello", start + 3 * second, false),
            (b"hell", start, false),
            (b"hello, too", start, false),
        ] {
            assert_eq!(echoes.is_echo(frame, now), echo, "{frame:?} at {now}");
        }
    }

    #[test]
    fn a_gateway_that_loops_back_stays_on_the_wire() {
        let mut fdb = Fdb::new(NIC, 1);
        let gateway = untagged(Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]));
        for n in 0..20 {
            fdb.learn(gateway, 0, at(0));
            let was = fdb.moved_to_wire(gateway, false, at(0));
            assert!(n < 10 || was.is_none(), "still captured on round {n}");
            assert_eq!(fdb.lookup(&gateway), None);
        }
    }

    #[test]
    fn a_pattern_seen_on_the_wire_is_there_until_its_interface_speaks() {
        let mut fdb = Fdb::new(NIC, 1);
        let station = untagged(Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]));
        fdb.add_static(station.mac, 0);
        assert_eq!(fdb.lookup(&station), Some(0));
        for _ in 0..20 {
            assert_eq!(fdb.moved_to_wire(station, true, at(0)), Some(0));
            assert_eq!(fdb.learn(station, 0, at(0)), new_station());
            assert_eq!(fdb.lookup(&station), Some(0));
            assert_eq!(fdb.moved_to_wire(station, false, at(0)), Some(0));
            assert_eq!(fdb.lookup(&station), None);
        }
    }

    #[test]
    fn a_port_that_floods_addresses_displaces_only_its_own() {
        let mut fdb = Fdb::new(NIC, 2);
        let station = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            untagged(Mac([0, 2, a, b, c, d]))
        };
        fdb.learn(untagged(HSRP), 1, at(0));
        let share = Fdb::share(2) as u32;
        for n in 0..share {
            assert_eq!(fdb.learn(station(n), 0, at(u64::from(n))), new_station());
        }
        assert_eq!(fdb.learn(station(0), 0, at(1_000_000)), Learned::Known);
        assert_eq!(fdb.learn(station(share), 0, at(1_000_001)), Learned::New { evicted: Some(station(1)) });
        assert_eq!(fdb.lookup(&station(0)), Some(0), "recently used");
        assert_eq!(fdb.lookup(&untagged(HSRP)), Some(1));
        assert_eq!(fdb.learned(), share as usize + 1);
        // Whoever moves here takes a place as well, and the XDP program has to hear of it.
        let evicted = Some(station(2));
        assert_eq!(fdb.learn(untagged(HSRP), 0, at(1_000_002)), Learned::Moved { from: 1, evicted });
        assert_eq!(fdb.learned(), share as usize);
    }

    #[test]
    fn a_port_that_makes_addresses_up_is_slowed_down_and_no_other() {
        let mut fdb = Fdb::new(NIC, 2);
        let station = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            untagged(Mac([0, 2, a, b, c, d]))
        };
        let mut flood = (0u32..).map(station);
        let mut learned = |fdb: &mut Fdb, ms: u64| {
            let now = Duration::from_millis(ms);
            let tried = flood.by_ref().take(5000).map(|station| fdb.learn(station, 0, now));
            tried.filter(|learned| *learned != Learned::Refused(Refusal::TooMany)).count() as u32
        };
        assert_eq!(learned(&mut fdb, 0), LEARN_BURST);
        assert_eq!(learned(&mut fdb, 0), 0);
        assert_eq!(learned(&mut fdb, 10), LEARN_RATE / 100);
        // What is known already, or is another port's, or is the port's own by pattern, is not slowed down.
        assert_eq!(fdb.learn(station(LEARN_BURST - 1), 0, at(0)), Learned::Known);
        assert_eq!(fdb.learn(untagged(HSRP), 1, at(0)), new_station());
        let own = untagged(Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]));
        fdb.add_static(own.mac, 0);
        fdb.moved_to_wire(own, true, at(0));
        assert!(matches!(fdb.learn(own, 0, Duration::from_millis(10)), Learned::New { .. }));
        assert_eq!(learned(&mut fdb, 3_600_000), LEARN_BURST);
    }

    #[test]
    fn many_that_move_do_not_keep_others_from_moving() {
        let mut fdb = Fdb::new(NIC, 2);
        for n in 0..2 * REMEMBERED as u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let station = untagged(Mac([0, 2, a, b, c, d]));
            let now = Duration::from_millis(u64::from(n));
            fdb.learn(station, 0, now);
            fdb.learn(station, 1, now);
        }
        assert!(fdb.moves.len() <= REMEMBERED);
        fdb.learn(untagged(HSRP), 0, at(10));
        assert!(matches!(fdb.learn(untagged(HSRP), 1, at(10)), Learned::Moved { from: 0, .. }));
    }

    #[test]
    fn a_retired_port_leaves_nothing_and_another_may_have_its_patterns() {
        let mut fdb = Fdb::new(NIC, 2);
        let pattern = Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]);
        assert!(fdb.add_static(pattern, 0));
        fdb.learn(untagged(HSRP), 0, at(0));
        let other = untagged(Mac([2, 0, 0, 0, 0, 7]));
        fdb.learn(other, 1, at(0));
        assert_eq!(fdb.retire(0), (vec![untagged(HSRP)], vec![pattern]));
        assert_eq!(fdb.lookup(&untagged(HSRP)), None);
        assert_eq!(fdb.lookup(&untagged(pattern)), None);
        assert_eq!(fdb.lookup(&other), Some(1));
        assert_eq!(fdb.retire(0), (vec![], vec![]));
        assert!(fdb.add_static(pattern, 1));
        assert_eq!(fdb.lookup(&untagged(pattern)), Some(1));
        assert_eq!(fdb.learn(untagged(HSRP), 1, at(0)), new_station());
    }

    proptest! {
        /// Bounded, and consistent with its index by port, whatever happens.
        #[test]
        fn stays_bounded(events in prop::collection::vec((0u8..40, 0u32..3, 0u8..4, 0u64..60), 0..600)) {
            let mut fdb = Fdb::new(NIC, 2000);
            for (mac, port, what, now) in events {
                let station = untagged(Mac([0, 0, 0, 0, 1, mac]));
                if what == 0 { fdb.moved_to_wire(station, false, at(now)); }
                else if now == 59 { fdb.retire(port); }
                else { fdb.learn(station, port, at(now)); }
                let indexed: usize = fdb.by_port.values().map(|behind| behind.stations.len()).sum();
                prop_assert_eq!(indexed, fdb.learned());
                prop_assert!(fdb.by_port.values().all(|behind| behind.stations.len() <= SHARE_MIN));
            }
        }
    }
}
