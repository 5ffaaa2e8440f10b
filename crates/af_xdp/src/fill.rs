//! The fill ring.

use crate::chunk::Chunk;
use crate::registration::Registration;
use crate::ring::Producer;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The ring of chunks for the kernel to receive into. All sockets on a queue share it.
#[derive(Debug)]
pub struct Fill {
    pub(crate) ring: Producer<u64>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) fd: Arc<OwnedFd>,
}

impl Fill {
    /// Moves up to `max` chunks from the end of `free` into the ring; returns how many fitted.
    ///
    /// # Panics
    /// If a chunk is of another UMEM.
    pub fn push(&mut self, free: &mut Vec<Chunk>, max: usize) -> usize {
        let max = max.min(free.len());
        let slots = self.ring.free(max as u32) as usize;
        let count = max.min(slots);
        for chunk in free.drain(free.len() - count..) {
            if self.ring.push(self.umem.lend(chunk)).is_err() {
                unreachable!("the ring has {slots} free slots, and only this side fills it");
            }
        }
        self.ring.publish();
        count
    }

    /// Wakes the driver if it sleeps because the ring was empty. Makes one system call then, and none otherwise.
    pub fn wake(&self) {
        if self.ring.needs_wakeup() {
            // An empty receive lets the driver run. It normally fails with EAGAIN, because no data comes this way.
            let _ = rustix::net::recv(&self.fd, &mut [0u8; 0], rustix::net::RecvFlags::DONTWAIT);
        }
    }
}
