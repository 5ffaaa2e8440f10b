//! The memory of all frames.

use crate::chunk::{CHUNK_SIZE, Chunk, Fragment};
use crate::mapping::Mapping;
use crate::sync::{AtomicU32, Ordering::Relaxed};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32 as Numbers;

/// Numbers the UMEMs of this process, so that every UMEM but its own refuses a chunk.
static NEXT: Numbers = Numbers::new(0);

/// Memory for frames, cut into chunks. One `Umem` can be registered with several NICs; each of them takes any of its chunks.
#[derive(Debug)]
pub struct Umem {
    memory: Mapping,
    chunks: u32,
    tag: u32,
    /// By chunk: the number of the registration that it is lent to, 0 if to none. A chunk that comes back from
    /// another registration is refused, so that not even a faulty driver makes two tokens of one chunk.
    lent: Box<[AtomicU32]>,
    /// Registrations so far.
    registrations: Numbers,
}

impl Umem {
    /// A UMEM of `chunks` chunks of [`CHUNK_SIZE`] bytes each, and the tokens of all of them.
    ///
    /// # Errors
    /// The error of `mmap`, usually `ENOMEM`.
    pub fn new(chunks: u32) -> io::Result<(Self, Vec<Chunk>)> {
        let memory = Mapping::anonymous(chunks as usize * CHUNK_SIZE)?;
        let tag = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lent = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        let free = (0..chunks).map(|index| Chunk { index, umem: tag }).collect();
        Ok((Self { memory, chunks, tag, lent, registrations: Numbers::new(0) }, free))
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks as usize
    }

    /// How many chunks the kernel has, in its rings or in the NIC.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent.iter().filter(|lent| lent.load(Relaxed) != 0).count()
    }

    /// The bytes of `fragment`.
    ///
    /// # Panics
    /// If the chunk is of another UMEM.
    #[must_use]
    pub fn data<'a>(&'a self, fragment: &'a Fragment) -> &'a [u8] {
        let base = self.chunk_base(&fragment.chunk);
        // SAFETY: `chunk_base` gives a whole chunk of this UMEM, and a fragment lies within a chunk (checked where
        // fragments are made). The token is borrowed for 'a, so neither the kernel nor any other code has it.
        unsafe { std::slice::from_raw_parts(base.add(fragment.offset()).as_ptr(), fragment.len()) }
    }

    /// Has the CPU fetch the first two cache lines of `fragment`, which are in another CPU's cache or in none. The misses of
    /// several fragments overlap that way, while single reads would wait for one after another.
    ///
    /// # Panics
    /// If the chunk is of another UMEM.
    pub fn prefetch(&self, fragment: &Fragment) {
        let start = self.chunk_base(&fragment.chunk).as_ptr().wrapping_add(fragment.offset());
        prefetch(start);
        prefetch(start.wrapping_add(64));
    }

    /// The bytes of `fragment`, to write.
    ///
    /// # Panics
    /// If the chunk is of another UMEM.
    #[must_use]
    pub fn data_mut<'a>(&'a self, fragment: &'a mut Fragment) -> &'a mut [u8] {
        let base = self.chunk_base(&fragment.chunk);
        // SAFETY: as in `data`; the token is borrowed mutably, so these are the only references into the chunk.
        unsafe { std::slice::from_raw_parts_mut(base.add(fragment.offset()).as_ptr(), fragment.len()) }
    }

    /// All [`CHUNK_SIZE`] bytes of `chunk`, to write.
    ///
    /// # Panics
    /// If the chunk is of another UMEM.
    #[must_use]
    pub fn chunk_mut<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8; CHUNK_SIZE] {
        let base = self.chunk_base(chunk);
        // SAFETY: `chunk_base` gives CHUNK_SIZE bytes of this UMEM; the token is borrowed mutably for 'a.
        unsafe { base.cast().as_mut() }
    }

    /// All [`CHUNK_SIZE`] bytes of `chunk`.
    ///
    /// # Panics
    /// If the chunk is of another UMEM.
    #[must_use]
    pub fn chunk<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8; CHUNK_SIZE] {
        let base = self.chunk_base(chunk);
        // SAFETY: `chunk_base` gives CHUNK_SIZE bytes of this UMEM; the token is borrowed for 'a.
        unsafe { base.cast().as_ref() }
    }

    fn chunk_base(&self, chunk: &Chunk) -> NonNull<u8> {
        assert_eq!(chunk.umem, self.tag, "a chunk of another UMEM");
        // SAFETY: tokens are made by `new`, `take_back` and `reclaim` only, with `chunk < self.chunks`: inside the mapping.
        unsafe { self.memory.base().add(chunk.index as usize * CHUNK_SIZE) }
    }

    /// Whether the kernel has the chunk that `address` lies in.
    #[cfg(all(any(test, feature = "simulated"), not(loom)))]
    pub(crate) fn has_lent(&self, address: u64) -> bool {
        let chunk = usize::try_from(address / CHUNK_SIZE as u64).ok();
        chunk.and_then(|chunk| self.lent.get(chunk)).is_some_and(|lent| lent.load(Relaxed) != 0)
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.memory.base()
    }

    pub(crate) fn byte_len(&self) -> u64 {
        u64::from(self.chunks) * CHUNK_SIZE as u64
    }

    /// A number for a new registration. A process makes fewer than 2^32 of them, because each takes milliseconds.
    pub(crate) fn new_number(&self) -> u32 {
        self.registrations.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    /// Turns `chunk` into the address that the kernel knows it by, and records that it is lent to `registration`.
    pub(crate) fn lend(&self, chunk: Chunk, registration: u32) -> u64 {
        assert_eq!(chunk.umem, self.tag, "a chunk of another UMEM");
        self.lent[chunk.index as usize].store(registration, Relaxed);
        u64::from(chunk.index) * CHUNK_SIZE as u64
    }

    /// The chunk at `address`, any address within it, if it is lent to `registration`. `None` is a fault of the kernel's
    /// side: an address outside the UMEM, or of a chunk that it was not given.
    ///
    /// This is an exchange, because a faulty driver might name a chunk in two rings at once. Its memory order does not
    /// matter: the rings' indices order the accesses to the chunk's bytes.
    pub(crate) fn take_back(&self, address: u64, registration: u32) -> Option<Chunk> {
        let chunk = u32::try_from(address / CHUNK_SIZE as u64).ok()?;
        let lent = self.lent.get(chunk as usize)?;
        lent.compare_exchange(registration, 0, Relaxed, Relaxed).ok()?;
        Some(Chunk { index: chunk, umem: self.tag })
    }

    /// Takes back all chunks that are lent to `registration` and adds them to `free`; returns how many.
    /// Neither the kernel nor a ring may use them any more.
    pub(crate) fn reclaim(&self, registration: u32, free: &mut Vec<Chunk>) -> usize {
        let before = free.len();
        for (chunk, lent) in self.lent.iter().enumerate() {
            if lent.load(Relaxed) == registration {
                lent.store(0, Relaxed);
                free.push(Chunk { index: chunk as u32, umem: self.tag });
            }
        }
        free.len() - before
    }
}

/// Has the CPU fetch the cache line of `address`, on machines for which Rust has an instruction.
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
        let (umem, mut chunks) = Umem::new(8).unwrap();
        for (n, chunk) in chunks.iter_mut().enumerate() {
            umem.chunk_mut(chunk).fill(n as u8);
        }
        for (n, chunk) in chunks.into_iter().enumerate() {
            let fragment = Fragment::new(chunk, 0, CHUNK_SIZE);
            assert!(umem.data(&fragment).iter().all(|byte| *byte == n as u8));
        }
    }

    /// Promise `chunks`.
    #[test]
    fn the_kernel_cannot_give_back_what_it_was_not_given() {
        let (umem, mut chunks) = Umem::new(2).unwrap();
        let address = umem.lend(chunks.pop().unwrap(), 1);
        assert_eq!(umem.lent(), 1);
        assert_eq!(umem.take_back(address - CHUNK_SIZE as u64, 1), None);
        assert_eq!(umem.take_back(2 * CHUNK_SIZE as u64, 1), None);
        assert_eq!(umem.take_back(u64::MAX, 1), None);
        assert_eq!(umem.take_back(address, 2), None, "lent to another NIC");
        let chunk = umem.take_back(address + 300, 1).unwrap();
        assert_eq!(umem.take_back(address, 1), None, "twice");
        assert_eq!(umem.lend(chunk, 1), address);
    }

    /// Promise `nic-flaps`.
    #[test]
    fn chunks_of_one_nic_are_reclaimed_once_and_no_others() {
        let (umem, mut chunks) = Umem::new(5).unwrap();
        let numbers = [umem.new_number(), umem.new_number()];
        assert!(numbers[0] != numbers[1] && !numbers.contains(&0));
        for number in [numbers[0], numbers[1], numbers[0]] {
            umem.lend(chunks.pop().unwrap(), number);
        }
        let mut back = Vec::new();
        assert_eq!(umem.reclaim(numbers[0], &mut back), 2);
        assert_eq!(back.iter().map(|chunk| chunk.index).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((umem.reclaim(numbers[0], &mut back), umem.lent()), (0, 1));
    }

    #[test]
    #[should_panic(expected = "another UMEM")]
    fn a_chunk_of_another_umem_is_refused() {
        let (_, mut chunks) = Umem::new(1).unwrap();
        let (other, _chunks) = Umem::new(1).unwrap();
        let _ = other.chunk_mut(&mut chunks[0]);
    }

    #[test]
    #[should_panic(expected = "not within a chunk")]
    fn a_fragment_does_not_leave_its_chunk() {
        let (_umem, mut chunks) = Umem::new(1).unwrap();
        let _ = Fragment::new(chunks.pop().unwrap(), 4000, 97);
    }
}
