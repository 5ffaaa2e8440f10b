//! What can be wrong with a request.

use crate::ether::Mac;
use crate::ids::{MAX_ROUTERS, MAX_WORKERS};
use crate::iou::Endpoint;

/// What is wrong with a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No NIC at all.
    #[error("no NIC: give one with -i, for example -i eth0")]
    NoBinding,
    /// Two bindings take the rest.
    #[error(
        "-i {0} and -i {1} both take every pseudo endpoint: name the endpoints of one of them, as in -i {1}=513:0/1"
    )]
    TwoCatchAll(String, String),
    /// A binding names what is no pseudo endpoint.
    #[error("-i {nic}={what}: {file} has no such pseudo endpoint; it has {known}")]
    NoSuchEndpoint {
        /// The NIC.
        nic: String,
        /// What was asked for.
        what: String,
        /// The NETMAP.
        file: String,
        /// The pseudo endpoints there are.
        known: String,
    },
    /// A pseudo endpoint is bound twice.
    #[error("{endpoint} is bound to {first} and to {second}: it can be on one LAN only")]
    BoundTwice {
        /// The endpoint.
        endpoint: Endpoint,
        /// One NIC.
        first: String,
        /// The other.
        second: String,
    },
    /// A pseudo endpoint stands on two lines.
    #[error(
        "{file}:{second}: {endpoint} stands on line {first} already: a frame for it could come from either"
    )]
    TwoLines {
        /// The NETMAP.
        file: String,
        /// The endpoint.
        endpoint: Endpoint,
        /// A line.
        first: u32,
        /// The other.
        second: u32,
    },
    /// Two pseudo endpoints on a line.
    #[error(
        "{file}:{line}: {first} and {second} are both pseudo endpoints: a line can have one, or routers would hear everything twice"
    )]
    TwoPseudo {
        /// The NETMAP.
        file: String,
        /// The line.
        line: u32,
        /// One.
        first: Endpoint,
        /// The other.
        second: Endpoint,
    },
    /// An interface on two links of one LAN.
    #[error(
        "{file}:{second}: {endpoint} is joined to {nic} on line {first} already: it would hear everything twice"
    )]
    Double {
        /// The NETMAP.
        file: String,
        /// A line.
        first: u32,
        /// The other.
        second: u32,
        /// The router's interface.
        endpoint: Endpoint,
        /// The NIC.
        nic: String,
    },
    /// Nothing to do for a NIC.
    #[error(
        "nothing would be on {nic}: {file} has no line that joins a pseudo endpoint bound to it with a router{}",
        notes.iter().map(|note| format!("\n{note}")).collect::<String>()
    )]
    Empty {
        /// The NIC.
        nic: String,
        /// The NETMAP.
        file: String,
        /// What was left out.
        notes: Vec<String>,
    },
    /// The endpoint of --flood-unknown is none that is bridged.
    #[error("--flood-unknown {0}: no router interface of this name is bridged; the bridged ones are {1}")]
    NoFlood(Endpoint, String),
    /// More than the datagram path can number.
    #[error("{0} routers are more than {max}", max = MAX_ROUTERS)]
    TooMany(usize),
    /// More workers than the XDP program serves.
    #[error("{0} workers are more than {max}", max = MAX_WORKERS)]
    TooManyWorkers(usize),
    /// Two labs' routers would have the same address on one LAN.
    #[error(
        "{mac} would be both {first} and {second} on {nic}: two labs with the same instance ids need a LAN each"
    )]
    SameMac {
        /// The address.
        mac: Mac,
        /// One owner.
        first: Endpoint,
        /// The other.
        second: Endpoint,
        /// The NIC.
        nic: String,
    },
}
