//! Frames through the real program, from the wire to routers, back, and between routers.

use crate::common::{
    ARRIVAL, BROADCAST, Listener, Scene, header, is_test_frame, plain, router_mac, tagged, udp, udp_number,
};
use std::collections::BTreeMap;
use std::time::Duration;
use testbed::{Router, Station, Tag, VethOptions, frame};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const MULTICAST: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
const WAIT: Duration = Duration::from_secs(2);

fn mtu(mtu: u32) -> VethOptions {
    VethOptions { mtu, ..VethOptions::default() }
}

/// Promise `to-router` (Frames): A frame for a router's address reaches that router with the header that it
/// expects, and its answer reaches the wire.
#[test]
fn frame_reaches_router_and_answer_returns() {
    let scene = Scene::new();
    scene.netmap("1:0/1 501:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let mut station = scene.station();
    let none: &[testbed::Tag] = &[];

    let sent = frame(router_mac(1, 0, 1), STATION, none, testbed::frame::ETHERTYPE, 60, 1);
    station.send(&sent).unwrap();
    let got = router.recv_where(WAIT, |_, frame| frame == sent).expect("the frame at the router");
    assert_eq!(got.0, header(1, 0x10, 501, 0));

    let answer = frame(STATION, router_mac(1, 0, 1), none, testbed::frame::ETHERTYPE, 60, 2);
    router.send(501, header(501, 0, 1, 0x10), &answer).unwrap();
    station.recv_where(WAIT, |frame| frame == answer.as_slice()).expect("the answer on the wire");

    let summary = iou_fast.stop();
    assert!(summary.to_routers.0 >= 1 && summary.to_nics.0 >= 1, "{}", summary.text);
    summary.assert_clean();
}

/// Promise `to-router`.
#[test]
fn iou_header_is_exact_for_every_netmap_notation() {
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    scene.netmap(
        "1:0/1 501:0/0\n\
         501:1/2 1:3/15   # the pseudo endpoint on the left; a high unit\n\
         2:16 501:0/1     # 16 = 0x10 = 0/1\n\
         /* a shared\n   segment */\n\
         501:0/3 1023:0/0\t4:15/0\r\n",
    );
    // Router, its interface's bay and unit, the pseudo interface's byte, the header as it is to stand in memory.
    let ports: [(u16, u8, u8, u8, [u8; 8]); 5] = [
        (1, 0, 1, 0x00, [0, 1, 0x01, 0xf5, 0x10, 0x00, 1, 0]),
        (1, 3, 15, 0x21, [0, 1, 0x01, 0xf5, 0xf3, 0x21, 1, 0]),
        (2, 0, 1, 0x10, [0, 2, 0x01, 0xf5, 0x10, 0x10, 1, 0]),
        (1023, 0, 0, 0x30, [3, 0xff, 0x01, 0xf5, 0x00, 0x30, 1, 0]),
        (4, 15, 0, 0x30, [0, 4, 0x01, 0xf5, 0x0f, 0x30, 1, 0]),
    ];
    let mut routers: BTreeMap<u16, Router> = [1, 2, 4, 1023].map(|id| (id, scene.deep_router(id))).into();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let mut station = scene.station();

    for (number, (id, bay, unit, pseudo, to_router)) in ports.into_iter().enumerate() {
        let mac = router_mac(id, bay, unit);
        let sent = plain(mac, STATION, 64, number as u64);
        station.send(&sent).unwrap();
        assert_eq!(routers.get_mut(&id).unwrap().recv(ARRIVAL), Some((to_router, sent)));
        let answer = plain(STATION, mac, 64, number as u64);
        routers[&id].send(501, header(501, pseudo, id, bay | unit << 4), &answer).unwrap();
        station.hear_this(&answer);
    }
    // A broadcast or multicast frame: each interface behind its own header.
    let sent = plain(BROADCAST, STATION, 64, 99);
    station.send(&sent).unwrap();
    for (id, router) in &mut routers {
        let mut headers: Vec<[u8; 8]> =
            ports.iter().filter(|port| port.0 == *id).map(|port| port.4).collect();
        while !headers.is_empty() {
            let (header, frame) = router.recv(ARRIVAL).expect("a copy for each interface");
            assert_eq!(frame, sent);
            let at = headers.iter().position(|wanted| *wanted == header);
            headers.remove(at.unwrap_or_else(|| panic!("router {id}: {header:02x?}")));
        }
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0), (10, 5), "{}", summary.text);
}

/// Promise `sizes` (Frames): Frames of every size up to the MTU arrive whole in both directions, with no VLAN
/// tag, one or two.
#[test]
fn every_frame_size_passes_in_both_directions() {
    // A raw socket sends up to MTU + 14 bytes, 18 behind an 802.1Q tag: 1508 for an 802.1ad frame of 1522.
    let scene = Scene::silent(&["eth0"], &mtu(1508));
    scene.netmap("1:0/0 501:0/0\n");
    let mut router = scene.deep_router(1);
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let mut station = scene.station();
    let mac = router_mac(1, 0, 0);

    // The shortest have no room for a number: one at a time. What a wire cannot carry is padded with zeros.
    for len in 14..=64 {
        let sent = plain(mac, STATION, len, 0);
        station.send(&sent).unwrap();
        assert_eq!(router.recv(ARRIVAL).expect("a frame").1, sent);
        let answer = plain(STATION, mac, len, 0);
        router.send(501, header(501, 0, 1, 0), &answer).unwrap();
        let mut padded = answer.clone();
        padded.resize(len.max(60), 0);
        assert_eq!(station.recv(ARRIVAL).expect("an answer"), padded);
    }
    let frames: Vec<Vec<u8>> = (65..=1518).map(|len| plain(mac, STATION, len, len as u64)).collect();
    station.send_batch(&frames).unwrap();
    assert_eq!(router.hear(frames.len()), Vec::from_iter(65..=1518));
    for len in 65..=1518 {
        let answer = plain(STATION, mac, len, len as u64);
        router.send(501, header(501, 0, 1, 0), &answer).unwrap();
    }
    assert_eq!(station.hear(frames.len()), Vec::from_iter(65..=1518));

    let tags: [&[Tag]; 6] = [
        &[Tag::vlan(10)],
        &[Tag::new(0x8100, 0xe00a)],
        &[Tag::new(0x88a8, 100)],
        &[Tag::new(0x9100, 100)],
        &[Tag::new(0x88a8, 100), Tag::new(0x8100, 0x6007)],
        &[Tag::new(0x9100, 100), Tag::new(0x8100, 7)],
    ];
    let mut count = 2 * (51 + frames.len() as u64);
    for tags in tags {
        let full = 1514 + 4 * tags.len();
        for len in [14 + 4 * tags.len() + 2, 59, 60, 61, 64, full - 1, full] {
            let sent = tagged(mac, STATION, tags, len, 1);
            station.send(&sent).unwrap();
            assert_eq!(router.recv(ARRIVAL).expect("a frame").1, sent);
            let answer = tagged(STATION, mac, tags, len, 2);
            router.send(501, header(501, 0, 1, 0), &answer).unwrap();
            let mut padded = answer.clone();
            padded.resize(len.max(60), 0);
            assert_eq!(station.recv(ARRIVAL).expect("an answer"), padded);
            count += 2;
        }
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!(summary.to_routers.0 + summary.to_nics.0, count, "{}", summary.text);
}

/// Five routers, two of which have two interfaces on the LAN, and so two copies.
fn bum_frames(arguments: &[&str], host_hears: bool) {
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    scene.netmap(
        "1:0/0 501:0/0\n2:0/0 501:0/1\n3:0/0 502:0/0\n4:0/0 503:0/0 5:0/0\n1:1/0 504:0/0\n5:3/3 505:0/0\n",
    );
    let mut routers: Vec<Router> = (1..=5).map(|id| scene.deep_router(id)).collect();
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501-505"], arguments].concat());
    let (station, mut host) = (scene.station(), scene.host_station());
    for number in 0..100 {
        station.send(&plain([MULTICAST, BROADCAST][number % 2], STATION, 100, number as u64)).unwrap();
    }
    let once = Vec::from_iter(0..100);
    for (router, copies) in routers.iter_mut().zip([2, 1, 1, 1, 2]) {
        let mut numbers = router.hear(100 * copies);
        numbers.sort_unstable();
        assert_eq!(numbers, Vec::from_iter(once.iter().flat_map(|number| vec![*number; copies])));
        router.hear_nothing();
    }
    if host_hears {
        assert_eq!(host.hear(100), once);
    }
    host.hear_nothing();
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!(summary.to_routers.0, 700);
}

/// Promise `bum` (Frames): A broadcast or multicast frame reaches the host and every router interface of
/// the LAN, each once.
#[test]
fn bum_frames_reach_host_and_every_interface_once() {
    bum_frames(&[], true);
}

/// Promise `bum`.
#[test]
fn bum_frames_with_two_workers() {
    bum_frames(&["--cpus", "0,1"], true);
}

/// Promise (Frames): With `--exclusive` broadcast and multicast frames reach the routers alone.
#[test]
fn exclusive_keeps_bum_frames_from_the_host() {
    bum_frames(&["--exclusive"], false);
    bum_frames(&["--exclusive", "--cpus", "0,1"], false);
}

/// What switches and routers say to their neighbours alone. A switch in between would keep it; a cable does not.
///
/// Promise (Frames): LLDP, CDP and spanning tree frames pass unchanged in both directions.
#[test]
fn lldp_cdp_and_spanning_tree_pass_unchanged() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n");
    let mut router = scene.deep_router(1);
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    // A frame with an EtherType, or, where that is a length, with an LLC header.
    let control = |to: [u8; 6], from: [u8; 6], rest: &[u8]| {
        let mut frame = [&to[..], &from, rest].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let bpdu = [&[0, 38, 0x42, 0x42, 3, 0, 0, 2, 2, 0x3c][..], &[0x80; 31]].concat();
    let sent = |from| {
        [
            control(
                [1, 0x80, 0xc2, 0, 0, 0xe],
                from,
                b"\x88\xcc\x02\x07\x04\xaa\xbb\xcc\0\x01\0\x04\x04\x05Et00\x06\x02\0\x78\0\0",
            ),
            control(
                [1, 0, 0xc, 0xcc, 0xcc, 0xcc],
                from,
                &[&b"\0\x60\xaa\xaa\x03\0\0\x0c\x20\0\x02\xb4"[..], &[0x5a; 88]].concat(),
            ),
            control([1, 0x80, 0xc2, 0, 0, 0], from, &bpdu),
            // Per-VLAN spanning tree, in its VLAN.
            control(
                [1, 0, 0xc, 0xcc, 0xcc, 0xcd],
                from,
                &[&b"\x81\0\xe0\x0a\0\x32\xaa\xaa\x03\0\0\x0c\x01\x0b\0\0"[..], &[0x33; 40]].concat(),
            ),
        ]
    };
    let is_control = |frame: &[u8]| frame[0] & 1 == 1 && frame[..3] != [0x33, 0x33, 0];
    for frame in sent(router_mac(1, 0, 0)) {
        router.send(501, header(501, 0, 1, 0), &frame).unwrap();
        assert_eq!(station.recv_where(ARRIVAL, is_control), Some(frame));
    }
    for frame in sent([2, 0, 0, 0, 0, 9]) {
        station.send(&frame).unwrap();
        let got = router.recv_where(ARRIVAL, |_, frame| is_control(frame));
        assert_eq!(got, Some((header(1, 0, 501, 0), frame.clone())));
        assert_eq!(host.recv_where(ARRIVAL, is_control), Some(frame));
    }
    iou_fast.stop().assert_clean();
}

/// Promise `astray` (Frames): A frame reaches its destination and no other.
#[test]
fn frames_reach_only_their_destination() {
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    scene.netmap("1:0/0 501:0/0\n2:0/0 501:0/1\n3:0/0 501:0/2\n4:0/0 502:0/0\n5:0/0 503:0/0\n");
    let mut routers: Vec<Router> = (1..=5).map(|id| scene.deep_router(id)).collect();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501-503"]);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    let nic = scene.host.mac("eth0").unwrap();

    // To one router each, its number in front; to a stranger; to the host; tagged as well.
    let mut number = 0;
    let mut send = |to: [u8; 6], owner: u64| {
        for tags in [&[][..], &[Tag::vlan(7)], &[Tag::new(0x88a8, 7), Tag::vlan(8)]] {
            station.send(&tagged(to, STATION, tags, 80, owner * 1000 + number)).unwrap();
            number += 1;
        }
    };
    for id in 1..=5 {
        send(router_mac(id, 0, 0), u64::from(id));
    }
    send(STRANGER, 8);
    send(router_mac(6, 0, 0), 8);
    send(router_mac(1, 0, 1), 8);
    send(nic, 9);
    for (id, router) in (1..).zip(&mut routers) {
        assert!(router.hear(3).iter().all(|number| number / 1000 == id));
        router.hear_nothing();
    }
    let heard = host.hear(12);
    assert!(heard.iter().all(|number| *number >= 8000), "{heard:?}");
    host.hear_nothing();
    // Nor does anything come back to the wire.
    station.hear_nothing();
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0, summary.between.0), (15, 0, 0));
}

/// Promise (Frames): Routers on one NIC reach each other, unless their NETMAP line joins them already.
#[test]
fn routers_on_one_nic_reach_each_other() {
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    // Router 1 has a second interface on the LAN; 3 and 4 share a line with a pseudo endpoint; 1 and 5 share one of
    // their own, which has none.
    scene.netmap(
        "1:0/0 501:0/0\n1:0/1 501:0/1\n2:0/0 502:0/0\n3:0/0 503:0/0 4:0/0\n5:0/0 504:0/0\n1:0/0 5:0/0\n",
    );
    let mut routers: Vec<Router> = (1..=5).map(|id| scene.deep_router(id)).collect();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501-504"]);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    let from_1 = header(501, 0, 1, 0);
    let from_3 = header(503, 0, 3, 0);

    // Unicast: directly, behind the header of the receiver's own line, and not onto the wire.
    let sent = plain(router_mac(2, 0, 0), router_mac(1, 0, 0), 60, 1);
    routers[0].send(501, from_1, &sent).unwrap();
    assert_eq!(routers[1].recv(ARRIVAL), Some((header(2, 0, 502, 0), sent)));
    // A short frame between routers is not padded: there is no wire on its way.
    let sent = plain(router_mac(4, 0, 0), router_mac(1, 0, 0), 20, 1);
    routers[0].send(501, from_1, &sent).unwrap();
    assert_eq!(routers[3].recv(ARRIVAL), Some((header(4, 0, 503, 0), sent)));
    // To another interface of the same router.
    let sent = plain(router_mac(1, 0, 1), router_mac(1, 0, 0), 60, 2);
    routers[0].send(501, from_1, &sent).unwrap();
    assert_eq!(routers[0].recv(ARRIVAL), Some((header(1, 0x10, 501, 0x10), sent)));

    // Group: the wire, and every interface but the sender's neighbours on a common line.
    let sent = plain(BROADCAST, router_mac(1, 0, 0), 60, 3);
    routers[0].send(501, from_1, &sent).unwrap();
    station.hear_this(&sent);
    for (at, to) in [
        (0, header(1, 0x10, 501, 0x10)),
        (1, header(2, 0, 502, 0)),
        (2, header(3, 0, 503, 0)),
        (3, header(4, 0, 503, 0)),
    ] {
        assert_eq!(routers[at].recv(ARRIVAL), Some((to, sent.clone())));
    }
    let sent = plain(MULTICAST, router_mac(3, 0, 0), 60, 4);
    routers[2].send(503, from_3, &sent).unwrap();
    station.hear_this(&sent);
    for at in [0, 0, 1, 4] {
        assert_eq!(
            routers[at].recv(ARRIVAL).map(|(_, frame)| frame),
            Some(sent.clone()),
            "router {}",
            at + 1
        );
    }

    // Unicast to a neighbour on a common line: the sender has delivered it itself.
    routers[2].send(503, from_3, &plain(router_mac(4, 0, 0), router_mac(3, 0, 0), 60, 5)).unwrap();
    routers[0].send(501, from_1, &plain(router_mac(5, 0, 0), router_mac(1, 0, 0), 60, 6)).unwrap();
    for router in &mut routers {
        router.hear_nothing();
    }
    station.hear_nothing();
    host.hear_nothing();
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0, summary.between.0), (0, 2, 3 + 4 + 4));
    assert!(
        summary.text.contains("split horizon: 2 frames left to routers on the sender's line"),
        "{}",
        summary.text
    );
}

/// Promise (Frames): `--flood-unknown` delivers unicast to unknown addresses to one router interface.
#[test]
fn flood_unknown_delivers_unknown_unicast_to_one_interface() {
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n3:0/0 503:0/0\n2:1/0 502:1/0\n");
    let mut routers: Vec<Router> = (1..=3).map(|id| scene.deep_router(id)).collect();
    let arguments = ["-i", "eth0", "-p", "501-503", "--flood-unknown", "2:1/0", "--cpus", "0,1"];
    let iou_fast = scene.start(&arguments);
    let (mut station, mut host) = (scene.station(), scene.host_station());
    let flooded = header(2, 1, 502, 1);

    // From the wire: to that interface, and to the host as ever.
    let sent = plain(STRANGER, STATION, 70, 1);
    station.send(&sent).unwrap();
    assert_eq!(routers[1].recv(ARRIVAL), Some((flooded, sent.clone())));
    host.hear_this(&sent);
    // What is the host's own is no stranger's.
    let sent = plain(scene.host.mac("eth0").unwrap(), STATION, 70, 2);
    station.send(&sent).unwrap();
    host.hear_this(&sent);
    // From another router: to that interface and to the wire.
    let sent = plain(STRANGER, router_mac(1, 0, 0), 70, 3);
    routers[0].send(501, header(501, 0, 1, 0), &sent).unwrap();
    assert_eq!(routers[1].recv(ARRIVAL), Some((flooded, sent.clone())));
    station.hear_this(&sent);
    // From that interface itself: to the wire alone. Then the stranger is known to be behind it: no flood any more.
    let sent = plain(STATION, STRANGER, 70, 4);
    routers[1].send(502, header(502, 1, 2, 1), &sent).unwrap();
    station.hear_this(&sent);
    let sent = plain(STRANGER, STATION, 70, 5);
    station.send(&sent).unwrap();
    assert_eq!(routers[1].recv(ARRIVAL), Some((flooded, sent)));
    for router in &mut routers {
        router.hear_nothing();
    }
    host.hear_nothing();
    station.hear_nothing();
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0, summary.between.0), (2, 2, 1));
}

/// Promise (Frames): Each NIC is a LAN of its own.
#[test]
fn each_nic_is_its_own_lan() {
    let scene = Scene::silent(&["eth0", "eth1"], &mtu(1500));
    // Pseudo instance 513 has an endpoint on each NIC, and so has router 1.
    scene.netmap("1:0/0 513:0/0\n1:0/1 513:0/1\n2:0/0 514:0/0\n3:0/0 515:0/0\n");
    let mut routers: Vec<Router> = (1..=3).map(|id| scene.deep_router(id)).collect();
    let iou_fast = scene.start(&["-i", "eth0", "-i", "eth1=513:0/1,514", "-p", "513-515"]);
    let station = |name| Station::new(&scene.wire, name).unwrap();
    let (mut wire_0, mut wire_1) = (station("eth0"), station("eth1"));
    let mut hosts = ["eth0", "eth1"].map(|name| Station::new(&scene.host, name).unwrap());
    let lan_0 = [(0, header(1, 0, 513, 0)), (2, header(3, 0, 515, 0))];
    let lan_1 = [(0, header(1, 0x10, 513, 0x10)), (1, header(2, 0, 514, 0))];

    // Broadcast and multicast frames stay on their LAN.
    for (wire, lan, number) in [(&wire_0, lan_0, 1), (&wire_1, lan_1, 2)] {
        let sent = plain(BROADCAST, STATION, 60, number);
        wire.send(&sent).unwrap();
        for (at, to) in lan {
            assert_eq!(routers[at].recv(ARRIVAL), Some((to, sent.clone())));
        }
        hosts[number as usize - 1].hear_this(&sent);
    }
    // Unicast, too: the same address on the other NIC is a stranger's.
    let sent = plain(router_mac(1, 0, 1), STATION, 60, 3);
    wire_1.send(&sent).unwrap();
    assert_eq!(routers[0].recv(ARRIVAL), Some((lan_1[0].1, sent.clone())));
    wire_0.send(&sent).unwrap();
    hosts[0].hear_this(&sent);
    // From the routers: each to its own wire, and to routers of its own LAN.
    let sent = plain(BROADCAST, router_mac(1, 0, 1), 60, 4);
    routers[0].send(513, header(513, 0x10, 1, 0x10), &sent).unwrap();
    wire_1.hear_this(&sent);
    assert_eq!(routers[1].recv(ARRIVAL), Some((lan_1[1].1, sent)));
    let sent = plain(router_mac(2, 0, 0), router_mac(1, 0, 0), 60, 5);
    routers[0].send(513, header(513, 0, 1, 0), &sent).unwrap();
    wire_0.hear_this(&sent);
    for router in &mut routers {
        router.hear_nothing();
    }
    for station in [&mut wire_0, &mut wire_1].into_iter().chain(&mut hosts) {
        station.hear_nothing();
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0, summary.between.0), (5, 2, 1));
}

/// Four queues; 64 flows of 25 frames to each of four routers, and as many back.
fn four_queues(arguments: &[&str], queues_tx: u32) {
    const FLOWS: u16 = 64;
    const FRAMES: u32 = 25;
    let scene = Scene::silent(&["eth0"], &VethOptions { queues_rx: 4, queues_tx, ..VethOptions::default() });
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n3:0/0 503:0/0\n4:0/0 504:0/0\n");
    let mut routers: Vec<Router> = (1..=4).map(|id| scene.deep_router(id)).collect();
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501-504"], arguments].concat());
    assert!(iou_fast.process.stdout().contains("4 queues"), "{}", iou_fast.process.stdout());
    let mut station = scene.station();

    for (id, router) in (1..).zip(&mut routers) {
        let frames: Vec<_> = (0..FRAMES)
            .flat_map(|number| (0..FLOWS).map(move |flow| (flow, number)))
            .map(|(flow, number)| udp(router_mac(id, 0, 0), STATION, flow, number))
            .collect();
        station.send_batch(&frames).unwrap();
        let mut next = [0; FLOWS as usize];
        for _ in 0..frames.len() {
            let (_, frame) = router.recv_where(ARRIVAL, |_, f| udp_number(f).is_some()).expect("every frame");
            let (flow, number) = udp_number(&frame).unwrap();
            assert_eq!(number, next[usize::from(flow)], "order of flow {flow} to router {id}");
            next[usize::from(flow)] += 1;
        }
        for (flow, number) in (0..FLOWS).flat_map(|flow| (0..FRAMES).map(move |number| (flow, number))) {
            let frame = udp(STATION, router_mac(id, 0, 0), flow, number);
            router.send(500 + id, header(500 + id, 0, id, 0), &frame).unwrap();
        }
        for (flow, number) in (0..FLOWS).flat_map(|flow| (0..FRAMES).map(move |number| (flow, number))) {
            let frame = station.recv_where(ARRIVAL, |f| udp_number(f).is_some()).expect("every answer");
            assert_eq!(udp_number(&frame), Some((flow, number)));
        }
    }
    let statistics = scene.host.run("ethtool", ["-S", "eth0"]).unwrap();
    let statistics = String::from_utf8(statistics.stdout).unwrap();
    for queue in 0..4 {
        let name = format!("rx_queue_{queue}_xdp_packets: ");
        let line = statistics.lines().find_map(|line| line.trim().strip_prefix(&name));
        assert!(line.is_some_and(|count| count != "0"), "queue {queue} was not used:\n{statistics}");
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    let all = 4 * u64::from(FLOWS) * u64::from(FRAMES);
    assert_eq!((summary.to_routers.0, summary.to_nics.0), (all, all));
}

/// Promise `queues` (Frames): Every RX queue of a NIC is served, however many workers there are.
#[test]
fn rx_queues_served_by_one_worker() {
    four_queues(&[], 4);
}

/// Promise `queues`.
#[test]
fn rx_queues_served_by_two_workers() {
    four_queues(&["--cpus", "0,1"], 4);
}

#[test]
fn nic_with_more_rx_than_tx_queues() {
    four_queues(&["--cpus", "0,1"], 1);
}

/// Frames between pairs of stations arrive in the order in which they were sent, also by way of the backlog: the
/// routers' queues hold 11.
fn order(arguments: &[&str]) {
    const FRAMES: u64 = 2000;
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let mut routers = [1, 2].map(|id| Router::new(&scene.netio(), id).unwrap());
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501,502"], arguments].concat());
    let mut station = scene.station();
    let in_order = Vec::from_iter(0..FRAMES);
    for (id, router) in (1..).zip(&mut routers) {
        let mac = router_mac(id, 0, 0);
        let frames: Vec<_> = (0..FRAMES).map(|number| plain(mac, STATION, 60, number)).collect();
        station.send_batch(&frames).unwrap();
        assert_eq!(router.hear(frames.len()), in_order);
        for number in 0..FRAMES {
            let frame = plain(STATION, mac, 60, number);
            router.send(500 + id, header(500 + id, 0, id, 0), &frame).unwrap();
        }
        assert_eq!(station.hear(frames.len()), in_order);
    }
    // Between routers, too.
    let [one, two] = &mut routers;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FRAMES {
                let frame = plain(router_mac(2, 0, 0), router_mac(1, 0, 0), 60, number);
                one.send(501, header(501, 0, 1, 0), &frame).unwrap();
            }
        });
        assert_eq!(two.hear(FRAMES as usize), in_order);
    });
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!(
        (summary.to_routers.0, summary.to_nics.0, summary.between.0),
        (2 * FRAMES, 2 * FRAMES, FRAMES)
    );
}

/// Promise `order` (Frames): Frames from one sender to one receiver arrive once and in order.
#[test]
fn frame_order_is_kept() {
    order(&[]);
}

/// Promise `order`.
#[test]
fn frame_order_is_kept_by_two_workers() {
    order(&["--cpus", "0,1"]);
}

/// Fifty routers, half of them with a pseudo instance of their own, the others on one: each gets its own frames and
/// answers each.
fn fifty_routers(arguments: &[&str]) {
    const FRAMES: u64 = 20;
    let scene = Scene::silent(&["eth0"], &mtu(1500));
    let pseudo = |id: u16| if id <= 25 { (512 + id, 0) } else { (900, (id - 26) as u8) };
    let mut netmap = String::new();
    for id in 1..=50 {
        let (pseudo, port) = pseudo(id);
        netmap += &format!("{id}:0/0 {pseudo}:{}/{}\n", port & 15, port >> 4);
    }
    scene.netmap(&netmap);
    let mut routers: Vec<(u16, Router)> =
        (1..=50).map(|id| (id, Router::new(&scene.netio(), id).unwrap())).collect();
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", "513-537,900"], arguments].concat());
    let mut station = scene.station();

    let mut frames = Vec::new();
    for round in 0..FRAMES {
        for id in 1..=50 {
            frames.push(plain(router_mac(id, 0, 0), STATION, 60, u64::from(id) * 1000 + round));
        }
    }
    station.send_batch(&frames).unwrap();
    for (id, router) in &mut routers {
        let own = u64::from(*id) * 1000;
        for round in 0..FRAMES {
            let (to, port) = pseudo(*id);
            let (header_in, frame) = router.recv_where(ARRIVAL, |_, f| is_test_frame(f)).expect("its frame");
            assert_eq!(header_in, header(*id, 0, to, port));
            assert_eq!(testbed::frame::check(&frame).unwrap().seq, own + round);
            let answer = plain(STATION, router_mac(*id, 0, 0), 60, own + round);
            router.send(to, header(to, port, *id, 0), &answer).unwrap();
        }
    }
    let mut answers = BTreeMap::new();
    for _ in 0..frames.len() {
        let frame = station.next_test_frame(ARRIVAL).expect("every answer");
        let seen = testbed::frame::check(&frame).unwrap();
        assert_eq!(seen.src, router_mac((seen.seq / 1000) as u16, 0, 0));
        let round = answers.entry(seen.seq / 1000).or_insert(0);
        assert_eq!(seen.seq % 1000, *round, "order of router {}", seen.seq / 1000);
        *round += 1;
    }
    for (_, router) in &mut routers {
        assert_eq!(router.drain(), 0);
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0), (frames.len() as u64, frames.len() as u64));
}

#[test]
fn fifty_routers_get_their_own_frames() {
    fifty_routers(&[]);
}

#[test]
fn fifty_routers_with_two_workers() {
    fifty_routers(&["--cpus", "0,1"]);
}

#[test]
fn busy_polling_forwards_frames() {
    fifty_routers(&["--poll", "busy"]);
    bum_frames(&["--poll", "busy"], true);
}
