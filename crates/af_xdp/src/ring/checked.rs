//! A ring's memory for the model checker: it notices when one side touches a place that is the other's.

use crate::sync::AtomicU32;
use loom::cell::UnsafeCell;
use loom::sync::Arc;

#[derive(Debug)]
struct Memory<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    places: Vec<UnsafeCell<T>>,
}

/// As the `Shared` of memory.rs; a clone is the other side's mapping of the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Shared<T>(Arc<Memory<T>>);

// SAFETY: the places are handed from one side to the other by the indices; whether that holds is what is checked.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Memory<T> {}

impl<T: Copy + Default> Shared<T> {
    /// `size` places, both indices at `start`.
    pub(crate) fn new(size: u32, start: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring has a power of two of places");
        Self(Arc::new(Memory {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            places: (0..size).map(|_| UnsafeCell::new(T::default())).collect(),
        }))
    }
}

impl<T: Copy> Shared<T> {
    pub(super) fn size(&self) -> u32 {
        self.0.places.len() as u32
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
        // SAFETY: loom panics if the other side may be reading or writing the place now.
        self.place(index).with_mut(|place| unsafe { place.write(item) });
    }

    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: loom panics if the other side may be writing the place now.
        self.place(index).with(|place| unsafe { place.read() })
    }

    fn place(&self, index: u32) -> &UnsafeCell<T> {
        &self.0.places[(index & (self.size() - 1)) as usize]
    }
}
