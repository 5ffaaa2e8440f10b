//! Installs what is missing, with apt.

use crate::error::{Error, Result};
use crate::shell;
use std::process::Command;

/// What the packages are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    /// Building and the lab.
    Lab,
    /// All tests.
    Tests,
    /// The tests in virtual machines.
    Vm,
    /// The Debian package.
    Package,
}

impl For {
    /// True if something that `other` needs is to be there. Everything needs what building does.
    fn includes(self, other: Self) -> bool {
        other == Self::Lab || other == self
    }
}

/// Something that must be there.
struct Need {
    /// Packages that have it, the usual one first.
    packages: &'static [&'static str],
    /// If this program is there, it does not matter where from.
    program: Option<&'static str>,
    reason: &'static str,
    target: For,
}

const fn need(
    target: For,
    packages: &'static [&'static str],
    program: Option<&'static str>,
    reason: &'static str,
) -> Need {
    Need { packages, program, reason, target }
}

const NEEDS: &[Need] = &[
    need(For::Lab, &["gcc"], Some("gcc"), "compiles libbpf, links Rust programs"),
    need(For::Lab, &["libc6-dev"], None, "the C library's headers"),
    need(For::Lab, &["make"], Some("make"), "builds libbpf"),
    need(For::Lab, &["pkg-config", "pkgconf"], Some("pkg-config"), "finds libelf for libbpf"),
    need(For::Lab, &["libelf-dev"], None, "libbpf reads the XDP program with it"),
    need(For::Lab, &["zlib1g-dev"], None, "libelf needs it"),
    need(For::Lab, &["clang"], Some("clang"), "compiles the XDP program"),
    need(For::Lab, &["iproute2"], Some("ip"), "makes namespaces and virtual NICs"),
    need(For::Lab, &["ethtool"], Some("ethtool"), "sets what a NIC does by itself"),
    need(For::Lab, &["tcpdump"], Some("tcpdump"), "shows what is on the wire of a lab that is kept"),
    need(
        For::Tests,
        &["frr"],
        None,
        "OSPF on the wire and behind a router; it is not started on this machine",
    ),
    need(For::Tests, &["libcap2-bin"], Some("setcap"), "gives a file capabilities"),
    need(For::Tests, &["iperf3"], Some("iperf3"), "TCP at full speed"),
    need(For::Tests, &["g++"], Some("g++"), "compiles the fuzzing engine"),
    need(For::Tests, &["iputils-ping"], Some("ping"), "pings"),
    need(For::Tests, &["python3"], Some("python3"), "a second process that holds a lock"),
    need(For::Tests, &["valgrind"], Some("valgrind"), "counts the instructions of a worker"),
    // Ubuntu has it in the package of the kernel's tools.
    need(For::Tests, &["bpftool", "linux-tools-common"], Some("bpftool"), "shows what is attached to a NIC"),
    need(For::Tests, &["systemd"], Some("systemd-analyze"), "checks the unit of the service"),
    need(For::Package, &["dpkg-dev"], Some("dpkg-shlibdeps"), "finds the packages of libraries"),
    need(For::Package, &["binutils"], Some("strip"), "takes debug symbols out of the program"),
    need(For::Package, &["man-db"], Some("man"), "shows the man pages"),
    need(For::Vm, &["qemu-system-x86"], Some("qemu-system-x86_64"), "emulates the machines"),
    need(For::Vm, &["debian-archive-keyring"], None, "vouches for Debian's kernels"),
    need(For::Vm, &["xz-utils"], Some("xz"), "unpacks kernel modules"),
    need(For::Vm, &["binutils"], Some("strip"), "takes debug symbols out of the guest's programs"),
    need(For::Vm, &["iputils-ping"], Some("ping"), "pings, in the guest"),
];

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
    let needs: Vec<_> = NEEDS.iter().filter(|need| target.includes(need.target)).collect();
    let names: Vec<_> = needs.iter().flat_map(|need| need.packages).copied().collect();
    // Without dpkg this is another distribution, which has none of these packages.
    let answer = shell::stdout(
        Command::new("dpkg-query").args(["-W", "-f=${Package}\t${db:Status-Status}\n"]).args(&names),
    );
    let missing = missing(&needs, &answer.unwrap_or_default(), shell::has_program);
    if missing.is_empty() {
        return Ok(());
    }
    if !shell::has_program("apt-get") {
        let names: Vec<_> = missing.iter().map(|need| need.packages[0]).collect();
        return Err(Error::OtherDistribution(names.join(" ")));
    }
    println!("These packages are missing and will be installed:");
    for need in &missing {
        println!("  {:<16} {}", need.packages[0], need.reason);
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

/// Those of `needs` that no installed package and no program meets. `installed` is dpkg-query's answer, a line
/// `name<TAB>status` for each package that it knows.
fn missing<'a>(needs: &[&'a Need], installed: &str, has_program: impl Fn(&str) -> bool) -> Vec<&'a Need> {
    let is_installed = |package: &str| {
        installed
            .lines()
            .any(|line| line.split_once('\t').is_some_and(|entry| entry == (package, "installed")))
    };
    let is_met =
        |need: &Need| need.packages.iter().any(|p| is_installed(p)) || need.program.is_some_and(&has_program);
    needs.iter().copied().filter(|need| !is_met(need)).collect()
}

fn policy(need: &Need) -> String {
    let mut command = Command::new("apt-cache");
    shell::stdout(command.env("LC_ALL", "C").arg("policy").args(need.packages)).unwrap_or_default()
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
    need.packages.iter().copied().find(|package| has_candidate(package))
}

fn update() -> Result<()> {
    println!("apt does not have them, so its lists are brought up to date first.");
    shell::run(shell::as_root("apt-get").args(["--quiet", "update"]))
}

fn apt_install(missing: &[&Need]) -> Result<()> {
    let packages = missing.iter().map(|need| {
        candidate(need, &policy(need)).ok_or_else(|| Error::NoCandidate(need.packages.join(" or ")))
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
        missing.iter().map(|need| need.packages[0]).collect()
    }

    #[test]
    fn what_dpkg_calls_installed_is_not_missing() {
        let needs: Vec<_> = NEEDS.iter().filter(|n| n.target == For::Lab).collect();
        let answer = "gcc\tinstalled\nlibc6-dev\tinstalled\nmake\tconfig-files\npkgconf\tinstalled\n\
                      libelf-dev\tnot-installed\nzlib1g-dev\tinstalled\nclang\thalf-installed\n\
                      iproute2\tinstalled\nethtool\tinstalled\ntcpdump\tinstalled\n";
        assert_eq!(names(&missing(&needs, answer, |_| false)), ["make", "libelf-dev", "clang"]);
        assert_eq!(names(&missing(&needs, answer, |program| program == "clang")), ["make", "libelf-dev"]);
        assert_eq!(missing(&needs, "", |_| false).len(), needs.len());
    }

    #[test]
    fn a_name_is_not_taken_for_a_longer_one() {
        let needs: Vec<_> = NEEDS.iter().filter(|n| n.packages[0] == "frr").collect();
        assert_eq!(names(&missing(&needs, "frr-pythontools\tinstalled\n", |_| false)), ["frr"]);
    }

    #[test]
    fn tests_need_all_that_the_lab_needs() {
        for target in [For::Lab, For::Tests, For::Vm, For::Package] {
            assert!(target.includes(For::Lab) && target.includes(target));
        }
        assert!(!For::Tests.includes(For::Vm) && !For::Vm.includes(For::Tests));
        assert!(NEEDS.iter().all(|need| !need.packages.is_empty() && !need.reason.is_empty()));
    }

    #[test]
    fn a_virtual_package_gives_way_to_the_next() {
        let bpftool = NEEDS.iter().find(|n| n.packages[0] == "bpftool").unwrap();
        let debian = "bpftool:\n  Installed: (none)\n  Candidate: 7.1.0\n  Version table:\n     7.1.0 500\n";
        let ubuntu = "bpftool:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n\
                      linux-tools-common:\n  Installed: (none)\n  Candidate: 6.8.0-60.63\n";
        assert_eq!(candidate(bpftool, debian), Some("bpftool"));
        assert_eq!(candidate(bpftool, ubuntu), Some("linux-tools-common"));
        assert_eq!(candidate(bpftool, ""), None);
    }
}
