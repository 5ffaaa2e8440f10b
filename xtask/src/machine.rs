//! The hypervisor of a virtual machine may take its CPUs away for hundreds of milliseconds, which disturbs tests.

use std::time::{Duration, Instant};

/// A machine is calm when less than this is taken away in [`LOOK`].
const CALM: Duration = Duration::from_millis(40);
const LOOK: Duration = Duration::from_secs(2);
/// The longest wait for a calm machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// CPU time that the hypervisor has taken away since the machine started, of all CPUs together: `steal` in proc_stat(5).
/// 0 on a physical machine and under a hypervisor that does not report it.
pub(crate) fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    Duration::from_secs_f64(steal(&stat).unwrap_or(0) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The eighth figure of the line for all CPUs, in clock ticks.
fn steal(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_whitespace().nth(7)?.parse().ok()
}

/// Waits until the hypervisor leaves the machine its CPUs, for a minute at most.
pub(crate) fn wait_until_calm() {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let before = stolen();
        std::thread::sleep(LOOK);
        if stolen() - before < CALM {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_read_out_of_the_line_for_all_cpus() {
        let stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
        assert_eq!(steal(stat), Some(80));
        assert_eq!(steal("cpu  10 20\n"), None, "before Linux 2.6.11");
        assert_eq!(steal(""), None);
        assert!(stolen() <= stolen());
    }
}
