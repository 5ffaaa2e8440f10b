//! A rate limiter for log lines: what routers and hosts cause, they could cause a thousand times per second.

/// Lines that may be written at once...
const BURST: u64 = 20;
/// ...and one more every ten seconds, ns.
const EARN: u64 = 10_000_000_000;

/// Says whether an event may be logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    /// Lines used up, in ns of [`EARN`], at the time `since`.
    used: u64,
    /// When the last event was, ns.
    since: u64,
    /// Events since the last line.
    suppressed: u64,
}

impl RateLimiter {
    /// An event at `now` (ns on any monotonic clock): if it may be logged, how many before it were not.
    pub fn ask(&mut self, now: u64) -> Option<u64> {
        self.used = self.used.saturating_sub(now.saturating_sub(self.since));
        self.since = now;
        if self.used + EARN > BURST * EARN {
            self.suppressed += 1;
            return None;
        }
        self.used += EARN;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limiter_lets_a_burst_pass_and_then_one_that_tells_how_many_were_suppressed() {
        let mut limiter = RateLimiter::default();
        let start = 5 * EARN;
        for _ in 0..BURST {
            assert_eq!(limiter.ask(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(limiter.ask(start + EARN / 2), None);
        }
        assert_eq!(limiter.ask(start + EARN), Some(1000));
        assert_eq!(limiter.ask(start + EARN), None);
        for n in 0..BURST {
            assert_eq!(limiter.ask(start + 100 * EARN), Some(u64::from(n == 0)));
        }
        assert_eq!(limiter.ask(start + 100 * EARN), None);
    }
}
