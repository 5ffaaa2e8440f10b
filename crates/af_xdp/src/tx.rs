//! A socket's TX ring.

use crate::chunk::{CHUNK_SIZE, Fragment};
use crate::config::Config;
use crate::descriptor::more;
use crate::error::Error;
use crate::registration::Registration;
use crate::ring::Producer;
use crate::xsk::{PGOFF_TX, map};
use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions, XdpMmapOffsets};
use rustix::net::{SendFlags, sockopt};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The TX ring is full. Here is the fragment that did not fit.
#[derive(Debug, thiserror::Error)]
#[error("the TX ring is full")]
pub struct RingFull(pub Fragment);

/// The outcome of [`Tx::kick`]. There will be no others: a caller handles each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// The kernel has taken everything, or will without another kick.
    Taken,
    /// Fragments are left in the ring: reap completions and kick again.
    Again,
    /// The driver dropped a fragment, and others may be left. Kick again.
    Dropped,
    /// The NIC is down or was removed; fragments stay in the ring.
    Down,
}

/// A socket's ring of fragments to send.
#[derive(Debug)]
pub struct Tx {
    pub(crate) ring: Producer<XdpDesc>,
    pub(crate) umem: Arc<Registration>,
    pub(crate) fd: OwnedFd,
    /// The driver takes all fragments by itself after one kick.
    pub(crate) zero_copy: bool,
}

impl Tx {
    pub(crate) fn new(
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

    /// Puts `fragment`, a whole frame, into the ring. It is sent after [`Tx::publish`] and [`Tx::kick`].
    ///
    /// # Errors
    /// The fragment, if the ring is full.
    ///
    /// # Panics
    /// If its chunk is of another UMEM.
    pub fn push(&mut self, fragment: Fragment) -> Result<(), RingFull> {
        if self.ring.free(1) == 0 {
            return Err(RingFull(fragment));
        }
        self.put(fragment, XdpDescOptions::empty());
        Ok(())
    }

    /// Puts one frame that consists of `fragments` into the ring of a socket with [`scatter`](crate::Sockets::scatter).
    /// Returns false and leaves them all in `fragments` if the ring has fewer free slots than that.
    ///
    /// # Panics
    /// If a chunk is of another UMEM.
    pub fn push_frame(&mut self, fragments: &mut Vec<Fragment>) -> bool {
        let count = fragments.len();
        if (self.ring.free(count as u32) as usize) < count {
            return false;
        }
        for (n, fragment) in fragments.drain(..).enumerate() {
            let continues = n + 1 < count;
            self.put(
                fragment,
                if continues { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() },
            );
        }
        true
    }

    fn put(&mut self, fragment: Fragment, options: XdpDescOptions) {
        // A fragment without bytes may begin where its chunk ends. That is the next chunk's address, and it would come back
        // as that chunk.
        let (offset, len) = (fragment.offset().min(CHUNK_SIZE - 1) as u64, fragment.len() as u32);
        let addr = self.umem.lend(fragment.into_chunk()) + offset;
        if self.ring.push(XdpDesc { addr, len, options }).is_err() {
            unreachable!("the ring has a free slot, and only this side fills it");
        }
    }

    /// Makes all fragments pushed so far visible to the kernel.
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Number of slots.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ring.size() as usize
    }

    /// Number of free slots, one for each fragment. Exact if it is less than `wanted`.
    pub fn room(&mut self, wanted: usize) -> usize {
        self.ring.free(wanted as u32) as usize
    }

    /// How many frames the kernel has not taken yet. In copy mode before Linux 6.17 it reports the frames that it has taken
    /// only after it has taken all.
    pub fn pending(&mut self) -> usize {
        self.ring.iter_pending().filter(|descriptor| more(descriptor.options) == 0).count()
    }

    /// Tells the kernel to send, if it needs to be told. In copy mode it takes at most 32 fragments per call.
    ///
    /// # Errors
    /// The error of `sendto`, unless [`Kick`] has a value for it.
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
    use super::*;
    use crate::testing::both_sides;

    #[test]
    fn a_frame_of_several_fragments_is_sent_whole_or_not_at_all() {
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
            let continues: Vec<bool> = sent.iter().map(|sent| more(sent.options) != 0).collect();
            assert_eq!(continues, [true, true, false, false, true, true, true, false]);
            assert_eq!(user.tx.pending(), 0);
            sent.iter().for_each(|sent| kernel.completion.push(sent.addr).unwrap());
            kernel.completion.publish();
            user.completion.reap(&mut user.free);
            assert_eq!((user.free.len(), umem.lent()), (16, 0));
        }
    }

    #[test]
    fn a_fragment_without_bytes_comes_back_as_its_own_chunk() {
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
    fn a_full_tx_ring_returns_the_fragment() {
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
