//! A batch of 64 frames through the rings, with a simulated kernel at the other side: its share is in the figures.

use af_xdp::{Chunk, Fragment, Umem, simulated};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::sync::Arc;

const BATCH: usize = 64;
const RING: u32 = 2048;

pub(crate) fn all(criterion: &mut Criterion) {
    let (umem, mut free) = Umem::new(2 * RING).expect("16 MiB");
    let umem = Arc::new(umem);
    let (mut fill, mut completion, mut rx, mut tx, mut kernel) =
        simulated::rings(&umem, RING).expect("memory for four rings");
    let mut group = criterion.benchmark_group("rings");
    group.throughput(Throughput::Elements(BATCH as u64));

    let mut fragments: Vec<Fragment> = Vec::with_capacity(BATCH);
    group.bench_function("fill, receive", |bencher| {
        bencher.iter(|| {
            fill.push(&mut free, BATCH);
            assert_eq!(kernel.receive(BATCH, 80), BATCH);
            assert_eq!(rx.receive(&mut fragments, BATCH), BATCH);
            free.extend(fragments.drain(..).map(Fragment::into_chunk));
        });
    });

    group.bench_function("send, complete", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                let frame: Chunk = free.pop().expect("more chunks than a batch");
                tx.push(Fragment::new(frame, 64, 60)).expect("an empty ring");
            }
            tx.publish();
            black_box(tx.kick().expect("no system call is made"));
            assert_eq!(kernel.send(), BATCH);
            assert_eq!(completion.reap(&mut free), BATCH);
        });
    });
    group.finish();
}
