//! Frames that wait for a router whose socket queue is full. The policy is pure; who sends is `router_egress`.
//!
//! All routers share the chunks, so the bound is the dynamic threshold of shared-memory switches (Choudhury
//! and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998) with alpha = 1: a router
//! may hold as many chunks as are free beyond a reserve. However many routers stop reading, some always stay free.
//! A backlog holds and counts chunks: a frame that takes several is several items in a row.

use std::collections::VecDeque;

/// Frames older than this are dropped, ns: a router that comes back gets fresh ones.
pub(super) const STALE: u64 = 1_000_000_000;

/// How many chunks one router may hold while `free` chunks are free and `reserve` must stay so.
#[must_use]
pub(super) const fn bound(free: usize, reserve: usize) -> usize {
    free.saturating_sub(reserve)
}

/// How many of them may be copies of broadcast and multicast frames: an eighth, so that a storm leaves the rest to unicast.
#[must_use]
pub(super) const fn copy_bound(bound: usize) -> usize {
    bound.div_ceil(8)
}

/// How many of them may be unicast from other routers: seven eighths, so that those that flood another do not cut it off
/// from the wire.
#[must_use]
pub(super) const fn between_bound(bound: usize) -> usize {
    bound - bound / 8
}

/// How many of `bound` may be from one router: three quarters, so that one that floods leaves some to the others. No less,
/// because a burst of 2000 frames is no flood.
#[must_use]
pub(super) const fn source_bound(bound: usize) -> usize {
    bound - bound / 4
}

/// What waits.
pub(super) trait Waiting {
    /// When its frame arrived, ns.
    fn since(&self) -> u64;
}

/// The chunks of frames that wait for one router, first in, first out.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    held: VecDeque<T>,
    paused: bool,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self { held: VecDeque::new(), paused: false }
    }
}

/// What changed for the XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pause {
    /// From now on it is to drop this router's frames.
    Begin,
    /// From now on it is to steer them again.
    End,
}

impl<T: Waiting> Backlog<T> {
    /// True if nothing waits.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Number of chunks that wait.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// True if a frame of so many chunks fits under `bound`.
    #[must_use]
    pub(super) fn has_room(&self, chunks: usize, bound: usize) -> bool {
        self.held.len() + chunks <= bound
    }

    /// Adds a chunk of a frame that [fits](Self::has_room).
    pub(super) fn push(&mut self, item: T) {
        self.held.push_back(item);
    }

    /// The chunks, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.held.iter()
    }

    /// Takes the oldest out.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.held.pop_front()
    }

    /// Takes the oldest out if it is [`STALE`] at `now` (ns).
    pub(super) fn pop_stale(&mut self, now: u64) -> Option<T> {
        self.held.front().filter(|item| now.saturating_sub(item.since()) > STALE)?;
        self.pop()
    }

    /// True if the XDP program was told to drop.
    #[must_use]
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// The XDP program has been told to steer: a pause that it was told of before is over.
    pub(super) fn forget_pause(&mut self) {
        self.paused = false;
    }

    /// Whether the XDP program is to be told something: pause at the bound, end it at half of it.
    pub(super) fn pause(&mut self, bound: usize) -> Option<Pause> {
        let paused = if self.paused { self.held.len() > bound / 2 } else { self.held.len() >= bound };
        let paused = paused && !self.held.is_empty();
        if paused == self.paused {
            return None;
        }
        self.paused = paused;
        Some(if paused { Pause::Begin } else { Pause::End })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Waiting for u64 {
        fn since(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn first_in_first_out_up_to_the_bound() {
        let mut backlog = Backlog::default();
        for n in 0..3 {
            assert!(backlog.has_room(1, 3));
            backlog.push(n);
        }
        assert!(!backlog.has_room(1, 3));
        assert!(backlog.has_room(4, 7) && !backlog.has_room(4, 6));
        assert_eq!(std::iter::from_fn(|| backlog.pop()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn pauses_at_the_bound_and_ends_at_half() {
        let mut backlog = Backlog::default();
        for n in 0..10 {
            assert_eq!(backlog.pause(10), None);
            backlog.push(n);
        }
        assert_eq!(backlog.pause(10), Some(Pause::Begin));
        for _ in 0..4 {
            backlog.pop();
            assert_eq!(backlog.pause(10), None);
        }
        backlog.pop();
        assert_eq!(backlog.pause(10), Some(Pause::End));
        assert_eq!(backlog.pause(10), None);
    }

    #[test]
    fn a_bound_of_nothing_does_not_pause_for_ever() {
        let mut backlog = Backlog::default();
        backlog.push(0);
        assert_eq!(backlog.pause(0), Some(Pause::Begin));
        backlog.pop();
        assert_eq!(backlog.pause(0), Some(Pause::End));
    }

    #[test]
    fn only_what_is_stale_goes() {
        let mut backlog = Backlog::default();
        backlog.push(0);
        backlog.push(STALE);
        assert_eq!(backlog.pop_stale(STALE), None);
        assert_eq!(backlog.pop_stale(STALE + 1), Some(0));
        assert_eq!(backlog.pop_stale(STALE + 1), None);
    }

    proptest! {
        /// However many routers are stuck, and in whatever order frames come, the reserve stays free and every
        /// router may hold something.
        ///
        /// Promise (Memory): Stuck routers never take the chunks that rings need.
        #[test]
        fn stuck_routers_never_take_the_reserve(
            arrivals in prop::collection::vec((0usize..40, 1usize..=4), 0..4000),
        ) {
            const CHUNKS: usize = 1000;
            const RESERVE: usize = 300;
            let mut backlogs: Vec<Backlog<u64>> = (0..40).map(|_| Backlog::default()).collect();
            let mut free = CHUNKS;
            for (router, chunks) in arrivals {
                if backlogs[router].has_room(chunks, bound(free, RESERVE)) {
                    (0..chunks).for_each(|_| backlogs[router].push(0));
                    free -= chunks;
                }
                prop_assert!(free >= RESERVE);
                prop_assert_eq!(free + backlogs.iter().map(Backlog::len).sum::<usize>(), CHUNKS);
            }
            let largest = backlogs.iter().map(Backlog::len).max().unwrap_or(0);
            prop_assert!(largest <= (CHUNKS - RESERVE) / 2, "one router holds {largest}");
        }
    }
}
