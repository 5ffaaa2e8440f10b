//! The single-producer, single-consumer rings that user space shares with the kernel.
//!
//! A ring has two free-running 32-bit indices and an array of descriptors, whose number is a power of two. The producer
//! writes descriptors and then publishes them by a release store of its index. The consumer sees them by an acquire load,
//! copies them out, and releases the slots by a release store of its own index. Each side caches the index of the other
//! and reads it again only when the cached one says full or empty.

#[cfg(loom)]
pub(crate) mod checked;
#[cfg(not(loom))]
mod memory;
#[cfg(all(any(test, feature = "simulated"), not(loom)))]
pub(crate) mod pair;

#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};
#[cfg(loom)]
use checked::Shared;
#[cfg(not(loom))]
pub(crate) use memory::Layout;
#[cfg(not(loom))]
use memory::Shared;
#[cfg(all(any(test, feature = "simulated"), not(loom)))]
pub use memory::Word;

/// Says in `flags` that the kernel sleeps on this ring (`XDP_RING_NEED_WAKEUP`).
pub(crate) const NEED_WAKEUP: u32 = 1;

/// The side that fills a ring with descriptors.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Shared<T>,
    /// Next index to write; published up to `published`.
    next: u32,
    published: u32,
    /// The other side's index as last seen.
    consumer: u32,
}

impl<T: Copy> Producer<T> {
    #[cfg(not(loom))]
    pub(crate) fn new(memory: Mapping, layout: Layout, size: u32) -> Self {
        Self::on(Shared::new(memory, layout, size))
    }

    pub(crate) fn on(ring: Shared<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let consumer = ring.consumer().load(Ordering::Acquire);
        Self { ring, next, published: next, consumer }
    }

    /// Number of slots.
    #[cfg(not(loom))]
    pub(crate) fn size(&self) -> u32 {
        self.ring.size()
    }

    /// Number of free slots; reads the other side's index only if fewer than `wanted` are known.
    ///
    /// A consumer index that is ahead of ours is invalid and counts as a full ring.
    pub(crate) fn free(&mut self, wanted: u32) -> u32 {
        let free = |consumer: u32| self.ring.size().saturating_sub(self.next.wrapping_sub(consumer));
        let known = free(self.consumer);
        if known >= wanted {
            return known;
        }
        self.consumer = self.ring.consumer().load(Ordering::Acquire);
        free(self.consumer)
    }

    /// Writes `item` into the next slot, or returns it if the ring is full. Not visible until `publish`.
    pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
        if self.free(1) == 0 {
            return Err(item);
        }
        self.ring.write(self.next, item);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Hands everything pushed to the other side.
    pub(crate) fn publish(&mut self) {
        if self.published != self.next {
            self.ring.producer().store(self.next, Ordering::Release);
            self.published = self.next;
        }
    }

    /// Published descriptors that the other side has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumer = self.ring.consumer().load(Ordering::Acquire);
        self.published.wrapping_sub(self.consumer).min(self.ring.size())
    }

    /// Those of the [pending](Self::pending) descriptors, the oldest first.
    pub(crate) fn iter_pending(&mut self) -> impl Iterator<Item = T> {
        let pending = self.pending();
        let first = self.published.wrapping_sub(pending);
        // Only this side writes these slots, and it is borrowed here.
        (0..pending).map(move |n| self.ring.read(first.wrapping_add(n)))
    }

    /// True if the other side sleeps: it may not see by itself what was published before this call.
    pub(crate) fn needs_wakeup(&self) -> bool {
        // Without the barrier the flag may be read before the kernel sees the index. The kernel, which sets the flag and
        // then reads the index once more, would sleep on a ring that is not empty. src/model.rs shows it.
        fence(Ordering::SeqCst);
        self.ring.flags().load(Ordering::Acquire) & NEED_WAKEUP != 0
    }

    /// Sets a word of the ring, as only a faulty kernel would.
    #[cfg(all(any(test, feature = "simulated"), not(loom)))]
    pub(crate) fn set(&self, word: Word, value: u32) {
        self.ring.set(word, value);
    }
}

/// The side that takes descriptors out of a ring.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Shared<T>,
    next: u32,
    released: u32,
    producer: u32,
}

impl<T: Copy> Consumer<T> {
    #[cfg(not(loom))]
    pub(crate) fn new(memory: Mapping, layout: Layout, size: u32) -> Self {
        Self::on(Shared::new(memory, layout, size))
    }

    pub(crate) fn on(ring: Shared<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        let producer = ring.producer().load(Ordering::Acquire);
        Self { ring, next, released: next, producer }
    }

    /// Number of waiting descriptors; reads the other side's index only if none is known.
    ///
    /// A producer index more than a ring ahead is invalid and counts as one full ring.
    pub(crate) fn available(&mut self) -> u32 {
        let waiting = |producer: u32| producer.wrapping_sub(self.next).min(self.ring.size());
        let known = waiting(self.producer);
        if known > 0 {
            return known;
        }
        self.producer = self.ring.producer().load(Ordering::Acquire);
        waiting(self.producer)
    }

    /// The next descriptor. Its slot stays in use until `release`.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        let item = self.ring.read(self.next);
        self.next = self.next.wrapping_add(1);
        Some(item)
    }

    /// Releases the slots of everything popped to the other side.
    pub(crate) fn release(&mut self) {
        if self.released != self.next {
            self.ring.consumer().store(self.next, Ordering::Release);
            self.released = self.next;
        }
    }

    /// Sets a word of the ring, as only a faulty kernel would.
    #[cfg(all(any(test, feature = "simulated"), not(loom)))]
    pub(crate) fn set(&self, word: Word, value: u32) {
        self.ring.set(word, value);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn pair<T: Copy>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
        pair::pair(size, start).unwrap()
    }

    #[test]
    fn indices_wrap_around() {
        let (mut producer, mut consumer) = pair::<u64>(4, u32::MAX - 1);
        for round in 0..10u64 {
            for n in 0..4 {
                producer.push(round * 4 + n).unwrap();
            }
            assert_eq!(producer.push(99), Err(99), "five items in a ring of four");
            assert_eq!(consumer.pop(), None, "not published yet");
            producer.publish();
            assert_eq!(producer.pending(), 4);
            let got: Vec<u64> = std::iter::from_fn(|| consumer.pop()).collect();
            assert_eq!(got, [0, 1, 2, 3].map(|n| round * 4 + n));
            assert_eq!(producer.free(1), 0, "not released yet");
            consumer.release();
            assert_eq!(producer.free(1), 4);
            assert_eq!(producer.pending(), 0);
        }
    }

    #[test]
    fn an_invalid_index_of_the_other_side_stays_within_the_ring() {
        let (mut producer, mut consumer) = pair::<u64>(4, 0);
        consumer.ring.producer().store(1 << 31, Ordering::Release);
        assert_eq!(consumer.available(), 4);
        for _ in 0..100 {
            let _ = consumer.pop();
        }
        producer.ring.consumer().store(77, Ordering::Release);
        assert_eq!(producer.free(5), 0, "a consumer ahead of us frees nothing");
        assert_eq!(producer.push(1), Err(1));
    }

    #[test]
    fn the_wakeup_flag_is_read_fresh() {
        let (producer, consumer) = pair::<u64>(4, 0);
        assert!(!producer.needs_wakeup());
        consumer.ring.flags().store(NEED_WAKEUP, Ordering::Release);
        assert!(producer.needs_wakeup());
    }

    #[test]
    fn two_threads_pass_a_million_items_in_order() {
        let (mut producer, mut consumer) = pair::<u64>(64, u32::MAX - 1000);
        const N: u64 = 1_000_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut n = 0;
                while n < N {
                    while n < N && producer.push(n).is_ok() {
                        n += 1;
                    }
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut expected = 0;
            while expected < N {
                while let Some(item) = consumer.pop() {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }

    proptest! {
        /// Compared with a queue: no sequence of operations loses, doubles or reorders an item.
        #[test]
        fn behaves_as_a_bounded_queue(start: u32, operations in prop::collection::vec(0u8..4, 0..400)) {
            let (mut producer, mut consumer) = pair::<u64>(8, start);
            let (mut pushed, mut published, mut popped) = (VecDeque::new(), VecDeque::new(), 0usize);
            let mut n = 0;
            for operation in operations {
                match operation {
                    0 => {
                        let fits = pushed.len() + published.len() + popped < 8;
                        prop_assert_eq!(producer.push(n).is_ok(), fits);
                        if fits { pushed.push_back(n); }
                        n += 1;
                    }
                    1 => { producer.publish(); published.append(&mut pushed); }
                    2 => {
                        let expected = published.pop_front();
                        popped += usize::from(expected.is_some());
                        prop_assert_eq!(consumer.pop(), expected);
                    }
                    _ => { consumer.release(); popped = 0; }
                }
            }
        }
    }
}
