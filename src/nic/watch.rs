//! Word from the kernel that some NIC went up, down, away, or changed its MTU.

use super::Error;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A netlink socket that becomes readable at every change of an interface in its network namespace, the one of
/// the thread that made it.
///
/// It says that something changed, not what: messages may be lost when many come, the state itself is not. Ask
/// [`Nic::refresh_state`](super::Nic::refresh_state) after each [`drain`](Self::drain) that returns true.
#[derive(Debug)]
pub struct LinkWatch(OwnedFd);

impl LinkWatch {
    /// Subscribes to link changes. Read the state once after this: a change before it goes unnoticed.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub fn new() -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(Error::Watch)?;
        let groups = SocketAddrNetlink::new(0, libc::RTMGRP_LINK.cast_unsigned());
        rustix::net::bind(&socket, &groups).map_err(Error::Watch)?;
        Ok(Self(socket))
    }

    /// Takes in all messages that wait, and returns whether there were any. Never blocks.
    pub fn drain(&self) -> bool {
        let mut any = false;
        // What does not fit is thrown away, as the rest is: that a message came is all we want.
        let mut message = [0u8; 16];
        loop {
            match rustix::net::recv(&self.0, &mut message, RecvFlags::empty()) {
                // ENOBUFS: so many came that some were dropped; the queue itself is still to be read.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::INTR) => {}
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
