//! What to open on a NIC.

use std::time::Duration;

/// Whether the NIC reads and writes the UMEM itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    /// Zero-copy where the driver can, else copy.
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

/// What to open on a NIC.
#[derive(Clone, Debug)]
pub struct Config {
    /// The NIC's index.
    pub ifindex: u32,
    /// Number of queues, each of which gets a fill and a completion ring.
    pub queues: u32,
    /// Sockets on each queue, all of which share its fill and completion ring.
    pub sockets_per_queue: u32,
    /// Places in each fill ring, a power of two. As many frames are taken at once to fill it.
    pub fill_size: u32,
    /// Places in each completion ring, a power of two.
    pub completion_size: u32,
    /// Places in each socket's RX ring, a power of two.
    pub rx_size: u32,
    /// Places in each TX ring, a power of two.
    pub tx_size: u32,
    /// Fragments may be sent on so many of the queues, the first ones. Socket `n` of each queue sends on one of them, number
    /// `n % tx_queues`.
    pub tx_queues: u32,
    /// Whether the NIC reads and writes the UMEM itself.
    pub copy_mode: CopyMode,
    /// How long a queue may be busy before another program counts as its owner. One whose owner was just killed was
    /// seen to be so for 62 ms.
    pub patience: Duration,
    /// Frames larger than a chunk are wanted, as several fragments (`XDP_USE_SG`, kernel 6.6). A kernel that does not know
    /// of them is no error. With [`CopyMode::Auto`] the kernel takes copy mode where a driver has zero-copy for
    /// frames of one chunk only.
    pub scatter: bool,
}
