//! All sockets on the queues of one NIC.

use crate::chunk::Chunk;
use crate::completion::Completion;
use crate::config::Config;
use crate::error::Error;
use crate::fill::Fill;
use crate::registration::Registration;
use crate::ring::{Consumer, Producer};
use crate::rx::Rx;
use crate::tx::Tx;
use crate::umem::Umem;
use crate::xsk::{PAUSE, PGOFF_COMPLETION, PGOFF_FILL, bind_first, bind_shared, map, new_socket, register};
use rustix::net::sockopt;
use rustix::net::xdp::XdpOptionsFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the kernel may take to release a queue on which a later step failed. It took up to 62 ms in measurements.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);

/// All sockets on a NIC.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sockets {
    /// The queues, by number.
    pub queues: Vec<Queue>,
    /// True if the NIC reads and writes the UMEM itself.
    pub zero_copy: bool,
    /// Takes the chunks back when the sockets are gone.
    pub registration: Arc<Registration>,
    /// True if frames may be larger than a chunk.
    pub scatter: bool,
}

/// The rings that all sockets on one queue share, and the sockets.
#[derive(Debug)]
pub struct Queue {
    /// Chunks for the kernel to receive into.
    pub fill: Fill,
    /// Chunks whose fragments have been sent.
    pub completion: Completion,
    /// The sockets.
    pub sockets: Vec<Socket>,
}

/// An RX ring and a TX ring of one queue.
///
/// The two rings have a kernel socket each. Whenever the kernel frees a copy that it has sent, it wakes the threads that
/// wait at the socket of the TX ring (`sock_wfree` in net/core/sock.c). A thread that waits for frames to arrive is not
/// woken, because it waits at the other socket.
#[derive(Debug)]
pub struct Socket {
    /// Fragments that have arrived.
    pub rx: Rx,
    /// Fragments to send, if this socket sends on this queue: see [`Config::tx_queues`].
    pub tx: Option<Tx>,
}

impl Sockets {
    /// Opens and binds `config.queues` x `config.sockets_per_queue` sockets and fills the fill rings with chunks from
    /// `free`. Call it in the network namespace of the NIC.
    ///
    /// # Errors
    /// See [`Error`]. All chunks are then in `free` again, unless the kernel keeps a queue for more than a second.
    ///
    /// # Panics
    /// If a chunk in `free` is of another UMEM.
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
        let deadline = Instant::now() + config.busy_timeout;
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
        // Before bind, because a driver in zero-copy mode takes chunks at once.
        let wanted = config.fill_size as usize;
        if fill.push(free, wanted) < wanted {
            return Err(Error::Chunks { needed: wanted - fill.ring.pending() as usize });
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
