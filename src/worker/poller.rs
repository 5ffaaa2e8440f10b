//! What a worker waits for.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Events taken at a time.
const EVENTS: usize = 256;

/// What became ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// Something came into a ring: the loop looks at all of them anyway.
    Ring,
    /// The pseudo socket of this index has datagrams.
    Pseudo(usize),
    /// The router of this index is writable again.
    Router(usize),
    /// The control thread has sent a command.
    Command,
}

impl Token {
    fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Self::Ring => 0,
            Self::Command => 1 << 32,
            Self::Pseudo(index) => 2 << 32 | index as u64,
            Self::Router(index) => 3 << 32 | index as u64,
        })
    }

    fn unpack(data: EventData) -> Self {
        let word = data.u64();
        let index = (word & 0xffff_ffff) as usize;
        match word >> 32 {
            0 => Self::Ring,
            1 => Self::Command,
            2 => Self::Pseudo(index),
            _ => Self::Router(index),
        }
    }
}

/// An epoll descriptor.
pub(super) struct Poller {
    epoll: OwnedFd,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// Something became ready, or a signal came.
    Ready,
    /// Nothing was ready in all the time.
    TimedOut,
}

/// The events of a wait.
pub(super) struct Events(Vec<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn token(&self, n: usize) -> Token {
        Token::unpack(self.0[n].data)
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Reports `fd` whenever it is readable.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.pack(), EventFlags::IN)?)
    }

    /// Reports `fd` each time it gets readable.
    pub(super) fn watch_edge(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.pack(), EventFlags::IN | EventFlags::ET)?)
    }

    /// Reports `fd` each time it gets writable. Edge-triggered: a dead peer is always writable.
    pub(super) fn watch_writable(&self, fd: BorrowedFd<'_>, token: Token) {
        // Without the watch the backlog is tried again by the upkeep only: slow, but nothing is stuck.
        if let Err(error) = epoll::add(&self.epoll, fd, token.pack(), EventFlags::OUT | EventFlags::ET) {
            tracing::warn!("epoll cannot watch a router's socket: {error}");
        }
    }

    /// Stops reporting `fd`.
    pub(super) fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready, at most `timeout`.
    pub(super) fn wait(&self, events: &mut Events, timeout: Duration) -> Wait {
        events.0.clear();
        let timeout = rustix::event::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events.0), Some(&timeout)) {
            Ok(0) => Wait::TimedOut,
            Ok(_) | Err(Errno::INTR) => Wait::Ready,
            Err(errno) => unreachable!("epoll_wait on a descriptor of ours: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in
            [Token::Ring, Token::Command, Token::Pseudo(0), Token::Pseudo(1023), Token::Router(65534)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
