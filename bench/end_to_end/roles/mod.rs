//! What the processes of the bench do. The bench starts itself again for each of them, with its role as argument.

mod floor;
mod inside;
mod naive;
mod stations;
mod traffic;

use crate::Result;
use crate::board::{Board, Word};
use crate::lab::Lab;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A process's part.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) enum Role {
    /// Sends frames of `len` bytes to the routers `to` in turn, on the wire; broadcasts if there are none.
    Generator {
        /// Its NIC.
        interface: String,
        /// Routers' ids.
        to: Vec<u16>,
        /// Length of a frame, bytes.
        len: usize,
        /// The second generator of a case.
        other: bool,
        /// Sleeps between bursts, so that others on its CPU run undisturbed.
        patient: bool,
        /// Goes before all but pings.
        first: bool,
    },
    /// All routers' sending side: frames of `len` bytes, blocking as routers do.
    Routers {
        /// Which ones.
        lab: Lab,
        /// Length of a frame, bytes.
        len: usize,
        /// Broadcasts instead of unicast to the station.
        group: bool,
        /// Sleeps between bursts, so that others on its CPU run undisturbed.
        patient: bool,
    },
    /// The receiving side of the routers `ids`: sockets with the kernel's default queue, read as fast as it goes.
    Sink {
        /// Which ones.
        lab: Lab,
        /// Routers' ids.
        ids: Vec<u16>,
        /// Goes before all but pings.
        first: bool,
    },
    /// A router that sends every frame back where it came from.
    Echo {
        /// Which one.
        lab: Lab,
        /// Its id.
        id: u16,
    },
    /// A station that sends router `id` one frame at a time and waits for its answer; prints a [`Pings`].
    Pinger {
        /// Its NIC.
        interface: String,
        /// The router.
        id: u16,
        /// Time between two frames; none: the next one follows an answer at once.
        every: Option<Duration>,
        /// For how long.
        total: Duration,
    },
    /// The bare kernel calls of the way to the routers.
    FloorToRouters {
        /// Which ones.
        lab: Lab,
        /// The host's NIC.
        interface: String,
        /// Length of a frame, bytes.
        len: usize,
    },
    /// The bare kernel calls of the way to the NIC.
    FloorToNic {
        /// Whose pseudo socket; the one of router 1.
        lab: Lab,
        /// The host's NIC.
        interface: String,
    },
    /// The naive forwarder.
    Naive {
        /// Between whom.
        lab: Lab,
        /// The host's NIC.
        interface: String,
    },
    /// `iou-fast` itself in a process that tells of its workers and their allocations.
    Inside {
        /// The command line.
        arguments: Vec<String>,
    },
}

/// What a pinger measured.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Pings {
    /// Round-trip times in ns, ascending.
    pub(crate) times: Vec<u64>,
    /// Frames without an answer, which count as long as they were waited for.
    pub(crate) lost: u64,
}

/// A role and the board.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Job {
    /// The role.
    pub(crate) role: Role,
    /// The board's file.
    pub(crate) board: PathBuf,
}

impl Job {
    /// Does it, for ever or until it is done.
    pub(crate) fn run(self) -> Result<()> {
        let board = Board::open(&self.board)?;
        match self.role {
            Role::Generator { interface, to, len, other, patient, first } => {
                traffic::go_first_if(first)?;
                let words =
                    if other { (Word::OtherRate, Word::OtherSent) } else { (Word::WireRate, Word::WireSent) };
                traffic::generate(&board, &interface, &to, len, words, patient)
            }
            Role::Routers { lab, len, group, patient } => {
                traffic::send_as_routers(&board, &lab, len, group, patient)
            }
            Role::Sink { lab, ids, first } => {
                traffic::go_first_if(first)?;
                traffic::sink(&board, &lab, &ids)
            }
            Role::Echo { lab, id } => stations::echo(&lab, id),
            Role::Pinger { interface, id, every, total } => stations::ping(&interface, id, every, total),
            Role::FloorToRouters { lab, interface, len } => floor::to_routers(&board, &lab, &interface, len),
            Role::FloorToNic { lab, interface } => floor::to_nic(&lab, &interface),
            Role::Naive { lab, interface } => naive::forward(&lab, &interface),
            Role::Inside { arguments } => inside::forward(&board, &arguments),
        }
    }
}

/// Says that everything is in place.
fn ready() {
    use std::io::Write;
    println!("ready");
    let _ = std::io::stdout().flush();
}
