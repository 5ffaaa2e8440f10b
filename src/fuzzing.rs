//! Doors into what is private, and a ring buffer without a kernel, for `fuzz/` and `bench/instructions` alone (feature
//! `fuzzing`).

use crate::sys::ringbuf::RingBuffer;
pub use crate::worker::Stepper;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The offloads that a record beside a NIC's lock names as turned off, or `None` if it is no record.
#[must_use]
pub fn offloads_record(contents: &[u8]) -> Option<Vec<String>> {
    crate::nic::offload::parse_record(contents).ok()
}

/// The pid in the lock file of a NIC.
#[must_use]
pub fn lock_pid(contents: &[u8]) -> Option<u32> {
    crate::nic::lock::parse_pid(contents)
}

/// A kernel's version, as `uname -r` has it.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    crate::nic::kernel::parse(release)
}

/// One turn of a worker's loop: true if it was told to stop.
pub fn turn(worker: &mut crate::worker::Worker) -> bool {
    Stepper::default().turn(worker)
}

/// Has the kernel note with every datagram when it entered the queue of `socket`, as the program's own sockets do.
///
/// # Errors
/// What `setsockopt` says.
pub fn stamp_arrivals(socket: BorrowedFd<'_>) -> io::Result<()> {
    crate::sys::unix::stamp_arrivals(socket)
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
    ///
    /// # Panics
    /// Here and below: if the system has no memory.
    pub fn new(pages: usize) -> Self {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).expect("memory");
        let size = pages * Self::PAGE;
        ftruncate(&file, (2 * Self::PAGE + 2 * size) as u64).expect("memory");
        Self { file, size, produced: 0 }
    }

    /// The consumer's side, which is tested.
    pub fn ring(&self, max: usize) -> RingBuffer {
        RingBuffer::new(self.file.as_fd(), self.size, max).expect("it can be mapped")
    }

    /// Puts a record and moves the producer on; false if the ring is full.
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
        let at = (u64::from_ne_bytes(consumed) as usize % self.size) & !7;
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
