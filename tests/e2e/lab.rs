//! The lab's own verdict, with stand-ins for the programs: the host's kernel answers for the routers. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testbed::{Process, Signal, require_root};

const LONG: Duration = Duration::from_secs(60);

/// Stands for iou-fast. As `iou-fast sim` it has nothing to do; otherwise the host takes the routers' addresses, but for
/// those of the router in $SILENT.
const PROGRAM: &str = r#"#!/bin/bash
if [ "$1" = sim ]; then
trap 'echo "total 5"; exit 0' INT TERM
echo ready
while :; do sleep 0.05; done
fi
trap 'echo "drops: 3 for a reason"; exit ${CODE:-0}' INT TERM
netmap=$4
if [ "$*" != "-i eth0 -n $netmap --netio-dir ${netmap%NETMAP}netio -p 513-517 --extra" ]; then
    echo "unexpected options: $*" >&2
    exit 9
fi
while IFS=: read -r id _; do
    if [ "$id" != "$SILENT" ]; then
        ip address add 10.10.0.$((id + 1))/32 dev eth0
        ip address add fd00:10::$id/128 dev eth0
    fi
done < "$netmap"
echo ready
while :; do sleep 0.05; done
"#;

/// Runs `iou-fast lab` on five routers with the stand-in in `dir`.
fn lab(dir: &Path, options: &[&str]) -> Command {
    require_root().unwrap();
    let path = dir.join("iou-fast");
    fs::write(&path, PROGRAM).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_iou-fast"));
    command.args(["lab", "--routers", "5", "--rounds", "3", "--program"]).arg(path);
    command.args(options).args(["--", "--extra"]);
    command
}

fn assert_nothing_left(pid: u32) {
    let names =
        fs::read_dir("/run/netns").into_iter().chain(fs::read_dir("/run/iou-lab")).flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<_> =
        names.filter(|n| n.starts_with(&format!("iouf-{pid}-")) || *n == format!(".{pid}")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Runs a lab to its end and returns its exit code and both its streams.
fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let mut process = Process::spawn(&mut command).unwrap();
    let status = process.wait(LONG).unwrap();
    assert_nothing_left(process.pid());
    (status.code(), process.stdout(), process.stderr())
}

/// Promise `lab` (The project's tasks): The lab reaches every simulated router, names a silent one, and
/// cleans up.
#[test]
fn lab_reaches_every_router() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = outcome(lab(dir.path(), &[]));
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    for expected in [
        "Routers reached   5 of 5        5 of 5\n",
        "Host reached      yes           yes\n",
        "Echoes lost       0 of 15       0 of 15\n",
        "Duplicates        0\n",
        "Drops             3 for a reason\n",
        "Routers: total 5\n",
    ] {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&stdout).contains(&squeeze(expected)), "no {expected:?} in\n{stdout}");
    }
    assert!(stderr.contains("12 of 12 addresses have answered"), "{stderr}");
}

/// Promise `lab`.
#[test]
fn lab_fails_and_names_silent_router() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = lab(dir.path(), &[]);
    command.env("SILENT", "4");
    let (code, stdout, stderr) = outcome(command);
    assert_eq!(code, Some(1), "{stdout}\n{stderr}");
    assert!(stdout.contains("No answer from 10.10.0.5, fd00:10::4\n"), "{stdout}");
    assert!(stdout.contains("4 of 5") && stdout.contains("3 of 15"), "{stdout}");
}

#[test]
fn lab_fails_when_forwarder_exits_with_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = lab(dir.path(), &[]);
    command.env("CODE", "4");
    let (code, stdout, stderr) = outcome(command);
    assert_eq!(code, Some(1), "{stdout}\n{stderr}");
    assert!(stderr.contains("did not end well (exit status: 4)"), "{stderr}");
}

#[test]
fn lab_quotes_forwarder_that_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = outcome({
        let mut command = lab(dir.path(), &[]);
        command.arg("--nonsense");
        command
    });
    assert_eq!(code, Some(1), "{stdout}\n{stderr}");
    assert!(stderr.contains("unexpected options: -i eth0"), "{stderr}");
}

/// Promise `lab`.
#[test]
fn lab_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = Process::spawn(&mut lab(dir.path(), &["--duration", "100"])).unwrap();
        process.wait_for_line(|line| line.contains("12 of 12"), LONG).unwrap();
        process.signal(signal);
        assert_eq!(process.wait(LONG).unwrap().code(), Some(130), "{process:?}");
        assert_nothing_left(process.pid());
    }
}

#[test]
fn lab_keep_stays_until_down() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("iou-lab-test{}", std::process::id());
    let (code, stdout, stderr) = outcome(lab(dir.path(), &["--keep", "--name", &name]));
    let exists = || {
        [format!("/run/iou-lab/{name}"), format!("/run/netns/{name}-wire"), format!("/run/netns/{name}-host")]
            .map(|path| Path::new(&path).exists())
    };
    let there = exists();
    let ping =
        testbed::run("ip", ["netns", "exec", &format!("{name}-wire"), "ping", "-c1", "-W2", "10.10.0.2"]);
    let (again, _, refusal) = outcome(lab(dir.path(), &["--keep", "--name", &name]));
    let mut down = Command::new(env!("CARGO_BIN_EXE_iou-fast"));
    down.args(["lab", "--down", "--name", &name]);
    let (down_code, down_stdout, down_stderr) = outcome(down);

    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    assert!(stdout.contains(&format!("iou-fast lab --down --name {name}")), "{stdout}");
    assert_eq!(there, [true; 3]);
    ping.unwrap();
    assert_eq!(again, Some(1));
    assert!(refusal.contains("--down"), "{refusal}");
    assert_eq!(down_code, Some(0), "{down_stdout}\n{down_stderr}");
    assert!(down_stdout.contains("drops: 3 for a reason\n"), "{down_stdout}");
    assert_eq!(exists(), [false; 3]);
}
