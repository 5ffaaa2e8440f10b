//! A ring's memory: indices, flags and descriptors in a mapping that is shared with the kernel.

use crate::mapping::Mapping;
use crate::sync::AtomicU32;
#[cfg(any(test, feature = "simulated"))]
use crate::sync::Ordering;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Offsets of a ring's parts in its mapping, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) producer: u64,
    pub(crate) consumer: u64,
    pub(crate) flags: u64,
    pub(crate) descriptors: u64,
}

impl Layout {
    /// Size in bytes of a ring of `size` descriptors of type `T`.
    pub(crate) fn bytes<T>(&self, size: u32) -> usize {
        self.descriptors as usize + size as usize * size_of::<T>()
    }
}

/// A word of a ring beside its descriptors.
#[cfg(any(test, feature = "simulated"))]
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// The index of the side that fills it.
    Producer,
    /// The index of the side that empties it.
    Consumer,
    /// The flags, which say whether the kernel sleeps.
    Flags,
}

/// A ring of descriptors `T` (plain integers and structs of them) in shared memory.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    memory: Mapping,
    layout: Layout,
    size: u32,
    descriptor: PhantomData<T>,
}

impl<T: Copy> Shared<T> {
    pub(super) fn new(memory: Mapping, layout: Layout, size: u32) -> Self {
        assert!(size.is_power_of_two(), "the number of slots is a power of two");
        assert!(layout.bytes::<T>(size) <= memory.len(), "the ring does not fit into its mapping");
        for at in [layout.producer, layout.consumer, layout.flags] {
            assert!(at as usize + 4 <= memory.len() && at.is_multiple_of(4), "an index outside the mapping");
        }
        assert!((layout.descriptors as usize).is_multiple_of(align_of::<T>()), "misaligned descriptors");
        Self { memory, layout, size, descriptor: PhantomData }
    }

    /// Number of slots.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word(self.layout.producer)
    }

    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word(self.layout.consumer)
    }

    pub(super) fn flags(&self) -> &AtomicU32 {
        self.word(self.layout.flags)
    }

    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn set(&self, word: Word, value: u32) {
        let word = match word {
            Word::Producer => self.producer(),
            Word::Consumer => self.consumer(),
            Word::Flags => self.flags(),
        };
        word.store(value, Ordering::Release);
    }

    /// Writes into slot `index`, modulo the ring's size; it must belong to this side.
    pub(super) fn write(&self, index: u32, item: T) {
        // SAFETY: the slot lies in the mapping; it is free, so the other side does not read it before it is published.
        unsafe { self.slot(index).write(item) };
    }

    /// Reads slot `index`, modulo the ring's size; it must belong to this side.
    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: the slot lies in the mapping and was published by the other side, which does not write it
        // again before it is released; or this side has written it, and the other side only reads it. T is plain data:
        // any bytes are a valid value.
        unsafe { self.slot(index).read() }
    }

    fn word(&self, at: u64) -> &AtomicU32 {
        // SAFETY: `new` checked that four aligned bytes lie there. Page alignment of the base keeps alignment.
        // The kernel accesses the word atomically, and nothing else in this process refers to it otherwise.
        unsafe { self.memory.base().add(at as usize).cast().as_ref() }
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        let slot = (index & (self.size - 1)) as usize;
        // SAFETY: slot < size, and `new` checked that size descriptors lie within the mapping, aligned.
        unsafe { self.memory.base().add(self.layout.descriptors as usize).cast::<T>().add(slot) }
    }
}
