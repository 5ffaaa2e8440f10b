//! Whether an instance id is in use, and by which process.

use crate::iou::lock::Holder;
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long an id may be in use before that is believed: a process killed just now releases its locks and sockets
/// some time after the `kill` (up to 62 ms were measured).
pub(in crate::iou) const PATIENCE: Duration = Duration::from_secs(1);

/// How often to look in that time.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What can be said of an instance id from outside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IdState {
    /// Its lock is free and nothing answers at its socket.
    Free,
    /// A process holds its lock.
    Locked(Holder),
    /// Its lock is free, but a process reads its socket: which one, if that can be found.
    Answers(Option<Holder>),
    /// It cannot be told, because of this.
    Unknown(String),
}

/// Waits for ids in use to become free, for [`PATIENCE`] from the first time.
#[derive(Default)]
pub(in crate::iou) struct Patience {
    end: Option<Instant>,
}

impl Patience {
    /// Waits a little, or returns false if it is over.
    pub(in crate::iou) fn wait(&mut self) -> bool {
        let end = *self.end.get_or_insert_with(|| Instant::now() + PATIENCE);
        let left = Instant::now() < end;
        if left {
            thread::sleep(LOOK_AGAIN);
        }
        left
    }
}

/// The process that has a descriptor whose link in `/proc/PID/fd` reads `target`.
pub(super) fn process_with(target: &str) -> Option<Holder> {
    let processes = Path::new("/proc").read_dir().ok()?;
    let mut pids = processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let Ok(mut fds) = Path::new(&format!("/proc/{pid}/fd")).read_dir() else { return false };
        fds.any(|fd| fd.and_then(|fd| fd.path().read_link()).is_ok_and(|link| link.as_os_str() == target))
    };
    pids.find(has).map(Holder::new)
}

pub(in crate::iou) fn who(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or_else(|| "a program".to_owned(), Holder::to_string)
}

impl fmt::Display for IdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Locked(holder) => write!(f, "its lock is held by {holder}"),
            Self::Answers(holder) => write!(f, "{} answers at its socket", who(holder)),
            Self::Unknown(why) => f.write_str(why),
        }
    }
}
