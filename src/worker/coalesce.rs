//! Coalescing: in dense traffic a worker lets frames gather for some microseconds instead of running, or being woken, for
//! each of them, as a NIC moderates its interrupts.
//!
//! A turn of the loop costs about as much as three frames, whatever it finds, and a frame that wakes a router's process
//! costs more than one that joins others in its queue. From about 50,000 frames per second on, a worker therefore pauses
//! between turns, for as long as a handful of frames take to arrive for each router that frames come for: few enough that
//! they fit into a router's queue of the default length, 11.
//!
//! Pure: the caller has the clock.

use std::time::Duration;

/// Frames further apart than this, ns, are not dense: each is taken as it comes.
const DENSE: u64 = 20_000;
/// Frames that a pause is to gather for each router.
const HANDFUL: u64 = 8;
/// Shortest and longest pause, ns.
const SHORTEST: u64 = 10_000;
const LONGEST: u64 = 50_000;
/// A gap longer than this, ns, is silence and says nothing about how fast frames come.
const SILENCE: u64 = 200_000;
/// A turn that found so many frames needs no pause to find more.
const PLENTY: usize = 32;

/// How fast frames come.
#[derive(Debug)]
pub(super) struct Coalescing {
    /// Mean time between frames, ns.
    gap: u64,
    last: u64,
}

impl Default for Coalescing {
    fn default() -> Self {
        Self { gap: SILENCE, last: 0 }
    }
}

impl Coalescing {
    /// A turn that ended at `now` (ns) found `frames` frames, for `routers` routers. Returns how long to
    /// pause, if that pays.
    pub(super) fn turn(&mut self, frames: usize, routers: usize, now: u64) -> Option<Duration> {
        if frames == 0 {
            return None;
        }
        let gap = (now.saturating_sub(self.last) / frames as u64).min(SILENCE);
        self.last = now;
        // The mean of about the last eight turns.
        self.gap = (7 * self.gap + gap) / 8;
        let pause = (HANDFUL * self.gap * routers.max(1) as u64).clamp(SHORTEST, LONGEST);
        (self.gap < DENSE && frames < PLENTY).then_some(Duration::from_nanos(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last pause after 100 turns with `frames` frames each, `gap` ns apart.
    fn pause(frames: usize, routers: usize, gap: u64) -> Option<Duration> {
        let mut coalescing = Coalescing::default();
        (1..=100).map(|turn| coalescing.turn(frames, routers, turn * gap * frames as u64)).last().unwrap()
    }

    #[test]
    fn coalescing_gathers_dense_traffic_by_the_handful() {
        assert_eq!(pause(1, 1, 10_000), Some(Duration::from_micros(50)), "100 kpps");
        let short = pause(1, 1, 3_000).unwrap();
        assert!((23_000..26_000).contains(&short.as_nanos()), "300 kpps: {short:?}");
        assert_eq!(pause(4, 1, 500), Some(Duration::from_micros(10)), "2 Mpps");
        assert_eq!(
            pause(4, 4, 3_000),
            Some(Duration::from_micros(50)),
            "for several routers more frames may wait"
        );
    }

    #[test]
    fn coalescing_delays_neither_sparse_traffic_nor_full_batches() {
        assert_eq!(pause(1, 1, 30_000), None, "33 kpps");
        assert_eq!(pause(1, 1, 1_000_000), None);
        assert_eq!(pause(PLENTY, 1, 1_000), None);
        assert_eq!(Coalescing::default().turn(0, 0, 1), None);
    }

    #[test]
    fn coalescing_does_not_take_a_single_burst_for_dense_traffic() {
        let mut coalescing = Coalescing::default();
        let pauses = (0..5).filter_map(|n| coalescing.turn(1, 1, 1_000_000_000 + n * 1000)).count();
        assert_eq!(pauses, 0);
    }
}
