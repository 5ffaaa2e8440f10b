//! A TAP device in a network namespace as the router. Needs root.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A network namespace that goes when dropped.
struct Namespace(String);

impl Namespace {
    fn new(tag: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and TAP devices: run it as root"
        );
        let name = format!("iou-tap-{tag}-{}", std::process::id());
        let namespace = Self(name);
        ip(&["netns", "add", &namespace.0]);
        namespace
    }

    fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.0], arguments].concat())
    }

    /// Runs a command in the namespace; its output, or a panic with it if the command fails.
    fn run(&self, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.0], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A running `iou-fast sim`, which is ready. Killed when dropped.
struct Sim(Child);

impl Sim {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = command(directory, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let sim = Self(child);
        assert_eq!(line, "ready\n");
        sim
    }

    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success());
        text
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iou-fast"));
    command
        .arg("sim")
        .arg("-n")
        .arg(directory.join("NETMAP"))
        .arg("--netio-dir")
        .arg(directory)
        .args(arguments);
    command
}

fn ip(arguments: &[&str]) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

#[test]
fn tap_kernel_is_the_router() {
    let namespace = Namespace::new("one");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("NETMAP"), "7:0/1 2:0/0\n").unwrap();
    let stack = Sim::start(directory.path(), &["--ids", "2"]);
    let tap = Sim::start(directory.path(), &["--ids", "7", "--tap", "e01", "--netns", &namespace.0]);

    let link = namespace.ip(&["link", "show", "e01"]);
    assert!(link.contains("aa:bb:cc:00:07:10"), "{link}");
    assert!(link.contains("mtu 1500") && link.contains("UP"), "{link}");
    assert!(!ip(&["link", "show"]).contains("aa:bb:cc:00:07:10"), "the device is in the namespace only");

    namespace.ip(&["address", "add", "10.10.0.8/16", "dev", "e01"]);
    namespace.ip(&["address", "add", "fd00:10::7/64", "dev", "e01", "nodad"]);
    // Full frames first, so that the address of the other end is resolved with a large packet waiting.
    namespace.run(&["ping", "-c3", "-i0.1", "-W2", "-Mdo", "-s1472", "10.10.0.3"]);
    namespace.run(&["ping", "-c3", "-i0.1", "-W2", "-Mdo", "-s1452", "fd00:10::2"]);

    let text = tap.stop();
    let line = text.lines().next().unwrap();
    assert!(line.starts_with("router 7 received=") && line.ends_with(" failed=0"), "{text}");
    assert!(line.contains(" short=0 wrong_id=0 wrong_interface=0 wrong_source=0 wrong_type=0 "), "{text}");
    assert!(!namespace.ip(&["link", "show"]).contains("e01"), "the device goes with the process");
    stack.stop();
}

#[test]
fn tap_jumbo_frames() {
    let namespaces = [Namespace::new("a"), Namespace::new("b")];
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("NETMAP"), "1:0/0 2:0/0\n").unwrap();
    let sims = [0, 1].map(|n| {
        let id = (n + 1).to_string();
        let file = format!("/run/netns/{}", namespaces[n].0);
        let sim =
            Sim::start(directory.path(), &["--ids", &id, "--tap", "e00", "--netns", &file, "--mtu", "3600"]);
        namespaces[n].ip(&["address", "add", &format!("10.5.0.{id}/24"), "dev", "e00"]);
        sim
    });
    namespaces[0].run(&["ping", "-c3", "-i0.1", "-W2", "-Mdo", "-s3572", "10.5.0.2"]);
    let text = sims.map(Sim::stop);
    assert!(text[0].contains(" failed=0") && !text[0].contains(" received=0 "), "{}", text[0]);
}

/// A bridge behind two TAP devices is an L2 image: what enters one interface leaves the other, tags and all.
#[test]
fn tap_passes_all_tags_and_sizes() {
    let namespace = Namespace::new("l2");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("NETMAP"), "3:0/0 9:0/0\n3:0/1 9:0/1\n").unwrap();
    let peer = UnixDatagram::bind(directory.path().join("9")).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // 1504: the kernel lets a frame with one tag be four bytes longer than the MTU, one with two not.
    let sim =
        Sim::start(directory.path(), &["--ids", "3", "--tap", "e", "--netns", &namespace.0, "--mtu", "1504"]);
    namespace.ip(&["link", "add", "br0", "type", "bridge"]);
    namespace.ip(&["link", "set", "br0", "up"]);
    namespace.ip(&["link", "set", "e0", "master", "br0"]);
    namespace.ip(&["link", "set", "e1", "master", "br0"]);

    let stations = [2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9];
    for tags in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]] {
        // 2 at least: the kernel looks for a type and two bytes more behind a tag.
        for payload in [2, 46, 100, 1500] {
            let payload: Vec<u8> = (0..payload).map(|n| n as u8).collect();
            let frame = [&stations[..], tags, &[0x88, 0xb5], &payload].concat();
            let into = [0, 3, 0, 9, 0, 0, 1, 0];
            peer.send_to(&[&into[..], &frame].concat(), directory.path().join("3")).unwrap();
            let mut datagram = [0; 4096];
            // The kernel also sends frames of its own.
            let received = loop {
                let received = peer.recv(&mut datagram);
                let length = received.unwrap_or_else(|e| panic!("{tags:x?}, {} bytes: {e}", frame.len()));
                if datagram[8..20] == stations {
                    break &datagram[..length];
                }
            };
            assert_eq!(received[..8], [0, 9, 0, 3, 0x10, 0x10, 1, 0]);
            assert_eq!(received[8..], frame);
        }
    }
    sim.stop();
}

#[test]
fn tap_device_per_interface() {
    let namespace = Namespace::new("many");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("NETMAP"), "3:1/0 9:0/0\n3:0/1 9:0/1\n3:0/0 9:0/2\n").unwrap();
    let sim = Sim::start(directory.path(), &["--ids", "3", "--tap", "e", "--netns", &namespace.0]);
    for (name, mac) in [("e0", "aa:bb:cc:00:03:00"), ("e1", "aa:bb:cc:00:03:10"), ("e2", "aa:bb:cc:00:03:01")]
    {
        let link = namespace.ip(&["link", "show", name]);
        assert!(link.contains(mac), "{link}");
    }
    // The same name again: refused, and the first stays.
    let second =
        command(directory.path(), &["--ids", "9", "--tap", "e", "--netns", &namespace.0]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("TAP device e0: create"), "{second:?}");
    namespace.ip(&["link", "show", "e2"]);
    sim.stop();
}

#[test]
fn tap_removed_exits_with_reason() {
    let namespace = Namespace::new("gone");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("NETMAP"), "3:0/0 9:0/0\n").unwrap();
    let mut child = command(directory.path(), &["--ids", "3", "--tap", "e", "--netns", &namespace.0])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let mut sim = Sim(child);
    namespace.ip(&["link", "delete", "e"]);
    let mut errors = String::new();
    sim.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(sim.0.wait().unwrap().code(), Some(1));
    assert!(errors.contains("router 3 cannot receive any more"), "{errors}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "only NETMAP is left");
}
