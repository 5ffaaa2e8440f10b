//! Frames that are larger than a chunk of UMEM, on NICs whose MTU has them; and frames that are a little larger than the
//! MTU of their NIC: MPLS labels, QinQ.

use crate::common::{
    ARRIVAL, BROADCAST, Listener, Running, SOON, Scene, Summary, header, plain, router_mac, tagged,
};
use iou_fast::ether::Mac;
use iou_fast::sys::tap::Tap;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};
use testbed::{Router, Station, Tag, VethOptions, veth};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const R1: [u8; 6] = [0xaa, 0xbb, 0xcc, 0, 1, 0];
const R2: [u8; 6] = [0xaa, 0xbb, 0xcc, 0, 2, 0];
const FROM_1: [u8; 8] = [0x01, 0xf5, 0, 1, 0, 0, 1, 0];
const FROM_2: [u8; 8] = [0x01, 0xf6, 0, 2, 0, 0, 1, 0];

/// The largest unicast frames from the wire, in one to four chunks: 3840 bytes each, less 16 in the first.
const CHUNKS: [usize; 4] = [3824, 7664, 11_504, 15_344];
/// The largest frames from a router: chunks of 4096 bytes, less 64 in the first.
const DATAGRAM_CHUNKS: [usize; 4] = [4032, 8128, 12_224, 16_320];
/// A frame behind these is larger than any that is carried.
const LARGEST: usize = CHUNKS[3];
/// The largest copy of a broadcast or multicast frame.
const LARGEST_GROUP: usize = 16_360;

fn mtu(mtu: u32) -> VethOptions {
    VethOptions { mtu, ..VethOptions::default() }
}

fn scene(size: u32) -> Scene {
    let scene = Scene::silent(&["eth0"], &mtu(size));
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    scene
}

fn start(scene: &Scene, arguments: &[&str]) -> Running {
    scene.start(&[&["-i", "eth0", "-p", "501,502"], arguments].concat())
}

/// Sizes around every boundary that a frame of up to `most` bytes may cross, each followed by a small frame.
fn sizes(most: usize) -> Vec<usize> {
    let around = |edge: &usize| [edge - 1, *edge, edge + 1, edge + 2];
    // What the kernel puts into the first buffer of a frame, a page, what routers of old assume, MTU 9000.
    let others = [3520, 4096, 7616, 7900, 9014, 9018];
    let edges = CHUNKS.iter().chain(&DATAGRAM_CHUNKS).chain(&others);
    let mut sizes: Vec<usize> = edges.flat_map(around).chain([60, 1514, 2025, most - 1, most]).collect();
    sizes.retain(|size| *size <= most);
    sizes.sort_unstable();
    sizes.dedup();
    sizes.into_iter().enumerate().flat_map(|(n, size)| [size, 60 + n % 5]).collect()
}

/// `frames` frames one by one, so that no queue is the limit.
fn numbered(to: [u8; 6], from: [u8; 6], sizes: &[usize]) -> Vec<Vec<u8>> {
    sizes.iter().zip(0..).map(|(size, number)| plain(to, from, *size, number)).collect()
}

fn bytes(frames: &[Vec<u8>]) -> u64 {
    frames.iter().map(|frame| frame.len() as u64).sum()
}

/// Unicast, broadcast and multicast frames in both directions, and between routers: whole, in order, and counted.
fn every_way(scene: &Scene, size: usize, arguments: &[&str]) -> Summary {
    let mut routers = [scene.deep_router(1), scene.deep_router(2)];
    let iou_fast = start(scene, arguments);
    let stdout = iou_fast.process.stdout();
    assert!(stdout.contains(&format!(", frames up to {LARGEST} bytes,")), "{stdout}");
    let exclusive = arguments.contains(&"--exclusive");
    let (mut station, mut host) = (scene.station(), scene.host_station());

    let list = sizes((size + 14).min(LARGEST));
    let all = Vec::from_iter(0..list.len() as u64);
    let to_router = numbered(R1, STATION, &list);
    station.send_batch(&to_router).unwrap();
    assert_eq!(routers[0].hear(all.len()), all);
    let from_router = numbered(STATION, R1, &list);
    from_router.iter().for_each(|frame| routers[0].send(501, FROM_1, frame).unwrap());
    assert_eq!(station.hear(all.len()), all);
    let between = numbered(R2, R1, &list);
    between.iter().for_each(|frame| routers[0].send(501, FROM_1, frame).unwrap());
    assert_eq!(routers[1].hear(all.len()), all);

    // Broadcast and multicast frames from the wire go through a ring buffer, with room for 63 large ones at a time.
    for part in numbered(BROADCAST, STATION, &list).chunks(32) {
        station.send_batch(part).unwrap();
        let heard = routers[1].hear(part.len());
        assert!(heard.is_sorted() && routers[0].hear(part.len()) == heard);
        if !exclusive {
            assert_eq!(host.hear(part.len()), heard);
        }
    }
    let group = numbered(BROADCAST, R2, &list);
    group.iter().for_each(|frame| routers[1].send(502, FROM_2, frame).unwrap());
    assert_eq!(station.hear(all.len()), all);
    assert_eq!(routers[0].hear(all.len()), all);
    routers.iter_mut().for_each(Listener::hear_nothing);
    station.hear_nothing();
    host.hear_nothing();

    let summary = iou_fast.stop();
    summary.assert_clean();
    let (count, sum) = (all.len() as u64, bytes(&to_router));
    assert_eq!(summary.to_routers, (3 * count, 3 * sum), "{}", summary.text);
    assert_eq!(summary.to_nics, (2 * count, 2 * sum), "{}", summary.text);
    assert_eq!(summary.between, (2 * count, 2 * sum), "{}", summary.text);
    summary
}

/// Promise `jumbo` (Frames): Jumbo frames of every size up to 15,344 bytes pass whole and in order in both
/// directions, as broadcast and multicast, and between routers, where the MTU allows them.
#[test]
fn jumbo_every_size_passes_in_every_direction() {
    for size in [9000, 9216, LARGEST - 14] {
        every_way(&scene(size as u32), size, &[]);
    }
}

/// containerlab's links have an MTU of 9500, and say so of native XDP, too.
///
/// Promise `jumbo`.
#[test]
fn jumbo_on_containerlab_links() {
    let scene = scene(9500);
    let mut routers = [scene.deep_router(1), scene.deep_router(2)];
    let iou_fast = start(&scene, &[]);
    assert!(iou_fast.process.stdout().contains("eth0: native XDP"), "{}", iou_fast.process.stdout());
    let (mut station, mut host) = (scene.station(), scene.host_station());
    let list: Vec<usize> = (1400..9514).step_by(37).chain([9514]).collect();
    let all = Vec::from_iter(0..list.len() as u64);
    station.send_batch(&numbered(R1, STATION, &list)).unwrap();
    assert_eq!(routers[0].hear(all.len()), all);
    numbered(STATION, R1, &list).iter().for_each(|frame| routers[0].send(501, FROM_1, frame).unwrap());
    assert_eq!(station.hear(all.len()), all);
    // 2024 bytes are the largest that go into a small record of the ring buffer.
    let sizes = [60, 1514, 2024, 2025, 3824, 3825, 4096, 9014, 9514];
    station.send_batch(&numbered(BROADCAST, STATION, &sizes)).unwrap();
    for router in &mut routers {
        assert_eq!(router.hear(sizes.len()), Vec::from_iter(0..sizes.len() as u64));
    }
    assert_eq!(host.hear(sizes.len()), Vec::from_iter(0..sizes.len() as u64));
    iou_fast.stop().assert_clean();
}

/// Promise `jumbo`.
#[test]
fn jumbo_with_several_queues_and_workers() {
    let options = VethOptions { mtu: 9000, queues_rx: 2, queues_tx: 2, ..VethOptions::default() };
    let scene = Scene::silent(&["eth0"], &options);
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    every_way(&scene, 9000, &["--cpus", "0,1"]);
}

/// Promise `jumbo`.
#[test]
fn jumbo_in_generic_mode() {
    every_way(&scene(9000), 9000, &["--xdp-mode", "generic"]);
}

/// Promise `jumbo`.
#[test]
fn jumbo_with_exclusive() {
    every_way(&scene(9000), 9000, &["--exclusive"]);
}

/// Promise `drop-reasons`.
#[test]
fn jumbo_above_limit_is_dropped_and_counted() {
    let scene = scene(20_000);
    let mut routers = [scene.deep_router(1), scene.deep_router(2)];
    let mut iou_fast = start(&scene, &[]);
    let says = |line: &str| line.contains("its MTU is 20000, and frames above 15344 bytes are dropped");
    iou_fast.process.wait_for_line(says, SOON).unwrap();
    let (mut station, mut host) = (scene.station(), scene.host_station());

    // From the wire: unicast, group.
    let [first, second] = &mut routers;
    for (number, len) in (0..).zip([LARGEST, LARGEST + 1, 20_014, 60]) {
        station.send(&plain(R1, STATION, len, number)).unwrap();
    }
    assert_eq!(first.hear(2), [0, 3]);
    for (number, len) in (0..).zip([LARGEST + 1, LARGEST_GROUP, LARGEST_GROUP + 1, 20_014, 61]) {
        station.send(&plain(BROADCAST, STATION, len, number)).unwrap();
    }
    assert_eq!(host.hear(5), [0, 1, 2, 3, 4]);
    assert_eq!((first.hear(3), second.hear(3)), (vec![0, 1, 4], vec![0, 1, 4]));

    // From a router: to the wire, to the other router, to both.
    let most = DATAGRAM_CHUNKS[3];
    for to in [STATION, R2, BROADCAST] {
        for (number, len) in (0..).zip([most, most + 1, 20_014, 60]) {
            first.send(501, FROM_1, &plain(to, R1, len, number)).unwrap();
        }
        if to != R2 {
            assert_eq!(station.hear(2), [0, 3]);
        }
        if to != STATION {
            assert_eq!(second.hear(2), [0, 3]);
        }
    }
    let summary = iou_fast.stop();
    let dropped = [("too-large".to_string(), 2 + 2), ("too-long".to_string(), 3 * 2)];
    assert_eq!(summary.dropped, dropped, "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

#[test]
fn mtu_1500_logs_nothing_about_jumbo() {
    let scene = scene(1500);
    let iou_fast = start(&scene, &[]);
    assert!(!iou_fast.process.stdout().contains("frames up to"), "{}", iou_fast.process.stdout());
    let summary = iou_fast.stop();
    summary.assert_clean();
}

/// A router that does not read: its frames wait in the backlog, chunk by chunk, and are all there when it reads again.
///
/// Promise `jumbo-whole` (Frames): A jumbo frame waits for its router, is dropped or counted as one frame,
/// whole.
#[test]
fn jumbo_waits_for_router_that_does_not_read() {
    let scene = scene(9000);
    // The kernel's usual queue, which holds 11.
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let mut other = scene.deep_router(2);
    let iou_fast = start(&scene, &[]);
    let mut station = scene.station();
    let list = sizes(9014);
    let mark = |number| plain(R2, STATION, 60, number);

    // From the wire, from another router, and broadcast and multicast frames of both.
    let frames = numbered(R1, STATION, &list);
    station.send_batch(&frames).unwrap();
    station.send(&mark(1000)).unwrap();
    assert_eq!(other.hear(1), [1000]);
    assert_eq!(router.hear(frames.len()), Vec::from_iter(0..frames.len() as u64));

    for frame in numbered(R1, R2, &list) {
        other.send(502, FROM_2, &frame).unwrap();
    }
    let answer = plain(STATION, R2, 60, 0);
    other.send(502, FROM_2, &answer).unwrap();
    station.hear_this(&answer);
    assert_eq!(router.hear(frames.len()), Vec::from_iter(0..frames.len() as u64));

    let group = numbered(BROADCAST, STATION, &list[..50]);
    station.send_batch(&group).unwrap();
    assert_eq!(other.hear(50), Vec::from_iter(0..50));
    assert_eq!(router.hear(50), Vec::from_iter(0..50));
    for frame in numbered(BROADCAST, R2, &list[..50]) {
        other.send(502, FROM_2, &frame).unwrap();
    }
    assert_eq!(station.hear(50), Vec::from_iter(0..50));
    assert_eq!(router.hear(50), Vec::from_iter(0..50));
    iou_fast.stop().assert_clean();
}

/// More than the memory holds: whole frames are dropped and counted, others are not touched, and nothing leaks.
///
/// Promise `jumbo-whole`.
#[test]
fn jumbo_backlog_is_bounded_by_share() {
    const FRAMES: u64 = 4000;
    let scene = scene(9000);
    let mut stuck = Router::new(&scene.netio(), 1).unwrap();
    let mut router = scene.deep_router(2);
    let iou_fast = start(&scene, &[]);
    let (mut station, begin) = (scene.station(), Instant::now());
    for number in 0..FRAMES {
        station.send(&plain(R1, STATION, 9000, number)).unwrap();
        if number % 40 == 0 {
            station.send(&plain(R2, STATION, 9000, number)).unwrap();
            assert_eq!(router.hear(1), [number]);
        }
    }
    let answer = plain(STATION, R2, 9000, 1);
    router.send(502, FROM_2, &answer).unwrap();
    station.hear_this(&answer);
    let mut heard = Vec::new();
    while let Some(frame) = stuck.next_test_frame(Duration::from_millis(1500)) {
        heard.push(testbed::frame::check(&frame).unwrap().seq);
    }
    assert!(heard.is_sorted_by(|a, b| a < b), "order");
    let summary = iou_fast.stop();
    let [full, paused, stale] = ["router-full", "router-paused", "stale"].map(|why| summary.drops(why));
    let busy = summary.drops("worker-busy");
    // On a machine that takes longer, they get stale instead.
    assert!(full + paused > 0 || begin.elapsed() > Duration::from_secs(1), "{}", summary.text);
    assert_eq!(heard.len() as u64 + full + paused + stale + busy, FRAMES, "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// What still waits at the end is counted in frames, and its chunks are found.
///
/// Promise `jumbo-whole`.
#[test]
fn jumbo_backlog_at_shutdown_is_counted() {
    let scene = scene(9000);
    let (_stuck, mut router) = (Router::new(&scene.netio(), 1).unwrap(), scene.deep_router(2));
    let iou_fast = start(&scene, &[]);
    let station = scene.station();
    for number in 0..50 {
        station.send(&plain(R1, STATION, 9000, number)).unwrap();
    }
    let mark = plain(R2, STATION, 9000, 50);
    station.send(&mark).unwrap();
    router.hear_this(&mark);
    let summary = iou_fast.stop();
    let waited = summary.drops("stopped") + summary.drops("stale");
    assert_eq!(waited + summary.to_routers.0, 51, "{}", summary.text);
    assert!(waited > 0, "{}", summary.text);
}

/// Promise `jumbo`.
#[test]
fn jumbo_unknown_unicast_is_flooded_whole() {
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let scene = scene(9000);
    let mut routers = [scene.deep_router(1), scene.deep_router(2)];
    let iou_fast = start(&scene, &["--flood-unknown", "2:0/0"]);
    let mut station = scene.station();
    let [first, second] = &mut routers;
    for (number, len) in (0..).zip([3824, 3825, 4033, 9014]) {
        let sent = plain(STRANGER, STATION, len, number);
        station.send(&sent).unwrap();
        second.hear_this(&sent);
        let sent = plain(STRANGER, R1, len, number);
        first.send(501, FROM_1, &sent).unwrap();
        second.hear_this(&sent);
        station.hear_this(&sent);
    }
    iou_fast.stop().assert_clean();
}

/// Promise `mtu-changes` (Frames): A raised MTU is followed, and so is that of a NIC that replaces another.
#[test]
fn jumbo_follows_raised_mtu() {
    let scene = scene(1500);
    let mut router = scene.deep_router(1);
    let mut iou_fast = start(&scene, &[]);
    let mut station = scene.station();
    for namespace in [&scene.host, &scene.wire] {
        namespace.ip("link set eth0 mtu 9000").unwrap();
    }
    iou_fast.process.wait_for_line(|line| line.contains("eth0: up, MTU 9000"), SOON).unwrap();
    let list = sizes(9014);
    let all = Vec::from_iter(0..list.len() as u64);
    station.send_batch(&numbered(R1, STATION, &list)).unwrap();
    assert_eq!(router.hear(all.len()), all);
    // The worker is told a moment after the log says so: frames until then may be too long.
    let large = plain(STATION, R1, 9014, 5000);
    let end = Instant::now() + SOON;
    loop {
        router.send(501, FROM_1, &large).unwrap();
        if station.next_test_frame(Duration::from_millis(100)).is_some_and(|frame| frame == large) {
            break;
        }
        assert!(Instant::now() < end, "no large frame passes");
    }
    numbered(STATION, R1, &list).iter().for_each(|frame| router.send(501, FROM_1, frame).unwrap());
    assert_eq!(station.hear(all.len()), all);
    let summary = iou_fast.stop();
    assert!(summary.dropped.iter().all(|(why, _)| why == "too-long"), "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `mtu-changes`.
#[test]
fn jumbo_follows_mtu_of_replaced_nic() {
    for sizes_of_nics in [[9000, 1500, 9000], [1500, 9000, 1500]] {
        let options = |mtu| VethOptions { mtu, queues_rx: 2, queues_tx: 2, ..VethOptions::default() };
        let scene = Scene::silent(&["eth0"], &options(sizes_of_nics[0]));
        scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
        let mut routers = [scene.deep_router(1), scene.deep_router(2)];
        let iou_fast = start(&scene, &["--cpus", "0,1"]);
        for (round, size) in sizes_of_nics.into_iter().enumerate() {
            if round > 0 {
                scene.host.ip("link del eth0").unwrap();
                let gone =
                    || iou_fast.process.stderr().lines().filter(|line| line.contains("eth0 is gone")).count();
                assert!(testbed::wait_until(SOON, || gone() == round), "{}", iou_fast.process.dump());
                veth((&scene.wire, "eth0"), (&scene.host, "eth0"), &options(size)).unwrap();
                scene.silence(&["eth0"]);
            }
            let mut station = scene.station();
            let (list, most) = (sizes(size as usize + 14), size as usize + 14);
            let all = Vec::from_iter(0..list.len() as u64);
            // Large frames pass in both directions from some moment on.
            let (down, up) = (plain(R1, STATION, most, 5000), plain(STATION, R1, most, 5001));
            let carries = testbed::wait_until(SOON, || {
                let _ = station.send(&down);
                let a_while = Duration::from_millis(20);
                routers[0].recv_where(a_while, |_, frame| frame == down).is_some() && {
                    routers[0].send(501, FROM_1, &up).unwrap();
                    station.recv_where(a_while, |frame| frame == up).is_some()
                }
            });
            assert!(carries, "{size}\n{}", iou_fast.process.dump());
            while station.recv(Duration::from_millis(50)).is_some() {}
            routers.iter_mut().for_each(|router| while router.recv(Duration::from_millis(50)).is_some() {});

            station.send_batch(&numbered(R1, STATION, &list)).unwrap();
            assert_eq!(routers[0].hear(all.len()), all, "{size}");
            numbered(STATION, R1, &list)
                .iter()
                .for_each(|frame| routers[0].send(501, FROM_1, frame).unwrap());
            assert_eq!(station.hear(all.len()), all, "{size}");
            // Datagrams of several chunks stay what they were for once.
            let between = sizes(9014);
            numbered(R2, R1, &between).iter().for_each(|frame| routers[0].send(501, FROM_1, frame).unwrap());
            if size == 9000 || sizes_of_nics[0] == 9000 {
                assert_eq!(routers[1].hear(between.len()), Vec::from_iter(0..between.len() as u64), "{size}");
            } else {
                while routers[1].recv(Duration::from_millis(50)).is_some() {}
            }
            numbered(BROADCAST, R2, &list)
                .iter()
                .for_each(|frame| routers[1].send(502, FROM_2, frame).unwrap());
            assert_eq!(station.hear(all.len()), all, "{size}");
            assert_eq!(routers[0].hear(all.len()), all, "{size}");
        }
        let summary = iou_fast.stop();
        let expected = ["nic-down", "nic-refused", "router-down", "too-long"];
        assert!(summary.dropped.iter().all(|(why, _)| expected.contains(&why.as_str())), "{}", summary.text);
        assert!(summary.faults.is_empty(), "{}", summary.text);
    }
}

/// The kernel at the other end leaves the checksum of a large datagram to a NIC that is none.
///
/// Promise `checksums`.
#[test]
fn jumbo_checksums_are_completed() {
    let scene = Scene::silent(&["eth0"], &mtu(9000));
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let mut router = scene.deep_router(1);
    let iou_fast = start(&scene, &[]);
    scene.wire.ip("addr add 10.9.0.9/24 dev eth0").unwrap();
    scene.wire.ip("neigh add 10.9.0.1 lladdr aa:bb:cc:00:01:00 dev eth0").unwrap();
    for len in [3700, 3791, 3792, 8972] {
        let data: Vec<u8> = (0..len).map(|n| (n * 31 + n / 256) as u8).collect();
        let sent = scene.wire.enter(|| UdpSocket::bind("10.9.0.9:0")?.send_to(&data, "10.9.0.1:5000"));
        assert_eq!(sent.unwrap().unwrap(), len);
        let is_udp = |frame: &[u8]| frame.len() == 42 + len && frame[12..14] == [8, 0] && frame[23] == 17;
        let (_, frame) = router.recv_where(ARRIVAL, |_, frame| is_udp(frame)).expect("the datagram");
        assert!(frame[42..] == data, "{len} bytes");
        // Pseudo-header and segment sum up to all ones.
        let pseudo = [&frame[26..34], &[0, 17], &frame[38..40]].concat();
        let words = pseudo.chunks(2).chain(frame[34..].chunks(2));
        let mut sum: u32 =
            words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff, "{len} bytes");
    }
    iou_fast.stop().assert_clean();
}

// ---- A little more than the MTU ----

/// A frame with tags and MPLS labels around an IP packet of `len` bytes.
fn labelled(to: [u8; 6], from: [u8; 6], tags: &[Tag], labels: usize, len: usize) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for tag in tags {
        frame.extend([tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()].concat());
    }
    frame.extend([0x88, 0x47]);
    for n in 1..=labels {
        frame.extend([0, n as u8, if n == labels { 0x11 } else { 0x10 }, 64]);
    }
    frame.extend([0x45, 0]);
    frame.extend((len as u16).to_be_bytes());
    frame.extend((4..len).map(|n| (n * 7 + n / 256 + labels) as u8));
    frame
}

const QINQ: [Tag; 2] = [Tag::new(0x88a8, 5), Tag::vlan(6)];

/// Tags and labels of frames around a packet of 1500 bytes: 1518 to 1534 bytes.
const BABY_GIANTS: [(&[Tag], usize); 6] =
    [(&[], 1), (&[], 3), (&[Tag::vlan(7)], 1), (&[Tag::vlan(7)], 3), (&QINQ, 1), (&QINQ, 3)];

/// As on a link whose MTU of 1500 is that of MPLS, too: nothing is larger than usual.
///
/// Promise `labels-and-tags` (Frames): MPLS frames, QinQ and baby giants pass: VLAN tags and MPLS labels do
/// not count against the MTU.
#[test]
fn mpls_frames_pass_in_both_directions() {
    let scene = scene(1500);
    let mut router = scene.deep_router(1);
    let iou_fast = start(&scene, &[]);
    let mut station = scene.station();
    for labels in [1, 2, 3] {
        let len = 1500 - 4 * labels;
        let sent = labelled(R1, STATION, &[], labels, len);
        station.send(&sent).unwrap();
        assert!(router.recv(ARRIVAL).expect("the frame").1 == sent);
        let sent = labelled(STATION, R1, &[], labels, len);
        router.send(501, FROM_1, &sent).unwrap();
        assert!(station.recv(ARRIVAL).expect("the frame") == sent);
    }
    iou_fast.stop().assert_clean();
}

/// A packet of 1500 bytes behind labels, on NICs of 1500: a veth hands over what its *receiver's* MTU and 18 bytes allow.
///
/// Promise `labels-and-tags`.
#[test]
fn mpls_labels_and_vlan_tags_exceed_the_mtu() {
    let scene = scene(1500);
    scene.wire.ip("link set eth0 mtu 1600").unwrap();
    let mut router = scene.deep_router(1);
    let iou_fast = start(&scene, &[]);
    let mut station = scene.station();
    for (tags, labels) in BABY_GIANTS {
        let sent = labelled(STATION, R1, tags, labels, 1500);
        router.send(501, FROM_1, &sent).unwrap();
        assert!(station.recv(ARRIVAL).expect("the frame") == sent, "{tags:?}, {labels} labels");
    }
    let qinq = tagged(STATION, R1, &QINQ, 1522, 1);
    router.send(501, FROM_1, &qinq).unwrap();
    station.hear_this(&qinq);
    // Back, as much as a veth of 1500 takes.
    let sent = labelled(R1, STATION, &[], 1, 1500);
    station.send(&sent).unwrap();
    assert!(router.recv(ARRIVAL).expect("the frame").1 == sent);
    let sent = tagged(R1, STATION, &QINQ, 1518, 1);
    station.send(&sent).unwrap();
    router.hear_this(&sent);
    // A packet that is larger itself does not go.
    for sent in [1, 3].map(|labels| labelled(STATION, R1, &[], labels, 1501)) {
        router.send(501, FROM_1, &sent).unwrap();
    }
    router.send(501, FROM_1, &plain(STATION, R1, 1515, 1)).unwrap();
    let mark = plain(STATION, R1, 60, 2);
    router.send(501, FROM_1, &mark).unwrap();
    station.hear_this(&mark);
    let summary = iou_fast.stop();
    assert_eq!(summary.dropped, [("above-mtu".to_string(), 3)], "{}", summary.text);
}

/// A NIC that takes them: a TAP device of MTU 1500, whose wire is this test.
///
/// Promise `labels-and-tags`.
#[test]
fn baby_giants_pass_mtu_1500() {
    let scene = Scene::with_nics(&[], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    scene.host.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    let namespace = Path::new("/run/netns").join(scene.host.name());
    let wire = Tap::create("eth0", Mac([2, 0, 0, 0, 0, 1]), 1500, &namespace).unwrap();
    let mut router = scene.deep_router(1);
    let iou_fast = start(&scene, &[]);
    let next = || {
        let (mut frame, end) = (vec![0; 20_000], Instant::now() + ARRIVAL);
        loop {
            match wire.recv(&mut frame) {
                Ok(len) => return frame[..len].to_vec(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    for (tags, labels) in BABY_GIANTS {
        let sent = labelled(R1, STATION, tags, labels, 1500);
        wire.send(&sent).unwrap();
        let got = router.recv_where(ARRIVAL, |_, frame| frame == sent);
        assert!(got.is_some(), "{tags:?}, {labels} labels, to the router");
        let sent = labelled(STATION, R1, tags, labels, 1500);
        router.send(501, FROM_1, &sent).unwrap();
        assert!(next() == sent, "{tags:?}, {labels} labels, from the router");
    }
    for (tags, len) in [(&[][..], 1514), (&QINQ[..1], 1518), (&QINQ, 1522)] {
        let sent = tagged(R1, STATION, tags, len, 1);
        wire.send(&sent).unwrap();
        router.hear_this(&sent);
        let sent = tagged(STATION, R1, tags, len, 1);
        router.send(501, FROM_1, &sent).unwrap();
        assert!(next() == sent, "{len} bytes");
    }
    // From the wire all is welcome that the NIC hands over.
    let sent = plain(R1, STATION, 1600, 1);
    wire.send(&sent).unwrap();
    router.hear_this(&sent);
    iou_fast.stop().assert_clean();
}

/// One LAN's frames may be large though another NIC is not: each has its own MTU.
///
/// Promise `jumbo`.
#[test]
fn jumbo_limit_per_nic() {
    let scene = Scene::silent(&["eth0", "eth1"], &mtu(1500));
    for namespace in [&scene.host, &scene.wire] {
        namespace.ip("link set eth1 mtu 9000").unwrap();
    }
    scene.netmap("1:0/0 501:0/0\n1:0/1 501:0/1\n");
    let mut router = scene.deep_router(1);
    let iou_fast = scene.start(&["-i", "eth0=501:0/0", "-i", "eth1=501:0/1", "-p", "501"]);
    let mut wire = ["eth0", "eth1"].map(|name| Station::new(&scene.wire, name).unwrap());
    let second = router_mac(1, 0, 1);
    let sent = plain(second, STATION, 9014, 1);
    wire[1].send(&sent).unwrap();
    router.hear_this(&sent);
    let sent = plain(STATION, second, 9014, 2);
    router.send(501, header(501, 0x10, 1, 0x10), &sent).unwrap();
    wire[1].hear_this(&sent);
    for len in [1515, 4033, 9014] {
        router.send(501, FROM_1, &plain(STATION, R1, len, 3)).unwrap();
    }
    let sent = plain(STATION, R1, 1514, 4);
    router.send(501, FROM_1, &sent).unwrap();
    wire[0].hear_this(&sent);
    let summary = iou_fast.stop();
    assert_eq!(summary.dropped, [("above-mtu".to_string(), 3)], "{}", summary.text);
}

/// The NETMAP adds a router, and takes it away again while large frames wait for it: they are counted one by one and their
/// chunks are found; whoever comes in its place gets whole frames.
///
/// Promise `jumbo-whole`.
#[test]
fn jumbo_with_netmap_reload() {
    const WAITING: u64 = 60;
    let first_alone = "1:0/0 513:0/0\n";
    let both = format!("{first_alone}2:0/0 514:0/0\n");
    let (from_1, from_2) = (header(513, 0, 1, 0), header(514, 0, 2, 0));
    let scene = Scene::silent(&["eth0"], &mtu(9000));
    scene.netmap(first_alone);
    let mut first = scene.deep_router(1);
    let iou_fast = scene.start(&["-i", "eth0"]);
    let mut station = scene.station();
    let change = |netmap: &str, says: &str, round: usize| {
        scene.netmap(netmap);
        let said = || iou_fast.process.stderr().matches(says).count() == round;
        assert!(testbed::wait_until(SOON, said), "{}", iou_fast.process.dump());
    };
    // What it is sent until it is connected is lost, and counted as `router-down`.
    let reach = |router: &mut Router| {
        let mark = plain(R2, STATION, 9014, 1000);
        let reached = testbed::wait_until(SOON, || {
            scene.station().send(&mark).unwrap();
            router.next_test_frame(Duration::from_millis(20)).is_some_and(|frame| frame == mark)
        });
        assert!(reached, "{}", iou_fast.process.dump());
        while router.recv(Duration::from_millis(100)).is_some() {}
    };
    let list = sizes(9014);
    let all = Vec::from_iter(0..list.len() as u64);
    for round in 1..=2 {
        let mut second = scene.deep_router(2);
        change(&both, "added 2:0/0", round);
        reach(&mut second);
        station.drain();
        station.send_batch(&numbered(R2, STATION, &list)).unwrap();
        assert_eq!(second.hear(all.len()), all);
        numbered(STATION, R2, &list).iter().for_each(|frame| second.send(514, from_2, frame).unwrap());
        assert_eq!(station.hear(all.len()), all);
        numbered(R2, R1, &list).iter().for_each(|frame| first.send(513, from_1, frame).unwrap());
        assert_eq!(second.hear(all.len()), all);

        // One that does not read takes its place. Its queue is the kernel's usual one, of 11.
        drop(second);
        let mut stuck = Router::new(&scene.netio(), 2).unwrap();
        reach(&mut stuck);
        for number in 0..WAITING {
            station.send(&plain(R2, STATION, 9014, number)).unwrap();
        }
        let mark = plain(R1, STATION, 9014, 1001);
        station.send(&mark).unwrap();
        first.hear_this(&mark);
        change(first_alone, "removed 2:0/0", round);
        station.send_batch(&numbered(R1, STATION, &list)).unwrap();
        assert_eq!(first.hear(all.len()), all);
    }
    let summary = iou_fast.stop();
    // On a machine that takes longer, they get stale instead.
    let gone = summary.drops("router-down") + summary.drops("stale");
    assert!(gone >= 2 * (WAITING - 12), "{}", summary.text);
    let other = |(why, _): &(String, u64)| why != "router-down" && why != "stale";
    assert!(!summary.dropped.iter().any(other) && summary.faults.is_empty(), "{}", summary.text);
}

/// Both sides of a credits reckon with the same chunks: what one counts less than the other would fill the credits in the end.
///
/// Promise `jumbo-whole`.
#[test]
fn jumbo_stream_never_exhausts_credits() {
    /// Places in the RX ring of a single worker.
    const CREDITS: usize = 2048;
    let scene = scene(9000);
    let mut router = scene.deep_router(1);
    let iou_fast = start(&scene, &[]);
    let station = scene.station();
    // Around the edges of chunks, with the 16 bytes in front and without.
    for size in [3824, 3825, 3840, 3841, 7665, 7681] {
        // More than the places of a credits, and so few at a time that no share is used up.
        let frames: Vec<_> = (0..32).map(|number| plain(R1, STATION, size, number)).collect();
        for _ in 0..=CREDITS / frames.len() {
            station.send_batch(&frames).unwrap();
            assert_eq!(router.hear(frames.len()), Vec::from_iter(0..32), "{size} bytes");
        }
    }
    iou_fast.stop().assert_clean();
}
