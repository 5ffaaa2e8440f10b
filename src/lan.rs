//! A LAN at run time: its forwarding database, in user space and in the XDP program's maps at once.
//!
//! Learning is rare and takes a lock; forwarding asks a worker's own memory of the last answers, which is good
//! until `generation` changes.

use crate::ether::Address;
use crate::ether::Mac;
use crate::fdb::{Echoes, Fdb, Learned, Port, Refusal};
use crate::plan::Plan;
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
    entries: RwLock<HashMap<Port, PortEntry>>,
    fdb: Mutex<Fdb>,
    echoes: Echoes,
    generation: AtomicU64,
    moves: Mutex<RateLimiter>,
    warned_of_spanning_tree: AtomicBool,
}

impl Lan {
    /// LAN `index` of `plan`, its MAC patterns entered.
    ///
    /// # Errors
    /// If a BPF map cannot be written.
    pub fn new(plan: &Plan, index: usize, mac: Mac, tables: Arc<Tables>) -> Result<Self, Error> {
        let planned = &plan.lans[index];
        let lan = Self {
            nic: planned.nic.clone(),
            tables,
            up: AtomicBool::new(false),
            mtu: AtomicU32::new(0),
            entries: RwLock::default(),
            fdb: Mutex::new(Fdb::new(mac, planned.ports.len())),
            echoes: Echoes::default(),
            generation: AtomicU64::new(0),
            moves: Mutex::default(),
            warned_of_spanning_tree: AtomicBool::new(false),
        };
        let mut fdb = lan.lock();
        for port in &planned.ports {
            lan.add(plan, *port as Port, &mut fdb)?;
        }
        drop(fdb);
        Ok(lan)
    }

    /// The LAN is number `index` of `plan` from now on, which follows the plan before: ports that it has no more go with
    /// all stations behind them, new ones come with their MAC patterns, the others stay as they are.
    pub fn follow(&self, plan: &Plan, index: usize) {
        let ports: HashSet<Port> = plan.lans[index].ports.iter().map(|port| *port as Port).collect();
        let mut fdb = self.lock();
        fdb.set_ports(ports.len());
        let known: HashSet<Port> = self.entries().keys().copied().collect();
        let failed =
            |error: Error| tracing::warn!("{}: the XDP program is not up to date: {error}", self.nic);
        for port in known.difference(&ports) {
            self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(port);
            let (stations, patterns) = fdb.retire(*port);
            let learned = stations.iter().map(|station| self.tables.remove_dynamic(station));
            let is_static = patterns.iter().map(|mac| self.tables.remove_static(*mac));
            learned.chain(is_static).filter_map(Result::err).for_each(failed);
        }
        for port in ports.difference(&known) {
            self.add(plan, *port, &mut fdb).unwrap_or_else(failed);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn add(&self, plan: &Plan, port: Port, fdb: &mut Fdb) -> Result<(), Error> {
        let entry = plan.entry(port);
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(port, entry);
        for pattern in plan.static_addresses(port as usize) {
            if fdb.add_static(pattern, port) {
                self.tables.insert_static(pattern, &entry)?;
            } else {
                let endpoint = plan.ports[port as usize].endpoint;
                tracing::warn!("{}: {pattern} is not steered to {endpoint}", self.nic);
            }
        }
        Ok(())
    }

    /// The NIC's own address is `mac` from now on.
    pub fn set_nic_mac(&self, mac: Mac) {
        let mut fdb = self.lock();
        self.tables.shared.nic_mac.store(mac_word(mac), Ordering::Relaxed);
        for (station, is_static) in fdb.set_nic(mac) {
            tracing::warn!("{}: {mac}, which a router used, is its own address now", self.nic);
            let removed = match is_static {
                true => self.tables.remove_static(station.mac),
                false => self.tables.remove_dynamic(&station),
            };
            if let Err(error) = removed {
                tracing::warn!("{}: {mac} cannot be taken out of its tables: {error}", self.nic);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The host has these addresses on the LAN from now on, by whatever interface.
    pub fn set_host(&self, addresses: BTreeSet<Mac>) {
        let mut fdb = self.lock();
        let gone = fdb.set_host(addresses);
        for station in &gone {
            let Self { nic, tables, .. } = self;
            tracing::warn!("{nic}: {}, which a router used, is this host's own address now", station.mac);
            if let Err(error) = tables.remove_dynamic(station) {
                tracing::warn!("{nic}: {} cannot be taken out of its tables: {error}", station.mac);
            }
        }
        if !gone.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// The router's interface at `port`, as users write it.
    pub fn name(&self, port: Port) -> String {
        let endpoint = self.entries().get(&port).and_then(|entry| entry.header.destination());
        endpoint.map_or_else(|| format!("port {port}"), |endpoint| endpoint.to_string())
    }

    /// Whether a frame from `port` whose source was refused like this goes nowhere: it speaks as the host or as another
    /// router. That a router's own interfaces, and what is behind them, may share addresses is its own affair.
    pub fn is_spoofed(&self, refusal: Refusal, port: Port) -> bool {
        let router = |port: Port| self.entries().get(&port).map(|entry| entry.router);
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

    /// The port that `station` is behind.
    pub fn lookup(&self, station: &Address) -> Option<Port> {
        self.lock().lookup(station)
    }

    /// `frame` came at `now` (`CLOCK_MONOTONIC`, ns) and goes to several routers.
    pub fn heard(&self, frame: &[u8], now: u64) {
        self.echoes.heard(frame, now);
    }

    /// `station` spoke from `port` by `frame` at `now` (`CLOCK_MONOTONIC`, ns). When this returns, frames to it are
    /// steered.
    pub fn learn(&self, station: Address, port: Port, frame: &[u8], now: u64) -> Learned {
        let mut fdb = self.lock();
        // A worker that has not yet heard of a change of the NETMAP.
        let Some(entry) = self.entries().get(&port).copied() else {
            return Learned::Refused(Refusal::Retired);
        };
        if let Some(why) = fdb.forbidden(&station, port) {
            return Learned::Refused(why);
        }
        // Of its own address by pattern nobody else can be meant, also if it says the same as a moment ago.
        let known = fdb.lookup(&station) == Some(port) || fdb.is_own(&station, port);
        if !known && self.echoes.is_echo(frame, now) {
            return Learned::Refused(Refusal::Echo);
        }
        let learned = fdb.learn(station, port, Duration::from_nanos(now));
        let evicted = match learned {
            Learned::New { evicted } | Learned::Moved { evicted, .. } => evicted,
            Learned::Known | Learned::Refused(_) => return learned,
        };
        let written = evicted
            .map_or(Ok(()), |old| self.tables.remove_dynamic(&old))
            .and_then(|()| self.tables.insert_dynamic(&station, &entry));
        if let Err(error) = written {
            tracing::warn!("{}: {} cannot be steered: {error}", self.nic, station.mac);
        }
        self.generation.fetch_add(1, Ordering::Release);
        learned
    }

    /// `station` spoke from the wire at `now` (`CLOCK_MONOTONIC`); the XDP program has taken its entry out. Returns the
    /// port it was behind.
    pub fn moved_to_wire(&self, station: Address, is_static: bool, now: Duration) -> Option<Port> {
        let mut fdb = self.lock();
        if !is_static && self.tables.has_dynamic(&station) {
            return None; // old news: a router has spoken from there since
        }
        let port = fdb.moved_to_wire(station, is_static, now);
        self.generation.fetch_add(1, Ordering::Release);
        port
    }

    /// Compares the database with the XDP program's maps, after news of moves were lost: what is missing there has
    /// moved to the wire. Returns how many stations that were.
    pub fn resync(&self, now: Duration) -> usize {
        let mut fdb = self.lock();
        let missing: Vec<(Address, bool)> = fdb
            .entries()
            .into_iter()
            .filter(|(station, is_static)| match is_static {
                true => !self.tables.has_predicted(station.mac),
                false => !self.tables.has_dynamic(station),
            })
            .collect();
        for (station, is_static) in &missing {
            fdb.moved_to_wire(*station, *is_static, now);
        }
        self.generation.fetch_add(1, Ordering::Release);
        missing.len()
    }

    /// A BPDU from `port` goes to the wire: said once.
    pub fn warn_of_spanning_tree(&self, port: Port) {
        if !self.warned_of_spanning_tree.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: {} speaks spanning tree, and so to the wire: a switch with BPDU guard will take this server's port \
                 down. Keep it inside with --block stp, or every switch's talk with --block all",
                self.nic,
                self.name(port)
            );
        }
    }

    /// Whether a station's move at `now` (`CLOCK_MONOTONIC`, ns) may be logged; with it, what to say of those that were
    /// not.
    pub fn may_report(&self, now: u64) -> Option<String> {
        let suppressed = self.moves.lock().unwrap_or_else(PoisonError::into_inner).ask(now)?;
        Some(if suppressed == 0 {
            String::new()
        } else {
            format!(" (and {suppressed} moves of stations before it)")
        })
    }

    /// Tells the XDP program what to do with frames for `router`.
    pub fn set_router_state(&self, router: usize, state: RouterState) {
        if let Some(byte) = self.tables.shared.router_state.get(router) {
            byte.store(state as u8, Ordering::Relaxed);
        }
    }

    fn entries(&self) -> RwLockReadGuard<'_, HashMap<Port, PortEntry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Fdb> {
        // A database is consistent between its methods; a panic elsewhere does not change that.
        self.fdb.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a station was not learned, for the log.
#[must_use]
pub fn explain(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoStation => "it is no station address",
        Refusal::Nic => "it is the NIC's own address",
        Refusal::Host => "it is this host's own address on the NIC's LAN",
        Refusal::Static(_) => "it is the address of another router's interface",
        Refusal::Echo => "its frame came from the wire before: is there a loop behind this port?",
        Refusal::Retired => "the NETMAP has its interface no more",
        Refusal::TooMany => "too many new addresses at once behind this port",
        Refusal::Unsteady => "it moves back and forth: is there a loop?",
    }
}
