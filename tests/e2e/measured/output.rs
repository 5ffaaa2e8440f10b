//! Where the log and what is printed go matters to no frame: a disk is full, a terminal held or gone, a pipe not read or
//! closed.

use crate::common::crowd::{number, wait_until_connected};
use crate::common::{ARRIVAL, BROADCAST, SOON, Scene, Strain, Summary, header, plain, router_mac};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{Process, Router, Signal, Station, Streams, Terminal, VethOptions, wait_until};

const STATION: [u8; 6] = crate::common::crowd::STATION;

/// Router 1 behind 513 on eth0, of which an offload has to be put back at the end.
struct Lab {
    scene: Scene,
    router: Router,
    station: Station,
    sent: u64,
}

impl Lab {
    fn new() -> Self {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap("1:0/0 513:0/0\n");
        let (router, station) = (Router::new(&scene.netio(), 1).unwrap(), scene.station());
        let lab = Self { scene, router, station, sent: 0 };
        assert!(lab.offload().contains("on"), "there is nothing to put back");
        lab
    }

    fn command(&self) -> Command {
        self.scene.command(&["-i", "eth0", "-p", "513"])
    }

    /// `iou-fast` with these streams.
    fn start(&self, mut command: Command, streams: Streams) -> Process {
        Process::spawn_with(&mut command, streams).unwrap()
    }

    /// It has started, and the router gets frames.
    fn connected(&mut self) {
        wait_until_connected(&self.station, &mut self.router, 1);
    }

    /// A frame each way, fifty times; the longest time that took.
    #[track_caller]
    fn talk(&mut self) -> Duration {
        let times = (0..50).map(|_| {
            self.sent += 1;
            let start = Instant::now();
            self.station.send(&plain(router_mac(1, 0, 0), STATION, 64, self.sent)).unwrap();
            let there = self.router.recv_where(ARRIVAL, |_, frame| number(frame) == Some(self.sent));
            assert!(there.is_some(), "no frame at the router");
            let back = plain(STATION, router_mac(1, 0, 0), 64, self.sent);
            self.router.send(513, header(513, 0, 1, 0), &back).unwrap();
            assert!(self.station.recv_where(ARRIVAL, |frame| frame == back).is_some(), "none on the wire");
            start.elapsed()
        });
        times.max().unwrap()
    }

    /// The router restarts, which the control thread has to see, and its frames are carried again.
    fn restart_the_router(&mut self) {
        drop(std::mem::replace(&mut self.router, Router::new(&self.scene.netio(), 2).unwrap()));
        self.router = Router::new(&self.scene.netio(), 1).unwrap();
        self.connected();
    }

    /// Frames of 256 stations behind the router: what a worker says something about, if debugging is on.
    fn many_stations(&self, round: u8) {
        for station in 0..=255 {
            let frame = plain(BROADCAST, [2, 0, 0, 1, round, station], 64, 0);
            self.router.send(513, header(513, 0, 1, 0), &frame).unwrap();
        }
    }

    fn offload(&self) -> String {
        let shown = self.scene.host.run("ethtool", ["-k", "eth0"]).unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        shown.lines().find(|line| line.starts_with("rx-vlan-offload")).unwrap().to_owned()
    }

    /// Ends it as a user does: everything is put back. Returns how long that took.
    #[track_caller]
    fn end(&self, iou_fast: &mut Process) -> Duration {
        assert!(self.offload().contains("off"));
        let start = Instant::now();
        iou_fast.signal(Signal::INT);
        let status = iou_fast.wait(SOON).unwrap();
        let took = start.elapsed();
        assert!(status.success(), "{}", iou_fast.dump());
        assert!(self.offload().contains("on"), "{}", iou_fast.dump());
        assert_eq!(self.scene.directory().join("state").read_dir().unwrap().count(), 0);
        assert!(!self.scene.netio().join("513").exists() && !self.scene.netio().join("513.lck").exists());
        took
    }
}

#[track_caller]
fn assert_balanced(iou_fast: &Process) {
    let summary = Summary::read(&iou_fast.stdout());
    assert!(
        summary.text.ends_with("\naccounting: balanced\n") && summary.to_routers.0 > 0,
        "{}",
        iou_fast.dump()
    );
}

fn open(path: impl AsRef<Path>) -> OwnedFd {
    File::options().append(true).create(true).open(path).unwrap().into()
}

/// A pipe that is full, and the end to read from.
fn full_pipe() -> (File, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    for end in [reader.as_fd(), writer.as_fd()] {
        fcntl_setfl(end, fcntl_getfl(end).unwrap() - OFlags::NONBLOCK).unwrap();
    }
    (reader.into(), writer)
}

/// Promise `log-blocked` (Faults): A log or an output that blocks (a full disk, a terminal that is held or
/// closed, a pipe that is not read or closed) ends nothing and delays no frame. At the end the terminal and
/// pipes are as before, and what is still read is written.
#[test]
fn log_on_full_disk_costs_no_frame() {
    let mut lab = Lab::new();
    let full = || Some(open("/dev/full"));
    let mut iou_fast = lab.start(lab.command(), Streams { stderr: full(), ..Streams::default() });
    iou_fast.wait_for_line(|line| line == "ready", SOON).unwrap();
    lab.connected();
    for _ in 0..3 {
        // A log line each.
        iou_fast.signal(Signal::HUP);
        lab.talk();
        lab.restart_the_router();
    }
    lab.end(&mut iou_fast);
    assert_balanced(&iou_fast);

    // Nor does what is printed.
    let streams = Streams { stdout: full(), stderr: full(), ..Streams::default() };
    let mut iou_fast = lab.start(lab.command(), streams);
    lab.connected();
    lab.talk();
    lab.end(&mut iou_fast);

    // Nor does a limit for the size of files.
    let mut command = Command::new("prlimit");
    let inner = lab.command();
    command.arg("--fsize=4096").arg(inner.get_program()).args(inner.get_args());
    command.env("IOU_FAST_LOG", "debug").env_remove("SUDO_UID");
    let log = lab.scene.directory().join("log");
    let streams = Streams { stderr: Some(open(&log)), ..Streams::default() };
    let mut iou_fast = lab.start(command, streams);
    lab.connected();
    lab.many_stations(0);
    lab.talk();
    lab.end(&mut iou_fast);
    assert_eq!(std::fs::metadata(log).unwrap().len(), 4096);

    // A start that fails says so by its status at least.
    let command = lab.scene.command(&["-i", "eth7", "-p", "513"]);
    let streams = Streams { stdout: full(), stderr: full(), ..Streams::default() };
    let mut iou_fast = lab.start(command, streams);
    assert_eq!(iou_fast.wait(SOON).unwrap().code(), Some(1));
}

/// Promise `log-dropped` (Faults): A log that takes lines again says how many it dropped.
#[test]
fn log_drops_are_counted_when_space_returns() {
    testbed::with_own_mounts(|| {
        let mut lab = Lab::new();
        let disk = lab.scene.directory().join("disk");
        std::fs::create_dir(&disk).unwrap();
        testbed::run("mount", ["-t", "tmpfs", "-o", "size=64k", "none", disk.to_str().unwrap()]).unwrap();
        let stderr = Some(open(disk.join("log")));
        let mut iou_fast = lab.start(lab.command(), Streams { stderr, ..Streams::default() });
        iou_fast.wait_for_line(|line| line == "ready", SOON).unwrap();
        lab.connected();
        let log = || std::fs::read_to_string(disk.join("log")).unwrap();
        let said = |text: &str| log().lines().filter(|line| line.contains(text)).count();
        let read_again = "NETMAP reloaded";
        iou_fast.signal(Signal::HUP);
        assert!(wait_until(SOON, || said(read_again) == 1), "{}", log());

        let filler = disk.join("filler");
        assert!(std::fs::write(&filler, vec![b'.'; 1 << 20]).is_err(), "the disk is not full");
        // What is left of the log's last page.
        let before = log();
        let mut filled = File::options().append(true).open(disk.join("log")).unwrap();
        std::io::Write::write_all(&mut filled, &vec![b'.'; 4096 - before.len() % 4096 - 1]).unwrap();
        std::io::Write::write_all(&mut filled, b"\n").unwrap();
        for _ in 0..3 {
            iou_fast.signal(Signal::HUP);
            lab.talk();
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(said(read_again), 1, "{}", log());
        std::fs::remove_file(&filler).unwrap();
        iou_fast.signal(Signal::HUP);
        assert!(wait_until(SOON, || said(read_again) == 2), "{}", log());
        let now = log();
        let missing = now
            .lines()
            .find(|line| line.ends_with("messages are missing here: the log could not be written"));
        let missing = missing.unwrap_or_else(|| panic!("nothing says what is missing: {now}"));
        assert!(missing.starts_with("iou-fast: 3 "), "{missing}");
        lab.end(&mut iou_fast);
        assert_balanced(&iou_fast);
    })
    .unwrap();
}

/// Promise `log-blocked`.
#[test]
fn terminal_held_or_closed_is_survived() {
    let mut lab = Lab::new();
    let (terminal, programs) = Terminal::new().unwrap();
    // As a shell has it: in a session of its own, which the terminal controls.
    let mut command = Command::new("setsid");
    let inner = lab.command();
    command.arg("--ctty").arg(inner.get_program()).args(inner.get_args()).env_remove("SUDO_UID");
    let share = || Some(programs.try_clone().unwrap());
    let streams = Streams { stdin: share(), stdout: share(), stderr: share() };
    let mut iou_fast = lab.start(command, streams);
    lab.connected();
    let said = terminal.read(SOON, |said| said.contains("\nready\r\n"));
    assert!(said.contains("\nready\r\n"), "{said}");

    // ^S, and ^Q some log lines later.
    terminal.press(b"\x13").unwrap();
    assert!(wait_until(SOON, || Terminal::is_held(&programs)));
    for _ in 0..3 {
        iou_fast.signal(Signal::HUP);
        lab.talk();
        lab.restart_the_router();
    }
    let again = |said: &str| said.matches("NETMAP reloaded").count();
    assert_eq!(again(&terminal.read(Duration::from_millis(200), |_| false)), 0);
    terminal.press(b"\x11").unwrap();
    let said = terminal.read(SOON, |said| again(said) == 3);
    assert_eq!(again(&said), 3, "{said}");
    drop(programs);

    drop(terminal);
    // It got a SIGHUP by that; and some more.
    for _ in 0..3 {
        lab.talk();
        iou_fast.signal(Signal::HUP);
        lab.restart_the_router();
    }
    assert!(iou_fast.exited().is_none());
    lab.end(&mut iou_fast);
}

/// Promise `log-blocked`.
#[test]
fn log_unread_delays_no_frame() {
    let mut lab = Lab::new();
    let (mut reader, pipe) = full_pipe();
    let mut command = lab.command();
    // Each new station is a line of the worker's.
    command.env("IOU_FAST_LOG", "debug");
    let mut iou_fast = lab.start(command, Streams { stderr: Some(pipe), ..Streams::default() });
    iou_fast.wait_for_line(|line| line == "ready", SOON).unwrap();
    lab.connected();
    let strain = Strain::measure();
    let mut longest = Duration::ZERO;
    for round in 0..20u8 {
        lab.many_stations(round);
        iou_fast.signal(Signal::HUP);
        longest = longest.max(lab.talk());
    }
    let limit = Duration::from_millis(100) + strain.sum();
    assert!(longest < limit, "a frame took {longest:?}, more than {limit:?}");
    // Control is at its work, too.
    lab.restart_the_router();

    // It is read again: here is what was said, and how much is missing.
    let read = std::thread::spawn(move || {
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        said
    });
    lab.talk();
    lab.end(&mut iou_fast);
    assert_balanced(&iou_fast);
    let said = read.join().unwrap();
    assert!(said.matches(" is behind 1:0/0").count() > 500, "{}", said.len());
    assert!(said.contains("ran for "), "the last words of the log");
    assert!(said.contains(" messages are missing here"), "{}", said.len());

    // It is never read: the end does not wait for long.
    let (reader, pipe) = full_pipe();
    let mut iou_fast = lab.start(lab.command(), Streams { stderr: Some(pipe), ..Streams::default() });
    iou_fast.wait_for_line(|line| line == "ready", SOON).unwrap();
    lab.connected();
    let took = lab.end(&mut iou_fast);
    assert!(took < Duration::from_secs(4) + strain.sum(), "{took:?}");
    assert_balanced(&iou_fast);
    drop(reader);
}

/// Promise `log-blocked`.
#[test]
fn stdout_unread_blocks_nothing() {
    let mut lab = Lab::new();
    // iou-fast | head -1
    let (reader, pipe) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut iou_fast = lab.start(lab.command(), Streams { stdout: Some(pipe), ..Streams::default() });
    let mut line = String::new();
    let mut reader = BufReader::new(File::from(reader));
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("eth0: router 1:0/0 via 513:0/0"), "{line}");
    drop(reader);
    lab.connected();
    lab.talk();
    lab.end(&mut iou_fast);
    assert!(!iou_fast.stderr().contains("panicked"), "{}", iou_fast.dump());

    // Closed from the start, both.
    let closed = || Some(pipe_with(PipeFlags::CLOEXEC).unwrap().1);
    let mut iou_fast =
        lab.start(lab.command(), Streams { stdout: closed(), stderr: closed(), ..Streams::default() });
    lab.connected();
    iou_fast.signal(Signal::HUP);
    lab.talk();
    lab.end(&mut iou_fast);

    // iou-fast | less
    let (reader, pipe) = full_pipe();
    let mut iou_fast = lab.start(lab.command(), Streams { stdout: Some(pipe), ..Streams::default() });
    lab.connected();
    // Control is at its work.
    lab.restart_the_router();
    iou_fast.signal(Signal::HUP);
    iou_fast.wait_for_line(|line| line.contains("NETMAP reloaded"), SOON).unwrap();
    lab.talk();
    lab.end(&mut iou_fast);
    drop(reader);
}
