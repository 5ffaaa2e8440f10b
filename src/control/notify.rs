//! What the service manager is told, by the protocol of sd_notify(3): that all is ready, that the NETMAP is being reloaded,
//! a line of status, that the workers are alive, that this is the end. Without `NOTIFY_SOCKET` in the environment none of
//! this exists.
//!
//! The socket is opened at the start and sends to an address, so no message takes a descriptor, which may be wanting just
//! then, and a manager that starts again is reached. A message that finds no room is not waited for: what is told is a
//! state, and the next turn of the control thread tells what it is by then.
//!
//! The watchdog follows the workers: the manager gets a sign of life when each worker has carried out a command that was
//! given after the last one. That costs the path of frames nothing, because a worker looks for commands anyway, and a
//! worker that sleeps one wake-up each half `WatchdogSec`.

use crate::privileges::as_caller;
use crate::worker::{Command, CommandSender};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use sd_notify::NotifyState;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// The status is told so often at most, unless it comes with other news.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of the status at most: `systemctl status` shows it on one line.
const STATUS: usize = 500;

/// What the manager knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Starting,
    Ready,
    Reloading,
}

/// The way to the service manager.
#[derive(Debug)]
pub struct Notify {
    socket: OwnedFd,
    address: SocketAddrUnix,
    phase: Phase,
    status: String,
    status_due: Instant,
    watchdog: Option<Watchdog>,
    /// A message could not be sent, for another reason than want of room; reported.
    failing: bool,
}

impl Notify {
    /// The manager that `NOTIFY_SOCKET` names, if it does, with the watchdog of `WATCHDOG_USEC` and `WATCHDOG_PID`. Call it
    /// before the control thread is confined.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let watchdog = sd_notify::watchdog_enabled().filter(|time| !time.is_zero());
        Self::new(&name, watchdog)
            .inspect_err(|error| {
                let name = name.display();
                tracing::warn!("the service manager is told nothing: NOTIFY_SOCKET is \"{name}\": {error}");
            })
            .ok()
    }

    fn new(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(name)?,
            _ => return Err(io::Error::other("neither a path nor the name of an abstract socket, `@NAME`")),
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let now = Instant::now();
        Ok(Self {
            socket,
            address,
            phase: Phase::Starting,
            status: String::new(),
            status_due: now,
            watchdog: watchdog.map(|limit| Watchdog::new(limit, now)),
            failing: false,
        })
    }

    /// Tells what is different, and looks after the watchdog. `reloading`: the NETMAP is being read again. The `status` is
    /// asked for once a second, and when `reloading` is another than before.
    pub(super) fn turn(
        &mut self,
        reloading: bool,
        status: impl FnOnce() -> String,
        commands: &[&CommandSender],
    ) {
        let now = Instant::now();
        let phase = if reloading { Phase::Reloading } else { Phase::Ready };
        if phase != self.phase || now >= self.status_due {
            self.status_due = now + PERIOD;
            let status = one_line(&status());
            let mut news = match phase {
                _ if phase == self.phase => Vec::new(),
                Phase::Reloading => [Ok(NotifyState::Reloading), NotifyState::monotonic_usec_now()]
                    .into_iter()
                    .filter_map(Result::ok)
                    .collect(),
                _ => vec![NotifyState::Ready],
            };
            if !news.is_empty() || status != self.status {
                news.push(NotifyState::Status(&status));
                if self.send(&news) {
                    (self.phase, self.status) = (phase, status);
                }
            }
        }
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.turn(now, commands))
            && self.send(&[NotifyState::Watchdog])
            && let Some(watchdog) = &mut self.watchdog
        {
            watchdog.told(now);
        }
    }

    /// A worker has answered the watchdog.
    pub(super) fn alive(&mut self, worker: usize, round: u64) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.alive(worker, round);
        }
    }

    /// How long until there is something to do.
    pub(super) fn due_in(&self) -> Option<Duration> {
        self.watchdog.as_ref()?.due_in(Instant::now())
    }

    /// Tells that this is the end.
    pub(super) fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// True if the manager has it.
    fn send(&mut self, states: &[NotifyState<'_>]) -> bool {
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // The caller has named it.
        let sent = as_caller(|| sendto(&self.socket, lines.join("\n").as_bytes(), flags, &self.address));
        match sent {
            Ok(_) => {
                self.failing = false;
                true
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => false,
            Err(errno) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        "the service manager cannot be told the state: {errno}; it is tried again"
                    );
                }
                false
            }
        }
    }
}

/// A line feed would begin another message.
fn one_line(text: &str) -> String {
    let mut line = text.replace(char::is_control, " ");
    line.truncate(line.floor_char_boundary(STATUS));
    line
}

/// Asks the workers for signs of life.
#[derive(Debug)]
struct Watchdog {
    /// Half the time after which the manager takes us for dead, as sd_watchdog_enabled(3) advises.
    period: Duration,
    /// When the next round begins, unless one is under way.
    next: Instant,
    round: u64,
    asked: bool,
    /// Workers that have not answered yet.
    silent: BTreeSet<usize>,
}

impl Watchdog {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { period: limit / 2, next: now, round: 0, asked: false, silent: BTreeSet::new() }
    }

    /// Begins a round if it is due. True if the one under way is complete.
    fn turn(&mut self, now: Instant, commands: &[&CommandSender]) -> bool {
        if !self.asked && now >= self.next {
            self.asked = true;
            self.round += 1;
            self.silent = (0..commands.len()).collect();
            commands.iter().for_each(|order| order.send(Command::Event(self.round)));
        }
        self.asked && self.silent.is_empty()
    }

    fn alive(&mut self, worker: usize, round: u64) {
        if round == self.round {
            self.silent.remove(&worker);
        }
    }

    /// The manager knows that the round is complete.
    fn told(&mut self, now: Instant) {
        self.asked = false;
        self.next = now + self.period;
    }

    /// While a round is under way, answers wake the control thread.
    fn due_in(&self, now: Instant) -> Option<Duration> {
        (!self.asked).then(|| self.next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise `watchdog`.
    #[test]
    fn a_round_is_complete_when_every_worker_has_answered_it() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Duration::from_secs(2), start);
        watchdog.silent = [0, 1].into();
        (watchdog.asked, watchdog.round) = (true, 7);
        assert!(!watchdog.turn(start, &[]));
        watchdog.alive(0, 7);
        watchdog.alive(1, 6);
        assert!(!watchdog.turn(start + Duration::from_secs(9), &[]), "an answer to the round before");
        assert_eq!(watchdog.due_in(start), None);
        watchdog.alive(1, 7);
        assert!(watchdog.turn(start, &[]));
        watchdog.told(start);
        assert_eq!(watchdog.due_in(start), Some(Duration::from_secs(1)));
        assert!(!watchdog.turn(start, &[]));
        assert_eq!(watchdog.round, 7);
    }

    /// Promise `notify-reload`.
    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1\r"), "a READY=1 ");
        assert_eq!(one_line(&"ü".repeat(STATUS)).len(), STATUS);
    }

    /// Promise `notify-socket`.
    #[test]
    fn what_is_no_address_of_a_socket_is_an_error() {
        assert!(Notify::new(OsStr::new("vsock:2:1"), None).is_err());
        assert!(Notify::new(OsStr::new(&format!("/{}", "x".repeat(108))), None).is_err());
        assert!(Notify::new(OsStr::new("@x"), None).is_ok());
    }
}
