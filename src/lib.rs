//! Puts Cisco IOU/IOL routers on a real network through AF_XDP. The map of the house:
//!
//! ```text
//!   cli ──► control::labs ──► netmap, iou ──► plan        what is to be connected with what
//!                                              │
//!   control ──► nic (a NIC), steer (its XDP program), iou::netio, iou::socket (the routers')
//!      │
//!      └──► worker, one a CPU:  wire ─► steer ─► AF_XDP ─► worker::nic_ingress ─► router_egress ─► router's socket
//!                               router ─► pseudo socket ─► worker::router_ingress ─► nic_egress ─► AF_XDP ─► wire
//!                               lan, fdb: which station is behind which port
//!                               stats: what happened
//!
//!   log, output: what is logged and printed, for which no thread waits
//!   privileges: what each of these threads may do, and that the rest is given up
//! ```
//!
//! The life of a frame is in `bpf/steer.bpf.c` and [`worker`]. [`netmap`], [`iou::header`], [`iou::mac`], [`plan`],
//! [`fdb`] and the backlog's policy are pure. `docs/architecture.md` is the map, and `docs/decisions` says
//! why it is built so.

#![cfg_attr(
    not(test),
    warn(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "they panic where a stream is closed: see `output`"
    )
)]
#![allow(rustdoc::private_intra_doc_links, reason = "the documentation is for whoever carries this on")]

pub mod accounting;
pub mod clean;
pub mod cli;
pub mod control;
pub mod ether;
pub mod fdb;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod guard;
pub mod ids;
pub mod iou;
pub mod lab;
pub mod lan;
pub mod log;
pub mod netmap;
pub mod nic;
pub mod output;
pub mod plan;
pub mod privileges;
pub mod rate_limiter;
pub mod sim;
pub mod stats;
pub mod steer;
pub mod sys;
pub mod worker;
