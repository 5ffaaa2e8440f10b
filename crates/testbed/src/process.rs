use crate::command::command_line;
use crate::error::{Context, Error, Result};
use crate::sys;
use crate::wait::wait_until;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs};

/// A child process whose output can be read at any time.
///
/// Both streams go to files, which do not fill up as pipes do, so a test never holds its process back. The process is
/// killed when this is dropped and when the *thread* that started it ends, however that happens, so none survives a
/// killed test. For that reason do not start one in [`crate::Namespace::enter`]; use [`crate::Namespace::command`].
pub struct Process {
    child: Child,
    command: String,
    stdout: File,
    stderr: File,
    status: Option<ExitStatus>,
    kept: bool,
}

/// Streams of a [`Process`] in place of the usual ones.
#[derive(Debug, Default)]
pub struct Streams {
    /// Empty if `None`.
    pub stdin: Option<OwnedFd>,
    /// A file if `None`.
    pub stdout: Option<OwnedFd>,
    /// A file if `None`.
    pub stderr: Option<OwnedFd>,
}

impl Process {
    /// Starts `command`. Its standard input is empty.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::spawn_with(command, Streams::default())
    }

    /// Starts `command` with other streams than the usual ones. Output to those cannot be read here.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn_with(command: &mut Command, streams: Streams) -> Result<Self> {
        let file = || tempfile::tempfile().context(|| "file for a process's output".into());
        sys::die_with_parent(command);
        Self::start(command, file()?, file()?, streams)
    }

    /// Starts `command` with its output in the files `stdout` and `stderr` of `directory`, so that
    /// [`Process::keep`] can leave it running. It does not die with this process, and has a process group of its own,
    /// which a terminal's ^C does not reach. Dropping it kills it unless it is kept.
    ///
    /// # Errors
    /// If the files cannot be made or the command cannot be started.
    pub fn spawn_logged(command: &mut Command, directory: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        fs::create_dir_all(directory).context(|| format!("directory {}", directory.display()))?;
        let file = |name| {
            let path = directory.join(name);
            let mut options = File::options();
            options
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .context(|| format!("file {}", path.display()))
        };
        command.process_group(0);
        Self::start(command, file("stdout")?, file("stderr")?, Streams::default())
    }

    fn start(command: &mut Command, stdout: File, stderr: File, streams: Streams) -> Result<Self> {
        let line = command_line(command);
        let share = |other: Option<OwnedFd>, file: &File| {
            let fd = other.map_or_else(|| file.try_clone().map(OwnedFd::from), Ok);
            fd.map(Stdio::from).context(|| "file for a process's output".into())
        };
        command.stdin(streams.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(share(streams.stdout, &stdout)?).stderr(share(streams.stderr, &stderr)?);
        let child = command.spawn().map_err(|source| Error::Start { command: line.clone(), source });
        // The command keeps its streams open until it is dropped.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child?;
        Ok(Self { child, command: line, stdout, stderr, status: None, kept: false })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it running when this is dropped; only for [`Process::spawn_logged`].
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    /// Waits until it has written a whole line that `wanted` accepts to one of its streams, and returns that line. Lines
    /// from before the call count.
    ///
    /// # Errors
    /// If the process ends first or `timeout` passes; the message contains all its output.
    pub fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Result<String> {
        let end = Instant::now() + timeout;
        loop {
            // Asked first, so that all it wrote before its end is read below.
            let ended = self.exited().is_some();
            for text in [self.stdout(), self.stderr()] {
                let whole = if ended { &text[..] } else { &text[..text.rfind('\n').map_or(0, |at| at + 1)] };
                if let Some(line) = whole.lines().find(|line| wanted(line)) {
                    return Ok(line.into());
                }
            }
            if ended {
                return Err(Error::Ended { what: "it wrote the expected line".into(), dump: self.dump() });
            }
            if Instant::now() >= end {
                return Err(Error::Timeout { what: "the expected line".into(), timeout, dump: self.dump() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal; does nothing if it has ended. After `STOP` this returns when all its threads have stopped, which
    /// takes a while on a busy machine.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none()
            && let Some(pid) = Pid::from_raw(self.pid().cast_signed())
        {
            // It has not been waited for, so the pid is still its own.
            let _ = kill_process(pid, signal);
            if signal == Signal::STOP {
                let _ = wait_until(Duration::from_secs(5), || self.has_stopped());
            }
        }
    }

    fn has_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return true };
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name in brackets.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Its exit status, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `timeout`; the message contains all its output.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(Error::Timeout { what: "its end".into(), timeout, dump: self.dump() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to end (SIGINT) and waits for that.
    ///
    /// # Errors
    /// If it still runs after `timeout`.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::INT);
        self.wait(timeout)
    }

    /// The process and all its output, for the message of a failure.
    #[must_use]
    pub fn dump(&self) -> String {
        let state = self.status.map_or("running".into(), |status| status.to_string());
        format!(
            "--- {} (pid {}, {state})\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.command,
            self.pid(),
            self.stdout().trim_end(),
            self.stderr().trim_end()
        )
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.dump())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Reads by offset, because the child writes through the same open file.
fn contents(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().map_or(0, |m| m.len() as usize)];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) | Err(_) => break,
            Ok(n) => len += n,
        }
    }
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    const LONG: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_line_on_either_stream_ends_the_wait() {
        let mut p = shell("echo one; printf tw; sleep 0.1; echo o; echo three >&2; sleep 100");
        assert_eq!(p.wait_for_line(|l| l.starts_with("tw"), LONG).unwrap(), "two");
        assert_eq!(p.wait_for_line(|l| l == "three", LONG).unwrap(), "three");
        assert_eq!(p.wait_for_line(|l| l == "one", LONG).unwrap(), "one");
        assert_eq!((p.stdout(), p.stderr()), ("one\ntwo\n".into(), "three\n".into()));
        let message = p.wait_for_line(|l| l == "four", Duration::from_millis(20)).unwrap_err().to_string();
        assert!(message.contains("three") && message.contains("running"), "{message}");
    }

    #[test]
    fn the_end_is_noticed_before_the_timeout() {
        let mut p = shell("echo last words >&2; exit 3");
        let message = p.wait_for_line(|l| l == "ready", LONG).unwrap_err().to_string();
        assert!(message.contains("last words") && message.contains("exit status: 3"), "{message}");
        assert_eq!(p.wait(LONG).unwrap().code(), Some(3));
    }

    #[test]
    fn much_output_does_not_hold_a_process_back() {
        let mut p = shell("seq 1 200000; echo done >&2");
        assert!(p.wait(LONG).unwrap().success());
        assert_eq!(p.stdout().lines().count(), 200_000);
        assert_eq!(p.stderr(), "done\n");
    }

    #[test]
    fn in_a_namespace_the_pid_is_the_programs() {
        let ns = Namespace::new("pid").unwrap();
        let mut p = Process::spawn(ns.command("sh").args(["-c", "echo $$; sleep 100"])).unwrap();
        let pid = p.pid().to_string();
        p.wait_for_line(|l| l == pid, LONG).unwrap();
    }

    #[test]
    fn dropping_a_process_kills_it() {
        let p = shell("sleep 100");
        let path = format!("/proc/{}", p.pid());
        assert!(fs::exists(&path).unwrap());
        drop(p);
        assert!(!fs::exists(&path).unwrap());
    }

    #[test]
    fn a_process_dies_with_the_thread_that_started_it() {
        let ns = Namespace::new("orphan").unwrap();
        let p = std::thread::scope(|s| {
            let started =
                s.spawn(|| Process::spawn(ns.command("sh").args(["-c", "echo up; exec sleep 100"])));
            let mut p = started.join().unwrap().unwrap();
            p.wait(LONG).unwrap();
            p
        });
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(p.status.unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_logged_process_can_be_kept_running() {
        let dir = tempfile::tempdir().unwrap();
        let mut p =
            Process::spawn_logged(Command::new("sh").args(["-c", "echo up; sleep 100"]), dir.path()).unwrap();
        p.wait_for_line(|l| l == "up", LONG).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("stdout")).unwrap(), "up\n");
        let pid = p.pid();
        p.keep();
        drop(p);
        assert!(!fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z "));
        // It leads a process group, so `sh` and its `sleep` end together.
        rustix::process::kill_process_group(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    }
}
