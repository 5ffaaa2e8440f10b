//! A second process of this program: `fork` without `exec`, and what makes the child one of its own.

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a child that goes on from here as well: `None` in the child, which has all signals blocked from its first
/// moment, and in the parent the child's id.
///
/// # Errors
/// This process has several threads already, of which a child would have one, with the locks of the others held for
/// ever; their number cannot be read; what `fork` says.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there are threads already"));
    }
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both are live sets of signals, the first filled in before it is read and the second only written.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: this is the only thread, so the child has all there is, and no lock is held.
    let child = unsafe { libc::fork() };
    let error = io::Error::last_os_error();
    if child != 0 {
        // SAFETY: `before` was filled in above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    match child {
        0 => Ok(None),
        -1 => Err(error),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Closes everything that is open but `kept`, and makes standard input, output and error `/dev/null`. For a child of
/// [`fork`] alone, whose descriptors are copies that nothing else in it uses.
pub(crate) fn close_all_but(kept: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
    let mut kept = kept.map(|fd| fd.as_raw_fd().cast_unsigned());
    kept.sort_unstable();
    for standard in 0..=2 {
        // SAFETY: no pointers; both numbers are open or free, and 0 to 2 belong to no value in a child.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if null.as_raw_fd() <= 2 {
        // It took the place of one that was closed, and stays.
        std::mem::forget(null);
    } else {
        drop(null);
    }
    let [first, second] = kept;
    for (from, to) in
        [(3, first.saturating_sub(1)), (first + 1, second.saturating_sub(1)), (second + 1, u32::MAX)]
    {
        if from <= to {
            // SAFETY: no pointers; what is closed belongs to no value that this child goes on to use.
            if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Sets what `ps` shows of this process: its short name (15 bytes at most) and `line`, cut to the bytes that its arguments
/// took. For a child of [`fork`] alone, which has no use for its arguments.
pub(crate) fn set_title(name: &CStr, line: &str) {
    let _ = rustix::thread::set_name(name);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some((start, end)) = arguments(&stat) else { return };
    // Zeros to the end, or what is left of the arguments would stand behind it.
    let line = line.bytes().chain(std::iter::repeat(0));
    for (address, byte) in (start..end).zip(line) {
        let last = address + 1 == end;
        // SAFETY: the kernel says that this process's arguments are there: writable memory of the stack's first frame,
        // which no value of Rust's borrows. `std::env::args` reads it, and finds strings that end within: the last byte
        // stays zero.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write(if last { 0 } else { byte }) };
    }
}

/// Where the arguments of a process are, from its `/proc/PID/stat`: fields 48 and 49 of proc_pid_stat(5).
fn arguments(stat: &str) -> Option<(usize, usize)> {
    // The name, field 2, may hold blanks and brackets.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(45);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    // The kernel says 0 to a process that may not know.
    (start != 0 && start < end).then_some((start, end))
}

/// Ends the process at once: nothing of what the parent had set up for its own end is run.
pub(crate) fn exit() -> ! {
    // SAFETY: does not return, and runs nothing of ours.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_found_behind_any_name() {
        let rest: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        assert_eq!(arguments(&format!("12 (a) b) {}", rest.join(" "))), Some((48, 49)));
        assert_eq!(arguments("12 (a) R 1"), None);
        assert_eq!(arguments(""), None);
        let hidden = ["0"; 50].join(" ");
        assert_eq!(arguments(&format!("12 (a) {hidden}")), None);
        // Those of this process: it sees its own name there.
        let (start, end) = arguments(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(end - start, std::fs::read("/proc/self/cmdline").unwrap().len());
    }

    #[test]
    fn a_process_with_threads_is_not_forked() {
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(fork().unwrap_err().to_string().contains("threads")));
        });
    }
}
