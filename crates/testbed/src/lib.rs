//! What the lab, the end-to-end tests and the benchmarks share: network namespaces joined by veth pairs,
//! processes inside them, raw stations on a wire, and a router's socket side without a router behind it.
//!
//! Everything a test makes here goes when its value is dropped, on failure too. What a killed test leaves,
//! [`reap_stale`] takes away. Nothing ever touches the machine's own interfaces.
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
mod error;
mod first;
pub mod frame;
mod frr;
mod namespace;
mod process;
mod router;
mod station;
mod sys;
mod terminal;
mod trunk;
mod veth;

pub use bin::Bin;
pub use error::{Error, Result};
pub use first::First;
pub use frame::{Tag, frame};
pub use frr::Frr;
pub use namespace::{Namespace, is_root, namespace_exists, reap_stale, require_root, run, with_own_mounts};
pub use process::{Process, Signal, Stalled, Streams};
pub use router::{Datagram, Router, RouterOptions};
pub use station::Station;
pub use terminal::Terminal;
pub use trunk::Trunk;
pub use veth::{VethOptions, veth};

use std::time::{Duration, Instant};

/// Asks `ready` every 2 ms until it says yes; false if it does not within `timeout`.
#[must_use]
pub fn wait_until(timeout: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
