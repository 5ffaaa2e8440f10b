//! The completion ring.

use crate::chunk::Chunk;
use crate::registration::Registration;
use crate::ring::Consumer;
use std::sync::Arc;

/// The ring of chunks whose fragments have been sent. All sockets on a queue share it.
#[derive(Debug)]
pub struct Completion {
    pub(crate) ring: Consumer<u64>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) faults: u64,
}

impl Completion {
    /// Moves the chunks of all fragments that any socket on this queue has sent to `free`; returns how many.
    pub fn reap(&mut self, free: &mut Vec<Chunk>) -> usize {
        let before = free.len();
        // No more than are waiting now: with an invalid index this would never end.
        for _ in 0..self.ring.available() {
            let Some(address) = self.ring.pop() else { break };
            match self.umem.take_back(address) {
                Some(chunk) => free.push(chunk),
                None => self.faults += 1,
            }
        }
        self.ring.release();
        free.len() - before
    }

    /// How many addresses the kernel returned that it had not been lent. Always 0 unless a driver is faulty.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use crate::ring::Word;
    use crate::testing::{START, both_sides};

    /// An index behind ours reads as billions of waiting descriptors.
    #[test]
    fn reaping_with_an_invalid_index_ends_after_one_ring() {
        let (_umem, mut user, kernel) = both_sides(12, 8);
        kernel.completion.set(Word::Producer, START - 1);
        assert_eq!(user.completion.reap(&mut user.free), 0);
        assert!(user.completion.faults() <= 8, "{} faults", user.completion.faults());
    }
}
