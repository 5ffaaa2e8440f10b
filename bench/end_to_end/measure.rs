//! Windows of measurement, and what is computed of several runs.

use crate::Result;
use crate::bed::Bed;
use crate::board::Word;
use std::fs;
use std::time::{Duration, Instant};
use testbed::Process;

/// What happened within a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Its length in seconds.
    pub(crate) seconds: f64,
    /// Frames that reached where they belong.
    pub(crate) delivered: u64,
    /// Frames that were sent.
    pub(crate) offered: u64,
    /// CPU time of the forwarder, all its threads, ns.
    pub(crate) cpu: u64,
}

impl Window {
    /// CPU time of the forwarder for a delivered frame, ns.
    pub(crate) fn cpu_per_frame(&self) -> f64 {
        self.cpu as f64 / self.delivered.max(1) as f64
    }

    /// Delivered frames a second.
    pub(crate) fn rate(&self) -> f64 {
        self.delivered as f64 / self.seconds
    }

    /// Offered frames a second.
    pub(crate) fn offered_rate(&self) -> f64 {
        self.offered as f64 / self.seconds
    }
}

/// Where frames are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meter {
    /// Unicast from the wire, at the routers' sockets.
    Routers,
    /// At the wire's end of the NIC.
    Wire,
}

/// Watches `forwarder` for `length`.
pub(crate) fn window(bed: &Bed, forwarder: &Process, meter: Meter, length: Duration) -> Result<Window> {
    let counts = || -> Result<[u64; 3]> {
        let (delivered, offered) = match meter {
            Meter::Routers => {
                let offered = bed.board.get(Word::WireSent) + bed.board.get(Word::OtherSent);
                (bed.board.get(Word::Unicast), offered)
            }
            Meter::Wire => (bed.arrived_on_wire()?, bed.board.get(Word::RoutersSent)),
        };
        Ok([delivered, offered, cpu_time(forwarder.pid())?])
    };
    let start = Instant::now();
    let before = counts()?;
    std::thread::sleep(length);
    let seconds = start.elapsed().as_secs_f64();
    let after = counts()?;
    let [delivered, offered, cpu] = std::array::from_fn(|n| after[n] - before[n]);
    Ok(Window { seconds, delivered, offered, cpu })
}

/// CPU time of all threads of a process, ns.
pub(crate) fn cpu_time(pid: u32) -> Result<u64> {
    Ok(threads(pid)?.iter().map(|thread| thread.time).sum())
}

/// A thread of a process.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    /// Its name.
    pub(crate) name: String,
    /// Its CPU time, ns.
    pub(crate) time: u64,
    /// How often it left its CPU to wait for something.
    pub(crate) sleeps: u64,
}

/// Each thread of a process.
pub(crate) fn threads(pid: u32) -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let name = fs::read_to_string(path.join("comm"))?.trim().to_owned();
        // Time on the CPU, time waiting for it, number of time slices.
        let schedstat = fs::read_to_string(path.join("schedstat"))?;
        let time = schedstat.split_whitespace().next().and_then(|time| time.parse().ok());
        let time = time.ok_or("no schedstat: a kernel without CONFIG_SCHED_INFO")?;
        let status = fs::read_to_string(path.join("status"))?;
        let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let sleeps = sleeps.and_then(|number| number.trim().parse().ok()).ok_or("no count of switches")?;
        threads.push(Thread { name, time, sleeps });
    }
    Ok(threads)
}

/// What the host of a virtual machine kept of its CPUs' time, and all of that time, in ticks since it was started.
pub(crate) fn stolen() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what follows is in user already.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    Ok((ticks.last().copied().unwrap_or(0), ticks.iter().sum()))
}

/// Memory of a process in bytes, huge pages included.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok((kib("VmRSS:") + kib("HugetlbPages:")) * 1024)
}

/// What several runs gave.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value in the middle.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.as_slice() {
            [] => f64::NAN,
            all if all.len() % 2 == 1 => all[all.len() / 2],
            all => f64::midpoint(all[all.len() / 2 - 1], all[all.len() / 2]),
        }
    }

    /// The smallest and the largest.
    pub(crate) fn range(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
    }

    /// Each of these by the one of `others` that was measured beside it.
    pub(crate) fn by(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(a, b)| a / b).collect())
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// The value in ascending `sorted` that a share of them do not exceed, 0.0 to 1.0.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |value| *value as f64)
}
