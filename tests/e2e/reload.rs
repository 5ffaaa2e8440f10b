//! The NETMAP changes while frames flow: links, interfaces and routers come and go in place, the others lose nothing; a
//! faulty file is refused whole.

mod measured;

use crate::common::crowd::{
    Crowd, STATION, WAIT, classroom, median, number, pseudo_ids, to_router, wait_until_all_connected,
    wait_until_connected, while_frames_flow,
};
use crate::common::{ARRIVAL, Listener, Running, SOON, Scene, header, plain, router_mac};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use testbed::{Router, RouterOptions, Signal, VethOptions};

/// Routers 1 and 2, and these, each opposite 512 + its id.
fn wiring(others: &[u16]) -> String {
    others.iter().fold(classroom(2), |text, id| text + &format!("{id}:0/0 {}:0/0\n", 512 + id))
}

/// Puts a new file in the NETMAP's place, as editors do.
fn replace(scene: &Scene, text: &str) {
    let new = scene.netmap_file().with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, scene.netmap_file()).unwrap();
}

/// How many lines of the log hold `text`.
fn lines(iou_fast: &Running, text: &str) -> usize {
    iou_fast.process.stderr().lines().filter(|line| line.contains(text)).count()
}

/// Waits until `count` lines of the log hold `text`.
#[track_caller]
fn wait_for(iou_fast: &Running, text: &str, count: usize) {
    let there = testbed::wait_until(SOON, || lines(iou_fast, text) >= count);
    assert!(there, "not {count} lines with {text:?}\n{}", iou_fast.process.dump());
}

/// A frame from router `id` as IOU sends it, by path, from whatever socket.
fn send_from(socket: &UnixDatagram, netio: &Path, id: u16, seq: u64) -> std::io::Result<usize> {
    let frame = plain(STATION, router_mac(id, 0, 0), 64, seq);
    socket.send_to(&[&header(512 + id, 0, id, 0)[..], &frame].concat(), netio.join((512 + id).to_string()))
}

/// A frame each way between router `id` and the wire.
#[track_caller]
fn carries(scene: &Scene, router: &mut Router, id: u16) {
    let mut station = scene.station();
    wait_until_connected(&station, router, id);
    crate::common::crowd::from_router(router, id, 5);
    let got =
        station.recv_where(WAIT, |frame| number(frame) == Some(5) && frame[6..12] == router_mac(id, 0, 0));
    got.expect("the router's frame on the wire");
}

/// Promise `reload`.
#[test]
fn netmap_reload_adds_router_to_split_horizon_group() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/0\n");
    let iou_fast = scene.start(&["-i", "eth0"]);
    let mut routers = [1, 2, 3].map(|id| Router::new(&scene.netio(), id).unwrap());
    carries(&scene, &mut routers[0], 1);
    carries(&scene, &mut routers[1], 2);
    scene.netmap("1:0/0 3:0/0 513:0/0\n2:0/0 514:0/0\n");
    wait_for(
        &iou_fast,
        "added 3:0/0 via 513:0/0 on eth0; with another split-horizon group 1:0/0 via 513:0/0 on eth0",
        1,
    );
    wait_until_connected(&scene.station(), &mut routers[2], 3);
    // From the wire to all three; from router 1 to 2 by us, and to 3, as it does itself, not.
    let station = scene.station();
    station.send(&plain(crate::common::BROADCAST, STATION, 64, 1)).unwrap();
    for router in &mut routers {
        assert_eq!(router.hear(1), [1]);
    }
    let frame = plain(crate::common::BROADCAST, router_mac(1, 0, 0), 64, 2);
    routers[0].send(513, header(513, 0, 1, 0), &frame).unwrap();
    assert_eq!(routers[1].hear(1), [2]);
    routers[2].hear_nothing();
    assert!(iou_fast.stop().faults.is_empty());
}

/// Promise `reload-refused` (Faults): A NETMAP that has errors or asks for something impossible is refused
/// whole, with its errors, and the current topology stays.
#[test]
fn netmap_reload_keeps_topology_on_error() {
    let scene = Scene::silent(&["eth0", "eth1"], &VethOptions::default());
    let good = "1:0/0 513:0/0\n2:0/0 514:0/0\n";
    scene.netmap(good);
    let iou_fast = scene.start(&["-i", "eth0", "-i", "eth1=514"]);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    carries(&scene, &mut router, 1);
    let refused = "NETMAP reload failed; keeping the current topology";
    for (round, (text, why)) in [
        ("3:0/0 515:0/0\n1:0/0 513:0/0\n2:0/0 514:0/x\n", "NETMAP:3:7: \"514:0/x\""),
        ("", "the NETMAP is empty"),
        ("1:0/0 513:0/0\n1:0/1 513:0/0\n2:0/0 514:0/0\n", "513:0/0 stands on line 1 already"),
        ("3:0/0 515:0/0\n1:0/0 513:0/0\n", "-i eth1=514"),
    ]
    .into_iter()
    .enumerate()
    {
        replace(&scene, text);
        wait_for(&iou_fast, refused, round + 1);
        wait_for(&iou_fast, why, 1);
        assert!(!scene.netio().join("515").exists());
        carries(&scene, &mut router, 1);
    }
    // Gone for a while is no news; what it said before is none either.
    std::fs::remove_file(scene.netmap_file()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    replace(&scene, good);
    std::thread::sleep(Duration::from_millis(500));
    carries(&scene, &mut router, 1);
    assert_eq!((lines(&iou_fast, refused), lines(&iou_fast, "NETMAP reloaded")), (4, 0));
    assert!(iou_fast.stop().faults.is_empty());
}

/// Promise (Faults): SIGHUP reloads the NETMAP.
#[test]
fn netmap_reload_on_sighup() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(1));
    let mut iou_fast = scene.start(&["-i", "eth0"]);
    for round in 1..=3 {
        iou_fast.process.signal(Signal::HUP);
        wait_for(&iou_fast, "NETMAP reloaded: no link is different", round);
    }
    std::fs::remove_file(scene.netmap_file()).unwrap();
    iou_fast.process.signal(Signal::HUP);
    wait_for(&iou_fast, "cannot read the NETMAP", 1);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    carries(&scene, &mut router, 1);
    iou_fast.stop();
}

/// Promise `reload`.
#[test]
fn netmap_reload_through_symlink() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    let file = scene.directory().join("labs/ccnp");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, classroom(1)).unwrap();
    std::os::unix::fs::symlink(&file, scene.netmap_file()).unwrap();
    let iou_fast = scene.start(&["-i", "eth0"]);
    std::fs::write(&file, classroom(2)).unwrap();
    wait_for(&iou_fast, "added 2:0/0 via 514:0/0 on eth0", 1);
    carries(&scene, &mut Router::new(&scene.netio(), 2).unwrap(), 2);
    iou_fast.stop();
}

/// Without `-p` an id only looks like one of ours: it may be that of a router that starts again.
///
/// Promise (Faults): An id that a changed NETMAP shows to be a pseudo id, without `-p`, is left alone while
/// another process uses it, and taken when it has been free for five seconds.
#[test]
fn netmap_reload_takes_inferred_id_once_free() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(1));
    let iou_fast = scene.start(&["-i", "eth0"]);
    let options = RouterOptions { lock: true, ..RouterOptions::default() };
    let hold = |id| Router::with(&scene.netio(), id, &options).unwrap();
    let other = hold(514);
    // Beside one that can be had...
    replace(&scene, &wiring(&[3]));
    wait_for(&iou_fast, "514 looks like a pseudo id and is left alone: its lock is held by process", 1);
    wait_for(&iou_fast, "added 3:0/0 via 515:0/0 on eth0", 1);
    drop(other);
    std::thread::sleep(Duration::from_secs(2));
    let other = hold(514);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(lines(&iou_fast, "via 514:0/0"), 0, "{}", iou_fast.process.dump());
    drop(other);
    wait_for(&iou_fast, "added 2:0/0 via 514:0/0 on eth0", 1);
    carries(&scene, &mut Router::new(&scene.netio(), 2).unwrap(), 2);
    // ...and alone.
    let other = hold(516);
    replace(&scene, "4:0/0 516:0/0\n");
    wait_for(&iou_fast, "no pseudo instance id can be inferred", 1);
    drop(other);
    wait_for(&iou_fast, "added 4:0/0 via 516:0/0 on eth0; removed", 1);
    assert_eq!(lines(&iou_fast, "looks like a pseudo id"), 1, "{}", iou_fast.process.dump());
    assert!(iou_fast.stop().faults.is_empty());
}

/// Promise `reload-refused`.
#[test]
fn netmap_reload_refuses_pseudo_id_in_use() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(2));
    let iou_fast = scene.start(&["-i", "eth0", "-p", &pseudo_ids(2)]);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    replace(&scene, &classroom(1));
    wait_for(&iou_fast, "removed 2:0/0 via 514:0/0 on eth0", 1);
    let options = RouterOptions { lock: true, ..RouterOptions::default() };
    let other = Router::with(&scene.netio(), 514, &options).unwrap();
    replace(&scene, &classroom(2));
    wait_for(&iou_fast, &format!("514.lck is held by process {}", std::process::id()), 1);
    carries(&scene, &mut router, 1);
    // It is tried again, and that is no news.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(lines(&iou_fast, "514.lck is held by process"), 1, "{}", iou_fast.process.dump());
    drop(other);
    wait_for(&iou_fast, "added 2:0/0 via 514:0/0 on eth0", 1);
    carries(&scene, &mut Router::new(&scene.netio(), 2).unwrap(), 2);
    assert!(iou_fast.stop().faults.is_empty());
}
