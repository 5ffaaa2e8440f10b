use crate::error::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The user's side of a terminal. Dropping it stands for a closed window or a broken line: programs can no longer write to
/// it, and those that it controls get SIGHUP.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// A new terminal, and the side of the programs.
    ///
    /// # Errors
    /// The system's error.
    pub fn new() -> Result<(Self, OwnedFd)> {
        let open = || {
            let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&own)?;
            unlockpt(&own)?;
            let programs =
                ioctl_tiocgptpeer(&own, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            Ok::<_, rustix::io::Errno>((Self(own), programs))
        };
        open().map_err(std::io::Error::from).context(|| "cannot make a terminal".into())
    }

    /// Types `keys`.
    ///
    /// # Errors
    /// The system's error.
    pub fn press(&self, keys: &[u8]) -> Result<()> {
        rustix::io::write(&self.0, keys)
            .map_err(std::io::Error::from)
            .context(|| "cannot write to the terminal".into())?;
        Ok(())
    }

    /// Reads the programs' output until `enough` accepts it or `timeout` is over.
    #[must_use]
    pub fn read(&self, timeout: Duration, enough: impl Fn(&str) -> bool) -> String {
        const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let end = Instant::now() + timeout;
        let mut said = String::new();
        let mut bytes = [0; 4096];
        while Instant::now() < end && !enough(&said) {
            let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&LOOK)).unwrap_or(0);
            if ready > 0 {
                let read = rustix::io::read(&self.0, &mut bytes).unwrap_or(0);
                said.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        }
        said
    }

    /// Whether the terminal is held (^S): `programs`, their side, takes no output.
    #[must_use]
    pub fn is_held(programs: &OwnedFd) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(programs, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready == 0)
    }
}
