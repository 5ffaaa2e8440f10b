//! Everything at once: traffic in all directions on two LANs, and faults by a script that a seed repeats. Every frame has a
//! number and is whole; each is delivered once at most, in order, to whom it is for; one that is missing was sent when a
//! fault was there that may cost just it, and iou-fast has counted at least as many frames that such ones can be. Other
//! flows lose nothing.
//!
//! Two minutes here, in which every kind of fault comes; `cargo xtask soak --hours 2 --seed 7` runs it longer, or again as it was.
//!
//! Promise `soak` by `cargo xtask soak`.

#[path = "../common/mod.rs"]
mod common;
mod fault;
mod flow;
mod life;
mod script;

use common::{BROADCAST, Running, SOON, Scene, header, is_test_frame, router_mac, tagged};
use fault::Fault;
use flow::{End, Flow, Ledger, NOISE};
use life::{Life, WireLosses};
use script::{Random, Step, What};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testbed::{Process, Router, Station, Tag, VethOptions, veth, wait_until};

/// Each is a LAN of its own.
pub(crate) const NICS: [&str; 2] = ["eth0", "eth1"];
/// Routers of the lab, 1 to this, as many on each NIC.
pub(crate) const ROUTERS: u16 = 10;
/// Routers on a NIC.
pub(crate) const ROUTERS_PER_NIC: u64 = ROUTERS as u64 / NICS.len() as u64;
/// RX queues that a NIC can have; it has one at first.
pub(crate) const MAX_QUEUES: u32 = 4;
/// The station on each wire.
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// OSPF's group.
const OSPF: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
/// One round of frames in all directions: some 13,000 a second, if the machine is idle.
const TICK: Duration = Duration::from_millis(3);
/// Frames for many are sent every so many rounds.
const GROUP_EVERY: u64 = 8;
/// What some flows are tagged with.
const TAG: Tag = Tag::vlan(7);
/// What was sent this long before a fault may still have been under way.
const BEFORE: Duration = Duration::from_millis(500);
/// How long after a fault everything works again, on a machine that is busy with other things.
pub(crate) const AFTER: Duration = Duration::from_millis(1500);
/// The test did not read, or iou-fast waited for a CPU, for so long that frames may be stale or find a full queue.
const STALL: Duration = Duration::from_millis(300);
/// Without a fault for this long, memory and descriptors are compared, and every flow must flow.
pub(crate) const CALM: Duration = Duration::from_millis(3500);
/// How much more memory it may use than at its first calm moment: allocators keep some.
const GROWTH: u64 = 8 << 20;
/// Files that the disk takes.
const FILES: u32 = 300;

/// The NIC on whose LAN a router is. Its split_horizon in number are there, too: on each NIC both workers have routers.
pub(crate) const fn nic_of(id: u16) -> usize {
    (id as usize - 1) / ROUTERS_PER_NIC as usize
}

/// A time in which a fault was there.
struct Window {
    fault: Fault,
    from: Instant,
    to: Option<Instant>,
}

/// A router, and the sockets of its predecessors that hang.
struct Member {
    router: Option<Router>,
    hanging: Vec<Router>,
    reads: bool,
}

/// How it is when nothing is wrong: nothing may grow.
#[derive(Clone, Copy)]
struct Size {
    memory: u64,
    descriptors: usize,
    /// With more queues it has more of both.
    queues: [u32; NICS.len()],
}

/// Everything. Its processes go before the scene.
pub(crate) struct Soak {
    iou_fast: Option<Running>,
    /// Another iou-fast, which is to be refused.
    second: Option<Process>,
    stations: [Station; NICS.len()],
    /// RX queues that each NIC has.
    queues: [u32; NICS.len()],
    losses: WireLosses,
    members: Vec<Member>,
    /// The router on the link that comes and goes, while it is there.
    guest: Option<Router>,
    /// Frames that it got, each time together.
    guest_heard: u64,
    ledger: Ledger,
    /// For the traffic alone: the script is made.
    random: Random,
    windows: Vec<Window>,
    log: Log,
    /// When everything was read last.
    received: Instant,
    /// How long iou-fast's threads had waited for a CPU when it was looked at last, and when that was.
    waited: Duration,
    looked: Instant,
    /// When the last fault ended, or the machine was busy.
    disturbed: Instant,
    tick: u64,
    /// How many of the missing ones are put down to frames that never reached the NIC.
    wire_excused: [u64; NICS.len()],
    /// Of each iou-fast that has been started.
    lives: Vec<Life>,
    missing: u64,
    /// Of this iou-fast, at its first calm moment.
    size: Option<Size>,
    /// How often its size was compared with that.
    compared: u64,
    /// How often the log held what a fault waits for, before it.
    marks: HashMap<String, usize>,
    _disk: Disk,
    scene: Scene,
}

/// A small disk for the scene's directory.
struct Disk(PathBuf);

impl Disk {
    fn new(scene: &Scene) -> Self {
        let options = format!("nr_inodes={FILES},size=16m,mode=755");
        let directory = scene.directory().to_owned();
        testbed::run("mount", ["-t", "tmpfs", "-o", &options, "none", directory.to_str().unwrap()]).unwrap();
        std::fs::create_dir(scene.netio()).unwrap();
        Self(directory)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = testbed::run("umount", ["--lazy".as_ref(), self.0.as_os_str()]);
    }
}

/// What happened, printed if the test fails.
struct Log {
    seed: u64,
    start: Instant,
    lines: Vec<String>,
}

impl Log {
    fn say(&mut self, text: &str) {
        self.lines.push(format!("{:9.3} s  {text}", self.start.elapsed().as_secs_f64()));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.lines.len().saturating_sub(60);
            eprintln!("seed {}; the last of {} events:", self.seed, self.lines.len());
            self.lines[last..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// The NETMAP that is there when none of the faults has changed it, and `more`. The last line is one that only the second
/// iou-fast takes.
pub(crate) fn wiring(more: &str) -> String {
    common::crowd::classroom(ROUTERS) + "99:0/0 700:0/0\n" + more
}

impl Soak {
    fn new(seed: u64) -> Self {
        let none: [&str; 0] = [];
        let scene = Scene::silent(&none, &VethOptions::default());
        let disk = Disk::new(&scene);
        scene.netmap(&wiring(""));
        (0..NICS.len()).for_each(|nic| make_cable(&scene, nic));
        let open = |id| Member {
            router: Some(Router::new(&scene.netio(), id).unwrap()),
            hanging: Vec::new(),
            reads: true,
        };
        let members = (1..=ROUTERS).map(open).collect();
        let start = Instant::now();
        let mut soak = Self {
            iou_fast: None,
            second: None,
            stations: NICS.map(|nic| Station::new(&scene.wire, nic).unwrap()),
            queues: [1; NICS.len()],
            losses: WireLosses::of(&scene.wire),
            members,
            guest: None,
            guest_heard: 0,
            ledger: Ledger::default(),
            random: Random::new(!seed),
            windows: Vec::new(),
            log: Log { seed, start, lines: Vec::new() },
            received: start,
            waited: Duration::ZERO,
            looked: start,
            disturbed: start,
            tick: 0,
            wire_excused: [0; NICS.len()],
            lives: Vec::new(),
            missing: 0,
            size: None,
            compared: 0,
            marks: HashMap::new(),
            _disk: disk,
            scene,
        };
        soak.start_iou_fast();
        soak
    }

    fn start_iou_fast(&mut self) {
        let ids = |nic| {
            let ids = (1..=ROUTERS).filter(|id| nic_of(*id) == nic);
            ids.map(|id| (512 + id).to_string()).collect::<Vec<_>>().join(",")
        };
        let first = format!("{}={}", NICS[0], ids(0));
        let pseudo = common::crowd::pseudo_ids(ROUTERS);
        let from = Instant::now();
        let arguments = ["-i", &first, "-i", NICS[1], "-p", &pseudo, "--cpus", "0,1"];
        self.iou_fast = Some(self.scene.start(&arguments));
        self.lives.push(Life::new(from, self.losses.total()));
        self.size = None;
        (self.waited, self.looked) = (Duration::ZERO, Instant::now());
    }

    /// Ends it as a user does: the accounting balances, and nothing is left.
    fn stop_iou_fast(&mut self) {
        let Some(running) = self.iou_fast.take() else { return };
        let summary = running.stop();
        self.losses.look(|_| true);
        let life = self.lives.last_mut().expect("it was started");
        let counted = life.end(&summary, self.losses.total());
        let list = |list: &[(String, u64)]| {
            list.iter().map(|(why, count)| format!(" {why} {count}")).collect::<String>()
        };
        self.log.say(&format!(
            "stopped: {} to routers, {} to the NICs, {} between; dropped{}; faults{}; {counted} may be missing",
            summary.to_routers.0,
            summary.to_nics.0,
            summary.between.0,
            list(&summary.dropped),
            list(&summary.faults),
        ));
        self.nothing_is_left();
    }

    fn kill_iou_fast(&mut self) {
        self.iou_fast.take().into_iter().for_each(Running::kill);
        self.nothing_is_left();
    }

    /// No XDP program and no promiscuous mode.
    fn nothing_is_left(&self) {
        for nic in NICS {
            let shown = || {
                let link = self.scene.host.ip(&format!("-d link show dev {nic}")).unwrap().stdout;
                String::from_utf8_lossy(&link).into_owned()
            };
            let clean = wait_until(SOON, || {
                let link = shown();
                link.contains("promiscuity 0") && !link.contains("xdp")
            });
            assert!(clean, "{}", shown());
        }
    }

    /// A round of frames in all directions, and whatever has arrived.
    fn round(&mut self) {
        let begin = Instant::now();
        self.tick += 1;
        self.look_at_the_wires();
        if self.tick.is_multiple_of(GROUP_EVERY) {
            self.look_at_the_machine();
        }
        for id in 1..=ROUTERS {
            let (wire, router) = (End::Wire(nic_of(id)), End::Router(id));
            self.send_any(Flow { from: wire, to: Some(router) });
            self.send_any(Flow { from: router, to: Some(wire) });
            let other = self.split_horizon(id);
            self.send_any(Flow { from: router, to: Some(End::Router(other)) });
        }
        if self.tick.is_multiple_of(GROUP_EVERY) {
            for nic in 0..NICS.len() {
                self.send_any(Flow { from: End::Wire(nic), to: None });
            }
            let id = 1 + self.random.below(ROUTERS.into()) as u16;
            self.send_any(Flow { from: End::Router(id), to: None });
        }
        self.receive();
        if let Some(rest) = TICK.checked_sub(begin.elapsed()) {
            std::thread::sleep(rest);
        }
    }

    /// Another router on the same NIC.
    fn split_horizon(&mut self, id: u16) -> u16 {
        let all = ROUTERS_PER_NIC as u16;
        let (first, own) = ((id - 1) / all * all, (id - 1) % all);
        first + 1 + (own + 1 + self.random.below(ROUTERS_PER_NIC - 1) as u16) % all
    }

    /// Since `from` the machine was busy with other things. What was about to recover from a fault has until now for it.
    fn starved(&mut self, from: Instant) {
        let now = Instant::now();
        let recovering = |window: &&mut Window| window.to.is_some_and(|end| from <= end + AFTER);
        self.windows.iter_mut().filter(recovering).for_each(|window| window.to = Some(now));
        self.windows.push(Window { fault: Fault::Starved, from, to: Some(now) });
        self.disturbed = now;
    }

    /// Looks how long iou-fast's threads have waited for a CPU.
    fn look_at_the_machine(&mut self) {
        let Some(running) = &self.iou_fast else { return };
        let waited = Duration::from_nanos(common::crowd::waiting_time(&running.process));
        let more = waited.saturating_sub(std::mem::replace(&mut self.waited, waited));
        let since = std::mem::replace(&mut self.looked, Instant::now());
        if more > STALL {
            self.log.say(&format!("iou-fast waited for a CPU for {more:?}"));
            self.starved(since.checked_sub(more).unwrap_or(since));
        }
    }

    /// What the far ends threw away while their NICs were all right.
    fn look_at_the_wires(&mut self) {
        let now = Instant::now();
        let windows = &self.windows;
        let disturbed = |nic: usize| {
            let of_it = windows.iter().filter(|window| window.fault.nic() == Some(nic));
            of_it.into_iter().any(|window| window.to.is_none_or(|end| now < end + AFTER))
        };
        self.losses.look(disturbed);
    }

    /// Sends a frame of a length that is drawn.
    fn send_any(&mut self, flow: Flow) {
        let len = 60 + self.random.below(1455) as usize;
        self.send(flow, len);
    }

    /// Sends a frame with its number, to whom it is addressed.
    pub(crate) fn send(&mut self, flow: Flow, len: usize) {
        let number = self.ledger.next(flow);
        let mac = |end| match end {
            End::Wire(_) => STATION,
            End::Router(id) => router_mac(id, 0, 0),
        };
        let to = flow.to.map_or(if number.is_multiple_of(2) { BROADCAST } else { OSPF }, mac);
        let frame = tagged(to, mac(flow.from), tags(flow), len, number);
        let sent = match flow.from {
            // While the NIC is down it has no receiver.
            End::Wire(nic) => self.stations[nic].send(&frame).is_ok(),
            End::Router(id) => self.try_send(id, &frame),
        };
        if sent {
            self.ledger.sent(flow, number);
        }
    }

    /// Sends a router's frame, if it runs and there is room for it.
    fn try_send(&mut self, id: u16, frame: &[u8]) -> bool {
        let datagram = [&header(512 + id, 0, id, 0)[..], frame].concat();
        let router = self.members[usize::from(id) - 1].router.as_ref();
        router.is_some_and(|router| router.try_send(512 + id, &datagram).unwrap())
    }

    /// Reads everything that has arrived.
    fn receive(&mut self) {
        let since = self.received.elapsed();
        if since > STALL {
            self.log.say(&format!("the test did not read for {since:?}"));
            self.starved(self.received);
        }
        (0..NICS.len()).for_each(|nic| self.listen(nic));
        (1..=ROUTERS).for_each(|id| self.read(id));
        self.received = Instant::now();
    }

    /// Reads what has arrived on a wire.
    fn listen(&mut self, nic: usize) {
        while let Some(frame) = self.stations[nic].recv(Duration::ZERO) {
            self.heard(End::Wire(nic), &frame);
        }
    }

    /// Reads what router `id` has got. What a predecessor got that hangs came before what it gets itself.
    pub(crate) fn read(&mut self, id: u16) {
        let member = &mut self.members[usize::from(id) - 1];
        if !member.reads {
            return;
        }
        let own = member.router.as_mut().map_or(Vec::new(), take);
        let mut got: Vec<_> = member.hanging.iter_mut().flat_map(take).collect();
        got.extend(own);
        for (head, frame) in got {
            assert_eq!(head, header(id, 0, 512 + id, 0), "router {id}");
            self.heard(End::Router(id), &frame);
        }
    }

    fn heard(&mut self, at: End, frame: &[u8]) {
        if !is_test_frame(frame) {
            return; // the kernel's own
        }
        let seen = testbed::frame::check(frame).unwrap_or_else(|error| panic!("{at:?}: {error}"));
        let Some((flow, number)) = Flow::of(seen.seq) else { return };
        assert_eq!(seen.tags, tags(flow), "{flow:?} at {at:?}");
        assert!(flow.to.is_none_or(|to| to == at) && flow.from != at, "{flow:?} heard by {at:?}");
        let lost = self.ledger.heard(flow, at, number).unwrap_or_else(|error| panic!("{at:?}: {error}"));
        for sent in lost {
            self.explain(flow, at, sent);
        }
    }

    /// What may have cost a frame of `flow` that was sent at `sent`.
    fn faults_at(&self, sent: Instant, flow: Flow, to: End) -> Vec<Fault> {
        let there = |window: &&Window| {
            sent + BEFORE >= window.from && window.to.is_none_or(|end| sent <= end + AFTER)
        };
        let faults = self.windows.iter().filter(there).map(|window| window.fault);
        faults.filter(|fault| fault.may_cost(flow, to)).collect()
    }

    /// A frame of `flow` that was sent at `sent` does not arrive at `to`.
    fn explain(&mut self, flow: Flow, to: End, sent: Instant) {
        self.missing += 1;
        let mut faults = self.faults_at(sent, flow, to);
        if faults.is_empty() {
            self.look_at_the_machine();
            faults = self.faults_at(sent, flow, to);
        }
        if !faults.is_empty() {
            if faults.iter().all(|fault| fault.is_counted()) {
                self.lives.iter_mut().filter(|life| life.is_at(sent)).for_each(Life::miss);
            }
            return;
        }
        if let End::Wire(nic) = flow.from {
            self.look_at_the_wires();
            // One for many is missing at each.
            self.wire_excused[nic] += 1;
            if self.wire_excused[nic] <= self.losses.undisturbed(nic) * ROUTERS_PER_NIC {
                return;
            }
        }
        let ago = sent.elapsed();
        // What it has counted may tell why.
        let _ = self.iou_fast.as_mut().map(|running| running.process.stop(SOON));
        panic!(
            "a frame of {flow:?}, sent {ago:?} ago, does not arrive at {to:?}, and no fault explains it\n{}",
            self.dump()
        );
    }

    /// Looks how everything is as soon as nothing was wrong for a while.
    fn calm_down(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(20);
        let end = Instant::now() + PATIENCE;
        while self.disturbed.elapsed() < CALM {
            if Instant::now() > end {
                return self.log.say("no calm: the machine is too busy");
            }
            self.round();
        }
        self.calm();
    }

    /// Nothing has been wrong for a while: nothing has grown, everything flows and is in its place.
    fn calm(&mut self) {
        if let Err(quiet) = self.ledger.all_flow(CALM - AFTER) {
            panic!("nothing arrives any more: {quiet}\n{}", self.dump());
        }
        let Some(running) = &self.iou_fast else { return };
        let (memory, descriptors) = (running.process.rss().unwrap(), running.process.fd_count().unwrap());
        let now = Size { memory, descriptors, queues: self.queues };
        let before = self.size.filter(|before| before.queues == now.queues);
        self.log.say(&format!("calm: {} KiB, {descriptors} descriptors", memory >> 10));
        if let Some(before) = before {
            assert!(
                memory <= before.memory + GROWTH,
                "{} bytes of memory before, {memory} now",
                before.memory
            );
            assert_eq!(descriptors, before.descriptors, "descriptors");
            self.compared += 1;
        } else {
            self.size = Some(now);
        }
        for id in 1..=ROUTERS {
            let lock = self.scene.netio().join(format!("{}.lck", 512 + id));
            let holder = std::fs::read_to_string(&lock).unwrap_or_else(|error| error.to_string());
            assert_eq!(holder.trim(), running.process.pid().to_string(), "{}", lock.display());
        }
        for nic in NICS {
            let features = self.scene.host.run("ethtool", ["-k", nic]).unwrap().stdout;
            let is_off = String::from_utf8_lossy(&features).contains("rx-vlan-offload: off");
            let left_on = running.process.stderr().contains("keeps being re-enabled");
            assert!(is_off || left_on, "{nic}: rx-vlan-offload is on\n{}", self.dump());
        }
        let now = Instant::now();
        self.windows.retain(|window| window.to.is_none_or(|end| now < end + Duration::from_secs(20)));
    }

    fn dump(&self) -> String {
        self.iou_fast.as_ref().map_or_else(String::new, |running| running.process.dump())
    }

    /// Goes through the script. On a machine that is too busy for it there is less time between two steps, but half of it
    /// at least.
    fn run(&mut self, script: &[Step]) {
        let mut active: Vec<Fault> = Vec::new();
        let mut due = Instant::now();
        for Step { pause, what } in script {
            due = (due + *pause).max(Instant::now() + *pause / 2);
            while Instant::now() < due {
                self.round();
                active.iter().for_each(|fault| fault.go_on(self));
            }
            match *what {
                What::Begin(fault) => {
                    self.log.say(&format!("{fault:?} begins"));
                    self.begin(fault);
                    active.push(fault);
                }
                What::End(fault) => {
                    active.retain(|other| *other != fault);
                    self.end(fault);
                    self.log.say(&format!("{fault:?} has ended"));
                    self.disturbed = Instant::now();
                }
                What::Calm => self.calm_down(),
            }
        }
    }

    fn begin(&mut self, fault: Fault) {
        self.windows.push(Window { fault, from: Instant::now(), to: None });
        fault.begin(self);
    }

    fn end(&mut self, fault: Fault) {
        fault.end(self);
        let window = self.windows.iter_mut().find(|window| window.fault == fault && window.to.is_none());
        window.expect("a fault that ends has begun").to = Some(Instant::now());
    }

    /// All frames have had their time: those that are missing now never come.
    fn finish(mut self, whole: bool) {
        self.calm_down();
        let last = Instant::now() + AFTER;
        while Instant::now() < last {
            self.receive();
            std::thread::sleep(TICK);
        }
        let rest: Vec<_> = self.ledger.outstanding().collect();
        for (flow, to, sent) in rest {
            self.explain(flow, to, sent);
        }
        self.stop_iou_fast();
        self.lives.iter().for_each(Life::check);
        self.log.lines.iter().for_each(|line| println!("{line}"));
        assert!(self.guest_heard > 0 || !whole, "no changed NETMAP was followed");
        assert!(self.compared > 0 || !whole, "its size was never compared");
        println!("{} frames sent, {} missing, each of them explained", self.ledger.total(), self.missing);
    }
}

fn take(router: &mut Router) -> Vec<testbed::Datagram> {
    std::iter::from_fn(|| router.recv(Duration::ZERO)).collect()
}

/// The tags of a flow's frames. All alike: with several queues a NIC keeps the order of those alone.
fn tags(flow: Flow) -> &'static [Tag] {
    if flow.is_tagged() { &[TAG] } else { &[] }
}

/// A frame that is not counted, of `len` bytes.
fn noise(to: [u8; 6], from: [u8; 6], len: usize, number: u64) -> Vec<u8> {
    common::plain(to, from, len, NOISE | number & 0xffff_ffff)
}

/// A new cable, whose ends are called as the NIC. The near one has one queue of those that it can have before it has its
/// name, by which iou-fast finds it.
fn make_cable(scene: &Scene, nic: usize) {
    let name = NICS[nic];
    let options = VethOptions { queues_rx: MAX_QUEUES, queues_tx: MAX_QUEUES, ..VethOptions::default() };
    let new = format!("new{nic}");
    veth((&scene.wire, name), (&scene.host, &new), &options).unwrap();
    scene.wire.run("ethtool", ["-L", name, "tx", "1"]).unwrap();
    scene.host.run("ethtool", ["-L", &new, "rx", "1"]).unwrap();
    for command in [format!("link set {new} down"), format!("link set {new} name {name}")] {
        scene.host.ip(&command).unwrap();
    }
    scene.silence(&[name]);
    scene.host.ip(&format!("link set {name} up")).unwrap();
}

impl Soak {
    /// Removes both ends of a cable.
    fn remove_nic(&mut self, nic: usize) {
        self.listen(nic);
        self.scene.host.ip(&format!("link del {}", NICS[nic])).unwrap();
    }

    /// A new one.
    fn make_nic(&mut self, nic: usize) {
        self.receive();
        make_cable(&self.scene, nic);
        self.queues[nic] = 1;
        self.stations[nic] = Station::new(&self.scene.wire, NICS[nic]).unwrap();
    }
}

/// Nothing else may run beside it: a busy machine would explain too much.
mod measured {
    use super::*;

    /// Promise `soak` (Faults): Under all faults at random, each kind within two minutes, each frame is delivered
    /// once or its drop is explained and counted; memory and descriptors stay flat. Only the clock is set
    /// elsewhere, in a virtual machine, because it is the whole machine's.
    #[test]
    fn soak_all_faults_every_frame_accounted_for() {
        let variable = |name: &str, default: u64| {
            std::env::var(name)
                .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        let seed = variable("IOU_FAST_SOAK_SEED", 4);
        let time = Duration::from_secs(variable("IOU_FAST_SOAK_SECONDS", 120));
        println!("seed {seed}, {time:?}");
        let script = script::script(seed, time);
        let left_out = script::left_out(&script);
        if !left_out.is_empty() {
            println!("too short for {left_out:?}");
        }
        testbed::with_own_mounts(|| {
            let mut soak = Soak::new(seed);
            soak.run(&script);
            soak.finish(left_out.is_empty());
        })
        .unwrap();
    }
}
