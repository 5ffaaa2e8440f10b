//! What to open on a NIC.

use std::time::Duration;

/// Slots of a ring unless told otherwise: as many as in libxdp (`XSK_RING_CONS__DEFAULT_NUM_DESCS`).
const RING_SIZE: u32 = 2048;

/// Whether the NIC reads and writes the UMEM itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    /// Zero-copy if the driver has it, else copy.
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

/// What to open on a NIC.
///
/// ```
/// # use af_xdp::{Config, CopyMode};
/// let config = Config::new(3).queues(4).sockets_per_queue(2).ring_size(4096).copy_mode(CopyMode::Copy);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) ifindex: u32,
    pub(crate) queues: u32,
    pub(crate) sockets_per_queue: u32,
    pub(crate) fill_size: u32,
    pub(crate) completion_size: u32,
    pub(crate) rx_size: u32,
    pub(crate) tx_size: u32,
    pub(crate) tx_queues: u32,
    pub(crate) copy_mode: CopyMode,
    pub(crate) busy_timeout: Duration,
    pub(crate) scatter: bool,
}

impl Config {
    /// One socket on queue 0 of the NIC with index `ifindex`, rings of 2048 slots, zero-copy if the driver has it.
    #[must_use]
    pub fn new(ifindex: u32) -> Self {
        Self {
            ifindex,
            queues: 1,
            sockets_per_queue: 1,
            fill_size: RING_SIZE,
            completion_size: RING_SIZE,
            rx_size: RING_SIZE,
            tx_size: RING_SIZE,
            tx_queues: u32::MAX,
            copy_mode: CopyMode::Auto,
            busy_timeout: Duration::ZERO,
            scatter: false,
        }
    }

    /// Number of queues, from queue 0 on. Each gets a fill and a completion ring.
    #[must_use]
    pub fn queues(self, queues: u32) -> Self {
        Self { queues, ..self }
    }

    /// Sockets on each queue. All of them share its fill and completion ring.
    #[must_use]
    pub fn sockets_per_queue(self, sockets_per_queue: u32) -> Self {
        Self { sockets_per_queue, ..self }
    }

    /// Slots of every ring, a power of two.
    #[must_use]
    pub fn ring_size(self, slots: u32) -> Self {
        self.fill_size(slots).completion_size(slots).rx_size(slots).tx_size(slots)
    }

    /// Slots of each fill ring, a power of two. [`Sockets::open`](crate::Sockets::open) takes as many chunks for each.
    #[must_use]
    pub fn fill_size(self, slots: u32) -> Self {
        Self { fill_size: slots, ..self }
    }

    /// Slots of each completion ring, a power of two.
    #[must_use]
    pub fn completion_size(self, slots: u32) -> Self {
        Self { completion_size: slots, ..self }
    }

    /// Slots of each socket's RX ring, a power of two.
    #[must_use]
    pub fn rx_size(self, slots: u32) -> Self {
        Self { rx_size: slots, ..self }
    }

    /// Slots of each TX ring, a power of two.
    #[must_use]
    pub fn tx_size(self, slots: u32) -> Self {
        Self { tx_size: slots, ..self }
    }

    /// On how many of the queues, from queue 0 on, frames may be sent; on all unless told otherwise. Socket `n` of each
    /// queue sends on one of them, number `n % tx_queues`.
    #[must_use]
    pub fn tx_queues(self, tx_queues: u32) -> Self {
        Self { tx_queues, ..self }
    }

    /// Whether the NIC reads and writes the UMEM itself.
    #[must_use]
    pub fn copy_mode(self, copy_mode: CopyMode) -> Self {
        Self { copy_mode, ..self }
    }

    /// How long a queue may be busy before it counts as another program's; no time at all unless told otherwise. The
    /// queue of a program that was just killed was busy for up to 62 ms in measurements.
    #[must_use]
    pub fn busy_timeout(self, busy_timeout: Duration) -> Self {
        Self { busy_timeout, ..self }
    }

    /// Frames larger than a chunk are wanted, as several fragments (`XDP_USE_SG`, Linux 6.6). A kernel without them is no
    /// error: see [`Sockets::scatter`](crate::Sockets::scatter). With [`CopyMode::Auto`] the kernel takes copy mode where
    /// a driver has zero-copy for frames of one chunk only.
    #[must_use]
    pub fn scatter(self, scatter: bool) -> Self {
        Self { scatter, ..self }
    }
}
