//! Whether it pays to look again for a few microseconds before going to sleep.
//!
//! Being woken costs several microseconds, so in a conversation (a ping, a TCP exchange, a routing protocol's
//! hand-shake) the answer is often there before a sleeper would be up again. In a stream one way it is not worth a core:
//! its next frames may as well come in a batch. The two are told apart by direction: a worker looks again after a
//! frame of one direction only if of late such frames were mostly followed at once by one of the other.
//!
//! A conversation at leisure, a ping a millisecond say, has longer pauses than are worth a core. There the worker dozes: it
//! naps and looks, at a fraction of a core, instead of being woken from a deep sleep for each frame. That wake-up,
//! of a halted virtual CPU by another, costs more than all the rest of the way.
//!
//! Pure: the caller has the clock.

use std::time::Duration;

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
/// In a conversation whose frames follow each other within this time, ns, the worker dozes rather than sleeps...
const LEISURE: u64 = 2_000_000;
/// ...for so long at a time. A nap and a look cost about a quarter of it.
const DOZE: Duration = Duration::from_micros(10);
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
    /// How often the next frame of a conversation came within [`LEISURE`].
    steady: u8,
}

impl Turns {
    /// Frames went `way` at `now` (ns).
    pub(super) fn saw(&mut self, way: Way, now: u64) {
        if let Some((before, then)) = self.last {
            let score = &mut self.score[before as usize];
            let answered = way != before && now.saturating_sub(then) <= WINDOW;
            *score = if answered { (*score + 4).min(FULL) } else { score.saturating_sub(1) };
            let steady = now.saturating_sub(then) <= LEISURE;
            self.steady = if steady { (self.steady + 1).min(FULL) } else { self.steady.saturating_sub(4) };
        }
        self.last = Some((way, now));
    }

    /// True if it pays to look again, at `now` (ns), rather than to sleep.
    pub(super) fn expects_answer(&self, now: u64) -> bool {
        self.last.is_some_and(|(way, then)| {
            self.score[way as usize] >= ENOUGH && now.saturating_sub(then) < WINDOW
        })
    }

    /// How long to nap before looking again, at `now` (ns), if that pays more than to sleep until woken.
    pub(super) fn doze(&self, now: u64) -> Option<Duration> {
        let talking = self.score.iter().any(|score| *score >= ENOUGH) && self.steady >= ENOUGH;
        let soon = self.last.is_some_and(|(_, then)| now.saturating_sub(then) < LEISURE);
        (talking && soon).then_some(DOZE)
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

    /// Whether the worker dozes half-way to the next of 40 pings, `every` ns apart and `answered` or not.
    fn dozes(every: u64, answered: bool) -> bool {
        let mut turns = Turns::default();
        for ping in 0..40 {
            turns.saw(ToRouter, ping * every);
            if answered {
                turns.saw(FromRouter, ping * every + 20_000);
            }
        }
        turns.doze(39 * every + every / 2).is_some()
    }

    #[test]
    fn a_conversation_at_leisure_is_dozed_through() {
        assert!(dozes(1_000_000, true));
        assert!(!dozes(1_000_000, false), "a stream is not");
        assert!(!dozes(10_000_000, true), "nor what comes now and then");
    }

    #[test]
    fn dozing_ends_with_the_conversation() {
        let mut turns = Turns::default();
        for ping in 0..40 {
            turns.saw(ToRouter, ping * 1_000_000);
            turns.saw(FromRouter, ping * 1_000_000 + 20_000);
        }
        let last = 39_020_000;
        assert!(turns.doze(last + LEISURE - 1).is_some() && turns.doze(last + LEISURE).is_none());
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
