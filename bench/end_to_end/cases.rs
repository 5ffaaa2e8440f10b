//! The cases, in the order of the table. More than 500 lines, because each is a short function and all share the helpers at
//! the end.

use crate::Result;
use crate::bed::{Bed, Direction, NIC, SOON, System};
use crate::board::{FLOOD, Word};
use crate::lab::Lab;
use crate::measure::{Meter, Samples, Thread, Window, cpu_time, memory, quantile, threads, window};
use crate::report::Row;
use crate::report::Target::{AtLeast, AtMost, Open};
use crate::roles::{Pings, Role};
use System::{Fast, Floor, Naive};
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};
use testbed::{Process, wait_until};

/// A case: its name, and what it does.
pub(crate) type Case = (&'static str, fn(&mut Cases) -> Result<()>);

/// All of them.
pub(crate) const ALL: &[Case] = &[
    ("to the router, 64 B", |cases| cases.flooded_to_routers("to the router, 64 B", 64)),
    ("to the router, 1514 B", |cases| cases.flooded_to_routers("to the router, 1514 B", 1514)),
    ("to the router, 100 kpps", Cases::paced_to_routers),
    ("to the router, twice too much", Cases::overloaded_router),
    ("to the NIC, 64 B", |cases| cases.flooded_to_nic("to the NIC, 64 B", 64)),
    ("to the NIC, 1514 B", |cases| cases.flooded_to_nic("to the NIC, 1514 B", 1514)),
    ("routers: 1, 50, 1000", Cases::scaling),
    ("round trip, back to back", |cases| cases.round_trip("round trip, back to back", None)),
    ("round trip, one each ms", |cases| {
        cases.round_trip("round trip, one each ms", Some(Duration::from_millis(1)))
    }),
    ("round trip beside a flood", Cases::round_trip_beside_flood),
    ("broadcast storm", Cases::storm),
    ("50 routers at rest", Cases::at_rest),
    ("start", Cases::start),
    ("heap", Cases::heap),
    ("one queue, two workers", Cases::two_workers),
];

/// How long and how often everything is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Runs of each case; their median counts.
    pub(crate) runs: usize,
    /// Before a window.
    pub(crate) warm_up: Duration,
    /// A window.
    pub(crate) window: Duration,
    /// A window without traffic.
    pub(crate) rest: Duration,
}

impl Plan {
    /// For figures.
    pub(crate) const FULL: Self = Self {
        runs: 5,
        warm_up: Duration::from_millis(250),
        window: Duration::from_millis(700),
        rest: Duration::from_secs(3),
    };
    /// To see that everything works.
    pub(crate) const QUICK: Self = Self {
        runs: 1,
        warm_up: Duration::from_millis(150),
        window: Duration::from_millis(300),
        rest: Duration::from_secs(1),
    };
}

/// What the cases work with.
pub(crate) struct Cases {
    /// Where they run.
    pub(crate) bed: Bed,
    /// How long.
    pub(crate) plan: Plan,
    /// What came out.
    pub(crate) rows: Vec<Row>,
    /// What else is worth saying.
    pub(crate) notes: Vec<String>,
}

/// Windows of several systems, run by run.
type Windows = BTreeMap<System, Vec<Window>>;

fn samples(windows: &Windows, system: System, value: impl Fn(&Window) -> f64) -> Samples {
    windows[&system].iter().map(value).collect()
}

fn kpps(window: &Window) -> f64 {
    window.rate() / 1000.0
}

impl Cases {
    fn add(&mut self, row: Row) {
        println!("{}", crate::report::Report::row(&row));
        self.rows.push(row);
    }

    /// Faults must not happen: the forwarder was asked for them whenever it ended.
    pub(crate) fn no_fault(&mut self) {
        let faults = self.bed.faults.values().sum::<u64>() as f64;
        let case = format!("all {} runs of iou-fast", self.bed.ended);
        self.add(Row::value(&case, "faults", "", Samples(vec![faults]), AtMost(0.0)));
    }

    // ---- To the routers ----

    fn flooded_to_routers(&mut self, case: &str, len: usize) -> Result<()> {
        let windows = self.measure_to_routers(&[Fast, Floor, Naive], 1, len, &[(Word::WireRate, FLOOD)])?;
        let cpu = |system| samples(&windows, system, Window::cpu_per_frame);
        let rate = |system| samples(&windows, system, kpps);
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("floor", cpu(Floor)), AtMost(1.25)));
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("naive", cpu(Naive)), AtMost(0.40)));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("floor", rate(Floor)), Open));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("naive", rate(Naive)), Open));
        Ok(())
    }

    fn paced_to_routers(&mut self) -> Result<()> {
        let case = "to the router, 100 kpps";
        let windows = self.measure_to_routers(&[Fast, Floor, Naive], 1, 64, &[(Word::WireRate, 100_000)])?;
        let cpu = |system| samples(&windows, system, Window::cpu_per_frame);
        let rate = |system| samples(&windows, system, kpps);
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("naive", cpu(Naive)), AtMost(0.65)));
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("floor", cpu(Floor)), Open));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("naive", rate(Naive)), Open));
        Ok(())
    }

    fn overloaded_router(&mut self) -> Result<()> {
        let case = "to the router, twice too much";
        // Two generators, so that the sink has a third of their CPU: more comes than it can take.
        let _other = self.bed.start(self.generator(vec![1], 64, true, false))?;
        let rates = [(Word::WireRate, FLOOD), (Word::OtherRate, FLOOD)];
        let windows = self.measure_to_routers(&[Fast, Floor, Naive], 1, 64, &rates)?;
        let rate = |system| samples(&windows, system, kpps);
        let offered = samples(&windows, Fast, |window| window.offered_rate() / 1000.0);
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("naive", rate(Naive)), AtLeast(2.5)));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("floor", rate(Floor)), Open));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("offered", offered), Open));
        Ok(())
    }

    fn measure_to_routers(
        &mut self,
        systems: &[System],
        routers: usize,
        len: usize,
        rates: &[(Word, u64)],
    ) -> Result<Windows> {
        let lab = self.bed.lab(routers, false)?;
        let _traffic = self.traffic_to_routers(&lab, len)?;
        let mut windows = Windows::new();
        for _ in 0..self.plan.runs {
            for system in systems {
                let direction = Direction::ToRouters { len };
                let window = self.measure(*system, direction, &lab, Meter::Routers, rates)?;
                windows.entry(*system).or_default().push(window);
            }
        }
        Ok(windows)
    }

    /// A sink for all routers, and a generator on the wire.
    fn traffic_to_routers(&self, lab: &Lab, len: usize) -> Result<[Process; 2]> {
        let sink = self.bed.start(Role::Sink { lab: lab.clone(), ids: lab.ids().collect(), first: false })?;
        let generator = self.bed.start(self.generator(lab.ids().collect(), len, false, false))?;
        Ok([sink, generator])
    }

    fn generator(&self, to: Vec<u16>, len: usize, other: bool, patient: bool) -> Role {
        Role::Generator { interface: NIC.to_owned(), to, len, other, patient, first: false }
    }

    /// Starts a forwarder, lets traffic run, watches it for a window, and ends it.
    fn measure(
        &mut self,
        system: System,
        direction: Direction,
        lab: &Lab,
        meter: Meter,
        rates: &[(Word, u64)],
    ) -> Result<Window> {
        let forwarder = self.bed.forwarder(system, direction, lab)?;
        for (word, rate) in rates {
            self.bed.board.set(*word, *rate);
        }
        sleep(self.plan.warm_up);
        let window = window(&self.bed, &forwarder, meter, self.plan.window);
        self.settle();
        if system == Fast {
            self.bed.stop(forwarder)?;
        }
        window
    }

    /// All generators stop, and what is in flight arrives.
    fn settle(&self) {
        self.bed.silence();
        sleep(Duration::from_millis(100));
    }

    // ---- To the NIC ----

    fn flooded_to_nic(&mut self, case: &str, len: usize) -> Result<()> {
        let lab = self.bed.lab(1, false)?;
        let _sink = self.bed.start(Role::Sink { lab: lab.clone(), ids: vec![1], first: false })?;
        let _routers =
            self.bed.start(Role::Routers { lab: lab.clone(), len, group: false, patient: false })?;
        let mut windows = Windows::new();
        for _ in 0..self.plan.runs {
            for system in [Fast, Floor, Naive] {
                let rates = [(Word::RoutersRate, FLOOD)];
                let window = self.measure(system, Direction::ToNic, &lab, Meter::Wire, &rates)?;
                windows.entry(system).or_default().push(window);
            }
        }
        let cpu = |system| samples(&windows, system, Window::cpu_per_frame);
        let rate = |system| samples(&windows, system, kpps);
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("floor", cpu(Floor)), AtMost(1.15)));
        self.add(Row::ratio(case, "CPU a frame", "ns", cpu(Fast), ("naive", cpu(Naive)), AtMost(0.75)));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("naive", rate(Naive)), AtLeast(1.5)));
        self.add(Row::ratio(case, "delivered", "kpps", rate(Fast), ("floor", rate(Floor)), Open));
        Ok(())
    }

    // ---- More routers ----

    fn scaling(&mut self) -> Result<()> {
        const SIZES: [usize; 3] = [1, 50, 1000];
        let mut by_size: BTreeMap<usize, Windows> = BTreeMap::new();
        for _ in 0..self.plan.runs {
            for routers in SIZES {
                let lab = self.bed.lab(routers, false)?;
                let _traffic = self.traffic_to_routers(&lab, 64)?;
                for system in [Fast, Floor] {
                    let rates = [(Word::WireRate, FLOOD)];
                    let direction = Direction::ToRouters { len: 64 };
                    let window = self.measure(system, direction, &lab, Meter::Routers, &rates)?;
                    by_size.entry(routers).or_default().entry(system).or_default().push(window);
                }
            }
        }
        let per_cpu = |window: &Window| 1e6 / window.cpu_per_frame();
        for routers in SIZES {
            let of = |system, value: fn(&Window) -> f64| samples(&by_size[&routers], system, value);
            let case = format!("routers: {routers}");
            self.add(Row::ratio(
                &case,
                "frames a CPU ms",
                "",
                of(Fast, per_cpu),
                ("floor", of(Floor, per_cpu)),
                Open,
            ));
        }
        for routers in &SIZES[1..] {
            let case = format!("routers: {routers} against 1");
            let shrunk = |system, value: fn(&Window) -> f64| {
                samples(&by_size[routers], system, value).by(&samples(&by_size[&1], system, value))
            };
            for (quantity, value) in [("frames a CPU ms", per_cpu as fn(&Window) -> f64), ("delivered", kpps)]
            {
                let (ours, floor) = (shrunk(Fast, value), shrunk(Floor, value));
                self.add(Row::ratio(&case, quantity, "ratio", ours, ("floor", floor), AtLeast(0.95)));
            }
        }
        Ok(())
    }

    // ---- Round trips ----

    fn round_trip(&mut self, case: &str, every: Option<Duration>) -> Result<()> {
        let lab = self.bed.lab(1, false)?;
        let _echo = self.bed.start(Role::Echo { lab: lab.clone(), id: 1 })?;
        let mut pings: BTreeMap<System, Vec<Pings>> = BTreeMap::new();
        for _ in 0..self.plan.runs {
            for system in [Fast, Naive] {
                let forwarder = self.bed.forwarder(system, Direction::ToRouters { len: 64 }, &lab)?;
                sleep(self.plan.warm_up);
                let result = self.ping(1, every);
                if system == Fast {
                    self.bed.stop(forwarder)?;
                }
                pings.entry(system).or_default().push(result?);
            }
        }
        let us = |system: System, share: f64| pings[&system].iter().map(|pings| pings.us(share)).collect();
        let (p50, p99) = if every.is_none() { (AtMost(0.75), AtMost(1.0)) } else { (AtMost(0.55), Open) };
        self.add(Row::ratio(case, "p50", "us", us(Fast, 0.5), ("naive", us(Naive, 0.5)), p50));
        self.add(Row::ratio(case, "p99", "us", us(Fast, 0.99), ("naive", us(Naive, 0.99)), p99));
        Ok(())
    }

    fn round_trip_beside_flood(&mut self) -> Result<()> {
        let case = "round trip beside a flood";
        let lab = self.bed.lab(2, false)?;
        let _echo = self.bed.start(Role::Echo { lab: lab.clone(), id: 1 })?;
        let _sink = self.bed.start(Role::Sink { lab: lab.clone(), ids: vec![2], first: true })?;
        let _generator = self.bed.start(Role::Generator {
            interface: NIC.to_owned(),
            to: vec![2],
            len: 64,
            other: true,
            patient: true,
            first: true,
        })?;
        const FLOODED: f64 = 100.0;
        let mut quiet = Vec::new();
        let mut loaded = Vec::new();
        let (mut sent, mut delivered) = (Vec::new(), Vec::new());
        for _ in 0..self.plan.runs {
            let forwarder = self.bed.forwarder(Fast, Direction::ToRouters { len: 64 }, &lab)?;
            sleep(self.plan.warm_up);
            quiet.push(self.ping(1, None)?);
            self.bed.board.set(Word::OtherRate, (FLOODED * 1000.0) as u64);
            sleep(self.plan.warm_up);
            // The echoing router does not count.
            let counts = |bed: &Bed| [Word::OtherSent, Word::Unicast].map(|word| bed.board.get(word));
            let (start, before) = (Instant::now(), counts(&self.bed));
            loaded.push(self.ping(1, None)?);
            let (ms, after) = (start.elapsed().as_secs_f64() * 1000.0, counts(&self.bed));
            sent.push((after[0] - before[0]) as f64 / ms);
            delivered.push((after[1] - before[1]) as f64 / ms);
            self.settle();
            self.bed.stop(forwarder)?;
        }
        let us = |pings: &[Pings], share| pings.iter().map(|pings| pings.us(share)).collect();
        self.add(Row::ratio(case, "p50", "us", us(&loaded, 0.5), ("quiet", us(&quiet, 0.5)), Open));
        self.add(Row::ratio(case, "p99", "us", us(&loaded, 0.99), ("quiet", us(&quiet, 0.99)), AtMost(3.0)));
        // Without the flood the rest says nothing.
        self.add(Row::value(case, "flood sent", "kpps", Samples(sent), AtLeast(0.95 * FLOODED)));
        self.add(Row::value(case, "flood delivered", "kpps", Samples(delivered), AtLeast(0.95 * FLOODED)));
        Ok(())
    }

    /// Pings router `id` for a window.
    fn ping(&mut self, id: u16, every: Option<Duration>) -> Result<Pings> {
        let role = Role::Pinger { interface: NIC.to_owned(), id, every, total: self.plan.window };
        let mut pinger = self.bed.start(role)?;
        let status = pinger.wait(SOON)?;
        if !status.success() {
            return Err(pinger.dump().into());
        }
        let pings: Pings = serde_json::from_str(&pinger.stdout())?;
        if pings.times.len() as u64 == pings.lost {
            return Err("not one ping was answered".into());
        }
        if pings.lost > 0 {
            self.notes.push(format!("{} of {} pings were not answered", pings.lost, pings.times.len()));
        }
        Ok(pings)
    }

    // ---- A storm ----

    fn storm(&mut self) -> Result<()> {
        let lab = self.bed.lab(50, false)?;
        let _sink =
            self.bed.start(Role::Sink { lab: lab.clone(), ids: lab.ids().collect(), first: false })?;
        let _unicast = self.bed.start(self.generator(lab.ids().collect(), 64, false, true))?;
        let _storm = self.bed.start(self.generator(Vec::new(), 64, true, false))?;
        let (mut share, mut storm, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        let mut dropped = String::new();
        for _ in 0..self.plan.runs {
            let forwarder = self.bed.forwarder(Fast, Direction::ToRouters { len: 64 }, &lab)?;
            let start = Instant::now();
            let counts = [Word::Unicast, Word::WireSent, Word::OtherSent, Word::Group];
            let before = counts.map(|word| self.bed.board.get(word));
            self.bed.board.set(Word::OtherRate, FLOOD);
            self.bed.board.set(Word::WireRate, 10_000);
            sleep(self.plan.warm_up + self.plan.window);
            // First the unicast, then the storm: its end is no rest for what is measured.
            self.bed.board.set(Word::WireRate, 0);
            sleep(Duration::from_millis(100));
            let seconds = start.elapsed().as_secs_f64();
            self.settle();
            let after = counts.map(|word| self.bed.board.get(word));
            let [got, sent, stormed, copied] = std::array::from_fn(|n| (after[n] - before[n]) as f64);
            share.push(got / sent.max(1.0));
            storm.push(stormed / seconds / 1000.0);
            copies.push(copied / seconds / 1000.0);
            dropped = self.bed.stop(forwarder)?;
        }
        let case = "broadcast storm, 50 routers";
        self.notes.push(format!("{case}: dropped in the last run: {dropped}"));
        self.add(Row::value(case, "unicast delivered", "share", Samples(share), AtLeast(0.97)));
        self.add(Row::value(case, "storm", "kpps", Samples(storm), Open));
        self.add(Row::value(case, "copies to routers", "kpps", Samples(copies), Open));
        Ok(())
    }

    // ---- At rest ----

    fn at_rest(&mut self) -> Result<()> {
        let lab = self.bed.lab(50, false)?;
        let _traffic = self.traffic_to_routers(&lab, 64)?;
        let (mut cpu, mut resident) = (Vec::new(), Vec::new());
        for _ in 0..self.plan.runs.min(3) {
            let forwarder = self.bed.forwarder(Fast, Direction::ToRouters { len: 64 }, &lab)?;
            // Memory counts after work, when everything has been touched.
            self.bed.board.set(Word::WireRate, FLOOD);
            sleep(self.plan.window);
            self.settle();
            resident.push(memory(forwarder.pid())? as f64 / f64::from(1 << 20));
            let (start, before) = (Instant::now(), cpu_time(forwarder.pid())?);
            sleep(self.plan.rest);
            let used = (cpu_time(forwarder.pid())? - before) as f64;
            cpu.push(used / start.elapsed().as_nanos() as f64 * 100.0);
            self.bed.stop(forwarder)?;
        }
        self.add(Row::value("50 routers at rest", "CPU", "% of a core", Samples(cpu), AtMost(0.5)));
        self.add(Row::value("50 routers", "memory", "MiB", Samples(resident), AtMost(96.0)));
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        for (routers, target) in [(50, 300.0), (1000, 1000.0)] {
            let lab = self.bed.lab(routers, false)?;
            let _sink =
                self.bed.start(Role::Sink { lab: lab.clone(), ids: lab.ids().collect(), first: false })?;
            let mut times = Vec::new();
            for _ in 0..self.plan.runs {
                let start = Instant::now();
                let forwarder = self.bed.launch(&lab, &self.bed.cpus[..1])?;
                let ready = wait_until(SOON, || forwarder.stdout().lines().any(|line| line == "ready"));
                times.push(start.elapsed().as_secs_f64() * 1000.0);
                if !ready {
                    return Err(forwarder.dump().into());
                }
                self.bed.stop(forwarder)?;
            }
            let case = format!("start, {routers} routers");
            self.add(Row::value(&case, "until ready", "ms", Samples(times), AtMost(target)));
        }
        Ok(())
    }

    // ---- Inside ----

    fn heap(&mut self) -> Result<()> {
        let lab = self.bed.lab(50, false)?;
        let _traffic = self.traffic_to_routers(&lab, 64)?;
        let _routers =
            self.bed.start(Role::Routers { lab: lab.clone(), len: 64, group: false, patient: false })?;
        let _group = self.bed.start(self.generator(Vec::new(), 64, true, true))?;
        let forwarder = self.bed.inside(&lab, &self.bed.cpus[..1])?;
        // A flood first: what grows with use, such as backlogs, has its size then.
        self.bed.board.set(Word::WireRate, FLOOD);
        self.bed.board.set(Word::OtherRate, FLOOD);
        sleep(self.plan.window);
        for (word, rate) in [(Word::WireRate, 50_000), (Word::RoutersRate, 50_000), (Word::OtherRate, 1000)] {
            self.bed.board.set(word, rate);
        }
        let counts = |bed: &Bed| -> Result<[u64; 3]> {
            let to_routers = bed.board.get(Word::Unicast) + bed.board.get(Word::Group);
            Ok([bed.board.get(Word::Allocations), to_routers, bed.arrived_on_wire()?])
        };
        sleep(2 * self.plan.window);
        let before = counts(&self.bed)?;
        sleep(2 * self.plan.window);
        let after = counts(&self.bed)?;
        self.settle();
        self.bed.stop(forwarder)?;
        let [allocations, to_routers, to_nic] = std::array::from_fn(|n| after[n] - before[n]);
        if to_routers == 0 || to_nic == 0 {
            return Err(
                format!("{to_routers} frames to routers and {to_nic} to the NIC were forwarded").into()
            );
        }
        if allocations != 0 {
            return Err(format!("{allocations} allocations for {} frames", to_routers + to_nic).into());
        }
        let case = "heap, both directions and broadcast";
        let frames = Samples(vec![(to_routers + to_nic) as f64 / 1000.0]);
        self.add(Row::value(case, "allocations", "", Samples(vec![allocations as f64]), AtMost(0.0)));
        self.add(Row::value(case, "frames", "thousand", frames, Open));
        Ok(())
    }

    fn two_workers(&mut self) -> Result<()> {
        let [first, second] = self.bed.cpus;
        if first == second {
            return Err("one queue, two workers: there is only one CPU".into());
        }
        let lab = self.bed.lab(50, true)?;
        // Like for like: generator, sink and routers on each of the CPUs, half of the traffic each.
        let alike = {
            let (even, odd) = lab.ids().partition(|id| id % 2 == 0);
            let mut traffic = Vec::new();
            for (cpu, ids, other) in [(first, even, false), (second, odd, true)] {
                let routers = Role::Routers { lab: lab.clone(), len: 64, group: false, patient: true };
                let generator = self.generator(lab.ids().collect(), 64, other, true);
                for role in [Role::Sink { lab: lab.clone(), ids, first: false }, generator, routers] {
                    traffic.push(self.bed.start_beside(cpu, role)?);
                }
            }
            let rates = [(Word::WireRate, 25_000), (Word::OtherRate, 25_000), (Word::RoutersRate, 25_000)];
            let shares = self.shares(&lab, &rates)?;
            drop(traffic);
            shares
        };
        // As in all other cases: those have the second CPU, which its worker shares with them.
        let _traffic = self.traffic_to_routers(&lab, 64)?;
        let _routers =
            self.bed.start(Role::Routers { lab: lab.clone(), len: 64, group: false, patient: false })?;
        let shared = self.shares(&lab, &[(Word::WireRate, 50_000), (Word::RoutersRate, 50_000)])?;

        let mut rows = |case: &str, shares: &[Shares], target| {
            let of = |value: fn(&Shares) -> f64| shares.iter().map(value).collect();
            self.add(Row::value(case, "larger share of frames", "", of(|at| larger(at.frames)), Open));
            self.add(Row::value(case, "larger share of CPU", "", of(|at| larger(at.time)), target));
            let per_sleep = |at: &Shares, n: usize| at.frames[n] / at.sleeps[n].max(1.0);
            let (one, other) = (
                shares.iter().map(|at| per_sleep(at, 0)).collect(),
                shares.iter().map(|at| per_sleep(at, 1)).collect(),
            );
            self.add(Row::ratio(case, "frames a wake-up, first", "", one, ("second", other), Open));
        };
        rows("two workers, CPUs alike", &alike, AtMost(0.60));
        rows("two workers, one beside all", &shared, Open);
        Ok(())
    }

    /// What each of two workers does while frames go in both directions at `rates`.
    fn shares(&mut self, lab: &Lab, rates: &[(Word, u64)]) -> Result<Vec<Shares>> {
        let mut shares = Vec::new();
        for _ in 0..self.plan.runs {
            let forwarder = self.bed.inside(lab, &self.bed.cpus)?;
            for (word, rate) in rates {
                self.bed.board.set(*word, *rate);
            }
            sleep(self.plan.warm_up);
            let counts = || [Word::FirstWorker, Word::SecondWorker].map(|word| self.bed.board.get(word));
            let before = (counts(), workers(&forwarder)?);
            sleep(self.plan.window);
            let after = (counts(), workers(&forwarder)?);
            self.settle();
            self.bed.stop(forwarder)?;
            let added = |value: fn(&Thread) -> u64| {
                std::array::from_fn(|n| (value(&after.1[n]) - value(&before.1[n])) as f64)
            };
            shares.push(Shares {
                frames: std::array::from_fn(|n| (after.0[n] - before.0[n]) as f64),
                time: added(|thread| thread.time),
                sleeps: added(|thread| thread.sleeps),
            });
        }
        Ok(shares)
    }
}

/// What each of two workers did: frames forwarded, CPU time (ns), and how often it went to sleep.
struct Shares {
    frames: [f64; 2],
    time: [f64; 2],
    sleeps: [f64; 2],
}

/// The two workers.
fn workers(forwarder: &Process) -> Result<[Thread; 2]> {
    let mut threads = threads(forwarder.pid())?;
    threads.retain(|thread| thread.name.starts_with("worker "));
    threads.sort_by(|a, b| a.name.cmp(&b.name));
    let count = threads.len();
    threads.try_into().map_err(|_| format!("{count} workers in place of two").into())
}

/// The larger one's share.
fn larger(both: [f64; 2]) -> f64 {
    both[0].max(both[1]) / (both[0] + both[1])
}

impl Pings {
    /// The round-trip time that a share of the pings did not exceed, us.
    fn us(&self, share: f64) -> f64 {
        quantile(&self.times, share) / 1000.0
    }
}
