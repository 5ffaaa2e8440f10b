//! A LAN at run time: its forwarding database, in user space and in the XDP program's maps at once.
//!
//! Learning is rare and takes a lock. Forwarding does not: a worker remembers the last answers until `generation` changes.

use crate::ether::{Address, Mac};
use crate::fdb::{BridgePort, Echoes, Fdb, Learned, Refusal};
use crate::ids::{PortId, RouterId};
use crate::rate_limiter::RateLimiter;
use crate::steer::layout::{PortEntry, RouterState, mac_word};
use crate::steer::{Error, Tables};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// A LAN.
pub struct Lan {
    /// Name of the NIC.
    pub nic: String,
    /// The XDP program's maps.
    pub tables: Arc<Tables>,
    /// The NIC can send: it is up and has carrier.
    pub up: AtomicBool,
    /// The NIC's MTU, bytes.
    pub mtu: AtomicU32,
    /// Changed under the lock of `fdb` only.
    ports: RwLock<HashMap<PortId, BridgePort>>,
    fdb: Mutex<Fdb>,
    echoes: Echoes,
    generation: AtomicU64,
    moves: Mutex<RateLimiter>,
    warned_of_spanning_tree: AtomicBool,
}

impl Lan {
    /// The LAN of the NIC `nic`, which has the address `mac`, with `ports` and their static entries.
    ///
    /// # Errors
    /// If a BPF map cannot be written.
    pub fn new(nic: &str, mac: Mac, ports: &[BridgePort], tables: Arc<Tables>) -> Result<Self, Error> {
        let lan = Self {
            nic: nic.to_owned(),
            tables,
            up: AtomicBool::new(false),
            mtu: AtomicU32::new(0),
            ports: RwLock::default(),
            fdb: Mutex::new(Fdb::new(mac, ports.len())),
            echoes: Echoes::default(),
            generation: AtomicU64::new(0),
            moves: Mutex::default(),
            warned_of_spanning_tree: AtomicBool::new(false),
        };
        let mut fdb = lan.lock();
        for port in ports {
            lan.add(port, &mut fdb)?;
        }
        drop(fdb);
        Ok(lan)
    }

    /// The LAN has `ports` from now on. Ports that are not among them are removed with all their entries, new ones are
    /// added with their static entries, the others stay as they are.
    pub fn follow(&self, ports: &[BridgePort]) {
        let mut fdb = self.lock();
        fdb.set_ports(ports.len());
        let wanted: HashSet<PortId> = ports.iter().map(|port| port.id).collect();
        let known: HashSet<PortId> = self.ports().keys().copied().collect();
        let failed =
            |error: Error| tracing::warn!(nic = self.nic, "the XDP program is not up to date: {error}");
        for port in known.difference(&wanted) {
            self.ports.write().unwrap_or_else(PoisonError::into_inner).remove(port);
            let (dynamic, static_macs) = fdb.retire(*port);
            let dynamic = dynamic.iter().map(|address| self.tables.remove_dynamic(address));
            let static_macs = static_macs.iter().map(|mac| self.tables.remove_static(*mac));
            dynamic.chain(static_macs).filter_map(Result::err).for_each(failed);
        }
        for port in ports.iter().filter(|port| !known.contains(&port.id)) {
            self.add(port, &mut fdb).unwrap_or_else(failed);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn add(&self, port: &BridgePort, fdb: &mut Fdb) -> Result<(), Error> {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).insert(port.id, *port);
        for mac in port.static_macs {
            if fdb.add_static(mac, port.id) {
                self.tables.insert_static(mac, &entry(port))?;
            } else {
                tracing::warn!(nic = self.nic, "{mac} is not steered to {}", self.name(port.id));
            }
        }
        Ok(())
    }

    /// The NIC's own address is `mac` from now on.
    pub fn set_nic_mac(&self, mac: Mac) {
        let mut fdb = self.lock();
        self.tables.shared.nic_mac.store(mac_word(mac), Ordering::Relaxed);
        for (address, is_static) in fdb.set_nic(mac) {
            tracing::warn!(nic = self.nic, "{mac}, which a router used, is the NIC's own address now");
            let removed = match is_static {
                true => self.tables.remove_static(address.mac),
                false => self.tables.remove_dynamic(&address),
            };
            if let Err(error) = removed {
                tracing::warn!(nic = self.nic, "{mac} stays in the XDP program's tables: {error}");
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The host has these addresses on the LAN from now on, on whatever interface.
    pub fn set_host(&self, addresses: BTreeSet<Mac>) {
        let mut fdb = self.lock();
        let gone = fdb.set_host(addresses);
        for address in &gone {
            let Self { nic, tables, .. } = self;
            tracing::warn!(nic, "{}, which a router used, is this host's own address now", address.mac);
            if let Err(error) = tables.remove_dynamic(address) {
                tracing::warn!(nic, "{} stays in the XDP program's tables: {error}", address.mac);
            }
        }
        if !gone.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// The router's interface at `port`, as users write it.
    pub fn name(&self, port: PortId) -> String {
        let endpoint = self.ports().get(&port).and_then(|port| port.header.destination());
        endpoint.map_or_else(|| format!("port {}", port.get()), |endpoint| endpoint.to_string())
    }

    /// Whether a frame from `port` whose source was refused like this is dropped: its source is the host's address or
    /// another router's. Interfaces of one router, and what is behind them, may share addresses.
    pub fn is_spoofed(&self, refusal: Refusal, port: PortId) -> bool {
        let router = |port: PortId| self.ports().get(&port).map(|port| port.router);
        match refusal {
            Refusal::Nic | Refusal::Host => true,
            Refusal::Static(owner) => router(owner) != router(port),
            _ => false,
        }
    }

    /// Changes whenever an answer of [`lookup`](Self::lookup) may have.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The port that `address` is behind, if any.
    pub fn lookup(&self, address: &Address) -> Option<PortId> {
        self.lock().lookup(address)
    }

    /// `frame` came at `now` (`CLOCK_MONOTONIC`, ns) and goes to several routers.
    pub fn heard(&self, frame: &[u8], now: u64) {
        self.echoes.heard(frame, now);
    }

    /// `frame`, with the source `address`, came from `port` at `now` (`CLOCK_MONOTONIC`, ns). When this returns, frames to
    /// the address are steered.
    pub fn learn(&self, address: Address, port: PortId, frame: &[u8], now: u64) -> Learned {
        let mut fdb = self.lock();
        // Missing where a worker does not yet know of a change of the NETMAP.
        let Some(to) = self.ports().get(&port).copied() else {
            return Learned::Refused(Refusal::Retired);
        };
        if let Some(why) = fdb.forbidden(&address, port) {
            return Learned::Refused(why);
        }
        // No other port can have its static address, so that a repeated frame proves it as well.
        let known = fdb.lookup(&address) == Some(port) || fdb.is_own(&address, port);
        if !known && self.echoes.is_echo(frame, now) {
            return Learned::Refused(Refusal::Echo);
        }
        let learned = fdb.learn(address, port, Duration::from_nanos(now));
        let evicted = match learned {
            Learned::New { evicted } | Learned::Moved { evicted, .. } => evicted,
            Learned::Known | Learned::Refused(_) => return learned,
        };
        let written = evicted
            .map_or(Ok(()), |old| self.tables.remove_dynamic(&old))
            .and_then(|()| self.tables.insert_dynamic(&address, &entry(&to)));
        if let Err(error) = written {
            tracing::warn!(nic = self.nic, "{} cannot be steered: {error}", address.mac);
        }
        self.generation.fetch_add(1, Ordering::Release);
        learned
    }

    /// `address` sent from the wire at `now` (`CLOCK_MONOTONIC`); the XDP program has removed its entry. Returns the port
    /// that it was behind.
    pub fn moved_to_wire(&self, address: Address, is_static: bool, now: Duration) -> Option<PortId> {
        let mut fdb = self.lock();
        if !is_static && self.tables.has_dynamic(&address) {
            return None; // outdated: a router has used the address since
        }
        let port = fdb.moved_to_wire(address, is_static, now);
        self.generation.fetch_add(1, Ordering::Release);
        port
    }

    /// Compares the database with the XDP program's maps, after reports of moves were dropped: what is missing there has
    /// moved to the wire. Returns how many addresses that were.
    pub fn resync(&self, now: Duration) -> usize {
        let mut fdb = self.lock();
        let missing: Vec<(Address, bool)> = fdb
            .entries()
            .into_iter()
            .filter(|(address, is_static)| match is_static {
                true => !self.tables.has_static(address.mac),
                false => !self.tables.has_dynamic(address),
            })
            .collect();
        for (address, is_static) in &missing {
            fdb.moved_to_wire(*address, *is_static, now);
        }
        self.generation.fetch_add(1, Ordering::Release);
        missing.len()
    }

    /// A BPDU from `port` goes to the wire: logged once.
    pub fn warn_of_spanning_tree(&self, port: PortId) {
        if !self.warned_of_spanning_tree.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                nic = self.nic,
                "{} speaks spanning tree, and so to the wire: a switch with BPDU guard will take this server's port \
                 down. Keep it inside with --block stp, or every switch's talk with --block all",
                self.name(port)
            );
        }
    }

    /// Whether a move at `now` (`CLOCK_MONOTONIC`, ns) may be logged; with it, what to add about the suppressed ones.
    pub fn may_report(&self, now: u64) -> Option<String> {
        let suppressed = self.moves.lock().unwrap_or_else(PoisonError::into_inner).ask(now)?;
        Some(if suppressed == 0 { String::new() } else { format!(" (and {suppressed} moves before it)") })
    }

    /// Tells the XDP program what to do with frames for `router`.
    pub fn set_router_state(&self, router: RouterId, state: RouterState) {
        if let Some(byte) = self.tables.shared.router_state.get(router.index()) {
            byte.store(state as u8, Ordering::Relaxed);
        }
    }

    fn ports(&self) -> RwLockReadGuard<'_, HashMap<PortId, BridgePort>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Fdb> {
        // A database is consistent between its methods; a panic elsewhere does not change that.
        self.fdb.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `port` as the XDP program's maps have it.
fn entry(port: &BridgePort) -> PortEntry {
    let BridgePort { id, router, worker, header, .. } = *port;
    PortEntry { header, router: router.get() as u16, worker: worker as u16, port: id.get() }
}

/// Why an address was not learned, for the log.
#[must_use]
pub fn explain(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotUnicast => "it is not a unicast address",
        Refusal::Nic => "it is the NIC's own address",
        Refusal::Host => "it is this host's own address on the NIC's LAN",
        Refusal::Static(_) => "it is the address of another router's interface",
        Refusal::Echo => "its frame came from the wire before: is there a loop behind this port?",
        Refusal::Retired => "the NETMAP no longer has its interface",
        Refusal::RateLimited => "too many new addresses at once behind this port",
        Refusal::Flapping => "it moves back and forth: is there a loop?",
    }
}
