//! Where the cases run: two network namespaces, a veth pair as the NIC, a lab's directory, and the processes.
//!
//! ```text
//!   namespace "wire"                        namespace "host"
//!   Generator, Pinger ─ eth0 ── veth pair ── eth0 ─ iou-fast, Floor, Naive ─ netio ─ Sink, Echo, Routers
//! ```

use crate::Result;
use crate::board::{Board, Word};
use crate::lab::Lab;
use crate::roles::{Job, Role};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use testbed::{Namespace, Process, Signal, VethOptions, veth};

/// The NIC's name in both namespaces.
pub(crate) const NIC: &str = "eth0";
/// How long a process may take to start or end.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum System {
    /// The product.
    Fast,
    /// The bare kernel calls.
    Floor,
    /// One frame per call, one thread per direction.
    Naive,
}

/// The direction in which frames go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// From the wire.
    ToRouters {
        /// Length of a frame, bytes.
        len: usize,
    },
    /// To the wire.
    ToNic,
}

/// The bed.
pub(crate) struct Bed {
    host: Namespace,
    wire: Namespace,
    directory: tempfile::TempDir,
    /// What the processes share.
    pub(crate) board: Board,
    /// The CPU of the forwarder, and that of everybody else.
    pub(crate) cpus: [usize; 2],
    /// Faults that `iou-fast` reported, over all runs.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Runs of `iou-fast` that those were asked of.
    pub(crate) ended: u64,
    allowed: CpuSet,
}

impl Bed {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let (host, wire) = (Namespace::new("host")?, Namespace::new("wire")?);
        for namespace in [&host, &wire] {
            // Silence: no neighbour discovery between the frames that are counted.
            namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        veth((&wire, NIC), (&host, NIC), &VethOptions::default())?;
        let directory = tempfile::Builder::new().prefix("iouf-bench").tempdir_in("/dev/shm")?;
        let board = Board::open(&directory.path().join("board"))?;
        let allowed = sched_getaffinity(None)?;
        let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let first = all.next().unwrap_or(0);
        let cpus = [first, all.next().unwrap_or(first)];
        Ok(Self { host, wire, directory, board, cpus, faults: BTreeMap::new(), ended: 0, allowed })
    }

    /// A lab of that many routers, each with a pseudo id of its own if `spread`.
    pub(crate) fn lab(&self, routers: usize, spread: bool) -> Result<Lab> {
        let name = format!("{routers}{}", if spread { "spread" } else { "" });
        let lab = Lab { directory: self.directory.path().join(name), routers, spread };
        std::fs::create_dir_all(lab.netio())?;
        std::fs::write(lab.directory.join("NETMAP"), lab.netmap())?;
        Ok(lab)
    }

    /// Starts a process of the bench on the CPU of everybody else, on the wire or on the host, and waits until it is
    /// ready.
    pub(crate) fn start(&self, role: Role) -> Result<Process> {
        self.start_beside(self.cpus[1], role)
    }

    /// The same on another CPU.
    pub(crate) fn start_beside(&self, cpu: usize, role: Role) -> Result<Process> {
        let on_wire = matches!(role, Role::Generator { .. } | Role::Pinger { .. });
        self.start_on(cpu, if on_wire { &self.wire } else { &self.host }, role)
    }

    fn start_on(&self, cpu: usize, namespace: &Namespace, role: Role) -> Result<Process> {
        self.pinned(cpu, || self.start_free(namespace, role))
    }

    fn start_free(&self, namespace: &Namespace, role: Role) -> Result<Process> {
        let waits = !matches!(role, Role::Pinger { .. });
        let job = Job { role, board: self.directory.path().join("board") };
        let mut command = namespace.command(std::env::current_exe()?);
        command.arg("role").arg(serde_json::to_string(&job)?);
        let mut process = Process::spawn(&mut command)?;
        if waits {
            process.wait_for_line(|line| line == "ready", SOON)?;
        }
        Ok(process)
    }

    /// A child started in `start` runs on `cpu` alone.
    fn pinned<T>(&self, cpu: usize, start: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only)?;
        let started = start();
        sched_setaffinity(None, &self.allowed)?;
        started
    }

    /// Starts a forwarder and waits until it is ready.
    pub(crate) fn forwarder(&self, system: System, direction: Direction, lab: &Lab) -> Result<Process> {
        let (lab, interface) = (lab.clone(), NIC.to_owned());
        let role = match (system, direction) {
            (System::Fast, _) => {
                let mut process = self.launch(&lab, &self.cpus[..1])?;
                process.wait_for_line(|line| line == "ready", SOON)?;
                return Ok(process);
            }
            (System::Floor, Direction::ToRouters { len }) => Role::FloorToRouters { lab, interface, len },
            (System::Floor, Direction::ToNic) => Role::FloorToNic { lab, interface },
            (System::Naive, _) => Role::Naive { lab, interface },
        };
        self.start_on(self.cpus[0], &self.host, role)
    }

    /// Starts `iou-fast` with a worker on each of `cpus`, on which it is pinned as a whole; does not wait.
    pub(crate) fn launch(&self, lab: &Lab, cpus: &[usize]) -> Result<Process> {
        let mut command = self.host.command(std::env::current_exe()?);
        let exe = std::env::var("IOU_FAST_EXE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_iou-fast").into());
        command.args(["launch", &exe]);
        command.args(self.arguments(lab, cpus)).env("IOU_FAST_LOG", "error");
        let mut start = || Ok(Process::spawn(&mut command)?);
        if let [only] = cpus { self.pinned(*only, start) } else { start() }
    }

    /// Its command line.
    fn arguments(&self, lab: &Lab, cpus: &[usize]) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        let pairs = [
            ("--interface", NIC.to_owned()),
            ("--netmap", path(lab.directory.join("NETMAP"))),
            ("--netio-dir", path(lab.netio())),
            ("--state-dir", path(self.directory.path().join("state"))),
            ("--uid", "0".to_owned()),
            ("--pseudo", lab.pseudo_ids()),
            ("--cpus", cpus.join(",")),
        ];
        pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }

    /// Starts `iou-fast` in a process that tells what goes on inside, with a worker on each of `cpus`.
    pub(crate) fn inside(&self, lab: &Lab, cpus: &[usize]) -> Result<Process> {
        let role = Role::Inside { arguments: self.arguments(lab, cpus) };
        if let [only] = cpus {
            self.start_on(*only, &self.host, role)
        } else {
            self.start_free(&self.host, role)
        }
    }

    /// Everybody who sends stands still.
    pub(crate) fn silence(&self) {
        for rate in [Word::WireRate, Word::OtherRate, Word::RoutersRate] {
            self.board.set(rate, 0);
        }
    }

    /// Ends `iou-fast` and notes the faults it reports. Returns what it says of frames that it dropped.
    pub(crate) fn stop(&mut self, mut forwarder: Process) -> Result<String> {
        forwarder.signal(Signal::TERM);
        let status = forwarder.wait(SOON)?;
        let output = forwarder.stdout();
        let line = |name: &str| output.lines().find_map(|line| line.strip_prefix(name));
        let (Some(faults), Some(dropped), true) = (line("faults: "), line("dropped: "), status.success())
        else {
            return Err(format!("iou-fast did not end as it should: {}", forwarder.dump()).into());
        };
        for (name, count) in faults.split(", ").filter_map(|fault| fault.rsplit_once(' ')) {
            *self.faults.entry(name.to_owned()).or_default() += count.parse::<u64>()?;
        }
        self.ended += 1;
        Ok(dropped.to_owned())
    }

    /// What `iou-fast` was given by the NIC: `native XDP, copy, 1 queue`.
    pub(crate) fn nic(&mut self) -> Result<String> {
        let lab = self.lab(1, false)?;
        let forwarder = self.forwarder(System::Fast, Direction::ToNic, &lab)?;
        let output = forwarder.stdout();
        // `eth0: native XDP, copy, 1 queue, 1 worker on CPU 0`; lines of routers begin with the NIC as well.
        let line = output.lines().find(|line| line.contains(" XDP, "));
        let got = line.and_then(|line| Some(line.split_once(": ")?.1.rsplit_once(", ")?.0.to_owned()));
        let got = got.ok_or_else(|| format!("it does not say what the NIC gave: {}", forwarder.dump()))?;
        self.stop(forwarder)?;
        Ok(got)
    }

    /// Frames that have arrived at the wire's end of the NIC.
    pub(crate) fn arrived_on_wire(&self) -> Result<u64> {
        let text = self.wire.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        // Inter-|   Receive ... : `eth0: bytes packets ...`
        let line = text.lines().find_map(|line| line.trim().strip_prefix(NIC)?.strip_prefix(':'));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        Ok(packets.ok_or("no counters of the NIC")?)
    }

    /// What the bench runs on, for the report.
    pub(crate) fn describe(&self) -> Result<Machine> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo").lines().find_map(|line| {
            let (name, model) = line.split_once(':')?;
            (name.trim() == "model name").then(|| model.trim().to_owned())
        });
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output()?.stdout;
        Ok(Machine {
            cpu: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
            date: String::from_utf8_lossy(&date).trim().to_owned(),
        })
    }
}

/// What the bench ran on.
#[derive(Clone, serde::Serialize, Debug)]
pub(crate) struct Machine {
    /// Model of its CPUs.
    pub(crate) cpu: String,
    /// How many.
    pub(crate) cpus: usize,
    /// Its kernel.
    pub(crate) kernel: String,
    /// How many processes wanted to run on it in the minute before.
    pub(crate) load: String,
    /// When.
    pub(crate) date: String,
}
