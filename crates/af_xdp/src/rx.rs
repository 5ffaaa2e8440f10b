//! A socket's RX ring.

use crate::chunk::{CHUNK_SIZE, Fragment};
use crate::config::Config;
use crate::descriptor::more;
use crate::error::Error;
use crate::registration::Registration;
use crate::ring::Consumer;
use crate::xsk::{PGOFF_RX, map};
use rustix::net::sockopt;
use rustix::net::xdp::{XdpDesc, XdpMmapOffsets};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The most fragments of one frame: `MAX_SKB_FRAGS` + 1 of a kernel as distributions build it.
const MOST_FRAGMENTS: usize = 18;

/// A socket's ring of received fragments.
#[derive(Debug)]
pub struct Rx {
    pub(crate) ring: Consumer<XdpDesc>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) faults: u64,
}

/// How many frames the kernel has dropped since the socket was made, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RxStatistics {
    /// The frame was too long for a chunk, or the kernel had no memory.
    pub dropped: u64,
    /// The RX ring was full.
    pub ring_full: u64,
    /// The fill ring was empty.
    pub fill_ring_empty: u64,
}

impl Rx {
    pub(crate) fn new(
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

    /// Appends up to `max` fragments to `fragments`, and the rest of the last frame where it has more: frames are always
    /// whole. Returns the number of fragments.
    ///
    /// The fragments of an invalid frame, such as one without an end, have no bytes.
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

    /// Takes the rest of the last frame. The kernel publishes all fragments of a frame at once.
    #[cold]
    fn finish(&mut self, fragments: &mut Vec<Fragment>, before: usize) {
        for _ in 0..MOST_FRAGMENTS {
            let Some(descriptor) = self.ring.pop() else { break };
            self.take(descriptor, fragments, before);
            if !fragments[before..].last().is_some_and(Fragment::continues) {
                return;
            }
        }
        self.spoil(&mut fragments[before..]);
    }

    /// Counts a fault and empties the fragments of the unfinished frame at the end of `fragments`.
    #[cold]
    fn spoil(&mut self, fragments: &mut [Fragment]) {
        self.faults += 1;
        for fragment in fragments.iter_mut().rev().take_while(|fragment| fragment.continues()) {
            fragment.len = 0;
        }
    }

    /// True if no fragment is waiting.
    pub fn is_empty(&mut self) -> bool {
        self.ring.available() == 0
    }

    /// How many descriptors were invalid. Always 0 unless a driver is faulty.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// The kernel's counters of this socket.
    ///
    /// # Errors
    /// The error of `getsockopt`.
    pub fn statistics(&self) -> io::Result<RxStatistics> {
        let statistics = sockopt::xdp_statistics(&self.fd)?;
        Ok(RxStatistics {
            dropped: statistics.rx_dropped,
            ring_full: statistics.rx_ring_full.unwrap_or(0),
            fill_ring_empty: statistics.rx_fill_ring_empty_descs.unwrap_or(0),
        })
    }
}

/// The kernel's socket: for an XSKMAP, and to wait until fragments have arrived (it is readable then).
impl AsFd for Rx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::Kernel;
    use crate::testing::{both_sides, descriptor};
    use proptest::prelude::*;

    proptest! {
        /// Nothing that the kernel's side writes doubles a token or makes a fragment leave its chunk.
        ///
        /// Promise `chunks`.
        #[test]
        fn a_hostile_kernel_makes_no_chunks(
            descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), any::<bool>(), any::<bool>()), 0..40),
            max in 0usize..9,
        ) {
            let (umem, mut user, mut kernel) = both_sides(4, 8);
            user.fill.push(&mut user.free, 2);
            for (addr, len, continues, publish) in descriptors {
                let _ = kernel.rx.push(descriptor(addr % (6 * CHUNK_SIZE as u64), len % 9000, continues));
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

    /// The kernel receives a frame of fragments of these lengths, each in a chunk of its own.
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
    fn a_frame_of_several_fragments_is_received_whole_also_across_the_end_of_the_ring() {
        let (umem, mut user, mut kernel) = both_sides(16, 8);
        // Each slot of the ring holds the beginning of a frame once, and the indices wrap.
        for round in 0..16 {
            user.fill.push(&mut user.free, 5);
            receive(&mut kernel, &[60]);
            receive(&mut kernel, &[3840, 3840, 1336]);
            receive(&mut kernel, &[61]);
            let whole = [(60, false), (3840, true), (3840, true), (1336, false), (61, false)];
            // A frame is not cut, even if fewer fragments are wanted.
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
    fn a_frame_without_an_end_is_a_fault_and_later_frames_are_whole() {
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
        assert_eq!(user.rx.receive(&mut fragments, 1), 1 + MOST_FRAGMENTS);
        assert!(fragments.iter().all(|fragment| fragment.is_empty() && !fragment.continues()));
        assert_eq!(user.rx.faults(), 4);
    }
}
