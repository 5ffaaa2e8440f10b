//! Whether it pays to look again for a few microseconds before going to sleep.
//!
//! Being woken costs several microseconds, so in a conversation (a ping, a TCP exchange, a routing protocol's
//! hand-shake) the answer is often there before a sleeper would be up again. In a stream one way it is not worth a core:
//! its next frames may as well come in a batch. The two are told apart by direction: a worker looks again after a
//! frame of one direction only if of late such frames were mostly followed at once by one of the other.
//!
//! Pure: the caller has the clock.

/// Which way a frame went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the wire to a router.
    ToRouter,
    /// From a router.
    FromRouter,
}

/// An answer within this time is one "at once", ns; and so long a worker looks for it. About the time that a router on
/// another CPU takes to wake, answer and wake us.
const WINDOW: u64 = 50_000;
/// Scores are 0 to this...
const FULL: u8 = 16;
/// ...and from here on it pays.
const ENOUGH: u8 = 8;

/// What is known of the conversation.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: Option<(Way, u64)>,
    /// How often a frame of each way was followed by one of the other at once.
    score: [u8; 2],
}

impl Turns {
    /// Frames went `way` at `now` (ns).
    pub(super) fn saw(&mut self, way: Way, now: u64) {
        if let Some((before, then)) = self.last {
            let score = &mut self.score[before as usize];
            let answered = way != before && now.saturating_sub(then) <= WINDOW;
            *score = if answered { (*score + 4).min(FULL) } else { score.saturating_sub(1) };
        }
        self.last = Some((way, now));
    }

    /// True if it pays to look again, at `now` (ns), rather than to sleep.
    pub(super) fn expects_answer(&self, now: u64) -> bool {
        self.last.is_some_and(|(way, then)| {
            self.score[way as usize] >= ENOUGH && now.saturating_sub(then) < WINDOW
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Way::{FromRouter, ToRouter};

    /// What the worker would do right after each of the frames.
    fn after(frames: impl IntoIterator<Item = (Way, u64)>) -> Vec<(Way, bool)> {
        let mut turns = Turns::default();
        frames
            .into_iter()
            .map(|(way, now)| {
                turns.saw(way, now);
                (way, turns.expects_answer(now + 1000))
            })
            .collect()
    }

    fn tail(looks: &[(Way, bool)], way: Way) -> bool {
        looks.iter().rev().take(20).filter(|(other, _)| *other == way).all(|(_, look)| *look)
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
        assert!(looks.iter().skip(20).all(|(way, look)| *way == ToRouter || !look), "the next ping does not");
    }

    #[test]
    fn a_stream_is_not_worth_a_core() {
        for way in [ToRouter, FromRouter] {
            assert!(after((0..100).map(|n| (way, n * 10_000))).iter().all(|(_, look)| !look));
        }
    }

    #[test]
    fn a_conversation_that_ends_is_forgotten() {
        let talk = (0..40).map(|n| (if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000));
        let stream = (0..40).map(|n| (ToRouter, 1_000_000 + n * 10_000));
        assert!(!after(talk.chain(stream)).last().unwrap().1);
    }

    #[test]
    fn the_window_is_short() {
        let mut turns = Turns::default();
        for n in 0..10 {
            turns.saw(if n % 2 == 0 { ToRouter } else { FromRouter }, n * 15_000);
        }
        assert!(turns.expects_answer(9 * 15_000 + WINDOW - 1));
        assert!(!turns.expects_answer(9 * 15_000 + WINDOW));
    }
}
