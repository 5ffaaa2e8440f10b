//! What the control thread waits for.
//!
//! By epoll, not `poll`: that refuses more descriptors than the process may open (poll(2), EINVAL), and an operator may
//! lower that limit below what is open already.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Where an event comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// It is to end.
    Stop,
    /// Interfaces have changed.
    Links,
    /// Workers report.
    Workers,
    /// The NETMAP is to be read again.
    Netmap,
    /// Stations have moved.
    Moves,
    /// Something happened in a directory.
    Directory,
}

impl Source {
    const ALL: [Self; 6] =
        [Self::Stop, Self::Links, Self::Workers, Self::Netmap, Self::Moves, Self::Directory];
}

/// Waits for events.
pub(super) struct Sources(OwnedFd);

impl Sources {
    /// # Errors
    /// What `epoll_create1` says.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits until something can be read from one of `descriptors`, at most `timeout`; says where. A descriptor that was
    /// given before and is closed may be said once more.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub(super) fn wait<'a>(
        &self,
        descriptors: impl IntoIterator<Item = (Source, BorrowedFd<'a>)>,
        timeout: Duration,
    ) -> io::Result<Vec<Source>> {
        for (source, descriptor) in descriptors {
            // For one time: of one that is closed while a copy of it is not, epoll would report it for ever.
            let (data, flags) = (EventData::new_u64(source as u64), EventFlags::IN | EventFlags::ONESHOT);
            match epoll::modify(&self.0, descriptor, data, flags) {
                Err(Errno::NOENT) => epoll::add(&self.0, descriptor, data, flags)?,
                other => other?,
            }
        }
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut room = [const { MaybeUninit::<Event>::uninit() }; 32];
        let events = match epoll::wait(&self.0, &mut room, Some(&timeout)) {
            Ok((events, _)) => &*events,
            Err(Errno::INTR) => &[],
            Err(errno) => return Err(errno.into()),
        };
        Ok(events.iter().filter_map(|event| Source::ALL.get(event.data.u64() as usize).copied()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{eventfd, wake, woken};
    use std::os::fd::AsFd;
    use std::time::Instant;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn each_is_told_for_as_long_as_there_is_something_to_be_read() {
        let sources = Sources::new().unwrap();
        let [stop, directory] = [(); 2].map(|()| eventfd().unwrap());
        let wait = |timeout| {
            let descriptors = [(Source::Stop, stop.as_fd()), (Source::Directory, directory.as_fd())];
            sources.wait(descriptors, timeout).unwrap()
        };
        let start = Instant::now();
        assert!(wait(Duration::from_millis(20)).is_empty());
        assert!(start.elapsed() >= Duration::from_millis(20));
        wake(&directory);
        assert_eq!(wait(Duration::from_secs(5)), [Source::Directory]);
        assert_eq!(wait(AT_ONCE), [Source::Directory], "it is still to be read");
        woken(&directory);
        assert!(wait(AT_ONCE).is_empty());
        wake(&stop);
        wake(&directory);
        let both = wait(AT_ONCE);
        assert!(
            both.len() == 2 && both.contains(&Source::Stop) && both.contains(&Source::Directory),
            "{both:?}"
        );
    }

    #[test]
    fn one_that_is_closed_while_a_copy_is_not_is_told_once_at_most() {
        let sources = Sources::new().unwrap();
        let moves = eventfd().unwrap();
        let copy = moves.try_clone().unwrap();
        assert!(sources.wait([(Source::Moves, copy.as_fd())], AT_ONCE).unwrap().is_empty());
        drop(copy);
        wake(&moves);
        let told: Vec<_> = (0..3).flat_map(|_| sources.wait([], AT_ONCE).unwrap()).collect();
        assert!(told.len() <= 1, "{told:?}");
        assert_eq!(sources.wait([(Source::Links, moves.as_fd())], AT_ONCE).unwrap(), [Source::Links]);
    }
}
