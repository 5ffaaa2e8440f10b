//! The two clocks: `CLOCK_MONOTONIC`, which stamps what arrives from the wire, and `CLOCK_REALTIME`, which stamps what lies
//! in a socket's queue.

use rustix::thread::nanosleep;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// `CLOCK_MONOTONIC`, ns.
pub(crate) fn monotonic() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// `CLOCK_REALTIME`, ns since 1970.
pub(super) fn realtime() -> u64 {
    ns(clock_gettime(ClockId::Realtime))
}

/// Sleeps, a little longer than asked for; a signal ends it early.
pub(super) fn sleep(time: Duration) {
    let _ = nanosleep(&Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) });
}

fn ns(time: Timespec) -> u64 {
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
