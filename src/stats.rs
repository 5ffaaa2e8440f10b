//! Counters and latency histograms, one set per worker, and the summary made of them.
//!
//! A counter has one writer, its worker, so counting is a load and a store; any thread may read it at any time.

use crate::accounting::Accounting;
use crate::steer::layout::{COUNTS, Count};
use af_xdp::RxStatistics;
use crossbeam::utils::CachePadded;
use hdrhistogram::Histogram;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread counts up and others may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the one thread that owns the counter.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Frames, and their bytes without IOU header and FCS.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Number of frames.
    pub frames: Counter,
    /// Number of bytes.
    pub bytes: Counter,
}

impl Traffic {
    /// Counts frames with `bytes` bytes in all.
    pub fn add(&self, frames: u64, bytes: u64) {
        self.frames.add(frames);
        self.bytes.add(bytes);
    }
}

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident {
        $($(#[doc = $line:literal])+ $variant:ident => $text:literal,)*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum $name { $($(#[doc = $line])+ $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in the summary.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, and what can be done: some lines of Markdown, each with a blank in front. It is the
            /// documentation of the variant, and of `docs/counters.md`.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($line, "\n"),+),)* }
            }
        }
    };
}

/// Where a frame came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// From the wire.
    Wire,
    /// From a router.
    Router,
}

reasons! {
    /// Why a frame went nowhere. `docs/counters.md` is made of these texts: `cargo run --example reference -- counters
    /// docs/counters.md`.
    DropReason {
        /// The router does not read, or more slowly than frames arrive, and its share of the memory for frames is used
        /// up: the worker drops the frame. Is the router hung, stopped, or short of CPU time?
        RouterFull => "router-full",
        /// The same, but the XDP program drops the frame already, before it costs anything.
        RouterPaused => "router-paused",
        /// More arrives than the router's worker can take: the XDP program drops the frame before it costs anything. More
        /// workers (`--cpus`) help, and so does a CPU that nothing else uses.
        WorkerBusy => "worker-busy",
        /// The router has no socket: it is not running, or its user is not the one of `--uid`. A broadcast or multicast
        /// frame counts once for each interface on the LAN whose router is not there.
        RouterDown => "router-down",
        /// The frame waited for the router for more than a second.
        Stale => "stale",
        /// The frame waited for the router when iou-fast was stopped.
        Stopped => "stopped",
        /// The frame has more than 15,344 bytes, or more than 3824 where the kernel, or zero-copy of the NIC's driver, has
        /// no larger ones (Linux 6.7 or 6.6.11 has, `--copy-mode copy` too). Broadcast and multicast frames may have
        /// 16,360.
        TooLarge => "too-large",
        /// A storm of broadcast or multicast frames: the copy for the routers found no room. The host's own copies are
        /// never among them. What makes the storm: a loop between switches, or in a switch image?
        MulticastOverflow => "multicast-overflow",
        /// The kernel refused the datagram to the router's socket.
        SendFailed => "send-failed",
        /// The datagram is shorter than an IOU header and an Ethernet header.
        Short => "short",
        /// The datagram is longer than the memory for one: its frame has more than 4032 bytes, or more than 16,320 where the
        /// MTU of a NIC asks for large frames.
        TooLong => "too-long",
        /// The header names another pseudo id than that of the socket to which the datagram was sent. The router has read
        /// another NETMAP than iou-fast: it reads the file when it boots, so restart it.
        WrongId => "wrong-id",
        /// The header names an interface of the pseudo id that no line of the NETMAP has. The router has read another NETMAP:
        /// restart it.
        WrongInterface => "wrong-interface",
        /// The header names a sender that is not on the line of that pseudo endpoint. The router has read another NETMAP:
        /// restart it.
        WrongSource => "wrong-source",
        /// The header's type is not that of data.
        WrongType => "wrong-type",
        /// The datagram came from a socket bound to another instance's path than its header claims. Who speaks for a router
        /// is the router, or a program that is not bound to an id.
        WrongSender => "wrong-sender",
        /// The source address is the NIC's own, another one of this host on that LAN (that of a bridge, VLAN or macvlan on
        /// the NIC or on the other end of its veth), or that of another router's interface. A loop in a switch image sends
        /// such frames back.
        Spoofed => "spoofed",
        /// A control frame that `--block` keeps off the wire, or flow control, which never goes there.
        Blocked => "blocked",
        /// What is behind VLAN tags and MPLS labels is larger than the NIC's MTU: raise it (`ip link set NIC mtu 9216`), or
        /// lower the router's.
        AboveMtu => "above-mtu",
        /// The NIC is down, has no carrier, or is away.
        NicDown => "nic-down",
        /// The NIC's driver threw the frame away, or its TX ring stayed full. With *baby giants*, frames of the full MTU
        /// behind VLAN tags, a larger MTU helps.
        NicRefused => "nic-refused",
        /// No memory for frames was left to read on with.
        NoChunk => "no-chunk",
    }
}

impl DropReason {
    /// True if only a frame from a router is dropped for this reason; else it was on its way to one, from the wire or from
    /// another router.
    #[must_use]
    pub const fn is_from_router(self) -> bool {
        match self {
            Self::RouterFull
            | Self::RouterPaused
            | Self::WorkerBusy
            | Self::RouterDown
            | Self::Stale
            | Self::Stopped
            | Self::TooLarge
            | Self::MulticastOverflow
            | Self::SendFailed => false,
            Self::Short
            | Self::TooLong
            | Self::WrongId
            | Self::WrongInterface
            | Self::WrongSource
            | Self::WrongType
            | Self::WrongSender
            | Self::Spoofed
            | Self::Blocked
            | Self::AboveMtu
            | Self::NicDown
            | Self::NicRefused
            | Self::NoChunk => true,
        }
    }
}

reasons! {
    /// What must not happen, and is counted when it does.
    Fault {
        /// A frame arrived, and the fill ring had no memory to put it into. If that cost the frame, it counts as `rx-dropped`
        /// as well.
        FillRingEmpty => "fill-ring-empty",
        /// A frame arrived, and the RX ring of its worker was full: the worker did not run, because it was stopped or its CPU
        /// taken away.
        RxRingFull => "rx-ring-full",
        /// The kernel could not put a frame into the memory for it, or the frame went with a NIC that was taken away.
        RxDropped => "rx-dropped",
        /// A TX ring was full. The NIC is told to send, and the frame is tried once more: if the ring is still full, it counts
        /// as `nic-refused`.
        TxRingFull => "tx-ring-full",
        /// A worker slept although frames waited, because a wake-up was lost. The frames are late by up to a second.
        LostWakeup => "lost-wakeup",
        /// The XDP program found no AF_XDP ring for a frame: the NIC has got queues that iou-fast does not serve yet.
        NoRing => "no-ring",
        /// A ring held what is invalid. It is a fault of the kernel, of the driver, or of iou-fast: please report it.
        BadDescriptor => "bad-descriptor",
    }
}

/// What a worker counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the wire to routers.
    pub to_routers: Traffic,
    /// From routers to the wire.
    pub to_nics: Traffic,
    /// From routers to routers behind another link.
    pub between: Traffic,
    /// From routers, for one of the sender's own split-horizon group, which gets it without us: not forwarded.
    pub split_horizon: Counter,
    /// What came in, for the accounting.
    pub entries: Entries,
    /// By origin.
    drops: [[Counter; DropReason::ALL.len()]; 2],
    faults: [Counter; Fault::ALL.len()],
}

/// What came in, against what went out or was dropped: see [`accounting`](crate::accounting).
#[derive(Debug, Default)]
pub struct Entries {
    /// Taken out of RX rings.
    pub from_rings: Counter,
    /// Of those, frames for many routers.
    pub group_from_rings: Counter,
    /// Taken out of ring buffers.
    pub copies: Counter,
    /// Datagrams made of frames for many routers, and of frames to unknown addresses.
    pub spread: Counter,
    /// Datagrams read from routers.
    pub read: Counter,
    /// Datagrams made of those that are for several.
    pub replicas: Counter,
}

impl Counts {
    /// Counts `n` frames that went nowhere.
    pub fn count_drop(&self, origin: impl Into<Origin>, why: DropReason, n: usize) {
        self.drops[origin.into() as usize][why as usize].add(n as u64);
    }

    /// Counts a fault.
    pub fn fault(&self, what: Fault, n: usize) {
        self.faults[what as usize].add(n as u64);
    }

    /// Frames that went nowhere for this reason.
    #[must_use]
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.drops.iter().map(|drops| drops[why as usize].get()).sum()
    }

    fn drops_from(&self, origin: Origin) -> u64 {
        self.drops[origin as usize].iter().map(Counter::get).sum()
    }
}

/// A worker's counters, on cache lines of their own.
pub type WorkerCounts = CachePadded<Counts>;

/// Latencies in ns.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

/// Upper end of the scale, ns; what is above counts as this much.
const LONGEST: u64 = 60_000_000_000;

impl Default for Latency {
    /// Two significant digits: about 30 kB, so that recording stays in the cache.
    fn default() -> Self {
        match Histogram::new_with_bounds(1, LONGEST, 2) {
            Ok(histogram) => Self(histogram),
            Err(error) => unreachable!("the bounds are constants: {error}"),
        }
    }
}

impl Latency {
    /// Records `count` frames that took `ns` each.
    pub fn record(&mut self, ns: u64, count: usize) {
        self.0.saturating_record_n(ns.clamp(1, LONGEST), count as u64);
    }

    /// Adds what `other` recorded.
    pub fn merge(&mut self, other: &Self) {
        if let Err(error) = self.0.add(&other.0) {
            unreachable!("all histograms have the same bounds: {error}");
        }
    }

    /// The latency in ns that the given share of frames did not exceed, 0.0 to 1.0.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// Number of frames recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return f.write_str("latency: none measured");
        }
        let us = |share| self.quantile(share) as f64 / 1000.0;
        write!(
            f,
            "latency p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
            us(0.5),
            us(0.99),
            us(0.999),
            us(1.0)
        )
    }
}

/// Latencies in both directions.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// From arrival at XDP to hand-over to the router's socket.
    pub to_routers: Latency,
    /// From arrival in the pseudo socket's queue to hand-over to the TX ring.
    pub to_nics: Latency,
}

/// What happened in a run, or since its start.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// From the wire to routers: frames, bytes.
    pub to_routers: (u64, u64),
    /// From routers to the wire.
    pub to_nics: (u64, u64),
    /// From routers to routers behind another link.
    pub between: (u64, u64),
    /// Left to the sender's own split-horizon group.
    pub split_horizon: u64,
    /// Latencies.
    pub latency: Latencies,
    drops: [u64; DropReason::ALL.len()],
    faults: [u64; Fault::ALL.len()],
    /// UMEM chunks: found, of how many.
    pub chunks: (usize, usize),
    /// Whether what came in is what went out or was dropped.
    pub accounting: Accounting,
}

impl Summary {
    /// Adds a worker's counters.
    pub fn add_worker(&mut self, counts: &Counts) {
        let add = |sum: &mut (u64, u64), traffic: &Traffic| {
            sum.0 += traffic.frames.get();
            sum.1 += traffic.bytes.get();
        };
        add(&mut self.to_routers, &counts.to_routers);
        add(&mut self.to_nics, &counts.to_nics);
        add(&mut self.between, &counts.between);
        self.split_horizon += counts.split_horizon.get();
        for (why, sum) in DropReason::ALL.iter().zip(&mut self.drops) {
            *sum += counts.dropped(*why);
        }
        for (sum, counter) in self.faults.iter_mut().zip(&counts.faults) {
            *sum += counter.get();
        }
        let (entries, accounting) = (&counts.entries, &mut self.accounting);
        accounting.steered.left += entries.from_rings.get();
        accounting.copied.left += entries.copies.get();
        accounting.to_routers.entered +=
            entries.from_rings.get() - entries.group_from_rings.get() + entries.spread.get();
        // What a worker found in a ring and could make nothing of was dropped, too.
        accounting.to_routers.left += counts.to_routers.frames.get()
            + counts.drops_from(Origin::Wire)
            + counts.faults[Fault::BadDescriptor as usize].get();
        accounting.from_routers.entered += entries.read.get() + entries.replicas.get();
        accounting.from_routers.left += counts.to_nics.frames.get()
            + counts.between.frames.get()
            + counts.split_horizon.get()
            + counts.drops_from(Origin::Router);
    }

    /// Adds what a NIC's XDP program counted.
    pub fn add_steering(&mut self, counts: &[u64; COUNTS]) {
        let count = |which: Count| counts[which as usize];
        self.accounting.steered.entered += count(Count::Steered) + count(Count::BumSteered);
        self.accounting.copied.entered += count(Count::BumCopies) + count(Count::UnknownCopies);
        self.drops[DropReason::RouterPaused as usize] += counts[Count::RouterPaused as usize];
        self.drops[DropReason::WorkerBusy as usize] += counts[Count::WorkerBusy as usize];
        self.drops[DropReason::RouterDown as usize] += counts[Count::RouterDown as usize];
        self.drops[DropReason::TooLarge as usize] += counts[Count::TooLarge as usize];
        self.drops[DropReason::MulticastOverflow as usize] += counts[Count::CopyRingFull as usize];
        self.faults[Fault::NoRing as usize] += counts[Count::NoRing as usize];
    }

    /// Adds what the kernel counted for an AF_XDP socket, and the descriptors in its rings that were invalid.
    ///
    /// An empty fill ring is a reason among those for `dropped`; with zero-copy it costs no frame that the XDP program has
    /// seen. So the accounting goes by the other two.
    pub fn add_socket(&mut self, statistics: &RxStatistics, invalid: u64) {
        self.faults[Fault::RxRingFull as usize] += statistics.ring_full;
        self.faults[Fault::RxDropped as usize] += statistics.dropped;
        self.faults[Fault::FillRingEmpty as usize] += statistics.fill_ring_empty;
        self.faults[Fault::BadDescriptor as usize] += invalid;
        self.accounting.steered.left += statistics.ring_full + statistics.dropped;
    }

    /// Frames that went nowhere for this reason.
    #[must_use]
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.drops[why as usize]
    }

    /// How often this happened.
    #[must_use]
    pub fn faults(&self, what: Fault) -> u64 {
        self.faults[what as usize]
    }
}

/// The non-zero ones, or "none".
fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = (&'static str, u64)>) -> fmt::Result {
    let mut separator = "";
    for (text, count) in items.filter(|(_, count)| *count > 0) {
        write!(f, "{separator}{text} {count}")?;
        separator = ", ";
    }
    if separator.is_empty() { f.write_str("none") } else { Ok(()) }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { to_routers, to_nics } = &self.latency;
        writeln!(f, "to routers: {} frames, {} bytes, {to_routers}", self.to_routers.0, self.to_routers.1)?;
        writeln!(f, "to NICs: {} frames, {} bytes, {to_nics}", self.to_nics.0, self.to_nics.1)?;
        writeln!(f, "between routers: {} frames, {} bytes", self.between.0, self.between.1)?;
        if self.split_horizon > 0 {
            writeln!(f, "split horizon: {} frames left to routers on the sender's line", self.split_horizon)?;
        }
        f.write_str("dropped: ")?;
        list(f, DropReason::ALL.iter().map(|why| (why.text(), self.dropped(*why))))?;
        f.write_str("\nfaults: ")?;
        list(f, Fault::ALL.iter().map(|what| (what.text(), self.faults(*what))))?;
        let (found, all) = self.chunks;
        write!(f, "\nchunks: {found} of {all} accounted for\naccounting: {}", self.accounting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lists_traffic_drops_faults_and_accounting() {
        let counts = Counts::default();
        counts.to_routers.add(2, 128);
        counts.count_drop(Origin::Router, DropReason::WrongSource, 3);
        counts.entries.from_rings.add(2);
        counts.entries.read.add(3);
        counts.fault(Fault::TxRingFull, 1);
        let mut summary = Summary::default();
        summary.add_worker(&counts);
        summary.add_worker(&counts);
        let mut steering = [0; COUNTS];
        steering[Count::RouterPaused as usize] = 7;
        steering[Count::Steered as usize] = 5;
        summary.add_steering(&steering);
        summary.add_socket(&RxStatistics { dropped: 1, ring_full: 0, fill_ring_empty: 1 }, 0);
        summary.latency.to_routers.record(1500, 4);
        summary.chunks = (10, 10);
        let text = summary.to_string();
        assert!(text.contains("to routers: 4 frames, 256 bytes, latency p50 1.5 us"), "{text}");
        assert!(text.contains("dropped: router-paused 7, wrong-source 6\n"), "{text}");
        assert!(text.contains("faults: fill-ring-empty 1, rx-dropped 1, tx-ring-full 2\n"), "{text}");
        assert!(text.ends_with("chunks: 10 of 10 accounted for\naccounting: balanced"), "{text}");
        summary.add_steering(&steering);
        assert!(
            summary.to_string().ends_with("accounting: not balanced: steered 10 in and 5 out"),
            "{summary}"
        );
        assert!(Summary::default().to_string().contains("dropped: none\nfaults: none"));
    }

    #[test]
    fn latency_beyond_the_scale_counts_as_its_end() {
        let mut latency = Latency::default();
        latency.record(0, 1);
        latency.record(u64::MAX, 1);
        assert_eq!(latency.count(), 2);
        assert!(latency.quantile(1.0) >= LONGEST / 100 * 99);
    }
}
