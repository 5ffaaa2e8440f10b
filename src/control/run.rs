//! The control thread's loop: it waits for events, and looks once a second at what no event tells of.

use super::netmap::Next;
use super::nics::{Around, ManagedNic};
use super::sources::Source;
use super::{Forwarder, Notify, commands};
use crate::guard::Guard;
use crate::ids::{Id, PortId, RouterId, SegmentId};
use crate::nic::links::Links;
use crate::plan::Plan;
use crate::steer::layout::{Count, RouterState, read_moved};
use crate::worker::{self, Change, Command, Event};
use rustix::net::RecvFlags;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often what no event tells of is looked at.
const SWEEP: Duration = Duration::from_secs(1);

impl Forwarder {
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
                while let Ok(event) = self.events.try_recv() {
                    match event {
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
        // First the files of ids that are no longer ours: no router is to send there any more.
        self.pseudos.follow(&plan, sockets);
        // A router that comes to a LAN has no socket until its worker says so.
        for (lan, router) in on_lans(&plan).difference(&on_lans(&before)) {
            self.lans[lan.index()].set_router_state(*router, RouterState::Down);
        }
        for (index, (lan, nic)) in self.lans.iter().zip(&self.nics).enumerate() {
            lan.follow(&plan.bridge_ports(SegmentId::at(index)));
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

    /// Looks after every NIC; only after those that wait for something, unless `all`.
    fn follow_links(&mut self, all: bool) {
        let commands = commands(&self.workers);
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

    /// Tells the LANs the host's own addresses, if interfaces have changed. Once a second at most, because they may be thousands.
    pub(super) fn follow_addresses(&mut self) {
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
                let name = |port: PortId| plan.ports[port].endpoint;
                let Some(endpoint) = port.map(name) else { return };
                let Some(more) = lan.may_report(now.as_nanos() as u64) else { return };
                if is_static {
                    tracing::warn!(
                        nic = %lan.nic,
                        "{}, the address of {endpoint}, also speaks from the wire: two stations with one address, or \
                         does something send frames back?{more}",
                        station.mac
                    );
                } else {
                    tracing::info!(nic = %lan.nic, "{} moved from {endpoint} to the wire{more}", station.mac);
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

/// Which routers are on which LAN: LAN, router.
fn on_lans(plan: &Plan) -> HashSet<(SegmentId, RouterId)> {
    let ports = |(lan, planned): (SegmentId, &crate::plan::Lan)| {
        planned.ports.iter().map(move |port| (lan, *port)).collect::<Vec<_>>()
    };
    let ports = plan.lans.numbered().flat_map(ports);
    ports.map(|(lan, port)| (lan, plan.ports[port].router)).collect()
}
