//! What the control thread tells a worker.

use super::ports::LanPorts;
use super::pseudo::LinkTable;
use super::router_queue::{Membership, RouterSocket};
use super::sockets::NicSockets;
use crate::plan::{Plan, Pseudo};
use crate::sys::eventfd::wake;
use crossbeam::channel::Sender;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Frames may take several chunks from now on.
    Large,
    /// The router's socket is this one from now on, or it has none.
    Router {
        /// Index in the plan.
        router: usize,
        /// The socket.
        socket: Option<RouterSocket>,
    },
    /// These are its sockets on a NIC from now on, or it has none there: it closes those that it had.
    Nic {
        /// Index of the LAN in the plan.
        lan: usize,
        /// The sockets.
        sockets: Option<NicSockets>,
    },
    /// The plan is another from now on; it follows the one before. What goes with it was made beforehand.
    Plan(Box<Change>),
    /// A pseudo instance's socket is this one from now on.
    Pseudo {
        /// Index in the plan.
        pseudo: usize,
        /// The socket.
        socket: OwnedFd,
    },
    /// The worker is to answer: it has carried out every command before this one.
    Answer(Sender<()>),
    /// The worker is to say that it is alive, with this number: [`Event::Alive`](super::Event::Alive).
    Event(u64),
    /// The worker ends.
    Stop,
}

/// What another plan means for a worker: [`Command::Plan`].
#[derive(Debug)]
pub struct Change {
    pub(super) lans: Vec<LanPorts>,
    pub(super) members: Vec<Membership>,
    /// The pseudo instances that it reads, by ascending index.
    pub(super) pseudos: Vec<PseudoChange>,
    /// Sockets of those that are new, by index in the plan.
    pub(super) sockets: Vec<(usize, OwnedFd)>,
}

/// What another plan means for a pseudo instance.
#[derive(Debug)]
pub(super) struct PseudoChange {
    /// Index in the plan.
    pub(super) index: usize,
    pub(super) id: u16,
    pub(super) table: LinkTable,
}

impl Change {
    /// What `plan` means for `worker`. `sockets` are those of the pseudo instances that are new to it: index in the plan,
    /// socket.
    #[must_use]
    pub fn new(plan: &Plan, worker: usize, sockets: Vec<(usize, OwnedFd)>) -> Self {
        let own = |(_, pseudo): &(usize, &Pseudo)| pseudo.live && pseudo.worker == worker;
        let pseudos = plan.pseudos.iter().enumerate().filter(own).map(|(index, pseudo)| PseudoChange {
            index,
            id: pseudo.id.get(),
            table: LinkTable::new(plan, index),
        });
        Self {
            lans: plan.lans.ids().map(|lan| LanPorts::new(plan, lan, worker)).collect(),
            members: Membership::of_worker(plan, worker),
            pseudos: pseudos.collect(),
            sockets,
        }
    }
}

/// By what the control thread sends commands to a worker.
#[derive(Clone, Debug)]
pub struct CommandSender {
    pub(super) channel: Sender<Command>,
    pub(super) wake: Arc<OwnedFd>,
}

impl CommandSender {
    /// Sends the worker a command. One that has ended takes none, which is no error.
    pub fn send(&self, command: Command) {
        if self.channel.send(command).is_ok() {
            wake(&self.wake);
        }
    }
}
