//! Recognizes frames from the wire that a loop behind a port sends back.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long a frame from the wire is remembered, ns: what a frame may wait for a router, and as much for the router.
const REMEMBERED: u64 = 2_000_000_000;
/// Frames remembered; a newer one replaces an older one of the same hash.
const ENTRIES: usize = 4096;
/// A frame is recognized by so many of its first bytes: of one that does not fit into a chunk, not every caller has all.
const BYTES: usize = 2048;
/// A tick is 2^20 ns, about a millisecond.
const TICK: u32 = 20;

/// Frames from the wire that went to several ports. A switch image with a loop sends them back unchanged, and their
/// senders are not behind it. A host that did move behind a router sends frames of its own. Any thread may ask.
#[derive(Debug)]
pub struct Echoes(Box<[AtomicU64]>);

impl Default for Echoes {
    fn default() -> Self {
        Self((0..ENTRIES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Echoes {
    /// `frame` came from the wire at `now` (ns on any monotonic clock).
    pub fn heard(&self, frame: &[u8], now: u64) {
        let (index, mark) = Self::mark(frame);
        self.0[index].store(mark | Self::ticks(now), Relaxed);
    }

    /// Whether this very frame came from the wire within the last two seconds.
    #[must_use]
    pub fn is_echo(&self, frame: &[u8], now: u64) -> bool {
        let (index, mark) = Self::mark(frame);
        let (seen, low) = (self.0[index].load(Relaxed), u64::from(u32::MAX));
        seen != 0 && seen & !low == mark && (Self::ticks(now).wrapping_sub(seen) & low) <= REMEMBERED >> TICK
    }

    /// Index and upper half of an entry; the lower half is the time.
    fn mark(frame: &[u8]) -> (usize, u64) {
        let mut hasher = rustc_hash::FxHasher::default();
        frame[..frame.len().min(BYTES)].hash(&mut hasher);
        let hash = hasher.finish();
        (hash as usize % ENTRIES, hash & !u64::from(u32::MAX))
    }

    fn ticks(ns: u64) -> u64 {
        ns >> TICK & u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_the_same_frame_within_two_seconds() {
        let echoes = Echoes::default();
        let second = 1_000_000_000;
        let start = u64::from(u32::MAX) << TICK;
        assert!(!echoes.is_echo(b"hello", start));
        echoes.heard(b"hello", start);
        for (frame, now, echo) in [
            (&b"hello"[..], start, true),
            (b"hello", start + 2 * second, true),
            (b"hello", start + 3 * second, false),
            (b"hell", start, false),
            (b"hello, too", start, false),
        ] {
            assert_eq!(echoes.is_echo(frame, now), echo, "{frame:?} at {now}");
        }
    }
}
