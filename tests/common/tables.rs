//! What a running `iou-fast` and its XDP program share, seen from outside: root may open any BPF map. To look, and to
//! bring about what they never would.

use iou_fast::steer::layout::{Count, RouterState};
use iou_fast::sys::shared::{Shared, SteerShared};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use testbed::Process;

/// The tables of its first NIC.
pub struct Tables {
    /// The value that both change.
    pub shared: Shared<SteerShared>,
    counters: MapHandle,
    rings: MapHandle,
}

impl Tables {
    /// Those of `process`.
    pub fn of(process: &Process) -> Self {
        let mut maps = Vec::new();
        for descriptor in std::fs::read_dir(format!("/proc/{}/fdinfo", process.pid())).unwrap() {
            // One that it has closed meanwhile.
            let Ok(text) = std::fs::read_to_string(descriptor.unwrap().path()) else { continue };
            let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok());
            maps.extend(id.map(|id| MapHandle::from_map_id(id).unwrap()));
        }
        let mut take = |name: &str| {
            let at = maps.iter().position(|map| map.name() == name);
            maps.swap_remove(at.unwrap_or_else(|| panic!("iou-fast has no map {name}")))
        };
        let shared = Shared::map(take("shared_map").as_fd()).unwrap();
        Self { shared, counters: take("counters_map"), rings: take("rings") }
    }

    /// What the XDP program has counted so far.
    pub fn count(&self, which: Count) -> u64 {
        let cpus = self.counters.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
        let at = 8 * which as usize;
        cpus.iter().map(|cpu| u64::from_ne_bytes(cpu[at..at + 8].try_into().unwrap())).sum()
    }

    /// Whether frames for the router in the NETMAP's line `line`, from 0 on, are dropped because its backlog is at its
    /// bound.
    pub fn is_paused(&self, line: usize) -> bool {
        self.shared.router_state[line].load(Relaxed) == RouterState::Paused as u8
    }

    /// Takes the socket of the first worker on the first queue away from the XDP program.
    pub fn remove_ring(&self) {
        self.rings.delete(&0u32.to_ne_bytes()).unwrap();
    }
}
