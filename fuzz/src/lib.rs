//! What the targets share: a fuzzer's bytes read as numbers and pieces, a ring buffer on paper.

use iou_fast::sys::ringbuf::RingBuffer;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use std::os::fd::{AsFd, OwnedFd};

/// The rest of a fuzzer's bytes. Where they end, everything is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// A 16-bit number, the low byte first, as all numbers here.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// So many bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let piece = self.take(N);
        bytes[..piece.len()].copy_from_slice(piece);
        bytes
    }

    /// A piece, its length in 16 bits in front.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = self.u16();
        self.take(usize::from(len))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        piece
    }
}

/// A BPF ring buffer without a kernel behind it: consumer page, producer page, and the data twice, as the kernel maps it.
pub struct Paper {
    file: OwnedFd,
    size: usize,
    produced: u64,
}

impl Paper {
    /// In a record's length word: to be skipped.
    pub const DISCARDED: u32 = 1 << 30;
    const PAGE: usize = 4096;

    /// A ring of `pages` pages, a power of two.
    pub fn new(pages: usize) -> Self {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).expect("memory");
        let size = pages * Self::PAGE;
        ftruncate(&file, (2 * Self::PAGE + 2 * size) as u64).expect("memory");
        Self { file, size, produced: 0 }
    }

    /// The side that is tested.
    pub fn ring(&self, max: usize) -> RingBuffer {
        RingBuffer::new(self.file.as_fd(), self.size, max).expect("it can be mapped")
    }

    /// Puts a record and moves the producer on; false if there is no room.
    pub fn put(&mut self, record: &[u8], flags: u32) -> bool {
        let len = (record.len() + 8).next_multiple_of(8) as u64;
        let mut consumed = [0; 8];
        pread(&self.file, &mut consumed, 0).expect("the consumer's page");
        let used = self.produced.wrapping_sub(u64::from_ne_bytes(consumed));
        if used.saturating_add(len) >= self.size as u64 {
            return false;
        }
        let at = self.produced as usize % self.size;
        let mut bytes = (record.len() as u32 | flags).to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(record);
        self.data(at, &bytes);
        self.set_producer(self.produced.wrapping_add(len));
        true
    }

    /// Overwrites data.
    pub fn write(&mut self, at: u16, bytes: &[u8]) {
        self.data(usize::from(at) % self.size, bytes);
    }

    /// Moves the producer.
    pub fn set_producer(&mut self, position: u64) {
        self.produced = position;
        pwrite(&self.file, &position.to_ne_bytes(), Self::PAGE as u64).expect("the producer's page");
    }

    /// True if the record that is read next is still being written, as its length word says.
    pub fn is_busy(&self) -> bool {
        let (mut consumed, mut word) = ([0; 8], [0; 4]);
        pread(&self.file, &mut consumed, 0).expect("the consumer's page");
        let at = u64::from_ne_bytes(consumed) as usize % self.size & !7;
        pread(&self.file, &mut word, (2 * Self::PAGE + at) as u64).expect("data");
        u32::from_ne_bytes(word) >> 31 == 1
    }

    fn data(&self, at: usize, bytes: &[u8]) {
        let here = &bytes[..bytes.len().min(self.size - at)];
        for (at, bytes) in [(at, here), (0, &bytes[here.len()..])] {
            for copy in [0, self.size] {
                pwrite(&self.file, bytes, (2 * Self::PAGE + copy + at) as u64).expect("data");
            }
        }
    }
}
