//! Other programs: cargo, apt, sudo.

use crate::error::{Error, Result};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs this, in the workspace's directory.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(workspace()).args(args);
    command
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| w.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Runs a command to its end with its output on ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() { Ok(()) } else { Err(Error::Command { command: line(command), status }) }
}

/// Runs a command quietly and returns what it wrote to standard output, whatever its status.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|source| start_error(command, source))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn start_error(command: &Command, source: std::io::Error) -> Error {
    Error::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

/// True if `program` can be run, by root at least.
pub(crate) fn has_program(program: &str) -> bool {
    find_program(program).is_some()
}

/// Where `program` is.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// True if commands can be run as root: this is root, or sudo lets us, if need be after a question on the terminal.
pub(crate) fn can_be_root() -> bool {
    if testbed::is_root() {
        return true;
    }
    let sudo = |flag| {
        let mut command = Command::new("sudo");
        command.arg(flag).stdin(Stdio::inherit());
        command
    };
    has_program("sudo")
        && (sudo("-n").arg("true").stderr(Stdio::null()).status().is_ok_and(|s| s.success())
            || std::io::stdin().is_terminal() && sudo("-v").status().is_ok_and(|s| s.success()))
}

/// `program`, through sudo unless this is root already.
pub(crate) fn as_root(program: &str) -> Command {
    if testbed::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-E", program]);
    command
}
