//! The fill ring and the completion ring of a queue, which all workers share.

use super::pool::ChunkCache;
use af_xdp::{Completion, Fill};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The rings that all workers of a queue share.
#[derive(Debug)]
pub struct Rings(Mutex<Pair>);

#[derive(Debug)]
struct Pair {
    fill: Fill,
    completion: Completion,
}

impl Rings {
    /// Shares `fill` and `completion`.
    #[must_use]
    pub fn new(fill: Fill, completion: Completion) -> Self {
        Self(Mutex::new(Pair { fill, completion }))
    }

    /// Takes chunks that have been sent back into `cache`.
    pub(super) fn reap(&self, cache: &mut ChunkCache) {
        self.lock().completion.reap(&mut cache.free);
    }

    /// Gives the kernel `count` chunks to receive into; returns how many it got. Takes back what has been sent.
    pub(super) fn refill(&self, cache: &mut ChunkCache, count: usize) -> usize {
        let mut rings = self.lock();
        let Pair { fill, completion } = &mut *rings;
        completion.reap(&mut cache.free);
        cache.refill(count);
        let given = fill.push(&mut cache.free, count);
        fill.wake();
        given
    }

    /// Addresses that the kernel returned although it did not hold their chunks.
    pub(super) fn faults(&self) -> u64 {
        self.lock().completion.faults()
    }

    fn lock(&self) -> MutexGuard<'_, Pair> {
        // Each method leaves the rings whole; a panic elsewhere does not change that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
