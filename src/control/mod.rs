//! The control thread: brings everything up, looks after it, takes it down.
//!
//! Frames do not come by here. It connects routers as they come and go ([`routers`]), keeps our own sockets in their
//! directories ([`pseudos`]), follows the NETMAP ([`netmap`]) and the state of the NICs, and carries news from the
//! XDP programs into the forwarding databases.

mod keepalives;
pub mod labs;
mod netmap;
mod nics;
mod notify;
mod pseudos;
mod routers;
mod sizes;
mod sources;

use crate::ether::control_frames::Blocked;
use crate::fdb::Port;
use crate::guard::Guard;
use crate::lan::Lan;
use crate::nic;
use crate::nic::attach::XdpModeChoice;
use crate::nic::links::Links;
use crate::nic::watch::LinkWatch;
use crate::plan::Plan;
use crate::privileges::{self, Role};
use crate::stats::{Summary, WorkerCounts};
use crate::steer;
use crate::steer::layout::{Count, RouterState, read_moved};
use crate::worker::{
    self, Change, Command, CommandSender, Event, EventSender, NicPart, Poll, Pool, Setup, Worker,
    WorkerResult,
};
use af_xdp::{CopyMode, Umem};
use core_affinity::CoreId;
use crossbeam::channel;
use keepalives::Keepalives;
use labs::Prepared;
use netmap::Next;
use nics::{Around, ManagedNic};
pub use notify::Notify;
use pseudos::Pseudos;
use routers::Connections;
use rustix::net::RecvFlags;
use sources::{Source, Sources};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Declared last: it is let off when the NICs have been given back.
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

/// Who goes on without them would leave threads behind that use what is given back.
impl Drop for Running {
    fn drop(&mut self) {
        self.commands.send(Command::Stop);
        let _ = self.join();
    }
}

/// How often what no event tells of is looked at.
const SWEEP: Duration = Duration::from_secs(1);

impl Forwarder {
    /// Brings everything up: when this returns, frames flow.
    ///
    /// # Errors
    /// See [`Error`]. Nothing is left then.
    pub fn start(prepared: Prepared, options: &Options) -> Result<Self, Error> {
        nic::kernel::require_minimum()?;
        let cpus = check_cpus(&options.cpus)?;
        let Prepared { plan, directories, warnings, request, seen, left_alone } = prepared;
        let plan = Arc::new(plan);
        let name = request.name();
        let pseudos = Pseudos::new(&plan, pseudos::bind(&plan, None, &directories)?, &name);

        let mut nics = Vec::new();
        for index in 0..plan.lans.len() {
            nics.push(ManagedNic::take(&plan, index, options)?);
        }
        let watch = LinkWatch::new()?;
        let sizes: Vec<sizes::Sizes> = nics.iter().map(ManagedNic::sizes).collect();
        let chunks: usize = sizes.iter().map(|size| size.chunks).sum::<usize>() + nics::BACKLOG;
        let reserve = sizes.iter().map(|size| size.reserve).sum();
        let (umem, mut free) =
            Umem::new(chunks as u32).map_err(|error| Error::System("memory for frames", error))?;
        let umem = Arc::new(umem);
        let mut lans = Vec::new();
        let mut parts: Vec<Vec<NicPart>> = (0..plan.workers).map(|_| Vec::new()).collect();
        for (index, nic) in nics.iter_mut().enumerate() {
            let lan = nic.open(&plan, index, options, &umem, &mut free, &mut parts)?;
            lans.push(lan);
        }

        let pool = Arc::new(Pool::new(umem, free));
        let (send, events) = channel::unbounded();
        let wake = worker::eventfd().map_err(|error| Error::System("eventfd", error))?;
        let mut forwarder = Self {
            connections: Connections::new(&plan, directories, &name)
                .map_err(|error| Error::System("watching the netio directory", error))?,
            keepalives: Keepalives::new(&plan, options.netl1_dir.as_deref(), &name),
            plan: plan.clone(),
            pseudos,
            netmap: netmap::Watch::new(request, seen, warnings, left_alone),
            nics,
            lans,
            workers: Vec::new(),
            events,
            wake: wake.clone(),
            watch,
            sources: Sources::new().map_err(|error| Error::System("epoll", error))?,
            links_changed: true,
            pool: pool.clone(),
            started: Instant::now(),
            cpus,
            options: options.clone(),
            faults: [0; 2],
            last_check: Instant::now(),
            large: false,
            notify: None,
            guard: None,
        };
        // Before the workers: routers that have started already send at once, and a NIC not looked at counts as down.
        for (nic, lan) in forwarder.nics.iter_mut().zip(&forwarder.lans) {
            nic.first_look(lan);
        }
        forwarder.follow_addresses();
        for (index, nics) in parts.into_iter().enumerate() {
            let counts = Arc::new(WorkerCounts::default());
            let setup = Setup {
                index,
                plan: plan.clone(),
                poll: options.poll,
                blocked: options.blocked,
                nics,
                pseudos: forwarder
                    .pseudos
                    .of_worker(index)
                    .map_err(|error| Error::System("a pseudo socket", error))?,
                pool: pool.clone(),
                reserve,
                large: forwarder.large,
                counts: counts.clone(),
                events_to_control: EventSender { channel: send.clone(), wake: wake.clone() },
            };
            forwarder.start_worker(setup, counts)?;
        }
        forwarder.connections.connect_all(&commands(&forwarder.workers));
        forwarder.await_workers();
        for lan in &forwarder.lans {
            lan.tables.shared.live.store(1, Relaxed);
        }
        Ok(forwarder)
    }

    /// Looks after `guard` as well from now on, and lets it off at the end.
    pub fn guard(&mut self, guard: Option<Guard>) {
        self.guard = guard;
    }

    /// Tells the service manager what happens from now on.
    pub fn notify(&mut self, notify: Option<Notify>) {
        self.notify = notify;
    }

    /// What was connected and what was got, a line each.
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

    /// What each worker counts, for whoever wants to look on.
    #[must_use]
    pub fn worker_counts(&self) -> Vec<Arc<WorkerCounts>> {
        self.workers.iter().map(|worker| worker.counts.clone()).collect()
    }

    /// Looks after everything until something can be read from `stop`. What can be read from `again`, a socket, asks for
    /// the NETMAP to be read again.
    ///
    /// # Errors
    /// What `epoll_ctl` says; a worker that ended by itself.
    pub fn run(&mut self, stop: impl AsFd, again: impl AsFd) -> std::io::Result<()> {
        loop {
            self.tell();
            let notice = self.notify.as_ref().and_then(Notify::due_in);
            let due = [self.connections.next_retry(), self.pseudos.due_in(), self.netmap.due_in(), notice];
            let nics = self.nics.iter().filter_map(ManagedNic::next_step);
            let timeout =
                due.into_iter().flatten().chain(nics).fold(SWEEP, Duration::min).min(self.keepalives.due());
            let always = [
                (Source::Stop, stop.as_fd()),
                (Source::Links, self.watch.as_fd()),
                (Source::Workers, self.wake.as_fd()),
                (Source::Netmap, again.as_fd()),
            ];
            let moves = self.nics.iter().filter_map(ManagedNic::moves_fd).map(|fd| (Source::Moves, fd));
            let directories = self.connections.descriptors().chain(self.netmap.descriptor());
            let directories = directories.map(|fd| (Source::Directory, fd));
            let news = self.sources.wait(always.into_iter().chain(moves).chain(directories), timeout)?;
            if news.contains(&Source::Stop) {
                return Ok(());
            }
            let changed = news.contains(&Source::Links) && self.watch.drain();
            self.links_changed |= changed;
            self.follow_links(changed);
            self.follow_moves();
            if news.contains(&Source::Netmap) {
                while rustix::net::recv(&again, &mut [0u8; 16], RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0)
                {
                }
                self.netmap.ask();
            }
            if let Some(next) = self.netmap.next() {
                self.follow_netmap(next);
            }
            self.keepalives.turn(&self.plan, &self.lans);
            let commands = commands(&self.workers);
            if news.contains(&Source::Workers) {
                worker::woken(&self.wake);
                while let Ok(report) = self.events.try_recv() {
                    match report {
                        Event::RouterGone { router, connection } => {
                            self.connections.gone(router, connection, &commands);
                        }
                        Event::Alive { worker, round } => {
                            self.notify.iter_mut().for_each(|notify| notify.alive(worker, round));
                        }
                    }
                }
            }
            let sweep = self.last_check.elapsed() >= SWEEP;
            let mut ours = false;
            if news.contains(&Source::Directory) {
                ours = self.connections.follow_directories(&commands);
                self.netmap.follow_directory();
            }
            // When files of ours went, the directory may have gone with them.
            let look = sweep || self.pseudos.due_in() == Some(Duration::ZERO);
            if ours | self.connections.follow_paths(look, &commands) {
                self.pseudos.look_soon();
            }
            self.connections.retry(sweep, &commands);
            self.pseudos.restore(sweep, &self.connections, &commands);
            let capacities = || self.nics.iter().map(ManagedNic::capacity).collect();
            self.netmap.read(&self.plan, || (self.connections.directories(), capacities()), &self.wake);
            if sweep {
                self.netmap.sweep(self.connections.directory(0));
                self.last_check = Instant::now();
                self.follow_links(true);
                self.follow_addresses();
                let moved: Vec<u64> = self.nics.iter().map(ManagedNic::moves).collect();
                self.follow_moves();
                let now = Duration::from_nanos(worker::monotonic());
                for ((nic, lan), moved) in self.nics.iter_mut().zip(&self.lans).zip(moved) {
                    nic.check_moves(moved, lan, now);
                }
                if self
                    .workers
                    .iter()
                    .any(|worker| worker.thread.as_ref().is_none_or(JoinHandle::is_finished))
                {
                    return Err(std::io::Error::other(
                        "a worker has ended by itself: its routers are cut off",
                    ));
                }
                self.report_faults();
                self.guard.iter_mut().for_each(Guard::look);
            }
        }
    }

    /// Ends everything and returns what happened.
    #[must_use]
    pub fn stop(mut self) -> Summary {
        self.notify.iter_mut().for_each(Notify::stopping);
        // From here on the XDP programs leave everything to the host.
        for lan in &self.lans {
            lan.tables.shared.live.store(0, Relaxed);
        }
        for nic in &self.nics {
            nic.settle();
        }
        let commands = commands(&self.workers);
        let around = Around { options: &self.options, pool: &self.pool, commands: &commands };
        for (index, (nic, lan)) in self.nics.iter_mut().zip(&self.lans).enumerate() {
            nic.last_look(index, lan, &around);
        }
        for worker in &self.workers {
            worker.commands.send(Command::Stop);
        }
        let mut summary = Summary::default();
        for mut worker in std::mem::take(&mut self.workers) {
            let joined = worker.join();
            summary.add_worker(&worker.counts);
            match joined {
                Some(remains) => {
                    summary.latency.to_routers.merge(&remains.latencies.to_routers);
                    summary.latency.to_nics.merge(&remains.latencies.to_nics);
                    for (statistics, faults) in remains.sockets {
                        summary.add_socket(&statistics, faults);
                    }
                }
                None => {
                    tracing::error!("a worker panicked: its frames and latencies are not in the summary")
                }
            }
        }
        for counts in self.nics.iter().filter_map(ManagedNic::counts) {
            summary.add_steering(&counts);
        }
        let umem = self.pool.umem();
        summary.chunks = (self.pool.len() + umem.lent(), umem.chunks());
        if !summary.accounting.balance() {
            tracing::error!("frames are unaccounted for, a fault of iou-fast: {}", summary.accounting);
        }
        tracing::debug!("ran for {:?}", self.started.elapsed());
        summary
    }

    /// Goes over to another plan: what is in both does not notice.
    fn follow_netmap(&mut self, next: Next) {
        let Next { plan, sockets, .. } = next;
        let (plan, before) = (Arc::new(plan), self.plan.clone());
        let mut given: Vec<Vec<(usize, OwnedFd)>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (number, socket) in &sockets {
            match socket.fd.try_clone() {
                Ok(descriptor) => given[plan.pseudos[*number].worker].push((*number, descriptor)),
                Err(error) => return self.netmap.not_followed("a pseudo socket", &error),
            }
        }
        // First the files of ids that are no longer ours: nobody is to send there any more.
        self.pseudos.follow(&plan, sockets);
        // A router that comes to a LAN has no socket until its worker says so.
        for (lan, router) in on_lans(&plan).difference(&on_lans(&before)) {
            self.lans[*lan].set_router_state(*router, RouterState::Down);
        }
        for (index, (lan, nic)) in self.lans.iter().zip(&self.nics).enumerate() {
            lan.follow(&plan, index);
            nic.share(&plan, index);
        }
        for ((index, worker), sockets) in self.workers.iter().enumerate().zip(given) {
            worker.commands.send(Command::Plan(Box::new(Change::new(&plan, index, sockets))));
        }
        self.connections.follow_plan(&plan);
        self.connections.connect_all(&commands(&self.workers));
        self.plan = plan;
        // Before numbers that are free now may be given to others.
        self.await_workers();
    }

    /// Waits until every worker has carried out its commands. Only then are the routers that are there connected: to
    /// the XDP program they are down before, and who reads "ready" would lose frames.
    fn await_workers(&self) {
        let (answer, answers) = channel::unbounded();
        for worker in &self.workers {
            worker.commands.send(Command::Answer(answer.clone()));
        }
        drop(answer);
        // Ends when all have answered, or ended without.
        while answers.recv().is_ok() {}
    }

    /// Tells the service manager, if there is one, what is different.
    fn tell(&mut self) {
        let Some(mut notify) = self.notify.take() else { return };
        notify.turn(self.netmap.is_reloading(), || self.status(), &commands(&self.workers));
        self.notify = Some(notify);
    }

    /// Routers and NICs that are up, and what came of the last reload.
    fn status(&self) -> String {
        let (connected, routers) = self.connections.count();
        let mut status = format!("{connected} of {routers} routers up");
        let conditions: Vec<_> = self.nics.iter().map(ManagedNic::condition).collect();
        let not_up: Vec<String> =
            conditions.iter().filter_map(|(nic, what)| Some(format!("{nic} {}", (*what)?))).collect();
        status += &format!(", {} of {} NICs up", conditions.len() - not_up.len(), conditions.len());
        if !not_up.is_empty() {
            status += &format!(" ({})", not_up.join(", "));
        }
        if let Some(result) = self.netmap.result() {
            status += &format!(". {result}");
        }
        status
    }

    fn start_worker(&mut self, setup: Setup, counts: Arc<WorkerCounts>) -> Result<(), Error> {
        let index = setup.index;
        let cpu = self.cpus.get(index).copied();
        let (worker, commands) = Worker::new(setup).map_err(|error| Error::System("a worker", error))?;
        let thread = std::thread::Builder::new()
            .name(format!("worker {index}"))
            .spawn(move || {
                if let Some(id) = cpu
                    && !core_affinity::set_for_current(CoreId { id })
                {
                    tracing::warn!("worker {index} cannot be pinned to CPU {id}");
                }
                if let Err(error) = privileges::confine(Role::Worker) {
                    tracing::error!("worker {index}: {error}");
                    crate::output::finish();
                    std::process::exit(1);
                }
                worker.run()
            })
            .map_err(|error| Error::System("a worker's thread", error))?;
        self.workers.push(Running { thread: Some(thread), commands, counts });
        Ok(())
    }

    /// Looks after every NIC; only after those that wait for something, unless `all`.
    fn follow_links(&mut self, all: bool) {
        let commands: Vec<&CommandSender> = self.workers.iter().map(|worker| &worker.commands).collect();
        let around = Around { options: &self.options, pool: &self.pool, commands: &commands };
        for (index, (nic, lan)) in self.nics.iter_mut().zip(&self.lans).enumerate() {
            if all || nic.next_step().is_some() {
                nic.follow(index, lan, &around);
            }
        }
        if !self.large && self.nics.iter().any(ManagedNic::has_large_frames) {
            self.large = true;
            self.workers.iter().for_each(|worker| worker.commands.send(Command::Large));
        }
    }

    /// Tells the LANs the host's own addresses, if interfaces have changed. Once a second at most, for they may be thousands.
    fn follow_addresses(&mut self) {
        if !self.links_changed {
            return;
        }
        match Links::read() {
            Ok(links) => {
                let nics = self.nics.iter().zip(&self.lans);
                // Every NIC is told, whichever is away.
                let away = nics.filter(|(nic, lan)| !nic.follow_addresses(&links, lan)).count();
                self.links_changed = away > 0;
            }
            // They are read again in a second.
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Stations that now speak from the wire are no longer behind a router.
    fn follow_moves(&mut self) {
        let now = Duration::from_nanos(worker::monotonic());
        let plan = &self.plan;
        for (nic, lan) in self.nics.iter_mut().zip(&self.lans) {
            nic.read_moves(|record| {
                let Some((station, is_static)) = read_moved(record) else { return };
                let port = lan.moved_to_wire(station, is_static, now);
                let name = |port: Port| plan.ports[port as usize].endpoint;
                let Some(endpoint) = port.map(name) else { return };
                let Some(more) = lan.may_report(now.as_nanos() as u64) else { return };
                if is_static {
                    tracing::warn!(
                        "{}: {}, the address of {endpoint}, also speaks from the wire: two stations with one address, \
                         or does something send frames back?{more}",
                        lan.nic,
                        station.mac
                    );
                } else {
                    tracing::info!("{}: {} moved from {endpoint} to the wire{more}", lan.nic, station.mac);
                }
            });
        }
    }

    /// What must not happen is reported, once a second at most.
    fn report_faults(&mut self) {
        let [mut surplus, mut no_ring] = [0, 0];
        for counts in self.nics.iter().filter_map(ManagedNic::counts) {
            surplus += counts[Count::CopyRingFull as usize];
            no_ring += counts[Count::NoRing as usize];
        }
        let [surplus_before, no_ring_before] = std::mem::replace(&mut self.faults, [surplus, no_ring]);
        if surplus > surplus_before {
            tracing::warn!(
                "{} copies of frames for many routers were dropped: a broadcast storm? What is for the host is not among them",
                surplus - surplus_before
            );
        }
        if no_ring > no_ring_before {
            tracing::warn!(
                "{} frames found no AF_XDP ring: did the number of queues change?",
                no_ring - no_ring_before
            );
        }
    }
}

fn commands(workers: &[Running]) -> Vec<&CommandSender> {
    workers.iter().map(|worker| &worker.commands).collect()
}

/// Which routers are on which LAN: LAN, router.
fn on_lans(plan: &Plan) -> HashSet<(usize, usize)> {
    let ports = |(lan, planned): (usize, &crate::plan::Lan)| {
        planned.ports.iter().map(move |port| (lan, *port)).collect::<Vec<_>>()
    };
    let ports = plan.lans.iter().enumerate().flat_map(ports);
    ports.map(|(lan, port)| (lan, plan.ports[port].router)).collect()
}

fn check_cpus(wanted: &[usize]) -> Result<Vec<usize>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    match wanted.iter().find(|cpu| !allowed.contains(cpu)) {
        None => Ok(wanted.to_vec()),
        Some(cpu) => {
            let list: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            Err(Error::Cpu { cpu: *cpu, allowed: list.join(",") })
        }
    }
}

/// A router that is not connected is down for the XDP programs, too.
fn all_down(plan: &Plan, lan: &Lan, index: usize) {
    for port in &plan.lans[index].ports {
        lan.set_router_state(plan.ports[*port].router, RouterState::Down);
    }
}
