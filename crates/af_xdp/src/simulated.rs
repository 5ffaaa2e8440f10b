//! The rings of a socket with a simulated kernel at their other side, in plain memory. Benchmarks measure the user's side
//! without a NIC, tests run without root, and fuzz targets have a kernel that writes anything. Needs the feature
//! `simulated`.
//!
//! ```
//! use af_xdp::{Umem, simulated};
//! use std::sync::Arc;
//!
//! let (umem, mut free) = Umem::new(8)?;
//! let umem = Arc::new(umem);
//! let (mut fill, mut completion, mut rx, mut tx, mut kernel) = simulated::rings(&umem, 4)?;
//! // Two frames of 60 bytes are received, and sent again.
//! fill.push(&mut free, 4);
//! assert_eq!(kernel.receive(2, 60), 2);
//! let mut fragments = Vec::new();
//! assert_eq!(rx.receive(&mut fragments, 64), 2);
//! for fragment in fragments {
//!     tx.push(fragment).expect("a ring of four slots");
//! }
//! tx.publish();
//! assert_eq!(kernel.send(), 2);
//! assert_eq!(completion.reap(&mut free), 2);
//! // Two chunks are still in the fill ring.
//! assert_eq!((free.len(), umem.lent()), (6, 2));
//! # Ok::<(), std::io::Error>(())
//! ```

use crate::chunk::CHUNK_SIZE;
use crate::completion::Completion;
use crate::descriptor::more;
use crate::fill::Fill;
use crate::registration::Registration;
pub use crate::ring::Word;
use crate::ring::pair::pair;
use crate::ring::{Consumer, Producer};
use crate::rx::Rx;
use crate::tx::Tx;
use crate::umem::Umem;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::ptr::NonNull;
use std::sync::Arc;

/// Where the kernel puts a frame in its chunk: `XDP_PACKET_HEADROOM`.
const HEADROOM: u64 = 256;

/// The kernel's side of the rings.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) fill: Consumer<u64>,
    pub(crate) completion: Producer<u64>,
    pub(crate) rx: Producer<XdpDesc>,
    pub(crate) tx: Consumer<XdpDesc>,
    umem: Arc<Umem>,
    _peer: UnixDatagram,
}

/// One of a socket's rings.
#[derive(Clone, Copy, Debug)]
pub enum Ring {
    /// The fill ring.
    Fill,
    /// The completion ring.
    Completion,
    /// The RX ring.
    Rx,
    /// The TX ring.
    Tx,
}

/// Four rings of `size` slots each, a power of two, and the kernel's side of them. This kernel never asks to be woken, so
/// the rings make no system call.
///
/// # Errors
/// The system's error if it has no memory or no descriptor.
///
/// # Panics
/// If `size` is not a power of two.
pub fn rings(umem: &Arc<Umem>, size: u32) -> io::Result<(Fill, Completion, Rx, Tx, Kernel)> {
    rings_from(umem, size, 0)
}

/// As [`rings`], with indices that begin at `start`.
pub(crate) fn rings_from(
    umem: &Arc<Umem>,
    size: u32,
    start: u32,
) -> io::Result<(Fill, Completion, Rx, Tx, Kernel)> {
    // Its queue takes a few kicks and then no more.
    let (socket, peer) = UnixDatagram::pair()?;
    let fd: Arc<OwnedFd> = Arc::new(socket.into());
    let (fill, kernel_fill) = pair(size, start)?;
    let (kernel_completion, completion) = pair(size, start)?;
    let (kernel_rx, rx) = pair(size, start)?;
    let (tx, kernel_tx) = pair(size, start)?;
    let kernel = Kernel {
        fill: kernel_fill,
        completion: kernel_completion,
        rx: kernel_rx,
        tx: kernel_tx,
        umem: umem.clone(),
        _peer: peer,
    };
    let umem = Arc::new(Registration::new(umem, 0));
    let fill = Fill { ring: fill, umem: umem.clone(), fd: fd.clone() };
    let completion = Completion { ring: completion, umem: umem.clone(), faults: 0 };
    let tx = Tx { ring: tx, umem: umem.clone(), fd: fd.try_clone()?, zero_copy: false };
    let rx = Rx { ring: rx, umem, fd, faults: 0 };
    Ok((fill, completion, rx, tx, kernel))
}

impl Kernel {
    /// Receives up to `max` frames of `len` bytes into chunks of the fill ring; returns how many.
    pub fn receive(&mut self, max: usize, len: u32) -> usize {
        let mut count = 0;
        while count < max && self.rx.free(1) > 0 {
            let Some(address) = self.fill.pop() else { break };
            let fragment = XdpDesc { addr: address + HEADROOM, len, options: XdpDescOptions::empty() };
            if self.rx.push(fragment).is_err() {
                break;
            }
            count += 1;
        }
        self.fill.release();
        self.rx.publish();
        count
    }

    /// Sends all fragments in the TX ring; returns how many.
    pub fn send(&mut self) -> usize {
        let mut count = 0;
        while self.completion.free(1) > 0 {
            let Some(fragment) = self.tx.pop() else { break };
            if self.completion.push(fragment.addr).is_err() {
                break;
            }
            count += 1;
        }
        self.tx.release();
        self.completion.publish();
        count
    }

    /// Takes the address of a chunk to receive into.
    pub fn take_fill(&mut self) -> Option<u64> {
        let address = self.fill.pop();
        self.fill.release();
        address
    }

    /// Takes a fragment to send: address, length, and whether its frame continues in the next.
    pub fn take_tx(&mut self) -> Option<(u64, u32, bool)> {
        let fragment = self.tx.pop();
        self.tx.release();
        fragment.map(|fragment| (fragment.addr, fragment.len, more(fragment.options) != 0))
    }

    /// Puts any descriptor into the RX ring; false if it is full.
    pub fn put_rx(&mut self, addr: u64, len: u32, options: u32) -> bool {
        let options = XdpDescOptions::from_bits_retain(options);
        let done = self.rx.push(XdpDesc { addr, len, options }).is_ok();
        self.rx.publish();
        done
    }

    /// Puts any address into the completion ring; false if it is full.
    pub fn put_completion(&mut self, address: u64) -> bool {
        let done = self.completion.push(address).is_ok();
        self.completion.publish();
        done
    }

    /// Sets a word of a ring to any value.
    pub fn set(&self, ring: Ring, word: Word, value: u32) {
        match ring {
            Ring::Fill => self.fill.set(word, value),
            Ring::Completion => self.completion.set(word, value),
            Ring::Rx => self.rx.set(word, value),
            Ring::Tx => self.tx.set(word, value),
        }
    }

    /// Writes `bytes` at `address`, as a NIC does. Returns false and writes nothing unless they lie in one chunk that is lent
    /// to the kernel.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else { return false };
        // SAFETY: `place` checked that the bytes lie in a chunk of the UMEM; the kernel's side has it, so there is no
        // token by which other code could refer to it.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        true
    }

    /// The `len` bytes at `address`, or `None` unless they lie in one chunk that is lent to the kernel.
    #[must_use]
    pub fn read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let place = self.place(address, len)?;
        // SAFETY: as in `write`; the copy is made before the chunk can be taken back.
        Some(unsafe { std::slice::from_raw_parts(place.as_ptr(), len) }.to_vec())
    }

    fn place(&self, address: u64, len: usize) -> Option<NonNull<u8>> {
        let fits = address as usize % CHUNK_SIZE + len <= CHUNK_SIZE;
        // SAFETY: a chunk that was lent is one of the UMEM's, so the address lies in its memory.
        (fits && self.umem.has_lent(address)).then(|| unsafe { self.umem.address().add(address as usize) })
    }
}

#[cfg(test)]
mod tests {
    //! The four rings with this test as the kernel.

    use super::*;
    use crate::testing::both_sides;
    use crate::tx::RingFull;
    use proptest::prelude::*;

    proptest! {
        /// Chunk conservation: after any sequence of steps of either side, every chunk is in exactly one place.
        ///
        /// Promise `chunks` (Memory): A frame is in one place at a time, and none disappears, whatever either
        /// end of a ring does.
        #[test]
        fn no_chunk_is_lost_or_doubled(steps in prop::collection::vec((0u8..8, 0usize..6), 0..300)) {
            const CHUNKS: usize = 12;
            let (umem, mut user, mut kernel) = both_sides(CHUNKS as u32, 8);
            let (mut lent, mut sent): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
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
                    4 => { while let Some(address) = kernel.fill.pop() { lent.push(address); }
                           kernel.fill.release(); }
                    5 => if let Some(address) = lent.pop() {
                        let descriptor = XdpDesc { addr: address + 256, len: 60, options: XdpDescOptions::empty() };
                        if kernel.rx.push(descriptor).is_err() { lent.push(address); }
                        kernel.rx.publish();
                    },
                    6 => { while let Some(descriptor) = kernel.tx.pop() { sent.push(descriptor.addr); }
                           kernel.tx.release(); }
                    _ => if let Some(address) = sent.pop() {
                        if kernel.completion.push(address).is_err() { sent.push(address); }
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
    }
}
