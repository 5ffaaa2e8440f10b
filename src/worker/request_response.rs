//! Whether it pays to look again for a few microseconds before going to sleep.
//!
//! A wake-up costs several microseconds, so in request-response traffic (a ping, a TCP exchange, a routing protocol's
//! hand-shake) the answer is often there before a sleeping worker would be up again. In a stream in one direction that is not
//! worth a core: its next frames may as well come in a batch. The two are told apart by direction: a worker looks again after
//! a frame in one direction only if of late such frames were mostly followed at once by one in the other.
//!
//! Slow request-response traffic, such as a ping per millisecond, has longer gaps than are worth a core. There the worker
//! sleeps for some microseconds and looks, at a fraction of a core, instead of being woken from a deep sleep for each frame.
//! That wake-up, of a halted virtual CPU by another, costs more than all the rest of a frame's way.
//!
//! Pure: the caller has the clock.

use std::time::Duration;

/// Which direction a frame went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// From the wire to a router.
    ToRouter,
    /// From a router.
    FromRouter,
}

/// An answer within this time is one "at once", ns; and so long a worker looks for it. About the time that a router on
/// another CPU takes to wake, answer and wake us.
const WINDOW: u64 = 50_000;
/// In an exchange whose frames follow each other within this time, ns, the worker sleeps shortly rather than until woken...
const SHORT_SLEEP_GAP: u64 = 2_000_000;
/// ...for so long at a time. A short sleep and a look cost about a quarter of it.
const SHORT_SLEEP: Duration = Duration::from_micros(10);
/// Scores are 0 to this...
const FULL: u8 = 16;
/// ...and from here on it pays.
const ENOUGH: u8 = 8;

/// What is known of the exchange.
#[derive(Debug, Default)]
pub(super) struct RequestResponse {
    last: Option<(Direction, u64)>,
    /// How often a frame in each direction was followed by one in the other at once.
    score: [u8; 2],
    /// How often the next frame of an exchange came within [`SHORT_SLEEP_GAP`].
    steady: u8,
}

impl RequestResponse {
    /// Frames went `direction` at `now` (ns).
    pub(super) fn saw(&mut self, direction: Direction, now: u64) {
        if let Some((before, then)) = self.last {
            let score = &mut self.score[before as usize];
            let answered = direction != before && now.saturating_sub(then) <= WINDOW;
            *score = if answered { (*score + 4).min(FULL) } else { score.saturating_sub(1) };
            let steady = now.saturating_sub(then) <= SHORT_SLEEP_GAP;
            self.steady = if steady { (self.steady + 1).min(FULL) } else { self.steady.saturating_sub(4) };
        }
        self.last = Some((direction, now));
    }

    /// True if it pays to look again, at `now` (ns), rather than to sleep.
    pub(super) fn expects_answer(&self, now: u64) -> bool {
        self.last.is_some_and(|(direction, then)| {
            self.score[direction as usize] >= ENOUGH && now.saturating_sub(then) < WINDOW
        })
    }

    /// How long to sleep before looking again, at `now` (ns), if that pays more than to sleep until woken.
    pub(super) fn short_sleep(&self, now: u64) -> Option<Duration> {
        let exchange = self.score.iter().any(|score| *score >= ENOUGH) && self.steady >= ENOUGH;
        let soon = self.last.is_some_and(|(_, then)| now.saturating_sub(then) < SHORT_SLEEP_GAP);
        (exchange && soon).then_some(SHORT_SLEEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{FromRouter, ToRouter};

    /// What the worker would do right after each of the frames.
    fn after(frames: impl IntoIterator<Item = (Direction, u64)>) -> Vec<(Direction, bool)> {
        let mut request_response = RequestResponse::default();
        frames
            .into_iter()
            .map(|(direction, now)| {
                request_response.saw(direction, now);
                (direction, request_response.expects_answer(now + 1000))
            })
            .collect()
    }

    fn tail(looks: &[(Direction, bool)], direction: Direction) -> bool {
        looks.iter().rev().take(20).filter(|(other, _)| *other == direction).all(|(_, look)| *look)
    }

    #[test]
    fn request_response_traffic_is_looked_for_in_both_directions() {
        let looks = after((0..40).map(|n| (if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000)));
        assert!(tail(&looks, ToRouter) && tail(&looks, FromRouter));
    }

    #[test]
    fn slow_request_response_traffic_is_looked_for_in_one_direction() {
        let looks = after((0..40).map(|n| {
            let (ping, answer) = (n / 2 * 1_000_000, n % 2);
            (if answer == 0 { ToRouter } else { FromRouter }, ping + answer * 20_000)
        }));
        assert!(tail(&looks, ToRouter), "its answer comes at once");
        assert!(
            looks.iter().skip(20).all(|(direction, look)| *direction == ToRouter || !look),
            "the next ping does not"
        );
    }

    #[test]
    fn a_stream_in_one_direction_is_not_looked_for() {
        for direction in [ToRouter, FromRouter] {
            assert!(after((0..100).map(|n| (direction, n * 10_000))).iter().all(|(_, look)| !look));
        }
    }

    /// Whether the worker sleeps shortly half-way to the next of 40 pings, `every` ns apart and `answered` or not.
    fn sleeps_shortly(every: u64, answered: bool) -> bool {
        let mut request_response = RequestResponse::default();
        for ping in 0..40 {
            request_response.saw(ToRouter, ping * every);
            if answered {
                request_response.saw(FromRouter, ping * every + 20_000);
            }
        }
        request_response.short_sleep(39 * every + every / 2).is_some()
    }

    #[test]
    fn short_sleeps_in_slow_request_response_traffic() {
        assert!(sleeps_shortly(1_000_000, true));
        assert!(!sleeps_shortly(1_000_000, false), "a stream is not");
        assert!(!sleeps_shortly(10_000_000, true), "nor what comes now and then");
    }

    #[test]
    fn short_sleeps_end_with_the_exchange() {
        let mut request_response = RequestResponse::default();
        for ping in 0..40 {
            request_response.saw(ToRouter, ping * 1_000_000);
            request_response.saw(FromRouter, ping * 1_000_000 + 20_000);
        }
        let last = 39_020_000;
        assert!(
            request_response.short_sleep(last + SHORT_SLEEP_GAP - 1).is_some()
                && request_response.short_sleep(last + SHORT_SLEEP_GAP).is_none()
        );
    }

    #[test]
    fn an_exchange_that_ends_is_forgotten() {
        let talk = (0..40).map(|n| (if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000));
        let stream = (0..40).map(|n| (ToRouter, 1_000_000 + n * 10_000));
        assert!(!after(talk.chain(stream)).last().unwrap().1);
    }

    #[test]
    fn an_answer_is_looked_for_within_the_window() {
        let mut request_response = RequestResponse::default();
        for n in 0..10 {
            request_response.saw(if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000);
        }
        assert!(request_response.expects_answer(9 * 15_000 + WINDOW - 1));
        assert!(!request_response.expects_answer(9 * 15_000 + WINDOW));
    }
}
