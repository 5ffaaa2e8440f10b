//! A ring's memory for the model checker, which notices when one side touches a slot that belongs to the other.

use crate::sync::AtomicU32;
use loom::cell::UnsafeCell;
use loom::sync::Arc;

#[derive(Debug)]
struct Memory<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: Vec<UnsafeCell<T>>,
}

/// As the `Shared` of memory.rs; a clone stands for the other side's mapping of the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Shared<T>(Arc<Memory<T>>);

// SAFETY: the indices hand the slots from one side to the other; loom checks that they do.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Memory<T> {}

impl<T: Copy + Default> Shared<T> {
    /// `size` slots, both indices at `start`.
    pub(crate) fn new(size: u32, start: u32) -> Self {
        assert!(size.is_power_of_two(), "the number of slots is a power of two");
        Self(Arc::new(Memory {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            slots: (0..size).map(|_| UnsafeCell::new(T::default())).collect(),
        }))
    }
}

impl<T: Copy> Shared<T> {
    pub(super) fn size(&self) -> u32 {
        self.0.slots.len() as u32
    }

    pub(super) fn producer(&self) -> &AtomicU32 {
        &self.0.producer
    }

    pub(super) fn consumer(&self) -> &AtomicU32 {
        &self.0.consumer
    }

    pub(crate) fn flags(&self) -> &AtomicU32 {
        &self.0.flags
    }

    pub(super) fn write(&self, index: u32, item: T) {
        // SAFETY: loom panics if the other side may be reading or writing the slot now.
        self.slot(index).with_mut(|slot| unsafe { slot.write(item) });
    }

    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: loom panics if the other side may be writing the slot now.
        self.slot(index).with(|slot| unsafe { slot.read() })
    }

    fn slot(&self, index: u32) -> &UnsafeCell<T> {
        &self.0.slots[(index & (self.size() - 1)) as usize]
    }
}
