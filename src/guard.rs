//! What a `kill -9` leaves to be done: a small process, `iou-guard`, that turns offloads on again when the one that turned
//! them off was killed.
//!
//! ```text
//!   iou-fast ──fork──► iou-guard: waits for a byte, or for the end of iou-fast
//!      │ a clean end: offloads are back, a byte ──► ends, and iou-fast waits for that
//!      ╳ any other end ───────────────────────────► each NIC that no process has locked is restored by its record
//! ```
//!
//! It is made at the start: later there are threads, and a filter that lets no process be made, while a NIC that needs it
//! may come at any time. What is to be done it finds in the directory of locks and records. A NIC's lock keeps it
//! and a new start apart: who has it takes care of the record, and the guard does not wait for it. It looks only when
//! the kernel has taken down all of iou-fast, because some drivers refuse to turn offloads on under an XDP
//! program.

use crate::nic::left;
use crate::privileges::{self, Role};
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, WaitOptions, getpid, pidfd_open, waitpid};
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// What `ps` and `top` call it. Not `iou-fast`, because `pkill -9 iou-fast` should not end both.
const NAME: &std::ffi::CStr = c"iou-guard";

/// How long an end waits for that of the guard, which has nothing to do then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The guard of this process. Drop it when all offloads are back: it ends.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    tell: OwnedFd,
    ended: bool,
}

impl Guard {
    /// Starts it. `state_dir` is the directory of locks and records, which need not be there yet.
    ///
    /// # Errors
    /// Where there are threads already; what the system says. It is not indispensable: what was recorded is put back after the
    /// next start.
    pub fn start(state_dir: &Path) -> std::io::Result<Self> {
        let state_dir = std::path::absolute(state_dir)?;
        let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Before there is a child: it would be too late if this process were killed meanwhile.
        let parent = getpid();
        let guarded = pidfd_open(parent, PidfdFlags::empty())?;
        if let Some(pid) = process::fork()? {
            return Ok(Self { pid, tell, ended: false });
        }
        // Neither an error nor a panic leads the child back into the parent's program.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // Otherwise it would never see that the parent's end of the pipe is closed.
            drop(tell);
            if settle(parent, &told, &guarded).is_ok() && !is_dismissed(&told, &guarded) {
                let _ = left::put_back(&state_dir);
            }
        }));
        process::exit()
    }

    /// If it has ended, which it should not have: says so, once.
    pub(crate) fn look(&mut self) {
        if !self.has_ended() || std::mem::replace(&mut self.ended, true) {
            return;
        }
        tracing::warn!(
            "the guard ({}, pid {}) has ended: should iou-fast be killed now, offloads stay off until the next start has ended",
            NAME.to_string_lossy(),
            self.pid.as_raw_nonzero()
        );
    }

    fn has_ended(&self) -> bool {
        self.ended || !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended || rustix::io::write(&self.tell, &[0]).is_err() {
            return;
        }
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The child becomes a process of its own: no terminal, no directory, nothing open but what it waits for, few rights.
fn settle(parent: Pid, told: &OwnedFd, guarded: &OwnedFd) -> Result<(), Box<dyn Error>> {
    process::set_title(NAME, &format!("{} {}", NAME.to_string_lossy(), parent.as_raw_nonzero()));
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    process::close_all_but([told.as_fd(), guarded.as_fd()])?;
    privileges::become_invoking_user()?;
    privileges::confine(Role::Guard)?;
    Ok(())
}

/// Waits until there is nothing to be done any more: true; or until all of iou-fast is gone: false.
fn is_dismissed(told: &OwnedFd, guarded: &OwnedFd) -> bool {
    let wait = |descriptors: &mut [PollFd<'_>]| while poll(descriptors, None) == Err(Errno::INTR) {};
    wait(&mut [PollFd::new(told, PollFlags::IN), PollFd::new(guarded, PollFlags::IN)]);
    // A byte, or the end of the file: it is about to go, at least.
    if rustix::io::read(told, &mut [0]) == Ok(1) {
        return true;
    }
    wait(&mut [PollFd::new(guarded, PollFlags::IN)]);
    false
}
