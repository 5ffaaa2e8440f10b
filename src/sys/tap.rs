//! A TAP device: a network interface of the kernel whose cable ends in this process.

use crate::ether::Mac;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a TAP device could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// Not a name for an interface.
    #[error("`{0}` cannot be the name of a TAP device: 1 to 15 characters, no blank, no `/`")]
    Name(String),
    /// The network namespace cannot be entered.
    #[error(
        "cannot enter the network namespace {path}: {source}; does it exist (`ip netns list`)? it needs root"
    )]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// One of the steps towards the device failed.
    #[error("TAP device {name}: {step}: {source}")]
    Step {
        /// The device.
        name: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open TAP device, without packet information and without offloads. It goes with its descriptor.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    name: String,
}

impl Tap {
    /// Makes the TAP device `name` with address `mac` and `mtu` (bytes after the Ethernet header) in the network
    /// namespace whose file is `namespace`, and sets it up. The calling thread stays in its own namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, the name is taken, or rights (`CAP_NET_ADMIN`) are missing.
    pub fn create(name: &str, mac: Mac, mtu: u16, namespace: &Path) -> Result<Self, Error> {
        if !(1..libc::IFNAMSIZ).contains(&name.len())
            || name.bytes().any(|b| b == b'/' || b == 0 || b.is_ascii_whitespace())
        {
            return Err(Error::Name(name.into()));
        }
        // A device belongs to the namespace of the thread that opens /dev/net/tun. The thread ends here, so no
        // other code ever runs in that namespace.
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                enter(namespace).map_err(|source| Error::Namespace { path: namespace.into(), source })?;
                Self::create_here(name, mac, mtu)
            });
            made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn create_here(name: &str, mac: Mac, mtu: u16) -> Result<Self, Error> {
        let failed = |step| move |source| Error::Step { name: name.into(), step, source };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|e| failed("open /dev/net/tun (is the tun module there?)")(e.into()))?;

        let mut request = Request::new(name);
        // TUN_EXCL: a device of that name that exists already belongs to another program.
        request.0.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
        request.apply(&device, libc::TUNSETIFF).map_err(failed("create"))?;
        // SAFETY: TUNSETOFFLOAD takes its flags by value and no pointer.
        let status = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, 0) };
        check(status).map_err(failed("turn the offloads off"))?;

        let control =
            rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed("open a control socket")(e.into()))?;
        let mut request = Request::new(name);
        request.0.ifr_ifru.ifru_hwaddr = hardware_address(mac);
        request.apply(&control, libc::SIOCSIFHWADDR).map_err(failed("set its MAC address"))?;
        let mut request = Request::new(name);
        request.0.ifr_ifru.ifru_mtu = mtu.into();
        request.apply(&control, libc::SIOCSIFMTU).map_err(failed("set its MTU"))?;
        let mut request = Request::new(name);
        request.0.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        request.apply(&control, libc::SIOCSIFFLAGS).map_err(failed("set it up"))?;
        Ok(Self { device, name: name.into() })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one frame that the kernel sent out of the device; returns its length in bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `EBADFD` when the device is gone.
    pub fn recv(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.device, frame)?)
    }

    /// Gives the kernel one frame as if it had arrived on the device.
    ///
    /// # Errors
    /// `EIO` while the device is down, `EINVAL` for a frame without a whole Ethernet header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.device, frame)?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn enter(namespace: &Path) -> io::Result<()> {
    let file = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

struct Request(libc::ifreq);

impl Request {
    /// `name` must be shorter than IFNAMSIZ; what does not fit is cut.
    fn new(name: &str) -> Self {
        // SAFETY: all-zero bytes are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Self(request)
    }

    fn apply(&mut self, to: &OwnedFd, operation: libc::Ioctl) -> io::Result<()> {
        // SAFETY: each operation used here (TUNSETIFF, SIOCSIF*) reads and writes one `ifreq`, alive during the call.
        check(unsafe { libc::ioctl(to.as_raw_fd(), operation, &raw mut self.0) })
    }
}

fn hardware_address(mac: Mac) -> libc::sockaddr {
    // SAFETY: all-zero bytes are a valid `sockaddr`.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
        *to = from as libc::c_char;
    }
    address
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse() {
        for name in ["", "a b", "a/b", "sixteen-letters."] {
            let made = Tap::create(name, Mac([2, 0, 0, 0, 0, 1]), 1500, Path::new("/nowhere"));
            assert!(matches!(made, Err(Error::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let made = Tap::create("tap0", Mac([2, 0, 0, 0, 0, 1]), 1500, Path::new("/nowhere/blue"));
        assert!(made.unwrap_err().to_string().contains("/nowhere/blue"));
    }
}
