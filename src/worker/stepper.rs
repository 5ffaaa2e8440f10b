//! A worker's loop turned from outside: for `fuzz/`, and to count its instructions.

use super::Worker;
use super::poller::Events;

/// What the loop keeps from one turn to the next.
pub struct Stepper(Events);

impl Default for Stepper {
    fn default() -> Self {
        Self(Events::new())
    }
}

impl Stepper {
    /// One turn of [`Worker::run`]; true if `worker` was told to stop.
    pub fn turn(&mut self, worker: &mut Worker) -> bool {
        worker.turn(&mut self.0).is_break()
    }
}
