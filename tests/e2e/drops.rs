//! Every reason to drop a frame, provoked and counted exactly; and the frame accounting balances: what went in has come out or
//! stands in the summary under its reason.
//!
//! Elsewhere:
//! - Faults are forced in tests/e2e/measured/faults.rs.
//! - `too-large`: tests/e2e/jumbo.rs, `jumbo_above_limit_is_dropped_and_counted`.
//!
//! What cannot be provoked from outside:
//! - `no-chunk`: the bound of the backlogs leaves a reserve of chunks for whatever the sockets and rings can hold at once
//!   (`worker::backlog`, `stuck_routers_never_take_the_reserve`).
//! - `bad-descriptor`: the kernel writes none; `af_xdp::umem`, `the_kernel_cannot_give_back_what_it_was_not_given`, and
//!   `af_xdp::ring`, `an_invalid_index_of_the_other_side_stays_within_the_ring`.

use crate::common::{ARRIVAL, BROADCAST, Listener, Running, Scene, Summary, header, plain, tagged};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use testbed::{Router, Signal, Tag, VethOptions};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const R1: [u8; 6] = [0xaa, 0xbb, 0xcc, 0, 1, 0];
const R2: [u8; 6] = [0xaa, 0xbb, 0xcc, 0, 2, 0];
/// From routers 1 and 2, as the scenes here wire them.
const FROM_1: [u8; 8] = [0x01, 0xf5, 0, 1, 0, 0, 1, 0];
const FROM_2: [u8; 8] = [0x01, 0xf6, 0, 2, 0, 0, 1, 0];
/// What a router's queue holds by default.
const QUEUE: usize = 11;

fn scene() -> Scene {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    scene
}

fn start(scene: &Scene) -> Running {
    scene.start(&["-i", "eth0", "-p", "501,502"])
}

/// Only these drops, and no fault.
#[track_caller]
fn assert_drops(summary: &Summary, drops: &[(&str, u64)]) {
    let drops: Vec<(String, u64)> = drops.iter().map(|(why, count)| ((*why).to_string(), *count)).collect();
    assert_eq!(summary.dropped, drops, "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `drop-reasons` (Load): Each drop is counted exactly once, under its reason.
#[test]
fn drop_reasons_of_malformed_datagrams() {
    let scene = scene();
    let router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = start(&scene);
    let mut station = scene.station();
    let frame = plain(STATION, R1, 60, 1);
    let send = |datagram: &[&[u8]]| router.send_raw(501, &datagram.concat()).unwrap();

    // Shorter than a header and an Ethernet header: 8 + 14.
    for len in [0, 1, 7, 8, 21] {
        send(&[&[&FROM_1[..], &frame].concat()[..len]]);
    }
    // Longer than a chunk, all that is needed for a NIC of MTU 1500.
    send(&[&FROM_1, &plain(STATION, R1, 4033, 1)]);
    send(&[&FROM_1, &plain(STATION, R1, 9014, 1)]);
    // For another instance.
    send(&[&header(502, 0, 1, 0), &frame]);
    // For an interface that no line has.
    for interface in [0x01, 0x10, 0xff] {
        send(&[&header(501, interface, 1, 0), &frame]);
    }
    // From a sender that is not on the line: another interface, another router, ourselves, none.
    for (id, interface) in [(1, 0x10), (2, 0), (501, 0), (0, 0)] {
        send(&[&header(501, 0, id, interface), &frame]);
    }
    // No data: free, keepalive, channel 1.
    for (kind, channel) in [(0, 0), (3, 0), (2, 0), (0xff, 0)] {
        let mut header = FROM_1;
        (header[6], header[7]) = (kind, channel);
        send(&[&header, &frame]);
    }
    // Longer than the MTU allows, whatever the tags.
    let tags = [Tag::new(0x88a8, 5), Tag::vlan(6)];
    for count in 0..=2 {
        send(&[&FROM_1, &tagged(STATION, R1, &tags[..count], 1515 + 4 * count, 1)]);
    }
    // After all that a good one passes, and it alone.
    send(&[&FROM_1, &frame]);
    station.hear_this(&frame);
    station.hear_nothing();
    let summary = iou_fast.stop();
    let drops = [
        ("short", 5),
        ("too-long", 2),
        ("wrong-id", 1),
        ("wrong-interface", 3),
        ("wrong-source", 4),
        ("wrong-type", 4),
        ("above-mtu", 3),
    ];
    assert_drops(&summary, &drops);
    assert_eq!(summary.to_nics, (1, 60));
}

#[test]
fn dropped_frames_teach_no_address() {
    let scene = scene();
    let router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = start(&scene);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    let mac = [0, 0, 0x0c, 7, 0xac, 9];
    router.send(501, header(501, 0, 1, 0x10), &plain(STATION, mac, 60, 1)).unwrap();
    let good = plain(STATION, R1, 60, 2);
    router.send(501, FROM_1, &good).unwrap();
    station.hear_this(&good);
    let answer = plain(mac, STATION, 60, 3);
    station.send(&answer).unwrap();
    host.hear_this(&answer);
    assert_drops(&iou_fast.stop(), &[("wrong-source", 1)]);
}

#[test]
fn drop_nic_down_counted_while_routers_are_read() {
    let scene = scene();
    let (router, mut other) = (scene.deep_router(1), scene.deep_router(2));
    let mut iou_fast = start(&scene);
    scene.host.ip("link set eth0 down").unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("eth0: down"), ARRIVAL).unwrap();

    // More than a pseudo socket's queue holds: without a reader the router would sleep.
    let begin = Instant::now();
    for number in 0..6000 {
        router.send(501, FROM_1, &plain(STATION, R1, 60, number)).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "the router was blocked for {:?}", begin.elapsed());
    // Routers go on hearing each other.
    let between = plain(R2, R1, 60, 6000);
    router.send(501, FROM_1, &between).unwrap();
    other.hear_this(&between);

    scene.host.ip("link set eth0 up").unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("eth0: up"), ARRIVAL).unwrap();
    let mut station = scene.station();
    let good = plain(STATION, R1, 60, 6001);
    router.send(501, FROM_1, &good).unwrap();
    station.hear_this(&good);
    let answer = plain(R2, STATION, 60, 6002);
    station.send(&answer).unwrap();
    other.hear_this(&answer);
    let summary = iou_fast.stop();
    assert_drops(&summary, &[("nic-down", 6000)]);
    assert_eq!((summary.to_nics.0, summary.between.0, summary.to_routers.0), (1, 1, 1));
}

/// Promise `drop-reasons`.
#[test]
fn drop_by_driver_is_counted() {
    let scene = scene();
    let router = scene.deep_router(1);
    let iou_fast = start(&scene);
    let mut station = scene.station();
    // A veth refuses what the other end's MTU does not allow.
    scene.wire.ip("link set eth0 mtu 1000").unwrap();
    for number in 0..10 {
        router.send(501, FROM_1, &plain(STATION, R1, 1400, number)).unwrap();
    }
    let good = plain(STATION, R1, 60, 10);
    router.send(501, FROM_1, &good).unwrap();
    station.hear_this(&good);
    let summary = iou_fast.stop();
    assert_drops(&summary, &[("nic-refused", 10)]);
    assert_eq!(summary.to_nics.0, 1, "{}", summary.text);
}

/// Promise `drop-reasons`.
#[test]
fn drop_router_absent() {
    let scene = scene();
    let router = scene.deep_router(1);
    let iou_fast = start(&scene);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    for number in 0..5 {
        station.send(&plain(R2, STATION, 60, number)).unwrap();
    }
    for number in 5..8 {
        router.send(501, FROM_1, &plain(R2, R1, 60, number)).unwrap();
    }
    // A broadcast or multicast frame reaches everybody else.
    let group = plain(BROADCAST, R1, 60, 8);
    router.send(501, FROM_1, &group).unwrap();
    station.hear_this(&group);
    host.hear_nothing();
    assert_drops(&iou_fast.stop(), &[("router-down", 5 + 3 + 1)]);
}

#[test]
fn drop_backlog_of_router_that_left() {
    let scene = scene();
    let (mut first, second) = (scene.deep_router(1), Router::new(&scene.netio(), 2).unwrap());
    let mut iou_fast = start(&scene);
    let station = scene.station();
    let frames: Vec<_> = (0..50).map(|number| plain(R2, STATION, 60, number)).collect();
    station.send_batch(&frames).unwrap();
    // In order: what follows finds the first 50 handled.
    let mark = plain(R1, STATION, 60, 50);
    station.send(&mark).unwrap();
    first.hear_this(&mark);
    drop(second);
    station.send(&plain(R2, STATION, 60, 51)).unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("router 2 disconnected"), ARRIVAL).unwrap();
    let summary = iou_fast.stop();
    assert_drops(&summary, &[("router-down", 51 - QUEUE as u64)]);
    assert_eq!(summary.to_routers.0, 1 + QUEUE as u64);
}

/// Promise `backlog`.
#[test]
fn drop_stale_after_one_second() {
    let scene = scene();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = start(&scene);
    let station = scene.station();
    let frames: Vec<_> = (0..100).map(|number| plain(R1, STATION, 60, number)).collect();
    station.send_batch(&frames).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(router.hear(QUEUE), Vec::from_iter(0..QUEUE as u64));
    router.hear_nothing();
    // It is served again at once.
    let fresh = plain(R1, STATION, 60, 100);
    station.send(&fresh).unwrap();
    router.hear_this(&fresh);
    let summary = iou_fast.stop();
    assert_drops(&summary, &[("stale", 100 - QUEUE as u64)]);
    assert_eq!(summary.to_routers.0, QUEUE as u64 + 1);
}

#[test]
fn drop_backlog_at_shutdown_is_counted() {
    let scene = scene();
    let (_stuck, mut router) = (Router::new(&scene.netio(), 1).unwrap(), scene.deep_router(2));
    let iou_fast = start(&scene);
    let station = scene.station();
    let frames: Vec<_> = (0..100).map(|number| plain(R1, STATION, 60, number)).collect();
    station.send_batch(&frames).unwrap();
    let mark = plain(R2, STATION, 60, 100);
    station.send(&mark).unwrap();
    router.hear_this(&mark);
    let summary = iou_fast.stop();
    // On a slow machine some have become stale before.
    assert_eq!(summary.drops("stopped") + summary.drops("stale"), 100 - QUEUE as u64, "{}", summary.text);
    assert_eq!(summary.to_routers.0, QUEUE as u64 + 1);
}

/// Promise `accounting` (Load): The frame accounting balances at the end of every run of every test: each
/// frame that came in went out or is counted under a drop reason.
#[test]
fn router_paused_at_backlog_limit_and_accounting_balances() {
    let scene = scene();
    let mut stuck = Router::new(&scene.netio(), 1).unwrap();
    let mut router = scene.deep_router(2);
    let mut iou_fast = start(&scene);
    let mut station = scene.station();
    let mut sent = 0;
    let mut flood = |count: usize| {
        let frames: Vec<_> = (0..count).map(|n| plain(R1, STATION, 60, (sent + n) as u64)).collect();
        sent += count;
        station.send_batch(&frames).unwrap();
    };
    // What arrives while the worker cannot look, an RX ring full of it, finds the backlog nearly at its bound.
    flood(2000);
    let mark = plain(R2, STATION, 60, 1);
    scene.station().send(&mark).unwrap();
    router.hear_this(&mark);
    iou_fast.process.signal(Signal::STOP);
    flood(2000);
    iou_fast.process.signal(Signal::CONT);
    // And now it is paused: some of this is dropped before it costs anything.
    flood(6000);
    // The other router hardly notices, in both directions.
    scene.station().send(&mark).unwrap();
    router.hear_this(&mark);
    let answer = plain(STATION, R2, 60, 2);
    router.send(502, FROM_2, &answer).unwrap();
    station.hear_this(&answer);

    // The router reads again: what it gets is in order, and it is served as before.
    let mut numbers = Vec::new();
    while let Some(frame) = stuck.next_test_frame(Duration::from_millis(1500)) {
        numbers.push(testbed::frame::check(&frame).unwrap().seq);
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "order");
    let fresh = plain(R1, STATION, 60, 99_999);
    station.send(&fresh).unwrap();
    stuck.hear_this(&fresh);

    let summary = iou_fast.stop();
    let drops = |why| usize::try_from(summary.drops(why)).unwrap();
    // On a machine that is busy with other tests the worker may be late: what exceeds its credits is `worker-busy`.
    let [full, paused, stale, busy] = ["router-full", "router-paused", "stale", "worker-busy"].map(drops);
    assert!(full > 0 && paused > 0, "{}", summary.text);
    let all = full + paused + stale + busy;
    assert_eq!(numbers.len() + all, sent, "{}", summary.text);
    assert_eq!(summary.dropped.iter().map(|(_, count)| count).sum::<u64>(), all as u64);
    assert_eq!(summary.to_routers.0 as usize, numbers.len() + 3, "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

#[test]
fn bum_frames_beyond_ring_buffer_reach_the_host() {
    const FRAMES: u64 = 2000;
    let scene = scene();
    let mut routers = [scene.deep_router(1), scene.deep_router(2)];
    let mut iou_fast = start(&scene);
    let (station, mut host) = (scene.station(), scene.host_station());
    let frames: Vec<_> = (0..FRAMES).map(|number| plain(BROADCAST, STATION, 60, number)).collect();
    iou_fast.process.signal(Signal::STOP);
    station.send_batch(&frames).unwrap();
    assert_eq!(host.hear(frames.len()), Vec::from_iter(0..FRAMES));
    iou_fast.process.signal(Signal::CONT);
    // Of the storm the first ones, in order; then new ones.
    let mut heard = 0;
    for router in &mut routers {
        let mut numbers = Vec::new();
        while let Some(frame) = router.next_test_frame(Duration::from_millis(500)) {
            numbers.push(testbed::frame::check(&frame).unwrap().seq);
        }
        assert_eq!(numbers, Vec::from_iter(0..numbers.len() as u64));
        assert!(!numbers.is_empty());
        heard = numbers.len() as u64;
    }
    let fresh = plain(BROADCAST, STATION, 60, FRAMES);
    station.send(&fresh).unwrap();
    routers.iter_mut().for_each(|router| router.hear_this(&fresh));
    let summary = iou_fast.stop();
    assert_drops(&summary, &[("multicast-overflow", FRAMES - heard)]);
    assert_eq!(summary.to_routers.0, 2 * (heard + 1));
}

/// Promise `drop-reasons`.
#[test]
fn drop_refused_by_kernel_then_next_frames_pass() {
    let scene = scene();
    let mut router = scene.deep_router(2);
    // A socket that is connected to another one takes datagrams from that one only: EPERM.
    let (path, friend) = (scene.netio().join("1"), scene.directory().join("friend"));
    let strange = UnixDatagram::bind(&path).unwrap();
    let _friend = UnixDatagram::bind(&friend).unwrap();
    let mut iou_fast = start(&scene);
    iou_fast.process.wait_for_line(|line| line.contains("router 1 connected"), ARRIVAL).unwrap();
    strange.connect(&friend).unwrap();
    let station = scene.station();
    for number in 0..3 {
        station.send(&plain(R1, STATION, 60, number)).unwrap();
    }
    let group = plain(BROADCAST, STATION, 60, 3);
    station.send(&group).unwrap();
    router.hear_this(&group);
    router.send(502, FROM_2, &plain(R1, R2, 60, 4)).unwrap();
    let mark = plain(R2, STATION, 60, 5);
    station.send(&mark).unwrap();
    router.hear_this(&mark);
    assert_drops(&iou_fast.stop(), &[("send-failed", 5)]);
}

#[test]
fn flood_while_stopped_is_dropped_early_and_counted() {
    const FRAMES: u64 = 5000;
    let scene = scene();
    let mut router = scene.deep_router(1);
    let mut iou_fast = start(&scene);
    let station = scene.station();
    let frames: Vec<_> = (0..FRAMES).map(|number| plain(R1, STATION, 60, number)).collect();
    iou_fast.process.signal(Signal::STOP);
    station.send_batch(&frames).unwrap();
    iou_fast.process.signal(Signal::CONT);
    let mut heard = 0;
    while router.next_test_frame(Duration::from_millis(500)).is_some() {
        heard += 1;
    }
    // The ring is filled again: it goes on.
    let fresh = plain(R1, STATION, 60, FRAMES);
    station.send(&fresh).unwrap();
    router.hear_this(&fresh);
    let summary = iou_fast.stop();
    assert!(0 < heard && heard < FRAMES, "{heard} heard\n{}", summary.text);
    assert_drops(&summary, &[("worker-busy", FRAMES - heard)]);
    assert_eq!(summary.to_routers.0, heard + 1);
}
