//! The XDP program, run by the kernel's test-run on frames made here. It is attached to no interface: what it is told,
//! decides, writes in front of a frame, copies and counts is compared with what it ought to.
//!
//! Needs root. One test makes a veth pair in a network namespace of its own and needs `ip` (iproute2).

use iou_fast::ether::Address;
use iou_fast::ether::Mac;
use iou_fast::iou::header::Header;
use iou_fast::iou::mac::static_addresses;
use iou_fast::iou::{Endpoint, InstanceId, Interface};
use iou_fast::nic::Nic;
use iou_fast::steer::layout::{
    COPY_HEAD, COPY_LARGE, COPY_RING, COPY_SMALL, COUNTS, Copied, CopyKind, Count, HEAD, MAX_LARGE,
    MAX_STEERED, MAX_WORKERS, MOVES_RING, PortEntry, RouterState, STAMP, STAMP_BUM, Stamp, address_key,
    mac_word, read_moved,
};
use iou_fast::steer::{Options, Steering};
use iou_fast::sys::ringbuf::RingBuffer;
use iou_fast::sys::shared::{SteerCredits, SteerShared};
use libbpf_rs::btf::types::{Enum, MemberAttr, Struct};
use libbpf_rs::btf::{Btf, HasSize};
use libbpf_rs::{MapCore, ProgramInput};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use testbed::frame::ETHERTYPE;
use testbed::{Namespace, Tag, VethOptions};

/// The NIC's own address.
const NIC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// An unknown host on the wire.
const WIRE: [u8; 6] = [0x00, 0x1b, 0x21, 0, 0, 0x02];
/// Another one, with the U/L bit set as in the addresses that routers make.
const STRANGER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x03];
/// A virtual address behind a router: HSRP group 1, which no image derives.
const HSRP: [u8; 6] = [0x00, 0x00, 0x0c, 0x07, 0xac, 0x01];
const BROADCAST: [u8; 6] = [0xff; 6];
const OSPF: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 5];

const UID: u32 = 1000;
const ROUTER: u16 = 0x1234;
const UNTAGGED: &[Tag] = &[];

/// What the program may answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Drop,
    Pass,
    Redirect,
}
use Verdict::{Drop, Pass, Redirect};

/// One run of the program.
#[derive(Debug)]
struct Run {
    verdict: Verdict,
    /// The frame as the program left it, and what it put in front.
    data: Vec<u8>,
    /// `CLOCK_MONOTONIC` before and after, ns.
    before: u64,
    after: u64,
}

impl Run {
    /// Checks the 16 bytes in front of a redirected frame, and the frame.
    #[track_caller]
    fn is_steered(&self, frame: &[u8], router: u16, header: Header) {
        assert_eq!(self.verdict, Redirect);
        assert_eq!(self.data.len(), frame.len() + 16);
        let stamp = Stamp::read(&self.data).unwrap();
        assert_eq!(stamp.router(), router);
        let time = stamp.time(self.after);
        assert!((self.before..=self.after).contains(&time), "{time} is not in {self:?}");
        assert_eq!(Header::read(&self.data[STAMP..]), Some(header));
        assert!(self.data[16..] == *frame, "the frame was changed");
    }
}

/// A copy of a frame, as a worker finds it.
#[derive(Debug)]
struct Taken {
    time: u64,
    kind: CopyKind,
    frame: Vec<u8>,
}

/// The loaded program with a socket in every slot of `rings`, told to be live.
struct Bench {
    steering: Steering,
    options: Options,
    copies: Vec<RingBuffer>,
    moves: RingBuffer,
    /// They leave the map when they are closed.
    sockets: Vec<OwnedFd>,
}

impl Bench {
    fn new(workers: usize) -> Self {
        Self::with(workers, false)
    }

    fn with(workers: usize, exclusive: bool) -> Self {
        let mut bench = Self::without_sockets(1, workers, exclusive);
        for worker in 0..workers {
            bench.open_socket(0, worker);
        }
        bench
    }

    fn without_sockets(queues: usize, workers: usize, exclusive: bool) -> Self {
        testbed::require_root().unwrap();
        let options = Options { workers, queues, exclusive, dynamic_entries: 64, static_entries: 64 };
        let steering = Steering::load(&options).unwrap();
        let copies = (0..workers).map(|worker| steering.copies(worker).unwrap().0).collect();
        let moves = steering.moves().unwrap().0;
        let shared = &steering.tables().shared;
        shared.nic_mac.store(mac_word(Mac(NIC)), SeqCst);
        shared.largest.store(MAX_STEERED as u32, SeqCst);
        shared.live.store(1, SeqCst);
        Self { steering, options, copies, moves, sockets: Vec::new() }
    }

    /// Any AF_XDP socket will do: the frames of a test-run go nowhere.
    fn open_socket(&mut self, queue: usize, worker: usize) {
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        self.steering.set_ring(&self.options, queue, worker, socket.as_fd()).unwrap();
        self.sockets.push(socket);
    }

    fn shared(&self) -> &SteerShared {
        &self.steering.tables().shared
    }

    fn learn(&self, mac: [u8; 6], outer_vid: u16, inner_vid: u16, entry: &PortEntry) {
        self.steering.tables().insert_dynamic(&station(mac, outer_vid, inner_vid), entry).unwrap();
    }

    fn predict(&self, mac: [u8; 6], entry: &PortEntry) {
        self.steering.tables().insert_static(Mac(mac), entry).unwrap();
    }

    fn counts(&self) -> [u64; COUNTS] {
        self.steering.tables().counts().unwrap()
    }

    fn run(&self, frame: &[u8]) -> Run {
        run(&self.steering, frame, None)
    }

    /// Runs it, and checks the answer and *all* counters: they rise by `counted` and by nothing else. What is passed
    /// must be untouched.
    #[track_caller]
    fn expect(&self, frame: &[u8], verdict: Verdict, counted: &[(Count, u64)]) -> Run {
        let mut expected = self.counts();
        for (which, n) in counted {
            expected[*which as usize] += n;
        }
        let run = self.run(frame);
        assert_eq!(run.verdict, verdict, "{} bytes, {:02x?} ...", frame.len(), &frame[..14]);
        assert_eq!(self.counts(), expected, "counters");
        if verdict == Pass {
            assert!(run.data == frame, "the host's frame was changed");
        }
        run
    }

    /// Expects it to be steered to `entry`'s router.
    #[track_caller]
    fn expect_steered(&self, frame: &[u8], entry: &PortEntry) {
        let counted = [(Count::Steered, 1), (Count::SteeredBytes, frame.len() as u64)];
        self.expect(frame, Redirect, &counted).is_steered(frame, entry.router, entry.header);
    }

    /// Expects it to be left to the host as unicast.
    #[track_caller]
    fn expect_passed(&self, frame: &[u8]) {
        self.expect(frame, Pass, &[(Count::Passed, 1)]);
    }

    /// Everything in a worker's ring buffer.
    fn take(&mut self, worker: usize) -> Vec<Taken> {
        let ring = &mut self.copies[worker];
        let mut taken = Vec::new();
        loop {
            let records = ring.peek();
            for n in 0..records {
                let Copied { time, kind, frame } = Copied::read(ring.record(n)).unwrap();
                taken.push(Taken { time, kind, frame: frame.to_vec() });
            }
            ring.release();
            if records == 0 {
                assert!(ring.is_empty());
                return taken;
            }
        }
    }

    /// Checks that `worker` finds one copy, that of `frame`.
    #[track_caller]
    fn expect_copy(&mut self, worker: usize, run: &Run, kind: CopyKind, frame: &[u8]) {
        let taken = self.take(worker);
        assert_eq!(taken.len(), 1, "copies for worker {worker}");
        assert_eq!(taken[0].kind, kind);
        assert!(taken[0].frame == frame, "the copy of {} bytes differs", frame.len());
        assert!((run.before..=run.after).contains(&taken[0].time), "{} is not in {run:?}", taken[0].time);
    }

    #[track_caller]
    fn expect_no_copy(&mut self, worker: usize) {
        assert_eq!(self.take(worker).len(), 0, "copies for worker {worker}");
    }

    /// The stations that were reported to have moved, and whether they were static_entries.
    fn take_moves(&mut self) -> Vec<(Address, bool)> {
        let mut moves = Vec::new();
        loop {
            let records = self.moves.peek();
            moves.extend((0..records).map(|n| read_moved(self.moves.record(n)).unwrap()));
            self.moves.release();
            if records == 0 {
                return moves;
            }
        }
    }
}

/// Runs the program on `frame`; `on` is the index of the interface and the queue on which it seems to arrive.
fn run(steering: &Steering, frame: &[u8], on: Option<(u32, u32)>) -> Run {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let mut context = on
        .map(|(ifindex, queue)| [0, frame.len() as u32, 0, ifindex, queue, 0].map(u32::to_ne_bytes).concat());
    let mut out = vec![0; frame.len() + 256];
    let program = steering.object().progs_mut().find(|program| program.name() == "steer").unwrap();
    let before = now();
    let output = program
        .test_run(ProgramInput {
            context_in: context.as_deref_mut(),
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..Default::default()
        })
        .unwrap_or_else(|e| panic!("test-run of {} bytes: {e}", frame.len()));
    let after = now();
    let verdict = match output.return_value {
        libbpf_sys::XDP_DROP => Drop,
        libbpf_sys::XDP_PASS => Pass,
        libbpf_sys::XDP_REDIRECT => Redirect,
        other => panic!("the program answered {other}"),
    };
    Run { verdict, data: output.data.unwrap().to_vec(), before, after }
}

fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn station(mac: [u8; 6], outer_vid: u16, inner_vid: u16) -> Address {
    Address { mac: Mac(mac), outer_vid, inner_vid }
}

fn endpoint(id: u16) -> Endpoint {
    Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface::new(1, 2).unwrap() }
}

/// An interface of router `router`, with a header of its own.
fn entry(router: u16, worker: u16) -> PortEntry {
    let header = Header::data(endpoint(router % 1000 + 1), endpoint(1024));
    PortEntry { header, router, worker, port: u32::from(router) + 7 }
}

/// The address that the router of `entry(router, _)` has by pattern.
fn pattern(router: u16) -> [u8; 6] {
    static_addresses(endpoint(router % 1000 + 1), UID)[0].0
}

fn frame(dst: [u8; 6], src: [u8; 6], tags: &[Tag], len: usize) -> Vec<u8> {
    testbed::frame(dst, src, tags, ETHERTYPE, len, len as u64)
}

/// Such a frame of 100 bytes from an unknown host.
fn to(dst: [u8; 6], tags: &[Tag]) -> Vec<u8> {
    frame(dst, WIRE, tags, 100)
}

// ---- The layout ----

fn members<'a>(btf: &'a Btf<'a>, name: &str) -> (usize, BTreeMap<String, usize>) {
    let of: Struct<'_> = btf.type_by_name(name).unwrap_or_else(|| panic!("no struct {name} in the BTF"));
    let offset = |attr| match attr {
        MemberAttr::Normal { offset } => offset as usize / 8,
        MemberAttr::BitField { .. } => panic!("a bit field in struct {name}"),
    };
    let members = of
        .iter()
        .map(|member| (member.name.unwrap().to_string_lossy().into_owned(), offset(member.attr)))
        .collect();
    (of.size(), members)
}

fn values<'a>(btf: &'a Btf<'a>, name: &str) -> Vec<(String, i64)> {
    let of: Enum<'_> = btf.type_by_name(name).unwrap_or_else(|| panic!("no enum {name} in the BTF"));
    of.iter().map(|member| (member.name.unwrap().to_string_lossy().into_owned(), member.value)).collect()
}

fn table(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, offset)| ((*name).to_string(), *offset)).collect()
}

/// `BumCopies` becomes `BUM_COPIES`.
fn c_name(variant: &impl std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[test]
fn layout_matches_btf() {
    let bench = Bench::new(1);
    let btf = bench.steering.object().btf().unwrap().expect("the object has BTF");

    let (size, shared) = members(&btf, "shared");
    assert_eq!(size, size_of::<SteerShared>());
    let expected = table(&[
        ("router_state", offset_of!(SteerShared, router_state)),
        ("asleep", offset_of!(SteerShared, asleep)),
        ("bum_workers", offset_of!(SteerShared, bum_workers)),
        ("nic_mac", offset_of!(SteerShared, nic_mac)),
        ("live", offset_of!(SteerShared, live)),
        ("flood_worker", offset_of!(SteerShared, flood_worker)),
        ("flood_unknown", offset_of!(SteerShared, flood_unknown)),
        ("bum_owner", offset_of!(SteerShared, bum_owner)),
        ("any_dynamic", offset_of!(SteerShared, any_dynamic)),
        ("largest", offset_of!(SteerShared, largest)),
        ("credit_limit", offset_of!(SteerShared, credit_limit)),
        ("credit_head", offset_of!(SteerShared, credit_head)),
        ("credits", offset_of!(SteerShared, credits)),
    ]);
    assert_eq!(shared, expected);

    let (size, credits) = members(&btf, "credits");
    assert_eq!((size, credits["steered"]), (size_of::<SteerCredits>(), offset_of!(SteerCredits, steered)));
    assert_eq!(
        (credits["frames"], credits["returned"]),
        (offset_of!(SteerCredits, frames), offset_of!(SteerCredits, returned))
    );

    // What Rust writes byte by byte has each field where the BTF says.
    let (size, at) = members(&btf, "address");
    let key = address_key(&station([1, 2, 3, 4, 5, 6], 0x0708, 0x090a));
    assert_eq!((size, at.len()), (key.len(), 4));
    assert_eq!(key[at["mac"]..][..6], [1, 2, 3, 4, 5, 6]);
    assert_eq!(key[at["outer_vid"]..][..2], [7, 8]);
    assert_eq!(key[at["inner_vid"]..][..2], [9, 10]);
    assert_eq!(key[at["zero"]..][..2], [0, 0]);

    let (size, at) = members(&btf, "port");
    let header = Header([1, 2, 3, 4, 5, 6, 7, 8]);
    let value = PortEntry { header, router: 0x1112, worker: 0x1314, port: 0x1516_1718 }.bytes();
    assert_eq!((size, at.len()), (value.len(), 4));
    assert_eq!(value[at["header"]..][..8], header.0);
    assert_eq!(value[at["router"]..][..2], 0x1112_u16.to_ne_bytes());
    assert_eq!(value[at["worker"]..][..2], 0x1314_u16.to_ne_bytes());
    assert_eq!(value[at["port"]..][..4], 0x1516_1718_u32.to_ne_bytes());

    let (size, at) = members(&btf, "copy_head");
    assert_eq!((size, at.len()), (COPY_HEAD, 3));
    let mut record = vec![0; size + 60];
    record[at["time"]..][..8].copy_from_slice(&0x0102_0304_0506_0708_u64.to_ne_bytes());
    record[at["len"]..][..4].copy_from_slice(&60_u32.to_ne_bytes());
    record[at["kind"]..][..4].copy_from_slice(&1_u32.to_ne_bytes());
    let copied = Copied::read(&record).unwrap();
    assert_eq!((copied.time, copied.kind), (0x0102_0304_0506_0708, CopyKind::Unknown));
    assert_eq!(copied.frame.len(), 60);

    let (size, at) = members(&btf, "moved");
    assert_eq!((size, at["address"], at.len()), (16, 0, 2));
    let mut record = [0; 16];
    record[..12].copy_from_slice(&address_key(&station(HSRP, 10, 20)));
    record[at["is_static"]..][..4].copy_from_slice(&1_u32.to_ne_bytes());
    assert_eq!(read_moved(&record), Some((station(HSRP, 10, 20), true)));

    // As Steering::load writes them; that they arrive is seen wherever a test has several workers.
    let (size, options) = members(&btf, "options");
    assert_eq!((size, options), (8, table(&[("workers", 0), ("exclusive", 4)])));
}

#[test]
fn constants_match_the_header_file() {
    let bench = Bench::new(1);
    let btf = bench.steering.object().btf().unwrap().expect("the object has BTF");
    let named = |prefix: &str, variant: &dyn std::fmt::Debug, n: usize| {
        (format!("{prefix}_{}", c_name(&variant)), n as i64)
    };

    use Count::*;
    let counts = [
        Steered,
        SteeredBytes,
        Bum,
        BumCopies,
        UnknownCopies,
        Passed,
        RouterPaused,
        RouterDown,
        TooLarge,
        CopyRingFull,
        WorkerBusy,
        NoRing,
        Moved,
        BumSteered,
    ];
    let mut expected: Vec<_> = counts.iter().map(|count| named("COUNT", count, *count as usize)).collect();
    expected.push(("COUNTERS".into(), COUNTS as i64));
    assert_eq!(values(&btf, "counter"), expected);

    let states = [RouterState::Ready, RouterState::Paused, RouterState::Down];
    let expected: Vec<_> = states.iter().map(|state| named("ROUTER", state, *state as usize)).collect();
    assert_eq!(values(&btf, "router_state"), expected);

    let kinds = [CopyKind::Bum, CopyKind::Unknown];
    let expected: Vec<_> = kinds.iter().enumerate().map(|(n, kind)| named("COPY", kind, n)).collect();
    assert_eq!(values(&btf, "copy_kind"), expected);

    let layout: BTreeMap<_, _> = values(&btf, "layout").into_iter().collect();
    let expected = [
        ("LAYOUT_MAX_ROUTERS", bench.shared().router_state.len()),
        ("LAYOUT_MAX_WORKERS", MAX_WORKERS),
        ("LAYOUT_MAX_CREDITS", bench.shared().credits.len()),
        ("LAYOUT_STAMP_ROUTER_SHIFT", 48),
        ("LAYOUT_STAMP_BUM", STAMP_BUM.into()),
        ("LAYOUT_STEER_HEAD", HEAD),
        ("LAYOUT_MAX_STEERED", MAX_STEERED),
        ("LAYOUT_MAX_LARGE", MAX_LARGE),
        ("LAYOUT_COPY_SMALL", COPY_SMALL),
        ("LAYOUT_COPY_LARGE", COPY_LARGE),
    ];
    let expected = expected.iter().map(|(name, n)| ((*name).to_string(), *n as i64)).collect();
    assert_eq!(layout, expected);
    assert_eq!(bench.shared().asleep.len(), MAX_WORKERS);
    assert_eq!(HEAD, STAMP + iou_fast::iou::header::LEN);

    let sizes: BTreeMap<_, _> = bench
        .steering
        .object()
        .maps()
        .map(|map| (map.name().to_string_lossy().into_owned(), map.max_entries() as usize))
        .collect();
    assert_eq!((sizes["moves"], sizes["copy_rings"]), (MOVES_RING, MAX_WORKERS));
    assert_eq!((sizes["rings"], sizes["dynamic_fdb"], sizes["static_fdb"]), (1, 64, 64));
    let copies = libbpf_rs::MapInfo::new(bench.steering.copies(0).unwrap().1).unwrap();
    assert_eq!(copies.info.max_entries, COPY_RING);
}

// ---- Unicast ----

#[test]
fn passes_everything_until_live() {
    let mut bench = Bench::new(1);
    bench.predict(pattern(1), &entry(1, 0));
    bench.learn(HSRP, 0, 0, &entry(1, 0));
    bench.shared().bum_workers.store(1, SeqCst);
    bench.shared().live.store(0, SeqCst);
    for dst in [pattern(1), HSRP, NIC, STRANGER, BROADCAST] {
        for src in [WIRE, HSRP, pattern(1)] {
            for len in [14, 60, 1514, 9014] {
                bench.expect(&frame(dst, src, UNTAGGED, len), Pass, &[]);
            }
        }
    }
    bench.expect_no_copy(0);
    assert_eq!(bench.take_moves(), []);
    // It forgot nothing either.
    bench.shared().live.store(1, SeqCst);
    bench.expect_steered(&to(HSRP, UNTAGGED), &entry(1, 0));
    bench.expect_steered(&to(pattern(1), UNTAGGED), &entry(1, 0));
}

#[test]
fn static_address_is_steered_in_every_vlan() {
    let bench = Bench::new(2);
    let entry = entry(ROUTER, 1);
    let tagged: [&[Tag]; 8] = [
        UNTAGGED,
        &[Tag::new(0x8100, 10)],
        &[Tag::new(0x88a8, 10)],
        &[Tag::new(0x9100, 4095)],
        &[Tag::new(0x8100, 0xe000)],
        &[Tag::new(0x88a8, 0x2005), Tag::new(0x8100, 0xf00a)],
        &[Tag::new(0x9100, 5), Tag::new(0x9100, 6)],
        &[Tag::new(0x88a8, 1), Tag::new(0x8100, 2), Tag::new(0x8100, 3)],
    ];
    for mac in static_addresses(endpoint(300), UID) {
        bench.expect_passed(&to(mac.0, UNTAGGED));
        bench.predict(mac.0, &entry);
        for tags in tagged {
            for len in [30, 60, 1522] {
                bench.expect_steered(&frame(mac.0, WIRE, tags, len), &entry);
            }
        }
    }
}

#[test]
fn steered_iou_header_is_exact() {
    let bench = Bench::new(1);
    // The published capture: NETMAP `1:0/1 501:0/0`.
    let header = Header([0x01, 0xf5, 0x00, 0x01, 0x00, 0x10, 0x01, 0x00]);
    for (n, router) in [0, 1, 255, 256, 65534].into_iter().enumerate() {
        let mac = [0xaa, 0xbb, 0xcc, 0, n as u8, 0];
        bench.predict(mac, &PortEntry { header, router, worker: 0, port: 0 });
        let frame = to(mac, UNTAGGED);
        let run = bench.run(&frame);
        run.is_steered(&frame, router, header);
        assert_eq!(run.data[8..16], [0x01, 0xf5, 0x00, 0x01, 0x00, 0x10, 0x01, 0x00]);
    }
}

#[test]
fn dynamic_address_is_per_vlan() {
    let bench = Bench::new(1);
    let (plain, ten, double) = (entry(1, 0), entry(2, 0), entry(3, 0));
    let vlan = Tag::vlan;

    bench.learn(HSRP, 10, 0, &ten);
    bench.expect_steered(&to(HSRP, &[vlan(10)]), &ten);
    bench.expect_steered(&to(HSRP, &[Tag::new(0x88a8, 10)]), &ten);
    for tags in [UNTAGGED, &[vlan(20)], &[vlan(0)], &[vlan(10), vlan(20)], &[vlan(0), vlan(10)]] {
        bench.expect_passed(&to(HSRP, tags));
    }

    bench.learn(HSRP, 10, 20, &double);
    bench.expect_steered(&to(HSRP, &[Tag::new(0x88a8, 10), vlan(20)]), &double);
    bench.expect_steered(&to(HSRP, &[Tag::new(0x9100, 10), Tag::new(0x9100, 20), vlan(30)]), &double);
    bench.expect_steered(&to(HSRP, &[vlan(10)]), &ten);
    for tags in [UNTAGGED, &[vlan(20), vlan(10)], &[vlan(20)], &[vlan(10), vlan(21)]] {
        bench.expect_passed(&to(HSRP, tags));
    }

    bench.learn(HSRP, 0, 0, &plain);
    bench.expect_steered(&to(HSRP, UNTAGGED), &plain);
    bench.expect_steered(&to(HSRP, &[vlan(10)]), &ten);

    bench.steering.tables().remove_dynamic(&station(HSRP, 10, 0)).unwrap();
    bench.expect_passed(&to(HSRP, &[vlan(10)]));
    // Gone already: no error.
    bench.steering.tables().remove_dynamic(&station(HSRP, 10, 0)).unwrap();
}

#[test]
fn priority_tag_is_no_vlan() {
    let bench = Bench::new(1);
    let (plain, ten, double) = (entry(1, 0), entry(2, 0), entry(3, 0));
    bench.learn(HSRP, 0, 0, &plain);
    bench.learn(HSRP, 10, 0, &ten);
    bench.learn(HSRP, 10, 20, &double);
    for bits in (0..16).map(|bits: u16| bits << 12) {
        bench.expect_steered(&to(HSRP, &[Tag::vlan(bits)]), &plain);
        bench.expect_steered(&to(HSRP, &[Tag::vlan(bits | 10)]), &ten);
        bench.expect_steered(&to(HSRP, &[Tag::new(0x88a8, 10 | bits), Tag::vlan(20 | bits)]), &double);
        bench.expect_steered(&to(HSRP, &[Tag::vlan(10), Tag::vlan(bits)]), &ten);
    }
}

#[test]
fn truncated_vlan_tag_is_ignored() {
    let bench = Bench::new(1);
    let (plain, ten) = (entry(1, 0), entry(2, 0));
    bench.learn(HSRP, 0, 0, &plain);
    bench.learn(HSRP, 10, 0, &ten);
    let whole = frame(HSRP, WIRE, &[Tag::vlan(10), Tag::vlan(20)], 64);
    for (len, entry) in [(14, &plain), (16, &plain), (17, &plain), (18, &ten), (20, &ten), (21, &ten)] {
        bench.expect_steered(&whole[..len], entry);
    }
    bench.expect_passed(&whole[..22]);
}

#[test]
fn dynamic_entry_precedes_static() {
    let bench = Bench::new(1);
    bench.predict(pattern(1), &entry(1, 0));
    bench.learn(pattern(1), 10, 0, &entry(2, 0));
    bench.expect_steered(&to(pattern(1), &[Tag::vlan(10)]), &entry(2, 0));
    bench.expect_steered(&to(pattern(1), &[Tag::vlan(20)]), &entry(1, 0));
    bench.expect_steered(&to(pattern(1), UNTAGGED), &entry(1, 0));
}

#[test]
fn unknown_unicast_and_nic_address_pass_untouched() {
    let mut bench = Bench::new(2);
    bench.predict(pattern(1), &entry(1, 0));
    // Not even if the NIC's own address becomes a dynamic entry.
    bench.learn(NIC, 0, 0, &entry(1, 0));
    bench.predict(NIC, &entry(1, 0));
    bench.shared().bum_workers.store(0b11, SeqCst);
    // Above what is steered and what is copied, too.
    for len in [14, 60, 1514, MAX_STEERED, MAX_STEERED + 1, 9014, COPY_LARGE + 1] {
        for dst in [NIC, STRANGER, WIRE] {
            bench.expect_passed(&frame(dst, [0, 1, 2, 3, 4, 5], UNTAGGED, len));
        }
    }
    bench.expect_passed(&to(NIC, &[Tag::vlan(10)]));
    bench.expect_no_copy(0);
    bench.expect_no_copy(1);
}

#[test]
fn unknown_unicast_is_copied_to_flood_port() {
    let mut bench = Bench::new(3);
    bench.predict(pattern(1), &entry(1, 0));
    bench.shared().flood_worker.store(2, SeqCst);
    bench.shared().flood_unknown.store(1, SeqCst);
    let counted = [(Count::UnknownCopies, 1), (Count::Passed, 1)];
    for len in [14, 60, 1514, 9014, COPY_LARGE] {
        for tags in [UNTAGGED, &[Tag::vlan(10)]] {
            let unknown = frame(STRANGER, WIRE, tags, len.max(18));
            let run = bench.expect(&unknown, Pass, &counted);
            bench.expect_copy(2, &run, CopyKind::Unknown, &unknown);
        }
    }
    // Too large to copy: the host gets it all the same.
    bench.expect(
        &frame(STRANGER, WIRE, UNTAGGED, COPY_LARGE + 1),
        Pass,
        &[(Count::TooLarge, 1), (Count::Passed, 1)],
    );
    bench.expect_passed(&to(NIC, UNTAGGED));
    bench.expect_passed(&to(NIC, &[Tag::vlan(10)]));
    bench.expect_steered(&to(pattern(1), UNTAGGED), &entry(1, 0));
    for worker in 0..3 {
        bench.expect_no_copy(worker);
    }
}

#[test]
fn frame_above_limit_is_dropped_whole() {
    let bench = Bench::new(1);
    bench.predict(pattern(1), &entry(1, 0));
    for len in [14, 15, 60, 1514, 3500, 3520, 3521, MAX_STEERED - 1, MAX_STEERED] {
        bench.expect_steered(&frame(pattern(1), WIRE, UNTAGGED, len), &entry(1, 0));
    }
    for len in [MAX_STEERED + 1, 4096, 9014, 16384] {
        bench.expect(&frame(pattern(1), WIRE, UNTAGGED, len), Drop, &[(Count::TooLarge, 1)]);
    }
}

#[test]
fn frame_limit_is_four_chunks() {
    let mut bench = Bench::with(2, true);
    bench.predict(pattern(1), &entry(1, 0));
    bench.shared().largest.store(MAX_LARGE as u32, SeqCst);
    bench.shared().bum_workers.store(0b11, SeqCst);
    // The kernel's first buffer holds 3520 bytes, each of the others a page.
    for len in [60, 3520, 3521, MAX_STEERED, MAX_STEERED + 1, 4096, 7616, 7617, 9014, 9230, MAX_LARGE] {
        for tags in [UNTAGGED, &[Tag::new(0x88a8, 5), Tag::vlan(6)]] {
            bench.expect_steered(&frame(pattern(1), WIRE, tags, len), &entry(1, 0));
        }
        let bum = frame(OSPF, WIRE, UNTAGGED, len);
        let counts = [(Count::Bum, 1), (Count::BumCopies, 1), (Count::BumSteered, 1)];
        let run = bench.expect(&bum, Redirect, &counts);
        run.is_steered(&bum, STAMP_BUM, Header([0; 8]));
        bench.expect_copy(1, &run, CopyKind::Bum, &bum);
    }
    for len in [MAX_LARGE + 1, 16384] {
        bench.expect(&frame(pattern(1), WIRE, UNTAGGED, len), Drop, &[(Count::TooLarge, 1)]);
    }
    let bum = frame(OSPF, WIRE, UNTAGGED, MAX_LARGE + 1);
    bench.expect(&bum, Pass, &[(Count::Bum, 1), (Count::BumCopies, 2)]);
}

/// A credits's share is one of chunks: a frame that takes three of them counts as three. With zero-copy the head is in front of
/// the first, with copy in it.
///
/// Promise `jumbo-whole`.
#[test]
fn large_frames_take_in_flight_credits() {
    for head in [0, HEAD] {
        large_frames_in_a_credits(head);
    }
}

fn large_frames_in_a_credits(head: usize) {
    let bench = Bench::new(1);
    bench.predict(pattern(1), &entry(1, 0));
    bench.shared().largest.store(MAX_LARGE as u32, SeqCst);
    let credits = &bench.shared().credits[0];
    let begin = u32::MAX - 4;
    credits.steered.store(begin, SeqCst);
    credits.returned.store(begin, SeqCst);
    bench.shared().credit_limit.store(12, SeqCst);
    let mut sum = 0;
    bench.shared().credit_head.store(head as u32, SeqCst);
    for (len, chunks) in [(60, 1), (3840, 1), (3841, 2), (7680, 2), (7681, 3), (61 + head, 1), (62 + head, 1)]
    {
        bench.expect_steered(&frame(pattern(1), WIRE, UNTAGGED, len - head), &entry(1, 0));
        sum += chunks;
        assert_eq!(credits.steered.load(SeqCst).wrapping_sub(begin), sum, "{len} bytes");
    }
    // One chunk is left, which is too little for two.
    bench.expect(&frame(pattern(1), WIRE, UNTAGGED, 9014), Drop, &[(Count::WorkerBusy, 1)]);
    bench.expect(&frame(pattern(1), WIRE, UNTAGGED, 4000), Drop, &[(Count::WorkerBusy, 1)]);
    bench.expect_steered(&frame(pattern(1), WIRE, UNTAGGED, 60), &entry(1, 0));
    bench.expect(&frame(pattern(1), WIRE, UNTAGGED, 60), Drop, &[(Count::WorkerBusy, 1)]);
    credits.returned.store(begin.wrapping_add(4), SeqCst);
    bench.expect_steered(&frame(pattern(1), WIRE, UNTAGGED, MAX_LARGE), &entry(1, 0));
    bench.expect(&frame(pattern(1), WIRE, UNTAGGED, 60), Drop, &[(Count::WorkerBusy, 1)]);
}

#[test]
fn paused_or_down_router_gets_nothing() {
    let bench = Bench::new(1);
    for router in [0, 1, ROUTER, 65534] {
        bench.predict(pattern(router), &entry(router, 0));
    }
    for router in [0, 1, ROUTER, 65534] {
        let state = &bench.shared().router_state[usize::from(router)];
        let to_it = to(pattern(router), UNTAGGED);
        bench.expect_steered(&to_it, &entry(router, 0));
        state.store(RouterState::Paused as u8, SeqCst);
        bench.expect(&to_it, Drop, &[(Count::RouterPaused, 1)]);
        bench.expect(
            &frame(pattern(router), WIRE, UNTAGGED, MAX_STEERED + 1),
            Drop,
            &[(Count::RouterPaused, 1)],
        );
        state.store(RouterState::Down as u8, SeqCst);
        bench.expect(&to_it, Drop, &[(Count::RouterDown, 1)]);
        for other in [0, 1, ROUTER, 65534].into_iter().filter(|other| *other != router) {
            bench.expect_steered(&to(pattern(other), UNTAGGED), &entry(other, 0));
        }
        state.store(RouterState::Ready as u8, SeqCst);
        bench.expect_steered(&to_it, &entry(router, 0));
    }
}

/// Promise `early-drop`.
#[test]
fn in_flight_credits_bound_a_worker() {
    let bench = Bench::new(2);
    for worker in 0..2 {
        bench.predict(pattern(worker), &entry(worker, worker));
    }
    let frames = [0, 1].map(|worker| to(pattern(worker), UNTAGGED));
    // Without a share there is no bound, and no count. The counters wrap.
    bench.shared().credits[1].steered.store(u32::MAX - 1, SeqCst);
    bench.shared().credits[1].returned.store(u32::MAX - 2, SeqCst);
    bench.expect_steered(&frames[1], &entry(1, 1));
    bench.shared().credit_limit.store(3, SeqCst);
    for _ in 0..2 {
        bench.expect_steered(&frames[1], &entry(1, 1));
    }
    bench.expect(&frames[1], Drop, &[(Count::WorkerBusy, 1)]);
    for _ in 0..3 {
        bench.expect_steered(&frames[0], &entry(0, 0));
    }
    bench.expect(&frames[0], Drop, &[(Count::WorkerBusy, 1)]);
    bench.shared().credits[1].returned.store(0, SeqCst);
    bench.expect(&frames[0], Drop, &[(Count::WorkerBusy, 1)]);
    for _ in 0..3 {
        bench.expect_steered(&frames[1], &entry(1, 1));
    }
    bench.expect(&frames[1], Drop, &[(Count::WorkerBusy, 1)]);
    // In generic mode a count may be lost: what the worker has taken is ahead then, and that is no reason to drop.
    let credits = &bench.shared().credits[1];
    credits.returned.store(credits.steered.load(SeqCst).wrapping_add(1), SeqCst);
    for _ in 0..4 {
        bench.expect_steered(&frames[1], &entry(1, 1));
    }
    bench.expect(&frames[1], Drop, &[(Count::WorkerBusy, 1)]);
    assert_eq!(credits.frames.load(SeqCst), 2 + 3 + 4);
}

#[test]
fn missing_xsk_socket_drop_is_counted() {
    let mut bench = Bench::without_sockets(1, 2, false);
    bench.predict(pattern(1), &entry(1, 0));
    bench.predict(pattern(2), &entry(2, 1));
    bench.expect(&to(pattern(1), UNTAGGED), Drop, &[(Count::NoRing, 1)]);
    // Only the worker's own slot counts.
    bench.open_socket(0, 1);
    bench.expect(&to(pattern(1), UNTAGGED), Drop, &[(Count::NoRing, 1)]);
    bench.expect_steered(&to(pattern(2), UNTAGGED), &entry(2, 1));
    bench.sockets.clear();
    bench.expect(&to(pattern(2), UNTAGGED), Drop, &[(Count::NoRing, 1)]);
}

#[test]
fn queue_and_worker_select_the_socket() {
    const QUEUES: usize = 4;
    const WORKERS: usize = 3;
    let (nic, wire) = (Namespace::new("NIC").unwrap(), Namespace::new("wire").unwrap());
    let veth = VethOptions { queues_rx: QUEUES as u32, ..VethOptions::default() };
    testbed::veth((&wire, "wire"), (&nic, "NIC"), &veth).unwrap();
    let mut bench = Bench::without_sockets(QUEUES, WORKERS, false);
    for worker in 0..WORKERS as u16 {
        bench.predict(pattern(worker), &entry(worker, worker));
    }
    let pairs = || (0..QUEUES).flat_map(|queue| (0..WORKERS).map(move |worker| (queue, worker)));
    for there in pairs() {
        bench.sockets.clear();
        bench.open_socket(there.0, there.1);
        let steering = &bench.steering;
        // A test-run finds interfaces in the network namespace of its thread.
        nic.enter(|| {
            let index = Nic::find("NIC").unwrap().index();
            for (queue, worker) in pairs() {
                let frame = to(pattern(worker as u16), UNTAGGED);
                let run = run(steering, &frame, Some((index, queue as u32)));
                if (queue, worker) == there {
                    let PortEntry { router, header, .. } = entry(worker as u16, 0);
                    run.is_steered(&frame, router, header);
                } else {
                    assert_eq!(run.verdict, Drop, "{queue} {worker}, with a socket for {there:?}");
                }
            }
        })
        .unwrap();
    }
    let counts = bench.counts();
    assert_eq!(counts[Count::Steered as usize], (QUEUES * WORKERS) as u64);
    assert_eq!(counts[Count::NoRing as usize], (QUEUES * WORKERS * (QUEUES * WORKERS - 1)) as u64);
}

// ---- Broadcast and multicast frames ----

#[test]
fn bum_frames_are_copied_to_workers() {
    for (workers, masks) in [(2, &[0b00_u64, 0b01, 0b10, 0b11][..]), (3, &[0b101, 0b110, 0b111])] {
        let mut bench = Bench::new(workers);
        for mask in masks {
            bench.shared().bum_workers.store(*mask, SeqCst);
            let copies = u64::from(mask.count_ones());
            let counted = [(Count::Bum, 1), (Count::BumCopies, copies)];
            for len in [14, 15, 60, 1514, 2023, 2024, 2025, 3520, 3521, 4096, 9014, COPY_LARGE] {
                for dst in [BROADCAST, OSPF, [0x33, 0x33, 0, 0, 0, 1]] {
                    let bum = frame(dst, WIRE, UNTAGGED, len);
                    let run = bench.expect(&bum, Pass, &counted);
                    for worker in 0..workers {
                        if mask >> worker & 1 == 1 {
                            bench.expect_copy(worker, &run, CopyKind::Bum, &bum);
                        } else {
                            bench.expect_no_copy(worker);
                        }
                    }
                }
            }
            let tagged = frame(BROADCAST, WIRE, &[Tag::new(0x88a8, 0x2005), Tag::vlan(10)], 64);
            let run = bench.expect(&tagged, Pass, &counted);
            for worker in (0..workers).filter(|worker| mask >> worker & 1 == 1) {
                bench.expect_copy(worker, &run, CopyKind::Bum, &tagged);
            }
            // Too large for a copy: counted once a worker, and the host gets it.
            let huge = frame(BROADCAST, WIRE, UNTAGGED, COPY_LARGE + 1);
            bench.expect(&huge, Pass, &[(Count::Bum, 1), (Count::TooLarge, copies)]);
            for worker in 0..workers {
                bench.expect_no_copy(worker);
            }
        }
    }
}

#[test]
fn bum_bits_of_absent_workers_are_ignored() {
    let mut bench = Bench::new(2);
    bench.shared().bum_workers.store(u64::MAX, SeqCst);
    let bum = to(BROADCAST, UNTAGGED);
    let run = bench.expect(&bum, Pass, &[(Count::Bum, 1), (Count::BumCopies, 2)]);
    bench.expect_copy(0, &run, CopyKind::Bum, &bum);
    bench.expect_copy(1, &run, CopyKind::Bum, &bum);
}

#[test]
fn full_ring_buffer_costs_copies_not_the_host_frame() {
    // The kernel fills a ring buffer to one byte less than its size.
    for (len, record) in [(60, 2048), (COPY_SMALL + 1, 16384)] {
        let mut bench = Bench::new(2);
        bench.shared().bum_workers.store(0b11, SeqCst);
        let room = (COPY_RING as usize - 1) / record;
        let bum = frame(BROADCAST, WIRE, UNTAGGED, len);
        for _ in 0..room {
            bench.expect(&bum, Pass, &[(Count::Bum, 1), (Count::BumCopies, 2)]);
        }
        assert_eq!(bench.take(1).len(), room);
        let counted = [(Count::Bum, 1), (Count::CopyRingFull, 1), (Count::BumCopies, 1)];
        for _ in 0..10 {
            bench.expect(&bum, Pass, &counted);
        }
        assert_eq!(bench.take(0).len(), room);
        assert_eq!(bench.take(1).len(), 10);
        bench.expect(&bum, Pass, &[(Count::Bum, 1), (Count::BumCopies, 2)]);
        assert_eq!(bench.take(0).len(), 1);
    }
}

#[test]
fn exclusive_redirects_bum_frames_to_owner() {
    let mut bench = Bench::with(3, true);
    bench.predict(pattern(1), &entry(1, 0));
    bench.shared().bum_workers.store(0b111, SeqCst);
    for owner in 0..3_usize {
        bench.shared().bum_owner.store(owner as u32, SeqCst);
        for len in [14, 60, 1514, 3520, 3521, MAX_STEERED] {
            let bum = frame(OSPF, WIRE, UNTAGGED, len);
            let counted = [(Count::Bum, 1), (Count::BumCopies, 2), (Count::BumSteered, 1)];
            let run = bench.expect(&bum, Redirect, &counted);
            run.is_steered(&bum, STAMP_BUM, Header([0; 8]));
            for worker in 0..3 {
                if worker == owner {
                    bench.expect_no_copy(worker);
                } else {
                    bench.expect_copy(worker, &run, CopyKind::Bum, &bum);
                }
            }
        }
        // Too large for a chunk: the owner gets a copy as the others do.
        let large = frame(BROADCAST, WIRE, UNTAGGED, MAX_STEERED + 1);
        let run = bench.expect(&large, Pass, &[(Count::Bum, 1), (Count::BumCopies, 3)]);
        for worker in 0..3 {
            bench.expect_copy(worker, &run, CopyKind::Bum, &large);
        }
    }
    // The slot is the owner's.
    let mut bench = Bench::without_sockets(1, 3, true);
    bench.open_socket(0, 1);
    bench.shared().bum_workers.store(0b010, SeqCst);
    bench.shared().bum_owner.store(1, SeqCst);
    bench.expect(&to(BROADCAST, UNTAGGED), Redirect, &[(Count::Bum, 1), (Count::BumSteered, 1)]);
    bench.shared().bum_owner.store(2, SeqCst);
    bench.expect(
        &to(BROADCAST, UNTAGGED),
        Drop,
        &[(Count::Bum, 1), (Count::BumCopies, 1), (Count::NoRing, 1)],
    );
    // Without routers on the LAN no worker wants them.
    bench.shared().bum_workers.store(0, SeqCst);
    bench.expect(&to(BROADCAST, UNTAGGED), Pass, &[(Count::Bum, 1)]);
}

#[test]
fn loads_with_one_two_and_64_workers() {
    for exclusive in [false, true] {
        for workers in [1, 2, 64] {
            let mut bench = Bench::with(workers, exclusive);
            let all = u64::MAX >> (64 - workers);
            bench.shared().bum_workers.store(all, SeqCst);
            let last = workers - 1;
            bench.shared().bum_owner.store(last as u32, SeqCst);
            let bum = frame(BROADCAST, WIRE, &[Tag::vlan(7)], 1518);
            let (verdict, copies) = if exclusive { (Redirect, last) } else { (Pass, workers) };
            let steered = (Count::BumSteered, u64::from(exclusive));
            let counted = [(Count::Bum, 1), (Count::BumCopies, copies as u64), steered];
            let run = bench.expect(&bum, verdict, &counted);
            for worker in 0..copies {
                bench.expect_copy(worker, &run, CopyKind::Bum, &bum);
            }
            bench.predict(pattern(1), &entry(1, last as u16));
            bench.expect_steered(&to(pattern(1), UNTAGGED), &entry(1, 0));
        }
    }
}

/// Waits on an epoll descriptor; true if something is ready within `ms`.
fn ready(epoll: BorrowedFd<'_>, ms: i64) -> bool {
    let mut events = Vec::with_capacity(4);
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap() > 0
}

#[test]
fn only_sleeping_worker_is_woken() {
    let mut bench = Bench::new(3);
    bench.shared().bum_workers.store(0b111, SeqCst);
    bench.shared().flood_worker.store(1, SeqCst);
    bench.shared().flood_unknown.store(1, SeqCst);
    let epolls = [0, 1, 2].map(|worker| {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let fd = bench.steering.copies(worker).unwrap().1;
        epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        epoll
    });
    for sleeper in [None, Some(1), Some(0), Some(2), None] {
        for (worker, asleep) in bench.shared().asleep.iter().enumerate() {
            asleep.store((sleeper == Some(worker)).into(), SeqCst);
        }
        for frame in [to(BROADCAST, UNTAGGED), frame(OSPF, WIRE, UNTAGGED, 9014), to(STRANGER, UNTAGGED)] {
            let copied = if frame[0] & 1 == 1 { 0..3 } else { 1..2 };
            assert_eq!(bench.run(&frame).verdict, Pass);
            for (worker, epoll) in epolls.iter().enumerate() {
                let woken = sleeper == Some(worker) && copied.contains(&worker);
                assert_eq!(ready(epoll.as_fd(), if woken { 1000 } else { 20 }), woken, "worker {worker}");
                // Awake or not, it finds its copy when it looks.
                assert_eq!(bench.take(worker).len(), usize::from(copied.contains(&worker)));
                // A descriptor that was ready once is looked at once more: now there is nothing.
                assert!(!ready(epoll.as_fd(), 0));
            }
        }
    }
}

#[test]
fn copies_keep_order_across_ring_wrap() {
    let mut bench = Bench::new(1);
    bench.shared().bum_workers.store(1, SeqCst);
    // 20 MB through a ring of 1 MB; lengths and batches share no common period with it or each other.
    let lengths = [60, 1514, 2024, 14, 2025, 9014, 61, 590, 16360, 342, 2000];
    let copied =
        |n: u64| testbed::frame(BROADCAST, WIRE, UNTAGGED, ETHERTYPE, lengths[n as usize % lengths.len()], n);
    let (mut sent, mut received, mut rounds) = (0, 0, 0);
    while received < 5000 {
        for _ in 0..(rounds * 7 % 53).min(5000 - sent) {
            let run = bench.run(&copied(sent));
            assert_eq!(run.verdict, Pass);
            sent += 1;
        }
        rounds += 1;
        // Now and then the ring is left to fill up to some 40 large and 80 small records.
        if rounds % 3 == 0 && sent < 5000 {
            continue;
        }
        let ring = &mut bench.copies[0];
        loop {
            let records = ring.peek();
            for n in 0..records {
                let copy = Copied::read(ring.record(n)).unwrap();
                assert!(copy.frame == copied(received), "copy {received}");
                received += 1;
            }
            ring.release();
            if records == 0 {
                break;
            }
        }
        assert_eq!(received, sent);
    }
    let counts = bench.counts();
    assert_eq!(counts[Count::BumCopies as usize], 5000);
    assert_eq!(counts[Count::CopyRingFull as usize], 0);
}

// ---- Stations that move ----

#[test]
fn dynamic_address_moves_to_wire() {
    let mut bench = Bench::new(1);
    bench.shared().bum_workers.store(1, SeqCst);
    bench.learn(HSRP, 0, 0, &entry(1, 0));
    bench.learn(HSRP, 10, 0, &entry(2, 0));
    bench.learn(HSRP, 10, 20, &entry(3, 0));
    bench.learn(HSRP, 30, 0, &entry(4, 0));

    // In another VLAN it is another station.
    for tags in [&[Tag::vlan(20)][..], &[Tag::vlan(20), Tag::vlan(10)], &[Tag::vlan(10), Tag::vlan(30)]] {
        bench.expect_passed(&frame(NIC, HSRP, tags, 100));
    }
    assert_eq!(bench.take_moves(), []);

    let cases: [(&[Tag], Address, &PortEntry); 3] = [
        (&[Tag::vlan(0x600a)], station(HSRP, 10, 0), &entry(2, 0)),
        (&[Tag::new(0x88a8, 10), Tag::vlan(20)], station(HSRP, 10, 20), &entry(3, 0)),
        (&[Tag::vlan(0xe000)], station(HSRP, 0, 0), &entry(1, 0)),
    ];
    for (tags, moved, before) in cases {
        bench.expect_steered(&to(HSRP, tags), before);
        bench.expect(&frame(NIC, HSRP, tags, 100), Pass, &[(Count::Passed, 1), (Count::Moved, 1)]);
        assert_eq!(bench.take_moves(), [(moved, false)]);
        bench.expect_passed(&to(HSRP, tags));
        // Once.
        bench.expect_passed(&frame(NIC, HSRP, tags, 100));
        assert_eq!(bench.take_moves(), []);
        // User space may learn it again.
        bench.learn(HSRP, moved.outer_vid, moved.inner_vid, before);
        bench.expect_steered(&to(HSRP, tags), before);
    }

    // Broadcast and multicast frames tell as well: a gratuitous ARP after a failover is one.
    let counted = [(Count::Bum, 1), (Count::BumCopies, 1), (Count::Moved, 1)];
    bench.expect(&frame(BROADCAST, HSRP, &[Tag::vlan(30)], 64), Pass, &counted);
    assert_eq!(bench.take_moves(), [(station(HSRP, 30, 0), false)]);
}

#[test]
fn static_address_moves_to_wire_in_every_vlan() {
    let mut bench = Bench::new(1);
    for (router, dst, tags) in [
        (1, STRANGER, UNTAGGED),
        (2, NIC, &[Tag::vlan(10)][..]),
        (3, BROADCAST, &[Tag::new(0x88a8, 10), Tag::vlan(20)]),
        // The frame itself is for a router.
        (4, pattern(5), UNTAGGED),
    ] {
        let mac = pattern(router);
        bench.predict(mac, &entry(router, 0));
        bench.predict(pattern(5), &entry(5, 0));
        bench.expect_steered(&to(mac, tags), &entry(router, 0));
        let before = bench.counts();
        let run = bench.run(&frame(dst, mac, tags, 100));
        assert_eq!(run.verdict, if dst == pattern(5) { Redirect } else { Pass });
        assert_eq!(bench.counts()[Count::Moved as usize], before[Count::Moved as usize] + 1);
        let vid = |n: usize| tags.get(n).map_or(0, |tag| tag.tci & 0xfff);
        assert_eq!(bench.take_moves(), [(station(mac, vid(0), vid(1)), true)]);
        for tags in [tags, UNTAGGED, &[Tag::vlan(99)]] {
            bench.expect_passed(&to(mac, tags));
        }
        bench.expect_steered(&to(pattern(5), UNTAGGED), &entry(5, 0));
    }
}

#[test]
fn static_and_dynamic_address_move_together() {
    let mut bench = Bench::new(1);
    let mac = pattern(1);
    bench.predict(mac, &entry(1, 0));
    bench.learn(mac, 10, 0, &entry(2, 0));
    bench.expect(&frame(NIC, mac, &[Tag::vlan(10)], 100), Pass, &[(Count::Passed, 1), (Count::Moved, 2)]);
    assert_eq!(bench.take_moves(), [(station(mac, 10, 0), false), (station(mac, 10, 0), true)]);
    bench.expect_passed(&to(mac, &[Tag::vlan(10)]));
    bench.expect_passed(&to(mac, UNTAGGED));
}

#[test]
fn static_lookup_needs_the_local_bit() {
    let mut bench = Bench::new(1);
    // No router has such a pattern; entered all the same, it shows that there is no look-up.
    bench.predict(WIRE, &entry(1, 0));
    bench.expect_passed(&to(WIRE, UNTAGGED));
    bench.expect_passed(&frame(NIC, WIRE, UNTAGGED, 100));
    assert_eq!(bench.take_moves(), []);
}

#[test]
fn address_moves_with_full_report_ring() {
    let mut bench = Bench::new(1);
    // A record takes 24 bytes of the ring.
    let room = (MOVES_RING - 1) / 24;
    for _ in 0..room + 10 {
        bench.learn(HSRP, 0, 0, &entry(1, 0));
        bench.expect(&frame(NIC, HSRP, UNTAGGED, 60), Pass, &[(Count::Passed, 1), (Count::Moved, 1)]);
    }
    bench.expect_passed(&to(HSRP, UNTAGGED));
    let moves = bench.take_moves();
    assert_eq!(moves.len(), room);
    assert!(moves.iter().all(|moved| *moved == (station(HSRP, 0, 0), false)));
}

// ---- Any frame ----

/// A frame that may come from a wire.
#[derive(Clone, Debug)]
struct Arrival {
    dst: [u8; 6],
    src: [u8; 6],
    tags: Vec<Tag>,
    ethertype: u16,
    len: usize,
}

impl Arrival {
    fn bytes(&self) -> Vec<u8> {
        let Self { dst, src, tags, ethertype, len } = self;
        testbed::frame(*dst, *src, tags, *ethertype, 14 + 4 * tags.len() + len, 0)
    }
}

/// What the program was told.
#[derive(Clone, Debug)]
struct Setting {
    live: bool,
    flood: bool,
    bum_workers: u64,
    states: [u8; 4],
    static_entries: Vec<[u8; 6]>,
    dynamic_entries: Vec<([u8; 6], u16, u16)>,
}

const MODEL_WORKERS: u16 = 2;

/// Stations of the model; any of them may be static_entries, dynamic_entries, both, or neither.
fn addresses() -> impl Strategy<Value = [u8; 6]> {
    let routers = [1, 2, 3].map(pattern);
    proptest::sample::select(vec![
        NIC, WIRE, HSRP, STRANGER, routers[0], routers[1], routers[2], BROADCAST, OSPF,
    ])
}

fn stations() -> impl Strategy<Value = [u8; 6]> {
    addresses().prop_filter("a station", |mac| mac[0] & 1 == 0)
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    let vid = || proptest::sample::select(vec![0_u16, 10, 20]);
    let tpid = proptest::sample::select(vec![0x8100_u16, 0x88a8, 0x9100]);
    // 0x9200 is no tag to us; an EtherType of 0x8100 begins one in the payload, or one that is cut off.
    let tag = (tpid, vid(), 0_u16..16).prop_map(|(tpid, vid, bits)| Tag::new(tpid, vid | bits << 12));
    let ethertype = proptest::sample::select(vec![ETHERTYPE, 0x0800, 0x9200, 0x8100, 0x88a8]);
    let tags = proptest::collection::vec(tag, 0..=3);
    let len = prop_oneof![0_usize..8, 0_usize..1500, 0_usize..3000];
    (addresses(), stations(), tags, ethertype, len).prop_map(|(dst, src, tags, ethertype, len)| Arrival {
        dst,
        src,
        tags,
        ethertype,
        len,
    })
}

fn settings() -> impl Strategy<Value = Setting> {
    let vid = || proptest::sample::select(vec![0_u16, 10, 20]);
    let static_entries = proptest::sample::subsequence([1, 2, 3].map(pattern).to_vec(), 0..=3);
    let dynamic_entries = proptest::collection::vec((stations(), vid(), vid()), 0..12);
    let live = proptest::bool::weighted(0.95);
    (live, any::<bool>(), 0_u64..4, proptest::array::uniform4(0_u8..3), static_entries, dynamic_entries)
        .prop_map(|(live, flood, bum_workers, states, static_entries, dynamic_entries)| Setting {
            live,
            flood,
            bum_workers,
            states,
            static_entries,
            dynamic_entries,
        })
}

/// The program's decision, said once more: plain and slow.
struct Model {
    setting: Setting,
    exclusive: bool,
    static_entries: BTreeMap<[u8; 6], PortEntry>,
    dynamic_entries: BTreeMap<Address, PortEntry>,
    counts: [u64; COUNTS],
}

/// A decision: the router, if the frame is redirected; the workers that get copies.
#[derive(PartialEq, Debug)]
struct Decision {
    verdict: Verdict,
    router: Option<u16>,
    copies: BTreeSet<usize>,
    moves: Vec<(Address, bool)>,
}

impl Model {
    fn new(setting: &Setting, exclusive: bool) -> Self {
        // Routers 0-3; static_entries ones and dynamic_entries ones are spread over them and over the workers.
        let port = |n: usize| entry((n % 4) as u16, n as u16 % MODEL_WORKERS);
        let static_entries =
            setting.static_entries.iter().enumerate().map(|(n, mac)| (*mac, port(n))).collect();
        let dynamic_entries = setting.dynamic_entries.iter().enumerate();
        let dynamic_entries =
            dynamic_entries.map(|(n, (mac, outer, inner))| (station(*mac, *outer, *inner), port(n + 1)));
        let dynamic_entries = dynamic_entries.collect();
        Self { setting: setting.clone(), exclusive, static_entries, dynamic_entries, counts: [0; COUNTS] }
    }

    fn count(&mut self, which: Count, n: u64) {
        self.counts[which as usize] += n;
    }

    /// VIDs of the first two tags that are there to their end.
    fn vids(frame: &[u8]) -> (u16, u16) {
        let word = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let vid = |at: usize| match word(at) {
            Some(0x8100 | 0x88a8 | 0x9100) => word(at + 4).and(word(at + 2)).map(|tci| tci & 0xfff),
            _ => None,
        };
        match vid(12) {
            None => (0, 0),
            Some(outer) => (outer, vid(16).unwrap_or(0)),
        }
    }

    fn decide(&mut self, arrival: &Arrival, frame: &[u8]) -> Decision {
        let mut decision =
            Decision { verdict: Pass, router: None, copies: BTreeSet::new(), moves: Vec::new() };
        if !self.setting.live {
            return decision;
        }
        let (outer, inner) = Self::vids(frame);
        let source = station(arrival.src, outer, inner);
        if self.dynamic_entries.remove(&source).is_some() {
            decision.moves.push((source, false));
        }
        if self.static_entries.remove(&arrival.src).is_some() {
            decision.moves.push((source, true));
        }
        self.count(Count::Moved, decision.moves.len() as u64);
        if arrival.dst[0] & 1 == 1 {
            self.count(Count::Bum, 1);
            let workers = self.setting.bum_workers;
            decision.copies = (0..MODEL_WORKERS.into()).filter(|worker| workers >> worker & 1 == 1).collect();
            if self.exclusive && workers != 0 && frame.len() <= MAX_STEERED {
                decision.verdict = Redirect;
                decision.router = Some(STAMP_BUM);
                self.count(Count::BumSteered, 1);
                decision.copies.remove(&1);
            }
            self.count(Count::BumCopies, decision.copies.len() as u64);
            return decision;
        }
        let destination = station(arrival.dst, outer, inner);
        let port =
            self.dynamic_entries.get(&destination).or_else(|| self.static_entries.get(&arrival.dst)).copied();
        match port {
            _ if arrival.dst == NIC => self.count(Count::Passed, 1),
            None => {
                if self.setting.flood {
                    decision.copies.insert(0);
                    self.count(Count::UnknownCopies, 1);
                }
                self.count(Count::Passed, 1);
            }
            Some(port) => {
                decision.verdict = Drop;
                match self.setting.states[usize::from(port.router)] {
                    1 => self.count(Count::RouterPaused, 1),
                    2 => self.count(Count::RouterDown, 1),
                    _ => {
                        decision.verdict = Redirect;
                        decision.router = Some(port.router);
                        self.count(Count::Steered, 1);
                        self.count(Count::SteeredBytes, frame.len() as u64);
                    }
                }
            }
        }
        decision
    }
}

fn tell(bench: &Bench, model: &Model) {
    let (tables, shared) = (bench.steering.tables(), bench.shared());
    shared.live.store(model.setting.live.into(), SeqCst);
    shared.flood_unknown.store(model.setting.flood.into(), SeqCst);
    shared.flood_worker.store(0, SeqCst);
    shared.bum_workers.store(model.setting.bum_workers, SeqCst);
    shared.bum_owner.store(1, SeqCst);
    for (state, byte) in shared.router_state.iter().zip(model.setting.states) {
        state.store(byte, SeqCst);
    }
    for name in ["dynamic_fdb", "static_fdb"] {
        let map = bench.steering.object().maps().find(|map| map.name() == name).unwrap();
        for key in map.keys().collect::<Vec<_>>() {
            map.delete(&key).unwrap();
        }
    }
    for (station, entry) in &model.dynamic_entries {
        tables.insert_dynamic(station, entry).unwrap();
    }
    for (mac, entry) in &model.static_entries {
        tables.insert_static(Mac(*mac), entry).unwrap();
    }
}

/// Promise (Frames): The XDP program decides about any frame as its model in Rust does.
#[test]
fn xdp_program_matches_the_model() {
    let workers = usize::from(MODEL_WORKERS);
    for exclusive in [false, true] {
        let bench = std::cell::RefCell::new(Bench::with(workers, exclusive));
        let cases = (settings(), proptest::collection::vec(arrivals(), 1..30));
        let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&cases, |(setting, arrivals)| {
            let bench = &mut *bench.borrow_mut();
            // What a case that failed left behind.
            bench.take_moves();
            (0..workers).for_each(|worker| drop(bench.take(worker)));
            let mut model = Model::new(&setting, exclusive);
            tell(bench, &model);
            for arrival in arrivals {
                let frame = arrival.bytes();
                let before = bench.counts();
                model.counts = before;
                let decision = model.decide(&arrival, &frame);
                let run = bench.run(&frame);
                let head = if run.verdict == Redirect { HEAD } else { 0 };
                let mut copies = BTreeSet::new();
                for worker in 0..workers {
                    let taken = bench.take(worker);
                    prop_assert!(taken.len() <= 1);
                    for copy in taken {
                        prop_assert!(copy.frame == frame, "the copy was changed");
                        copies.insert(worker);
                    }
                }
                let router = (head > 0).then(|| Stamp::read(&run.data).unwrap().router());
                let moves = bench.take_moves();
                prop_assert_eq!(
                    Decision { verdict: run.verdict, router, copies, moves },
                    decision,
                    "{:?}",
                    arrival
                );
                prop_assert!(run.data[head..] == frame, "the frame was changed");
                prop_assert_eq!(bench.counts(), model.counts);
            }
            Ok(())
        });
        result.unwrap_or_else(|e| panic!("exclusive {exclusive}: {e}"));
    }
}
