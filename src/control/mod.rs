//! The control thread: brings everything up, looks after it, takes it down.
//!
//! Frames do not come by here. It connects routers as they come and go ([`routers`]), keeps our own sockets in their
//! directories ([`pseudos`]), follows the NETMAP ([`netmap`]) and the state of the NICs ([`nics`]), and carries events of
//! the XDP programs into the forwarding databases. [`start`], [`run`] and [`stop`] are its life.

mod keepalives;
pub mod labs;
mod netmap;
mod nics;
mod notify;
mod pseudos;
mod routers;
mod run;
mod sizes;
mod sources;
mod start;
mod stop;

use crate::ether::control_frames::Blocked;
use crate::guard::Guard;
use crate::lan::Lan;
use crate::nic;
use crate::nic::attach::XdpModeChoice;
use crate::nic::watch::LinkWatch;
use crate::plan::Plan;
use crate::stats::WorkerCounts;
use crate::steer;
use crate::worker::{Command, CommandSender, Event, Poll, Pool, WorkerResult};
use af_xdp::CopyMode;
use crossbeam::channel;
use keepalives::Keepalives;
use nics::ManagedNic;
pub use notify::Notify;
use pseudos::Pseudos;
use routers::Connections;
use sources::Sources;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// How the forwarder is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// One worker for each of these CPUs, pinned; none: one worker, not pinned.
    pub cpus: Vec<usize>,
    /// Where the XDP program runs.
    pub xdp_mode: XdpModeChoice,
    /// Whether NICs write into our memory.
    pub copy_mode: CopyMode,
    /// What an idle worker does.
    pub poll: Poll,
    /// The host does not use the NICs.
    pub exclusive: bool,
    /// Control frames from routers that are kept off the wire.
    pub blocked: Blocked,
    /// Where locks and former settings are kept.
    pub state_dir: PathBuf,
    /// Where the routers' L1 keepalives go, if not beside the netio directory.
    pub netl1_dir: Option<PathBuf>,
}

/// Why the forwarder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CPU cannot be had.
    #[error("CPU {cpu} does not exist here or is not allowed; allowed are {allowed}")]
    Cpu {
        /// The CPU.
        cpu: usize,
        /// Those that may be used.
        allowed: String,
    },
    /// A NIC.
    #[error(transparent)]
    Nic(#[from] nic::Error),
    /// The XDP program.
    #[error("{nic}: {source}")]
    Steer {
        /// The NIC.
        nic: String,
        /// What is wrong.
        source: steer::Error,
    },
    /// AF_XDP sockets.
    #[error("{nic}: {source}")]
    AfXdp {
        /// The NIC.
        nic: String,
        /// What is wrong.
        source: af_xdp::Error,
    },
    /// A NIC has more queues than can be served.
    #[error(
        "{nic} has {queues} queues now, for which no memory was taken: start iou-fast again, or `ethtool -L` fewer"
    )]
    Queues {
        /// The NIC.
        nic: String,
        /// How many it has.
        queues: usize,
    },
    /// Pseudo sockets.
    #[error(transparent)]
    Socket(#[from] crate::iou::socket::Error),
    /// Anything else, with what was being done.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

/// A running forwarder.
pub struct Forwarder {
    /// Declared first: they end before what they use is given back, also where a start fails half-way.
    workers: Vec<Running>,
    options: Options,
    plan: Arc<Plan>,
    pseudos: Pseudos,
    netmap: netmap::Watch,
    nics: Vec<ManagedNic>,
    lans: Vec<Arc<Lan>>,
    connections: Connections,
    keepalives: Keepalives,
    events: channel::Receiver<Event>,
    wake: Arc<OwnedFd>,
    watch: LinkWatch,
    sources: Sources,
    /// Interfaces have changed since the host's addresses were read.
    links_changed: bool,
    pool: Arc<Pool>,
    started: Instant,
    cpus: Vec<usize>,
    faults: [u64; 2],
    last_check: Instant,
    /// Workers read datagrams of several chunks.
    large: bool,
    notify: Option<Notify>,
    /// Declared last: it is dismissed when the NICs have been given back.
    guard: Option<Guard>,
}

struct Running {
    /// `None` once it was waited for.
    thread: Option<JoinHandle<WorkerResult>>,
    commands: CommandSender,
    counts: Arc<WorkerCounts>,
}

impl Running {
    /// Waits for its end, which it was told. `None` if it panicked.
    fn join(&mut self) -> Option<WorkerResult> {
        self.thread.take()?.join().ok()
    }
}

/// Threads that went on would use what is given back.
impl Drop for Running {
    fn drop(&mut self) {
        self.commands.send(Command::Stop);
        let _ = self.join();
    }
}

impl Forwarder {
    /// Looks after `guard` as well from now on, and dismisses it at the end.
    pub fn guard(&mut self, guard: Option<Guard>) {
        self.guard = guard;
    }

    /// Tells the service manager what happens from now on.
    pub fn notify(&mut self, notify: Option<Notify>) {
        self.notify = notify;
    }

    /// The routers that are connected, and how the NICs are used, a line each.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let plan = &self.plan;
        let mut lines = Vec::new();
        for port in plan.ports.iter().filter(|port| port.live) {
            let link = &plan.links[port.link];
            let nic = &plan.lans[link.lan].nic;
            let mac = crate::iou::mac::current(port.endpoint);
            lines.push(format!("{nic}: router {} via {}, MAC {mac}", port.endpoint, link.endpoint));
        }
        let mut workers = match self.cpus.as_slice() {
            [] => "1 worker, not pinned".to_string(),
            [cpu] => format!("1 worker on CPU {cpu}"),
            cpus => {
                let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
                format!("{} workers on CPUs {}", cpus.len(), list.join(","))
            }
        };
        if self.options.poll == Poll::Busy {
            workers.push_str(", polls busily");
        }
        lines.extend(self.nics.iter().map(|nic| nic.describe(&workers)));
        lines
    }

    /// What each worker counts, for a benchmark to read meanwhile.
    #[must_use]
    pub fn worker_counts(&self) -> Vec<Arc<WorkerCounts>> {
        self.workers.iter().map(|worker| worker.counts.clone()).collect()
    }
}

fn commands(workers: &[Running]) -> Vec<&CommandSender> {
    workers.iter().map(|worker| &worker.commands).collect()
}
