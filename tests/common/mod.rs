//! A scene for end-to-end tests: a host and a wire in namespaces of their own, a veth pair as the NIC, a
//! netio directory, and the real `iou-fast` as a process.
//!
//! ```text
//!   namespace "wire"                     namespace "host"
//!   Station on eth0 ──── veth pair ──── eth0 ◄─ iou-fast ─► netio directory ◄─► Router, iou-fast sim
//! ```

#![allow(dead_code, unreachable_pub, reason = "a module of each test program, which uses a part of it")]

pub mod crowd;
pub mod tables;
pub mod users;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use testbed::{Bin, Namespace, Process, Signal, Station, VethOptions, veth};

/// How long a program may take to start or end, also on a machine that is busy with other tests; an emulated processor is
/// some thirty times slower.
pub const SOON: Duration = Duration::from_secs(if cfg!(feature = "vm") { 60 } else { 10 });

/// Namespaces, NICs and a lab's directory. Everything goes when it is dropped.
pub struct Scene {
    /// Where `iou-fast` runs.
    pub host: Namespace,
    /// Where the other ends of the veth pairs are, under the same names.
    pub wire: Namespace,
    directory: tempfile::TempDir,
}

impl Scene {
    /// One NIC, eth0, with an MTU of 1500.
    pub fn new() -> Self {
        Self::with_nics(&["eth0"], &VethOptions::default())
    }

    /// The given NICs, all alike.
    pub fn with_nics(names: &[&str], options: &VethOptions) -> Self {
        testbed::require_root().unwrap();
        let (host, wire) = (Namespace::new("host").unwrap(), Namespace::new("wire").unwrap());
        for name in names {
            veth((&wire, name), (&host, name), options).unwrap();
        }
        Self::between(host, wire)
    }

    /// With the NICs that are in `host` and `wire` already.
    pub fn between(host: Namespace, wire: Namespace) -> Self {
        // Memory-backed: an ext4 directory takes milliseconds for a socket file.
        let directory = tempfile::Builder::new().prefix("iouf").tempdir_in("/dev/shm").unwrap();
        // For other users too, some of whom run routers.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(directory.path().join("netio")).unwrap();
        Self { host, wire, directory }
    }

    /// Where the routers' sockets are.
    pub fn netio(&self) -> PathBuf {
        self.directory.path().join("netio")
    }

    /// The NETMAP's path.
    pub fn netmap_file(&self) -> PathBuf {
        self.directory.path().join("NETMAP")
    }

    /// The scene's directory, for other files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes the NETMAP.
    pub fn netmap(&self, text: &str) {
        std::fs::write(self.netmap_file(), text).unwrap();
    }

    /// `iou-fast` with this scene's NETMAP and directory, and `arguments`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(Bin::find("iou-fast").unwrap());
        command
            .arg("--netmap")
            .arg(self.netmap_file())
            .arg("--netio-dir")
            .arg(self.netio())
            .arg("--state-dir")
            .arg(self.directory.path().join("state"))
            .args(if arguments.contains(&"--uid") { &[][..] } else { &["--uid", "0"] })
            .args(arguments)
            .env_remove("SUDO_UID");
        command
    }

    /// Starts `iou-fast` and waits until it is ready.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut process = Process::spawn(&mut self.command(arguments)).unwrap();
        process.wait_for_line(|line| line == "ready", SOON).unwrap();
        Running { process }
    }

    /// Runs `iou-fast` that must refuse to start; returns what it said on standard error.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let mut process = Process::spawn(&mut self.command(arguments)).unwrap();
        let status = process.wait(SOON).unwrap();
        assert!(!status.success(), "it did not refuse:\n{}", process.dump());
        assert!(!process.stdout().contains("ready"), "{}", process.dump());
        process.stderr()
    }

    /// A raw station on the wire's end of eth0.
    pub fn station(&self) -> Station {
        Station::new(&self.wire, "eth0").unwrap()
    }

    /// Starts `iou-fast sim`, which needs the scene's NETMAP, with `arguments`, and waits until it is ready.
    pub fn simulate(&self, ids: &str, arguments: &[&str]) -> Process {
        let mut command = self.host.command(Bin::find("iou-fast").unwrap());
        command.arg("sim");
        command.arg("-n").arg(self.netmap_file()).arg("--netio-dir").arg(self.netio());
        command.args(["--ids", ids, "--ipv4", "10.10.0.0/16", "--ipv6", "fd00:10::/64"]).args(arguments);
        let mut process = Process::spawn(&mut command).unwrap();
        process.wait_for_line(|line| line == "ready", SOON).unwrap();
        process
    }
}

/// A running `iou-fast`; killed when dropped.
pub struct Running {
    /// The process.
    pub process: Process,
}

impl Running {
    /// Ends it as a user does and returns its summary. No chunk of UMEM may be missing, and every frame that came in has
    /// gone out or is counted under a reason.
    pub fn stop(mut self) -> Summary {
        self.process.signal(Signal::INT);
        let status = self.process.wait(SOON).unwrap();
        assert!(status.success(), "{status}\n{}", self.process.dump());
        let summary = Summary { log: self.process.stderr(), ..Summary::read(&self.process.stdout()) };
        let (found, all) = summary.chunks;
        assert!(all > 0 && found == all, "{found} of {all} chunks\n{}", self.process.dump());
        assert!(summary.text.ends_with("\naccounting: balanced\n"), "{}", self.process.dump());
        summary
    }

    /// The BPF links that it has on NIC number `index`. Other namespaces have NICs of the same number.
    pub fn xdp_links(&self, index: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        for descriptor in std::fs::read_dir(format!("/proc/{}/fdinfo", self.process.pid())).unwrap() {
            let Ok(text) = std::fs::read_to_string(descriptor.unwrap().path()) else { continue };
            let field = |name: &str| -> Option<u32> {
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            };
            if field("ifindex:") == Some(index) {
                ids.extend(field("link_id:"));
            }
        }
        ids
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(SOON).unwrap();
    }

    /// Ends it and its guard with SIGKILL.
    pub fn kill_with_guard(self) {
        let guard = rustix::process::Pid::from_raw(self.guard().cast_signed()).unwrap();
        rustix::process::kill_process(guard, Signal::KILL).unwrap();
        self.kill();
    }
}

/// What `iou-fast` prints at its end.
#[derive(Debug, Default)]
pub struct Summary {
    /// Frames, bytes.
    pub to_routers: (u64, u64),
    /// Frames, bytes.
    pub to_nics: (u64, u64),
    /// Frames, bytes.
    pub between: (u64, u64),
    /// By name.
    pub dropped: Vec<(String, u64)>,
    /// By name.
    pub faults: Vec<(String, u64)>,
    /// Found, of how many.
    pub chunks: (u64, u64),
    /// As it was printed.
    pub text: String,
    /// All that it logged, the last words too.
    pub log: String,
}

impl Summary {
    /// Reads it out of everything that was printed.
    pub fn read(output: &str) -> Self {
        let mut summary = Self { text: output.to_string(), ..Self::default() };
        let numbers = |text: &str| -> Vec<u64> {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
        };
        let pair = |text: &str| {
            let numbers = numbers(text);
            (numbers[0], numbers[1])
        };
        let list = |text: &str| -> Vec<(String, u64)> {
            let items = text.split(", ").filter_map(|item| item.rsplit_once(' '));
            items.map(|(name, count)| (name.to_string(), count.parse().unwrap())).collect()
        };
        for line in output.lines() {
            let Some((name, rest)) = line.split_once(": ") else { continue };
            match name {
                "to routers" => summary.to_routers = pair(rest),
                "to NICs" => summary.to_nics = pair(rest),
                "between routers" => summary.between = pair(rest),
                "dropped" => summary.dropped = list(rest),
                "faults" => summary.faults = list(rest),
                "chunks" => summary.chunks = pair(rest),
                _ => {}
            }
        }
        summary
    }

    /// How many frames were dropped for `reason`.
    pub fn drops(&self, reason: &str) -> u64 {
        self.dropped.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count)
    }

    /// Nothing was dropped and nothing went wrong.
    pub fn assert_clean(&self) {
        assert!(self.dropped.is_empty() && self.faults.is_empty(), "{}", self.text);
    }
}

/// How much the machine keeps its processes waiting, beside what is tested: what has a deadline in ms has a neighbour's
/// build in its way.
pub struct Strain {
    /// Sum and longest, us.
    waited: Arc<[AtomicU64; 2]>,
    end: Arc<AtomicBool>,
}

impl Strain {
    const PAUSE: Duration = Duration::from_millis(5);

    /// Measures from now on: how much later than asked a sleeping thread runs, on each CPU, for a hypervisor may take one
    /// away and leave the others.
    pub fn measure() -> Self {
        const PAUSE: Duration = Strain::PAUSE;
        let (waited, end) = (Arc::<[AtomicU64; 2]>::default(), Arc::<AtomicBool>::default());
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        for cpu in (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
            let (shared, ended) = (waited.clone(), end.clone());
            std::thread::spawn(move || {
                let mut only = rustix::thread::CpuSet::new();
                only.set(cpu);
                // One that was taken offline just now is measured with the others.
                let _ = rustix::thread::sched_setaffinity(None, &only);
                while !ended.load(Relaxed) {
                    let start = std::time::Instant::now();
                    std::thread::sleep(PAUSE);
                    let late = start.elapsed().saturating_sub(PAUSE).as_micros() as u64;
                    shared[0].fetch_add(if late > 1000 { late } else { 0 }, Relaxed);
                    shared[1].fetch_max(late, Relaxed);
                }
            });
        }
        Self { waited, end }
    }

    /// All delays above a millisecond together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.waited[0].load(Relaxed))
    }

    /// Does `work`, which is to take less than `limit`; says how long it took, and what of it is the machine's.
    pub fn time<T>(&self, limit: Duration, work: impl FnOnce() -> T) -> (Took, T) {
        let (before, start) = (self.sum(), std::time::Instant::now());
        let result = work();
        let time = start.elapsed();
        if time >= limit {
            // Who measures may have been kept waiting as well, and says so when it runs.
            std::thread::sleep(Self::PAUSE * 4);
        }
        (Took { time, strain: self.sum() - before }, result)
    }

    /// The longest delay.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.waited[1].load(Relaxed))
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
    }
}

/// How long something took.
#[derive(Clone, Copy)]
pub struct Took {
    /// In all.
    pub time: Duration,
    /// While the machine kept its processes waiting.
    pub strain: Duration,
}

impl Took {
    /// It took less than `limit`, apart from what is the machine's.
    pub fn is_within(self, limit: Duration) -> bool {
        self.time < limit + self.strain
    }
}

impl std::fmt::Debug for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({:?} of the machine's)", self.time, self.strain)
    }
}

/// Each took less than `limit`.
#[track_caller]
pub fn assert_each_within(limit: Duration, times: &[Took], dump: impl FnOnce() -> String) {
    let longest = times.iter().map(|took| took.time).max();
    println!("{} times, {longest:?} the longest", times.len());
    assert!(times.iter().all(|took| took.is_within(limit)), "more than {limit:?}: {times:?}\n{}", dump());
}

/// The MAC of a router's interface, as current images make it.
pub const fn router_mac(id: u16, bay: u8, unit: u8) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [0xaa, 0xbb, 0xcc, high, low, bay | unit << 4]
}

/// The header of a data frame.
pub fn header(to: u16, to_interface: u8, from: u16, from_interface: u8) -> [u8; 8] {
    let (to, from) = (to.to_be_bytes(), from.to_be_bytes());
    [to[0], to[1], from[0], from[1], to_interface, from_interface, 1, 0]
}

/// To every station of a LAN.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// How long a frame may take, also on a machine that is busy with other tests.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// How long nothing must come where nothing is to come. What comes later still shows in the summary.
pub const SILENCE: Duration = Duration::from_millis(100);

/// A test frame without tags: numbered, and every byte of it can be checked.
pub fn plain(to: [u8; 6], from: [u8; 6], len: usize, number: u64) -> Vec<u8> {
    tagged(to, from, &[], len, number)
}

/// A test frame with tags.
pub fn tagged(to: [u8; 6], from: [u8; 6], tags: &[testbed::Tag], len: usize, number: u64) -> Vec<u8> {
    testbed::frame(to, from, tags, testbed::frame::ETHERTYPE, len, number)
}

/// Whether a frame is one of the tests' and not the kernel's own (router solicitations, MLD).
pub fn is_test_frame(frame: &[u8]) -> bool {
    let ethertype = testbed::frame::ETHERTYPE.to_be_bytes();
    [12, 16, 20].iter().any(|at| frame.get(*at..at + 2) == Some(&ethertype))
}

/// A UDP datagram without checksum. A NIC chooses the queue by addresses and ports.
pub fn udp(to: [u8; 6], from: [u8; 6], source_port: u16, number: u32) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&to[..], &from, &[8, 0], &ip].concat();
    frame.extend([source_port.to_be_bytes(), [0x13, 0x88], [0, 40], [0, 0]].concat());
    frame.extend(number.to_be_bytes());
    frame.resize(14 + 60, 0x55);
    frame
}

/// Port and number of a datagram that [`udp`] made.
pub fn udp_number(frame: &[u8]) -> Option<(u16, u32)> {
    let is_ours = frame.len() == 74 && frame[12..14] == [8, 0] && frame[46..] == [0x55; 28];
    is_ours.then(|| {
        (u16::from_be_bytes([frame[34], frame[35]]), u32::from_be_bytes(frame[42..46].try_into().unwrap()))
    })
}

impl Scene {
    /// NICs on which the kernel itself says nothing, so that every frame can be counted.
    pub fn silent(names: &[&str], options: &VethOptions) -> Self {
        let scene = Self::with_nics(names, options);
        scene.silence(names);
        scene
    }

    /// Has the kernel say nothing by itself on these NICs.
    pub fn silence(&self, names: &[&str]) {
        for name in names {
            for namespace in [&self.host, &self.wire] {
                namespace.sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "1").unwrap();
            }
        }
    }

    /// The number of one of the host's NICs.
    pub fn index(&self, nic: &str) -> u32 {
        let text = self.host.run("cat", [format!("/sys/class/net/{nic}/ifindex")]).unwrap().stdout;
        String::from_utf8(text).unwrap().trim().parse().unwrap()
    }

    /// What the host itself sees arrive on eth0.
    pub fn host_station(&self) -> Station {
        Station::new(&self.host, "eth0").unwrap()
    }

    /// A router whose queue holds whatever a test sends.
    pub fn deep_router(&self, id: u16) -> testbed::Router {
        let options = testbed::RouterOptions { max_dgram_qlen: 8192, ..testbed::RouterOptions::default() };
        testbed::Router::with(&self.netio(), id, &options).unwrap()
    }
}

/// Who hears test frames: a station or a router.
pub trait Listener {
    /// The next frame, whatever it is.
    fn next(&mut self, timeout: Duration) -> Option<Vec<u8>>;

    /// The next test frame; `None` if there is none within `timeout`.
    fn next_test_frame(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let end = std::time::Instant::now() + timeout;
        loop {
            let frame = self.next(end.saturating_duration_since(std::time::Instant::now()))?;
            if is_test_frame(&frame) {
                return Some(frame);
            }
        }
    }

    /// The next `count` test frames, each whole, as their numbers.
    #[track_caller]
    fn hear(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let Some(frame) = self.next_test_frame(ARRIVAL) else {
                panic!("{} of {count} frames, the last of them {:?}", numbers.len(), numbers.last());
            };
            numbers.push(testbed::frame::check(&frame).unwrap().seq);
        }
        numbers
    }

    /// The very next test frame is this one.
    #[track_caller]
    fn hear_this(&mut self, sent: &[u8]) {
        let Some(frame) = self.next_test_frame(ARRIVAL) else { panic!("nothing came") };
        testbed::frame::same(sent, &frame).unwrap();
    }

    /// No test frame comes.
    #[track_caller]
    fn hear_nothing(&mut self) {
        if let Some(frame) = self.next_test_frame(SILENCE) {
            panic!("astray: {:?}", testbed::frame::check(&frame));
        }
    }
}

impl Listener for Station {
    fn next(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.recv(timeout)
    }
}

impl Listener for testbed::Router {
    fn next(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.recv(timeout).map(|(_, frame)| frame)
    }
}

impl Running {
    /// The process that puts offloads back if this one is killed.
    #[track_caller]
    pub fn guard(&self) -> u32 {
        let pid = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let [guard] = children.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{children:?}") };
        guard.parse().unwrap()
    }
}

/// Whether process `pid` does anything still: it is there, and not only as a zombie that is not reaped yet.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in brackets.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
