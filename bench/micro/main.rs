//! Benchmarks of the parts: `cargo bench --bench micro [-- FILTER]`. The XDP program's need root.
//!
//! - rings: what a batch of frames costs on the user's side of AF_XDP
//! - headers: IOU header, MAC patterns, Ethernet addresses and tags
//! - fdb: learning and look-up
//! - netmap: a file of 10,000 lines
//! - latency: recording
//! - xdp: each path of the XDP program

mod parts;
mod rings;
mod xdp;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, rings::all, parts::all, xdp::all);
criterion_main!(benches);
