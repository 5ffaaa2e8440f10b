//! AF_XDP sockets and their rings on the queues of one NIC.

pub mod simulated;

use crate::chunk::{CHUNK_SIZE, Chunk, Fragment, MORE};
use crate::mapping::Mapping;
use crate::registration::Registration;
use crate::ring::{Consumer, Layout, Producer};
use crate::umem::Umem;
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpDesc, XdpDescOptions, XdpMmapOffsets,
    XdpOptionsFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `mmap` offsets of the rings, `include/uapi/linux/if_xdp.h`.
const PGOFF_RX: u64 = 0;
const PGOFF_TX: u64 = 0x8000_0000;
const PGOFF_FILL: u64 = 0x1_0000_0000;
const PGOFF_COMPLETION: u64 = 0x1_8000_0000;

/// Fragments that one Ethernet frame can have at most: `MAX_SKB_FRAGS` + 1 of a kernel as distributions build it.
const MOST_PACKETS: usize = 18;

/// How long the kernel may take to let go of a queue on which a later step failed: 62 ms were seen.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries of what the kernel does in its own time.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether the NIC reads and writes the UMEM itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    /// Zero-copy where the driver can, else copy.
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

/// What to open on a NIC.
#[derive(Clone, Debug)]
pub struct Config {
    /// The NIC's index.
    pub ifindex: u32,
    /// Number of queues, each of which gets a fill and a completion ring.
    pub queues: u32,
    /// Sockets on each queue, all of which share its fill and completion ring.
    pub sockets_per_queue: u32,
    /// Places in each fill ring, a power of two. As many frames are taken at once to fill it.
    pub fill_size: u32,
    /// Places in each completion ring, a power of two.
    pub completion_size: u32,
    /// Places in each socket's RX ring, a power of two.
    pub rx_size: u32,
    /// Places in each TX ring, a power of two.
    pub tx_size: u32,
    /// Fragments may be sent on so many of the queues, the first ones. Socket `n` of each queue sends on one of them, number
    /// `n % tx_queues`.
    pub tx_queues: u32,
    /// Whether the NIC reads and writes the UMEM itself.
    pub copy_mode: CopyMode,
    /// How long a queue may be busy before another program counts as its owner. One whose owner was just killed was
    /// seen to be so for 62 ms.
    pub patience: Duration,
    /// Frames larger than a chunk are wanted, as several fragments (`XDP_USE_SG`, kernel 6.6). A kernel that does not know
    /// of them is no error. With [`CopyMode::Auto`] the kernel takes copy mode where a driver has zero-copy for
    /// frames of one chunk only.
    pub scatter: bool,
}

/// Why sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A right is missing.
    #[error(
        "AF_XDP needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN, and kernel lockdown must allow it: {0}"
    )]
    Permission(io::Error),
    /// The UMEM cannot be pinned.
    #[error(
        "the kernel refuses to pin {bytes} bytes for AF_XDP: {source}. Raise the limit (ulimit -l unlimited) or grant CAP_IPC_LOCK"
    )]
    Memlock {
        /// Size of the UMEM in bytes.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A queue has AF_XDP sockets of someone else.
    #[error("queue {queue} already has an AF_XDP socket of another program; `ss --xdp --processes` names it")]
    Busy {
        /// The queue.
        queue: u32,
    },
    /// The driver cannot do zero-copy.
    #[error("queue {queue} cannot do zero-copy: {source}")]
    ZeroCopy {
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are too few frames to fill the fill rings.
    #[error("the UMEM has too few chunks: {needed} more are needed")]
    Frames {
        /// How many are missing.
        needed: usize,
    },
    /// Any other failure, with the step that failed.
    #[error("{step} on queue {queue}: {source}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// All sockets on a NIC.
#[derive(Debug)]
pub struct Sockets {
    /// By queue number.
    pub queues: Vec<Queue>,
    /// True if the NIC reads and writes the UMEM itself.
    pub zero_copy: bool,
    /// To get the frames back when the sockets are gone.
    pub registration: Arc<Registration>,
    /// True if frames may be larger than a chunk.
    pub scatter: bool,
}

/// What sockets on one queue share, and the sockets.
#[derive(Debug)]
pub struct Queue {
    /// Frames for the kernel to receive into.
    pub fill: Fill,
    /// Frames that have been sent.
    pub completion: Completion,
    /// The sockets.
    pub sockets: Vec<Socket>,
}

/// What one of those who share a queue has of it.
///
/// The two rings have a kernel socket each. Whenever the kernel frees a fragment that was sent from a copy, it wakes who
/// waits at the socket of the TX ring (`sock_wfree` in net/core/sock.c); who waits for fragments to arrive is not meant.
#[derive(Debug)]
pub struct Socket {
    /// What arrived.
    pub rx: Rx,
    /// What is to be sent, if that leaves by this queue: see [`Config::tx_queues`].
    pub tx: Option<Tx>,
}

impl Sockets {
    /// Opens and binds `config.queues` x `config.sockets_per_queue` sockets, and fills the fill rings with frames
    /// from `free`. Call it in the network namespace of the NIC.
    ///
    /// # Errors
    /// See [`Error`]. All frames are then in `free` again, unless the kernel keeps a queue for more than a second.
    pub fn open(umem: &Arc<Umem>, free: &mut Vec<Chunk>, config: &Config) -> Result<Self, Error> {
        let registration = Arc::new(Registration::new(umem, config.ifindex));
        Self::bind(&registration, free, config).inspect_err(|_| {
            let deadline = Instant::now() + RELEASED_WITHIN;
            let mut left = Some(registration);
            while let Some(registration) = left.take() {
                left = registration.reclaim(free).err().filter(|_| Instant::now() < deadline);
                if left.is_some() {
                    std::thread::sleep(PAUSE);
                }
            }
        })
    }

    fn bind(registration: &Arc<Registration>, free: &mut Vec<Chunk>, config: &Config) -> Result<Self, Error> {
        let deadline = Instant::now() + config.patience;
        let mut queues: Vec<Queue> = Vec::with_capacity(config.queues as usize);
        let mut scatter = false;
        for number in 0..config.queues {
            let first = queues.first().map(|queue| queue.fill.fd.clone());
            queues.push(Queue::open(registration, free, config, number, first, deadline, &mut scatter)?);
        }
        let zero_copy = match queues.first() {
            None => false,
            Some(queue) => sockopt::xdp_options(&queue.fill.fd)
                .map_err(|errno| Error::step("XDP_OPTIONS", 0, errno))?
                .contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY),
        };
        for tx in
            queues.iter_mut().flat_map(|queue| &mut queue.sockets).filter_map(|socket| socket.tx.as_mut())
        {
            tx.zero_copy = zero_copy;
        }
        Ok(Self { queues, zero_copy, scatter, registration: registration.clone() })
    }
}

impl Error {
    fn bind(config: &Config, queue: u32, errno: Errno) -> Self {
        match errno {
            Errno::OPNOTSUPP | Errno::INVAL if config.copy_mode == CopyMode::ZeroCopy => {
                Self::ZeroCopy { queue, source: errno.into() }
            }
            _ => Self::step("bind", queue, errno),
        }
    }

    fn mapping(queue: u32, source: io::Error) -> Self {
        Self::Step { step: "mapping a ring", queue, source }
    }

    fn step(step: &'static str, queue: u32, errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Permission(errno.into()),
            Errno::BUSY => Self::Busy { queue },
            _ => Self::Step { step, queue, source: errno.into() },
        }
    }
}

fn layout(offset: &XdpRingOffset) -> Layout {
    Layout {
        producer: offset.producer,
        consumer: offset.consumer,
        // Absent before kernel 5.4 only, where nothing of this works anyway: the word after the consumer index.
        flags: offset.flags.unwrap_or(offset.consumer + 4),
        descriptors: offset.desc,
    }
}

fn map<T>(
    fd: &OwnedFd,
    offset: &XdpRingOffset,
    size: u32,
    page_offset: u64,
) -> io::Result<(Mapping, Layout)> {
    let layout = layout(offset);
    Ok((Mapping::shared(fd.as_fd(), layout.bytes::<T>(size), page_offset)?, layout))
}

impl Queue {
    fn open(
        umem: &Arc<Registration>,
        free: &mut Vec<Chunk>,
        config: &Config,
        number: u32,
        registered: Option<Arc<OwnedFd>>,
        deadline: Instant,
        scatter: &mut bool,
    ) -> Result<Self, Error> {
        let step = |step| move |errno| Error::step(step, number, errno);
        let map_step = |source| Error::mapping(number, source);
        let fd = Arc::new(new_socket(number)?);
        if registered.is_none() {
            register(&fd, umem.umem())?;
        }
        sockopt::set_xdp_umem_fill_ring_size(&fd, config.fill_size).map_err(step("XDP_UMEM_FILL_RING"))?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, config.completion_size)
            .map_err(step("XDP_UMEM_COMPLETION_RING"))?;
        let offsets = sockopt::xdp_mmap_offsets(&fd).map_err(step("XDP_MMAP_OFFSETS"))?;
        let (memory, at) = map::<u64>(&fd, &offsets.fr, config.fill_size, PGOFF_FILL).map_err(map_step)?;
        let mut fill =
            Fill { ring: Producer::new(memory, at, config.fill_size), umem: umem.clone(), fd: fd.clone() };
        let (memory, at) =
            map::<u64>(&fd, &offsets.cr, config.completion_size, PGOFF_COMPLETION).map_err(map_step)?;
        let completion = Completion {
            ring: Consumer::new(memory, at, config.completion_size),
            umem: umem.clone(),
            faults: 0,
        };
        // Before bind: a driver in zero-copy mode takes frames at once.
        let wanted = config.fill_size as usize;
        if fill.push(free, wanted) < wanted {
            return Err(Error::Frames { needed: wanted - fill.ring.pending() as usize });
        }
        let rx = Rx::new(umem, fd.clone(), config, &offsets, number)?;
        match &registered {
            None => *scatter = bind_first(&fd, config, number, deadline)?,
            Some(owner) => bind_shared(&fd, owner.as_fd(), config.ifindex, number, deadline)?,
        }
        umem.bound(number, &fd);
        let bind = |other: &OwnedFd| bind_shared(other, fd.as_fd(), config.ifindex, number, deadline);
        let mut received = vec![rx];
        for _ in 1..config.sockets_per_queue {
            let other = Arc::new(new_socket(number)?);
            let rx = Rx::new(umem, other.clone(), config, &offsets, number)?;
            bind(&other)?;
            received.push(rx);
        }
        let tx_queues = config.tx_queues.clamp(1, config.queues);
        let mut sockets = Vec::with_capacity(received.len());
        for (n, rx) in (0..).zip(received) {
            let tx = if n % tx_queues == number {
                let other = new_socket(number)?;
                let tx = Tx::new(umem, other, config, &offsets, number)?;
                bind(&tx.fd)?;
                Some(tx)
            } else {
                None
            };
            sockets.push(Socket { rx, tx });
        }
        Ok(Self { fill, completion, sockets })
    }
}

fn new_socket(queue: u32) -> Result<OwnedFd, Error> {
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::step("socket(AF_XDP)", queue, errno))
}

fn register(fd: &OwnedFd, umem: &Umem) -> Result<(), Error> {
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
fn bind_first(fd: &OwnedFd, config: &Config, queue: u32, deadline: Instant) -> Result<bool, Error> {
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
fn bind_shared(
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

/// The ring of frames for the kernel to receive into.
#[derive(Debug)]
pub struct Fill {
    ring: Producer<u64>,
    umem: Arc<Registration>,
    fd: Arc<OwnedFd>,
}

impl Fill {
    /// Moves up to `max` frames from the end of `free` into the ring; returns how many found room.
    pub fn push(&mut self, free: &mut Vec<Chunk>, max: usize) -> usize {
        let max = max.min(free.len());
        let room = self.ring.free(max as u32) as usize;
        let count = max.min(room);
        for chunk in free.drain(free.len() - count..) {
            if self.ring.push(self.umem.lend(chunk)).is_err() {
                unreachable!("the ring has {room} free places, and only this side fills it");
            }
        }
        self.ring.publish();
        count
    }

    /// Wakes the driver if it sleeps for want of frames. One system call, and only then.
    pub fn wake(&self) {
        if self.ring.needs_wakeup() {
            // A receive of nothing lets the driver run; that there is nothing (EAGAIN) is its normal answer.
            let _ = rustix::net::recv(&self.fd, &mut [0u8; 0], rustix::net::RecvFlags::DONTWAIT);
        }
    }
}

/// The ring of frames that have been sent.
#[derive(Debug)]
pub struct Completion {
    ring: Consumer<u64>,
    umem: Arc<Registration>,
    faults: u64,
}

impl Completion {
    /// Moves all frames that have been sent, of any socket on this queue, to `free`; returns how many.
    pub fn reap(&mut self, free: &mut Vec<Chunk>) -> usize {
        let before = free.len();
        // No more than wait now: an index that is invalid would keep us here for ever.
        for _ in 0..self.ring.available() {
            let Some(address) = self.ring.pop() else { break };
            match self.umem.take_back(address) {
                Some(chunk) => free.push(chunk),
                None => self.faults += 1,
            }
        }
        self.ring.release();
        free.len() - before
    }

    /// Addresses that the kernel gave back without having been lent them. Always 0 with a sane kernel.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }
}

/// A socket's ring of received fragments.
#[derive(Debug)]
pub struct Rx {
    ring: Consumer<XdpDesc>,
    umem: Arc<Registration>,
    fd: Arc<OwnedFd>,
    faults: u64,
}

/// Why the kernel could not deliver, since the socket was made; frames.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RxStatistics {
    /// Dropped: too long for a chunk, or no memory.
    pub dropped: u64,
    /// Dropped: the RX ring was full.
    pub ring_full: u64,
    /// Dropped: the fill ring was empty.
    pub fill_ring_empty: u64,
}

impl Rx {
    fn new(
        umem: &Arc<Registration>,
        fd: Arc<OwnedFd>,
        config: &Config,
        offsets: &XdpMmapOffsets,
        queue: u32,
    ) -> Result<Self, Error> {
        sockopt::set_xdp_rx_ring_size(&fd, config.rx_size)
            .map_err(|errno| Error::step("XDP_RX_RING", queue, errno))?;
        let (memory, at) = map::<XdpDesc>(&fd, &offsets.rx, config.rx_size, PGOFF_RX)
            .map_err(|source| Error::mapping(queue, source))?;
        Ok(Self { ring: Consumer::new(memory, at, config.rx_size), umem: umem.clone(), fd, faults: 0 })
    }

    /// Moves up to `max` fragments to `fragments`, and a few more where the last frame has more of them: frames are always
    /// whole. Returns how many fragments those are.
    ///
    /// What is invalid, such as a frame without an end, becomes fragments without bytes.
    pub fn receive(&mut self, fragments: &mut Vec<Fragment>, max: usize) -> usize {
        let count = (self.ring.available() as usize).min(max);
        let before = fragments.len();
        for _ in 0..count {
            let Some(descriptor) = self.ring.pop() else { break };
            self.take(descriptor, fragments, before);
        }
        if fragments[before..].last().is_some_and(Fragment::continues) {
            self.finish(fragments, before);
        }
        self.ring.release();
        fragments.len() - before
    }

    fn take(&mut self, descriptor: XdpDesc, fragments: &mut Vec<Fragment>, before: usize) {
        let Some(chunk) = self.umem.take_back(descriptor.addr) else {
            return self.spoil(&mut fragments[before..]);
        };
        let offset = descriptor.addr as usize % CHUNK_SIZE;
        let len = descriptor.len as usize;
        if len > CHUNK_SIZE - offset {
            self.spoil(&mut fragments[before..]);
            return fragments.push(Fragment::new(chunk, offset, 0));
        }
        let mut fragment = Fragment::new(chunk, offset, len);
        fragment.len |= more(descriptor.options);
        fragments.push(fragment);
    }

    /// Takes the rest of the last frame, of which the kernel publishes all fragments at once.
    #[cold]
    fn finish(&mut self, fragments: &mut Vec<Fragment>, before: usize) {
        for _ in 0..MOST_PACKETS {
            let Some(descriptor) = self.ring.pop() else { break };
            self.take(descriptor, fragments, before);
            if !fragments[before..].last().is_some_and(Fragment::continues) {
                return;
            }
        }
        self.spoil(&mut fragments[before..]);
    }

    /// Counts a fault, and empties the fragments of the frame that has not come to its end in `fragments`.
    #[cold]
    fn spoil(&mut self, fragments: &mut [Fragment]) {
        self.faults += 1;
        for fragment in fragments.iter_mut().rev().take_while(|fragment| fragment.continues()) {
            fragment.len = 0;
        }
    }

    /// True if nothing waits.
    pub fn is_empty(&mut self) -> bool {
        self.ring.available() == 0
    }

    /// Descriptors that was invalid. Always 0 with a sane kernel.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// The kernel's counts for this socket.
    ///
    /// # Errors
    /// What `getsockopt` says.
    pub fn statistics(&self) -> io::Result<RxStatistics> {
        let statistics = sockopt::xdp_statistics(&self.fd)?;
        Ok(RxStatistics {
            dropped: statistics.rx_dropped,
            ring_full: statistics.rx_ring_full.unwrap_or(0),
            fill_ring_empty: statistics.rx_fill_ring_empty_descs.unwrap_or(0),
        })
    }
}

/// [`MORE`] if the frame goes on in the next descriptor.
fn more(options: XdpDescOptions) -> u16 {
    const { assert!(XdpDescOptions::XDP_PKT_CONTD.bits() == 1) };
    (options.bits() as u16 & 1) * MORE
}

/// The socket: for an XSKMAP, and to wait for fragments (readable).
impl AsFd for Rx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A fragment that found the TX ring full.
#[derive(Debug)]
pub struct RingFull(pub Fragment);

/// What became of a kick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// The kernel has taken everything, or does so without being told.
    Taken,
    /// Something is left in the ring: reap completions and kick again.
    Again,
    /// The driver threw a fragment away; others may be left. Kick again.
    Dropped,
    /// The NIC is down or gone; fragments stay in the ring.
    Down,
}

/// A socket's ring of fragments to send.
#[derive(Debug)]
pub struct Tx {
    ring: Producer<XdpDesc>,
    umem: Arc<Registration>,
    fd: OwnedFd,
    /// The driver takes fragments by itself once it is told that there are some.
    zero_copy: bool,
}

impl Tx {
    fn new(
        umem: &Arc<Registration>,
        fd: OwnedFd,
        config: &Config,
        offsets: &XdpMmapOffsets,
        queue: u32,
    ) -> Result<Self, Error> {
        sockopt::set_xdp_tx_ring_size(&fd, config.tx_size)
            .map_err(|errno| Error::step("XDP_TX_RING", queue, errno))?;
        let (memory, at) = map::<XdpDesc>(&fd, &offsets.tx, config.tx_size, PGOFF_TX)
            .map_err(|source| Error::mapping(queue, source))?;
        let ring = Producer::new(memory, at, config.tx_size);
        Ok(Self { ring, umem: umem.clone(), fd, zero_copy: false })
    }

    /// Puts `fragment`, a whole frame, into the ring; it is sent after [`Tx::publish`] and [`Tx::kick`].
    ///
    /// # Errors
    /// The fragment, if the ring is full.
    pub fn push(&mut self, fragment: Fragment) -> Result<(), RingFull> {
        if self.ring.free(1) == 0 {
            return Err(RingFull(fragment));
        }
        self.put(fragment, XdpDescOptions::empty());
        Ok(())
    }

    /// Puts one frame that consists of `fragments` into the ring, on sockets with [`Sockets::scatter`]. Returns false,
    /// and leaves them all in `fragments`, if there is no room for the whole of it.
    pub fn push_frame(&mut self, fragments: &mut Vec<Fragment>) -> bool {
        let count = fragments.len();
        if (self.ring.free(count as u32) as usize) < count {
            return false;
        }
        for (n, fragment) in fragments.drain(..).enumerate() {
            let goes_on = n + 1 < count;
            self.put(fragment, if goes_on { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() });
        }
        true
    }

    fn put(&mut self, fragment: Fragment, options: XdpDescOptions) {
        // One without bytes may begin where its chunk ends: that is the next chunk's address, which would come back for it.
        let (offset, len) = (fragment.offset().min(CHUNK_SIZE - 1) as u64, fragment.len() as u32);
        let addr = self.umem.lend(fragment.into_chunk()) + offset;
        if self.ring.push(XdpDesc { addr, len, options }).is_err() {
            unreachable!("the ring has a free place, and only this side fills it");
        }
    }

    /// Makes everything pushed visible to the kernel.
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Number of places.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ring.size() as usize
    }

    /// Free places, each for a fragment, exact where they are fewer than `wanted`.
    pub fn room(&mut self, wanted: usize) -> usize {
        self.ring.free(wanted as u32) as usize
    }

    /// Frames that the kernel has not taken yet, or, in copy mode before Linux 6.17, has not told that it has: it tells when
    /// it has taken all.
    pub fn pending(&mut self) -> usize {
        self.ring.iter_pending().filter(|descriptor| more(descriptor.options) == 0).count()
    }

    /// Tells the kernel to send, if it wants to be told. In copy mode it takes at most 32 fragments a call.
    ///
    /// # Errors
    /// What `sendto` says, beyond what [`Kick`] covers.
    pub fn kick(&mut self) -> io::Result<Kick> {
        if self.ring.pending() == 0 || !self.ring.needs_wakeup() {
            return Ok(Kick::Taken);
        }
        match rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT) {
            Ok(_) if self.zero_copy => Ok(Kick::Taken),
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => {
                Ok(if self.ring.pending() == 0 { Kick::Taken } else { Kick::Again })
            }
            Err(Errno::BUSY) => Ok(Kick::Dropped),
            Err(Errno::NETDOWN | Errno::NXIO) => Ok(Kick::Down),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The four rings with this test as the kernel: what goes round comes round.

    use super::*;
    use crate::ring::tests::pair;
    use proptest::prelude::*;

    struct Kernel {
        fill: Consumer<u64>,
        completion: Producer<u64>,
        rx: Producer<XdpDesc>,
        tx: Consumer<XdpDesc>,
        held: Vec<u64>,
        sent: Vec<u64>,
    }

    struct User {
        fill: Fill,
        completion: Completion,
        rx: Rx,
        tx: Tx,
        free: Vec<Chunk>,
        held: Vec<Fragment>,
    }

    fn both_sides(chunks: u32, ring: u32) -> (Arc<Umem>, User, Kernel) {
        let (umem, free) = Umem::new(chunks).unwrap();
        let umem = Arc::new(umem);
        let fd = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let start = u32::MAX - 5;
        let (fill, kernel_fill) = pair(ring, start);
        let (kernel_completion, completion) = pair(ring, start);
        let (kernel_rx, rx) = pair(ring, start);
        let (tx, kernel_tx) = pair(ring, start);
        let nic = Arc::new(Registration::new(&umem, 0));
        let user = User {
            fill: Fill { ring: fill, umem: nic.clone(), fd: fd.clone() },
            completion: Completion { ring: completion, umem: nic.clone(), faults: 0 },
            tx: Tx { ring: tx, umem: nic.clone(), fd: fd.try_clone().unwrap(), zero_copy: false },
            rx: Rx { ring: rx, umem: nic, fd, faults: 0 },
            free,
            held: Vec::new(),
        };
        let kernel = Kernel {
            fill: kernel_fill,
            completion: kernel_completion,
            rx: kernel_rx,
            tx: kernel_tx,
            held: Vec::new(),
            sent: Vec::new(),
        };
        (umem, user, kernel)
    }

    proptest! {
        /// Chunk conservation: after any sequence of steps on either side, every chunk is in exactly one place.
        #[test]
        fn no_frame_is_lost_or_doubled(steps in prop::collection::vec((0u8..8, 0usize..6), 0..300)) {
            const CHUNKS: usize = 12;
            let (umem, mut user, mut kernel) = both_sides(CHUNKS as u32, 8);
            for (step, n) in steps {
                match step {
                    0 => { user.fill.push(&mut user.free, n); }
                    1 => { user.completion.reap(&mut user.free); }
                    2 => { user.rx.receive(&mut user.held, n); }
                    3 => if let Some(fragment) = user.held.pop() {
                        match user.tx.push(fragment) {
                            Ok(()) => user.tx.publish(),
                            Err(RingFull(fragment)) => user.held.push(fragment),
                        }
                    },
                    4 => { while let Some(address) = kernel.fill.pop() { kernel.held.push(address); }
                           kernel.fill.release(); }
                    5 => if let Some(address) = kernel.held.pop() {
                        let descriptor = XdpDesc { addr: address + 256, len: 60, options: XdpDescOptions::empty() };
                        if kernel.rx.push(descriptor).is_err() { kernel.held.push(address); }
                        kernel.rx.publish();
                    },
                    6 => { while let Some(descriptor) = kernel.tx.pop() { kernel.sent.push(descriptor.addr); }
                           kernel.tx.release(); }
                    _ => if let Some(address) = kernel.sent.pop() {
                        if kernel.completion.push(address).is_err() { kernel.sent.push(address); }
                        kernel.completion.publish();
                    },
                }
                prop_assert_eq!(user.free.len() + user.held.len() + umem.lent(), CHUNKS);
                let mut chunks: Vec<u32> = user.free.iter().map(|chunk| chunk.index)
                    .chain(user.held.iter().map(|fragment| fragment.chunk.index)).collect();
                chunks.sort_unstable();
                chunks.dedup();
                prop_assert_eq!(chunks.len(), user.free.len() + user.held.len());
            }
            prop_assert_eq!(user.rx.faults() + user.completion.faults(), 0);
        }

        /// Whatever the kernel's side writes, no token is doubled and no fragment leaves its chunk.
        #[test]
        fn a_hostile_kernel_makes_no_frames(
            descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), any::<bool>(), any::<bool>()), 0..40),
            max in 0usize..9,
        ) {
            let (umem, mut user, mut kernel) = both_sides(4, 8);
            user.fill.push(&mut user.free, 2);
            for (addr, len, goes_on, publish) in descriptors {
                let _ = kernel.rx.push(descriptor(addr % (6 * CHUNK_SIZE as u64), len % 9000, goes_on));
                if publish {
                    kernel.rx.publish();
                    user.rx.receive(&mut user.held, max);
                }
            }
            prop_assert!(!user.held.last().is_some_and(Fragment::continues), "the last frame has an end");
            for fragment in &user.held {
                let _ = umem.data(fragment).iter().fold(0u8, |sum, byte| sum ^ byte);
            }
            prop_assert_eq!(user.free.len() + user.held.len() + umem.lent(), 4);
        }
    }

    fn descriptor(addr: u64, len: u32, goes_on: bool) -> XdpDesc {
        let options = if goes_on { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
        XdpDesc { addr, len, options }
    }

    /// The kernel receives a frame of these lengths, each in a chunk of its own.
    fn receive(kernel: &mut Kernel, lengths: &[u32]) {
        for (n, len) in lengths.iter().enumerate() {
            let addr = kernel.fill.pop().expect("a chunk to receive into") + 256;
            kernel.rx.push(descriptor(addr, *len, n + 1 < lengths.len())).unwrap();
        }
        kernel.fill.release();
        kernel.rx.publish();
    }

    fn seen(fragments: &[Fragment]) -> Vec<(usize, bool)> {
        fragments.iter().map(|fragment| (fragment.len(), fragment.continues())).collect()
    }

    #[test]
    fn a_frame_of_several_packets_is_received_whole_also_around_the_end_of_the_ring() {
        let (umem, mut user, mut kernel) = both_sides(16, 8);
        // Every place of the ring begins a frame once; its indices begin at u32::MAX - 5.
        for round in 0..16 {
            user.fill.push(&mut user.free, 5);
            receive(&mut kernel, &[60]);
            receive(&mut kernel, &[3840, 3840, 1336]);
            receive(&mut kernel, &[61]);
            let whole = [(60, false), (3840, true), (3840, true), (1336, false), (61, false)];
            // However few are wanted, a frame is not cut.
            let wanted: &[(usize, usize)] = match round % 3 {
                0 => &[(8, 5)],
                1 => &[(1, 1), (1, 3), (1, 1)],
                _ => &[(3, 4), (9, 1)],
            };
            let mut fragments = Vec::new();
            for (max, got) in wanted {
                assert_eq!(user.rx.receive(&mut fragments, *max), *got);
            }
            assert_eq!(seen(&fragments), whole);
            user.free.extend(fragments.into_iter().map(Fragment::into_chunk));
            assert_eq!((user.free.len(), umem.lent()), (16, 0));
        }
        assert_eq!(user.rx.faults(), 0);
    }

    #[test]
    fn a_frame_without_an_end_is_a_fault_and_what_follows_is_whole() {
        let (_umem, mut user, mut kernel) = both_sides(64, 32);
        user.fill.push(&mut user.free, 32);
        // The ring ends before the frame does.
        let mut fragments = Vec::new();
        receive(&mut kernel, &[100, 200, 300]);
        let addr = kernel.fill.pop().unwrap();
        kernel.rx.push(descriptor(addr, 400, true)).unwrap();
        kernel.rx.publish();
        assert_eq!(user.rx.receive(&mut fragments, 8), 4);
        assert_eq!(seen(&fragments), [(100, true), (200, true), (300, false), (0, false)]);
        assert_eq!(user.rx.faults(), 1);
        // A chunk that the kernel was not lent, and a length beyond its chunk, amidst a frame.
        fragments.clear();
        for (addr, len) in [(1 << 40, 100), (kernel.fill.pop().unwrap() + 256, 4000)] {
            let first = kernel.fill.pop().unwrap();
            kernel.rx.push(descriptor(first, 64, true)).unwrap();
            kernel.rx.push(descriptor(addr, len, true)).unwrap();
            kernel.rx.publish();
            receive(&mut kernel, &[65]);
        }
        user.rx.receive(&mut fragments, 8);
        assert_eq!(seen(&fragments), [(0, false), (65, false), (0, false), (0, false), (65, false)]);
        assert_eq!(user.rx.faults(), 3);
        // Longer than any frame.
        fragments.clear();
        for _ in 0..20 {
            let addr = kernel.fill.pop().unwrap();
            kernel.rx.push(descriptor(addr, 64, true)).unwrap();
        }
        kernel.rx.publish();
        assert_eq!(user.rx.receive(&mut fragments, 1), 1 + MOST_PACKETS);
        assert!(fragments.iter().all(|fragment| fragment.is_empty() && !fragment.continues()));
        assert_eq!(user.rx.faults(), 4);
    }

    #[test]
    fn a_frame_of_several_packets_is_sent_whole_or_not_at_all() {
        let (umem, mut user, mut kernel) = both_sides(16, 8);
        for _ in 0..16 {
            let mut frame = |lengths: &[usize]| -> Vec<Fragment> {
                lengths.iter().map(|len| Fragment::new(user.free.pop().unwrap(), 64, *len)).collect()
            };
            let (mut large, mut last) = (frame(&[4032, 4000, 900]), frame(&[4032, 1, 2, 3, 4]));
            assert!(user.tx.push_frame(&mut large) && large.is_empty());
            user.tx.push(Fragment::new(user.free.pop().unwrap(), 64, 60)).unwrap();
            assert!(!user.tx.push_frame(&mut last), "nine in a ring of eight");
            assert_eq!(last.len(), 5);
            user.free.push(last.pop().unwrap().into_chunk());
            assert!(user.tx.push_frame(&mut last));
            user.tx.publish();
            assert_eq!(user.tx.pending(), 3, "frames");
            let sent: Vec<XdpDesc> = std::iter::from_fn(|| kernel.tx.pop()).collect();
            kernel.tx.release();
            let goes_on: Vec<bool> = sent.iter().map(|sent| more(sent.options) != 0).collect();
            assert_eq!(goes_on, [true, true, false, false, true, true, true, false]);
            assert_eq!(user.tx.pending(), 0);
            sent.iter().for_each(|sent| kernel.completion.push(sent.addr).unwrap());
            kernel.completion.publish();
            user.completion.reap(&mut user.free);
            assert_eq!((user.free.len(), umem.lent()), (16, 0));
        }
    }

    /// An index behind ours reads as billions that wait.
    #[test]
    fn an_index_that_makes_no_sense_ends_no_later_than_the_ring() {
        let (_umem, mut user, kernel) = both_sides(12, 8);
        let here = u32::MAX - 5;
        kernel.completion.set(simulated::Word::Producer, here - 1);
        assert_eq!(user.completion.reap(&mut user.free), 0);
        assert!(user.completion.faults() <= 8, "{} faults", user.completion.faults());
    }

    #[test]
    fn a_packet_without_bytes_comes_back_as_its_own_chunk() {
        let (umem, mut user, mut kernel) = both_sides(2, 8);
        let chunk = user.free.pop().unwrap();
        let index = chunk.index;
        user.tx.push(Fragment::new(chunk, CHUNK_SIZE - 1, 1).skip(1)).unwrap();
        let other = user.free.pop().unwrap();
        user.tx.push(Fragment::new(other, 0, 60)).unwrap();
        user.tx.publish();
        let sent = kernel.tx.pop().unwrap();
        assert_eq!((sent.addr / CHUNK_SIZE as u64, sent.len), (u64::from(index), 0));
        kernel.completion.push(sent.addr).unwrap();
        kernel.completion.publish();
        assert_eq!(user.completion.reap(&mut user.free), 1);
        assert_eq!((user.free[0].index, umem.lent()), (index, 1));
    }

    #[test]
    fn a_full_tx_ring_hands_the_packet_back() {
        let (_umem, mut user, _kernel) = both_sides(12, 8);
        for _ in 0..8 {
            let chunk = user.free.pop().unwrap();
            user.tx.push(Fragment::new(chunk, 64, 60)).unwrap();
        }
        let chunk = user.free.pop().unwrap();
        let RingFull(fragment) = user.tx.push(Fragment::new(chunk, 64, 61)).unwrap_err();
        assert_eq!(fragment.len(), 61);
    }
}
