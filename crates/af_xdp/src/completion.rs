//! The completion ring.

use crate::chunk::Chunk;
use crate::registration::Registration;
use crate::ring::Consumer;
use std::sync::Arc;

/// The ring of frames that have been sent.
#[derive(Debug)]
pub struct Completion {
    pub(crate) ring: Consumer<u64>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) faults: u64,
}

impl Completion {
    /// Moves all frames that have been sent, of any socket on this queue, to `free`; returns how many.
    pub fn reap(&mut self, free: &mut Vec<Chunk>) -> usize {
        let before = free.len();
        // No more than wait now: an index that is invalid would keep us here for ever.
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

    /// Addresses that the kernel gave back without having been lent them. Always 0 with a sane kernel.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use crate::ring::Word;
    use crate::testing::{START, both_sides};

    /// An index behind ours reads as billions that wait.
    #[test]
    fn an_index_that_makes_no_sense_ends_no_later_than_the_ring() {
        let (_umem, mut user, kernel) = both_sides(12, 8);
        kernel.completion.set(Word::Producer, START - 1);
        assert_eq!(user.completion.reap(&mut user.free), 0);
        assert!(user.completion.faults() <= 8, "{} faults", user.completion.faults());
    }
}
