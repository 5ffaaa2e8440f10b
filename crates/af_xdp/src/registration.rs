//! A UMEM as the sockets of one NIC use it, and how its frames come back when those sockets are gone.
//!
//! A NIC may be removed with frames of ours in its rings. No ring hands those out any more; they are ours again when
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
    /// Stands beside each chunk that was lent here; not 0.
    number: u32,
    ifindex: u32,
    queues: Mutex<Vec<Held>>,
}

/// A queue that the kernel has not been seen to have let go of.
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

    /// `socket` has been bound to `queue`: from here on the kernel may use frames lent.
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

    /// Makes every frame that was lent to the sockets of this NIC a frame again, and adds it to `free`; returns how
    /// many. Call it in the network namespace of the NIC, when all of its sockets and rings have been dropped.
    ///
    /// # Errors
    /// Itself, to be tried again a few milliseconds later: a ring is still there, or the kernel still uses a queue. It
    /// lets go of a closed one when it gets round to it, and when the last fragment has been sent.
    ///
    /// # Why the kernel cannot touch them then
    /// No user of a ring is left, for each holds a reference to this. The kernel refuses a second owner for a queue
    /// (`EBUSY`, `xp_assign_dev` in net/xdp/xsk_buff_pool.c): a stranger who can bind, or finds neither NIC nor queue,
    /// shows that the former owner's pool has been taken off it, and with it off the driver's rings. On a closed
    /// socket this happens when the last fragment being sent has let go of the pool (`xp_release_deferred`).
    ///
    /// That there is no NIC of this number is asked while our own sockets are open: `bind` and the removal of a NIC
    /// exclude each other (`rtnl_lock`), and the removal ends with taking our sockets off (`xsk_notifier`).
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
