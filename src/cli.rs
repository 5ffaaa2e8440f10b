//! The command line.

use crate::control::labs::LabOptions;
use crate::ether::control_frames::Blocked;
use crate::iou::Endpoint;
use crate::netmap::infer::PseudoIds;
use crate::nic::attach::XdpModeChoice;
use crate::plan::Binding;
use crate::worker::Poll;
use crate::{clean, lab, log, sim};
use af_xdp::CopyMode;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  In the directory of a lab with a NETMAP, every bridged router on the LAN of eth0:
      sudo iou-fast -i eth0
  Two workers, pinned to CPUs 2 and 3:
      sudo iou-fast --cpus 2,3 -i eth0
  Two LANs: 513:0/1 and all of 514 on eth1, the rest on eth0:
      sudo iou-fast -i eth0 -i eth1=513:0/1,514
  A NETMAP elsewhere, and which ids in it stand for iou-fast:
      sudo iou-fast -i eth0 -n /labs/ccnp/NETMAP -p 513-562

A NETMAP line joins a router with a pseudo endpoint, whose id no router uses:
      1:0/0   513:0/0
Then router 1's Ethernet0/0 is on the LAN. Start the routers before or after iou-fast.
When the NETMAP changes, or on SIGHUP, it is read again and its links come and go in place.

A NIC given to iou-fast goes on serving the host. The host itself and the routers
do not meet on it, though: for that, bridge the NIC with one end of a veth pair and give
iou-fast the other end (docs/nics.md, \"Host and routers\").";

/// Version and commit, as `0.1.0 (abc1234)`; the version alone if it was not built from a git repository.
pub const VERSION: &str = env!("IOU_FAST_VERSION");

/// Puts Cisco IOU/IOL routers on a real network, at the speed the kernel allows.
///
/// Every NETMAP line with a pseudo endpoint becomes a link between its router interface and the LAN of a
/// NIC: ARP, IPv4, IPv6, routing protocols, VLANs, virtual addresses such as HSRP's, all of it.
#[derive(Parser, Debug)]
#[command(name = "iou-fast", version = VERSION, after_help = EXAMPLES, max_term_width = 110)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead of forwarding.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The forwarder's options.
    #[command(flatten)]
    pub start: Args,
}

/// What the program does beside forwarding.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// A classroom: simulated routers behind iou-fast in network namespaces, each of them pinged from the wire
    Lab(lab::Options),
    /// Removes what a crash left: offloads that stayed off, labs and their namespaces; says what that was
    Clean(clean::Options),
    /// Simulated routers behind real IOU sockets, for trying things out without an IOU image
    ///
    /// Each router locks and binds its socket in the netio directory as IOU does, drops every datagram whose header NETMAP
    /// does not allow, and answers ARP, IPv6 neighbour discovery and pings.
    Sim(sim::command::Options),
}

/// Options of the forwarder.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Interface, and which pseudo endpoints are on its LAN
    ///
    /// `-i eth0` takes every pseudo endpoint that no other -i names; `-i eth1=513:0/1,514` takes those: an
    /// endpoint, or all of an id. May be given several times; each interface is a LAN of its own.
    #[arg(short, long = "interface", value_name = "IFACE[=ENDPOINTS]", required = true)]
    pub interfaces: Vec<Binding>,

    /// The NETMAP [default: $NETIO_NETMAP, else ./NETMAP]
    #[arg(short, long, value_name = "FILE")]
    pub netmap: Option<PathBuf>,

    /// Directory of the routers' sockets, if it is not `/tmp/netio<uid>`. Through sudo only for routers of one's own
    #[arg(long, value_name = "DIR")]
    pub netio_dir: Option<PathBuf>,

    /// Directory of the routers' L1 keepalives (`-l`), if it is not the one beside the netio directory, `/tmp/netl1<uid>`
    #[arg(long, value_name = "DIR")]
    pub netl1_dir: Option<PathBuf>,

    /// The user who runs the routers [default: $SUDO_UID, else who runs this]
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,

    /// Pseudo instance ids: 20 or 20,21 or 513-562
    ///
    /// Ids in the NETMAP that stand for iou-fast and not for routers. Without it they are inferred where that is
    /// safe, and what was inferred is printed.
    #[arg(short, long, value_name = "IDS")]
    pub pseudo: Option<PseudoIds>,

    /// CPUs, one pinned worker each: 2 or 2,3 or 2-5 [default: one worker, not pinned]
    #[arg(short, long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Where the XDP program runs
    ///
    /// native: in the driver. generic: in the kernel's stack, slower, for drivers without XDP. auto: native, and
    /// generic if the driver refuses.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub xdp_mode: XdpModeArg,

    /// Whether the NIC writes frames straight into our memory
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub copy_mode: CopyModeArg,

    /// What an idle worker does: adaptive sleeps until the kernel wakes it, busy polls all the time and keeps its CPU
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    pub poll: PollArg,

    /// The host does not use these NICs: broadcast and multicast frames go to the routers alone, with one copy less
    #[arg(long)]
    pub exclusive: bool,

    /// Router interface that also gets unicast to unknown addresses, for a switch image with hosts behind it
    #[arg(long, value_name = "ENDPOINT")]
    pub flood_unknown: Option<Endpoint>,

    /// Switches' control frames that are kept off the wire: stp,cdp,vtp,dtp,pagp,udld,lldp,lacp,dot1x or all
    ///
    /// A switch image sends them to the wire as well, where a switch with BPDU guard takes the server's port down. Other
    /// routers on the NIC still get them. Flow control (pause) from routers never goes to the wire.
    #[arg(long, value_name = "PROTOCOLS")]
    pub block: Option<Blocked>,

    /// How log lines are written to standard error
    ///
    /// text: for people. json: an object per line, with the fields timestamp, level and message, and nic, router and lab
    /// where they apply.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: log::Format,

    /// Where locks and the NICs' former settings are kept
    ///
    /// Root's are in /run/iou-fast, those of another user in iou-fast under $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR,
    /// else `/run/user/<uid>`. It cannot be chosen through sudo.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl Args {
    /// What of it makes the plan.
    #[must_use]
    pub fn lab(&self) -> LabOptions {
        LabOptions {
            netmap: self.netmap.clone(),
            netio_dir: self.netio_dir.clone(),
            netl1_dir: self.netl1_dir.clone(),
            state_dir: self.state_dir.clone(),
            uid: self.uid,
            pseudo: self.pseudo.clone(),
            interfaces: self.interfaces.clone(),
            flood_unknown: self.flood_unknown,
        }
    }
}

/// `--xdp-mode`
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum XdpModeArg {
    /// Native where the driver can, else generic.
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl From<XdpModeArg> for XdpModeChoice {
    fn from(mode: XdpModeArg) -> Self {
        match mode {
            XdpModeArg::Auto => Self::Auto,
            XdpModeArg::Native => Self::Native,
            XdpModeArg::Generic => Self::Generic,
        }
    }
}

/// `--copy-mode`
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum CopyModeArg {
    /// Zero-copy where the driver can, else copy.
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl From<CopyModeArg> for CopyMode {
    fn from(mode: CopyModeArg) -> Self {
        match mode {
            CopyModeArg::Auto => Self::Auto,
            CopyModeArg::ZeroCopy => Self::ZeroCopy,
            CopyModeArg::Copy => Self::Copy,
        }
    }
}

/// `--poll`
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum PollArg {
    /// Sleep when idle.
    Adaptive,
    /// Never sleep.
    Busy,
}

impl From<PollArg> for Poll {
    fn from(poll: PollArg) -> Self {
        match poll {
            PollArg::Adaptive => Self::Adaptive,
            PollArg::Busy => Self::Busy,
        }
    }
}

/// CPUs by number, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuList(pub Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|cpu| *cpu < 8192);
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once('-') {
                None => number(part).map(|cpu| cpu..=cpu),
                Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
            };
            let range = range
                .filter(|range| !range.is_empty())
                .ok_or_else(|| format!("\"{part}\" is no CPU and no range of CPUs such as 2 or 2-5"))?;
            for cpu in range {
                if cpus.contains(&cpu) {
                    return Err(format!("CPU {cpu} is named twice"));
                }
                cpus.push(cpu);
            }
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cpu_lists() {
        let cpus = |text: &str| text.parse::<CpuList>().map(|list| list.0);
        assert_eq!(cpus("2"), Ok(vec![2]));
        assert_eq!(cpus("2,3"), Ok(vec![2, 3]));
        assert_eq!(cpus("4-6,1"), Ok(vec![4, 5, 6, 1]));
        for (text, why) in [
            ("", "no CPU"),
            ("a", "no CPU"),
            ("3-2", "no CPU"),
            ("1,1", "twice"),
            ("1-", "no CPU"),
            ("-1", "no CPU"),
            ("99999", "no CPU"),
        ] {
            assert!(cpus(text).unwrap_err().contains(why), "{text}");
        }
    }

    /// The long options of a command and those below it.
    fn options(command: &clap::Command) -> BTreeSet<String> {
        let own = command.get_arguments().filter_map(clap::Arg::get_long).map(|name| format!("--{name}"));
        own.chain(command.get_subcommands().flat_map(options)).collect()
    }

    /// What stands between backquotes on a page of Markdown, and the lines of its blocks of code.
    fn code(text: &str) -> Vec<&str> {
        let blocks = text.split("```").enumerate();
        blocks
            .flat_map(|(n, part)| match n % 2 {
                0 => part.split('`').skip(1).step_by(2).collect(),
                _ => part.lines().collect::<Vec<_>>(),
            })
            .collect()
    }

    /// The options that a piece of code names: those of an iou-fast command, or one that it begins with.
    fn named(code: &str) -> impl Iterator<Item = String> {
        let after = code.rsplit_once("iou-fast ").map(|(_, rest)| rest);
        let words = after.or(code.starts_with("--").then_some(code)).unwrap_or_default();
        let ours = words.split_whitespace().take_while(|word| !["--", "|", "&", "#"].contains(word));
        let name = |word: &str| word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        ours.filter(|word| word.starts_with("--")).map(name)
    }

    #[test]
    fn pages_name_all_options_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let docs = root.join("docs").read_dir().unwrap().map(|entry| entry.unwrap().path());
        let docs: Vec<String> =
            docs.filter(|path| path.extension().is_some_and(|e| e == "md")).map(read).collect();
        let readme = read(root.join("README.md"));
        let known = options(&Cli::command());
        for code in docs.iter().chain([&readme]).flat_map(|page| code(page)) {
            for option in named(code) {
                assert!(known.contains(&option) || option == "--help" || option == "--version", "{code}");
            }
        }
        let described: BTreeSet<String> =
            code(&readme).into_iter().flat_map(|code| code.split(", ")).flat_map(named).collect();
        let own = Cli::command();
        let own = own.get_arguments().filter_map(clap::Arg::get_long).map(|name| format!("--{name}"));
        let missing: Vec<String> = own.filter(|option| !described.contains(option)).collect();
        assert!(missing.is_empty(), "README.md says nothing of {missing:?}");
        assert!(Cli::command().render_long_help().to_string().contains("Examples:"));
    }
}
