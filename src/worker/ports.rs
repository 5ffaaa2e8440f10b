//! The ports of a LAN, as destinations.

use crate::ids::{PortId, RouterId, SegmentId};
use crate::iou::header;
use crate::plan::Plan;

/// A router's interface, as a destination of frames for many and of those to unknown addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct FloodPort {
    /// Index in the plan.
    pub(super) port: PortId,
    /// The router.
    pub(super) router: usize,
    /// The header in front of what the router gets there.
    pub(super) header: [u8; header::LEN],
}

impl FloodPort {
    fn new(plan: &Plan, port: PortId) -> Self {
        Self { port, router: plan.ports[port].router.index(), header: plan.ports[port].to_router.0 }
    }
}

/// The ports of a LAN, as a worker sees them.
#[derive(Debug)]
pub(super) struct LanPorts {
    /// All of them.
    pub(super) all: Vec<FloodPort>,
    /// Where among them the one is that gets unicast to unknown addresses.
    pub(super) flood: Option<usize>,
    /// Those whose router is this worker's.
    pub(super) own: Vec<FloodPort>,
    /// The one of those that gets unicast to unknown addresses.
    pub(super) own_flood: Option<FloodPort>,
}

impl LanPorts {
    pub(super) fn new(plan: &Plan, lan: SegmentId, worker: usize) -> Self {
        let planned = &plan.lans[lan];
        let all: Vec<FloodPort> = planned.ports.iter().map(|port| FloodPort::new(plan, *port)).collect();
        let flood = planned.flood.and_then(|flood| all.iter().position(|port| port.port == flood));
        let own = |port: &&FloodPort| plan.routers[RouterId::new(port.router as u32)].worker == worker;
        Self {
            flood,
            own: all.iter().filter(own).copied().collect(),
            own_flood: flood.map(|at| all[at]).filter(|port| own(&port)),
            all,
        }
    }
}
