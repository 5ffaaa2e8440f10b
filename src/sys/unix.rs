//! Two things about Unix sockets that no library has a safe call for.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel note with every datagram when it entered the socket's queue (`SO_TIMESTAMPNS`).
pub(crate) fn stamp_arrivals(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `socket` is open for the call's duration; the kernel reads one `int`, which `on` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts the calling thread alone into a new network namespace, for good.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` can make descriptors of other threads unusable; it is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Whether [`stamp_arrivals`] is on.
#[cfg(test)]
pub(crate) fn stamps_arrivals(socket: BorrowedFd<'_>) -> bool {
    let mut on: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `socket` is open for the call's duration; the kernel writes at most the `length` bytes of `on`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw mut on).cast(),
            &raw mut length,
        )
    };
    result == 0 && on == 1
}
