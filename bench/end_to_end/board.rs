//! The board: numbers that the bench and its processes share while they run.

use crate::Result;
use crate::sys::Words;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// As fast as it goes, for a rate.
pub(crate) const FLOOD: u64 = u64::MAX;

/// What stands on the board. Rates are frames a second, 0 to stand still, [`FLOOD`]; the others count frames up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Word {
    /// Rate of the generator on the wire.
    WireRate,
    /// What it has sent.
    WireSent,
    /// Rate of the second generator on the wire: broadcast and multicast frames, or the traffic of a router on the same NETMAP line.
    OtherRate,
    /// What it has sent.
    OtherSent,
    /// Rate of the routers.
    RoutersRate,
    /// What they have sent.
    RoutersSent,
    /// Unicast frames that routers got.
    Unicast,
    /// Broadcast and multicast frames that routers got.
    Group,
    /// Allocations of a forwarder's workers.
    Allocations,
    /// Frames that its first worker has forwarded.
    FirstWorker,
    /// Frames that its second worker has forwarded.
    SecondWorker,
}

const WORDS: usize = Word::SecondWorker as usize + 1;

/// The board.
pub(crate) struct Board(Words);

impl Board {
    /// The board in the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(Words::open(path, WORDS)?))
    }

    /// One of its numbers.
    pub(crate) fn word(&self, word: Word) -> &AtomicU64 {
        self.0.word(word as usize)
    }

    /// Reads one.
    pub(crate) fn get(&self, word: Word) -> u64 {
        self.word(word).load(Relaxed)
    }

    /// Writes one.
    pub(crate) fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, Relaxed);
    }

    /// Adds to a count, once a batch: several processes may count up the same.
    pub(crate) fn add(&self, word: Word, n: usize) {
        self.word(word).fetch_add(n as u64, Relaxed);
    }
}
