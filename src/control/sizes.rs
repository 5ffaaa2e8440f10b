//! How large the rings of a NIC are, and how much memory it takes.

use crate::worker::{BATCH, batch_chunks, reserve};

/// Entries in the fill rings of a NIC together; a NIC with many queues gets fewer for each.
const FILL: usize = 8192;
/// Entries in a worker's ring at most, and in a fill ring at least and at most.
const RING_MAX: usize = 2048;
const FILL_MIN: usize = 256;
const FILL_MAX: usize = 2 * RING_MAX;
/// Entries in a fill ring at the very least, where a NIC was given queues that no memory was taken for.
const FILL_SHARED: usize = BATCH;
/// Chunks in a worker's TX ring and cache of the pool beyond what it reads at a time.
const WORKER_CHUNKS: usize = 1024;

/// How large a NIC's rings are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) queues: usize,
    pub(super) workers: usize,
    /// Frames take several chunks.
    pub(super) large: bool,
    /// Entries in the fill and completion ring of each queue.
    pub(super) ring: usize,
    /// Entries in each worker's RX ring on a queue: one that stalls cannot take all of a queue's chunks. Its TX ring has as
    /// many, or more.
    pub(super) share: usize,
    /// Chunks for its rings and workers.
    pub(super) chunks: usize,
    /// Chunks that no backlog may take.
    pub(super) reserve: usize,
}

impl Sizes {
    pub(super) fn new(queues: usize, workers: usize, large: bool) -> Self {
        let queues = queues.max(1);
        let most = (RING_MAX * workers).next_power_of_two().min(FILL_MAX);
        let ring = (FILL / queues).next_power_of_two().clamp(FILL_MIN, most);
        Self::with_ring(queues, workers, large, ring)
    }

    fn with_ring(queues: usize, workers: usize, large: bool, ring: usize) -> Self {
        // The power of two at or below an equal share.
        let share = (1 << (ring / workers.max(1)).max(1).ilog2()).min(RING_MAX);
        let reserve = reserve(queues, ring, workers, large);
        let own = workers * (batch_chunks(large) + WORKER_CHUNKS);
        Self { queues, workers, large, ring, share, chunks: queues * ring + reserve + own, reserve }
    }

    /// For another number of queues, out of the same memory. `None` if that is too little.
    pub(super) fn shared_by(&self, queues: usize) -> Option<Self> {
        let queues = queues.max(1);
        let ring = (1_usize << (self.queues * self.ring / queues).checked_ilog2()?)
            .min(Self::new(queues, self.workers, self.large).ring);
        (ring >= FILL_SHARED).then(|| Self::with_ring(queues, self.workers, self.large, ring))
    }
}
