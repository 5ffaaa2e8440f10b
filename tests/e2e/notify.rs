//! What a service manager is told, over a socket of the test's own in its place: ready, reloading, a line of status, signs of
//! life that stop when a worker stands still, the end.

mod measured;

use crate::common::crowd::{WAIT, classroom, number, to_router, wait_until_connected};
use crate::common::{Running, SOON, Scene};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use testbed::{Process, Router, Signal, VethOptions};

/// The end of the socket that systemd has.
struct Manager {
    socket: UnixDatagram,
    /// What came, and when.
    heard: Vec<(Instant, String)>,
}

impl Manager {
    fn new(scene: &Scene) -> Self {
        let path = scene.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // As systemd has it.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// Starts `iou-fast` and waits until it is ready, with a watchdog of so many microseconds if not 0.
    fn start(&mut self, scene: &Scene, arguments: &[&str], watchdog: Duration) -> Running {
        let mut command = scene.command(arguments);
        command.env("NOTIFY_SOCKET", scene.directory().join("notify"));
        if !watchdog.is_zero() {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let mut process = Process::spawn(&mut command).unwrap();
        process.wait_for_line(|line| line == "ready", SOON).unwrap();
        Running { process }
    }

    /// The next message, if one comes within `timeout`.
    fn hear(&mut self, timeout: Duration) -> Option<&str> {
        self.socket.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).ok()?;
        self.heard.push((Instant::now(), String::from_utf8(buffer[..len].to_vec()).unwrap()));
        Some(&self.heard.last()?.1)
    }

    /// The next message that `wanted` accepts.
    #[track_caller]
    fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        while let Some(message) = self.hear(end.saturating_duration_since(Instant::now())) {
            if wanted(message) {
                return message.to_owned();
            }
        }
        panic!("heard {:#?}", self.heard);
    }

    /// How many messages with this line have come and come within `time`.
    fn count(&mut self, line: &str, time: Duration) -> usize {
        let end = Instant::now() + time;
        let before = self.heard.len();
        while Instant::now() < end {
            self.hear(end.saturating_duration_since(Instant::now()));
        }
        self.heard[before..].iter().filter(|(_, message)| message.lines().any(|l| l == line)).count()
    }
}

fn has(line: &str) -> impl Fn(&str) -> bool {
    move |message| message.lines().any(|l| l == line)
}

fn status(text: &str) -> impl Fn(&str) -> bool {
    move |message| message.lines().any(|l| l.starts_with("STATUS=") && l.contains(text))
}

fn lab(routers: u16) -> (Scene, Manager) {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(routers));
    let manager = Manager::new(&scene);
    (scene, manager)
}

/// Time since boot, as MONOTONIC_USEC is given.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Promise `notify-ready` (The service): A service manager is notified when frames flow and when shutdown
/// begins, and of nothing by a start that fails.
#[test]
fn notify_ready_once_and_stopping() {
    let (scene, mut manager) = lab(2);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = manager.start(&scene, &["-i", "eth0"], Duration::ZERO);
    assert_eq!(manager.hear(SOON), Some("READY=1\nSTATUS=1 of 2 routers up, 1 of 1 NICs up"));
    // Frames flow then.
    scene.station().send(&to_router(1, 1)).unwrap();
    assert!(router.recv_where(WAIT, |_, frame| number(frame) == Some(1)).is_some());
    assert_eq!(manager.count("READY=1", Duration::from_secs(2)), 0, "{:?}", manager.heard);
    // Without WATCHDOG_USEC there are no signs of life, and while nothing is different, nothing at all.
    assert_eq!(manager.heard.len(), 1, "{:?}", manager.heard);
    iou_fast.stop();
    assert_eq!(manager.hear(SOON), Some("STOPPING=1\nSTATUS=stopping"));
    assert_eq!(manager.hear(Duration::ZERO), None);
}

/// Promise `notify-ready`.
#[test]
fn notify_not_ready_on_failed_start() {
    let (scene, mut manager) = lab(1);
    let mut command = scene.command(&["-i", "eth7"]);
    command.env("NOTIFY_SOCKET", scene.directory().join("notify"));
    let mut process = Process::spawn(&mut command).unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(1), "{}", process.dump());
    assert_eq!(manager.hear(Duration::from_millis(100)), None);
}

/// Promise `notify-reload` (The service): A service manager is notified of each reload; the status says which
/// routers and NICs are up and the result of the last reload, once per second at most.
#[test]
fn notify_reloading_on_sighup_and_file_change() {
    let (scene, mut manager) = lab(1);
    let mut iou_fast = manager.start(&scene, &["-i", "eth0"], Duration::ZERO);
    manager.wait_for(has("READY=1"));
    let mut reload = |change: &mut dyn FnMut(), result: &str| {
        let before = now();
        change();
        let message = manager.wait_for(has("RELOADING=1"));
        let after = now();
        let time = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect(&message);
        let time: u64 = time.parse().unwrap();
        assert!((before..=after).contains(&time), "{before} {time} {after}");
        // The very next news.
        let message = manager.hear(SOON).unwrap().to_owned();
        assert!(has("READY=1")(&message) && status(result)(&message), "{message}");
    };
    reload(&mut || iou_fast.process.signal(Signal::HUP), "NETMAP reloaded: no link is different");
    reload(
        &mut || scene.netmap(&classroom(2)),
        "0 of 2 routers up, 1 of 1 NICs up. NETMAP reloaded: added 2:0/0",
    );
    reload(
        &mut || scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/x\n"),
        "NETMAP reload failed; keeping the current topology: ",
    );
    reload(&mut || iou_fast.process.signal(Signal::HUP), "NETMAP:2:7");
    reload(&mut || scene.netmap(&classroom(2)), "1 of 1 NICs up. NETMAP reloaded: no link is different");
    iou_fast.stop();
}

/// Promise `watchdog`.
#[test]
fn watchdog_of_other_process_is_ignored() {
    let (scene, mut manager) = lab(1);
    let mut command = scene.command(&["-i", "eth0"]);
    command.env("NOTIFY_SOCKET", scene.directory().join("notify"));
    command.env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    manager.wait_for(has("READY=1"));
    assert_eq!(manager.count("WATCHDOG=1", Duration::from_secs(1)), 0);
    Running { process }.stop();
}

/// Promise `notify-socket`.
#[test]
fn notify_abstract_socket() {
    let (scene, _) = lab(1);
    let name = format!("iouf-notify-{}", std::process::id());
    // Abstract names belong to a network namespace.
    let (socket, name) = scene
        .host
        .enter(move || {
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
            let address = rustix::net::SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
            bind(&socket, &address).unwrap();
            (socket, name)
        })
        .unwrap();
    let mut manager = Manager { socket: socket.into(), heard: Vec::new() };
    let mut command = scene.command(&["-i", "eth0"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    manager.wait_for(has("READY=1"));
    Running { process }.stop();
}

/// Promise `notify-socket` (The service): A service manager that does not listen, or is absent, blocks
/// nothing; abstract sockets and labs of other users work too.
#[test]
fn notify_absent_or_deaf_manager_blocks_nothing() {
    // One whose queue is full: it is not read until the end.
    let (scene, mut manager) = lab(1);
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"X=1", scene.directory().join("notify")).is_ok() {}
    let iou_fast = manager.start(&scene, &["-i", "eth0"], Duration::from_secs(1));
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    wait_until_connected(&scene.station(), &mut router, 1);
    std::thread::sleep(Duration::from_secs(2));
    // What is told late is how things are by then.
    let message = manager.wait_for(has("READY=1"));
    assert!(status("1 of 1 routers up")(&message), "{message}");
    manager.wait_for(has("WATCHDOG=1"));

    // One that ends, and starts again.
    drop(manager);
    std::fs::remove_file(scene.directory().join("notify")).unwrap();
    let warned = |process: &Process| process.stderr().matches("service manager cannot be told").count();
    assert!(testbed::wait_until(SOON, || warned(&iou_fast.process) == 1), "{}", iou_fast.process.dump());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(warned(&iou_fast.process), 1, "{}", iou_fast.process.dump());
    scene.station().send(&to_router(1, 3)).unwrap();
    assert!(router.recv_where(WAIT, |_, frame| number(frame) == Some(3)).is_some());
    let mut manager = Manager::new(&scene);
    manager.wait_for(has("WATCHDOG=1"));
    iou_fast.stop();

    // What is no address is named, and forwarding does without.
    let mut command = scene.command(&["-i", "eth0"]);
    command.env("NOTIFY_SOCKET", "vsock:2:9").env("WATCHDOG_USEC", "200000");
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    assert!(process.stderr().contains("NOTIFY_SOCKET is \"vsock:2:9\""), "{}", process.dump());
    Running { process }.stop();
}

/// Promise `notify-socket`.
#[test]
fn notify_with_lab_of_other_user() {
    let (scene, mut manager) = lab(1);
    let netio = scene.netio();
    std::os::unix::fs::chown(&netio, Some(65534), Some(65534)).unwrap();
    let iou_fast = manager.start(&scene, &["-i", "eth0", "--uid", "65534"], Duration::from_secs(1));
    manager.wait_for(has("READY=1"));
    manager.wait_for(has("WATCHDOG=1"));
    manager.wait_for(has("WATCHDOG=1"));
    iou_fast.stop();
    manager.wait_for(has("STOPPING=1"));
}
