//! Free chunks: a pool for the process, and a cache that each worker keeps at hand.

use af_xdp::{Chunk, Umem};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache above this spills to half of it...
const HIGH: usize = 512;
/// ...and an empty one takes this many.
const REFILL: usize = 128;

/// Chunks that are in no worker's cache.
#[derive(Debug)]
pub struct Pool {
    umem: Arc<Umem>,
    free: Mutex<Vec<Chunk>>,
    /// How many there are, to be read without the lock.
    count: AtomicUsize,
}

impl Pool {
    /// A pool of `free` chunks of `umem`.
    #[must_use]
    pub fn new(umem: Arc<Umem>, free: Vec<Chunk>) -> Self {
        let count = AtomicUsize::new(free.len());
        Self { umem, free: Mutex::new(free), count }
    }

    /// The memory.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Number of chunks in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// True if it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves up to `max` chunks to `to`.
    pub fn take(&self, to: &mut Vec<Chunk>, max: usize) {
        let mut free = self.lock();
        let from = free.len().saturating_sub(max);
        to.extend(free.drain(from..));
        self.count.store(free.len(), Relaxed);
    }

    /// Moves the chunks from index `keep` on out of `from`.
    pub fn give(&self, from: &mut Vec<Chunk>, keep: usize) {
        let mut free = self.lock();
        free.extend(from.drain(keep.min(from.len())..));
        self.count.store(free.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chunk>> {
        // The list is valid at any time, so a thread that panicked in between does no harm.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's own free chunks: its cache of the pool.
#[derive(Debug)]
pub(super) struct ChunkCache {
    pool: Arc<Pool>,
    /// The chunks; rings take from it and reap into it directly.
    pub(super) free: Vec<Chunk>,
}

impl ChunkCache {
    /// An empty cache beside `pool`.
    #[must_use]
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let free = Vec::with_capacity(pool.umem().chunks());
        Self { pool, free }
    }

    /// The memory.
    #[must_use]
    pub(super) fn umem(&self) -> &Arc<Umem> {
        self.pool.umem()
    }

    /// A free chunk, if the process has one.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        if self.free.is_empty() {
            self.pool.take(&mut self.free, REFILL);
        }
        self.free.pop()
    }

    /// Refills the cache to `count` chunks, as far as the pool has them.
    pub(super) fn refill(&mut self, count: usize) {
        let missing = count.saturating_sub(self.free.len());
        if missing > 0 {
            self.pool.take(&mut self.free, missing + REFILL);
        }
    }

    /// Puts a chunk back.
    pub(super) fn put(&mut self, chunk: Chunk) {
        self.free.push(chunk);
    }

    /// Free chunks in the process, those in other workers' caches apart.
    #[must_use]
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.pool.len()
    }

    /// Releases everything to the pool.
    pub(super) fn release(&mut self) {
        self.pool.give(&mut self.free, 0);
    }

    /// Spills to the pool what is more than a cache needs.
    pub(super) fn spill(&mut self) {
        if self.free.len() > HIGH {
            self.pool.give(&mut self.free, HIGH / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_round_between_caches_and_the_pool() {
        let (umem, chunks) = Umem::new(2000).unwrap();
        let pool = Arc::new(Pool::new(Arc::new(umem), chunks));
        let (mut a, mut b) = (ChunkCache::new(pool.clone()), ChunkCache::new(pool.clone()));
        let mut held = Vec::new();
        while let Some(chunk) = a.take() {
            held.push(chunk);
        }
        assert_eq!((held.len(), a.available()), (2000, 0));
        assert!(b.take().is_none());
        for chunk in held {
            a.put(chunk);
        }
        a.spill();
        assert_eq!((a.free.len(), pool.len()), (256, 1744));
        b.refill(300);
        assert!(b.free.len() >= 300);
        assert_eq!(a.free.len() + b.free.len() + pool.len(), 2000);
    }
}
