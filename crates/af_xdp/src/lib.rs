//! AF_XDP: rings of frames shared with the kernel, without a copy in user space and without BPF.
//!
//! - [`Umem`] is the memory, cut into chunks of [`CHUNK_SIZE`] bytes. A chunk in user hands is a [`Chunk`]: a token
//!   that is neither `Copy` nor `Clone`, so a frame cannot stand in two rings.
//! - [`Sockets::open`] binds every queue of one NIC: on each queue one fill and one completion ring ([`Fill`],
//!   [`Completion`]) and any number of sockets, each with an [`Rx`] and a [`Tx`] ring.
//! - [`Registration::reclaim`] brings the frames back that a NIC had when it was removed.
//! - The XDP program, which is the caller's, picks the socket a frame goes to.
//!
//! ```text
//!            Chunk                         Fragment
//!   free ──────────► Fill ─► kernel ─► Rx ────────► user ─► free
//!   free ─► user writes a Fragment ─► Tx ─► kernel ─► Completion ─► free
//! ```
//!
//! Source of the rules: Documentation/networking/af_xdp.rst and net/xdp/ in the kernel tree.

#![cfg_attr(loom, allow(dead_code, reason = "what the models do not use"))]

mod chunk;
#[cfg(not(loom))]
mod completion;
#[cfg(not(loom))]
mod config;
#[cfg(not(loom))]
mod descriptor;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod fill;
mod mapping;
#[cfg(all(test, loom))]
mod model;
#[cfg(not(loom))]
mod registration;
mod ring;
#[cfg(not(loom))]
mod rx;
#[cfg(all(any(test, feature = "simulated"), not(loom)))]
pub mod simulated;
#[cfg(not(loom))]
mod sockets;
mod sync;
#[cfg(all(test, not(loom)))]
mod testing;
#[cfg(not(loom))]
mod tx;
mod umem;
#[cfg(not(loom))]
mod xsk;

pub use chunk::{CHUNK_SIZE, Chunk, Fragment};
#[cfg(not(loom))]
pub use completion::Completion;
#[cfg(not(loom))]
pub use config::{Config, CopyMode};
#[cfg(not(loom))]
pub use error::Error;
#[cfg(not(loom))]
pub use fill::Fill;
#[cfg(not(loom))]
pub use registration::Registration;
#[cfg(not(loom))]
pub use rx::{Rx, RxStatistics};
#[cfg(not(loom))]
pub use sockets::{Queue, Socket, Sockets};
#[cfg(not(loom))]
pub use tx::{Kick, RingFull, Tx};
pub use umem::Umem;
