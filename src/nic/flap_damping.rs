//! Flap damping: offloads that keep being re-enabled are left on for a while, rather than fought over.

use std::time::{Duration, Instant};

/// Offloads that are turned on under us are turned off again so often...
const TURNED_OFF: u32 = 3;
/// ...until they have been off for so long, when counting begins anew.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How often the offloads of a NIC were found re-enabled.
#[derive(Debug, Default)]
pub(crate) struct FlapDamping {
    /// Since they were off for a while.
    times: u32,
    /// When they were found on last.
    last: Option<Instant>,
}

/// What to do about offloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Turn them off again.
    TurnOff,
    /// Leave them on, and report it.
    Suppress,
    /// They are off, or it has been reported that they are left on.
    Nothing,
}

impl FlapDamping {
    /// At `now` they are found `on`, or off.
    pub(crate) fn found(&mut self, on: bool, now: Instant) -> Answer {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= FORGOTTEN) {
            *self = Self::default();
        }
        if !on {
            return Answer::Nothing;
        }
        self.last = Some(now);
        self.times = (self.times + 1).min(TURNED_OFF + 2);
        match self.times {
            times if times <= TURNED_OFF => Answer::TurnOff,
            times if times == TURNED_OFF + 1 => Answer::Suppress,
            _ => Answer::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise `nic-settings`.
    #[test]
    fn flap_damping_forgets_offloads_that_stay_off_for_a_minute() {
        let second = |n| Duration::from_secs(n);
        let start = Instant::now();
        let mut flap_damping = FlapDamping::default();
        let mut found = |on, after| flap_damping.found(on, start + second(after));
        assert_eq!(found(false, 0), Answer::Nothing);
        for after in [1, 2, 3] {
            assert_eq!(found(true, after), Answer::TurnOff);
            assert_eq!(found(false, after), Answer::Nothing);
        }
        // Reported once, however long it stays on.
        assert_eq!(found(true, 4), Answer::Suppress);
        for after in 5..200 {
            assert_eq!(found(true, after), Answer::Nothing);
        }
        // Turned off by the command that was named, and on again: at once, and after a while.
        assert_eq!(found(false, 200), Answer::Nothing);
        assert_eq!(found(true, 201), Answer::Nothing);
        assert_eq!(found(false, 202), Answer::Nothing);
        assert_eq!(found(true, 262), Answer::TurnOff);
        // Three times in months are three times three, not a fourth.
        for day in 1..10 {
            assert_eq!(found(true, 1000 + day * 86_400), Answer::TurnOff);
        }
    }
}
