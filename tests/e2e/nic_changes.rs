//! What may happen to a NIC under a running iou-fast: it is removed and comes back, is renamed, moved, given
//! other queues, offloads, an MTU or an address, loses the XDP program. Routers never notice more than a cable that is
//! out for a moment.

mod measured;

use crate::common::crowd::{
    STATION, classroom, cpu_share, from_router, number, pseudo_ids, send_paced, to_all, to_router,
    wait_until_connected,
};
use crate::common::{
    BROADCAST, Listener, Running, SOON, Scene, Strain, Took, header, plain, router_mac, udp, udp_number,
};
use iou_fast::steer::{Options, Steering};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use testbed::{Namespace, Router, Signal, Station, VethOptions, frame, veth, wait_until};

const WAIT: Duration = Duration::from_secs(5);
/// After a NIC's return frames must flow within this, or, if its cable takes longer,
const RESUMED: Duration = Duration::from_secs(1);
/// within this of the cable.
const AT_ONCE: Duration = Duration::from_millis(300);
/// A virtual MAC that a router answers for.
const VIRTUAL: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];

/// Two routers, iou-fast running, and both known to be connected.
struct Lab {
    scene: Scene,
    iou_fast: Running,
    routers: [Router; 2],
    options: VethOptions,
}

impl Lab {
    fn new(arguments: &[&str], options: VethOptions) -> Self {
        let scene = Scene::silent(&["eth0"], &options);
        scene.netmap(&classroom(2));
        let iou_fast = scene.start(&[&["-i", "eth0", "-p", &pseudo_ids(2)], arguments].concat());
        let routers = [1, 2].map(|id| scene.deep_router(id));
        let mut this = Self { scene, iou_fast, routers, options };
        this.wait_until_it_carries();
        this
    }

    /// Makes the pair of NICs again, with new addresses.
    fn make_nics(&self) {
        veth((&self.scene.wire, "eth0"), (&self.scene.host, "eth0"), &self.options).unwrap();
        self.scene.silence(&["eth0"]);
    }

    /// Returns when a frame has come through in both directions for each router; says how long that took.
    #[track_caller]
    fn wait_until_it_carries(&mut self) -> Duration {
        let start = Instant::now();
        let mut station = self.scene.station();
        for (id, router) in (1..).zip(&mut self.routers) {
            let marker = 1 << 40 | start.elapsed().as_nanos() as u64;
            let is_marker = |frame: &[u8]| number(frame) == Some(marker);
            let carries = wait_until(WAIT, || {
                let _ = station.send(&to_router(id, marker));
                router.recv_where(Duration::from_millis(5), |_, frame| is_marker(frame)).is_some()
            }) && wait_until(WAIT, || {
                from_router(router, id, marker);
                station.recv_where(Duration::from_millis(5), is_marker).is_some()
            });
            assert!(carries, "router {id}\n{}", self.iou_fast.process.dump());
        }
        let took = start.elapsed();
        for router in &mut self.routers {
            while router.recv(Duration::from_millis(50)).is_some() {}
        }
        took
    }

    /// How many lines of the log hold `text`.
    fn said(&self, text: &str) -> usize {
        self.iou_fast.process.stderr().lines().filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    fn wait_until_said(&self, text: &str, times: usize) {
        assert!(wait_until(SOON, || self.said(text) >= times), "{text}\n{}", self.iou_fast.process.dump());
    }

    /// What iou-fast does to the host's NIC is done to this one.
    #[track_caller]
    fn assert_taken(&self, nic: &str) {
        let shown = link(&self.scene.host, nic);
        assert!(shown.contains("promiscuity 1 ") && shown.contains("prog/xdp"), "{shown}");
        assert!(!is_on(&self.scene.host, "rx-vlan-offload"), "tags are taken out of frames");
    }

    /// Ends it. Chunks are complete, and no frame was lost but for the reasons of an absent NIC.
    fn stop(self) -> crate::common::Summary {
        self.stop_with(&[]).1
    }

    /// The same, and leaves the scene to be looked at. Frames were lost for reason `also` as well, so many.
    fn stop_with(self, also: &[(&str, u64)]) -> (Scene, crate::common::Summary) {
        let summary = self.iou_fast.stop();
        let expected = ["nic-down", "nic-refused", "router-down"];
        for (why, count) in &summary.dropped {
            let also = also.contains(&(why.as_str(), *count));
            assert!(also || expected.contains(&why.as_str()), "{}", summary.text);
        }
        assert!(summary.faults.is_empty(), "{}", summary.text);
        (self.scene, summary)
    }

    /// Returns when the kernel lets frames through the cable again: it tells of a carrier up to a second late
    /// (`linkwatch_schedule_work` in net/core/link_watch.c), and until then the far end throws away what it is to send.
    #[track_caller]
    fn wait_for_the_cable(&self) {
        let far = || self.scene.wire.run("cat", ["/sys/class/net/eth0/operstate"]);
        assert!(wait_until(WAIT, || far().is_ok_and(|output| output.stdout == b"up\n")));
    }
}

/// `ip -d link show`.
fn link(namespace: &Namespace, nic: &str) -> String {
    String::from_utf8(namespace.ip(&format!("-d link show dev {nic}")).unwrap().stdout).unwrap()
}

/// Whether `ethtool -k eth0` shows `feature` on.
fn is_on(namespace: &Namespace, feature: &str) -> bool {
    let shown = String::from_utf8(namespace.run("ethtool", ["-k", "eth0"]).unwrap().stdout).unwrap();
    let line = shown.lines().find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {feature} in\n{shown}")).starts_with("on")
}

/// Frames in both directions, as many as come through, while `meanwhile` runs.
fn while_frames_flow<T>(lab: &Lab, meanwhile: impl FnOnce(&Lab) -> T) -> T {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut station: Option<Station> = None;
            let mut seq = 0;
            while !end.load(Relaxed) {
                seq += 1;
                from_router(&lab.routers[0], 1, seq);
                // It goes with the NIC, and there is a new one with the next.
                let sent = station.as_ref().is_some_and(|station| station.send(&to_router(1, seq)).is_ok());
                if !sent {
                    station = Station::new(&lab.scene.wire, "eth0").ok();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        // Also when it panics: the sender must end for the scope to.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(lab)));
        end.store(true, Relaxed);
        result
    })
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Takes the NIC away by `away` and gives one back by `back`, three times, with traffic; the log says `lost` and that
/// it goes on.
fn the_nic_is_lost_and_regained(
    arguments: &[&str],
    options: VethOptions,
    away: impl Fn(&Lab),
    back: impl Fn(&Lab),
    lost: &str,
) {
    const UNSENT: u64 = 3000;
    const ROUNDS: usize = 3;
    let mut lab = Lab::new(arguments, options);
    // Router 2 answers for an address that only learning knows.
    let hello = plain(STATION, VIRTUAL, 64, 1);
    lab.routers[1].send(514, header(514, 0, 2, 0), &hello).unwrap();
    let (mut times, strain) = (Vec::new(), Strain::measure());
    for round in 1..=ROUNDS {
        while_frames_flow(&lab, |lab| {
            std::thread::sleep(Duration::from_millis(20));
            away(lab);
        });
        lab.wait_until_said(lost, round);

        // More than a pseudo socket's queue holds: a router would sleep if no worker read it.
        let start = Instant::now();
        (0..UNSENT).for_each(|seq| from_router(&lab.routers[0], 1, seq));
        assert!(start.elapsed() < WAIT, "{:?}", start.elapsed());
        if round == 1 {
            let shares: Vec<f64> =
                (0..3).map(|_| cpu_share(&lab.iou_fast.process, Duration::from_millis(700))).collect();
            assert!(shares.iter().any(|share| *share < 0.05), "idle, it uses {shares:?} of a CPU");
        }
        assert!(lab.iou_fast.process.exited().is_none(), "{}", lab.iou_fast.process.dump());

        let (cable, ()) = strain.time(RESUMED, || {
            back(&lab);
            lab.wait_for_the_cable();
        });
        let (carries, time) = strain.time(AT_ONCE, || lab.wait_until_it_carries());
        times.push((cable, Took { time, ..carries }));
        lab.wait_until_said("forwarding goes on", round);
        lab.assert_taken("eth0");
        // What was learned still stands, though router 2 has not said a word.
        let station = lab.scene.station();
        let to_virtual = plain(VIRTUAL, STATION, 64, 7);
        station.send(&to_virtual).unwrap();
        assert!(lab.routers[1].recv_where(WAIT, |_, frame| frame == to_virtual).is_some());
        // The NIC's own address is the host's, whatever routers say: also that of a new NIC.
        let own = lab.scene.host.mac("eth0").unwrap();
        let claim = plain(STATION, own, 64, 2);
        lab.routers[1].send(514, header(514, 0, 2, 0), &claim).unwrap();
        let mut host = lab.scene.host_station();
        let to_host = plain(own, STATION, 64, 8);
        station.send(&to_host).unwrap();
        assert!(host.recv_where(WAIT, |frame| frame == to_host).is_some());
        assert!(lab.routers[1].recv_where(Duration::from_millis(20), |_, frame| frame == to_host).is_none());
    }
    println!("back after {times:?}");
    let late = |(cable, carries): &(Took, Took)| {
        let both = Took { time: cable.time + carries.time, strain: cable.strain + carries.strain };
        !both.is_within(RESUMED) && !carries.is_within(AT_ONCE)
    };
    assert!(!times.iter().any(late), "{times:?}\n{}", lab.iou_fast.process.dump());
    let (scene, summary) = lab.stop_with(&[("spoofed", ROUNDS as u64)]);
    assert!(summary.drops("nic-down") >= ROUNDS as u64 * UNSENT, "{}", summary.text);
    let shown = link(&scene.host, "eth0");
    assert!(shown.contains("promiscuity 0 ") && !shown.contains("xdp"), "{shown}");
    assert!(is_on(&scene.host, "rx-vlan-offload"));
    assert_eq!(scene.directory().join("state").read_dir().unwrap().count(), 0, "locks and records are left");
}

fn remove(lab: &Lab) {
    lab.scene.host.ip("link del eth0").unwrap();
}

/// Promise `nic-replaced`.
#[test]
fn nic_replaced_with_same_name_and_index() {
    let mut lab = Lab::new(&[], VethOptions::default());
    for _ in 0..2 {
        let number = lab.scene.host.run("cat", ["/sys/class/net/eth0/ifindex"]).unwrap().stdout;
        let number = String::from_utf8(number).unwrap();
        // It does not see the time in between.
        lab.iou_fast.process.signal(Signal::STOP);
        let Scene { host, wire, .. } = &lab.scene;
        host.ip("link del eth0").unwrap();
        let wire_name = wire.name();
        host.ip(&format!(
            "link add name eth0 index {} type veth peer name eth0 netns {wire_name}",
            number.trim()
        ))
        .unwrap();
        lab.scene.silence(&["eth0"]);
        for namespace in [host, wire] {
            namespace.ip("link set eth0 up").unwrap();
        }
        lab.iou_fast.process.signal(Signal::CONT);
        lab.wait_until_it_carries();
        lab.assert_taken("eth0");
    }
    lab.stop();
}

/// Promise `nic-rings` (Faults): Frames in the RX ring of a removed NIC are delivered, and those in its TX
/// ring are counted.
#[test]
fn nic_removed_rx_frames_are_delivered() {
    // More than half of what may be on its way to a worker: what was on its way in one round counts in no other.
    const FRAMES: u64 = 1500;
    const OTHERS: u64 = 100;
    let mut lab = Lab::new(&[], VethOptions::default());
    for round in 1..=3 {
        let stalled = lab.iou_fast.process.stall("worker 0").unwrap();
        let station = lab.scene.station();
        send_paced(&station, &(0..FRAMES).map(|seq| to_router(1, seq)).collect::<Vec<_>>());
        send_paced(&station, &(0..OTHERS).map(to_all).collect::<Vec<_>>());
        (0..OTHERS).for_each(|seq| from_router(&lab.routers[1], 2, seq));
        std::thread::sleep(Duration::from_millis(50));
        remove(&lab);
        lab.wait_until_said("eth0 is gone", round);
        drop(stalled);
        for (router, alone) in lab.routers.iter_mut().zip([FRAMES, 0]) {
            let (mut to_it, mut group) = (0, 0);
            while to_it < alone || group < OTHERS {
                let Some((_, frame)) = router.recv(WAIT) else {
                    panic!("{to_it} of {alone}, {group} of {OTHERS}\n{}", lab.iou_fast.process.dump());
                };
                let next = if frame[..6] == BROADCAST { &mut group } else { &mut to_it };
                assert_eq!(number(&frame), Some(*next));
                *next += 1;
            }
        }
        lab.make_nics();
        lab.wait_until_it_carries();
    }
    lab.stop();
}

/// Promise `nic-rings`.
#[test]
fn nic_removed_tx_frames_are_counted() {
    const FRAMES: u64 = 50;
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let mut lab = Lab::new(&[], VethOptions::default());
    // Until it notices, the XDP program there goes on to redirect into its rings, of which the kernel has taken the NIC.
    lab.iou_fast.process.signal(Signal::STOP);
    lab.scene.host.ip(&format!("link set eth0 netns {}", elsewhere.name())).unwrap();
    elsewhere.ip("link set eth0 up").unwrap();
    lab.wait_for_the_cable();
    let station = lab.scene.station();
    send_paced(&station, &(0..FRAMES).map(|seq| to_router(1, seq)).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_millis(50));
    lab.iou_fast.process.signal(Signal::CONT);
    lab.wait_until_said("eth0 is gone", 1);
    elsewhere.ip(&format!("link set eth0 netns {}", lab.scene.host.name())).unwrap();
    lab.scene.host.ip("link set eth0 up").unwrap();
    lab.scene.silence(&["eth0"]);
    lab.wait_for_the_cable();
    lab.wait_until_it_carries();
    let summary = lab.iou_fast.stop();
    assert_eq!(summary.faults, [("rx-dropped".to_string(), FRAMES)], "{}", summary.text);
}

/// Promise `nic-rings`.
#[test]
fn nic_removed_tx_frames_are_counted_at_shutdown() {
    const FRAMES: u64 = 50;
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let mut lab = Lab::new(&[], VethOptions::default());
    // It is told of the NIC and of its own end at once.
    lab.iou_fast.process.signal(Signal::STOP);
    lab.scene.host.ip(&format!("link set eth0 netns {}", elsewhere.name())).unwrap();
    elsewhere.ip("link set eth0 up").unwrap();
    lab.wait_for_the_cable();
    let station = lab.scene.station();
    send_paced(&station, &(0..FRAMES).map(|seq| to_router(1, seq)).collect::<Vec<_>>());
    from_router(&lab.routers[0], 1, 7);
    std::thread::sleep(Duration::from_millis(50));
    lab.iou_fast.process.signal(Signal::INT);
    lab.iou_fast.process.signal(Signal::CONT);
    let summary = lab.iou_fast.stop();
    assert_eq!(summary.faults, [("rx-dropped".to_string(), FRAMES)], "{}", summary.text);
    assert_eq!(summary.drops("nic-down"), 1, "{}", summary.text);
}

/// Promise `nic-replaced`.
#[test]
fn nic_attached_again_during_broadcast_storm() {
    // Interfaces for which each broadcast is work, too many for a worker to keep up.
    const ROUTERS: u16 = 500;
    const UNITS: u16 = 8;
    let options = VethOptions::default();
    let scene = Scene::silent(&["eth0"], &options);
    let units = (1..=ROUTERS).flat_map(|id| (0..UNITS).map(move |unit| (id, unit)));
    scene.netmap(
        &units.map(|(id, unit)| format!("{id}:0/{unit} {}:0/{unit}\n", 512 + id)).collect::<String>(),
    );
    let iou_fast = scene.start(&["-i", "eth0", "-p", &pseudo_ids(ROUTERS)]);
    let routers = [1, 2].map(|id| scene.deep_router(id));
    let mut lab = Lab { scene, iou_fast, routers, options };
    lab.wait_until_it_carries();
    remove(&lab);
    lab.wait_until_said("eth0 is gone", 1);
    std::thread::sleep(Duration::from_millis(100));

    // The XDP program is ready before the worker is.
    let stalled = lab.iou_fast.process.stall("worker 0").unwrap();
    lab.make_nics();
    lab.wait_until_said("1 queue; forwarding goes on", 1);
    lab.wait_for_the_cable();
    let (station, storm) = (lab.scene.station(), lab.scene.station());
    let end = AtomicBool::new(false);
    let arrived = std::thread::scope(|scope| {
        scope.spawn(|| {
            let frames: Vec<Vec<u8>> = (0..32).map(to_all).collect();
            while !end.load(Relaxed) {
                let _ = storm.send_batch(&frames);
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(stalled);
        let router = &mut lab.routers[0];
        let arrived = wait_until(WAIT, || {
            let _ = station.send(&to_router(1, 1 << 40));
            let is_it = |frame: &[u8]| number(frame) == Some(1 << 40);
            router.recv_where(Duration::from_millis(5), |_, frame| is_it(frame)).is_some()
        });
        end.store(true, Relaxed);
        arrived
    });
    assert!(arrived, "{}", lab.iou_fast.process.dump());
    lab.iou_fast.stop();
}

/// Promise (Faults): A NETMAP that changes while the NIC is away is in force when it is back.
#[test]
fn nic_back_applies_netmap_reload() {
    let wiring = |ids: [u16; 2]| ids.map(|id| format!("{id}:0/0 {}:0/0\n", 512 + id)).concat();
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&wiring([1, 2]));
    let iou_fast = scene.start(&["-i", "eth0", "--cpus", "0,1"]);
    let mut routers = [1, 2, 3, 4].map(|id| scene.deep_router(id));
    let read = |count: usize| {
        let lines =
            || iou_fast.process.stderr().lines().filter(|line| line.contains("NETMAP reloaded")).count();
        assert!(wait_until(SOON, || lines() == count), "{}", iou_fast.process.dump());
    };
    let only = |routers: &mut [Router; 4], ids: &[u16]| {
        let mut station = scene.station();
        for id in ids {
            let router = &mut routers[usize::from(*id) - 1];
            wait_until_connected(&station, router, *id);
            from_router(router, *id, 5);
            let from = |frame: &[u8]| number(frame) == Some(5) && frame[6..12] == router_mac(*id, 0, 0);
            assert!(station.recv_where(WAIT, from).is_some(), "{}", iou_fast.process.dump());
        }
        station.send(&to_all(9)).unwrap();
        for (id, router) in (1..).zip(routers) {
            station.send(&to_router(id, 8)).unwrap();
            let expected: &[u64] = if ids.contains(&id) { &[8, 9] } else { &[] };
            let mut heard: Vec<u64> = expected
                .iter()
                .filter_map(|_| router.recv_where(WAIT, |_, frame| number(frame).is_some()))
                .filter_map(|(_, frame)| number(&frame))
                .collect();
            heard.sort_unstable();
            assert_eq!(heard, expected, "router {id}\n{}", iou_fast.process.dump());
            router.hear_nothing();
        }
    };
    only(&mut routers, &[1, 2]);
    // The second time the number of an interface that has gone is given to another.
    for (round, ids) in [[2, 3], [4, 2], [1, 4]].into_iter().enumerate() {
        scene.host.ip("link del eth0").unwrap();
        let gone = || iou_fast.process.stderr().lines().filter(|line| line.contains("eth0 is gone")).count();
        assert!(wait_until(SOON, || gone() == round + 1), "{}", iou_fast.process.dump());
        scene.netmap(&wiring(ids));
        read(round + 1);
        veth((&scene.wire, "eth0"), (&scene.host, "eth0"), &VethOptions::default()).unwrap();
        only(&mut routers, &ids);
    }
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `nic-flaps` (Faults): NICs that come and go cost neither memory nor descriptors, and frames that
/// were in their rings are found again.
#[test]
fn nic_flaps_leak_no_memory_or_descriptors() {
    let mut lab = Lab::new(&[], VethOptions::default());
    let cycle = |lab: &mut Lab| {
        remove(lab);
        lab.make_nics();
        lab.wait_until_it_carries();
    };
    // The first time it may need more than before.
    cycle(&mut lab);
    let before = (lab.iou_fast.process.fd_count().unwrap(), lab.iou_fast.process.rss().unwrap());
    for _ in 0..20 {
        cycle(&mut lab);
    }
    let after = (lab.iou_fast.process.fd_count().unwrap(), lab.iou_fast.process.rss().unwrap());
    assert_eq!(after.0, before.0, "descriptors");
    assert!(after.1 < before.1 + (2 << 20), "{} bytes, then {}", before.1, after.1);
    lab.stop();
}

/// Promise `nic-settings` (Faults): Another MTU, address or number of queues is followed; offloads that are
/// turned on are turned off again or named with the command; an XDP program that was removed is attached
/// again.
#[test]
fn nic_mtu_change_is_applied() {
    let mut lab = Lab::new(&[], VethOptions::default());
    for mtu in [1400, 3000, 1500] {
        while_frames_flow(&lab, |lab| {
            for namespace in [&lab.scene.wire, &lab.scene.host] {
                namespace.ip(&format!("link set eth0 mtu {mtu}")).unwrap();
            }
        });
        lab.wait_until_it_carries();
        lab.assert_taken("eth0");
        let mut station = lab.scene.station();
        // The largest in both directions, and one byte more from the router, which is dropped.
        let largest = plain(router_mac(1, 0, 0), STATION, 14 + mtu, 20);
        station.send(&largest).unwrap();
        assert!(lab.routers[0].recv_where(WAIT, |_, frame| frame == largest).is_some(), "{mtu}");
        let mut send = |len: usize| {
            let bytes = plain(STATION, router_mac(1, 0, 0), len, len as u64);
            lab.routers[0].send(513, header(513, 0, 1, 0), &bytes).unwrap();
            station.recv_where(Duration::from_millis(300), |frame| frame == bytes).is_some()
        };
        assert!(wait_until(WAIT, || send(14 + mtu)), "{mtu}");
        assert!(!send(14 + mtu + 1), "{mtu}");
    }
    let summary = lab.iou_fast.stop();
    assert!(summary.drops("above-mtu") >= 3, "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `nic-settings`.
#[test]
fn nic_channel_increase_opens_sockets() {
    const FLOWS: u16 = 64;
    let options = VethOptions { queues_rx: 4, queues_tx: 4, ..VethOptions::default() };
    let scene = Scene::silent(&["eth0"], &options);
    let channels = |namespace: &Namespace, arguments: &[&str]| {
        namespace.run("ethtool", [&["-L", "eth0"], arguments].concat())
    };
    channels(&scene.wire, &["tx", "1"]).unwrap();
    channels(&scene.host, &["rx", "1"]).unwrap();
    scene.netmap(&classroom(2));
    let iou_fast = scene.start(&["-i", "eth0", "-p", &pseudo_ids(2), "--cpus", "0,1"]);
    assert!(iou_fast.process.stdout().contains("1 queue,"), "{}", iou_fast.process.stdout());
    let routers = [1, 2].map(|id| scene.deep_router(id));
    let mut lab = Lab { scene, iou_fast, routers, options };
    lab.wait_until_it_carries();
    for queues in ["2", "4"] {
        while_frames_flow(&lab, |lab| {
            channels(&lab.scene.host, &["rx", queues]).unwrap();
            channels(&lab.scene.wire, &["tx", queues]).unwrap();
        });
        lab.wait_until_said(&format!("copy, {queues} queues; forwarding goes on"), 1);
        // The kernel refuses fewer queues than have sockets.
        assert!(channels(&lab.scene.host, &["rx", "1"]).is_err());
    }
    lab.wait_until_it_carries();
    let mut station = lab.scene.station();
    for (id, router) in (1..).zip(&mut lab.routers) {
        for flow in 0..FLOWS {
            station.send(&udp(router_mac(id, 0, 0), STATION, flow, 0)).unwrap();
            let got = router.recv_where(WAIT, |_, frame| udp_number(frame).is_some());
            assert_eq!(got.and_then(|(_, frame)| udp_number(&frame)), Some((flow, 0)));
            let back = udp(STATION, router_mac(id, 0, 0), flow, 0);
            router.send(512 + id, header(512 + id, 0, id, 0), &back).unwrap();
            assert!(station.recv_where(WAIT, |frame| frame == back).is_some());
        }
    }
    let statistics = lab.scene.host.run("ethtool", ["-S", "eth0"]).unwrap();
    let statistics = String::from_utf8(statistics.stdout).unwrap();
    for queue in 0..4 {
        let name = format!("rx_queue_{queue}_xdp_packets: ");
        let line = statistics.lines().find_map(|line| line.trim().strip_prefix(&name));
        assert!(line.is_some_and(|count| count != "0"), "queue {queue} was not used:\n{statistics}");
    }
    // Until it was noticed, frames on the new queues found no ring. That much is said.
    let summary = lab.iou_fast.stop();
    assert!(summary.faults.iter().all(|(what, _)| what == "no-ring"), "{}", summary.text);
}

/// Promise `nic-settings`.
#[test]
fn nic_channel_increase_beyond_memory_names_fix() {
    const MANY: u32 = 48;
    let options = VethOptions { queues_rx: MANY, queues_tx: MANY, ..VethOptions::default() };
    let scene = Scene::silent(&["eth0"], &options);
    let channels = |namespace: &Namespace, arguments: [&str; 2]| {
        namespace.run("ethtool", [&["-L", "eth0"], &arguments[..]].concat()).unwrap();
    };
    channels(&scene.wire, ["tx", "1"]);
    channels(&scene.host, ["rx", "1"]);
    scene.netmap(&classroom(2));
    let iou_fast = scene.start(&["-i", "eth0", "-p", &pseudo_ids(2)]);
    let routers = [1, 2].map(|id| scene.deep_router(id));
    let mut lab = Lab { scene, iou_fast, routers, options };
    lab.wait_until_it_carries();
    while_frames_flow(&lab, |lab| {
        channels(&lab.scene.host, ["rx", &MANY.to_string()]);
        lab.wait_until_said("eth0 has 48 queues now, for which no memory was taken", 1);
    });
    lab.wait_until_said("start iou-fast again, or `ethtool -L` fewer", 1);
    // What is for the host gets there nevertheless, and what it says to do helps.
    let (station, mut host) = (lab.scene.station(), lab.scene.host_station());
    let to_host = plain(lab.scene.host.mac("eth0").unwrap(), STATION, 64, 8);
    station.send(&to_host).unwrap();
    assert!(host.recv_where(WAIT, |frame| frame == to_host).is_some());
    channels(&lab.scene.host, ["rx", "2"]);
    lab.wait_until_said("copy, 2 queues; forwarding goes on", 1);
    lab.wait_until_it_carries();
    lab.stop();
}

/// Promise `nic-settings`.
#[test]
fn nic_offload_flap_damping() {
    let mut lab = Lab::new(&["--xdp-mode", "generic"], VethOptions::default());
    let turn_on = |lab: &Lab, feature: &str| {
        lab.scene.host.run("ethtool", ["-K", "eth0", feature, "on"]).unwrap();
    };
    for (round, (feature, shown, kernel)) in [
        ("rxvlan", "rx-vlan-offload", "rx-vlan-hw-parse was turned on; it is off again"),
        ("gro", "generic-receive-offload", "rx-gro was turned on; it is off again"),
        ("rxvlan", "rx-vlan-offload", "rx-vlan-hw-parse was turned on; it is off again"),
    ]
    .into_iter()
    .enumerate()
    {
        turn_on(&lab, feature);
        lab.wait_until_said(kernel, round / 2 + 1);
        assert!(!is_on(&lab.scene.host, shown));
    }
    // A tagged frame still has its tag.
    let sent =
        frame(router_mac(1, 0, 0), STATION, &[testbed::Tag::vlan(7)], testbed::frame::ETHERTYPE, 80, 9);
    lab.scene.station().send(&sent).unwrap();
    assert!(lab.routers[0].recv_where(WAIT, |_, frame| frame == sent).is_some());

    turn_on(&lab, "rxvlan");
    lab.wait_until_said("`ethtool -K eth0 rx-vlan-hw-parse off`", 1);
    assert!(is_on(&lab.scene.host, "rx-vlan-offload"), "the user keeps enabling it");
    lab.wait_until_it_carries();
    let (scene, _) = lab.stop_with(&[]);
    // What the user wanted on is on at the end, also what was off at the start.
    assert!(is_on(&scene.host, "rx-vlan-offload") && is_on(&scene.host, "generic-receive-offload"));
}

/// Promise `nic-settings`.
#[test]
fn nic_xdp_program_removed_is_attached_again() {
    let mut lab = Lab::new(&[], VethOptions::default());
    // `ip link` cannot take it off, not even by force.
    assert!(lab.scene.host.ip("link set dev eth0 xdp off").is_err());
    let detach = |lab: &Lab| {
        let links = lab.iou_fast.xdp_links(lab.scene.index("eth0"));
        assert_eq!(links.len(), 1);
        testbed::run("bpftool", ["link", "detach", "id", &links[0].to_string()]).unwrap();
    };
    detach(&lab);
    lab.wait_until_said("forwarding goes on", 1);
    lab.wait_until_it_carries();
    lab.assert_taken("eth0");

    // One that puts another program there is named, and left alone.
    lab.iou_fast.process.signal(Signal::STOP);
    detach(&lab);
    let options =
        Options { workers: 1, queues: 1, exclusive: false, dynamic_entries: 16, static_entries: 16 };
    let steering = Steering::load(&options).unwrap();
    let index = lab.scene.host.run("cat", ["/sys/class/net/eth0/ifindex"]).unwrap().stdout;
    let index: i32 = String::from_utf8(index).unwrap().trim().parse().unwrap();
    let attach = || {
        let program = steering.program().unwrap();
        libbpf_rs::Xdp::new(program.as_fd()).attach(index, libbpf_rs::XdpFlags::DRV_MODE).unwrap();
    };
    lab.scene.host.enter(attach).unwrap();
    lab.iou_fast.process.signal(Signal::CONT);
    lab.wait_until_said("eth0 has an XDP program already", 1);
    lab.wait_until_said("`ip link set dev eth0 xdpdrv off` removes it", 1);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(lab.said("eth0 has an XDP program already"), 1, "said once");
    lab.scene.host.ip("link set dev eth0 xdpdrv off").unwrap();
    lab.wait_until_it_carries();
    lab.assert_taken("eth0");
    lab.stop();
}

/// Promise `nic-settings`.
#[test]
fn nic_mac_change_is_applied() {
    let mut lab = Lab::new(&[], VethOptions::default());
    // That of router 1's interface.
    let taken = router_mac(1, 0, 0);
    lab.scene.host.ip("link set eth0 down").unwrap();
    lab.scene.host.ip("link set eth0 address aa:bb:cc:00:01:00").unwrap();
    lab.scene.host.ip("link set eth0 up").unwrap();
    lab.wait_until_said("which a router used, is the NIC's own address now", 1);
    let (mut host, station) = (lab.scene.host_station(), lab.scene.station());
    let sent = plain(taken, STATION, 64, 3);
    assert!(wait_until(WAIT, || {
        station.send(&sent).unwrap();
        host.recv_where(Duration::from_millis(20), |frame| frame == sent).is_some()
    }));
    assert!(lab.routers[0].recv_where(Duration::from_millis(20), |_, frame| frame == sent).is_none());
    lab.iou_fast.stop();
}

/// Promise `nic-flaps`.
#[test]
fn nic_queue_in_use_names_way_to_find_owner() {
    let scene = Scene::new();
    scene.netmap(&classroom(1));
    let index = scene.host.run("cat", ["/sys/class/net/eth0/ifindex"]).unwrap().stdout;
    let ifindex: u32 = String::from_utf8(index).unwrap().trim().parse().unwrap();
    let (umem, mut free) = af_xdp::Umem::new(64).unwrap();
    let config = af_xdp::Config::new(ifindex).ring_size(16).copy_mode(af_xdp::CopyMode::Copy);
    let umem = std::sync::Arc::new(umem);
    let foreign = scene.host.enter(|| af_xdp::Sockets::open(&umem, &mut free, &config).unwrap()).unwrap();
    let error = scene.refused(&["-i", "eth0", "-p", "513"]);
    assert!(error.contains("eth0: queue 0 already has an AF_XDP socket of another program"), "{error}");
    assert!(error.contains("`ss --xdp --processes`"), "{error}");

    // Its frames come back when its rings are gone and the kernel has let go, and not before.
    let af_xdp::Sockets { queues, registration, .. } = foreign;
    assert_eq!((free.len(), umem.lent()), (48, 16));
    let registration = registration.reclaim(&mut free).expect_err("rings are still there");
    drop(queues);
    let mut left = Some(registration);
    let reclaimed = wait_until(WAIT, || {
        let try_again = || left.take().map(|registration| registration.reclaim(&mut free));
        match scene.host.enter(try_again).unwrap() {
            Some(Err(registration)) => left = Some(registration),
            done => assert!(matches!(done, Some(Ok(16)))),
        }
        left.is_none()
    });
    assert!(reclaimed && (free.len(), umem.lent()) == (64, 0));
    scene.start(&["-i", "eth0", "-p", "513"]).stop();
}
