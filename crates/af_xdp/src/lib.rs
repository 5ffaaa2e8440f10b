//! AF_XDP: frames in memory that is shared with the kernel, without a copy in user space and without BPF.
//!
//! - [`Umem`] is the memory, cut into chunks of [`CHUNK_SIZE`] bytes. A chunk in user hands is a [`Chunk`]: a token
//!   that is neither `Copy` nor `Clone`, so a chunk cannot be in two rings.
//! - [`Sockets::open`] binds sockets to the queues of one NIC, as [`Config`] says. Each queue has one fill and one
//!   completion ring ([`Fill`], [`Completion`]) and any number of sockets, each with an [`Rx`] and a [`Tx`] ring.
//! - [`Registration::reclaim`] takes back the chunks that were in a NIC's rings when it was removed.
//! - The XDP program, which belongs to the caller, chooses the socket that receives a frame.
//!
//! ```text
//!            Chunk                         Fragment
//!   free ──────────► Fill ─► kernel ─► Rx ────────► user ─► free
//!   free ─► user writes a Fragment ─► Tx ─► kernel ─► Completion ─► free
//! ```
//!
//! The modules import downwards only: `sockets` and `simulated`, then the four rings, then `registration`, `xsk` (the
//! kernel's socket), `ring` (one ring of descriptors), `umem`, `chunk` and `mapping`.
//!
//! Source of the rules: Documentation/networking/af_xdp.rst and net/xdp/ in the kernel tree.

#![cfg_attr(loom, allow(dead_code, reason = "what the models do not use"))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
