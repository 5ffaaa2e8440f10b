//! `cargo xtask test --vm`: the real programs on kernels and drivers that this machine does not have, in virtual machines
//! that QEMU emulates (no KVM is needed).
//!
//! ```text
//! Debian's servers ──► target/vm/NAME/apt, *.deb ──► target/vm/NAME/root (vmlinuz, modules)
//!                                                          │
//! target/debug (iou-fast), tests/vm ──► target/vm/NAME/initramfs ──► QEMU ──► lines on the console
//! ```
//!
//! The checks are in `tests/vm`. Only `target/vm` is written to. The virtual NICs are joined by QEMU's own hub and by a
//! bridge in a network namespace that ends with QEMU.

mod fetch;
mod image;
mod modules;
mod report;
mod run;

use crate::error::{Error, Result};
use crate::{setup, shell};
use report::Report;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A kernel, and what is checked on it.
struct Kernel {
    /// Its name for the user, the guest and `target/vm`.
    name: &'static str,
    /// Where it comes from: lines of an apt source from the address on.
    sources: &'static [&'static str],
    /// The releases that it may have.
    release: Release,
    /// Why it is tested.
    reason: &'static str,
}

/// Releases of Linux.
#[derive(Clone, Copy)]
enum Release {
    /// Releases of this version.
    Only(u32, u32),
    /// Releases of this version and newer ones.
    AtLeast(u32, u32),
}

impl Release {
    /// Is `release`, as `uname -r` prints it, one of them?
    fn has(self, release: &str) -> bool {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else { return false };
        match self {
            Self::Only(a, b) => (major, minor) == (a, b),
            Self::AtLeast(a, b) => (major, minor) >= (a, b),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(a, b) => write!(f, "{a}.{b}"),
            Self::AtLeast(a, b) => write!(f, "{a}.{b} or newer"),
        }
    }
}

const KERNELS: &[Kernel] = &[
    // Debian 12's own backports end with 6.12.
    Kernel {
        name: "zero-copy",
        sources: &["http://deb.debian.org/debian trixie-backports main"],
        release: Release::AtLeast(6, 13),
        reason: "zero-copy on virtio-net, which is in Linux from 6.13",
    },
    Kernel {
        name: "oldest",
        sources: &[
            "http://deb.debian.org/debian bookworm main",
            "http://deb.debian.org/debian-security bookworm-security main",
        ],
        release: Release::Only(6, 1),
        reason: "the oldest kernel that will do, Debian 12's",
    },
    Kernel {
        name: "too-old",
        sources: &[
            "http://deb.debian.org/debian bullseye main",
            "http://deb.debian.org/debian-security bullseye-security main",
        ],
        release: Release::Only(5, 10),
        reason: "the refusal of an older one, Debian 11's",
    },
];

/// What `--vm=` takes.
pub(crate) fn names() -> Vec<&'static str> {
    std::iter::once("all").chain(KERNELS.iter().map(|kernel| kernel.name)).collect()
}

/// Runs the checks with `filter` in their names on the kernel called `name`, or on all; true if all passed.
pub(crate) fn run(name: Option<&str>, filter: &str, with_setup: bool) -> Result<bool> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::Vm(format!(
            "the virtual machines are x86-64, this is {}",
            std::env::consts::ARCH
        )));
    }
    if with_setup {
        setup::install(setup::For::Vm)?;
    }
    if !shell::can_be_root() {
        return Err(Error::NoRoot("the virtual machines' network (a bridge in a namespace of its own)"));
    }
    let programs = build()?;
    let directory = directory(&programs)?;
    let mut reports = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| name.is_none_or(|name| name == kernel.name)) {
        println!("== {}: {}", kernel.name, kernel.reason);
        let directory = directory.join(kernel.name);
        let files = fetch::kernel(kernel, &directory)?;
        let image = image::build(&files, &programs, &directory)?;
        let outcome = run::boot(kernel, &files, &image, filter, &directory)?;
        let report = Report { kernel: kernel.name, release: files.release, outcome };
        print!("{}", report.text());
        reports.push(report);
    }
    println!();
    if reports.len() > 1 {
        reports.iter().for_each(|report| print!("{}", report.table()));
    }
    let (passed, failed) =
        reports.iter().map(Report::counts).fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    println!("{passed} passed, {failed} failed");
    if passed + failed == 0 {
        return Err(Error::NoSuchTest(filter.into()));
    }
    Ok(failed == 0)
}

/// Builds the programs for the guest and returns them, the guest's first process first.
fn build() -> Result<Vec<PathBuf>> {
    println!("== build");
    shell::run(&mut shell::cargo(&["build", "--features", "vm", "--bins"]))?;
    let json = ["--message-format", "json-render-diagnostics"];
    let first_process = ["build", "--features", "vm", "--example", "vm"];
    let mut command = shell::cargo(&[&first_process[..], &json].concat());
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| shell::start_error(&command, source))?;
    if !output.status.success() {
        return Err(Error::Command { command: shell::line(&command), status: output.status });
    }
    let guest = executable(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| Error::Vm("cargo does not tell where it has put tests/vm".into()))?;
    Ok(vec![guest, testbed::Bin::find("iou-fast")?])
}

/// The path of the program `vm` in cargo's messages, which are one JSON object per line.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == "vm")
        .find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// `target/vm`, beside the directory of the programs.
fn directory(programs: &[PathBuf]) -> Result<PathBuf> {
    let profile = programs.last().and_then(|program| program.parent());
    let target = profile.and_then(Path::parent).ok_or_else(|| Error::Vm("no target directory".into()))?;
    Ok(target.join("vm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_the_guest_is() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"iou_fast"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"vm"},"executable":"/t/debug/deps/vm-0123"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages), Some("/t/debug/deps/vm-0123".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\"}\nnot json\n"), None);
    }

    #[test]
    fn everything_goes_under_the_target_directory() {
        let programs = ["/t/debug/deps/vm-0123", "/t/debug/iou-fast"].map(PathBuf::from);
        assert_eq!(directory(&programs).unwrap(), Path::new("/t/vm"));
    }

    #[test]
    fn each_kernel_has_a_name_and_a_source() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KERNELS.len() + 1);
        assert!(KERNELS.iter().all(|kernel| !kernel.sources.is_empty()));
    }

    #[test]
    fn a_kernel_of_another_release_is_not_checked() {
        let of = |release: &str| -> Vec<_> {
            KERNELS.iter().filter(|kernel| kernel.release.has(release)).map(|kernel| kernel.name).collect()
        };
        assert_eq!(of("7.2.12+deb13-cloud-amd64"), ["zero-copy"]);
        assert_eq!(of("6.13-rc1"), ["zero-copy"]);
        assert_eq!(of("6.12.9-1"), [""; 0]);
        assert_eq!(of("6.1.0-56-cloud-amd64"), ["oldest"]);
        assert_eq!(of("5.10.0-1"), ["too-old"]);
        assert_eq!(of("nonsense"), [""; 0]);
    }
}
