//! The rings' index protocol in every order that the memory model allows: `RUSTFLAGS="--cfg loom" cargo test -p af_xdp`
//! (`cargo xtask test` does it). The user's side is the code that runs; the kernel's is written here as the kernel's
//! documentation has it.

use crate::ring::checked::Shared;
use crate::ring::{Consumer, NEED_WAKEUP, Producer};
use crate::sync::{Ordering, fence};
use crate::umem::Umem;
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;

/// Numbers its descriptors from 1, because a slot that was never written holds 0.
fn produce(ring: Shared<u32>, count: u32) {
    let mut producer = Producer::on(ring);
    let mut n = 1;
    while n <= count {
        if producer.push(n).is_ok() {
            n += 1;
            producer.publish();
        } else {
            thread::yield_now();
        }
    }
}

/// Promise `orderings` (Memory): The rings' indices and the sleeping workers' flags are right in every
/// order of loads and stores (loom).
#[test]
fn descriptors_arrive_once_in_order_and_no_slot_is_touched_by_both() {
    loom::model(|| {
        // Two slots and three descriptors across the wrap of the indices: the third waits for a release.
        let ring = Shared::new(2, u32::MAX);
        let mut consumer = Consumer::on(ring.clone());
        let other = thread::spawn(move || produce(ring, 3));
        let mut expected = 1;
        while expected <= 3 {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(item, expected);
                    expected += 1;
                    consumer.release();
                }
                None => thread::yield_now(),
            }
        }
        other.join().unwrap();
        assert_eq!(consumer.pop(), None);
    });
}

/// Promise `orderings`.
#[test]
fn a_batch_is_seen_whole() {
    loom::model(|| {
        let ring = Shared::new(4, u32::MAX - 1);
        let mut consumer = Consumer::on(ring.clone());
        let other = thread::spawn(move || {
            let mut producer = Producer::on(ring);
            for n in 1..=3 {
                producer.push(n).unwrap();
            }
            producer.publish();
        });
        while consumer.available() == 0 {
            thread::yield_now();
        }
        let batch: Vec<u32> = std::iter::from_fn(|| consumer.pop()).collect();
        assert_eq!(batch, [1, 2, 3]);
        other.join().unwrap();
    });
}

/// The kernel sets the flag and looks at the ring once more; we publish and look at the flag. One sees the other.
///
/// Promise `orderings`.
#[test]
fn a_kernel_that_goes_to_sleep_sees_the_descriptor_or_is_woken() {
    loom::model(|| {
        let ring = Shared::<u32>::new(2, 0);
        let kernel_ring = ring.clone();
        let kernel = thread::spawn(move || {
            let mut consumer = Consumer::on(kernel_ring.clone());
            kernel_ring.flags().store(NEED_WAKEUP, Ordering::Release);
            fence(Ordering::SeqCst);
            consumer.pop().is_some()
        });
        let mut producer = Producer::on(ring);
        producer.push(7).unwrap();
        producer.publish();
        let woken = producer.needs_wakeup();
        let seen = kernel.join().unwrap();
        assert!(seen || woken, "the kernel sleeps on a ring that is not empty");
    });
}

/// A faulty driver may name one chunk in two rings at once: only one token comes of it.
///
/// Promise `orderings`.
#[test]
fn a_chunk_that_comes_back_twice_at_once_is_one_token() {
    loom::model(|| {
        let (umem, mut chunks) = Umem::new(1).unwrap();
        let umem = Arc::new(umem);
        let address = umem.lend(chunks.pop().unwrap(), 1);
        let other = umem.clone();
        let taken = thread::spawn(move || other.take_back(address, 1).is_some());
        let here = umem.take_back(address, 1).is_some();
        assert!(here != taken.join().unwrap(), "two tokens of one chunk, or none");
        assert_eq!(umem.lent(), 0);
    });
}

#[path = "../../../src/worker/sleep.rs"]
mod sleep;

/// A worker that goes to sleep, and the XDP program that copies a broadcast or multicast frame for it: `copy_to_worker` in
/// bpf/steer.bpf.c. The reservation moves the producer's position; the locked exchange is a full barrier.
///
/// Promise `orderings`.
#[test]
fn a_worker_that_goes_to_sleep_sees_the_copy_or_is_woken() {
    loom::model(|| {
        let asleep = Arc::new(crate::sync::AtomicU32::new(0));
        let reserved = Arc::new(AtomicBool::new(false));
        let (flag, ring) = (asleep.clone(), reserved.clone());
        let program = thread::spawn(move || {
            ring.store(true, Ordering::Release);
            fence(Ordering::SeqCst);
            let woken = flag.fetch_add(0, Ordering::AcqRel) != 0;
            fence(Ordering::SeqCst);
            woken
        });
        sleep::announce([&*asleep]);
        let seen = reserved.load(Ordering::Acquire);
        let woken = program.join().unwrap();
        assert!(seen || woken, "the worker sleeps, and its ring is not empty");
    });
}
