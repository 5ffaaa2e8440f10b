//! Everything at once: traffic in all directions, and faults at random, from a seed that repeats them. Every frame has a
//! number and is whole; each is delivered once at most, in order, to whom it is for; one that is missing was sent when a
//! fault was there that may cost just it, and iou-fast has counted at least as many. Other flows lose nothing.
//!
//! Two minutes here; `cargo xtask soak --hours 2 --seed 7` runs it longer, or again as it was.

#[path = "../common/mod.rs"]
mod common;
mod fault;
mod flow;

use common::{BROADCAST, Running, Scene, Summary, header, is_test_frame, plain, router_mac};
use fault::{Bag, Fault};
use flow::{End, Flow, Ledger, NOISE};
use std::time::{Duration, Instant};
use testbed::{Router, Station, VethOptions};

/// Routers of the lab, 1 to this.
pub(crate) const ROUTERS: u16 = 10;
/// The station on the wire.
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// OSPF's group.
const OSPF: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
/// One round of frames in all directions: some 13,000 a second, if the machine is idle.
const TICK: Duration = Duration::from_millis(3);
/// Frames for many are sent every so many rounds.
const GROUP_EVERY: u64 = 8;
/// What was sent this long before a fault may still have been under way.
const BEFORE: Duration = Duration::from_millis(500);
/// How long after a fault everything works again, on a machine that is busy with other things.
const AFTER: Duration = Duration::from_millis(1500);
/// The rounds stood still for so long that routers had no reader: frames may be stale.
const STALL: Duration = Duration::from_millis(300);
/// Without a fault for this long, memory and descriptors are compared, and every flow must flow.
const CALM: Duration = Duration::from_millis(3500);
/// How much more memory it may use than at its first calm moment: allocators keep some.
const GROWTH: u64 = 8 << 20;

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

/// Everything.
pub(crate) struct Soak {
    scene: Scene,
    station: Station,
    card_is_there: bool,
    /// Frames that former cards' far ends threw away.
    lost_before: u64,
    iou_fast: Option<Running>,
    members: Vec<Member>,
    /// The router on the link that comes and goes, while it is there.
    guest: Option<Router>,
    /// Frames that it got, each time together.
    guest_heard: u64,
    ledger: Ledger,
    random: Random,
    windows: Vec<Window>,
    log: Log,
    tick: u64,
    /// How many of the missing ones are put down to frames that never reached the card.
    wire_excused: u64,
    /// Missing since iou-fast was started, that it must have counted.
    to_be_counted: u64,
    missing: u64,
    /// Memory and descriptors at its first calm moment.
    flat: Option<(u64, usize)>,
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

/// xorshift64*: the same numbers from the same seed.
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub(crate) fn any(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.any() >> 16) % end
    }

    /// A router's id.
    pub(crate) fn router(&mut self) -> u16 {
        1 + self.below(u64::from(ROUTERS)) as u16
    }
}

impl Soak {
    fn new(seed: u64) -> Self {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap(&common::crowd::classroom(ROUTERS));
        let open = |id| Member {
            router: Some(Router::new(&scene.netio(), id).unwrap()),
            hanging: Vec::new(),
            reads: true,
        };
        let members = (1..=ROUTERS).map(open).collect();
        let station = scene.station();
        let start = Instant::now();
        let log = Log { seed, start, lines: Vec::new() };
        let mut soak = Self {
            scene,
            station,
            card_is_there: true,
            lost_before: 0,
            iou_fast: None,
            members,
            guest: None,
            guest_heard: 0,
            ledger: Ledger::default(),
            random: Random::new(seed),
            windows: Vec::new(),
            log,
            tick: 0,
            wire_excused: 0,
            to_be_counted: 0,
            missing: 0,
            flat: None,
        };
        soak.start_iou_fast();
        soak
    }

    fn start_iou_fast(&mut self) {
        let pseudo = common::crowd::pseudo_ids(ROUTERS);
        self.iou_fast = Some(self.scene.start(&["-i", "eth0", "-p", &pseudo]));
        (self.to_be_counted, self.flat) = (0, None);
    }

    /// Ends it as a user does: the books balance, and what is missing is among what it counted.
    fn stop_iou_fast(&mut self) {
        let Some(running) = self.iou_fast.take() else { return };
        let summary: Summary = running.stop();
        let ports = u64::from(ROUTERS);
        // A copy that found no room is one for all routers.
        let weight = |why: &str| if why == "group-surplus" { ports } else { 1 };
        let dropped: u64 = summary.dropped.iter().map(|(why, count)| weight(why) * count).sum();
        let faults: u64 = summary.faults.iter().map(|(_, count)| count * ports).sum();
        let on_the_wire = ports * self.lost_on_the_wire();
        assert!(
            self.to_be_counted <= dropped + faults + on_the_wire,
            "{} frames are missing, which it has not counted\n{}",
            self.to_be_counted,
            summary.text
        );
        let list = |list: &[(String, u64)]| {
            list.iter().map(|(why, count)| format!(" {why} {count}")).collect::<String>()
        };
        self.log.say(&format!(
            "stopped: {} to routers, {} to the card, {} between; dropped{}; faults{}; {} missing",
            summary.to_routers.0,
            summary.to_nics.0,
            summary.between.0,
            list(&summary.dropped),
            list(&summary.faults),
            self.to_be_counted
        ));
    }

    /// Frames that the far end of the card threw away.
    fn lost_on_the_wire(&self) -> u64 {
        let now = if self.card_is_there { common::crowd::lost_on_the_wire(&self.scene) } else { 0 };
        self.lost_before + now
    }

    /// A round of frames in all directions, and whatever has arrived.
    fn round(&mut self) {
        let begin = Instant::now();
        self.tick += 1;
        for id in 1..=ROUTERS {
            self.wire_sends(Flow { from: End::Wire, to: Some(End::Router(id)) });
            self.router_sends(Flow { from: End::Router(id), to: Some(End::Wire) });
            let other = self.random.router();
            if other != id {
                self.router_sends(Flow { from: End::Router(id), to: Some(End::Router(other)) });
            }
        }
        if self.tick.is_multiple_of(GROUP_EVERY) {
            self.wire_sends(Flow { from: End::Wire, to: None });
            let id = self.random.router();
            self.router_sends(Flow { from: End::Router(id), to: None });
        }
        self.receive();
        if let Some(rest) = TICK.checked_sub(begin.elapsed()) {
            std::thread::sleep(rest);
        }
        if begin.elapsed() > STALL {
            self.stalled(begin);
        }
    }

    fn stalled(&mut self, since: Instant) {
        self.log.say(&format!("no round for {:?}", since.elapsed()));
        self.windows.push(Window { fault: Fault::NoReader, from: since, to: Some(Instant::now()) });
    }

    /// A frame of a length that is drawn, its number, and to whom it is addressed.
    fn frame(&mut self, flow: Flow) -> (Vec<u8>, u64) {
        let number = self.ledger.next(flow);
        let len = 60 + self.random.below(1455) as usize;
        let mac = |end| match end {
            End::Wire => STATION,
            End::Router(id) => router_mac(id, 0, 0),
        };
        let to = flow.to.map_or(if number.is_multiple_of(2) { BROADCAST } else { OSPF }, mac);
        (plain(to, mac(flow.from), len, number), number)
    }

    fn wire_sends(&mut self, flow: Flow) {
        let (frame, number) = self.frame(flow);
        // While the card is down there is nobody to take it.
        if self.station.send(&frame).is_ok() {
            self.ledger.sent(flow, number);
        }
    }

    fn router_sends(&mut self, flow: Flow) {
        let (frame, number) = self.frame(flow);
        let End::Router(id) = flow.from else { unreachable!("{flow:?}") };
        if self.try_send(id, &frame) {
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
        while let Some(frame) = self.station.recv(Duration::ZERO) {
            self.heard(End::Wire, &frame);
        }
        for id in 1..=ROUTERS {
            self.read(id);
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
        assert!(flow.to.is_none_or(|to| to == at) && flow.from != at, "{flow:?} heard by {at:?}");
        let lost = self.ledger.heard(flow, at, number).unwrap_or_else(|error| panic!("{at:?}: {error}"));
        for sent in lost {
            self.explain(flow, at, sent);
        }
    }

    /// A frame of `flow` that was sent at `sent` does not arrive at `to`.
    fn explain(&mut self, flow: Flow, to: End, sent: Instant) {
        self.missing += 1;
        let there = |window: &&Window| {
            sent + BEFORE >= window.from && window.to.is_none_or(|end| sent <= end + AFTER)
        };
        let faults = self.windows.iter().filter(there).map(|window| window.fault);
        let faults: Vec<_> = faults.filter(|fault| fault.may_cost(flow, to)).collect();
        if !faults.is_empty() {
            self.to_be_counted += u64::from(faults.iter().all(|fault| fault.is_counted()));
            return;
        }
        if flow.from == End::Wire {
            let lost = self.lost_on_the_wire();
            // One for many is missing at each.
            self.wire_excused += 1;
            if self.wire_excused <= lost * u64::from(ROUTERS) {
                return;
            }
        }
        let ago = sent.elapsed();
        panic!("a frame of {flow:?}, sent {ago:?} ago, does not arrive at {to:?}, and no fault explains it");
    }

    /// Nothing has been wrong for a while: nothing has grown, everything flows.
    fn calm(&mut self) {
        if let Err(quiet) = self.ledger.all_flow(CALM - AFTER) {
            panic!("nothing arrives any more: {quiet}\n{}", self.dump());
        }
        let Some(running) = &self.iou_fast else { return };
        let (memory, descriptors) = (running.process.rss().unwrap(), running.process.fd_count().unwrap());
        let (memory_before, descriptors_before) = *self.flat.get_or_insert((memory, descriptors));
        self.log.say(&format!("calm: {} KiB, {descriptors} descriptors", memory >> 10));
        assert!(memory <= memory_before + GROWTH, "{memory_before} bytes of memory before, {memory} now");
        assert_eq!(descriptors, descriptors_before, "descriptors");
        let now = Instant::now();
        self.windows.retain(|window| window.to.is_none_or(|end| now < end + Duration::from_secs(20)));
    }

    fn dump(&self) -> String {
        self.iou_fast.as_ref().map_or_else(String::new, |running| running.process.dump())
    }

    /// Rounds with faults, for `time`.
    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut bag = Bag::new(time);
        let mut active: Vec<(Instant, Fault)> = Vec::new();
        let mut next = Instant::now() + AFTER;
        let mut calm_at = None;
        while Instant::now() < end || !active.is_empty() {
            self.round();
            let now = Instant::now();
            for (_, fault) in &active {
                fault.go_on(self);
            }
            while let Some(at) = active.iter().position(|(end, _)| *end <= now) {
                let (_, fault) = active.remove(at);
                self.end(fault);
                if active.is_empty() && self.random.below(5) == 0 {
                    calm_at = Some(Instant::now() + CALM);
                } else {
                    next = Instant::now() + Duration::from_millis(self.random.below(600));
                }
            }
            if let Some(at) = calm_at {
                if now >= at {
                    self.calm();
                    calm_at = None;
                    next = now;
                }
                continue;
            }
            if now >= next && now < end && active.len() < 2 {
                let fault = bag.draw(&mut self.random);
                let length = Duration::from_millis(fault.length(&mut self.random));
                if active.iter().any(|(_, other)| fault.excludes(*other)) {
                    bag.put_back(fault);
                } else {
                    self.log.say(&format!("{fault:?} for {length:?}"));
                    self.begin(fault);
                    active.push((Instant::now() + length, fault));
                }
                next = Instant::now() + Duration::from_millis(self.random.below(1500));
            }
        }
    }

    fn begin(&mut self, fault: Fault) {
        let from = Instant::now();
        self.windows.push(Window { fault, from, to: None });
        fault.begin(self);
        if from.elapsed() > STALL {
            self.stalled(from);
        }
    }

    fn end(&mut self, fault: Fault) {
        let begin = Instant::now();
        fault.end(self);
        if begin.elapsed() > STALL {
            self.stalled(begin);
        }
        let window = self.windows.iter_mut().find(|window| window.fault == fault && window.to.is_none());
        window.expect("a fault that ends has begun").to = Some(Instant::now());
    }

    /// All frames have had their time: those that are missing now never come.
    fn finish(mut self) {
        let calm = Instant::now() + CALM;
        while Instant::now() < calm {
            self.round();
        }
        self.calm();
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
        let link = self.scene.host.ip("-d link show dev eth0").unwrap().stdout;
        let link = String::from_utf8_lossy(&link).into_owned();
        assert!(link.contains("promiscuity 0") && !link.contains("xdp"), "{link}");
        self.log.lines.iter().for_each(|line| println!("{line}"));
        assert!(self.guest_heard > 0, "no changed NETMAP was followed");
        println!("{} frames sent, {} missing, each of them explained", self.ledger.total(), self.missing);
    }
}

fn take(router: &mut Router) -> Vec<testbed::Datagram> {
    std::iter::from_fn(|| router.recv(Duration::ZERO)).collect()
}

/// A frame that nobody counts, of `len` bytes.
fn noise(to: [u8; 6], from: [u8; 6], len: usize, number: u64) -> Vec<u8> {
    plain(to, from, len, NOISE | number & 0xffff_ffff)
}

#[test]
fn all_faults_at_random_and_every_frame_is_accounted_for() {
    let variable = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let seed = variable("IOU_FAST_SOAK_SEED", 4);
    let time = Duration::from_secs(variable("IOU_FAST_SOAK_SECONDS", 120));
    println!("seed {seed}, {time:?}");
    let mut soak = Soak::new(seed);
    soak.run(time);
    soak.finish();
}
