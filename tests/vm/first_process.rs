//! What `cargo xtask test --vm` runs in its virtual machines: the first process of the guest, in place of an init, which
//! puts the real `iou-fast` through checks that need a kernel or a driver that the developer's machine does not have.
//!
//! ```text
//!   guest:  namespace "wire"                          namespace "host"
//!           Station on eth0 (virtio-net) ─┐        ┌─ eth0 (virtio-net) ◄─ iou-fast ─► netio directory ◄─► Router, iou-fast sim
//!   QEMU:                                 └── hub ─┘
//! ```
//!
//! It tells the host by lines that begin with `vm:` on the console: `vm: run N`, then `vm: begin NAME` and `vm: ok NAME` or
//! `vm: failed NAME` for each check, and `vm: end`. Arguments: the name of a set of checks, and what is to be in their names.

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod guest;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a virtual machine: `cargo xtask test --vm` starts it");
        return ExitCode::from(2);
    }
    // A panic of the first process would be the kernel's.
    if catch_unwind(run).is_err() {
        println!("vm: failed to set up");
    }
    guest::power_off()
}

fn run() {
    guest::set_up();
    let mut arguments = std::env::args().skip(1);
    let (set, filter) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let all = checks::set(&set).unwrap_or_else(|| panic!("no set of checks is called {set:?}"));
    let checks: Vec<_> = all.iter().filter(|(name, _)| name.contains(&filter)).collect();
    println!("vm: run {}", checks.len());
    for (name, check) in checks {
        println!("vm: begin {name}");
        let start = Instant::now();
        let result = if catch_unwind(check).is_ok() { "ok" } else { "failed" };
        println!("vm: {result} {name} {:.1}", start.elapsed().as_secs_f32());
    }
    println!("vm: end");
}
