//! CPU time, memory and file descriptors of a process.

use crate::command::run;
use crate::error::{Context, Result};
use crate::process::Process;
use crate::sys;
use std::fs;
use std::time::Duration;

impl Process {
    /// User and system CPU time of all its threads so far, in steps of a clock tick (10 ms).
    ///
    /// # Errors
    /// If it has ended and was waited for.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        let ticks = cpu_ticks(&stat).ok_or_else(|| std::io::Error::other(stat.clone()));
        let ticks = ticks.context(|| format!("fields of /proc/{}/stat", self.pid()))?;
        Ok(Duration::from_secs_f64(ticks as f64 / sys::clock_ticks() as f64))
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// If it has ended.
    pub fn rss(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        let kib: u64 = kib
            .ok_or_else(|| std::io::Error::other("no VmRSS, it has ended"))
            .context(|| format!("memory of process {}", self.pid()))?;
        Ok(kib * 1024)
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// If it has ended.
    pub fn fd_count(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid());
        Ok(fs::read_dir(&path).context(|| path.clone())?.count())
    }

    /// Lets it open no more file descriptors until [`give_descriptors`](Self::give_descriptors).
    ///
    /// # Errors
    /// If it has ended.
    pub fn take_descriptors(&self) -> Result<()> {
        let path = format!("/proc/{}/fd", self.pid());
        let open = fs::read_dir(&path).context(|| path.clone())?;
        let open: Vec<u32> =
            open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        self.limit_descriptors((0..).find(|n| !open.contains(n)).unwrap_or_default())
    }

    /// Lets it open descriptors again, up to a thousand.
    ///
    /// # Errors
    /// If it has ended.
    pub fn give_descriptors(&self) -> Result<()> {
        self.limit_descriptors(1000)
    }

    /// Lets it open no descriptor with the number `limit` or a higher one. Those that are open stay open.
    ///
    /// # Errors
    /// If it has ended.
    pub fn limit_descriptors(&self, limit: u32) -> Result<()> {
        // The soft limit, because not every root may raise a hard one again.
        run("prlimit", [format!("--pid={}", self.pid()), format!("--nofile={limit}:")]).map(drop)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid());
        fs::read_to_string(&path).context(|| path.clone())
    }
}

/// utime + stime, fields 14 and 15 of proc_pid_stat(5). The name, field 2, may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_until;
    use std::process::Command;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn cpu_time_memory_and_descriptors_are_those_of_the_process() {
        let mut p = Process::spawn(
            Command::new("sh").args(["-c", "trap 'exit 7' INT; echo ready; while :; do :; done"]),
        )
        .unwrap();
        p.wait_for_line(|l| l == "ready", LONG).unwrap();
        assert!(wait_until(LONG, || p.cpu_time().unwrap() >= Duration::from_millis(50)));
        assert!(p.rss().unwrap() > 100_000);
        assert!(p.fd_count().unwrap() >= 3);
        assert_eq!(p.stop(LONG).unwrap().code(), Some(7));
        assert!(p.rss().is_err());
    }

    #[test]
    fn cpu_ticks_of_a_name_with_brackets() {
        let stat = "12 (a) b) R 1 12 12 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("12 (a) R 1"), None);
    }
}
