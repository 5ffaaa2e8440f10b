//! A ration of log lines: what routers and stations bring about, they could bring about a thousand times a second.

/// Lines at once...
const BURST: u64 = 20;
/// ...and one more every ten seconds, ns.
const EARN: u64 = 10_000_000_000;

/// Says whether there is a line for an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    /// Lines used up, in ns of earning, and when that was so.
    used: u64,
    since: u64,
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
    fn a_burst_and_then_now_and_then_one_that_tells_of_the_others() {
        let mut ration = RateLimiter::default();
        let start = 5 * EARN;
        for _ in 0..BURST {
            assert_eq!(ration.ask(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(ration.ask(start + EARN / 2), None);
        }
        assert_eq!(ration.ask(start + EARN), Some(1000));
        assert_eq!(ration.ask(start + EARN), None);
        for n in 0..BURST {
            assert_eq!(ration.ask(start + 100 * EARN), Some(u64::from(n == 0)));
        }
        assert_eq!(ration.ask(start + 100 * EARN), None);
    }
}
