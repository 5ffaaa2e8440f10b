use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::process::{Command, Output};

/// True if this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns an error unless this process is root.
///
/// # Errors
/// [`Error::NotRoot`], whose message says what to do.
pub fn require_root() -> Result<()> {
    if is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

/// Runs a program to its end, where this process is, and returns its output.
///
/// # Errors
/// If it cannot be started or fails; the message contains all its output.
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<Output> {
    output(Command::new(program).args(args))
}

/// Runs a command to its end and returns its output.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let line = command_line(command);
    let output = match command.output() {
        Ok(output) => output,
        Err(source) => return Err(Error::Start { command: line, source }),
    };
    if output.status.success() {
        return Ok(output);
    }
    let text = [&output.stderr[..], &output.stdout[..]].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(Error::Command { command: line, status: output.status, output: text })
}

/// The command as one would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Sends SIGKILL to a process that is no child of ours.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    #[test]
    fn an_error_names_the_command_and_its_output() {
        let ns = Namespace::new("error").unwrap();
        let message = ns.run("ip", ["link", "show", "nosuch"]).unwrap_err().to_string();
        assert!(message.contains("ip link show nosuch") && message.contains("does not exist"), "{message}");
        let message = run("no-such-program", ["x"]).unwrap_err().to_string();
        assert!(message.contains("no-such-program x"), "{message}");
    }
}
