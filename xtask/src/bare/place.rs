use super::{Context, Error, Result};
use rustix::fs::{FlockOperation, StatVfsMountFlags, flock, statvfs};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testbed::{Process, Streams, wait_until};

/// The file that whoever uses a place has locked, processes in its machines too.
const LOCK: &str = "lock";

/// How long processes that were killed may take to be gone from a directory.
const GONE: Duration = Duration::from_secs(20);

/// The directory of one run, which goes with its value; and what runs there.
pub(super) struct Place {
    pub(super) path: PathBuf,
    lock: File,
    /// ^C or SIGTERM.
    stop: Arc<AtomicBool>,
}

/// Where a program's output goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// To ours.
    Shown,
    /// Into the error's text if it fails, else nowhere.
    OnFailure,
}

impl Place {
    /// A new one in `directory`, out of which it takes what killed runs have left.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let what = || format!("directory {}", directory.display());
        fs::create_dir_all(directory).context(what)?;
        check_mount(directory)?;
        remove_left(directory)?;
        let path = directory.join(std::process::id().to_string());
        fs::create_dir(&path).context(|| format!("directory {}", path.display()))?;
        let lock = File::create(path.join(LOCK)).context(|| path.join(LOCK).display().to_string())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context(|| "its lock".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&stop)).context(|| "signal handler".into())?;
        }
        Ok(Self { path, lock, stop })
    }

    /// Runs the shell's `script` in mount and process namespaces of its own, in this environment if one is given; all in
    /// there ends with it, and with us.
    pub(super) fn run(
        &self,
        script: &str,
        arguments: &[&OsStr],
        environment: Option<&[(String, String)]>,
        output: Output,
    ) -> Result<ExitStatus> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-c", script, "sh"]);
        command.args(arguments);
        if let Some(environment) = environment {
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        }
        // The script's shell has the lock as its input until it ends, after all others in there.
        let same = |file: &dyn AsFd| file.as_fd().try_clone_to_owned();
        let what = || "a descriptor for a program's output".to_owned();
        let mut streams = Streams { stdin: Some(same(&self.lock).context(what)?), ..Streams::default() };
        if output == Output::Shown {
            streams.stdout = Some(same(&io::stdout()).context(what)?);
            streams.stderr = Some(same(&io::stderr()).context(what)?);
        }
        let mut process = Process::spawn_with(&mut command, streams)?;
        loop {
            let status = process.exited();
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if let Some(status) = status {
                if output == Output::OnFailure && !status.success() {
                    return Err(Error::Bare(process.dump()));
                }
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{} stays behind, the next run removes it: {error}", self.path.display());
        }
    }
}

/// Refuses a file system on which a root directory cannot work.
fn check_mount(directory: &Path) -> Result<()> {
    let flags = statvfs(directory).context(|| directory.display().to_string())?.f_flag;
    let unfit = [
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
    ];
    match unfit.iter().find(|(flag, _)| flags.contains(*flag)) {
        Some((_, name)) => Err(Error::Bare(format!(
            "{} is mounted {name}: give a directory of another file system by --dir",
            directory.display()
        ))),
        None => Ok(()),
    }
}

/// Removes the places of runs that were killed.
fn remove_left(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).context(|| format!("directory {}", directory.display()))?.flatten() {
        let path = entry.path();
        let Ok(lock) = File::open(path.join(LOCK)) else {
            // Ended before it made its lock.
            let _ = fs::remove_dir(&path);
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path).context(|| format!("directory {}", path.display()))?;
            println!("removed {}, left by an earlier run", path.display());
        }
    }
    Ok(())
}

/// Removes a directory in which processes that were just killed may still write.
fn remove(path: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    let _ = wait_until(GONE, || {
        outcome = fs::remove_dir_all(path);
        outcome.is_ok()
    });
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use testbed::Signal;

    /// A place in a directory of the test's own. It needs no root.
    fn left() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1");
        fs::create_dir_all(path.join("bookworm/etc")).unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        (directory, path)
    }

    #[test]
    fn what_a_killed_run_left_goes_when_nothing_runs_in_it() {
        let (directory, path) = left();
        let lock = File::open(path.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        // Killed, but a process in its machine still has the lock.
        let mut process = Command::new("sleep").arg("100").stdin(lock).spawn().unwrap();
        remove_left(directory.path()).unwrap();
        assert!(path.exists());
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        remove_left(directory.path()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_place_without_a_lock_goes_only_if_it_is_empty() {
        let (directory, path) = left();
        fs::remove_file(path.join(LOCK)).unwrap();
        fs::create_dir(directory.path().join("2")).unwrap();
        remove_left(directory.path()).unwrap();
        assert!(path.exists() && !directory.path().join("2").exists());
    }
}
