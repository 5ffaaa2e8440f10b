//! The consumer's side of a BPF ring buffer before a kernel that does anything, and what is made of its records. Input:
//! steps of an operation and its numbers.
//!
//! Promise `hostile-input`.
#![no_main]

use fuzz::{Input, Paper};
use iou_fast::steer::layout::{Copied, Stamp, read_moved};
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;

const PAGES: usize = 2;
const MAX: usize = 8;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut paper = Paper::new(PAGES);
    let mut ring = paper.ring(MAX);
    // What is read next, as long as the kernel is sane; the producer's records that are not read yet.
    let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
    let mut sane = true;
    while !input.is_empty() {
        match input.byte() % 8 {
            0 | 1 => {
                let record = input.piece();
                if paper.put(record, 0) {
                    expected.push_back(record.to_vec());
                }
            }
            2 => {
                paper.put(input.piece(), Paper::DISCARDED);
            }
            3 => {
                sane = false;
                paper.write(input.u16(), &input.u32().to_ne_bytes());
            }
            4 => {
                sane = false;
                paper.set_producer(input.u64() >> (input.byte() % 64));
            }
            _ => {
                let max = usize::from(input.byte());
                let count = ring.peek_up_to(max);
                assert!(count <= max.clamp(1, MAX));
                for n in 0..count {
                    let record = ring.record(n);
                    assert!(record.len() < PAGES * 4096);
                    read(record);
                    assert!(!sane || expected.pop_front().as_deref() == Some(record));
                }
                ring.release();
                assert!(!sane || count > 0 || expected.is_empty(), "records that are not read");
            }
        }
    }
    // However it was: some time there is nothing left.
    for _ in 0..PAGES * 4096 / 8 + 1 {
        ring.peek();
        ring.release();
    }
    assert!(ring.is_empty() || paper.is_busy());
});

fn read(record: &[u8]) {
    if let Some(copied) = Copied::read(record) {
        assert!(copied.frame.len() + 16 <= record.len());
        std::hint::black_box(copied.frame.iter().fold(0u8, |sum, byte| sum ^ byte));
    }
    assert_eq!(read_moved(record).is_some(), record.len() >= 16);
    if let Some(stamp) = Stamp::read(record) {
        for now in [0, 1 << 40, u64::MAX] {
            assert!(stamp.time(now) <= now && stamp.age(now) < 1 << 48);
        }
    }
}
