//! Whether it pays to look again for a few microseconds before going to sleep.
//!
//! Being woken costs several microseconds, so in a conversation (a ping, a TCP exchange, a routing protocol's
//! hand-shake) the answer is often there before a sleeper would be up again. In a stream one direction it is not worth a core:
//! its next frames may as well come in a batch. The two are told apart by direction: a worker looks again after a
//! frame of one direction only if of late such frames were mostly followed at once by one of the other.
//!
//! A conversation at leisure, a ping a millisecond say, has longer pauses than are worth a core. There the worker dozes: it
//! naps and looks, at a fraction of a core, instead of being woken from a deep sleep for each frame. That wake-up,
//! of a halted virtual CPU by another, costs more than all the rest of the direction.
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
/// In a conversation whose frames follow each other within this time, ns, the worker dozes rather than sleeps...
const SHORT_SLEEP_GAP: u64 = 2_000_000;
/// ...for so long at a time. A coalesce and a look cost about a quarter of it.
const SHORT_SLEEP: Duration = Duration::from_micros(10);
/// Scores are 0 to this...
const FULL: u8 = 16;
/// ...and from here on it pays.
const ENOUGH: u8 = 8;

/// What is known of the conversation.
#[derive(Debug, Default)]
pub(super) struct RequestResponse {
    last: Option<(Direction, u64)>,
    /// How often a frame of each direction was followed by one of the other at once.
    score: [u8; 2],
    /// How often the next frame of a conversation came within [`SHORT_SLEEP_GAP`].
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

    /// How long to coalesce before looking again, at `now` (ns), if that pays more than to sleep until woken.
    pub(super) fn short_sleep(&self, now: u64) -> Option<Duration> {
        let talking = self.score.iter().any(|score| *score >= ENOUGH) && self.steady >= ENOUGH;
        let soon = self.last.is_some_and(|(_, then)| now.saturating_sub(then) < SHORT_SLEEP_GAP);
        (talking && soon).then_some(SHORT_SLEEP)
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
    fn back_and_forth_is_looked_for_both_ways() {
        let looks = after((0..40).map(|n| (if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000)));
        assert!(tail(&looks, ToRouter) && tail(&looks, FromRouter));
    }

    #[test]
    fn a_ping_a_millisecond_is_looked_for_one_way() {
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
    fn a_stream_is_not_worth_a_core() {
        for direction in [ToRouter, FromRouter] {
            assert!(after((0..100).map(|n| (direction, n * 10_000))).iter().all(|(_, look)| !look));
        }
    }

    /// Whether the worker dozes half-direction to the next of 40 pings, `every` ns apart and `answered` or not.
    fn dozes(every: u64, answered: bool) -> bool {
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
    fn a_conversation_at_leisure_is_dozed_through() {
        assert!(dozes(1_000_000, true));
        assert!(!dozes(1_000_000, false), "a stream is not");
        assert!(!dozes(10_000_000, true), "nor what comes now and then");
    }

    #[test]
    fn dozing_ends_with_the_conversation() {
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
    fn a_conversation_that_ends_is_forgotten() {
        let talk = (0..40).map(|n| (if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000));
        let stream = (0..40).map(|n| (ToRouter, 1_000_000 + n * 10_000));
        assert!(!after(talk.chain(stream)).last().unwrap().1);
    }

    #[test]
    fn the_window_is_short() {
        let mut request_response = RequestResponse::default();
        for n in 0..10 {
            request_response.saw(if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000);
        }
        assert!(request_response.expects_answer(9 * 15_000 + WINDOW - 1));
        assert!(!request_response.expects_answer(9 * 15_000 + WINDOW));
    }
}
