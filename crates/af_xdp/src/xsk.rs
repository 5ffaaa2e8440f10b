//! One AF_XDP socket of the kernel: how it is made, gets the UMEM and its rings, and is bound to a queue.

use crate::chunk::CHUNK_SIZE;
use crate::config::{Config, CopyMode};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::ring::Layout;
use crate::umem::Umem;
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpRingOffset, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// `mmap` offsets of the rings, `include/uapi/linux/if_xdp.h`.
pub(crate) const PGOFF_RX: u64 = 0;
pub(crate) const PGOFF_TX: u64 = 0x8000_0000;
pub(crate) const PGOFF_FILL: u64 = 0x1_0000_0000;
pub(crate) const PGOFF_COMPLETION: u64 = 0x1_8000_0000;

/// Pause between two attempts at what the kernel permits in its own time.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

fn layout(offset: &XdpRingOffset) -> Layout {
    Layout {
        producer: offset.producer,
        consumer: offset.consumer,
        // Absent before Linux 5.4 only, which lacks other things that are needed here.
        flags: offset.flags.unwrap_or(offset.consumer + 4),
        descriptors: offset.desc,
    }
}

pub(crate) fn map<T>(
    fd: &OwnedFd,
    offset: &XdpRingOffset,
    size: u32,
    page_offset: u64,
) -> io::Result<(Mapping, Layout)> {
    let layout = layout(offset);
    Ok((Mapping::shared(fd.as_fd(), layout.bytes::<T>(size), page_offset)?, layout))
}

pub(crate) fn new_socket(queue: u32) -> Result<OwnedFd, Error> {
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::step("socket(AF_XDP)", queue, errno))
}

pub(crate) fn register(fd: &OwnedFd, umem: &Umem) -> Result<(), Error> {
    let region = XdpUmemReg {
        addr: umem.address().as_ptr() as u64,
        len: umem.byte_len(),
        chunk_size: CHUNK_SIZE as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(fd, region).map_err(|errno| match errno {
        Errno::NOBUFS | Errno::NOMEM => Error::Memlock { bytes: umem.byte_len(), source: errno.into() },
        _ => Error::step("XDP_UMEM_REG", 0, errno),
    })
}

/// Binds the socket whose UMEM all others share. True if frames may be larger than a chunk.
pub(crate) fn bind_first(
    fd: &OwnedFd,
    config: &Config,
    queue: u32,
    deadline: Instant,
) -> Result<bool, Error> {
    let mode = match config.copy_mode {
        CopyMode::Auto => SocketAddrXdpFlags::empty(),
        CopyMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
        CopyMode::Copy => SocketAddrXdpFlags::XDP_COPY,
    };
    let mode = mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    let bind = |flags| {
        let address = SocketAddrXdp::new(flags, config.ifindex, queue);
        retry_busy(deadline, || rustix::net::bind(fd, &address))
    };
    if config.scatter {
        match bind(mode | SocketAddrXdpFlags::XDP_USE_SG) {
            Ok(()) => return Ok(true),
            // Before Linux 6.6 the flag is unknown. Any other cause of EINVAL shows again below.
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(Error::bind(config, queue, errno)),
        }
    }
    bind(mode).map_err(|errno| Error::bind(config, queue, errno))?;
    Ok(false)
}

/// Binds a socket that shares the UMEM of `owner`. It inherits the modes, and the kernel refuses flags that name them again.
pub(crate) fn bind_shared(
    fd: &OwnedFd,
    owner: BorrowedFd<'_>,
    ifindex: u32,
    queue: u32,
    deadline: Instant,
) -> Result<(), Error> {
    let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue);
    let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: owner };
    retry_busy(deadline, || rustix::net::bind(fd, &address)).map_err(|e| Error::step("bind", queue, e))
}

fn retry_busy(deadline: Instant, mut bind: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match bind() {
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Whether no AF_XDP socket is on this queue of NIC number `ifindex`: the NIC or the queue does not exist, or a socket of
/// our own can be bound to it, which is closed at once. A kernel that gives no answer counts as a no.
pub(crate) fn queue_is_free(ifindex: u32, queue: u32) -> bool {
    let bound = || -> Option<Result<(), Errno>> {
        let (umem, _) = Umem::new(1).ok()?;
        let fd = new_socket(queue).ok()?;
        register(&fd, &umem).ok()?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, 2).ok()?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, 2).ok()?;
        sockopt::set_xdp_rx_ring_size(&fd, 2).ok()?;
        // In copy mode the driver is not involved.
        Some(rustix::net::bind(&fd, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, ifindex, queue)))
    };
    matches!(bound(), Some(Ok(()) | Err(Errno::NODEV | Errno::INVAL)))
}
