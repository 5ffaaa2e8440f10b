//! Faults, which must not happen, brought about by force: each is counted, under its name and among no others, and all
//! goes on. Root opens what a running `iou-fast` shares with its XDP program, and breaks the rules there.

use crate::common::crowd::{from_router, number, to_all, to_router};
use crate::common::tables::Tables;
use crate::common::{Listener, Running, SOON, Scene, Summary};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use testbed::{Router, Signal, VethOptions, wait_until};

/// Places in a worker's RX ring: RING_MAX in src/control/nics.rs.
const RX_RING: u64 = 2048;

fn scene() -> Scene {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/0\n");
    scene
}

fn start(scene: &Scene, arguments: &[&str]) -> (Running, Tables) {
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", "513,514"], arguments].concat());
    let tables = Tables::of(&iou_fast.process);
    (iou_fast, tables)
}

/// These faults and no others, and no frame dropped for a reason.
#[track_caller]
fn assert_faults(summary: &Summary, faults: &[(&str, u64)]) {
    let faults: Vec<(String, u64)> =
        faults.iter().map(|(name, count)| ((*name).to_string(), *count)).collect();
    assert_eq!(summary.faults, faults, "{}", summary.text);
    assert!(summary.dropped.is_empty(), "{}", summary.text);
}

/// Sends `frames` frames to router 1 while iou-fast stands still, and reads until one comes that was sent after them.
fn flood(
    scene: &Scene,
    iou_fast: &mut Running,
    tables: &Tables,
    router: &mut Router,
    frames: u64,
) -> Vec<u64> {
    // Without this a credits takes what its ring does, and the rest is `worker-busy`.
    tables.shared.credit_limit.store(i32::MAX as u32, Relaxed);
    let station = scene.station();
    iou_fast.process.signal(Signal::STOP);
    station.send_batch(&(0..frames).map(|seq| to_router(1, seq)).collect::<Vec<_>>()).unwrap();
    iou_fast.process.signal(Signal::CONT);
    let mut heard = router.hear(RX_RING as usize);
    station.send(&to_router(1, frames)).unwrap();
    heard.extend(router.hear(1));
    heard
}

/// Promise `fault-counters` (Load): Faults (an empty fill ring, a full RX or TX ring, a lost wake-up, a
/// missing socket) are counted under their names, and forwarding goes on.
#[test]
fn fault_empty_fill_ring_is_counted() {
    const FRAMES: u64 = RX_RING + 1000;
    let scene = scene();
    let mut router = scene.deep_router(1);
    let (mut iou_fast, tables) = start(&scene, &[]);
    let heard = flood(&scene, &mut iou_fast, &tables, &mut router, FRAMES);
    assert_eq!(heard, (0..RX_RING).chain([FRAMES]).collect::<Vec<_>>());
    let summary = iou_fast.stop();
    // One fault by two names: what happened, and what it cost.
    assert_faults(&summary, &[("fill-ring-empty", 1000), ("rx-dropped", 1000)]);
}

/// Promise `fault-counters`.
#[test]
fn fault_full_rx_ring_is_counted() {
    const FRAMES: u64 = RX_RING + 1000;
    let scene = scene();
    let mut router = scene.deep_router(1);
    // The workers' fill ring has chunks for both.
    let (mut iou_fast, tables) = start(&scene, &["--cpus", "0,1"]);
    let heard = flood(&scene, &mut iou_fast, &tables, &mut router, FRAMES);
    assert_eq!(heard, (0..RX_RING).chain([FRAMES]).collect::<Vec<_>>());
    assert_faults(&iou_fast.stop(), &[("rx-ring-full", 1000)]);
}

/// Promise `fault-counters`.
#[test]
fn fault_missing_xsk_socket_is_counted() {
    let scene = scene();
    let mut router = scene.deep_router(1);
    let (iou_fast, tables) = start(&scene, &[]);
    let station = scene.station();
    station.send(&to_router(1, 0)).unwrap();
    router.hear_this(&to_router(1, 0));
    tables.remove_ring();
    for seq in 1..=3 {
        station.send(&to_router(1, seq)).unwrap();
    }
    router.hear_nothing();
    // Broadcast and multicast frames go another way.
    station.send(&to_all(4)).unwrap();
    router.hear_this(&to_all(4));
    let summary = iou_fast.stop();
    assert_eq!(summary.drops("router-down"), 1, "router 2 is not there\n{}", summary.text);
    assert_eq!(summary.faults, [("no-ring".to_string(), 3)], "{}", summary.text);
}

/// Sends a broadcast or multicast frame to the worker, which sleeps, but says that it is awake: the XDP program does not
/// wake it. Returns how late router 1 got it.
fn send_unnoticed(scene: &Scene, tables: &Tables, router: &mut Router, seq: u64) -> Duration {
    let (station, frame) = (scene.station(), to_all(seq));
    let asleep = &tables.shared.asleep[0];
    assert!(wait_until(SOON, || asleep.load(Relaxed) == 1), "the worker does not sleep");
    asleep.store(0, Relaxed);
    let sent = Instant::now();
    station.send(&frame).unwrap();
    router.hear_this(&frame);
    sent.elapsed()
}

/// Promise `fault-counters`.
#[test]
fn fault_lost_wakeup_at_rest_is_counted() {
    let scene = scene();
    let mut routers = [1, 2].map(|id| scene.deep_router(id));
    let (iou_fast, tables) = start(&scene, &[]);
    // It looks once a second whether it should have been woken, and may do so just then.
    let late = (0..3).map(|seq| send_unnoticed(&scene, &tables, &mut routers[0], seq)).collect::<Vec<_>>();
    let summary = iou_fast.stop();
    let overslept = late.iter().filter(|late| **late > Duration::from_millis(50)).count() as u64;
    assert!(overslept > 0, "{late:?}");
    assert_faults(&summary, &[("lost-wakeup", overslept)]);
}

/// Promise `fault-counters`.
#[test]
fn fault_lost_wakeup_with_backlog_is_counted() {
    let scene = scene();
    let (mut router, mut stuck) = (scene.deep_router(1), Router::new(&scene.netio(), 2).unwrap());
    let (iou_fast, tables) = start(&scene, &[]);
    let station = scene.station();
    let mut late = Vec::new();
    for seq in 0..3 {
        // More than its queue takes. While they wait the worker looks ten times a second.
        station.send_batch(&(0..20).map(|n| to_router(2, 100 * seq + n)).collect::<Vec<_>>()).unwrap();
        late.push(send_unnoticed(&scene, &tables, &mut router, seq));
        while stuck.next_test_frame(Duration::from_millis(50)).is_some() {}
    }
    let summary = iou_fast.stop();
    assert!(late.iter().any(|late| *late > Duration::from_millis(15)), "{late:?}");
    let lost = summary.faults.first().map_or(0, |(_, count)| *count);
    assert!((1..=3).contains(&lost), "{late:?}\n{}", summary.text);
    assert_faults(&summary, &[("lost-wakeup", lost)]);
}

/// Promise `fault-counters`.
#[test]
fn fault_full_tx_ring_is_counted() {
    let scene = scene();
    let router = scene.deep_router(1);
    let (iou_fast, _tables) = start(&scene, &[]);
    // What arrives on the wire lies in the queue of a device that sends next to nothing on: the kernel takes no more
    // from the socket that it came from. The routers wait for the NIC for a second; after that their frames go nowhere.
    let tc = |arguments: &str| drop(scene.wire.run("tc", arguments.split(' ')).unwrap());
    scene.wire.ip("link add ifb0 type ifb").unwrap();
    scene.wire.ip("link set ifb0 up").unwrap();
    tc("qdisc add dev ifb0 root tbf rate 8bit burst 1600 limit 100000000");
    tc("qdisc add dev eth0 ingress");
    tc(
        "filter add dev eth0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev ifb0",
    );
    const FRAMES: u64 = 3 * RX_RING;
    for seq in 0..FRAMES {
        from_router(&router, 1, seq);
    }
    // It is read again: all is in the ring or was thrown away.
    std::thread::sleep(Duration::from_secs(2));
    tc("qdisc del dev ifb0 root");
    tc("qdisc del dev eth0 ingress");
    let mut station = scene.station();
    let fresh = || {
        from_router(&router, 1, FRAMES);
        station.recv_where(Duration::from_millis(100), |frame| number(frame) == Some(FRAMES)).is_some()
    };
    assert!(wait_until(SOON, fresh), "it does not send again\n{}", iou_fast.process.dump());
    let summary = iou_fast.stop();
    let faults: Vec<&str> = summary.faults.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(faults, ["tx-ring-full"], "{}", summary.text);
    assert!(summary.drops("nic-refused") > 0, "{}", summary.text);
}
