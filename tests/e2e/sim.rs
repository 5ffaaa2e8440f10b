//! The simulated routers as a process, with the real command line. No root needed.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running `iou-fast sim`, which is ready. Killed when dropped.
struct Sim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sim {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = command(directory, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        Self { child, lines }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// Ends it with SIGTERM; returns what it printed, and asserts that it exits with 0.
    fn stop(mut self) -> Vec<String> {
        self.signal(rustix::process::Signal::TERM);
        let lines = (&mut self.lines).map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        lines
    }

    /// CPU time used so far, in clock ticks (user and system).
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|n| n.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iou-fast"));
    command
        .arg("sim")
        .arg("-n")
        .arg(directory.join("NETMAP"))
        .arg("--netio-dir")
        .arg(directory.join("netio"))
        .args(arguments);
    command
}

/// A directory with a NETMAP that bridges routers 1 to `routers` to pseudo id 1001, and a netio directory.
fn directory(routers: u16) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let netmap: String =
        (1..=routers).map(|id| format!("{id}:0/0 1001:{}/{}\n", id % 16, id / 16 % 16)).collect();
    std::fs::write(directory.path().join("NETMAP"), netmap).unwrap();
    std::fs::create_dir(directory.path().join("netio")).unwrap();
    directory
}

fn left_over(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("netio")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// ARP request from 02:00:00:00:00:09, 10.10.255.9, for 10.10.0.`host`, to interface 0/0 of router `id`.
fn arp_request(id: u8, host: u8) -> Vec<u8> {
    let mut datagram = vec![0, id, 0x03, 0xe9, 0, (id % 16) | ((id / 16) << 4), 1, 0];
    datagram.extend([0xff; 6]);
    datagram.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 10, 255, 9]);
    datagram.extend([0, 0, 0, 0, 0, 0, 10, 10, 0, host]);
    datagram.extend([0; 18]);
    datagram
}

#[test]
fn sim_answers_counts_and_cleans_up() {
    let directory = directory(3);
    let forwarder = UnixDatagram::bind(directory.path().join("netio/1001")).unwrap();
    forwarder.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sim = Sim::start(directory.path(), &["--ids", "1-2,3"]);

    forwarder.send_to(&arp_request(2, 3), directory.path().join("netio/2")).unwrap();
    let mut answer = [0; 256];
    let length = forwarder.recv(&mut answer).unwrap();
    assert_eq!(answer[..8], [0x03, 0xe9, 0, 2, 2, 0, 1, 0]);
    assert_eq!(answer[8..20], [2, 0, 0, 0, 0, 9, 0xaa, 0xbb, 0xcc, 0, 2, 0]);
    assert_eq!((length, answer[29]), (8 + 42, 2));

    // For router 2, but given to router 3.
    forwarder.send_to(&arp_request(2, 3), directory.path().join("netio/3")).unwrap();
    // One more, so that what was sent before has been read.
    forwarder.send_to(&arp_request(3, 4), directory.path().join("netio/3")).unwrap();
    forwarder.recv(&mut answer).unwrap();

    let lines = sim.stop();
    let pairs = |line: &str, wanted: &[&str]| {
        let words: Vec<_> = line.split(' ').collect();
        assert!(wanted.iter().all(|word| words.contains(word)), "{line}");
    };
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("router 1 received=0 received_bytes=0 sent=0 "), "{}", lines[0]);
    pairs(
        &lines[1],
        &["router", "2", "received=1", "received_bytes=60", "sent=1", "sent_bytes=42", "wrong_id=0"],
    );
    pairs(&lines[2], &["router", "3", "received=1", "sent=1", "wrong_id=1"]);
    pairs(&lines[3], &["total", "received=2", "sent=2", "wrong_id=1", "wrong_source=0"]);
    assert_eq!(left_over(directory.path()), ["1001"]);
}

#[test]
fn sim_refuses_id_in_use_and_names_owner() {
    let directory = directory(3);
    let sim = Sim::start(directory.path(), &["--ids", "2"]);
    let message = failure(&command(directory.path(), &["--ids", "1-3"]).output().unwrap());
    assert!(message.contains(&format!("2.lck is held by process {}", sim.child.id())), "{message}");
    let mut left = left_over(directory.path());
    left.sort();
    assert_eq!(left, ["2", "2.lck"], "the refused one removes its own files and no others");
    sim.stop();
}

#[test]
fn sim_restarts_after_kill() {
    let directory = directory(1);
    for _ in 0..3 {
        let sim = Sim::start(directory.path(), &["--ids", "1"]);
        drop(sim);
        assert_eq!(left_over(directory.path()).len(), 2, "killed: the files stay");
    }
    Sim::start(directory.path(), &["--ids", "1"]).stop();
    assert!(left_over(directory.path()).is_empty());
}

#[test]
fn sim_sink_reports_what_it_received() {
    let directory = directory(2);
    let mut sim = Sim::start(directory.path(), &["--ids", "1-2", "--sink"]);
    let sender = UnixDatagram::unbound().unwrap();
    for _ in 0..500 {
        sender.send_to(&arp_request(1, 2), directory.path().join("netio/1")).unwrap();
        sender.send_to(&arp_request(2, 3), directory.path().join("netio/2")).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        sim.signal(rustix::process::Signal::USR1);
        let line = sim.line();
        if line == "received 1000 60000" {
            break;
        }
        assert!(Instant::now() < end, "{line}");
    }
    assert!(sim.stop()[2].starts_with("total received=1000 received_bytes=60000 sent=0 "));
}

#[test]
fn sim_thousand_routers_idle() {
    let directory = directory(1000);
    let forwarder = UnixDatagram::bind(directory.path().join("netio/1001")).unwrap();
    forwarder.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sim = Sim::start(directory.path(), &["--ids", "1-1000"]);
    for id in 1..200 {
        forwarder.send_to(&arp_request(id, id + 1), directory.path().join(format!("netio/{id}"))).unwrap();
        let mut answer = [0; 64];
        forwarder.recv(&mut answer).unwrap();
        assert_eq!(answer[14..20], [0xaa, 0xbb, 0xcc, 0, id, 0]);
    }
    let before = sim.ticks();
    std::thread::sleep(Duration::from_secs(1));
    // A tick is 10 ms: one at most, and that only if it was under way.
    assert!(sim.ticks() - before <= 1, "busy while idle");
    assert_eq!(sim.stop().len(), 1001);
}

#[test]
fn sim_explains_command_line_mistakes() {
    let directory = directory(2);
    let run = |arguments: &[&str]| command(directory.path(), arguments).output().unwrap();
    assert!(failure(&run(&["--ids", "1-3"])).contains("router 3 has no interface in NETMAP"));
    assert!(failure(&run(&["--ids", "1,2", "--tap", "t", "--netns", "none"])).contains("exactly one id"));
    assert!(failure(&run(&["--ids", "2", "--ipv6", "fd00::/128"])).contains("no address for router 2"));
    for (arguments, hint) in [
        (&["--ids", "0-3"][..], "`0` is not an id"),
        (&["--ids", "3-1"], "write 1-3"),
        (&["--ids", "1", "--echo", "--sink"], "cannot be used with"),
        (&["--ids", "1", "--tap", "t"], "--netns"),
        (&["--ids", "1", "--ipv4", "10.0.0.1/8"], "first of its network"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(hint), "{message}");
    }
    assert!(left_over(directory.path()).is_empty());
}
