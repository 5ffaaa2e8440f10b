//! How many instructions a worker executes for a frame: `cargo xtask instructions`, the gate for a change of the fast path.
//!
//! The real [`Worker`] runs over `af_xdp`'s simulated kernel and Unix datagram sockets like those of routers. It gets one
//! fixed sequence of frames in batches of 64. `cargo xtask instructions` runs each section of it in a process of its own
//! under valgrind's callgrind, which counts inside [`measured_turn`] alone, divides by the number of frames that the section
//! put in, and compares the result with `bench/instructions/baseline.tsv`: a section that is more than 2 % above its number
//! there fails. Two runs differ by less than 0.1 %, which no measurement of time achieves, so a change of 2 % shows that
//! `cargo bench` cannot see. Not counted are the kernel's part of a system call, cache misses, and adaptive polling, which
//! depends on the clock: `cargo bench` measures those.
//!
//! - Each section ends when every frame has come out, to a router or the NIC; a frame too few or too many is a panic.
//! - It needs root, because the FDB lies in BPF maps and the routers' queues take 64 datagrams whatever the host has set.
//! - The build is the release profile with one difference: the worker waits by `epoll_pwait`, because valgrind 3.19 does
//!   not know `epoll_pwait2` (feature `valgrind` in `Cargo.toml`).
//! - The worker polls busily, so that its turns do not depend on how fast valgrind is. What it does by the clock is kept
//!   out: measuring begins right after the upkeep that is due each 100 ms, and a section is run again if it lasts until
//!   sources are looked up again, a second, or until the next upkeep where that would try what waits.
//! - The numbers depend on the compiler and on the C library. The first line of `baseline.tsv` names both; with others the
//!   table is printed, and nothing fails.
//! - A change that costs more and is worth it writes new numbers by `cargo xtask instructions --write`, and its commit says
//!   why.
//! - `callgrind_annotate target/instructions/SECTION.out` shows where the instructions of a section are.

use af_xdp::simulated::{Kernel, rings};
use af_xdp::{Socket, Umem};
use iou_fast::ether::Mac;
use iou_fast::ether::control_frames::Blocked;
use iou_fast::fuzzing::{Paper, Stepper, stamp_arrivals};
use iou_fast::ids::{PortId, SegmentId};
use iou_fast::lan::Lan;
use iou_fast::netmap::Netmap;
use iou_fast::plan::{Binding, LabRequest, Plan};
use iou_fast::stats::WorkerCounts;
use iou_fast::steer::layout::STAMP_BUM;
use iou_fast::steer::{Options, Steering};
use iou_fast::worker::{
    Command, CommandSender, CopyRing, Event, EventSender, NicPart, NicSockets, Poll, Pool, QueueSocket,
    Rings, RouterSocket, Setup, Steered, Worker, eventfd,
};
use rustix::net::{RecvFlags, recv, sockopt};
use std::collections::HashSet;
use std::fmt::Write;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testbed::{Router, RouterOptions};

/// Routers, of one pseudo id and one NIC.
const ROUTERS: usize = 50;
const PSEUDO: u16 = 513;
/// The worker's own batch.
const BATCH: usize = 64;
/// Batches that come before a router begins to read: the first fills its queue, the others wait.
const UNREAD: usize = 8;
/// Rounds before those that are measured: sources are learned, memory is at its size.
const WARM_UP: usize = 2;
/// Rounds that are measured, one where it is much work. A round is one batch, or [`UNREAD`].
const ROUNDS: usize = 16;
/// Turns in which all of a round must have come out.
const TURNS: usize = 200;
/// How often a worker does what is due by the clock: `UPKEEP` in `src/worker/mod.rs`.
const UPKEEP: Duration = Duration::from_millis(100);
/// After this time a worker looks a source up again: the same in `src/worker/router_ingress.rs`.
const SOURCE_GOOD_FOR: Duration = Duration::from_secs(1);
/// Exit code: the machine was too busy, another run may be fast enough (`EX_TEMPFAIL` of sysexits.h).
const TOO_SLOW: u8 = 75;

const NIC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// AllSPFRouters of OSPF (RFC 2328, A.1).
const MULTICAST: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];

/// More than all backlogs hold.
const CHUNKS: u32 = 8192;
/// Slots of each ring: more than a batch takes.
const RING: u32 = 512;
/// Where the kernel puts a frame in its chunk, and how much of one it fills.
const HEADROOM: u64 = 256;
const KERNEL_CHUNK: usize = 4096 - 256;

/// Where frames come from and go to.
#[derive(Clone, Copy)]
enum Frames {
    /// From the wire to so many routers.
    ToRouters(usize),
    /// From the wire to a router that does not read, until it does.
    Backlog,
    /// Multicast from the wire to all routers, by the ring buffer.
    Multicast,
    /// The same by the RX ring, as with `--exclusive`.
    MulticastSteered,
    /// From all routers to the wire.
    ToNic,
    /// From each router to the next.
    Between,
    /// Multicast from a router to all others and the wire.
    MulticastFromRouter,
}

/// Name; which frames; their length in bytes.
const SECTIONS: &[(&str, Frames, usize)] = &[
    ("wire-to-1-router-64", Frames::ToRouters(1), 64),
    ("wire-to-1-router-1514", Frames::ToRouters(1), 1514),
    ("wire-to-1-router-9014", Frames::ToRouters(1), 9014),
    ("wire-to-50-routers-64", Frames::ToRouters(ROUTERS), 64),
    ("wire-to-50-routers-1514", Frames::ToRouters(ROUTERS), 1514),
    ("wire-to-full-router-64", Frames::Backlog, 64),
    ("wire-to-full-router-1514", Frames::Backlog, 1514),
    ("wire-multicast-64", Frames::Multicast, 64),
    ("wire-multicast-1514", Frames::Multicast, 1514),
    ("wire-multicast-exclusive-64", Frames::MulticastSteered, 64),
    ("routers-to-nic-64", Frames::ToNic, 64),
    ("routers-to-nic-1514", Frames::ToNic, 1514),
    ("routers-to-nic-9014", Frames::ToNic, 9014),
    ("router-to-router-64", Frames::Between, 64),
    ("router-to-router-1514", Frames::Between, 1514),
    ("router-multicast-64", Frames::MulticastFromRouter, 64),
    ("router-multicast-1514", Frames::MulticastFromRouter, 1514),
];

/// Without an argument: the names of all sections, a line each. With a name: how many frames were measured, or
/// [`TOO_SLOW`].
fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        SECTIONS.iter().for_each(|(name, ..)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, frames, len)) = SECTIONS.iter().find(|(other, ..)| *other == name) else {
        eprintln!("there is no section {name}; without an argument all are listed");
        return ExitCode::FAILURE;
    };
    match measure(*frames, *len) {
        Some(frames) => {
            println!("{frames}");
            ExitCode::SUCCESS
        }
        None => ExitCode::from(TOO_SLOW),
    }
}

/// The only function in which callgrind counts, by its name.
#[inline(never)]
fn measured_turn(stepper: &mut Stepper, worker: &mut Worker) -> bool {
    // The compiler merges functions that are the same, and callgrind would count in the other one as well.
    black_box(stepper.turn(black_box(worker)))
}

/// Returns how many frames were measured; `None` if it took so long that the worker did something by the clock meanwhile.
fn measure(frames: Frames, len: usize) -> Option<usize> {
    let mut bed = Bed::new(len);
    let rounds = match frames {
        Frames::ToRouters(_) | Frames::ToNic | Frames::Between if len <= KERNEL_CHUNK => ROUNDS,
        _ => 1,
    };
    let warm_up = Instant::now();
    for _ in 0..WARM_UP {
        bed.round(frames, len);
    }
    // The worker's next turn is one with its upkeep.
    std::thread::sleep(UPKEEP);
    let upkeep = Instant::now();
    bed.turn();
    (bed.measured, bed.loaded) = (true, 0);
    for _ in 0..rounds {
        bed.round(frames, len);
    }
    let exact = match frames {
        // The upkeep tries what waits; otherwise it costs next to nothing.
        Frames::Backlog => upkeep.elapsed() < UPKEEP,
        _ => warm_up.elapsed() < SOURCE_GOOD_FOR,
    };
    exact.then_some(bed.loaded)
}

/// A worker and everything around it.
struct Bed {
    worker: Worker,
    stepper: Stepper,
    measured: bool,
    plan: Arc<Plan>,
    kernel: Kernel,
    copies: Paper,
    routers: Vec<Router>,
    /// The router that is next.
    next: usize,
    /// Frames put where the worker finds them.
    loaded: usize,
    buffer: Vec<u8>,
    /// Kept open as long as the worker runs.
    _held: (TempDir, Steering, Router, CommandSender, crossbeam::channel::Receiver<Event>),
}

impl Bed {
    fn new(len: usize) -> Self {
        let large = len > KERNEL_CHUNK;
        let netio = tempfile::tempdir().expect("a directory");
        let plan = plan(netio.path());
        let options =
            Options { workers: 1, queues: 1, exclusive: false, dynamic_entries: 4096, static_entries: 1024 };
        let steering = Steering::load(&options).expect("the XDP program can be loaded, by root");
        let lan = Arc::new(
            Lan::new("eth0", Mac(NIC), &plan.bridge_ports(SegmentId::new(0)), steering.tables().clone())
                .expect("its maps"),
        );
        lan.up.store(true, Relaxed);
        lan.mtu.store(if large { 9000 } else { 1500 }, Relaxed);

        let (umem, mut free) = Umem::new(CHUNKS).expect("memory");
        let umem = Arc::new(umem);
        let (mut fill, completion, rx, tx, kernel) = rings(&umem, RING).expect("memory");
        fill.push(&mut free, RING as usize);
        let copies = Paper::new(64);

        // A queue of a router takes one batch, then it is full.
        let router = |id, queue| {
            let options = RouterOptions { max_dgram_qlen: queue, ..RouterOptions::default() };
            Router::with(netio.path(), id, &options).expect("a socket")
        };
        let pseudo = router(PSEUDO, 4096);
        let socket = pseudo.as_fd().try_clone_to_owned().expect("a descriptor");
        stamp_arrivals(socket.as_fd()).expect("SO_TIMESTAMPNS");
        let routers: Vec<Router> =
            plan.routers.iter().map(|planned| router(planned.id.get(), BATCH as u32 - 1)).collect();

        let (channel, events) = crossbeam::channel::unbounded();
        let queue = QueueSocket {
            socket: Socket { rx, tx: Some(tx) },
            rings: Arc::new(Rings::new(fill, completion)),
            credits: 0,
            steered: Steered::default(),
        };
        let wake = Arc::into_inner(eventfd().expect("an eventfd")).expect("the only one");
        let (worker, commands) = Worker::new(Setup {
            index: 0,
            plan: plan.clone(),
            poll: Poll::Busy,
            blocked: Blocked::default(),
            nics: vec![NicPart {
                lan,
                sockets: NicSockets { queues: vec![queue], scatter: large },
                copies: CopyRing { ring: copies.ring(32), fd: wake },
            }],
            pseudos: vec![(0, socket)],
            pool: Arc::new(Pool::new(umem, free)),
            reserve: 64,
            large,
            counts: Arc::new(WorkerCounts::default()),
            events_to_control: EventSender { channel, wake: eventfd().expect("an eventfd") },
        })
        .expect("a worker");
        for (n, router) in routers.iter().enumerate() {
            commands.send(Command::Router {
                router: n,
                socket: Some(RouterSocket { fd: connected(router), connection: 1 }),
            });
        }
        let mut bed = Self {
            worker,
            stepper: Stepper::default(),
            measured: false,
            plan,
            kernel,
            copies,
            routers,
            next: 0,
            loaded: 0,
            buffer: vec![0; 1 << 16],
            _held: (netio, steering, pseudo, commands, events),
        };
        bed.turn();
        bed
    }

    fn turn(&mut self) {
        let (stepper, worker) = (&mut self.stepper, &mut self.worker);
        let stopped = if self.measured { measured_turn(stepper, worker) } else { stepper.turn(worker) };
        assert!(!stopped, "the worker was not told to");
    }

    /// A batch, or several that a router does not read, and turns until all of it is where it belongs.
    fn round(&mut self, frames: Frames, len: usize) {
        let mut expected = self.load(frames, len);
        if let Frames::Backlog = frames {
            for _ in 1..UNREAD {
                self.turn();
                expected += self.load(frames, len);
            }
        }
        let mut came = 0;
        for _ in 0..TURNS {
            self.turn();
            came += self.collect();
            if came >= expected {
                break;
            }
        }
        assert_eq!(came, expected, "frames that came out");
    }

    /// Puts a batch where the worker finds it; returns how many datagrams and frames must come out.
    fn load(&mut self, frames: Frames, len: usize) -> usize {
        let mut expected = 0;
        self.loaded += BATCH;
        for _ in 0..BATCH {
            let n = self.next;
            self.next = (n + 1) % ROUTERS;
            match frames {
                Frames::ToRouters(routers) => self.arrive((n % routers) as u16, self.mac(n % routers), len),
                Frames::Backlog => self.arrive(0, self.mac(0), len),
                Frames::MulticastSteered => self.arrive(STAMP_BUM, MULTICAST, len),
                Frames::Multicast => self.copy(&frame(MULTICAST, HOST, len)),
                Frames::ToNic => self.send(n, &frame(HOST, self.mac(n), len)),
                Frames::Between => self.send(n, &frame(self.mac((n + 1) % ROUTERS), self.mac(n), len)),
                Frames::MulticastFromRouter => self.send(n, &frame(MULTICAST, self.mac(n), len)),
            }
            expected += match frames {
                Frames::Multicast | Frames::MulticastSteered | Frames::MulticastFromRouter => ROUTERS,
                _ => 1,
            };
        }
        expected
    }

    /// A frame as the XDP program steers it to `router`: stamp and header in front.
    fn arrive(&mut self, router: u16, to: [u8; 6], len: usize) {
        let stamp = self.time() & ((1 << 48) - 1) | u64::from(router) << 48;
        let header = self.plan.ports.get(usize::from(router)).map_or([0; 8], |port| port.to_router.0);
        let packet = [&stamp.to_ne_bytes()[..], &header, &frame(to, HOST, len)].concat();
        // The head lies in the headroom.
        let (first, rest) = packet.split_at(packet.len().min(KERNEL_CHUNK + 16));
        let mut offset = HEADROOM - 16;
        let parts = std::iter::once(first).chain(rest.chunks(KERNEL_CHUNK));
        let last = parts.clone().count() - 1;
        for (n, part) in parts.enumerate() {
            let address = self.kernel.take_fill().expect("the worker fills the ring again") + offset;
            assert!(self.kernel.write(address, part), "a chunk of the kernel's");
            assert!(self.kernel.put_rx(address, part.len() as u32, u32::from(n < last)), "room");
            offset = HEADROOM;
        }
    }

    /// A multicast frame as the XDP program copies it into the ring buffer.
    fn copy(&mut self, frame: &[u8]) {
        let head = [&self.time().to_ne_bytes()[..], &(frame.len() as u32).to_ne_bytes(), &[0; 4]].concat();
        assert!(self.copies.put(&[&head, frame].concat(), 0), "room");
    }

    /// When a frame arrived: `CLOCK_MONOTONIC`, ns. Those of the warm-up are old: a new maximum of the latencies costs
    /// instructions, and a measured frame is to be none.
    fn time(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let age = if self.measured { 0 } else { 200_000_000 };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 - age
    }

    fn send(&self, router: usize, frame: &[u8]) {
        let header = self.plan.ports[PortId::new(router as u32)].from_router.0;
        self.routers[router].send(PSEUDO, header, frame).expect("room in the queue");
    }

    fn mac(&self, router: usize) -> [u8; 6] {
        self.plan.static_addresses(PortId::new(router as u32))[0].0
    }

    /// What routers and the NIC have got: how many datagrams and frames.
    fn collect(&mut self) -> usize {
        let mut came = 0;
        for router in &self.routers {
            while recv(router, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {
                came += 1;
            }
        }
        while let Some((address, _, goes_on)) = self.kernel.take_tx() {
            assert!(self.kernel.put_completion(address), "room");
            came += usize::from(!goes_on);
        }
        came
    }
}

/// Routers on one pseudo instance's links.
fn plan(netio: &Path) -> Arc<Plan> {
    let mut netmap = String::new();
    for n in 0..ROUTERS {
        let _ = writeln!(netmap, "{}:0/0 {PSEUDO}:{}/{}", n + 1, n % 16, n / 16);
    }
    let lab = LabRequest {
        netmap: Netmap::parse(netmap.as_bytes(), Path::new("NETMAP")).expect("a NETMAP"),
        file: "NETMAP".into(),
        netio: netio.into(),
        uid: 0,
        pseudo: PSEUDO.to_string().parse::<iou_fast::netmap::infer::PseudoIds>().expect("an id").0,
        remote: HashSet::new(),
    };
    let binding = Binding { nic: "nic".into(), choice: None };
    Arc::new(Plan::new(&[lab], &[binding], 1, None).expect("a plan"))
}

/// The worker's end to a router, with the room that the program gives it: a batch of large frames does not fill it.
fn connected(router: &Router) -> OwnedFd {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.set_nonblocking(true).expect("not blocking");
    sockopt::set_socket_send_buffer_size_force(&socket, 8 << 20).expect("room");
    socket.connect(router.path()).expect("a router");
    socket.into()
}

/// UDP over IPv4 without a checksum: the worker looks for one to complete, and finds none.
fn frame(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let ip = (len - 14) as u16;
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0]].concat();
    frame.extend(ip.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 7]);
    frame.extend((ip - 20).to_be_bytes());
    frame.resize(len, 0);
    frame
}
