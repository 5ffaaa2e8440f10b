//! The lab: a classroom in network namespaces.
//!
//! ```text
//!  namespace wire             namespace host
//!  +--------------+  veth  +--------------------------------------------------------+
//!  | pings   eth0 +--------+ eth0 <-- XDP --> iou-fast <-- Unix sockets --> routers |
//!  +--------------+        |  `-- the host's own stack           (routers 1 to N)   |
//!                          +--------------------------------------------------------+
//! ```

mod error;
mod ping;
mod plan;
mod report;

use crate::output;
use error::Context;
pub use error::{Error, Result};
use ping::Pinger;
use report::Report;
use rustix::process::{Pid, kill_process};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};
use testbed::{Namespace, Process, Signal, VethOptions, veth, wait_until};

/// Where labs have their directories: that of a lab that stays up has its name, that of another one a dot and the
/// process id. Only root may write here.
const RUN: &str = "/run/iou-lab";

/// The name of a lab that has not been given another.
const DEFAULT_NAME: &str = "iou-lab";

/// How long a program may take until it is ready. The verifier needs its time in a slow virtual machine.
const READY: Duration = Duration::from_secs(30);

/// The file in a directory of a lab that stays up with the ids of its processes, a line each.
const PIDS: &str = "pids";

/// How long a program may take to end.
const END: Duration = Duration::from_secs(10);

/// An address that does not answer is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two requests of the rounds: far from any overload, so that the times are those of an idle forwarder.
const PACE: Duration = Duration::from_micros(250);

/// A request to an address not asked before is a broadcast, of which every router gets a copy: time for one copy.
const PACE_COPY: Duration = Duration::from_micros(4);

const EXAMPLES: &str = "\
Examples:
  sudo iou-fast lab                       fifty routers, each pinged from the wire
  sudo iou-fast lab --routers 1000        a large one
  sudo iou-fast lab --keep                leaves it up and says how to look around
  sudo iou-fast lab --down                takes that down
  sudo iou-fast lab -- --cpus 0,1         with two workers: options after -- are the forwarder's

It needs root and the program ip (package iproute2). Everything happens in two network namespaces of its own, which go
at the end, also after ^C.

Exit status: 0 if every router and the host answered, 1 if not or on an error, 2 for a wrong command line, 130 after ^C.";

/// Options of `iou-fast lab`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// How many routers
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=i64::from(plan::MOST_ROUTERS)))]
    routers: u16,
    /// Leave the lab up in the end and say how to look around
    #[arg(long)]
    keep: bool,
    /// Take down what --keep left up
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// What --keep and --down call the lab; its namespaces are NAME-wire and NAME-host
    #[arg(long, default_value = DEFAULT_NAME, value_parser = name)]
    name: String,
    /// How often every router and the host are pinged, once they have answered
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Ping at least that long
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    duration: u64,
    /// Another build, in place of this program: the forwarder, and the routers with `sim` as its first argument
    #[arg(long, value_name = "FILE", hide = true)]
    program: Option<PathBuf>,
    /// Options for the forwarder, after `--`
    #[arg(last = true, value_name = "OPTIONS")]
    forwarder: Vec<String>,
}

/// Runs a lab, or takes one down; true if all routers and the host answered and both programs ended well.
///
/// # Errors
/// Without root; what the system refuses. Nothing is left then.
pub fn run(options: &Options) -> Result<bool> {
    if !testbed::is_root() {
        return Err(Error::NoRoot);
    }
    if options.down {
        return take_down(&options.name);
    }
    let program = match &options.program {
        Some(program) => fs::canonicalize(program).context(|| format!("program {}", program.display()))?,
        None => std::env::current_exe().context(|| "the path of this program".into())?,
    };
    classroom(options, &program)
}

/// A name for a lab: part of file names and of namespaces' names.
fn name(text: &str) -> std::result::Result<String, &'static str> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // A namespace of this name would be taken for one that a killed test left.
    if good && !text.starts_with("iouf-") {
        Ok(text.into())
    } else {
        Err("letters, digits, - and _, not iouf-...")
    }
}

fn namespaces(name: &str) -> [String; 2] {
    ["wire", "host"].map(|end| format!("{name}-{end}"))
}

/// A lab that is up. Processes go first, then the namespaces, then the directory.
struct Lab {
    forwarder: Process,
    routers: Process,
    wire: Namespace,
    host: Namespace,
    directory: Directory,
}

fn classroom(options: &Options, program: &Path) -> Result<bool> {
    let stop = Stop::new()?;
    let progress = Progress::new();
    for what in clean_up()?.removed {
        progress.line(&format!("removed {what}, left by an earlier run"));
    }
    let mut lab = Lab::start(options, program, &stop, &progress)?;
    let cpu = lab.forwarder.cpu_time()?;
    let start = Instant::now();
    let pinger = ping_everybody(options, &lab.wire, &stop, &progress)?;
    let mut report = Report {
        reached: [true, false].map(|v4| pinger.reached().filter(|(a, _)| a.is_ipv4() == v4).collect()),
        // What the host answers does not pass the forwarder.
        echoes: [true, false].map(|v4| pinger.echoes(|a| a.is_ipv4() == v4 && !plan::HOST.contains(&a))),
        duplicates: pinger.duplicates(),
        frames: [lab.wire_frames("tx_packets")?, lab.wire_frames("rx_packets")?],
        drops: None,
        cpu: lab.forwarder.cpu_time()?.saturating_sub(cpu),
        elapsed: start.elapsed(),
    };
    if options.keep {
        output::print(&format!("\n{}\n", report.text()));
        lab.keep(&options.name)?;
        return Ok(report.all_reached());
    }
    let (summary, forwarder_well) = ending(&mut lab.forwarder, Signal::INT);
    let (counters, routers_well) = ending(&mut lab.routers, Signal::TERM);
    report.drops = Some(report::drops(&summary));
    output::print(&format!("\n{}\n{summary}", report.text()));
    if let Some(total) = counters.lines().last() {
        output::print(&format!("\nRouters: {total}\n"));
    }
    Ok(report.all_reached() && forwarder_well && routers_well)
}

impl Lab {
    fn start(options: &Options, program: &Path, stop: &Stop, progress: &Progress) -> Result<Self> {
        let directory = Directory::new(options.keep.then_some(&options.name))?;
        let netio = directory.path.join("netio");
        let netmap = directory.path.join("NETMAP");
        fs::create_dir(&netio).context(|| format!("directory {}", netio.display()))?;
        fs::write(&netmap, plan::netmap(options.routers)).context(|| format!("file {}", netmap.display()))?;

        let (wire, host) = if options.keep {
            let [wire, host] = namespaces(&options.name);
            (Namespace::named(&wire)?, Namespace::named(&host)?)
        } else {
            (Namespace::new("wire")?, Namespace::new("host")?)
        };
        veth((&wire, "eth0"), (&host, "eth0"), &VethOptions::default())?;
        for (namespace, [v4, v6]) in [(&wire, plan::WIRE), (&host, plan::HOST)] {
            namespace.ip(&format!("addr add {v4}/16 dev eth0"))?;
            namespace.ip(&format!("addr add {v6}/64 dev eth0"))?;
        }
        // Many neighbours: where a namespace has no such limit of its own, the machine's has to do.
        for family in ["ipv4", "ipv6"] {
            for (key, value) in [("gc_thresh3", "8192"), ("gc_thresh2", "4096"), ("gc_thresh1", "2048")] {
                let _ = wire.sysctl(&format!("net.{family}.neigh.default.{key}"), value);
            }
        }
        stop.check()?;

        // The routers live on the host as well: their queues are as deep as they are there.
        let mut routers = host.command(program);
        routers.arg("sim");
        routers.arg("-n").arg(&netmap).arg("--netio-dir").arg(&netio);
        routers.args([
            "--ids",
            &format!("1-{}", options.routers),
            "--ipv4",
            plan::IPV4,
            "--ipv6",
            plan::IPV6,
        ]);
        let mut forwarder = host.command(program);
        forwarder.args(["-i", "eth0", "-n"]).arg(&netmap).arg("--netio-dir").arg(&netio);
        forwarder.args(["-p", &plan::pseudo_ids(options.routers)]).args(&options.forwarder);

        let spawn = |command: &mut std::process::Command, name| -> Result<Process> {
            // Without the `ip netns exec NAME` in front.
            let line: Vec<_> = command.get_args().skip(3).map(|word| word.to_string_lossy()).collect();
            progress.line(&format!("in {}: {}", host.name(), line.join(" ")));
            let logs = directory.path.join(name);
            Ok(if options.keep { Process::spawn_logged(command, &logs)? } else { Process::spawn(command)? })
        };
        let mut routers = spawn(&mut routers, "routers")?;
        wait_ready(&mut routers, stop)?;
        let mut forwarder = spawn(&mut forwarder, "iou-fast")?;
        wait_ready(&mut forwarder, stop)?;
        Ok(Self { forwarder, routers, wire, host, directory })
    }

    /// A counter of the wire's interface.
    fn wire_frames(&self, counter: &str) -> Result<u64> {
        let path = format!("/sys/class/net/eth0/statistics/{counter}");
        let text = self.wire.run("cat", [&path])?.stdout;
        let number = String::from_utf8_lossy(&text).trim().parse();
        number.map_err(|_| io::Error::other("no number")).context(|| path)
    }

    /// Leaves everything up and says how to go on.
    fn keep(mut self, name: &str) -> Result<()> {
        let pids = format!("{}\n{}\n", self.forwarder.pid(), self.routers.pid());
        let path = self.directory.path.join(PIDS);
        fs::write(&path, pids).context(|| format!("file {}", path.display()))?;
        self.forwarder.keep();
        self.routers.keep();
        self.directory.kept = true;
        self.wire.keep();
        self.host.keep();
        let [v4, v6] = plan::router(1);
        let (wire, host, directory) = (self.wire.name(), self.host.name(), self.directory.path.display());
        output::print(&format!(
            "The lab stays up. Look around:\n\
             \x20 ip netns exec {wire} ping {v4}                    router 1 from the wire\n\
             \x20 ip netns exec {wire} ping {v6}\n\
             \x20 ip netns exec {wire} tcpdump -eni eth0             what is on the wire\n\
             \x20 ip netns exec {host} ip -s link show eth0          the NIC\n\
             \x20 cat {directory}/NETMAP; tail {directory}/*/std*\n\
             Take it down:\n\
             \x20 iou-fast lab --down{}\n",
            if name == DEFAULT_NAME { String::new() } else { format!(" --name {name}") }
        ));
        Ok(())
    }
}

/// Resolves and pings all routers and the host from the wire.
fn ping_everybody(options: &Options, wire: &Namespace, stop: &Stop, progress: &Progress) -> Result<Pinger> {
    let targets: Vec<_> = (1..=options.routers).flat_map(plan::router).chain(plan::HOST).collect();
    let all = targets.len();
    let mut pinger = Pinger::new(wire, targets)?;
    let pace = PACE.max(PACE_COPY * u32::from(options.routers));
    pinger.reach(pace, PATIENCE, |count| {
        progress.update(|| format!("{count} of {all} addresses have answered"));
        stop.check()
    })?;
    let count = pinger.reached().filter(|(_, reached)| *reached).count();
    progress.line(&format!("{count} of {all} addresses have answered"));
    let duration = Duration::from_secs(options.duration);
    let start = Instant::now();
    pinger.measure(PACE, options.rounds, duration, |round| {
        let (rounds, left) = (options.rounds, duration.saturating_sub(start.elapsed()).as_secs());
        progress.update(|| match left {
            0 => format!("pinging all, round {round} of {rounds}"),
            _ => format!("pinging all, round {round}, {left} s to go"),
        });
        stop.check()
    })?;
    progress.line(&format!("pinged all for {:.1} s", start.elapsed().as_secs_f64()));
    Ok(pinger)
}

/// Waits for the line `ready`.
fn wait_ready(process: &mut Process, stop: &Stop) -> Result<()> {
    let end = Instant::now() + READY;
    loop {
        let result = process.wait_for_line(|line| line.trim() == "ready", Duration::from_millis(100));
        // ^C reaches the programs too: that they ended is no news then.
        stop.check()?;
        match result {
            Ok(_) => return Ok(()),
            Err(testbed::Error::Timeout { .. }) if Instant::now() < end => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Ends a program; returns what it wrote meanwhile, and whether it ended well. If not, says how.
fn ending(process: &mut Process, signal: Signal) -> (String, bool) {
    let written = [process.stdout().len(), process.stderr().len()];
    process.signal(signal);
    let success = match process.wait(END) {
        Ok(status) if status.success() => true,
        Ok(status) => {
            output::log(&format!("did not end well ({status}):\n{}\n", process.dump()));
            false
        }
        Err(e) => {
            output::log(&format!("{e}\n"));
            false
        }
    };
    let news = |text: String, from: usize| text.get(from..).unwrap_or_default().to_owned();
    (news(process.stdout(), written[0]) + &news(process.stderr(), written[1]), success)
}

/// What [`clean_up`] found.
#[derive(Debug, Default)]
pub struct CleanUp {
    /// What it removed, in words.
    pub removed: Vec<String>,
    /// The names of labs that are up.
    pub up: Vec<String>,
}

/// Removes what labs, and the project's tests, left that were killed: namespaces with the processes in them, and
/// directories. A lab that `--keep` left up stays as long as a process of it runs.
///
/// # Errors
/// Without root; a namespace or directory that cannot be removed.
pub fn clean_up() -> Result<CleanUp> {
    let mut found = CleanUp::default();
    found.removed.extend(testbed::reap_stale()?.into_iter().map(|name| format!("namespace {name}")));
    for entry in fs::read_dir(RUN).into_iter().flatten().flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else { continue };
        match name.strip_prefix('.').map(str::parse::<u32>) {
            Some(Ok(pid)) if Path::new(&format!("/proc/{pid}")).exists() => {}
            Some(Ok(_)) => {
                fs::remove_dir_all(&path).context(|| format!("directory {}", path.display()))?;
                found.removed.push(format!("directory {}", path.display()));
            }
            Some(Err(_)) => {}
            // One that is just starting has no pids yet, but its namespaces.
            None if pids(&path).any(|pid| is_of_lab(pid, &path)) || !path.join(PIDS).exists() => {
                found.up.push(name)
            }
            None => {
                remove(&name)?;
                found.removed.push(format!("lab {name}, whose processes have ended"));
            }
        }
    }
    Ok(found)
}

/// Takes down what `--keep` left up, also if it is not whole any more.
fn take_down(name: &str) -> Result<bool> {
    let directory = Path::new(RUN).join(name);
    let is_there = directory.exists() || namespaces(name).iter().any(|name| testbed::namespace_exists(name));
    if !is_there {
        output::print("no lab is up\n");
        return Ok(true);
    }
    let log = || fs::read_to_string(directory.join("iou-fast/stdout")).unwrap_or_default();
    let written = log().len();
    let mut ended = true;
    for pid in pids(&directory) {
        ended &= end(pid, &directory);
    }
    output::print(log().get(written..).unwrap_or_default());
    remove(name)?;
    output::print("the lab is down\n");
    Ok(ended)
}

/// Removes the namespaces and the directory of a lab that `--keep` left up.
fn remove(name: &str) -> Result<()> {
    drop(namespaces(name).map(|name| Namespace::adopt(&name)));
    let directory = Path::new(RUN).join(name);
    match fs::remove_dir_all(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context(|| format!("directory {}", directory.display())),
    }
}

/// The processes of the lab in this directory, the forwarder first.
fn pids(directory: &Path) -> impl Iterator<Item = Pid> + use<> {
    let text = fs::read_to_string(directory.join(PIDS)).unwrap_or_default();
    let pids: Vec<_> = text.lines().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw).collect();
    pids.into_iter()
}

/// True if this process is one of the lab's: by now the number may be another process's, but ours have the directory in
/// their command line. A zombie has none.
fn is_of_lab(pid: Pid, directory: &Path) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(&*directory.join("netio").to_string_lossy())
}

/// Ends a program of the lab that is no child of ours; false if it had to be killed.
fn end(pid: Pid, directory: &Path) -> bool {
    if !is_of_lab(pid, directory) {
        return true;
    }
    let _ = kill_process(pid, Signal::INT);
    if wait_until(END, || !is_of_lab(pid, directory)) {
        return true;
    }
    output::log(&format!("process {} does not end and is killed\n", pid.as_raw_nonzero()));
    let _ = kill_process(pid, Signal::KILL);
    false
}

/// The lab's directory, which goes with its value.
struct Directory {
    path: PathBuf,
    kept: bool,
}

impl Directory {
    /// With a name, for a lab that stays up.
    fn new(name: Option<&String>) -> Result<Self> {
        let path = Path::new(RUN).join(name.cloned().unwrap_or(format!(".{}", std::process::id())));
        fs::create_dir_all(RUN).context(|| format!("directory {RUN}"))?;
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && name.is_some() => {
                return Err(Error::AlreadyUp);
            }
            result => result.context(|| format!("directory {}", path.display()))?,
        }
        Ok(Self { path, kept: false })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
            // Succeeds only where it is empty.
            let _ = fs::remove_dir(RUN);
        }
    }
}

/// ^C and SIGTERM, asked for in every wait.
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn new() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context(|| "signal handler".into())?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// What goes on, on standard error: on a terminal one line that changes, otherwise a line now and then.
struct Progress {
    terminal: bool,
    updated: std::cell::Cell<Option<Instant>>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), updated: std::cell::Cell::new(None) }
    }

    /// A line that stays.
    fn line(&self, text: &str) {
        output::log(&format!("{}{text}\n", if self.terminal { "\r\x1b[K" } else { "" }));
    }

    /// A line that the next one replaces, ten times a second at most; where nothing can be replaced, every five seconds.
    fn update(&self, text: impl FnOnce() -> String) {
        let interval = Duration::from_millis(if self.terminal { 100 } else { 5000 });
        let now = Instant::now();
        match self.updated.get() {
            Some(at) if now - at < interval => return,
            // The first would say that nothing has happened yet.
            None if !self.terminal => return self.updated.set(Some(now)),
            _ => self.updated.set(Some(now)),
        }
        if self.terminal {
            output::log(&format!("\r\x1b[K{}", text()));
        } else {
            output::log(&format!("{}\n", text()));
        }
    }
}
