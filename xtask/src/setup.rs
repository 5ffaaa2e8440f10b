//! What building, the lab and the tests need of the system: one list, with each distribution's names. `cargo xtask setup`
//! installs it with apt; on Fedora and Arch it prints the command.

use crate::error::{Error, Result};
use crate::shell;
use std::path::Path;
use std::process::Command;

/// What the packages are for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum For {
    /// Building the programs.
    Build,
    /// The lab, with the programs built.
    Lab,
    /// All tests, and the bench.
    Tests,
    /// The tests in virtual machines.
    Vm,
    /// The Debian package.
    Package,
    /// `cargo xtask bare`: what is needed on this side of the minimal Debian.
    Bare,
}

impl For {
    const ALL: [Self; 6] = [Self::Build, Self::Lab, Self::Tests, Self::Vm, Self::Package, Self::Bare];

    /// Does this need what `other` needs?
    fn includes(self, other: Self) -> bool {
        match self {
            Self::Build => other == Self::Build,
            Self::Lab | Self::Vm => matches!(other, Self::Build | Self::Lab) || other == self,
            // `cargo xtask bare` has tests, too.
            Self::Tests => matches!(other, Self::Build | Self::Lab | Self::Tests | Self::Bare),
            Self::Package => matches!(other, Self::Build | Self::Package),
            // All else is installed in there.
            Self::Bare => other == Self::Bare,
        }
    }

    /// As the table has it.
    fn heading(self) -> &'static str {
        match self {
            Self::Build => "Building",
            Self::Lab => "The lab",
            Self::Tests => "All tests and the bench",
            Self::Vm => "`cargo xtask test --vm`",
            Self::Package => "`cargo xtask package`",
            Self::Bare => "`cargo xtask bare`",
        }
    }
}

/// Something that must be there, and the packages that have it.
#[derive(Debug)]
struct Need {
    target: For,
    /// A program, or a file if it begins with a slash. One of them is enough, wherever it comes from.
    there: &'static [&'static str],
    /// The usual package first; behind a `|` one that has it where that does not exist.
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    reason: &'static str,
}

/// A row of the list.
const fn need(
    target: For,
    there: &'static [&'static str],
    [debian, fedora, arch]: [&'static str; 3],
    reason: &'static str,
) -> Need {
    Need { target, there, debian, fedora, arch, reason }
}

impl Need {
    /// Debian's packages that have it.
    fn debian(&self) -> impl Iterator<Item = &'static str> {
        self.debian.split('|')
    }

    /// The usual one of them.
    fn usual(&self) -> &'static str {
        self.debian().next().unwrap_or_default()
    }
}

/// All that is run or compiled against, apart from what no Debian, Fedora or Arch is without: the C library, a shell,
/// coreutils, util-linux with `mount`, and the distribution's package manager.
///
/// Nothing here is non-free: a package that is, and that only some test wants, is fetched by that test into a directory
/// of its own, as `vm/fetch.rs` does with kernels, and never installed.
const NEEDS: &[Need] = &[
    need(For::Build, &["gcc"], ["gcc", "gcc", "gcc"], "compiles libbpf, links Rust programs"),
    need(
        For::Build,
        &["/usr/include/stdio.h"],
        ["libc6-dev", "glibc-devel", "glibc"],
        "the C library's headers",
    ),
    need(
        For::Build,
        &["/usr/include/linux/if_ether.h"],
        ["linux-libc-dev", "kernel-headers", "linux-api-headers"],
        "the kernel's headers, for the XDP program",
    ),
    need(For::Build, &["make"], ["make", "make", "make"], "builds libbpf"),
    need(
        For::Build,
        &["pkg-config"],
        ["pkg-config|pkgconf", "pkgconf-pkg-config", "pkgconf"],
        "finds libelf for libbpf",
    ),
    need(
        For::Build,
        &["/usr/include/libelf.h"],
        ["libelf-dev", "elfutils-libelf-devel", "libelf"],
        "libbpf reads the XDP program with it",
    ),
    need(For::Build, &["/usr/include/zlib.h"], ["zlib1g-dev", "zlib-devel", "zlib"], "libelf needs it"),
    need(For::Build, &["clang"], ["clang", "clang", "clang"], "compiles the XDP program"),
    need(For::Lab, &["ip"], ["iproute2", "iproute", "iproute2"], "makes network namespaces and virtual NICs"),
    need(For::Lab, &["ethtool"], ["ethtool", "ethtool", "ethtool"], "sets what a NIC does by itself"),
    need(For::Lab, &["ping"], ["iputils-ping", "iputils", "iputils"], "pings routers of a lab that is kept"),
    need(
        For::Lab,
        &["tcpdump"],
        ["tcpdump", "tcpdump", "tcpdump"],
        "shows what is on the wire of a lab that is kept",
    ),
    need(
        For::Tests,
        FRR,
        ["frr", "frr", "frr"],
        "routing protocols on the wire and behind a router; it is not started on this machine",
    ),
    need(For::Tests, &["tc"], ["iproute2", "iproute-tc", "iproute2"], "delays frames"),
    need(For::Tests, &["setcap"], ["libcap2-bin", "libcap", "libcap"], "gives a file capabilities"),
    need(For::Tests, &["iperf3"], ["iperf3", "iperf3", "iperf3"], "TCP at full speed"),
    need(For::Tests, &["g++"], ["g++", "gcc-c++", "gcc"], "compiles the fuzzing engine"),
    need(For::Tests, &["python3"], ["python3", "python3", "python"], "a second process that holds a lock"),
    need(
        For::Tests,
        &["bpftool"],
        // Ubuntu has it in the package of the kernel's tools.
        ["bpftool|linux-tools-common", "bpftool", "bpf"],
        "shows what is attached to a NIC",
    ),
    need(
        For::Tests,
        &["valgrind"],
        ["valgrind", "valgrind", "valgrind"],
        "counts the instructions of a worker",
    ),
    need(
        For::Tests,
        &["systemd-analyze"],
        ["systemd", "systemd", "systemd"],
        "checks the unit of the service",
    ),
    need(
        For::Vm,
        &["qemu-system-x86_64"],
        ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86"],
        "emulates the machines",
    ),
    need(For::Vm, &["apt-get"], ["apt", "apt", "apt"], "fetches Debian's kernels"),
    need(For::Vm, &["dpkg-deb"], ["dpkg", "dpkg", "dpkg"], "unpacks them"),
    need(
        For::Vm,
        &[KEYRING],
        ["debian-archive-keyring", "debian-keyring", "debian-archive-keyring"],
        "vouches for them",
    ),
    need(For::Vm, &["xz"], ["xz-utils", "xz", "xz"], "unpacks kernel modules"),
    need(
        For::Vm,
        &["strip"],
        ["binutils", "binutils", "binutils"],
        "takes debug symbols out of the guest's programs",
    ),
    need(
        For::Package,
        &["dpkg-shlibdeps"],
        ["dpkg-dev", "dpkg-dev", "dpkg"],
        "finds the packages of libraries",
    ),
    need(
        For::Package,
        &["strip"],
        ["binutils", "binutils", "binutils"],
        "takes debug symbols out of the program",
    ),
    need(For::Package, &["man"], ["man-db", "man-db", "man-db"], "shows the man pages"),
    need(
        For::Bare,
        &["debootstrap"],
        ["debootstrap", "debootstrap", "debootstrap"],
        "installs a minimal Debian into a directory",
    ),
    need(For::Bare, &["gpgv"], ["gpgv", "gnupg2", "gnupg"], "checks its signatures"),
    need(
        For::Bare,
        &[KEYRING],
        ["debian-archive-keyring", "debian-keyring", "debian-archive-keyring"],
        "vouches for them",
    ),
    need(For::Bare, &["git"], ["git", "git", "git"], "clones the commit"),
];

/// One of FRR's daemons: Debian's and Arch's place for it, and Fedora's.
const FRR: &[&str] = &["/usr/lib/frr/zebra", "/usr/libexec/frr/zebra"];

/// Debian's keys.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What apt-get is run by. Some packages start a service (FRR does): a policy-rc.d that answers 101 forbids that, for
/// this one call, unless the machine has a policy of its own. A service that systemd would start at the next
/// boot is disabled.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy || exit 1
fi
apt-get install --yes --no-install-recommends "$@" || exit
case " $* " in *" frr "*)
    if [ -d /run/systemd/system ]; then systemctl --quiet disable frr; fi ;;
esac
"#;

/// Installs what is missing for `target`: says first what and why; does and says nothing if nothing is missing.
pub(crate) fn install(target: For) -> Result<()> {
    let missing = missing(target, is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let distribution = Distribution::of(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    if distribution != Distribution::Debian || !shell::has_program("apt-get") {
        return Err(Error::OtherDistribution(distribution.command(&missing)));
    }
    println!("These packages are missing and will be installed:");
    for need in &missing {
        println!("  {:<16} {}", need.usual(), need.reason);
    }
    if !shell::can_be_root() {
        return Err(Error::NoRoot("installing packages"));
    }
    let known = |need: &&&Need| candidate(need, &policy(need)).is_some();
    let mut updated = false;
    if !missing.iter().all(|need| known(&need)) {
        update()?;
        updated = true;
    }
    match apt_install(&missing) {
        // The lists are older than what the servers have now.
        Err(Error::Command { .. }) if !updated => {
            update()?;
            apt_install(&missing)
        }
        outcome => outcome,
    }
}

/// The list as a Markdown table.
pub(crate) fn table() -> String {
    rows(&For::ALL)
}

/// Those parts of the list.
fn rows(targets: &[For]) -> String {
    let mut table = String::from("| Debian, Ubuntu | Fedora | Arch | what for |\n|---|---|---|---|\n");
    for target in targets {
        table += &format!("| **{}** | | | |\n", target.heading());
        for need in NEEDS.iter().filter(|need| need.target == *target) {
            let debian = need.debian.replace('|', " or ");
            table += &format!("| {debian} | {} | {} | {} |\n", need.fedora, need.arch, need.reason);
        }
    }
    table
}

/// Whose package manager and names these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Distribution {
    Debian,
    Fedora,
    Arch,
    Other,
}

impl Distribution {
    /// As os-release(5) tells: its own name first, then those of what it is like.
    fn of(os_release: &str) -> Self {
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\''])
        };
        let names = field("ID").split(' ').chain(field("ID_LIKE").split(' '));
        let known = |name| match name {
            "debian" | "ubuntu" => Some(Self::Debian),
            "fedora" | "rhel" | "centos" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            _ => None,
        };
        names.filter_map(known).next().unwrap_or(Self::Other)
    }

    /// The command that installs the packages, each once; only the usual Debian names where no command is known.
    fn command(self, needs: &[&Need]) -> String {
        let (command, name): (_, fn(&Need) -> &'static str) = match self {
            Self::Debian => ("apt-get install", Need::usual),
            Self::Fedora => ("dnf install", |need| need.fedora),
            Self::Arch => ("pacman -S --needed", |need| need.arch),
            Self::Other => ("what corresponds to Debian's", Need::usual),
        };
        let mut words = vec![command];
        for need in needs {
            if !words.contains(&name(need)) {
                words.push(name(need));
            }
        }
        words.join(" ")
    }
}

/// A program, or a file if it begins with a slash.
fn is_there(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { shell::has_program(what) }
}

/// What `target` needs and is not there.
fn missing(target: For, is_there: impl Fn(&str) -> bool) -> Vec<&'static Need> {
    let is_missing = |need: &&Need| target.includes(need.target) && !need.there.iter().any(|it| is_there(it));
    NEEDS.iter().filter(is_missing).collect()
}

fn policy(need: &Need) -> String {
    let mut command = Command::new("apt-cache");
    shell::stdout(command.env("LC_ALL", "C").arg("policy").args(need.debian())).unwrap_or_default()
}

/// The first of a need's packages that apt could install, as `apt-cache policy` tells: a paragraph a package, headed by
/// its name. A package that only others provide has the candidate `(none)`.
fn candidate(need: &Need, policy: &str) -> Option<&'static str> {
    let has_candidate = |package: &str| {
        let mut lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package)).skip(1);
        let version = lines
            .by_ref()
            .take_while(|line| line.starts_with(' '))
            .find_map(|line| line.trim_start().strip_prefix("Candidate: "));
        version.is_some_and(|version| version != "(none)")
    };
    need.debian().find(|package| has_candidate(package))
}

fn update() -> Result<()> {
    println!("apt does not have them, so its lists are brought up to date first.");
    shell::run(shell::as_root("apt-get").args(["--quiet", "update"]))
}

fn apt_install(missing: &[&Need]) -> Result<()> {
    let packages = missing.iter().map(|need| {
        candidate(need, &policy(need)).ok_or_else(|| Error::NoCandidate(need.debian.replace('|', " or ")))
    });
    let packages = packages.collect::<Result<Vec<_>>>()?;
    let mut command = shell::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", INSTALL, "install"]).args(packages);
    let status = command.status().map_err(|source| shell::start_error(&command, source))?;
    if status.success() { Ok(()) } else { Err(Error::Command { command: "apt-get install".into(), status }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(missing: &[&Need]) -> Vec<&'static str> {
        missing.iter().map(|need| need.usual()).collect()
    }

    #[test]
    fn what_is_there_is_not_missing_wherever_it_comes_from() {
        let there = |what: &str| !["make", "/usr/include/libelf.h", "clang", "ip", "iperf3"].contains(&what);
        assert_eq!(names(&missing(For::Build, there)), ["make", "libelf-dev", "clang"]);
        assert_eq!(names(&missing(For::Lab, there)), ["make", "libelf-dev", "clang", "iproute2"]);
        let fedora = |what: &str| !what.starts_with("/usr/lib/frr");
        assert!(missing(For::Tests, fedora).is_empty());
        let all = missing(For::Tests, |_| false);
        assert!(names(&all).contains(&"frr") && names(&all).contains(&"git"));
        assert!(!names(&missing(For::Lab, |_| false)).contains(&"debootstrap"));
    }

    #[test]
    fn tests_need_all_that_the_lab_needs() {
        for target in [For::Lab, For::Tests, For::Vm] {
            assert!(target.includes(For::Build) && target.includes(For::Lab) && target.includes(target));
        }
        assert!(!For::Tests.includes(For::Vm) && !For::Vm.includes(For::Tests));
        assert!(!For::Build.includes(For::Lab) && !For::Bare.includes(For::Build));
        assert!(For::Package.includes(For::Build) && !For::Package.includes(For::Lab));
    }

    #[test]
    fn a_virtual_package_gives_way_to_the_next() {
        let bpftool = NEEDS.iter().find(|need| need.usual() == "bpftool").unwrap();
        let debian = "bpftool:\n  Installed: (none)\n  Candidate: 7.1.0\n  Version table:\n     7.1.0 500\n";
        let ubuntu = "bpftool:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n\
                      linux-tools-common:\n  Installed: (none)\n  Candidate: 6.8.0-60.63\n";
        assert_eq!(candidate(bpftool, debian), Some("bpftool"));
        assert_eq!(candidate(bpftool, ubuntu), Some("linux-tools-common"));
        assert_eq!(candidate(bpftool, ""), None);
    }

    #[test]
    fn distributions_are_told_by_their_names_and_by_what_they_are_like() {
        for (os_release, expected) in [
            ("NAME=x\nID=debian\n", Distribution::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Distribution::Debian),
            ("ID=fedora\nVERSION_ID=42\n", Distribution::Fedora),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Distribution::Fedora),
            ("ID=arch\n", Distribution::Arch),
            ("ID_LIKE=arch\nID=endeavouros\n", Distribution::Arch),
            ("ID=alpine\n", Distribution::Other),
            ("", Distribution::Other),
        ] {
            assert_eq!(Distribution::of(os_release), expected, "{os_release}");
        }
    }

    #[test]
    fn other_distributions_get_the_whole_command() {
        let missing = missing(For::Lab, |what| what.starts_with('/') || what == "pkg-config");
        let command = |distribution: Distribution| distribution.command(&missing);
        assert_eq!(
            command(Distribution::Fedora),
            "dnf install gcc make clang iproute ethtool iputils tcpdump"
        );
        assert_eq!(
            command(Distribution::Arch),
            "pacman -S --needed gcc make clang iproute2 ethtool iputils tcpdump"
        );
        let all = super::missing(For::Tests, |_| false);
        assert_eq!(
            Distribution::Arch.command(&all).matches(" iproute2").count(),
            1,
            "once for ip and for tc"
        );
    }

    #[test]
    fn install_docs_quote_what_a_user_needs() {
        let path = shell::workspace().join("docs/install.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let table = rows(&[For::Build, For::Lab]);
        assert!(text.contains(&table), "{} lacks these lines of the list:\n{table}", path.display());
    }
}
