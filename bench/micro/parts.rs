//! Headers, MAC addresses, the forwarding database, the NETMAP, latencies.

use criterion::{BatchSize, Criterion, Throughput};
use iou_fast::ether::Address;
use iou_fast::ether::Mac;
use iou_fast::ether::View;
use iou_fast::fdb::Fdb;
use iou_fast::ids::PortId;
use iou_fast::iou::header::Header;
use iou_fast::iou::mac::{current, static_addresses};
use iou_fast::iou::{Endpoint, InstanceId, Interface};
use iou_fast::netmap::Netmap;
use iou_fast::stats::Latency;
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use testbed::{Tag, frame};

const NIC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PORTS: u16 = 50;

pub(crate) fn all(criterion: &mut Criterion) {
    headers(criterion);
    fdb(criterion);
    netmap(criterion);
    latency(criterion);
}

fn endpoint(id: u16, interface: u8) -> Endpoint {
    Endpoint { id: InstanceId::new(id).expect("1-1024"), interface: Interface(interface) }
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    let (router, pseudo) = (endpoint(1, 0x10), endpoint(501, 0));
    let datagram = Header::data(pseudo, router).0;
    let word = Header::data(pseudo, router).word();
    group.bench_function("write an IOU header", |bencher| {
        bencher.iter(|| Header::data(black_box(router), black_box(pseudo)));
    });
    group.bench_function("check an IOU header", |bencher| {
        bencher.iter(|| Header::read(black_box(&datagram)).map(Header::word) == Some(black_box(word)));
    });
    group.bench_function("MAC of an interface", |bencher| bencher.iter(|| current(black_box(router))));
    group.bench_function("all MAC patterns", |bencher| {
        bencher.iter(|| static_addresses(black_box(router), 1000))
    });
    for (name, tags) in [("untagged", &[][..]), ("two tags", &[Tag::new(0x88a8, 5), Tag::vlan(6)][..])] {
        let frame = frame(NIC.0, current(router).0, tags, 0x0800, 64, 0);
        group.bench_function(format!("addresses of a frame, {name}"), |bencher| {
            bencher.iter(|| View::read(black_box(&frame)));
        });
    }
    group.finish();
}

fn station(n: u32) -> Address {
    let [a, b, c, d] = n.to_be_bytes();
    Address { mac: Mac([0, 0x1b, a, b, c, d]), outer_vid: 0, inner_vid: 0 }
}

/// A database as full as that of 50 routers gets.
fn full() -> Fdb {
    let mut fdb = Fdb::new(NIC, usize::from(PORTS));
    for port in 0..PORTS {
        fdb.add_static(current(endpoint(port + 1, 0)), PortId::new(port.into()));
    }
    for n in 0..Fdb::capacity(PORTS.into()) as u32 {
        fdb.learn(station(n), PortId::new(n % u32::from(PORTS)), Duration::ZERO);
    }
    fdb
}

fn fdb(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fdb");
    let mut database = full();
    let learned = database.dynamic_len() as u32;
    let mut n = 0;
    group.bench_function("learn what is known", |bencher| {
        bencher.iter(|| {
            n = (n + 1) % learned;
            database.learn(station(n), PortId::new(n % u32::from(PORTS)), Duration::from_secs(1))
        });
    });
    let mut new = learned;
    group.bench_function("learn a new station, full table", |bencher| {
        bencher.iter(|| {
            new += 1;
            // At a rate that every port may learn at.
            database.learn(
                station(new),
                PortId::new(new % u32::from(PORTS)),
                Duration::from_millis(new.into()),
            )
        });
    });
    let database = full();
    group.bench_function("look up a learned station", |bencher| {
        bencher.iter(|| {
            n = (n + 1) % learned;
            database.lookup(&station(n))
        });
    });
    group.bench_function("look up a static_addresses address", |bencher| {
        let station = Address { mac: current(endpoint(7, 0)), outer_vid: 10, inner_vid: 0 };
        bencher.iter(|| database.lookup(black_box(&station)));
    });
    group.bench_function("look up a stranger", |bencher| {
        bencher.iter(|| database.lookup(black_box(&station(u32::MAX))));
    });
    group.finish();
}

fn netmap(criterion: &mut Criterion) {
    const LINES: u32 = 10_000;
    let mut text = String::new();
    for n in 0..LINES {
        // 800 routers with 13 interfaces each, opposite 200 pseudo ids with up to 50.
        let _ = writeln!(text, "{}:{}/{} {}:{}", n % 800 + 1, n / 800 % 4, n / 3200, 801 + n % 200, n / 200);
    }
    let mut group = criterion.benchmark_group("netmap");
    group.throughput(Throughput::Elements(u64::from(LINES)));
    group.sample_size(20);
    group.bench_function("10,000 lines", |bencher| {
        bencher.iter(|| {
            let netmap = Netmap::parse(black_box(text.as_bytes()), Path::new("NETMAP")).expect("it is right");
            assert_eq!(netmap.lines.len(), LINES as usize);
            netmap
        });
    });
    group.finish();
}

fn latency(criterion: &mut Criterion) {
    const FRAMES: u64 = 64;
    let mut group = criterion.benchmark_group("latency");
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("record 64 frames", |bencher| {
        let mut ns = 1000;
        bencher.iter_batched_ref(
            Latency::default,
            |latency| {
                for _ in 0..FRAMES {
                    ns = ns * 29 % 99_991;
                    latency.record(ns, 1);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
