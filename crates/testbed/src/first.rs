use crate::error::{Context, Result};
use crate::process::Process;
use crate::sys;
use std::fs;
use std::io::ErrorKind;

/// A thread that runs before all ordinary ones of its CPU as soon as it is woken, until this is dropped. A measurement
/// then does not include the time for which other programs keep it waiting.
#[derive(Debug)]
pub struct First {
    thread: i32,
}

impl First {
    /// The thread that calls this.
    ///
    /// # Errors
    /// Without root.
    pub fn this() -> Result<Self> {
        Self::thread(rustix::thread::gettid().as_raw_pid())
    }

    /// Every thread that a process has now.
    ///
    /// # Errors
    /// Without root, or if the process has ended.
    pub fn all_of(process: &Process) -> Result<Vec<Self>> {
        let what = || format!("threads of process {}", process.pid());
        let threads = fs::read_dir(format!("/proc/{}/task", process.pid())).context(what)?;
        let ids = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.map(Self::thread).collect()
    }

    /// The thread of this id, of any process.
    ///
    /// # Errors
    /// Without root, or if there is no such thread.
    pub fn thread(thread: i32) -> Result<Self> {
        sys::set_first(thread, true).context(|| format!("scheduling of thread {thread}"))?;
        Ok(Self { thread })
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let reset = sys::set_first(self.thread, false);
        // The thread may have ended.
        debug_assert!(!reset.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scheduling policy, field 41 of proc_pid_stat(5): the 39th behind the name.
    fn policy() -> String {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let rest = &stat[stat.rfind(')').unwrap() + 2..];
        rest.split_whitespace().nth(38).unwrap().to_string()
    }

    #[test]
    fn a_thread_has_real_time_priority_until_it_is_dropped() {
        assert_eq!(policy(), "0");
        let first = First::this().unwrap();
        assert_eq!(policy(), "1", "SCHED_FIFO");
        drop(first);
        assert_eq!(policy(), "0");
    }
}
