//! `F_GETLK`: which process holds a POSIX lock on a file. rustix has it too, but takes the kernel's -1 (a lock that belongs to
//! an open file description) for a process id, which it asserts is none.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The process that holds a lock which excludes an exclusive one on the whole of `file`, if there is one.
///
/// The number is as the kernel gives it: 0 for a process outside this pid namespace, -1 for a lock that
/// belongs to an open file description. Locks of this process are never reported (fcntl(2)).
pub(crate) fn holder(file: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0, // to the end, however far the file grows
        l_pid: 0,
    };
    // SAFETY: `file` is open for the call's duration, and F_GETLK reads and writes exactly one `struct flock`,
    // which `lock` is and which no one else sees.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}
