//! Doors into what is private, for the targets in `fuzz/` alone (feature `fuzzing`).

/// What a record of offloads beside a NIC's lock names as turned off, or `None` if it is no record.
#[must_use]
pub fn offloads_record(contents: &[u8]) -> Option<Vec<String>> {
    crate::nic::offload::parse_record(contents).ok()
}

/// The pid in the lock file of a NIC.
#[must_use]
pub fn lock_pid(contents: &[u8]) -> Option<u32> {
    crate::nic::lock::parse_pid(contents)
}

/// A kernel's version, as `uname -r` has it.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    crate::nic::kernel::parse(release)
}

/// One turn of a worker's loop: true if it was told to stop.
pub fn turn(worker: &mut crate::worker::Worker) -> bool {
    worker.turn_once()
}
