//! How much a worker takes at a time.

use crate::sys::mmsg::CHUNKS;

/// Frames that a worker takes from a socket at a time.
pub const BATCH: usize = 64;
/// Datagrams with broadcast and multicast frames that a worker sends before unicast gets its turn again: one such frame is
/// a datagram for each router.
pub(super) const FLOOD_SENDS: usize = 128;

/// Chunks that no backlog may take: what the RX rings of `workers` workers can hold of `queues` queues, and two batches per
/// worker, of `large` frames if there are such.
#[must_use]
pub const fn reserve(queues: usize, fill_size: usize, workers: usize, large: bool) -> usize {
    queues * fill_size + 2 * batch_chunks(large) * workers
}

/// Chunks that a worker reads into at a time.
#[must_use]
pub const fn batch_chunks(large: bool) -> usize {
    if large { BATCH * CHUNKS } else { BATCH }
}
