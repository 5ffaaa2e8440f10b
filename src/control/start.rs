//! Start-up: everything is taken and brought up, or given back.

use super::keepalives::Keepalives;
use super::labs::Prepared;
use super::nics::{self, ManagedNic};
use super::pseudos::{self, Pseudos};
use super::routers::Connections;
use super::sources::Sources;
use super::{Error, Forwarder, Options, Running, commands, netmap, sizes};
use crate::nic;
use crate::nic::watch::LinkWatch;
use crate::privileges::{self, Role};
use crate::stats::WorkerCounts;
use crate::worker::{self, Command, EventSender, NicPart, Pool, Setup, Worker};
use af_xdp::Umem;
use core_affinity::CoreId;
use crossbeam::channel;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

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

    /// Starts a worker's thread.
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

    /// Waits until every worker has carried out its commands. Only then are the routers that are there connected: to
    /// the XDP program they are down before, and frames that are sent after "ready" would be dropped.
    pub(super) fn await_workers(&self) {
        let (answer, answers) = channel::unbounded();
        for worker in &self.workers {
            worker.commands.send(Command::Answer(answer.clone()));
        }
        drop(answer);
        // Ends when all have answered, or ended without.
        while answers.recv().is_ok() {}
    }
}

/// The CPUs for the workers, if all of them may be used.
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
