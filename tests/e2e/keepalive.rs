//! L1 keepalives: the interface of a router started with `-l` follows the carrier of its NIC.

use crate::common::{SOON, Scene};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use testbed::{Process, VethOptions, wait_until};

/// The routers' timers: iou-fast sends one a second, so this is the shortest that a busy machine bears.
const TIMEOUT: Duration = Duration::from_millis(2500);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(3);

const TIMERS: &[&str] = &["-l", "--keepalive-period", "200", "--keepalive-timeout", "2500"];

/// How often the router's interface went `state`.
fn times(sim: &Process, interface: &str, state: &str) -> usize {
    let line = format!("interface {interface} {state}");
    sim.stdout().lines().filter(|printed| *printed == line).count()
}

/// Waits until the interface went `state` for the `count`-th time; how long that took.
#[track_caller]
fn await_state(sim: &Process, interface: &str, state: &str, count: usize, limit: Duration) -> Duration {
    let start = Instant::now();
    let came = wait_until(limit, || times(sim, interface, state) >= count);
    assert!(came, "interface {interface} is not {state} after {limit:?}\n{}", sim.dump());
    assert_eq!(times(sim, interface, state), count, "{}", sim.dump());
    start.elapsed()
}

/// Promise `keepalive` (Switch images and link state): The interface of a router that uses L1 keepalives goes
/// down with the carrier and comes back with it.
#[test]
fn keepalive_interface_follows_the_carrier() {
    let scene = Scene::with_nics(&["eth0", "eth1"], &VethOptions::default());
    // One pseudo instance for both NICs, and one interface whose cable has no other end.
    scene.netmap("1:0/0 501:0/0\n1:0/1 501:0/1\n2:0/0 502:0/0\n2:0/1 3:0/1\n");
    let sim = scene.simulate("1,2", TIMERS);
    let iou_fast = scene.start(&["-i", "eth0", "-i", "eth1=501:0/1", "-p", "501,502"]);
    // That cable has no other end.
    await_state(&sim, "2:0/1", "down", 1, TIMEOUT + SLACK);
    std::thread::sleep(TIMEOUT);
    for interface in ["1:0/0", "1:0/1", "2:0/0"] {
        assert_eq!(times(&sim, interface, "down"), 0, "{}", sim.dump());
    }
    let log = iou_fast.process.stderr();
    assert_eq!(log.lines().filter(|line| line.contains("routers use L1 keepalives")).count(), 1, "{log}");

    // The cable is pulled at the far end; then the NIC itself is taken down.
    for (round, side) in [(1, &scene.wire), (2, &scene.host)] {
        side.ip("link set eth0 down").unwrap();
        for interface in ["1:0/0", "2:0/0"] {
            await_state(&sim, interface, "down", round, TIMEOUT + SLACK);
        }
        // They are silent now, and come back all the same.
        side.ip("link set eth0 up").unwrap();
        for interface in ["1:0/0", "2:0/0"] {
            await_state(&sim, interface, "up", round, SLACK);
        }
        // The other NIC kept its cable.
        assert_eq!(times(&sim, "1:0/1", "down"), 0, "{}", sim.dump());
    }

    // Without iou-fast there is no cable at all; its sockets are gone.
    iou_fast.stop();
    let netl1 = scene.directory().join("netl1");
    assert!(!netl1.join("L1501").exists() && netl1.join("L11").exists());
    for (interface, before) in [("1:0/0", 2), ("1:0/1", 0), ("2:0/0", 2)] {
        await_state(&sim, interface, "down", before + 1, TIMEOUT + SLACK);
    }
}

/// Promise `keepalive`.
#[test]
fn keepalive_router_may_start_later_or_restart() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let sim = scene.simulate("1", TIMERS);
    std::thread::sleep(TIMEOUT + Duration::from_secs(1));
    assert_eq!(times(&sim, "1:0/0", "down"), 0, "{}\n{}", sim.dump(), iou_fast.process.dump());
    // What a killed run leaves behind is replaced.
    iou_fast.kill();
    await_state(&sim, "1:0/0", "down", 1, TIMEOUT + SLACK);
    assert!(scene.directory().join("netl1/L1501").exists());
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    await_state(&sim, "1:0/0", "up", 1, SLACK);
    iou_fast.stop().assert_clean();
}

/// Promise `keepalive-descriptors`.
#[test]
fn keepalive_fifty_routers_on_one_pseudo_id() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    std::fs::create_dir(scene.directory().join("netl1")).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let socket = scene.directory().join("netl1/L1501");
    assert!(wait_until(SOON, || socket.exists()), "{}", iou_fast.process.dump());
    // All at the same moment, three times.
    let router = UnixDatagram::unbound().unwrap();
    router.set_nonblocking(true).unwrap();
    for n in 0..3 * 50 {
        router
            .send_to(&[0x01, 0xf5, 0, 1, 0, 0, 3, 0], &socket)
            .unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    iou_fast.stop();
}

/// Promise `keepalive-descriptors` (Faults): L1 keepalives go on without free descriptors; one that cannot be
/// sent is logged once; many routers behind one pseudo id each get theirs.
#[test]
fn keepalive_without_descriptors() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let sim = scene.simulate("1,2", TIMERS);
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501,502"]);
    let ready = || iou_fast.process.stderr().contains("routers use L1 keepalives");
    assert!(wait_until(SOON, ready), "{}", iou_fast.process.dump());
    iou_fast.process.take_descriptors().unwrap();
    std::thread::sleep(TIMEOUT + Duration::from_secs(1));
    for interface in ["1:0/0", "2:0/0"] {
        assert_eq!(times(&sim, interface, "down"), 0, "{}\n{}", sim.dump(), iou_fast.process.dump());
    }
    iou_fast.process.give_descriptors().unwrap();
    iou_fast.stop().assert_clean();
}

/// Promise `keepalive-descriptors`.
#[test]
fn keepalive_send_failure_is_logged_once() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let netl1 = scene.directory().join("netl1");
    std::fs::create_dir(&netl1).unwrap();
    // No socket for datagrams.
    let listen = |id| std::os::unix::net::UnixListener::bind(netl1.join(format!("L1{id}"))).unwrap();
    let _others = [listen(1), listen(2)];
    let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501,502"]);
    let said = "no L1 keepalive can be sent to 1:0/0: Protocol wrong type for socket (os error 91) (1 others neither)";
    iou_fast.process.wait_for_line(|line| line.contains(said), SOON).unwrap();
    std::thread::sleep(Duration::from_millis(2200));
    let log = iou_fast.process.stderr();
    assert_eq!(log.matches("no L1 keepalive").count(), 1, "{log}");
    iou_fast.stop();
}

/// Promise `keepalive-unused` (Switch images and link state): Where no router uses L1 keepalives no socket is
/// made for them; a flood of them does no harm.
#[test]
fn keepalive_unused_makes_no_socket() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    let sim = scene.simulate("1", &[]);
    let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!scene.directory().join("netl1").exists());

    // A directory of another user's is not used, and the log says so once.
    let netl1 = scene.directory().join("netl1");
    std::fs::create_dir(&netl1).unwrap();
    std::os::unix::fs::chown(&netl1, Some(4242), None).unwrap();
    iou_fast
        .process
        .wait_for_line(|line| line.contains("belongs to user 4242, not to user 0"), SOON)
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let log = iou_fast.process.stderr();
    assert_eq!(log.lines().filter(|line| line.contains("belongs to user 4242")).count(), 1, "{log}");
    assert_eq!(netl1.read_dir().unwrap().count(), 0);
    drop(sim);
    iou_fast.stop();
}

/// Promise `keepalive-unused`.
#[test]
fn keepalive_flood_is_harmless() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    let directory = scene.directory().join("elsewhere");
    let elsewhere = directory.to_str().unwrap();
    let sim = scene.simulate("1", &[TIMERS, &["--netl1-dir", elsewhere]].concat());
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--netl1-dir", elsewhere]);
    assert!(wait_until(SOON, || directory.join("L1501").exists()), "{}", iou_fast.process.dump());
    let flood = UnixDatagram::unbound().unwrap();
    flood.set_nonblocking(true).unwrap();
    let before = iou_fast.process.cpu_time().unwrap();
    let start = Instant::now();
    while start.elapsed() < TIMEOUT + Duration::from_secs(1) {
        let _ = flood.send_to(&[0xff; 8], directory.join("L1501"));
        std::thread::sleep(Duration::from_micros(50));
    }
    let used = iou_fast.process.cpu_time().unwrap() - before;
    assert!(used < start.elapsed() / 10, "{used:?} of CPU");
    assert_eq!(times(&sim, "1:0/0", "down"), 0, "{}", sim.dump());
    iou_fast.stop().assert_clean();
}
