//! The fill ring.

use crate::chunk::Chunk;
use crate::registration::Registration;
use crate::ring::Producer;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The ring of frames for the kernel to receive into.
#[derive(Debug)]
pub struct Fill {
    pub(crate) ring: Producer<u64>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) fd: Arc<OwnedFd>,
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
