//! Each path of the XDP program, by the kernel's own test-run and clock. Criterion sees the kernel's figures.
//!
//! Test-run repeats a program on one packet without undoing what it did to it. The program measured here is wrapped in
//! one that moves the head back (bench/steer_undone.bpf.c); how many frames were steered is checked each time.

use criterion::Criterion;
use iou_fast::ether::Address;
use iou_fast::ether::Mac;
use iou_fast::iou::header::Header;
use iou_fast::iou::mac::current;
use iou_fast::iou::{Endpoint, InstanceId, Interface};
use iou_fast::steer::layout::{Count, HEAD, PortEntry, RouterState, mac_word};
use iou_fast::steer::{Options, Steering};
use iou_fast::sys::ringbuf::RingBuffer;
use iou_fast::sys::shared::SteerShared;
use libbpf_rs::ProgramInput;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};
use testbed::{Tag, frame};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer_undone.bpf.o"));

const NIC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WIRE: [u8; 6] = [0, 0x1b, 0x21, 0, 0, 2];
const STRANGER: [u8; 6] = [0, 0x1b, 0x21, 0, 0, 3];
/// The first of 256 stations that move.
const MOVER: [u8; 6] = [0, 0x1b, 0x21, 0, 1, 0];
/// HSRP group 1.
const HSRP: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
const UNTAGGED: &[Tag] = &[];
const TAGGED: &[Tag] = &[Tag::new(0x88a8, 5), Tag::vlan(6)];
/// Runs before the ring of copies is emptied: it holds 512 small ones.
const ROUNDS: u64 = 256;

/// Chunks that may be on their way to the worker, as with one worker and one queue.
const SHARE: u32 = 2048;
/// How often a worker at work returns credits: once per coalescing pause and batch.
const BATCH_TIME: Duration = Duration::from_micros(10);

/// The loaded program, and what it needs to steer.
struct Program {
    steering: Steering,
    copies: RingBuffer,
    moves: RingBuffer,
    /// Of the chunks in flight, so many are never taken.
    lag: u32,
    router: Endpoint,
    _socket: OwnedFd,
}

pub(crate) fn all(criterion: &mut Criterion) {
    if !testbed::is_root() {
        println!("xdp: NOT RUN: to load the XDP program needs root (sudo -E cargo bench)");
        return;
    }
    let router = endpoint(1);
    let mut program = Program::load(router, false);
    let tables = program.steering.tables().clone();
    let shared = &tables.shared;
    let to = |destination, tags: &[Tag], len| frame(destination, WIRE, tags, 0x0800, len, 0);
    let static_fdb = current(router).0;
    let mut group = criterion.benchmark_group("xdp");
    // The kernel measures each run; there are many paths.
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_millis(1500));
    let mut path = |program: &mut Program, name: &str, frame: Vec<u8>, count: Count| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| program.run(&frame, rounds, count));
        });
    };
    path(&mut program, "steer, learned", to(HSRP, UNTAGGED, 64), Count::Steered);
    path(&mut program, "steer, learned, 1514 B", to(HSRP, UNTAGGED, 1514), Count::Steered);
    path(&mut program, "steer, learned, two tags", to(HSRP, TAGGED, 72), Count::Steered);
    path(&mut program, "steer, static_fdb", to(static_fdb, UNTAGGED, 64), Count::Steered);
    // To tell what that costs: what is on its way is not bounded.
    shared.credit_limit.store(0, Relaxed);
    path(&mut program, "steer, learned, unbounded", to(HSRP, UNTAGGED, 64), Count::Steered);
    shared.credit_limit.store(SHARE, Relaxed);
    beside_a_worker(shared, || {
        path(&mut program, "steer, learned, worker at work", to(HSRP, UNTAGGED, 64), Count::Steered);
    });
    path(&mut program, "pass, the host's own address", to(NIC, UNTAGGED, 64), Count::Passed);
    path(&mut program, "pass, unknown unicast", to(STRANGER, UNTAGGED, 64), Count::Passed);
    let from_mover = frame(NIC, MOVER, UNTAGGED, 0x0800, 64, 0);
    path(&mut program, "pass, source moved", from_mover, Count::Moved);
    shared.flood_unknown.store(1, Relaxed);
    path(&mut program, "copy unknown unicast, 64 B", to(STRANGER, UNTAGGED, 64), Count::UnknownCopies);
    shared.flood_unknown.store(0, Relaxed);
    path(
        &mut program,
        "copy a broadcast or multicast frame, 64 B",
        to(GROUP, UNTAGGED, 64),
        Count::BumCopies,
    );
    path(
        &mut program,
        "copy a broadcast or multicast frame, 1514 B",
        to(GROUP, UNTAGGED, 1514),
        Count::BumCopies,
    );
    let mut exclusive = Program::load(router, true);
    path(
        &mut exclusive,
        "steer a broadcast or multicast frame, exclusive",
        to(GROUP, UNTAGGED, 64),
        Count::BumSteered,
    );

    let state = &shared.router_state[0];
    state.store(RouterState::Paused as u8, Relaxed);
    path(&mut program, "drop, router paused", to(HSRP, UNTAGGED, 64), Count::RouterPaused);
    state.store(RouterState::Down as u8, Relaxed);
    path(&mut program, "drop, router down", to(HSRP, UNTAGGED, 64), Count::RouterDown);
    state.store(RouterState::Ready as u8, Relaxed);
    program.lag = SHARE;
    path(&mut program, "drop, worker busy", to(HSRP, UNTAGGED, 64), Count::WorkerBusy);
    program.lag = 0;
    shared.largest.store(1000, Relaxed);
    path(&mut program, "drop, too large", to(HSRP, UNTAGGED, 1514), Count::TooLarge);
    group.finish();
}

/// Does `measure` while a thread on another CPU returns credits, as a worker does.
fn beside_a_worker(shared: &SteerShared, measure: impl FnOnce()) {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let credits = &shared.credits[0];
            while !end.load(Relaxed) {
                credits.returned.store(credits.steered.load(Relaxed), Release);
                let start = Instant::now();
                while start.elapsed() < BATCH_TIME {
                    std::hint::spin_loop();
                }
            }
        });
        measure();
        end.store(true, Relaxed);
    });
}

fn endpoint(id: u16) -> Endpoint {
    let interface = Interface::new(0, 0).expect("0/0");
    Endpoint { id: InstanceId::new(id).expect("1-1024"), interface }
}

/// What is behind `router` is behind its port 0.
fn entry(router: Endpoint) -> PortEntry {
    PortEntry { header: Header::data(router, endpoint(501)), router: 0, worker: 0, port: 0 }
}

impl Program {
    fn load(router: Endpoint, exclusive: bool) -> Self {
        let options = Options { workers: 1, queues: 1, exclusive, dynamic_entries: 1024, static_entries: 64 };
        let steering = Steering::load_object(OBJECT, &options).expect("the program can be loaded");
        // Any AF_XDP socket will do: the frames of a test-run go nowhere.
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .expect("an AF_XDP socket");
        steering.set_ring(&options, 0, 0, socket.as_fd()).expect("its place in the map");
        let tables = steering.tables();
        let entry = entry(router);
        for (outer_vid, inner_vid) in [(0, 0), (5, 6)] {
            let station = Address { mac: Mac(HSRP), outer_vid, inner_vid };
            tables.insert_dynamic(&station, &entry).expect("a place in the map");
        }
        tables.insert_static(current(router), &entry).expect("a place in the map");
        tables.shared.nic_mac.store(mac_word(Mac(NIC)), Relaxed);
        tables.shared.bum_workers.store(1, Relaxed);
        tables.shared.largest.store(iou_fast::steer::layout::MAX_STEERED as u32, Relaxed);
        // As the control thread sets them for a NIC without zero-copy.
        tables.shared.credit_limit.store(SHARE, Relaxed);
        tables.shared.credit_head.store(HEAD as u32, Relaxed);
        tables.shared.live.store(1, Relaxed);
        let copies = steering.copies(0).expect("the ring can be mapped").0;
        let moves = steering.moves().expect("the ring can be mapped").0;
        Self { steering, copies, moves, lag: 0, router, _socket: socket }
    }

    /// Runs the program on `frame` that often, and checks that `count` has grown by as much. Returns the time that the
    /// kernel measured.
    fn run(&mut self, frame: &[u8], rounds: u64, count: Count) -> Duration {
        let tables = self.steering.tables().clone();
        let before = tables.count(count).expect("counters");
        let name = if count == Count::Moved { "steer_from_many" } else { "steer" };
        let program = self.steering.object().progs_mut().find(|program| program.name() == name);
        let program = program.expect("the object has it");
        let credits = &tables.shared.credits[0];
        let mut spent = Duration::ZERO;
        let mut left = rounds;
        while left > 0 {
            let repeat = left.min(ROUNDS);
            credits.returned.store(credits.steered.load(Relaxed).wrapping_sub(self.lag), Release);
            if count == Count::Moved {
                self.learn_all();
            }
            let input = ProgramInput { data_in: Some(frame), repeat: repeat as u32, ..Default::default() };
            let output = program.test_run(input).expect("test-run");
            spent += output.duration * repeat as u32;
            left -= repeat;
            while self.copies.peek() > 0 {
                self.copies.release();
            }
            while self.moves.peek() > 0 {
                self.moves.release();
            }
        }
        let after = tables.count(count).expect("counters");
        assert_eq!(after - before, rounds, "{count:?} out of {rounds} runs");
        spent
    }

    /// The stations from which `steer_from_many` sends are behind the router, all of them.
    fn learn_all(&self) {
        for last in 0..=u8::MAX {
            let [a, b, c, d, e, _] = MOVER;
            let station = Address { mac: Mac([a, b, c, d, e, last]), outer_vid: 0, inner_vid: 0 };
            let inserted = self.steering.tables().insert_dynamic(&station, &entry(self.router));
            inserted.expect("a place in the map");
        }
    }
}
