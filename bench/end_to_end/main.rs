//! End-to-end benchmarks over a veth pair: `cargo bench --bench end_to_end [-- [--quick] [CASE]]`, as root.
//!
//! ```text
//!   cases ─► bed: namespaces, NIC, labs, processes ─► roles: what each process does
//!     │       └► board: what they share
//!     └► measure: windows, medians ─► report: the table, JSON ─► svg: pictures
//! ```
//!
//! `IOU_FAST_EXE` names another build of `iou-fast` to measure, to compare two.
//!
//! Every case sets `iou-fast`, the real binary, beside the *floor*, the bare kernel calls that no forwarder can avoid, and
//! the *naive* forwarder, which does what iouyap does. Forwarders run on one CPU, generators and sinks on another,
//! alike in every case, before all else on the machine, in runs that take turns; ratios are taken within a run, and the median of the runs counts.

mod bed;
mod board;
mod cases;
mod lab;
mod measure;
mod report;
mod roles;
mod svg;
mod sys;

use cases::{Cases, Plan};
use report::Report;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Whatever goes wrong ends a case, with its message.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("end_to_end: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the bench; false if a case could not be measured, or the forwarder counted a fault.
fn run() -> Result<bool> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [role, job] if role == "role" => {
            go_before_others()?;
            serde_json::from_str::<roles::Job>(job)?.run()?;
            return Ok(true);
        }
        [launch, program, rest @ ..] if launch == "launch" => {
            go_before_others()?;
            return Err(Command::new(program).args(rest).exec().into());
        }
        _ => {}
    }
    // `cargo bench` adds this one.
    arguments.retain(|argument| argument != "--bench");
    let quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    if let Some(option) = arguments.iter().find(|argument| argument.starts_with('-')) {
        return Err(format!("{option}? Known are --quick, and a part of a case's name").into());
    }
    if !testbed::is_root() {
        println!(
            "end-to-end benchmarks NOT RUN: they need root, for network namespaces (sudo -E cargo bench)"
        );
        return Ok(true);
    }
    testbed::reap_stale()?;
    bench(quick, arguments.first().map_or("", String::as_str))
}

/// Has the processes of the bench, all alike, run before whatever else the machine has to do.
fn go_before_others() -> Result<()> {
    rustix::process::setpriority_process(None, -20)?;
    // Where the kernel groups processes by session, only the groups' own priorities count between sessions.
    if std::fs::exists("/proc/self/autogroup")? {
        rustix::process::setsid()?;
        std::fs::write("/proc/self/autogroup", "-20")?;
    }
    Ok(())
}

fn bench(quick: bool, filter: &str) -> Result<bool> {
    let mut bed = bed::Bed::new()?;
    let machine = bed.describe()?;
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    if bed.cpus[0] == bed.cpus[1] {
        println!("only one CPU: forwarder, generator and sink share it, so rates say little");
    }
    let pace = if quick { "quick" } else { "full" };
    let mode = format!("{pace} ({} runs of {:?}), {}", plan.runs, plan.window, bed.nic()?);
    let mut report = Report {
        machine,
        mode,
        rows: Vec::new(),
        notes: Vec::new(),
        faults: Default::default(),
        failed: Vec::new(),
    };
    println!("{}\n\n{}", report.title(), Report::head());
    let before = measure::stolen()?;
    let mut cases = Cases { bed, plan, rows: Vec::new(), notes: Vec::new() };
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(filter)) {
        if let Err(error) = case(&mut cases) {
            println!("{name}: {error}");
            report.failed.push(format!("{name}: {error}"));
        }
        cases.bed.silence();
    }
    cases.no_fault();
    let after = measure::stolen()?;
    let stolen = 100.0 * (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
    if stolen >= 1.0 {
        cases.notes.push(format!("the machine's host kept {stolen:.0} % of the CPUs' time meanwhile"));
    }
    report.rows = cases.rows;
    report.notes = cases.notes;
    report.faults = std::mem::take(&mut cases.bed.faults);
    println!("\n{}", report.foot());
    if !cases::ALL.iter().any(|(name, _)| name.contains(filter)) {
        return Err(format!("there is no case with \"{filter}\" in its name").into());
    }
    let directory = directory();
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("end_to_end.json"), serde_json::to_string_pretty(&report)?)?;
    for (name, picture) in svg::pictures(&report) {
        std::fs::write(directory.join(name), picture)?;
    }
    println!("{}", directory.display());
    Ok(report.failed.is_empty() && report.faults.is_empty())
}

/// `target/bench`, wherever the target directory is: the bench's own program is in `target/<profile>/deps`.
fn directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).map_or_else(|| PathBuf::from("target"), PathBuf::from).join("bench")
}
