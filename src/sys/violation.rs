//! `SIGSYS`: a thread made a system call that its seccomp filter does not let through.

use super::device::check;
use rustix::io::Errno;
use std::io::Write;
use std::mem::{MaybeUninit, offset_of};

/// What the process ends with then: what a shell reports for one that SIGSYS killed.
pub const EXIT: i32 = 128 + libc::SIGSYS;

/// The beginning of the kernel's `siginfo_t` for SIGSYS (sigaction(2), `_sigsys`), on 64-bit machines.
#[repr(C)]
struct Details {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    address: *mut libc::c_void,
    call: libc::c_int,
    machine: libc::c_uint,
}

const _: () = assert!(size_of::<Details>() <= size_of::<libc::siginfo_t>());
const _: () = assert!(offset_of!(Details, address) == 16 && offset_of!(Details, call) == 24);

/// From now on such a call ends the process with a line on standard error that names thread and call. It is a bug or a
/// break-in, and the process must not go on in either case.
///
/// # Errors
/// What `sigaction` says.
pub fn report() -> Result<(), Errno> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_violation as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is live and whole; its handler calls nothing but what signal-safety(7) allows, and ppoll, a bare
    // system call.
    check(unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) })
}

extern "C" fn on_violation(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands over a live `siginfo_t`, which begins as `Details` does.
    let call = unsafe { (*info.cast::<Details>()).call };
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes at most, with a zero at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).unwrap_or("?");
    let mut line = [0u8; 256];
    let mut rest = &mut line[..];
    // Into memory of our own, without allocating; what does not fit is cut off.
    let _ = writeln!(
        rest,
        "iou-fast: thread \"{name}\" made system call {call}, which is not on its list: a bug, or a break-in. Ended; \
         please report it"
    );
    let unused = rest.len();
    let length = line.len() - unused;
    // Its reader may have stopped: then the process ends without a word, but it ends.
    let mut room = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    let patience = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    // SAFETY: `room` and `patience` are live, the buffer is live and at least that long; `_exit` does not return and runs
    // nothing of ours.
    unsafe {
        if libc::ppoll(&raw mut room, 1, &raw const patience, std::ptr::null()) == 1 {
            libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        }
        libc::_exit(EXIT)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    /// Asks for a page that is writable and executable.
    pub(crate) fn executable_memory() -> io::Result<()> {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel wants it, which nothing uses.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
