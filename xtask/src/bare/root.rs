use super::place::{Output, Place};
use super::{Context, Machine, Result, Suite};
use crate::setup::KEYRING;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enters the directory as the root of a machine.
const ENTER: &str = include_str!("enter.sh");

/// Not exec: the first process waits for the children of those that have ended.
const RUN: &str = "\"$@\" || exit $?; exit 0";

/// A bare machine: a directory with a minimal Debian.
pub(super) struct Root<'a> {
    path: PathBuf,
    place: &'a Place,
    machine: &'a Machine,
    /// It has this machine's Rust.
    rust: bool,
}

impl<'a> Root<'a> {
    /// Installs a minimal Debian and these packages. With a compiler among them it gets Rust as well.
    pub(super) fn new(
        place: &'a Place,
        machine: &'a Machine,
        suite: Suite,
        name: &str,
        packages: &[&str],
    ) -> Result<Self> {
        let path = place.path.join(format!("{name}-{}", suite.name()));
        let include = format!("--include={}", packages.join(","));
        let mut arguments =
            ["debootstrap", "--variant=minbase", "--keyring", KEYRING].map(OsStr::new).to_vec();
        arguments.extend((!packages.is_empty()).then_some(OsStr::new(&include)));
        arguments.extend([suite.name().as_ref(), path.as_os_str(), machine.mirrors[0].as_ref()]);
        place.run(RUN, &arguments, None, Output::OnFailure)?;
        machine.configure(&path, suite.name())?;
        let tun = path.join("dev/net");
        fs::create_dir_all(&tun).context(|| format!("directory {}", tun.display()))?;
        crate::shell::run(Command::new("mknod").arg(tun.join("tun")).args(["c", "10", "200"]))?;
        Ok(Self { path, place, machine, rust: !packages.is_empty() })
    }

    /// Where a path of this machine is.
    pub(super) fn path_of(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Runs a command in a directory; returns its exit code.
    pub(super) fn run(&self, directory: &str, command: &[&str]) -> Result<u8> {
        let toolchain = if self.rust { &*self.machine.toolchain } else { Path::new("") };
        let mut arguments = vec![self.path.as_os_str(), toolchain.as_os_str(), OsStr::new(directory)];
        arguments.extend(command.iter().map(OsStr::new));
        let environment = self.machine.environment();
        let status = self.place.run(ENTER, &arguments, Some(&environment), Output::Shown)?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}
