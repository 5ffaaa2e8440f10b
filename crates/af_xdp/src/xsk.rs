//! One AF_XDP socket of the kernel: made, given the UMEM and its rings, bound to a queue.

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

/// Between two tries of what the kernel does in its own time.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

fn layout(offset: &XdpRingOffset) -> Layout {
    Layout {
        producer: offset.producer,
        consumer: offset.consumer,
        // Absent before kernel 5.4 only, where nothing of this works anyway: the word after the consumer index.
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

/// Binds the socket whose UMEM all others use. True if frames may be larger than a chunk.
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
            // An unknown flag, before kernel 6.6. What else may be invalid shows again below.
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(Error::bind(config, queue, errno)),
        }
    }
    bind(mode).map_err(|errno| Error::bind(config, queue, errno))?;
    Ok(false)
}

/// Binds a socket that uses the UMEM of `owner`; modes are inherited and must not be named again.
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

/// Whether nobody's sockets are on this queue of NIC number `ifindex`, for the NIC or the queue is not there, or for a
/// socket of our own can be bound to it, which is closed at once. A kernel that will not say so counts as a no.
pub(crate) fn queue_is_free(ifindex: u32, queue: u32) -> bool {
    let bound = || -> Option<Result<(), Errno>> {
        let (umem, _) = Umem::new(1).ok()?;
        let fd = new_socket(queue).ok()?;
        register(&fd, &umem).ok()?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, 2).ok()?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, 2).ok()?;
        sockopt::set_xdp_rx_ring_size(&fd, 2).ok()?;
        // Copy mode asks nothing of the driver.
        Some(rustix::net::bind(&fd, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, ifindex, queue)))
    };
    matches!(bound(), Some(Ok(()) | Err(Errno::NODEV | Errno::INVAL)))
}
