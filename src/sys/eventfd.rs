//! An eventfd: what one thread wakes another by.

use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An eventfd, not blocking.
///
/// # Errors
/// What `eventfd` says.
pub fn eventfd() -> io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
}

/// Adds 1 to an eventfd. One that is full already is readable, which is all that is wanted, so an error is ignored.
pub fn wake(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Resets an eventfd.
pub fn woken(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}
