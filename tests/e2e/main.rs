//! End-to-end tests: the real program, real frames, network namespaces of their own. One program with a module for each
//! feature, because one link takes less time than thirty.
//!
//! Where a new test goes: into the module of its feature, CONTRIBUTING.md has the list. Its name begins with the feature, so
//! that a search finds it: `nic_channel_increase_opens_sockets`. A test that measures (a rate, CPU time, a delay, what a
//! limit drops) and one that must be alone on the machine belong into a module `measured`: a module below [`measured`] if
//! all tests of the feature are such, `FEATURE/measured.rs` otherwise. Those run one at a time, all others side by side:
//!
//! ```text
//! cargo test --test e2e -- --skip measured:: --test-threads=6
//! cargo test --test e2e -- measured:: --test-threads=1
//! ```
//!
//! Not here: what drives a part of the program in the test's own process, which holds locks, file descriptors and BPF links
//! that the children of other tests would inherit (`tests/nic.rs`, `tests/steer.rs`); what needs no root (`tests/reference.rs`);
//! the soak, which is also a task of its own (`tests/soak`); what needs another kernel (`tests/vm`).

#[path = "../common/mod.rs"]
mod common;

mod control_frames;
mod drops;
mod forward;
mod host;
mod hostile_user;
mod jumbo;
mod keepalive;
mod lab;
mod log_format;
mod measured;
mod netio_directory;
mod nic_changes;
mod notify;
mod privileges;
mod protocols;
mod reload;
mod service;
mod sim;
mod start;
mod stations;
mod tap;
