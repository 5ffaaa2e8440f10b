//! The checks, in three sets: zero-copy on virtio-net, the oldest kernel, and one that is too old.
//!
//! Promise `soak` by `cargo xtask test --vm=zero-copy`.
//!
//! Promise by `cargo xtask test --vm=zero-copy` (Other kernels and drivers): With zero-copy frames of every
//! size and bursts arrive whole in both directions; the program is killed and starts again, the NIC goes down
//! and up, a VLAN sub-interface and two queues work, the clock is set.
//!
//! Promise by `cargo xtask test --vm=oldest` (Other kernels and drivers): Linux 6.1 runs the lab.
//!
//! Promise by `cargo xtask test --vm=too-old` (Other kernels and drivers): An older kernel is refused.

use crate::common::{BROADCAST, Listener, Running, SOON, Scene, header, plain, router_mac, tagged};
use crate::guest::{Pair, release, scene, set_clock};
use std::process::Command;
use std::time::Duration;
use testbed::{Bin, Process, Router, Signal, Station, Tag, wait_until};

/// A check, and its name.
pub(crate) type Check = (&'static str, fn());

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUTER: u16 = 1;
const PSEUDO: u16 = 513;

/// An emulated processor is some thirty times slower.
const LAB: Duration = Duration::from_secs(240);

/// A list of checks, each named as its function.
macro_rules! checks {
    ($($check:ident),* $(,)?) => { &[$((stringify!($check), $check as fn())),*] };
}

/// Native XDP and zero-copy: virtio-net from Linux 6.13.
const ZERO_COPY: &[Check] = checks![
    zero_copy_is_got,
    every_frame_size_passes_in_both_directions,
    bursts_arrive_whole_in_both_directions,
    a_burst_waits_for_the_nic,
    the_host_keeps_its_network,
    a_burst_just_before_the_end_arrives,
    killed_it_starts_again_at_once,
    the_clock_is_set_and_nothing_stops,
    the_nic_goes_down_and_up,
    copy_mode_on_demand,
    a_vlan_sub_interface_carries_routers,
    two_queues_serve_two_workers,
    the_lab_runs,
];

/// Linux 6.1: native XDP on virtio-net, without zero-copy.
const OLDEST: &[Check] = checks![
    every_frame_size_passes_in_both_directions,
    bursts_arrive_whole_in_both_directions,
    a_burst_waits_for_the_nic,
    the_host_keeps_its_network,
    a_burst_just_before_the_end_arrives,
    killed_it_starts_again_at_once,
    the_clock_is_set_and_nothing_stops,
    a_vlan_sub_interface_carries_routers,
    the_lab_runs,
];

/// Older than that.
const TOO_OLD: &[Check] = checks![an_older_kernel_is_refused];

/// The checks of a set.
pub(crate) fn set(name: &str) -> Option<&'static [Check]> {
    match name {
        "zero-copy" => Some(ZERO_COPY),
        "oldest" => Some(OLDEST),
        "too-old" => Some(TOO_OLD),
        _ => None,
    }
}

/// What a native XDP program on virtio-net brings with it here: 6.1 has no zero-copy.
fn copy_mode() -> &'static str {
    if release().starts_with("6.1.") { "copy" } else { "zero-copy" }
}

/// Router 1 behind iou-fast on `pair`, and a station on the wire.
struct Line {
    scene: Scene,
    router: Router,
    station: Station,
    number: u64,
}

impl Line {
    fn new(pair: Pair) -> Self {
        let scene = scene(pair);
        scene.netmap("1:0/0 513:0/0\n");
        let (router, station) = (scene.deep_router(ROUTER), scene.station());
        Self { scene, router, station, number: 0 }
    }

    /// Starts iou-fast, which is to say what it got in the words of `mode`.
    #[track_caller]
    fn start(&self, arguments: &[&str], mode: &str) -> Running {
        let running = self.scene.start(&[&["-i", "eth0"], arguments].concat());
        let said = running.process.stdout();
        assert!(said.contains(&format!("eth0: {mode}, ")), "{}", running.process.dump());
        running
    }

    /// As the kernel allows.
    #[track_caller]
    fn start_native(&self) -> Running {
        self.start(&[], &format!("native XDP, {}", copy_mode()))
    }

    /// Numbered frames of these lengths to the router or to everybody, which are to arrive in this order.
    #[track_caller]
    fn reach_router(&mut self, to: [u8; 6], lengths: impl Iterator<Item = usize>) -> u64 {
        let frames: Vec<_> = lengths.map(|len| plain(to, STATION, len, self.next())).collect();
        self.station.send_batch(&frames).unwrap();
        for sent in &frames {
            self.router.hear_this(sent);
        }
        frames.len() as u64
    }

    /// The other way.
    #[track_caller]
    fn reach_station(&mut self, to: [u8; 6], lengths: impl Iterator<Item = usize>) -> u64 {
        let mac = router_mac(ROUTER, 0, 0);
        let frames: Vec<_> = lengths.map(|len| plain(to, mac, len, self.next())).collect();
        for frame in &frames {
            self.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), frame).unwrap();
        }
        for sent in &frames {
            self.station.hear_this(sent);
        }
        frames.len() as u64
    }

    /// A few frames in both directions, unicast and broadcast.
    #[track_caller]
    fn talk(&mut self) {
        for to in [router_mac(ROUTER, 0, 0), BROADCAST] {
            self.reach_router(to, [60, 1514].into_iter());
        }
        for to in [STATION, BROADCAST] {
            self.reach_station(to, [60, 1514].into_iter());
        }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// Routers 2 to 16 behind the same pseudo instance. What one sends and is not read is charged to its own socket,
/// whose default is 208 KiB: some 270 of the smallest frames. Together they fill any ring.
struct Crowd {
    line: Line,
    routers: Vec<(u16, Router)>,
}

impl Crowd {
    fn new() -> Self {
        let line = Line::new(Pair::Hub);
        let endpoints = (1..=16).map(|id| format!("{id}:0/0 {PSEUDO}:{}/0\n", id - 1));
        line.scene.netmap(&endpoints.collect::<String>());
        let routers = (2..=16).map(|id| (id, line.scene.deep_router(id))).collect();
        Self { line, routers }
    }

    /// Leaves `each` frames of every router in the socket of iou-fast, which stands still; returns how many that are.
    #[track_caller]
    fn burst(&self, iou_fast: &mut Running, each: u64) -> u64 {
        iou_fast.process.signal(Signal::STOP);
        for (id, router) in &self.routers {
            for number in 0..each {
                let frame = plain(STATION, router_mac(*id, 0, 0), 60, number);
                let header = header(PSEUDO, *id as u8 - 1, *id, 0);
                router.send(PSEUDO, header, &frame).unwrap();
            }
        }
        each * self.routers.len() as u64
    }
}

fn zero_copy_is_got() {
    let mut line = Line::new(Pair::Hub);
    for arguments in [&[][..], &["--copy-mode", "zero-copy"]] {
        let iou_fast = line.start(arguments, "native XDP, zero-copy, 1 queue");
        line.talk();
        iou_fast.stop().assert_clean();
    }
}

fn every_frame_size_passes_in_both_directions() {
    let mut line = Line::new(Pair::Hub);
    let iou_fast = line.start_native();
    let (mut to_router, mut from_router) = (0, 0);
    // A hundred at a time: more at once than a batch, fewer than any queue on the way holds.
    for first in (30..=1514).step_by(100) {
        let lengths = first..(first + 100).min(1515);
        to_router += line.reach_router(router_mac(ROUTER, 0, 0), lengths.clone());
        from_router += line.reach_station(STATION, lengths);
    }
    for len in [30, 60, 61, 1000, 1513, 1514] {
        to_router += line.reach_router(BROADCAST, std::iter::once(len));
        from_router += line.reach_station(BROADCAST, std::iter::once(len));
    }
    for tags in [&[Tag::vlan(10)][..], &[Tag::new(0x88a8, 100)], &[Tag::new(0x8100, 0xe00a)]] {
        for len in [64, 1000, 1514] {
            let mac = router_mac(ROUTER, 0, 0);
            let sent = tagged(mac, STATION, tags, len, 1);
            line.station.send(&sent).unwrap();
            line.router.hear_this(&sent);
            let answer = tagged(STATION, mac, tags, len, 2);
            line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &answer).unwrap();
            line.station.hear_this(&answer);
            (to_router, from_router) = (to_router + 1, from_router + 1);
        }
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0), (to_router, from_router), "{}", summary.text);
}

/// More at once than the NIC's own rings hold, 256 in QEMU.
fn bursts_arrive_whole_in_both_directions() {
    const FRAMES: u64 = 1000;
    let mut line = Line::new(Pair::Hub);
    let iou_fast = line.start_native();
    let mac = router_mac(ROUTER, 0, 0);
    let mut heard = Vec::new();
    for _ in 0..3 {
        let frames = |to, from| (0..FRAMES).map(move |n| plain(to, from, 60 + n as usize % 7 * 200, n));
        line.station.send_batch(&Vec::from_iter(frames(mac, STATION))).unwrap();
        heard.push(count(&mut line.router));
        for frame in frames(STATION, mac) {
            line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &frame).unwrap();
        }
        heard.push(count(&mut line.station));
    }
    let nic = line.scene.host.run("ethtool", ["-S", "eth0"]).unwrap().stdout;
    let nic = String::from_utf8_lossy(&nic);
    let summary = iou_fast.stop();
    assert_eq!(heard, [FRAMES; 6], "{}{nic}", summary.text);
    summary.assert_clean();
}

/// How many frames come, each whole, until none comes for two seconds.
#[track_caller]
fn count(listener: &mut impl Listener) -> u64 {
    let mut count = 0;
    while let Some(frame) = listener.next_test_frame(Duration::from_secs(2)) {
        testbed::frame::check(&frame).unwrap();
        count += 1;
    }
    count
}

/// What waits in the socket comes faster than the NIC sends, and its ring holds less.
fn a_burst_waits_for_the_nic() {
    let crowd = Crowd::new();
    let mut iou_fast = crowd.line.start_native();
    let frames = crowd.burst(&mut iou_fast, 220);
    iou_fast.process.signal(Signal::CONT);
    let Crowd { mut line, .. } = crowd;
    let heard = count(&mut line.station);
    let summary = iou_fast.stop();
    assert_eq!(heard, frames, "{}", summary.text);
    summary.assert_clean();
}

/// In zero-copy mode what the XDP program passes is copied out of our memory.
fn the_host_keeps_its_network() {
    let mut line = Line::new(Pair::Hub);
    line.scene.host.ip("addr add 10.9.0.2/24 dev eth0").unwrap();
    line.scene.wire.ip("addr add 10.9.0.1/24 dev eth0").unwrap();
    let iou_fast = line.start_native();
    line.talk();
    for size in ["0", "56", "1472"] {
        let arguments = ["-q", "-c3", "-i0.2", "-W10", "-Mdo", "-s", size, "10.9.0.2"];
        line.scene.wire.run("ping", arguments).unwrap();
    }
    iou_fast.stop();
}

/// The NIC takes frames out of our memory in its own time, also those of the last moment.
fn a_burst_just_before_the_end_arrives() {
    let mut crowd = Crowd::new();
    for _ in 0..3 {
        let mut iou_fast = crowd.line.start_native();
        let frames = crowd.burst(&mut iou_fast, 90);
        iou_fast.process.signal(Signal::INT);
        iou_fast.process.signal(Signal::CONT);
        let summary = iou_fast.stop();
        assert_eq!(count(&mut crowd.line.station), frames, "{}", summary.text);
        summary.assert_clean();
        assert_eq!(summary.to_nics.0, frames, "{}", summary.text);
    }
}

fn killed_it_starts_again_at_once() {
    let mut line = Line::new(Pair::Hub);
    for _ in 0..5 {
        let iou_fast = line.start_native();
        line.talk();
        // With frames on their way in both directions.
        let mac = router_mac(ROUTER, 0, 0);
        let frames: Vec<_> = (0..200).map(|number| plain(mac, STATION, 1000, number)).collect();
        line.station.send_batch(&frames).unwrap();
        for number in 0..200 {
            let frame = plain(STATION, mac, 1000, number);
            line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &frame).unwrap();
        }
        iou_fast.kill();
        let mut link = String::new();
        let clean = wait_until(SOON, || {
            let shown = line.scene.host.ip("-d link show dev eth0").unwrap().stdout;
            link = String::from_utf8_lossy(&shown).into_owned();
            !link.contains("xdp") && link.contains("promiscuity 0")
        });
        assert!(clean, "{link}");
        while line.router.next_test_frame(Duration::from_secs(1)).is_some() {}
        while line.station.next_test_frame(Duration::from_secs(1)).is_some() {}
    }
    let iou_fast = line.start_native();
    line.talk();
    iou_fast.stop();
}

/// In both directions, also for frames that lie in a queue meanwhile: by the clock these are a year old then, or of next year.
fn the_clock_is_set_and_nothing_stops() {
    const YEAR: i64 = 365 * 24 * 3600;
    let mut line = Line::new(Pair::Hub);
    let mut iou_fast = line.start_native();
    line.talk();
    for step in [YEAR, -2 * YEAR, YEAR] {
        iou_fast.process.signal(Signal::STOP);
        let queued = plain(STATION, router_mac(ROUTER, 0, 0), 300, line.next());
        line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &queued).unwrap();
        set_clock(step);
        iou_fast.process.signal(Signal::CONT);
        line.station.hear_this(&queued);
        line.talk();
    }
    let summary = iou_fast.stop();
    assert!(summary.dropped.is_empty() && summary.faults.is_empty(), "{}", summary.text);
    assert_eq!(summary.to_nics.0, 4 * 4 + 3, "{}", summary.text);
}

fn the_nic_goes_down_and_up() {
    let mut line = Line::new(Pair::Hub);
    let mut iou_fast = line.start_native();
    for _ in 0..3 {
        line.talk();
        line.scene.host.ip("link set eth0 down").unwrap();
        // What is sent meanwhile is lost, and counted; what was for routers is not in the way afterwards.
        let mac = router_mac(ROUTER, 0, 0);
        for number in 0..100 {
            let frame = plain(STATION, mac, 100, number);
            line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &frame).unwrap();
        }
        line.scene.host.ip("link set eth0 up").unwrap();
        assert!(iou_fast.process.exited().is_none(), "{}", iou_fast.process.dump());
        // It looks once a second at what no event has told it.
        std::thread::sleep(Duration::from_secs(3));
        line.station.drain();
    }
    line.talk();
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
    let lost = summary.drops("nic-down") + summary.drops("nic-refused");
    let all: u64 = summary.dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(lost, all, "{}", summary.text);
    // Every frame of the router's is counted.
    assert_eq!(summary.to_nics.0 + lost, 4 * 4 + 300, "{}", summary.text);
}

fn copy_mode_on_demand() {
    let mut line = Line::new(Pair::Hub);
    let modes: [(&[&str], &str); 2] =
        [(&["--copy-mode", "copy"], "native XDP, copy"), (&["--xdp-mode", "generic"], "generic XDP, copy")];
    for (arguments, mode) in modes {
        let iou_fast = line.start(arguments, mode);
        line.talk();
        iou_fast.stop().assert_clean();
    }
}

/// The kernel takes the tag off before the XDP program sees the frame, and puts it on behind us.
fn a_vlan_sub_interface_carries_routers() {
    let mut line = Line::new(Pair::Hub);
    line.scene.host.ip("link add link eth0 name eth0.10 type vlan id 10").unwrap();
    line.scene.host.sysctl("net/ipv6/conf/eth0.10/disable_ipv6", "1").unwrap();
    line.scene.host.ip("link set eth0.10 up").unwrap();
    let iou_fast = line.scene.start(&["-i", "eth0.10"]);
    let said = iou_fast.process.stdout();
    assert!(said.contains("eth0.10: generic XDP, copy, 1 queue"), "{}", iou_fast.process.dump());
    // What merges frames is GRO of the NIC below; that the VLAN shows it as well is of no account.
    let said = iou_fast.process.stderr();
    let named = |nic| said.contains(&format!("`ethtool -K {nic} rx-gro off"));
    assert!(named("eth0") && !named("eth0.10"), "{said}");
    let mac = router_mac(ROUTER, 0, 0);
    for (number, len) in [60, 64, 500, 1514].into_iter().enumerate() {
        let number = number as u64;
        for (to_router, to_station) in [(mac, STATION), (BROADCAST, BROADCAST)] {
            let tag = &[Tag::vlan(10)];
            line.station.send(&tagged(to_router, STATION, tag, len + 4, number)).unwrap();
            let got = line.router.next_test_frame(SOON).expect("a frame out of VLAN 10");
            // The number and the pattern are those of the frame with its tag.
            let sent = tagged(to_router, STATION, tag, len + 4, number);
            assert_eq!(got, [&sent[..12], &sent[16..]].concat());

            let answer = plain(to_station, mac, len, number);
            line.router.send(PSEUDO, header(PSEUDO, 0, ROUTER, 0), &answer).unwrap();
            let got = line.station.next_test_frame(SOON).expect("a frame in VLAN 10");
            assert_eq!(got, [&answer[..12], &[0x81, 0, 0, 10], &answer[12..]].concat());
        }
    }
    // Another VLAN and none: not ours.
    line.station.send(&tagged(mac, STATION, &[Tag::vlan(11)], 100, 7)).unwrap();
    line.station.send(&plain(mac, STATION, 100, 8)).unwrap();
    line.router.hear_nothing();
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!((summary.to_routers.0, summary.to_nics.0), (8, 8), "{}", summary.text);
}

/// Routers that answer pings through a NIC with two queues, a worker on either CPU.
fn two_queues_serve_two_workers() {
    const ROUTERS: u16 = 12;
    let scene = scene(Pair::Bridge);
    scene.host.run("ethtool", ["-L", "eth0", "combined", "2"]).unwrap();
    scene.netmap(&(1..=ROUTERS).map(|id| format!("{id}:0/0 {}:0/0\n", 512 + id)).collect::<String>());
    scene.wire.ip("addr add 10.10.255.254/16 dev eth0").unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "--cpus", "0,1"]);
    let said = iou_fast.process.stdout();
    let wanted = "eth0: native XDP, zero-copy, 2 queues, 2 workers on CPUs 0,1";
    assert!(said.contains(wanted), "{}", iou_fast.process.dump());
    let _routers = scene.simulate(&format!("1-{ROUTERS}"), &[]);
    for id in 1..=ROUTERS {
        let address = format!("10.10.0.{}", id + 1);
        scene.wire.run("ping", ["-q", "-c2", "-i0.2", "-W10", &address]).unwrap();
    }
    let statistics = scene.host.run("ethtool", ["-S", "eth0"]).unwrap().stdout;
    let statistics = String::from_utf8_lossy(&statistics);
    // Both queues, in both directions: what the XDP program redirected, and what was sent.
    for counter in ["rx0_xdp_redirects", "rx1_xdp_redirects", "tx0_xdp_tx", "tx1_xdp_tx"] {
        let mut words =
            statistics.split_whitespace().skip_while(|word| word.trim_end_matches(':') != counter);
        let count: u64 = words.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        assert!(count > 0, "{counter} in {statistics}");
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert!(summary.to_nics.0 >= 2 * u64::from(ROUTERS), "{}", summary.text);
}

fn the_lab_runs() {
    let mut command = Command::new(Bin::find("iou-fast").unwrap());
    command.args(["lab", "--routers", "10", "--rounds", "5"]);
    let mut lab = Process::spawn(&mut command).unwrap();
    let status = lab.wait(LAB).unwrap();
    assert!(status.success(), "{}", lab.dump());
    println!("{}", lab.stdout());
}

fn an_older_kernel_is_refused() {
    let line = Line::new(Pair::Hub);
    let release = release();
    let said = line.scene.refused(&["-i", "eth0"]);
    let wanted = format!("this is Linux {release}: version 6.1 or newer is needed; boot a newer kernel");
    assert!(said.contains(&wanted), "{said}");
    let link = line.scene.host.ip("-d link show dev eth0").unwrap().stdout;
    let link = String::from_utf8_lossy(&link);
    assert!(!link.contains("xdp") && link.contains("promiscuity 0"), "{link}");
}
