//! The rings' user side before a kernel that does anything. Input: steps of an operation and its numbers.
//!
//! Every chunk is in one place only, whatever indices and descriptors say; with a sane kernel, what was written arrives.
//!
//! Promise `hostile-input`.
#![no_main]

use af_xdp::simulated::{Kernel, Ring, Word, rings};
use af_xdp::{CHUNK_SIZE, Chunk, Completion, Fill, Fragment, RingFull, Rx, Tx, Umem};
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use std::collections::HashSet;
use std::sync::Arc;

const CHUNKS: u32 = 16;
const PLACES: u32 = 8;

fuzz_target!(|data: &[u8]| {
    let mut bed = Bed::new();
    let mut input = Input(data);
    while !input.is_empty() {
        bed.step(&mut input);
        bed.check();
    }
});

struct Bed {
    umem: Arc<Umem>,
    fill: Fill,
    completion: Completion,
    rx: Rx,
    tx: Tx,
    kernel: Kernel,
    free: Vec<Chunk>,
    held: Vec<Fragment>,
    /// Addresses that the kernel has taken out of a ring, with what it wrote there.
    filled: Vec<u64>,
    sent: Vec<u64>,
    /// What arrives next, as long as the kernel is sane.
    expected: std::collections::VecDeque<Vec<u8>>,
    sane: bool,
}

impl Bed {
    fn new() -> Self {
        let (umem, free) = Umem::new(CHUNKS).unwrap();
        let umem = Arc::new(umem);
        let (fill, completion, rx, tx, kernel) = rings(&umem, PLACES).unwrap();
        let (held, filled, sent) = Default::default();
        let expected = Default::default();
        Self { umem, fill, completion, rx, tx, kernel, free, held, filled, sent, expected, sane: true }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let n = |input: &mut Input<'_>| usize::from(input.byte() % 20);
        match input.byte() % 16 {
            0 => {
                self.fill.push(&mut self.free, n(input));
                self.fill.wake();
            }
            1 => {
                let reaped = self.completion.reap(&mut self.free);
                assert!(reaped <= PLACES as usize);
            }
            2 => {
                let before = self.held.len();
                let count = self.rx.receive(&mut self.held, n(input));
                assert_eq!(self.held.len(), before + count);
                let cut = self.held[before..].last().is_some_and(Fragment::continues);
                assert!(!cut, "a frame is whole, or empty");
                for fragment in &self.held[before..] {
                    let arrived = self.umem.data(fragment);
                    assert!(!self.sane || self.expected.pop_front().as_deref() == Some(arrived));
                }
            }
            3 => {
                if let Some(fragment) = self.held.pop() {
                    self.free.push(fragment.into_chunk());
                }
            }
            4 => {
                let Some(fragment) = self.held.pop() else { return };
                if let Err(RingFull(fragment)) = self.tx.push(fragment.skip(n(input))) {
                    self.held.push(fragment);
                }
            }
            5 => self.tx.publish(),
            6 => {
                let _ = self.tx.kick();
            }
            7 => {
                let Some(mut frame) = self.free.pop() else { return };
                self.umem.chunk_mut(&mut frame).fill(input.byte());
                let offset = usize::from(input.u16()) % CHUNK_SIZE;
                self.held.push(Fragment::new(frame, offset, CHUNK_SIZE - offset));
            }
            // A kernel as it should be.
            8 => self.filled.extend(self.kernel.take_fill()),
            9 => {
                let Some(address) = self.filled.pop() else { return };
                let bytes = vec![input.byte(); usize::from(input.u16()) % (CHUNK_SIZE - 255)];
                let written = self.kernel.write(address + 256, &bytes);
                assert!(written || !self.sane);
                if self.kernel.put_rx(address + 256, bytes.len() as u32, 0) {
                    self.expected.push_back(bytes);
                } else {
                    self.filled.push(address);
                }
            }
            10 => {
                let Some((address, len, _)) = self.kernel.take_tx() else { return };
                assert!(self.kernel.read(address, len as usize).is_some() || !self.sane);
                self.sent.push(address);
            }
            11 => {
                let Some(address) = self.sent.pop() else { return };
                if !self.kernel.put_completion(address) {
                    self.sent.push(address);
                }
            }
            12 => assert!(self.tx.pending() <= PLACES as usize),
            // And as it should not.
            13 => {
                self.sane = false;
                self.kernel.put_rx(address(input), input.u32() % 9000, input.u32());
            }
            14 => {
                self.sane = false;
                self.kernel.put_completion(address(input));
            }
            _ => {
                self.sane = false;
                let ring = [Ring::Fill, Ring::Completion, Ring::Rx, Ring::Tx][n(input) % 4];
                let word = [Word::Producer, Word::Consumer, Word::Flags][n(input) % 3];
                self.kernel.set(ring, word, input.u32());
            }
        }
    }

    /// Every chunk is in one place, and every fragment in its chunk.
    fn check(&mut self) {
        assert_eq!(self.free.len() + self.held.len() + self.umem.lent(), CHUNKS as usize);
        let mut chunks = HashSet::new();
        for frame in &mut self.free {
            assert!(
                chunks.insert(self.umem.chunk_mut(frame).as_ptr() as usize / CHUNK_SIZE),
                "a token twice"
            );
        }
        for fragment in &self.held {
            let data = self.umem.data(fragment);
            assert!(fragment.offset() + data.len() <= CHUNK_SIZE);
            assert!(chunks.insert(data.as_ptr() as usize / CHUNK_SIZE) || data.is_empty(), "a token twice");
            std::hint::black_box(data.iter().fold(0u8, |sum, byte| sum ^ byte));
        }
        if self.sane {
            assert_eq!(self.rx.faults() + self.completion.faults(), 0);
        }
    }
}

/// Any address, most of them in the UMEM or just behind it.
fn address(input: &mut Input<'_>) -> u64 {
    match input.byte() % 8 {
        0 => input.u64(),
        chunk => u64::from(chunk) * 3 % 17 * CHUNK_SIZE as u64 + u64::from(input.u16() % 4097),
    }
}
