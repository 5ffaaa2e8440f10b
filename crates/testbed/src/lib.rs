//! The lab, the end-to-end tests and the benchmarks share this: network namespaces joined by veth pairs, processes
//! inside them, raw hosts on a wire, and the socket side of a router without a router behind it.
//!
//! Everything that a test makes here is removed when its value is dropped, on failure too. [`reap_stale`] removes the
//! namespaces of killed tests. Nothing ever touches the machine's own interfaces.
//!
//! ```no_run
//! use testbed::{Namespace, Process, Station, VethOptions, veth};
//! use std::time::Duration;
//! # fn main() -> testbed::Result<()> {
//! let (wire, host) = (Namespace::new("wire")?, Namespace::new("host")?);
//! veth((&wire, "eth0"), (&host, "eth0"), &VethOptions::default())?;
//! let mut forwarder = Process::spawn(host.command(testbed::Bin::find("iou-fast")?).args(["-i", "eth0"]))?;
//! forwarder.wait_for_line(|line| line == "ready", Duration::from_secs(5))?;
//! let station = Station::new(&wire, "eth0")?;
//! # Ok(()) }
//! ```

mod bin;
mod command;
mod error;
mod first;
pub mod frame;
mod frr;
mod mounts;
mod namespace;
mod process;
mod router;
mod stall;
mod station;
mod sys;
mod terminal;
mod trunk;
mod usage;
mod veth;
mod wait;

pub use bin::Bin;
pub use command::{is_root, require_root, run};
pub use error::{Error, Result};
pub use first::First;
pub use frame::{Tag, frame};
pub use frr::Frr;
pub use mounts::with_own_mounts;
pub use namespace::{Namespace, namespace_exists, reap_stale};
pub use process::{Process, Signal, Streams};
pub use router::{Datagram, Router, RouterOptions};
pub use stall::Stalled;
pub use station::Station;
pub use terminal::Terminal;
pub use trunk::Trunk;
pub use veth::{VethOptions, veth};
pub use wait::wait_until;
