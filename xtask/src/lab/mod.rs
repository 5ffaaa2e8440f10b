//! The lab: a classroom in network namespaces.
//!
//! ```text
//!  namespace wire             namespace host
//!  +--------------+  veth  +--------------------------------------------------------+
//!  | pings   eth0 +--------+ eth0 <-- XDP --> iou-fast <-- Unix sockets --> routers |
//!  +--------------+        |  `-- the host's own stack           (routers 1 to N)   |
//!                          +--------------------------------------------------------+
//! ```

mod ping;
mod plan;
mod report;

use crate::error::{Context, Error, Result};
use crate::{setup, shell};
use ping::Pinger;
use report::Report;
use rustix::process::{Pid, kill_process};
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};
use testbed::{Bin, Namespace, Process, Signal, VethOptions, veth, wait_until};

/// Where labs have their folders: only root may write here.
const RUN: &str = "/run";

/// The folder of a lab that does not stay up is this and the process id.
const PASSING: &str = "iou-lab.";

/// How long a program may take until it is ready. The verifier needs its time in a slow virtual machine.
const READY: Duration = Duration::from_secs(30);

/// How long a program may take to end.
const END: Duration = Duration::from_secs(10);

/// An address that does not answer is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two requests of the rounds: far from any overload, so that the times are those of an idle forwarder.
const PACE: Duration = Duration::from_micros(250);

/// A request to an address not asked before is a broadcast, of which every router gets a copy: time for one copy.
const PACE_COPY: Duration = Duration::from_micros(4);

/// Options of `cargo xtask lab`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many routers.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=i64::from(plan::MOST_ROUTERS)))]
    routers: u16,
    /// Leaves the lab up in the end and says how to look around.
    #[arg(long)]
    keep: bool,
    /// Takes down what --keep left up.
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// What --keep and --down call the lab; its namespaces are NAME-wire and NAME-host.
    #[arg(long, default_value = "iou-lab", value_parser = name)]
    name: String,
    /// How often every router and the host are pinged, once they have answered.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Pings at least that long.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    duration: u64,
    /// Installs nothing.
    #[arg(long)]
    no_setup: bool,
    /// Builds nothing and takes the program iou-fast from this folder.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Options for iou-fast, after `--`.
    #[arg(last = true, value_name = "IOU-FAST OPTIONS")]
    forwarder: Vec<String>,
}

/// Runs a lab; true if everybody answered and both programs ended well.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if options.down {
        return if testbed::is_root() { take_down(&options.name) } else { Err(options.again_as_root(None)) };
    }
    if !options.no_setup {
        setup::install(setup::For::Lab)?;
    }
    let programs = match &options.bin_dir {
        Some(dir) => fs::canonicalize(dir).context(|| format!("folder {}", dir.display()))?,
        None => {
            shell::run(&mut shell::cargo(&["build", "--release", "--package", "iou-fast"]))?;
            Bin::find_in_profile("release", "iou-fast")?.parent().unwrap_or(Path::new("/")).to_owned()
        }
    };
    if !testbed::is_root() {
        // Built as the user, run as root.
        return Err(options.again_as_root(Some(&programs)));
    }
    classroom(options, &programs)
}

impl Options {
    /// Becomes the same command as root, with all installed and the programs built; returns only if that cannot be.
    fn again_as_root(&self, programs: Option<&Path>) -> Error {
        if !shell::can_be_root() {
            return Error::NoRoot("the lab (network namespaces, XDP)");
        }
        let Ok(program) = std::env::current_exe() else { return Error::NoRoot("the lab") };
        let mut command = shell::as_root(&program.to_string_lossy());
        command.args(["lab", "--no-setup", "--name", &self.name]);
        command.args(["--routers", &self.routers.to_string(), "--rounds", &self.rounds.to_string()]);
        command.args(["--duration", &self.duration.to_string()]);
        command.args(self.keep.then_some("--keep")).args(self.down.then_some("--down"));
        command.args(programs.map(|_| "--bin-dir")).args(programs);
        command.arg("--").args(&self.forwarder);
        let source = command.exec();
        shell::start_error(&command, source)
    }
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

/// A lab that is up. Processes go first, then the namespaces, then the folder.
struct Lab {
    forwarder: Process,
    routers: Process,
    wire: Namespace,
    host: Namespace,
    folder: Folder,
}

fn classroom(options: &Options, programs: &Path) -> Result<bool> {
    let stop = Stop::new()?;
    let progress = Progress::new();
    clean_up_after_the_killed()?;
    let mut lab = Lab::start(options, programs, &stop, &progress)?;
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
        print!("\n{}\n", report.text());
        lab.keep(&options.name)?;
        return Ok(report.all_reached());
    }
    let (summary, forwarder_well) = ending(&mut lab.forwarder, Signal::INT);
    let (counters, routers_well) = ending(&mut lab.routers, Signal::TERM);
    report.drops = Some(report::drops(&summary));
    print!("\n{}\n{}", report.text(), summary);
    if let Some(total) = counters.lines().last() {
        println!("\nRouters: {total}");
    }
    Ok(report.all_reached() && forwarder_well && routers_well)
}

impl Lab {
    fn start(options: &Options, programs: &Path, stop: &Stop, progress: &Progress) -> Result<Self> {
        let folder = Folder::new(options.keep.then_some(&options.name))?;
        let netio = folder.path.join("netio");
        let netmap = folder.path.join("NETMAP");
        fs::create_dir(&netio).context(|| format!("folder {}", netio.display()))?;
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
        let mut routers = host.command(programs.join("iou-fast"));
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
        let mut forwarder = host.command(programs.join("iou-fast"));
        forwarder.args(["-i", "eth0", "-n"]).arg(&netmap).arg("--netio-dir").arg(&netio);
        forwarder.args(["-p", &plan::pseudo_ids(options.routers)]).args(&options.forwarder);

        let spawn = |command: &mut std::process::Command, name| -> Result<Process> {
            // Without the `ip netns exec NAME` in front.
            let line: Vec<_> = command.get_args().skip(3).map(|word| word.to_string_lossy()).collect();
            progress.line(&format!("in {}: {}", host.name(), line.join(" ")));
            let logs = folder.path.join(name);
            Ok(if options.keep { Process::spawn_logged(command, &logs)? } else { Process::spawn(command)? })
        };
        let mut routers = spawn(&mut routers, "routers")?;
        wait_ready(&mut routers, stop)?;
        let mut forwarder = spawn(&mut forwarder, "iou-fast")?;
        wait_ready(&mut forwarder, stop)?;
        Ok(Self { forwarder, routers, wire, host, folder })
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
        let path = self.folder.path.join("pids");
        fs::write(&path, pids).context(|| format!("file {}", path.display()))?;
        self.forwarder.keep();
        self.routers.keep();
        self.folder.kept = true;
        self.wire.keep();
        self.host.keep();
        let [v4, v6] = plan::router(1);
        let (wire, host, folder) = (self.wire.name(), self.host.name(), self.folder.path.display());
        println!(
            "The lab stays up. Look around:\n\
             \x20 ip netns exec {wire} ping {v4}                    router 1 from the wire\n\
             \x20 ip netns exec {wire} ping {v6}\n\
             \x20 ip netns exec {wire} tcpdump -eni eth0             what is on the wire\n\
             \x20 ip netns exec {host} ip -s link show eth0          the network card\n\
             \x20 cat {folder}/NETMAP; tail {folder}/*/std*\n\
             Take it down:\n\
             \x20 cargo xtask lab --down{}",
            if name == "iou-lab" { String::new() } else { format!(" --name {name}") }
        );
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
            eprintln!("did not end well ({status}):\n{}", process.dump());
            false
        }
        Err(e) => {
            eprintln!("{e}");
            false
        }
    };
    let news = |text: String, from: usize| text.get(from..).unwrap_or_default().to_owned();
    (news(process.stdout(), written[0]) + &news(process.stderr(), written[1]), success)
}

/// Removes what labs left that were killed.
fn clean_up_after_the_killed() -> Result<()> {
    for name in testbed::reap_stale()? {
        eprintln!("removed namespace {name}, left by an earlier run");
    }
    for entry in fs::read_dir(RUN).into_iter().flatten().flatten() {
        let path = entry.path();
        let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix(PASSING)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// Takes down what `--keep` left up, also if it is not whole any more.
fn take_down(name: &str) -> Result<bool> {
    let folder = Path::new(RUN).join(name);
    let namespaces = namespaces(name).map(|name| Namespace::adopt(&name));
    if !folder.exists() && namespaces.iter().all(Option::is_none) {
        println!("no lab is up");
        return Ok(true);
    }
    let pids = fs::read_to_string(folder.join("pids")).unwrap_or_default();
    let log = || fs::read_to_string(folder.join("iou-fast/stdout")).unwrap_or_default();
    let written = log().len();
    let mut ended = true;
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
        ended &= end(pid, &folder);
    }
    print!("{}", log().get(written..).unwrap_or_default());
    drop(namespaces);
    if folder.exists() {
        fs::remove_dir_all(&folder).context(|| format!("folder {}", folder.display()))?;
    }
    println!("the lab is down");
    Ok(ended)
}

/// Ends a program of the lab that is no child of ours; false if it had to be killed.
fn end(pid: Pid, folder: &Path) -> bool {
    let cmdline = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let folder = folder.join("netio");
    // The number may long be another process's: ours have the folder in their command line. A zombie has none.
    let runs = || {
        fs::read(&cmdline)
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()))
    };
    if !runs() {
        return true;
    }
    let _ = kill_process(pid, Signal::INT);
    if wait_until(END, || !runs()) {
        return true;
    }
    eprintln!("process {} does not end and is killed", pid.as_raw_nonzero());
    let _ = kill_process(pid, Signal::KILL);
    false
}

/// The lab's folder, which goes with its value.
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// With a name, for a lab that stays up.
    fn new(name: Option<&String>) -> Result<Self> {
        let path = Path::new(RUN).join(name.cloned().unwrap_or(format!("{PASSING}{}", std::process::id())));
        match fs::create_dir(&path) {
            Err(e) if name.is_some() && e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyUp);
            }
            result => result.context(|| format!("folder {}", path.display()))?,
        }
        Ok(Self { path, kept: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
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
        eprintln!("{}{text}", if self.terminal { "\r\x1b[K" } else { "" });
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
            eprint!("\r\x1b[K{}", text());
            let _ = io::stderr().flush();
        } else {
            eprintln!("{}", text());
        }
    }
}
