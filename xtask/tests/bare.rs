//! That `cargo xtask bare` leaves nothing, however it ends: with a stand-in for debootstrap. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::{Process, Signal, require_root, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Stands for debootstrap, whose last arguments are suite, directory and mirror: it writes into the directory, mounts
/// there, has a child, and fails in the end. The child sleeps for $SECONDS_LONG.
const DEBOOTSTRAP: &str = r#"#!/bin/sh
while [ $# -gt 2 ]; do shift; done
mkdir -p "$1/proc" && mount -t proc proc "$1/proc" && touch "$1/begun"
sleep "$SECONDS_LONG" &
wait
echo 'E: no such suite' >&2
exit 3
"#;

/// A directory that goes when this is dropped, on a file system that a root directory can be on.
fn directory() -> tempfile::TempDir {
    require_root().unwrap();
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `cargo xtask bare lab` in `directory`, whose debootstrap takes so long: a number that is in no other process's
/// arguments.
fn bare(directory: &Path, seconds: &str) -> Command {
    let programs = directory.join("programs");
    let debootstrap = programs.join("debootstrap");
    if !debootstrap.exists() {
        fs::create_dir_all(&programs).unwrap();
        fs::write(&debootstrap, DEBOOTSTRAP).unwrap();
        fs::set_permissions(&debootstrap, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["bare", "lab", "--no-setup", "--dir"]).arg(directory.join("bare"));
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", programs.display())).env("SECONDS_LONG", seconds);
    command
}

/// Runs it until debootstrap is at work.
fn at_work(directory: &Path, seconds: &str) -> Process {
    let process = Process::spawn(&mut bare(directory, seconds)).unwrap();
    let begun = directory.join(format!("bare/{}/build-bookworm/begun", process.pid()));
    assert!(wait_until(LONG, || begun.exists() && sleeps(seconds)), "{process:?}");
    process
}

/// Whether a process `sleep SECONDS` is there.
fn sleeps(seconds: &str) -> bool {
    let line = format!("sleep\0{seconds}\0").into_bytes();
    let is_it = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).is_ok_and(|other| other == line);
    fs::read_dir("/proc").unwrap().flatten().any(is_it)
}

/// What is in the directory of bare machines.
fn left(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory.join("bare")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let directory = directory();
    for (signal, seconds) in [(Signal::INT, "9301"), (Signal::TERM, "9302"), (Signal::HUP, "9303")] {
        let mut process = at_work(directory.path(), seconds);
        process.signal(signal);
        assert_eq!(process.wait(LONG).unwrap().code(), Some(130), "{process:?}");
        assert!(left(directory.path()).is_empty());
        assert!(wait_until(LONG, || !sleeps(seconds)));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*directory.path().to_string_lossy()), "{mounts}");
}

#[test]
fn a_failed_run_says_why_and_leaves_nothing() {
    let directory = directory();
    let mut process = Process::spawn(&mut bare(directory.path(), "0")).unwrap();
    assert_eq!(process.wait(LONG).unwrap().code(), Some(1), "{process:?}");
    assert!(process.stderr().contains("E: no such suite"), "{process:?}");
    assert!(left(directory.path()).is_empty());
}

#[test]
fn what_a_killed_run_left_the_next_one_removes() {
    let directory = directory();
    let mut process = at_work(directory.path(), "9304");
    let place = directory.path().join(format!("bare/{}", process.pid()));
    // A run beside it leaves it alone.
    let mut other = Process::spawn(&mut bare(directory.path(), "0")).unwrap();
    other.wait(LONG).unwrap();
    assert!(sleeps("9304") && left(directory.path()) == [&*place]);

    process.signal(Signal::KILL);
    process.wait(LONG).unwrap();
    assert!(wait_until(LONG, || !sleeps("9304")));
    assert_eq!(left(directory.path()), [&*place]);
    let mut next = Process::spawn(&mut bare(directory.path(), "0")).unwrap();
    next.wait(LONG).unwrap();
    assert!(
        next.stdout().contains(&format!("removed {}, left by an earlier run", place.display())),
        "{next:?}"
    );
    assert!(left(directory.path()).is_empty());
}
