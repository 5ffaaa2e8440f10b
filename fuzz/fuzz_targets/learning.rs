//! Learning against a plain list. Input: what happens, 8 bytes each: what, port, four bits of station and VIDs each,
//! time that passes.
//!
//! Promise `hostile-input`.
#![no_main]

use fuzz::Input;
use iou_fast::ether::Address;
use iou_fast::ether::Mac;
use iou_fast::fdb::{Echoes, Fdb, Learned, Refusal};
use iou_fast::ids::PortId;
use libfuzzer_sys::fuzz_target;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const NIC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// So many that each has the smallest share.
const PORTS: usize = 2000;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut fdb = Fdb::new(NIC, PORTS);
    let mut model = Model::default();
    let echoes = Echoes::default();
    let mut heard: HashMap<Address, u64> = HashMap::new();
    let mut now = Duration::ZERO;
    while !input.is_empty() {
        let [what, port, mac, kind, vids, a, b, c] = input.bytes();
        now += Duration::from_micros(u64::from(u32::from_le_bytes([a, b, c, 0])));
        let station = station(mac, kind, vids);
        let port = PortId::new(u32::from(port % 5));
        match what % 8 {
            0 => assert_eq!(fdb.add_static(station.mac, port), model.add_static(station.mac, port)),
            1 => model.left(station, what & 0x80 != 0, fdb.moved_to_wire(station, what & 0x80 != 0, now)),
            2 => {
                echoes.heard(&[mac, kind, vids], now.as_nanos() as u64);
                heard.insert(station, now.as_nanos() as u64);
            }
            3 => {
                // An echo is never made up: neither for another frame nor after its time.
                if echoes.is_echo(&[mac, kind, vids], now.as_nanos() as u64) {
                    let age = heard.get(&station).map(|heard| now.as_nanos() as u64 - heard);
                    assert!(
                        age.is_some_and(|age| age < 2_010_000_000),
                        "an echo of what was heard {age:?} ns ago"
                    );
                }
            }
            _ => model.learned(station, port, now, fdb.learn(station, port, now)),
        }
        assert_eq!(fdb.lookup(&station), model.lookup(&station), "{station:?}");
        assert_eq!(fdb.dynamic_len(), model.dynamic_entries.len());
    }
    for station in model.dynamic_entries.keys() {
        assert_eq!(fdb.lookup(station), model.lookup(station), "{station:?}");
    }
    let entries: HashSet<(Address, bool)> = fdb.entries().into_iter().collect();
    let learned = model.dynamic_entries.keys().map(|station| (*station, false));
    let standing = model.static_entries.iter().filter(|(_, (_, stands))| *stands);
    let is_static = standing.map(|(mac, _)| (Address { mac: *mac, outer_vid: 0, inner_vid: 0 }, true));
    assert_eq!(entries, learned.chain(is_static).collect());
});

/// Few enough to meet again: 256 addresses of four kinds, 16 pairs of VIDs.
fn station(mac: u8, kind: u8, vids: u8) -> Address {
    let mac = match kind % 8 {
        0 if mac == 0 => NIC,
        1 if mac == 0 => Mac([0; 6]),
        2 => Mac([1, 0, 0x5e, 0, 0, mac]),
        3 | 4 => Mac([0xaa, 0xbb, 0xcc, 0, mac, 0]),
        _ => Mac([0, 0, 0x0c, 7, 0xac, mac]),
    };
    Address { mac, outer_vid: u16::from(vids & 3), inner_vid: u16::from(vids >> 2 & 3) }
}

#[derive(Default)]
struct Model {
    /// By address: the port, and whether it stands.
    static_entries: HashMap<Mac, (PortId, bool)>,
    /// Port, and the number of the event in which it last spoke.
    dynamic_entries: HashMap<Address, (PortId, Duration)>,
    /// Stations that ever moved, and how often they were followed in the last ten seconds.
    moves: HashMap<Address, Vec<Duration>>,
}

impl Model {
    fn add_static(&mut self, mac: Mac, port: PortId) -> bool {
        mac != NIC && self.static_entries.entry(mac).or_insert((port, true)).0 == port
    }

    fn lookup(&self, station: &Address) -> Option<PortId> {
        let learned = self.dynamic_entries.get(station).map(|(port, _)| *port);
        learned.or_else(|| {
            self.static_entries.get(&station.mac).filter(|(_, stands)| *stands).map(|(port, _)| *port)
        })
    }

    /// It spoke from the wire.
    fn left(&mut self, station: Address, is_static: bool, from: Option<PortId>) {
        if is_static {
            let entry = self.static_entries.get_mut(&station.mac);
            assert_eq!(from, entry.as_ref().map(|(port, _)| *port));
            if let Some((_, stands)) = entry {
                *stands = false;
            }
        } else {
            let was = self.dynamic_entries.remove(&station).map(|(port, _)| port);
            assert_eq!(from, was);
            if was.is_some() {
                self.moves.entry(station).or_default();
            }
        }
    }

    /// It spoke from a port, and this is what was made of it.
    fn learned(&mut self, station: Address, port: PortId, now: Duration, learned: Learned) {
        let before = self.dynamic_entries.get(&station).map(|(port, _)| *port);
        let pattern = self.static_entries.get(&station.mac).copied();
        let never = match pattern {
            _ if station.mac.0[0] & 1 != 0 || station.mac.0 == [0; 6] => Some(Refusal::NotUnicast),
            _ if station.mac == NIC => Some(Refusal::Nic),
            Some((owner, _)) if owner != port => Some(Refusal::Static(owner)),
            _ => None,
        };
        match learned {
            Learned::Refused(why) if never.is_some() => return assert_eq!(Some(why), never),
            _ => assert_eq!(never, None, "{station:?} may not be behind {port:?}: {learned:?}"),
        }
        match learned {
            // By pattern, whatever was learned before.
            Learned::Known if pattern == Some((port, true)) => {}
            Learned::Known => {
                assert_eq!(before, Some(port), "known from nowhere");
                self.dynamic_entries.insert(station, (port, now));
            }
            Learned::New { evicted } => {
                assert_eq!(before, None);
                self.settle(station, port, now, evicted);
            }
            Learned::Moved { from, evicted } => {
                assert_eq!(before, Some(from));
                assert_ne!(from, port);
                if pattern.is_none() {
                    let moves = self.moves.entry(station).or_default();
                    moves.retain(|then| now - *then < Duration::from_secs(10));
                    moves.push(now);
                    // A window of ten seconds can end in between two windows of the database.
                    assert!(moves.len() <= 10, "a loop is followed: {moves:?}");
                }
                self.dynamic_entries.remove(&station);
                self.settle(station, port, now, evicted);
            }
            Learned::Refused(Refusal::Flapping) => {
                assert!(before.is_some_and(|from| from != port) || self.moves.contains_key(&station));
                assert_eq!(pattern, None, "an interface may always return to its own address");
            }
            // Limits of rate: nothing changes.
            Learned::Refused(_) => {}
        }
    }

    fn settle(&mut self, station: Address, port: PortId, now: Duration, evicted: Option<Address>) {
        let behind = || self.dynamic_entries.iter().filter(|(_, (other, _))| *other == port);
        if let Some(evicted) = evicted {
            let used =
                self.dynamic_entries.get(&evicted).filter(|(other, _)| *other == port).map(|(_, used)| *used);
            let used = used.expect("a port displaces only its own");
            assert!(behind().all(|(_, (_, other))| used <= *other), "not the least recently used");
            self.dynamic_entries.remove(&evicted);
        }
        self.dynamic_entries.insert(station, (port, now));
        let count = self.dynamic_entries.values().filter(|(other, _)| *other == port).count();
        assert!(count <= Fdb::share(PORTS), "{port:?} has {count} stations");
    }
}
