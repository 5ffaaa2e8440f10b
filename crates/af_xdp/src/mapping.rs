//! Memory from `mmap`, unmapped on drop.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Bytes in a huge page on the machines this runs on.
const HUGE: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// Bytes mapped in front of `base`, for its alignment.
    before: usize,
}

// SAFETY: a mapping is plain memory, valid from any thread until it is unmapped by the only owner's drop. What
// may be read or written there, and by whom, is up to the types built on it.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out nothing but a raw pointer.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes, zeroed, on huge pages where the machine has some: reserved ones, else transparent ones. On small pages
    /// each chunk has a page of its own, and every frame costs a TLB miss.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let huge_len = len.next_multiple_of(HUGE);
        // SAFETY: a new private mapping at an address of the kernel's choice aliases nothing.
        let huge = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                huge_len,
                protection,
                MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::POPULATE,
            )
        };
        if let Ok(base) = huge {
            return Self::from_raw(base.cast(), huge_len);
        }
        let whole = huge_len + HUGE;
        // SAFETY: as above.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, protection, MapFlags::PRIVATE)? };
        let before = start.align_offset(HUGE);
        // SAFETY: `before` is less than HUGE, so HUGE-aligned `huge_len` bytes lie within the mapping.
        let base = unsafe { start.byte_add(before) };
        // SAFETY: advice on memory that is ours. A kernel that does not take it costs speed only.
        let _ = unsafe { madvise(base, huge_len, Advice::LinuxHugepage) };
        let mut mapping = Self::from_raw(base.cast(), whole - before)?;
        mapping.before = before;
        Ok(mapping)
    }

    /// `len` bytes of `fd` from `offset`, shared with the kernel.
    pub(crate) fn shared(fd: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases no Rust object. The kernel
        // writes there, so rings access it through atomics and hand slots over by the indices only (see ring/mod.rs).
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED | MapFlags::POPULATE, fd, offset)?
        };
        Self::from_raw(base.cast(), len)
    }

    fn from_raw(base: *mut u8, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { base, len, before: 0 })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are what mmap gave; the owner is gone, and with it every user of the memory.
        // A range that is mapped can be unmapped, so there is no error to report.
        let _ = unsafe { munmap(self.base.as_ptr().byte_sub(self.before).cast(), self.len + self.before) };
    }
}
