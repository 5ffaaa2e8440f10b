//! The consumer's side of a BPF ring buffer, for many records at a time.
//!
//! libbpf's own reader hands out one record per call and releases its bytes at once; here a batch of records stays in
//! place while it is sent to every router, and is released together. Layout and protocol:
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
        self.peek_up_to(self.max)
    }

    /// As [`peek`](Self::peek), at most `max` records, but one if there is any.
    pub fn peek_up_to(&mut self, max: usize) -> usize {
        let max = max.clamp(1, self.max);
        debug_assert!(self.batch.is_empty(), "the batch before was not released");
        let before = self.position;
        let producer = self.producer_position().load(Ordering::Acquire);
        while self.position != producer && self.batch.len() < max {
            let waiting = producer.wrapping_sub(self.position);
            let at = self.position as usize & (self.size - 1) & !7;
            let word = self.length_word(at).load(Ordering::Acquire);
            if word & BUSY != 0 {
                break;
            }
            let len = (word & !DISCARDED) as usize;
            let room = (len + RECORD_HEADER).next_multiple_of(8) as u64;
            if waiting > self.size as u64 || room > waiting {
                // The record is invalid, so where the next one begins is unknown. All that is there is skipped, lest we read
                // in circles.
                self.position = producer;
                break;
            }
            if word & DISCARDED == 0 {
                self.batch.push((at + RECORD_HEADER, len));
            }
            self.position = self.position.wrapping_add(room);
        }
        if self.batch.is_empty() && self.position != before {
            // Nothing but discarded records: a caller without a batch releases nothing.
            self.release();
        }
        self.batch.len()
    }

    /// Record `n` of the batch.
    #[must_use]
    pub fn record(&self, n: usize) -> &[u8] {
        let (at, len) = self.batch[n];
        // SAFETY: `at` is at most size, and 8 + len at most size (`peek_up_to` checked it): within the data area, which is
        // mapped twice in a row. The kernel does not write a committed record until `release`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.producer_and_data.base.add(self.page + at).as_ptr(), len) }
    }

    /// Releases the batch: the kernel writes there again.
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
        // SAFETY: at < size and a multiple of 8 (`peek_up_to` sees to it): within the data area, aligned.
        unsafe { self.producer_and_data.base.add(self.page + at).cast().as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::{pread, pwrite};
    use std::os::fd::{AsFd, OwnedFd};

    /// A ring buffer without a kernel behind it: consumer page, producer page, data. The second mapping of the
    /// data is only zeros here, so no record may go round the end; tests/steer.rs has those of the kernel.
    struct Paper {
        file: OwnedFd,
        page: usize,
        produced: u64,
    }

    impl Paper {
        fn new() -> Self {
            let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
            let page = rustix::param::page_size();
            ftruncate(&file, 4 * page as u64).unwrap();
            Self { file, page, produced: 0 }
        }

        /// Puts a record's header with these `flags` and its content, and moves the producer on.
        fn put(&mut self, content: &[u8], flags: u32) {
            let at = 2 * self.page as u64 + self.produced;
            pwrite(&self.file, &(content.len() as u32 | flags).to_ne_bytes(), at).unwrap();
            pwrite(&self.file, content, at + RECORD_HEADER as u64).unwrap();
            self.produced += (content.len() + RECORD_HEADER).next_multiple_of(8) as u64;
            pwrite(&self.file, &self.produced.to_ne_bytes(), self.page as u64).unwrap();
        }

        /// Takes the flags off the header of the record that begins at `at`.
        fn commit(&self, at: u64, len: u32) {
            pwrite(&self.file, &len.to_ne_bytes(), 2 * self.page as u64 + at).unwrap();
        }

        fn consumed(&self) -> u64 {
            let mut position = [0; 8];
            pread(&self.file, &mut position, 0).unwrap();
            u64::from_ne_bytes(position)
        }

        fn ring(&self, max: usize) -> RingBuffer {
            RingBuffer::new(self.file.as_fd(), self.page, max).unwrap()
        }
    }

    #[test]
    fn a_batch_stays_until_it_is_released() {
        let mut paper = Paper::new();
        let mut ring = paper.ring(2);
        assert!(ring.is_empty());
        for record in [&b"one"[..], b"two two two", b"three"] {
            paper.put(record, 0);
        }
        assert!(!ring.is_empty());
        assert_eq!(ring.peek(), 2);
        assert_eq!((ring.record(0), ring.record(1)), (&b"one"[..], &b"two two two"[..]));
        assert_eq!(paper.consumed(), 0);
        ring.release();
        assert_eq!(paper.consumed(), 16 + 24);
        assert_eq!(ring.peek(), 1);
        assert_eq!(ring.record(0), b"three");
        ring.release();
        assert_eq!(paper.consumed(), paper.produced);
        assert!(ring.is_empty());
        assert_eq!(ring.peek(), 0);
    }

    #[test]
    fn a_record_that_is_being_written_is_waited_for_and_not_overtaken() {
        let mut paper = Paper::new();
        let mut ring = paper.ring(8);
        paper.put(b"ready", 0);
        paper.put(b"later", BUSY);
        paper.put(b"behind", 0);
        assert_eq!(ring.peek(), 1);
        ring.release();
        // The kernel is writing a record: no time to sleep.
        assert!(!ring.is_empty());
        assert_eq!(ring.peek(), 0);
        assert_eq!(paper.consumed(), 16);
        paper.commit(16, 5);
        assert_eq!(ring.peek(), 2);
        assert_eq!((ring.record(0), ring.record(1)), (&b"later"[..], &b"behind"[..]));
    }

    /// Nothing outside the ring is read, no record is made up, and the next good one is found.
    #[test]
    fn an_invalid_length_or_position_is_skipped() {
        for (flags, len) in [(0, 0x3fff_fff0), (DISCARDED, 0x3fff_fff0), (DISCARDED, 48), (0, 4096)] {
            let mut paper = Paper::new();
            let mut ring = paper.ring(8);
            paper.put(b"good", 0);
            paper.put(&[0; 8], 0);
            paper.commit(16, len | flags);
            assert_eq!(ring.peek(), 1);
            ring.release();
            assert!(ring.is_empty());
            paper.put(b"next", 0);
            assert_eq!(ring.peek(), 1);
            assert_eq!(ring.record(0), b"next");
        }
        for produced in [u64::MAX, 1 << 40, 3] {
            let paper = Paper::new();
            let mut ring = paper.ring(8);
            pwrite(&paper.file, &produced.to_ne_bytes(), paper.page as u64).unwrap();
            assert_eq!(ring.peek(), 0);
            assert!(ring.is_empty());
        }
    }

    #[test]
    fn discarded_records_are_skipped_and_their_room_is_given_back() {
        let mut paper = Paper::new();
        let mut ring = paper.ring(8);
        paper.put(&[0; 100], DISCARDED);
        paper.put(b"kept", 0);
        paper.put(&[0; 60], DISCARDED);
        assert_eq!(ring.peek(), 1);
        assert_eq!(ring.record(0), b"kept");
        ring.release();
        assert_eq!(paper.consumed(), paper.produced);
        // Without a batch the caller releases nothing: the records are released all the same.
        paper.put(&[0; 100], DISCARDED);
        assert_eq!(ring.peek(), 0);
        assert!(ring.is_empty());
        assert_eq!(paper.consumed(), paper.produced);
    }
}
