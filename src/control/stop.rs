//! The end: everything is given back, and what happened is added up.

use super::nics::{Around, ManagedNic};
use super::{Forwarder, Notify, commands};
use crate::stats::Summary;
use crate::worker::{Command, SocketResult};
use std::sync::atomic::Ordering::Relaxed;

impl Forwarder {
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
                Some(result) => {
                    summary.latency.to_routers.merge(&result.latencies.to_routers);
                    summary.latency.to_nics.merge(&result.latencies.to_nics);
                    for SocketResult { statistics, faults } in result.sockets {
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
}
