//! Each path of the XDP program, by the kernel's own test-run and clock. Criterion sees the kernel's figures.
//!
//! Test-run repeats a program on one packet without undoing what it did to it. The program measured here is wrapped in
//! one that moves the head back (bench/steer_undone.bpf.c); how many frames were steered is checked each time.

use criterion::Criterion;
use iou_fast::fdb::Station;
use iou_fast::iou::header::Header;
use iou_fast::iou::mac::{Mac, current};
use iou_fast::iou::{Endpoint, InstanceId, Interface};
use iou_fast::steer::layout::{Count, PortEntry, RouterState, mac_word};
use iou_fast::steer::{Options, Steering};
use iou_fast::sys::ringbuf::RingBuffer;
use libbpf_rs::ProgramInput;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use testbed::{Tag, frame};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer_undone.bpf.o"));

const NIC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WIRE: [u8; 6] = [0, 0x1b, 0x21, 0, 0, 2];
const STRANGER: [u8; 6] = [0, 0x1b, 0x21, 0, 0, 3];
/// HSRP group 1.
const HSRP: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
const UNTAGGED: &[Tag] = &[];
const TAGGED: &[Tag] = &[Tag::new(0x88a8, 5), Tag::vlan(6)];
/// Runs before the ring of copies is emptied: it holds 512 small ones.
const ROUNDS: u64 = 256;

/// The loaded program, and what it needs to steer.
struct Program {
    steering: Steering,
    copies: RingBuffer,
    _socket: OwnedFd,
}

pub(crate) fn all(criterion: &mut Criterion) {
    if !testbed::is_root() {
        println!("xdp: NOT RUN: to load the XDP program needs root (sudo -E cargo bench)");
        return;
    }
    let router = endpoint(1);
    let mut program = Program::load(router);
    let to = |destination, tags: &[Tag], len| frame(destination, WIRE, tags, 0x0800, len, 0);
    let predicted = current(router).0;
    let mut group = criterion.benchmark_group("xdp");
    let mut path = |name: &str, frame: Vec<u8>, count: Count| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| program.run(&frame, rounds, count));
        });
    };
    path("steer, learned", to(HSRP, UNTAGGED, 64), Count::Steered);
    path("steer, learned, 1514 B", to(HSRP, UNTAGGED, 1514), Count::Steered);
    path("steer, learned, two tags", to(HSRP, TAGGED, 72), Count::Steered);
    path("steer, predicted", to(predicted, UNTAGGED, 64), Count::Steered);
    path("pass, the host's own address", to(NIC, UNTAGGED, 64), Count::Passed);
    path("pass, unknown unicast", to(STRANGER, UNTAGGED, 64), Count::Passed);
    path("copy a group frame, 64 B", to(GROUP, UNTAGGED, 64), Count::GroupCopies);
    path("copy a group frame, 1514 B", to(GROUP, UNTAGGED, 1514), Count::GroupCopies);
    let state = &program.steering.tables().shared.router_state[0];
    state.store(RouterState::Paused as u8, Relaxed);
    group.bench_function("drop, router paused", |bencher| {
        let frame = to(HSRP, UNTAGGED, 64);
        bencher.iter_custom(|rounds| program.run(&frame, rounds, Count::RouterPaused));
    });
    group.finish();
}

fn endpoint(id: u16) -> Endpoint {
    let interface = Interface::new(0, 0).expect("0/0");
    Endpoint { id: InstanceId::new(id).expect("1-1024"), interface }
}

impl Program {
    fn load(router: Endpoint) -> Self {
        let options = Options { workers: 1, queues: 1, exclusive: false, learned: 64, predicted: 64 };
        let steering = Steering::load_object(OBJECT, &options).expect("the program can be loaded");
        // Any AF_XDP socket will do: the frames of a test-run go nowhere.
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .expect("an AF_XDP socket");
        steering.set_ring(&options, 0, 0, socket.as_fd()).expect("its place in the map");
        let tables = steering.tables();
        let entry = PortEntry { header: Header::data(router, endpoint(501)), router: 0, worker: 0, port: 0 };
        for (outer_vid, inner_vid) in [(0, 0), (5, 6)] {
            let station = Station { mac: Mac(HSRP), outer_vid, inner_vid };
            tables.insert_learned(&station, &entry).expect("a place in the map");
        }
        tables.insert_predicted(current(router), &entry).expect("a place in the map");
        tables.shared.nic_mac.store(mac_word(Mac(NIC)), Relaxed);
        tables.shared.group_workers.store(1, Relaxed);
        tables.shared.largest.store(iou_fast::steer::layout::MAX_STEERED as u32, Relaxed);
        tables.shared.live.store(1, Relaxed);
        let copies = steering.copies(0).expect("the ring can be mapped").0;
        Self { steering, copies, _socket: socket }
    }

    /// Runs the program on `frame` that often, and checks that `count` has grown by as much. Returns the time that the
    /// kernel measured.
    fn run(&mut self, frame: &[u8], rounds: u64, count: Count) -> Duration {
        let before = self.steering.tables().count(count).expect("counters");
        let program = self.steering.object().progs_mut().find(|program| program.name() == "steer");
        let program = program.expect("the object has it");
        let mut spent = Duration::ZERO;
        let mut left = rounds;
        while left > 0 {
            let repeat = left.min(ROUNDS);
            let input = ProgramInput { data_in: Some(frame), repeat: repeat as u32, ..Default::default() };
            let output = program.test_run(input).expect("test-run");
            spent += output.duration * repeat as u32;
            left -= repeat;
            while self.copies.peek() > 0 {
                self.copies.release();
            }
        }
        let after = self.steering.tables().count(count).expect("counters");
        assert_eq!(after - before, rounds, "{count:?} out of {rounds} runs");
        spent
    }
}
