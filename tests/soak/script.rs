//! What goes wrong, and when: made of the seed alone, before anything runs, so that neither a machine that is busy nor
//! what iou-fast does changes it.

use super::fault::Fault;
use super::{AFTER, CALM};
use std::mem::discriminant;
use std::time::Duration;

/// A thing to do, so long after the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) pause: Duration,
    pub(crate) what: What,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Begin(Fault),
    End(Fault),
    /// Nothing has been wrong for a while: it is looked how everything is.
    Calm,
}

/// xorshift64*: the same numbers from the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub(crate) fn any(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.any() >> 16) % end
    }
}

/// The script of a run of about `time`.
pub(crate) fn script(seed: u64, time: Duration) -> Vec<Step> {
    let mut writer = Writer {
        random: Random::new(seed),
        bag: Vec::new(),
        filled: 0,
        // In a long run it is to run for long.
        ends_every: if time > Duration::from_secs(600) { 20 } else { 1 },
        now: 0,
        last: 0,
        active: Vec::new(),
        steps: Vec::new(),
    };
    writer.write(time.as_millis() as u64);
    writer.steps
}

/// The kinds of faults that a script leaves out, for the time is too short; one of each.
pub(crate) fn left_out(script: &[Step]) -> Vec<Fault> {
    let begins = |step: &Step, fault: Fault| matches!(step.what, What::Begin(other) if discriminant(&other) == discriminant(&fault));
    let mut kinds = Fault::kinds(&mut Random::new(1), true);
    kinds.retain(|fault| !script.iter().any(|step| begins(step, *fault)));
    kinds
}

struct Writer {
    random: Random,
    /// All kinds, drawn in any order, then all again: none is left out.
    bag: Vec<Fault>,
    filled: u64,
    /// It ends, or is killed, in one of so many fillings only.
    ends_every: u64,
    /// ms since the start.
    now: u64,
    /// When the last step is.
    last: u64,
    /// What is there, and until when.
    active: Vec<(u64, Fault)>,
    steps: Vec<Step>,
}

impl Writer {
    /// Faults at one time.
    const TOGETHER: usize = 2;
    /// From one fault to the next: these many ms, and as many more that are drawn.
    const GAP: (u64, u64) = (300, 1400);
    /// After so many faults there is a calm, and as many more that are drawn.
    const TO_CALM: (u64, u64) = (5, 5);

    fn write(&mut self, end: u64) {
        let settled = AFTER.as_millis() as u64;
        let mut to_calm = 2;
        self.now = settled;
        while self.now < end {
            self.end_until(self.now);
            let Some(fault) = self.draw() else {
                // None of those that are left fits to what is there.
                self.now = self.active.iter().map(|(end, _)| *end).min().unwrap_or(self.now);
                continue;
            };
            if fault.is_alone() || fault.is_end() || to_calm == 0 {
                self.end_all();
                if fault.is_end() || to_calm == 0 {
                    self.now += CALM.as_millis() as u64;
                    self.step(What::Calm);
                    to_calm = Self::TO_CALM.0 + self.random.below(Self::TO_CALM.1);
                } else {
                    self.now += settled;
                }
            }
            self.step(What::Begin(fault));
            let length = fault.length(&mut self.random);
            self.active.push((self.now + length, fault));
            to_calm = to_calm.saturating_sub(1);
            self.now += Self::GAP.0 + self.random.below(Self::GAP.1);
        }
        self.end_all();
    }

    /// The next fault that can be beside those that are there. One that is to be alone waits for their end.
    fn draw(&mut self) -> Option<Fault> {
        if self.bag.is_empty() {
            self.bag = Fault::kinds(&mut self.random, self.filled.is_multiple_of(self.ends_every));
            self.filled += 1;
        }
        let at = self.random.below(self.bag.len() as u64) as usize;
        let fits = |fault: Fault| {
            let waits = fault.is_alone() && !self.active.iter().any(|(_, other)| other.is_alone());
            waits
                || self.active.len() < Self::TOGETHER
                    && !self.active.iter().any(|(_, other)| fault.excludes(*other))
        };
        let places = (at..self.bag.len()).chain(0..at);
        let at = places.into_iter().find(|at| fits(self.bag[*at]))?;
        Some(self.bag.swap_remove(at))
    }

    /// Everything ends that ends until then.
    fn end_until(&mut self, time: u64) {
        let next = self.now;
        self.active.sort_by_key(|(end, _)| *end);
        while let Some((end, fault)) = self.active.first().copied().filter(|(end, _)| *end <= time) {
            self.active.remove(0);
            self.now = end;
            self.step(What::End(fault));
        }
        self.now = next;
    }

    /// Everything ends, each in its time.
    fn end_all(&mut self) {
        if let Some(last) = self.active.iter().map(|(end, _)| *end).max() {
            self.end_until(last);
            self.now = self.now.max(last);
        }
    }

    fn step(&mut self, what: What) {
        let pause = Duration::from_millis(self.now.saturating_sub(self.last));
        self.last = self.last.max(self.now);
        self.steps.push(Step { pause, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    fn length(script: &[Step]) -> Duration {
        script.iter().map(|step| step.pause).sum()
    }

    /// Promise `soak-seed` (Faults): The soak's seed alone says which faults come, and when.
    #[test]
    fn seed_determines_the_script() {
        for seed in 0..50 {
            assert_eq!(script(seed, TWO_MINUTES), script(seed, TWO_MINUTES));
            assert_ne!(script(seed, TWO_MINUTES), script(seed + 1, TWO_MINUTES));
        }
    }

    /// Promise `soak-seed`.
    #[test]
    fn every_fault_occurs_in_two_minutes() {
        for seed in 0..200 {
            let script = script(seed, TWO_MINUTES);
            let missing = left_out(&script);
            assert!(missing.is_empty(), "seed {seed}: no {missing:?}");
            assert!(length(&script) < TWO_MINUTES + Duration::from_secs(8), "{:?}", length(&script));
        }
        assert!(!left_out(&script(1, TWO_MINUTES / 10)).is_empty());
    }

    /// Promise `soak-seed`.
    #[test]
    fn exclusive_faults_never_overlap() {
        for seed in 0..200 {
            let mut active: Vec<Fault> = Vec::new();
            let mut quiet = Duration::ZERO;
            for Step { pause, what } in script(seed, Duration::from_secs(1000)) {
                quiet += pause;
                match what {
                    What::Begin(fault) => {
                        assert!(!active.iter().any(|other| fault.excludes(*other)), "{fault:?} {active:?}");
                        assert!(!fault.is_alone() || quiet >= AFTER, "{fault:?} after {quiet:?}");
                        active.push(fault);
                        assert!(active.len() <= Writer::TOGETHER, "{active:?}");
                    }
                    What::End(fault) => {
                        let at = active.iter().position(|other| *other == fault);
                        active.remove(at.expect("it has begun"));
                        quiet = Duration::ZERO;
                    }
                    What::Calm => assert!(active.is_empty() && quiet >= CALM, "{active:?} {quiet:?}"),
                }
            }
            assert!(active.is_empty());
        }
    }
}
