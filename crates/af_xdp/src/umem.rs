//! The memory that frames live in.

use crate::frame::{CHUNK, Frame, Packet};
use crate::mapping::Mapping;
use crate::sync::{AtomicBool, Ordering::Relaxed};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Numbers the UMEMs of this process, so that a frame is refused by every UMEM but its own.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Memory for frames. One `Umem` can be registered with several NICs: its frames are good for all of them.
#[derive(Debug)]
pub struct Umem {
    memory: Mapping,
    chunks: u32,
    tag: u32,
    /// Which chunks the kernel holds. A chunk that comes back without having been lent is refused, so that not
    /// even a faulty driver makes two tokens of one chunk.
    lent: Box<[AtomicBool]>,
}

impl Umem {
    /// Memory for `chunks` frames of [`CHUNK`] bytes each, and all its frames.
    ///
    /// # Errors
    /// What `mmap` says, `ENOMEM` above all.
    pub fn new(chunks: u32) -> io::Result<(Self, Vec<Frame>)> {
        let memory = Mapping::anonymous(chunks as usize * CHUNK)?;
        let tag = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lent = (0..chunks).map(|_| AtomicBool::new(false)).collect();
        let frames = (0..chunks).map(|chunk| Frame { chunk, umem: tag }).collect();
        Ok((Self { memory, chunks, tag, lent }, frames))
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks as usize
    }

    /// How many chunks the kernel holds, in its rings or on their way.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent.iter().filter(|lent| lent.load(Relaxed)).count()
    }

    /// The bytes of `packet`.
    #[must_use]
    pub fn data<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        let base = self.chunk_base(&packet.frame);
        // SAFETY: `chunk_base` gives a whole chunk of this UMEM, and a packet lies within a chunk (checked where
        // packets are made). The token is borrowed for 'a, so no one else has it, and neither has the kernel.
        unsafe { std::slice::from_raw_parts(base.add(packet.offset()).as_ptr(), packet.len()) }
    }

    /// Has the CPU fetch the first two cache lines of `packet`, which another CPU wrote or wrote long ago: several
    /// such misses overlap where single reads would each wait for theirs.
    pub fn prefetch(&self, packet: &Packet) {
        let start = self.chunk_base(&packet.frame).as_ptr().wrapping_add(packet.offset());
        prefetch(start);
        prefetch(start.wrapping_add(64));
    }

    /// The bytes of `packet`, to write.
    #[must_use]
    pub fn data_mut<'a>(&'a self, packet: &'a mut Packet) -> &'a mut [u8] {
        let base = self.chunk_base(&packet.frame);
        // SAFETY: as in `data`; the token is borrowed mutably, so these are the only references into the chunk.
        unsafe { std::slice::from_raw_parts_mut(base.add(packet.offset()).as_ptr(), packet.len()) }
    }

    /// All [`CHUNK`] bytes of `frame`, to write.
    #[must_use]
    pub fn chunk_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8; CHUNK] {
        let base = self.chunk_base(frame);
        // SAFETY: `chunk_base` gives CHUNK bytes of this UMEM; the token is borrowed mutably for 'a.
        unsafe { base.cast().as_mut() }
    }

    /// All [`CHUNK`] bytes of `frame`.
    #[must_use]
    pub fn chunk<'a>(&'a self, frame: &'a Frame) -> &'a [u8; CHUNK] {
        let base = self.chunk_base(frame);
        // SAFETY: `chunk_base` gives CHUNK bytes of this UMEM; the token is borrowed for 'a.
        unsafe { base.cast().as_ref() }
    }

    fn chunk_base(&self, frame: &Frame) -> NonNull<u8> {
        assert_eq!(frame.umem, self.tag, "a frame of another UMEM");
        // SAFETY: tokens are made by `new` and `take_back` only, with `chunk < self.chunks`: inside the mapping.
        unsafe { self.memory.base().add(frame.chunk as usize * CHUNK) }
    }

    /// Whether the kernel has the chunk that `address` lies in.
    pub(crate) fn has_lent(&self, address: u64) -> bool {
        let chunk = usize::try_from(address / CHUNK as u64).ok();
        chunk.and_then(|chunk| self.lent.get(chunk)).is_some_and(|lent| lent.load(Relaxed))
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.memory.base()
    }

    pub(crate) fn byte_len(&self) -> u64 {
        u64::from(self.chunks) * CHUNK as u64
    }

    /// Turns `frame` into the address that the kernel knows it by, and notes that the kernel has it.
    pub(crate) fn lend(&self, frame: Frame) -> u64 {
        assert_eq!(frame.umem, self.tag, "a frame of another UMEM");
        self.lent[frame.chunk as usize].store(true, Relaxed);
        u64::from(frame.chunk) * CHUNK as u64
    }

    /// The frame at `address`, any address within its chunk, if the kernel had it. `None` is a fault of the
    /// kernel's side: an address outside the UMEM, or of a chunk that it was not given.
    ///
    /// An exchange, for a driver at fault might name a chunk in two rings at once. Its order does not matter: the rings'
    /// indices order what is in the chunk.
    pub(crate) fn take_back(&self, address: u64) -> Option<Frame> {
        let chunk = u32::try_from(address / CHUNK as u64).ok()?;
        let lent = self.lent.get(chunk as usize)?;
        lent.swap(false, Relaxed).then_some(Frame { chunk, umem: self.tag })
    }
}

/// Has the CPU fetch the cache line of `address`, on machines where Rust can say so.
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing that the program sees and never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_handed_out_once_and_is_writable() {
        let (umem, mut frames) = Umem::new(8).unwrap();
        for (n, frame) in frames.iter_mut().enumerate() {
            umem.chunk_mut(frame).fill(n as u8);
        }
        for (n, frame) in frames.into_iter().enumerate() {
            let packet = Packet::new(frame, 0, CHUNK);
            assert!(umem.data(&packet).iter().all(|byte| *byte == n as u8));
        }
    }

    #[test]
    fn the_kernel_cannot_give_back_what_it_was_not_given() {
        let (umem, mut frames) = Umem::new(2).unwrap();
        let address = umem.lend(frames.pop().unwrap());
        assert_eq!(umem.lent(), 1);
        assert_eq!(umem.take_back(address - CHUNK as u64), None);
        assert_eq!(umem.take_back(2 * CHUNK as u64), None);
        assert_eq!(umem.take_back(u64::MAX), None);
        let frame = umem.take_back(address + 300).unwrap();
        assert_eq!(umem.take_back(address), None, "twice");
        assert_eq!(umem.lend(frame), address);
    }

    #[test]
    #[should_panic(expected = "another UMEM")]
    fn a_frame_is_of_no_use_in_another_umem() {
        let (_, mut frames) = Umem::new(1).unwrap();
        let (other, _frames) = Umem::new(1).unwrap();
        let _ = other.chunk_mut(&mut frames[0]);
    }

    #[test]
    #[should_panic(expected = "not within a chunk")]
    fn a_packet_does_not_leave_its_chunk() {
        let (_umem, mut frames) = Umem::new(1).unwrap();
        let _ = Packet::new(frames.pop().unwrap(), 4000, 97);
    }
}
