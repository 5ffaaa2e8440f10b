//! Packet sockets (`packet(7)`), as far as promiscuous mode goes.

use super::device::check;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsRawFd, OwnedFd};

/// A packet socket that keeps interface number `index` of the calling thread's network namespace promiscuous for
/// as long as it is open. It has protocol 0, so that the kernel never queues a frame at it.
///
/// # Errors
/// `EPERM`: no CAP_NET_RAW. `ENODEV`: no such interface.
pub fn promiscuous(index: u32) -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::PACKET, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let membership = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the option's value is a live `packet_mreq` of the length given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of_val(&membership) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}
