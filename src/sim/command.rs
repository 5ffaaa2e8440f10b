//! `iou-fast sim`: simulated IOU routers on the command line.

use super::{
    Addresses, Counters, Keepalives, LinkChange, Network, Role, Router, Simulation, Wiring, directory_beside,
};
use crate::iou::{Endpoint, InstanceId};
use crate::netmap::Netmap;
use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Simulated routers behind real IOU sockets.
///
/// Each router locks and binds its socket in the netio directory as IOU does, drops every datagram whose header NETMAP
/// does not allow, and answers ARP, IPv6 neighbour discovery and pings.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// The NETMAP file that wires the routers; `@host` is ignored, all are here
    #[arg(short = 'n', long, value_name = "FILE", default_value = "NETMAP")]
    netmap: PathBuf,
    /// The netio directory, if it is not `/tmp/netio<uid>`; made if it is not there
    #[arg(long, value_name = "DIR")]
    netio_dir: Option<PathBuf>,
    /// Whose netio directory, without --netio-dir [default: your own uid]
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// The ids of the routers, each 1 to 1024
    #[arg(long, value_name = "LIST")]
    ids: Ids,
    /// Router N has the address BASE + (N/250)*256 + N%250 + 1
    #[arg(long, value_name = "NETWORK", default_value = "10.10.0.0/16")]
    ipv4: Network<Ipv4Addr>,
    /// Router N has the address BASE + N
    #[arg(long, value_name = "NETWORK", default_value = "fd00:10::/64")]
    ipv6: Network<Ipv6Addr>,
    /// Bytes after the Ethernet header
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..))]
    mtu: u16,
    /// Make a TAP device the router in place of the simulated stack (one id only, needs root)
    #[arg(long, value_name = "NAME", requires = "netns", conflicts_with_all = ["echo", "sink"])]
    tap: Option<String>,
    /// The network namespace of the TAP device: a name from `ip netns`, or a file such as /proc/PID/ns/net
    #[arg(long, value_name = "NS", requires = "tap")]
    netns: Option<PathBuf>,
    /// Send every unicast frame for a router's MAC address straight back, MAC addresses swapped
    #[arg(long, conflicts_with = "sink")]
    echo: bool,
    /// Only read and count, as fast as possible
    #[arg(long)]
    sink: bool,
    /// Send L1 keepalives, and take an interface down that receives none
    #[arg(short = 'l', long, conflicts_with = "sink")]
    keepalives: bool,
    /// The directory of the keepalives, if it is not the one beside the netio directory; made if it is not there
    #[arg(long, value_name = "DIR", requires = "keepalives")]
    netl1_dir: Option<PathBuf>,
    /// How often an interface that is up sends a keepalive, ms
    #[arg(long, value_name = "MS", default_value_t = 1000, requires = "keepalives", value_parser = clap::value_parser!(u64).range(10..))]
    keepalive_period: u64,
    /// How long after the last keepalive an interface goes down, ms
    #[arg(long, value_name = "MS", default_value_t = 10_000, requires = "keepalives", value_parser = clap::value_parser!(u64).range(10..))]
    keepalive_timeout: u64,
}

const AFTER_HELP: &str = "\
A router with several interfaces has its addresses on the first one by bay and unit (0/0, 0/1, 1/0); the others only \
count. With --tap each interface gets a device of its own, NAME if there is one, else NAME0, NAME1, ... in that order, \
with the MAC address aa:bb:cc:HH:LL:PP that IOU would use (id, interface byte), up, without addresses.

Prints `ready` when all sockets are bound. SIGUSR1 prints `received <frames> <bytes>`, headers not counted; SIGTERM and \
SIGINT print the counters of each router and their total, remove sockets and locks, and end it. With -l it prints \
`interface 1:0/0 down` and `up` as that happens.

Examples:
  iou-fast sim -n NETMAP --netio-dir /tmp/netio1000 --ids 1-50,60
  iou-fast sim -n NETMAP --ids 7 --tap eth0 --netns blue      # then run FRR in namespace blue";

/// `1-50,60`
#[derive(Clone, Debug)]
struct Ids(Vec<InstanceId>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let id = |text: &str| {
            let id = text.trim().parse().ok().and_then(InstanceId::new);
            id.ok_or_else(|| format!("`{text}` is not an id from {} to {}", InstanceId::MIN, InstanceId::MAX))
        };
        let mut ids = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (id(first)?, id(last)?);
            if first > last {
                return Err(format!("`{part}` goes down: write {last}-{first}"));
            }
            ids.extend((first.get()..=last.get()).filter_map(InstanceId::new));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(Self(ids))
    }
}

/// Runs the routers until SIGINT or SIGTERM.
///
/// # Errors
/// What stands in the way of a router: see [`enum@super::Error`], and the NETMAP's.
pub fn run(arguments: Options) -> Result<(), Box<dyn Error>> {
    let role = role(&arguments)?;
    let uid = arguments.uid.unwrap_or_else(|| getuid().as_raw());
    let directory = arguments.netio_dir.unwrap_or_else(|| PathBuf::from(format!("/tmp/netio{uid}")));
    let keepalives = arguments.keepalives.then(|| Keepalives {
        directory: arguments.netl1_dir.unwrap_or_else(|| directory_beside(&directory, uid)),
        period: Duration::from_millis(arguments.keepalive_period),
        timeout: Duration::from_millis(arguments.keepalive_timeout),
    });
    let netmap = Netmap::read(&arguments.netmap)?;
    let lines: Vec<Vec<Endpoint>> =
        netmap.lines.iter().map(|line| line.ends.iter().map(|end| end.endpoint).collect()).collect();

    // Before the sockets, so that a signal at any later moment still removes them.
    let (stop, stop_write) = UnixStream::pair()?;
    let (mut report, report_write) = UnixStream::pair()?;
    report.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGINT, stop_write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, stop_write)?;
    signal_hook::low_level::pipe::register(SIGUSR1, report_write)?;

    // A socket and a lock file for each router: the usual limit of 1024 open files is too low for many.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    fs::create_dir_all(&directory)
        .map_err(|e| format!("cannot make the netio directory {}: {e}", directory.display()))?;
    let routers = arguments
        .ids
        .0
        .iter()
        .map(|&id| {
            let router = Router::boot(&directory, Wiring::of(id, &lines), &role)?;
            match &keepalives {
                Some(keepalives) => router.with_keepalives(keepalives),
                None => Ok(router),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut simulation = Simulation::new(routers)?;
    const STOP: u32 = 0;
    const REPORT: u32 = 1;
    simulation.watch(&stop, STOP)?;
    simulation.watch(&report, REPORT)?;
    say("ready")?;
    loop {
        match simulation.poll(None)? {
            Some(STOP) => break,
            Some(_) => {
                // The pipe holds one byte a signal; those that came together get one answer.
                let _ = report.read(&mut [0; 64]);
                let total = total(&simulation);
                say(&format!("received {} {}", total.received, total.received_bytes))?;
            }
            None => {}
        }
        for LinkChange { endpoint, up } in simulation.link_changes() {
            say(&format!("interface {endpoint} {}", if up { "up" } else { "down" }))?;
        }
    }
    for router in simulation.routers() {
        say(&format!("router {} {}", router.id(), router.counters()))?;
    }
    say(&format!("total {}", total(&simulation)))?;
    Ok(())
}

fn role(arguments: &Options) -> Result<Role, Box<dyn Error>> {
    let mtu = arguments.mtu;
    Ok(match (&arguments.tap, &arguments.netns) {
        (Some(_), _) if arguments.ids.0.len() != 1 => {
            return Err("--tap is for one router: give exactly one id with --ids".into());
        }
        (Some(name), Some(netns)) => {
            let named = !netns.as_os_str().as_encoded_bytes().contains(&b'/');
            let namespace = if named { Path::new("/run/netns").join(netns) } else { netns.clone() };
            Role::Tap { name: name.clone(), namespace, mtu }
        }
        _ if arguments.echo => Role::Echo,
        _ if arguments.sink => Role::Sink,
        _ => Role::Stack { addresses: Addresses { v4: arguments.ipv4, v6: arguments.ipv6 }, mtu },
    })
}

fn total(simulation: &Simulation) -> Counters {
    let mut total = Counters::default();
    for router in simulation.routers() {
        total += *router.counters();
    }
    total
}

/// One line on standard output, at once: whoever started this waits for it.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
