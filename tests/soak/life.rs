//! From a start of iou-fast to its end: what is missing of its time, and what it has counted.

use super::common::Summary;
use super::{NICS, ROUTERS_PER_NIC};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use testbed::Namespace;

/// Why a numbered frame does not come to a router, as the summary has it. All others are of frames that are wrong, of
/// which some are sent as well.
const REASONS: [&str; 8] = [
    "router-full",
    "router-paused",
    "worker-busy",
    "router-down",
    "stale",
    "stopped",
    "multicast-overflow",
    "send-failed",
];
/// The same of what goes wrong in rings.
const FAULTS: [&str; 4] = ["fill-ring-empty", "rx-ring-full", "rx-dropped", "no-ring"];

/// Routers on a NIC that a worker has at most, of two.
const OF_A_WORKER: u64 = ROUTERS_PER_NIC.div_ceil(2);

/// How many frames to routers it has counted as lost. One copy that found no room is one for all routers of a worker.
fn counted(summary: &Summary) -> u64 {
    let weight = |why: &str| if why == "multicast-overflow" { OF_A_WORKER } else { 1 };
    let of = |list: &[(String, u64)], known: &[&str]| -> u64 {
        let known = list.iter().filter(|(why, _)| known.contains(&why.as_str()));
        known.map(|(why, count)| weight(why) * count).sum()
    };
    of(&summary.dropped, &REASONS) + of(&summary.faults, &FAULTS)
}

/// One iou-fast.
pub(crate) struct Life {
    from: Instant,
    to: Option<Instant>,
    /// Frames that were sent in its time, did not arrive, and that it must have counted.
    missing: u64,
    /// What it has counted; `None` if it was killed.
    counted: Option<u64>,
    /// What far ends had thrown away when it was started; in the end, what they threw away in its time.
    lost_on_the_wire: u64,
}

impl Life {
    pub(crate) const fn new(from: Instant, lost_on_the_wire: u64) -> Self {
        Self { from, to: None, missing: 0, counted: None, lost_on_the_wire }
    }

    /// True if it ran at `time`.
    pub(crate) fn is_at(&self, time: Instant) -> bool {
        time >= self.from && self.to.is_none_or(|to| time <= to)
    }

    /// A frame is missing.
    pub(crate) const fn miss(&mut self) {
        self.missing += 1;
    }

    /// It has ended. Returns how many it has counted.
    pub(crate) fn end(&mut self, summary: &Summary, lost_on_the_wire: u64) -> u64 {
        self.to = Some(Instant::now());
        self.lost_on_the_wire = lost_on_the_wire - self.lost_on_the_wire;
        *self.counted.insert(counted(summary))
    }

    /// What is missing is among what it counted, or never reached its NIC.
    pub(crate) fn check(&self) {
        let Some(counted) = self.counted else { return };
        let wire = self.lost_on_the_wire * ROUTERS_PER_NIC;
        println!("{} missing, {counted} counted, {wire} may be lost on the wire", self.missing);
        assert!(
            self.missing <= counted + wire,
            "{} frames are missing; {counted} are counted, {wire} may be lost on the wire",
            self.missing
        );
    }
}

/// What the far ends of the NICs threw away while nothing was wrong with the NICs.
pub(crate) struct WireLosses {
    /// The wire's `/proc/net/dev`.
    file: File,
    before: [u64; NICS.len()],
    undisturbed: [u64; NICS.len()],
}

impl WireLosses {
    pub(crate) fn of(wire: &Namespace) -> Self {
        let file = wire.enter(|| File::open("/proc/thread-self/net/dev").unwrap()).unwrap();
        let mut this = Self { file, before: [0; NICS.len()], undisturbed: [0; NICS.len()] };
        this.look(|_| true);
        this
    }

    /// Reads what was thrown away since the last time. Where a NIC is `disturbed`, it is explained.
    pub(crate) fn look(&mut self, disturbed: impl Fn(usize) -> bool) {
        let mut text = [0; 4096];
        let len = self.file.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8_lossy(&text[..len]);
        for (nic, name) in NICS.iter().enumerate() {
            // A NIC that was removed took its counter along.
            let now = dropped(&text, name).unwrap_or(0);
            if !disturbed(nic) {
                self.undisturbed[nic] += now.saturating_sub(self.before[nic]);
            }
            self.before[nic] = now;
        }
    }

    pub(crate) const fn undisturbed(&self, nic: usize) -> u64 {
        self.undisturbed[nic]
    }

    pub(crate) fn total(&self) -> u64 {
        self.undisturbed.iter().sum()
    }
}

/// The twelfth number of an interface in `/proc/net/dev`: what was to be transmitted and was dropped.
fn dropped(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

/// Promise `soak`.
#[test]
fn drop_reasons_of_numbered_frames() {
    let text = "dropped: router-full 1, router-down 20, multicast-overflow 2, too-long 1000, wrong-id 1000, above-mtu 1000, \
                nic-down 1000, spoofed 1000\nfaults: no-ring 300, tx-ring-full 1000, lost-wakeup 1000\n";
    assert_eq!(counted(&Summary::read(text)), 1 + 20 + 2 * OF_A_WORKER + 300);
    let reasons = iou_fast::stats::DropReason::ALL.iter().map(|why| why.text());
    assert_eq!(reasons.filter(|why| REASONS.contains(why)).count(), REASONS.len());
    let faults = iou_fast::stats::Fault::ALL.iter().map(|what| what.text());
    assert_eq!(faults.filter(|what| FAULTS.contains(what)).count(), FAULTS.len());
}

#[test]
fn wire_drops_are_found() {
    let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n\
                \x20 lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n\
                \x20eth0:    1234      16    1    2    3     4          5         6     1096      13    7   77    9     1       2          3\n";
    assert_eq!(dropped(text, "eth0"), Some(77));
    assert_eq!(dropped(text, "eth1"), None);
}
