//! The consumer's side of a BPF ring buffer, for many records at a time.
//!
//! libbpf's own reader hands out one record a call and gives its room back at once; here a batch of records stays
//! in place while it is sent to every router, and its room is given back together. Layout and protocol:
//! Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In a record's length word: not committed yet.
const BUSY: u32 = 1 << 31;
/// In a record's length word: to be skipped.
const DISCARDED: u32 = 1 << 30;
/// Bytes of a record's header: length and page offset, 32 bits each.
const RECORD_HEADER: usize = 8;

/// A ring buffer and the batch of records that is being read.
#[derive(Debug)]
pub struct RingBuffer {
    consumer: Region,
    producer_and_data: Region,
    page: usize,
    size: usize,
    /// Where the next batch begins.
    position: u64,
    /// Offset in the data area and length of each record of the batch.
    batch: Vec<(usize, usize)>,
    max: usize,
}

#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain shared memory; a region is used by one RingBuffer, which has `&mut` methods for what changes it.
unsafe impl Send for Region {}

impl Region {
    fn map(fd: BorrowedFd<'_>, len: usize, offset: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice aliases no Rust object.
        let base =
            unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, offset as u64)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { base, len })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: what mmap gave, unmapped once, by its only owner.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl RingBuffer {
    /// The ring buffer of `size` bytes behind `map`, to be read in batches of up to `max` records.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn new(map: BorrowedFd<'_>, size: usize, max: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let consumer = Region::map(map, page, 0, ProtFlags::READ | ProtFlags::WRITE)?;
        // The data area is mapped twice in a row, so that a record is contiguous wherever it begins.
        let producer_and_data = Region::map(map, page + 2 * size, page, ProtFlags::READ)?;
        let mut ring = Self {
            consumer,
            producer_and_data,
            page,
            size,
            position: 0,
            batch: Vec::with_capacity(max),
            max,
        };
        ring.position = ring.consumer_position().load(Ordering::Relaxed);
        Ok(ring)
    }

    /// True if nothing is in the ring, nor being put there: the test before going to sleep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producer_position().load(Ordering::Acquire) == self.position
    }

    /// Reads the next batch of committed records; returns how many there are. The batch before must have been
    /// given back by [`release`](Self::release).
    pub fn peek(&mut self) -> usize {
        debug_assert!(self.batch.is_empty(), "the batch before was not released");
        let producer = self.producer_position().load(Ordering::Acquire);
        while self.position != producer && self.batch.len() < self.max {
            let at = self.position as usize & (self.size - 1);
            let word = self.length_word(at).load(Ordering::Acquire);
            if word & BUSY != 0 {
                break;
            }
            let len = (word & !DISCARDED) as usize;
            if word & DISCARDED == 0 && len <= self.size - RECORD_HEADER {
                self.batch.push((at + RECORD_HEADER, len));
            }
            self.position += (len + RECORD_HEADER).next_multiple_of(8) as u64;
        }
        self.batch.len()
    }

    /// Record `n` of the batch.
    #[must_use]
    pub fn record(&self, n: usize) -> &[u8] {
        let (at, len) = self.batch[n];
        // SAFETY: `at` is below size + 8 and len at most size - 8: within the data area, which is mapped twice in
        // a row. The kernel does not write a committed record until `release`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.producer_and_data.base.add(self.page + at).as_ptr(), len) }
    }

    /// Gives the room of the batch back to the kernel.
    pub fn release(&mut self) {
        self.batch.clear();
        self.consumer_position().store(self.position, Ordering::Release);
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the consumer page begins with the 64-bit position, page-aligned, accessed atomically by both.
        unsafe { self.consumer.base.cast().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: the producer page begins with the 64-bit position, page-aligned; only ever read here.
        unsafe { self.producer_and_data.base.cast().as_ref() }
    }

    fn length_word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: at < size and a multiple of 8 (records are rounded up to 8): within the data area, aligned.
        unsafe { self.producer_and_data.base.add(self.page + at).cast().as_ref() }
    }
}
