//! The value of a one-element mappable BPF array, shared with the XDP program.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// A struct of atomics that may be shared, laid out as in C, for which all zeros are a value.
///
/// # Safety
/// The type must be `repr(C)`, consist of atomic integers only, and be the layout of the map's value.
pub unsafe trait SharedValue {}

/// A mapped `T`.
#[derive(Debug)]
pub struct Shared<T> {
    value: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: T consists of atomics (SharedValue), to which any thread may refer; the mapping lives as long as self.
unsafe impl<T: SharedValue> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: SharedValue> Sync for Shared<T> {}

impl<T: SharedValue> Shared<T> {
    /// Maps the value of `map`.
    ///
    /// # Errors
    /// What `mmap` says: the map is not mappable, or smaller than a `T`.
    pub fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let len = size_of::<T>().next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address of the kernel's choice aliases no Rust object.
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)?
        };
        let value = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { value, len, owns: PhantomData })
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `map` mapped at least size_of::<T>() bytes, page-aligned; T is all atomics, so that the BPF
        // program changes it under this reference is allowed.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: what mmap gave, unmapped once, by its only owner.
        let _ = unsafe { munmap(self.value.as_ptr().cast(), self.len) };
    }
}

/// In-flight credits, one for each worker's ring on a queue; rings beyond are without a limit.
pub const MAX_CREDITS: usize = 512;

/// `struct shared` of `bpf/steer.h`.
#[repr(C)]
#[derive(Debug)]
pub struct SteerShared {
    /// By router index: `ROUTER_READY`, `ROUTER_PAUSED` or `ROUTER_DOWN`.
    pub router_state: [AtomicU8; 65536],
    /// By worker: 1 while it sleeps and wants to be woken for broadcast and multicast frames.
    pub asleep: [AtomicU32; 64],
    /// Bit w: worker w has routers on this LAN.
    pub bum_workers: AtomicU64,
    /// The NIC's own address, as the program compares it.
    pub nic_mac: AtomicU64,
    /// 0: pass everything.
    pub live: AtomicU32,
    /// The worker of the port that gets unknown unicast.
    pub flood_worker: AtomicU32,
    /// 1: unknown unicast is copied.
    pub flood_unknown: AtomicU32,
    /// With `--exclusive`: the worker that gets broadcast and multicast frames by redirect.
    pub bum_owner: AtomicU32,
    /// 0: no address was ever learned, so none is looked up.
    pub any_dynamic: AtomicU32,
    /// The largest frame that is steered, bytes.
    pub largest: AtomicU32,
    /// Chunks that may be in flight to a worker's ring on a queue, the credit limit; 0: no limit.
    pub credit_limit: AtomicU32,
    /// Bytes that the head takes of a frame's first chunk; 0 with zero-copy, where it lies in front of what is counted.
    pub credit_head: AtomicU32,
    /// By queue * workers + worker.
    pub credits: [SteerCredits; MAX_CREDITS],
}

/// `struct credits` of `bpf/steer.h`: the in-flight credits of a worker's ring on a queue.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SteerCredits {
    /// Chunks of frames that were redirected; wraps.
    pub steered: AtomicU32,
    /// Those frames; wraps.
    pub frames: AtomicU32,
    unused: [AtomicU32; 14],
    /// Of the chunks, those that have been replaced in the fill ring; wraps.
    pub returned: AtomicU32,
    unused2: [AtomicU32; 15],
}

// SAFETY: repr(C), atomics only; a test compares it with the BTF of the program.
unsafe impl SharedValue for SteerShared {}
