//! A UMEM as the sockets of one NIC use it, and how its chunks come back when those sockets are gone.
//!
//! A NIC may be removed while its rings hold chunks of ours. No ring returns those any more; they are ours again when
//! no ring is left in user space and the kernel can no longer touch them.

use crate::chunk::Chunk;
use crate::umem::Umem;
use crate::xsk::queue_is_free;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The UMEM as registered with one NIC. Every ring on that NIC holds a reference to it.
#[derive(Debug)]
pub struct Registration {
    umem: Arc<Umem>,
    /// Recorded for each chunk that is lent here; not 0.
    number: u32,
    ifindex: u32,
    queues: Mutex<Vec<Held>>,
}

/// A queue that the kernel may still use.
#[derive(Debug)]
struct Held {
    queue: u32,
    /// Its first socket, kept open beyond the rings: see [`Registration::reclaim`].
    socket: Option<Arc<OwnedFd>>,
}

impl Registration {
    pub(crate) fn new(umem: &Arc<Umem>, ifindex: u32) -> Self {
        Self { umem: umem.clone(), number: umem.new_number(), ifindex, queues: Mutex::new(Vec::new()) }
    }

    /// `socket` has been bound to `queue`: from here on the kernel may use the chunks lent to it.
    pub(crate) fn bound(&self, queue: u32, socket: &Arc<OwnedFd>) {
        let held = Held { queue, socket: Some(socket.clone()) };
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }

    pub(crate) fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(crate) fn lend(&self, chunk: Chunk) -> u64 {
        self.umem.lend(chunk, self.number)
    }

    pub(crate) fn take_back(&self, address: u64) -> Option<Chunk> {
        self.umem.take_back(address, self.number)
    }

    /// Takes back every chunk that was lent to the sockets of this NIC and adds it to `free`; returns how many. Call it
    /// in the network namespace of the NIC after all of its sockets and rings have been dropped.
    ///
    /// # Errors
    /// Itself, to be tried again a few milliseconds later: a ring still exists, or the kernel still uses a queue. The
    /// kernel releases the queue of a closed socket in its own time, after the last fragment has been sent.
    ///
    /// # Why the kernel cannot touch them then
    /// No user of a ring is left, because each holds a reference to this. The kernel refuses a second owner of a queue
    /// (`EBUSY`, `xp_assign_dev` in net/xdp/xsk_buff_pool.c). So a new socket that can bind, or that finds neither NIC nor
    /// queue, shows that the former owner's pool has been removed from the queue and from the driver's rings. For a closed
    /// socket this happens when the last fragment being sent has released the pool (`xp_release_deferred`).
    ///
    /// Our own sockets are still open when the kernel is asked whether the NIC exists: `bind` and the removal of a NIC
    /// exclude each other (`rtnl_lock`), and the removal ends with detaching our sockets (`xsk_notifier`).
    pub fn reclaim(self: Arc<Self>, free: &mut Vec<Chunk>) -> Result<usize, Arc<Self>> {
        let mut this = Arc::try_unwrap(self)?;
        let ifindex = this.ifindex;
        let queues = this.queues.get_mut().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|held| !queue_is_free(ifindex, held.queue));
        if !queues.is_empty() {
            queues.iter_mut().for_each(|held| held.socket = None);
            queues.retain(|held| !queue_is_free(ifindex, held.queue));
        }
        if !queues.is_empty() {
            return Err(Arc::new(this));
        }
        Ok(this.umem.reclaim(this.number, free))
    }
}
