//! The dynamic entries of one port, and how fast it may get more.

use super::SHARE_MAX;
use crate::ether::Address;
use hashlink::LinkedHashSet;
use std::time::Duration;

/// Addresses a second that are learned, or move, behind one port. Each costs up to two system calls, 3 us: a router that
/// makes addresses up gets this much of a worker, 0.3 %, and no more.
pub(super) const LEARN_RATE: u32 = 1000;
/// So many at once: as many as a port's share can be.
pub(super) const LEARN_BURST: u32 = SHARE_MAX as u32;

/// What is behind a port.
#[derive(Debug)]
pub(super) struct Behind {
    /// Least recently used first.
    pub(super) addresses: LinkedHashSet<Address>,
    /// Addresses that may be learned at once, as of `since`.
    tokens: u32,
    since: Duration,
}

impl Behind {
    pub(super) fn new(now: Duration) -> Self {
        Self { addresses: LinkedHashSet::new(), tokens: LEARN_BURST, since: now }
    }

    /// Whether one more may be learned at `now`.
    pub(super) fn may_learn(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.since).as_nanos() * u128::from(LEARN_RATE) / 1_000_000_000;
        if earned > 0 {
            self.tokens =
                self.tokens.saturating_add(earned.min(u128::from(LEARN_BURST)) as u32).min(LEARN_BURST);
            self.since = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }
}
