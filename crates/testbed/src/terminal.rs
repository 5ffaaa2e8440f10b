use crate::error::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A terminal, from the side of who sits at it. Dropping it is a window that is closed or a line that breaks down: programs
/// that have it cannot write to it any more, and who was started in it gets SIGHUP.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// A new one, and the side of the programs.
    ///
    /// # Errors
    /// The system's own.
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
    /// The system's own.
    pub fn press(&self, keys: &[u8]) -> Result<()> {
        rustix::io::write(&self.0, keys)
            .map_err(std::io::Error::from)
            .context(|| "cannot write to the terminal".into())?;
        Ok(())
    }

    /// What has been written to it, until nothing more comes for as long as `silence`.
    #[must_use]
    pub fn read(&self, silence: Duration) -> String {
        let silence = Timespec { tv_sec: silence.as_secs() as i64, tv_nsec: silence.subsec_nanos().into() };
        let mut said = Vec::new();
        let mut bytes = [0; 4096];
        while poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&silence)).is_ok_and(|ready| ready > 0) {
            let Ok(read) = rustix::io::read(&self.0, &mut bytes) else { break };
            said.extend(&bytes[..read]);
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}
