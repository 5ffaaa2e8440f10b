//! Frames through the XDP program, by the kernel's test-run. Input: what the program is told, 8 bytes, and a frame.
//!
//! Verdict, frame, counters, copies and reports are those of a plain reckoning here. Needs root.
//!
//! Promise `hostile-input`.
#![no_main]

use iou_fast::ether::Address;
use iou_fast::ether::Mac;
use iou_fast::ether::{HEADER, View};
use iou_fast::iou::header::Header;
use iou_fast::steer::layout::{
    COPY_LARGE, COUNTS, Copied, CopyKind, Count, HEAD, MAX_LARGE, MAX_STEERED, PortEntry, RouterState, STAMP,
    STAMP_BUM, STEER_CHUNK, Stamp, mac_word, read_moved,
};
use iou_fast::steer::{Options, Steering};
use iou_fast::sys::ringbuf::RingBuffer;
use libbpf_rs::ProgramInput;
use libfuzzer_sys::{Corpus, fuzz_target};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

const WORKERS: usize = 2;
const NIC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

thread_local! {
    static BENCHES: RefCell<[Bench; 2]> = RefCell::new([Bench::new(false), Bench::new(true)]);
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((told, frame)) = data.split_first_chunk::<8>() else { return Corpus::Reject };
    if frame.len() < HEADER {
        return Corpus::Reject; // the kernel's test-run takes none
    }
    BENCHES.with_borrow_mut(|benches| benches[usize::from(told[0] >> 7)].run(*told, frame));
    Corpus::Keep
});

/// The loaded program, live, with a socket for each worker.
struct Bench {
    steering: Steering,
    exclusive: bool,
    copies: Vec<RingBuffer>,
    moves: RingBuffer,
    _sockets: Vec<OwnedFd>,
}

/// What is expected.
#[derive(Default)]
struct Expected {
    verdict: u32,
    /// Router and header in front of the frame.
    head: Option<(u16, [u8; 8])>,
    counts: [u64; COUNTS],
    copies: [Option<CopyKind>; WORKERS],
    moves: Vec<(Address, bool)>,
}

impl Expected {
    fn count(&mut self, which: Count, n: usize) {
        self.counts[which as usize] += n as u64;
    }

    /// To a worker's ring, unless enough is on its way there.
    fn redirect(&mut self, router: u16, header: [u8; 8], busy: bool) -> bool {
        if busy {
            self.verdict = DROP;
            self.count(Count::WorkerBusy, 1);
        } else {
            self.verdict = REDIRECT;
            self.head = Some((router, header));
        }
        !busy
    }

    fn copy(&mut self, worker: usize, kind: CopyKind, len: usize) {
        if len > COPY_LARGE {
            return self.count(Count::TooLarge, 1);
        }
        self.count(if kind == CopyKind::Bum { Count::BumCopies } else { Count::UnknownCopies }, 1);
        self.copies[worker] = Some(kind);
    }
}

impl Bench {
    fn new(exclusive: bool) -> Self {
        let options =
            Options { workers: WORKERS, queues: 1, exclusive, dynamic_entries: 64, static_entries: 64 };
        let steering = Steering::load(&options).expect("the XDP program can be loaded, by root");
        let sockets: Vec<OwnedFd> = (0..WORKERS)
            .map(|worker| {
                let socket =
                    socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
                steering.set_ring(&options, 0, worker, socket.as_fd()).unwrap();
                socket
            })
            .collect();
        let copies = (0..WORKERS).map(|worker| steering.copies(worker).unwrap().0).collect();
        let moves = steering.moves().unwrap().0;
        Self { steering, exclusive, copies, moves, _sockets: sockets }
    }

    fn run(&mut self, told: [u8; 8], frame: &[u8]) {
        let [flags, known, router_low, router_high, state, group, flood, credits] = told;
        let view = View::read(frame).expect("long enough");
        let (destination, source) = (view.destination, view.source);
        let is = |bit: u8| known >> bit & 1 == 1;
        let router = u16::from_le_bytes([router_low, router_high]) % STAMP_BUM;
        let entry = |n: u8| PortEntry {
            header: Header([n, flags, 2, 3, 4, 5, 1, 0]),
            router,
            worker: u16::from(state >> 7),
            port: 7,
        };
        let nic = if is(6) { destination.mac } else { NIC };
        let state =
            [RouterState::Ready, RouterState::Paused, RouterState::Down][usize::from(state & 0x7f) % 3];

        let tables = self.steering.tables().clone();
        let shared = &tables.shared;
        let largest = if flags & 2 == 0 { MAX_STEERED } else { MAX_LARGE };
        shared.largest.store(largest as u32, SeqCst);
        shared.live.store(u32::from(flags & 1 == 0), SeqCst);
        shared.nic_mac.store(mac_word(nic), SeqCst);
        shared.bum_workers.store(u64::from(group & 3), SeqCst);
        shared.bum_owner.store(u32::from(group >> 2 & 1), SeqCst);
        shared.flood_unknown.store(u32::from(flood & 1), SeqCst);
        shared.flood_worker.store(u32::from(flood >> 1 & 1), SeqCst);
        shared.router_state[usize::from(router)].store(state as u8, SeqCst);
        shared.any_dynamic.store(0, SeqCst);
        // Frames on their way to either worker, and how many of them may be.
        let on_their_way = u32::from(credits >> 4);
        shared.credit_limit.store(u32::from(credits & 15), SeqCst);
        for credits in &shared.credits[..WORKERS] {
            credits.returned.store(u32::MAX - 3, SeqCst);
            credits.steered.store((u32::MAX - 3).wrapping_add(on_their_way), SeqCst);
        }
        let head = if flags & 4 == 0 { HEAD } else { 0 };
        shared.credit_head.store(head as u32, SeqCst);
        let chunks = (frame.len() + head).div_ceil(STEER_CHUNK).max(1);
        let busy = credits & 15 != 0 && usize::from(credits >> 4) + chunks > usize::from(credits & 15);
        let elsewhere = Address { outer_vid: destination.outer_vid ^ 1, ..destination };
        let dynamic_entries: Vec<Address> = [(0, destination), (1, source), (2, elsewhere)]
            .into_iter()
            .filter(|(bit, _)| is(*bit))
            .map(|(_, station)| station)
            .collect();
        for station in &dynamic_entries {
            tables.insert_dynamic(station, &entry(1)).unwrap();
        }
        // Every pattern is a local address. Others are not looked for, and would stay in the map.
        let static_entries: Vec<Mac> = [(3, destination.mac), (4, source.mac)]
            .into_iter()
            .filter(|(bit, mac)| is(*bit) && mac.0[0] & 2 != 0)
            .map(|(_, mac)| mac)
            .collect();
        for mac in &static_entries {
            tables.insert_static(*mac, &entry(2)).unwrap();
        }

        let expected = self.reckon(
            frame,
            &view,
            &dynamic_entries,
            &static_entries,
            shared.live.load(SeqCst) == 1,
            nic,
            state,
            &entry,
            group,
            flood,
            largest,
            busy,
        );
        let before = tables.counts().unwrap();
        let (verdict, data) = self.test_run(frame);
        let after = tables.counts().unwrap();

        assert_eq!(verdict, expected.verdict);
        let counted: [u64; COUNTS] = std::array::from_fn(|n| after[n] - before[n]);
        assert_eq!(counted, expected.counts);
        match expected.head {
            None => assert!(data == frame, "a frame that is not steered was changed"),
            Some((router, header)) => {
                assert_eq!(Stamp::read(&data).map(Stamp::router), Some(router));
                assert_eq!(data[STAMP..HEAD], header);
                assert!(data[HEAD..] == *frame, "a steered frame was changed");
            }
        }
        for (worker, kind) in expected.copies.iter().enumerate() {
            let ring = &mut self.copies[worker];
            assert_eq!(ring.peek(), usize::from(kind.is_some()));
            if let Some(kind) = kind {
                let copied = Copied::read(ring.record(0)).expect("a copy");
                assert_eq!(copied.kind, *kind);
                assert!(copied.frame == frame, "the copy differs");
            }
            ring.release();
        }
        let count = self.moves.peek();
        let moves: Vec<_> = (0..count).map(|n| read_moved(self.moves.record(n)).expect("a record")).collect();
        self.moves.release();
        assert_eq!(moves, expected.moves);

        for station in &dynamic_entries {
            tables.remove_dynamic(station).unwrap();
        }
        // A static address goes when it speaks from the wire.
        shared.live.store(1, SeqCst);
        for mac in &static_entries {
            let mut frame = [0; HEADER];
            frame[6..12].copy_from_slice(&mac.0);
            self.test_run(&frame);
            assert!(!tables.has_static(*mac));
        }
        while self.moves.peek() > 0 {
            self.moves.release();
        }
        for ring in &mut self.copies {
            while ring.peek() > 0 {
                ring.release();
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "everything the program is told")]
    fn reckon(
        &self,
        frame: &[u8],
        view: &View,
        dynamic_entries: &[Address],
        static_entries: &[Mac],
        live: bool,
        nic: Mac,
        state: RouterState,
        entry: &impl Fn(u8) -> PortEntry,
        group: u8,
        flood: u8,
        largest: usize,
        busy: bool,
    ) -> Expected {
        let mut expected = Expected { verdict: PASS, ..Expected::default() };
        if !live {
            return expected;
        }
        let (to, from) = (view.destination, view.source);
        if dynamic_entries.contains(&from) {
            expected.moves.push((from, false));
        }
        if static_entries.contains(&from.mac) {
            expected.moves.push((from, true));
        }
        expected.count(Count::Moved, expected.moves.len());

        let len = frame.len();
        if to.mac.is_multicast() {
            expected.count(Count::Bum, 1);
            let (mut mask, owner) = (group & 3, usize::from(group >> 2 & 1));
            if self.exclusive && mask != 0 && len <= largest {
                mask &= !(1 << owner);
                let redirected = expected.redirect(STAMP_BUM, [0; 8], busy);
                expected.count(Count::BumSteered, redirected.into());
            }
            for worker in (0..WORKERS).filter(|worker| mask >> worker & 1 == 1) {
                expected.copy(worker, CopyKind::Bum, len);
            }
            return expected;
        }
        // Whoever has just spoken from the wire is there.
        let by_learning = dynamic_entries.contains(&to) && to != from;
        let by_pattern = static_entries.contains(&to.mac) && to.mac != from.mac;
        let port = match () {
            () if to.mac == nic => None,
            () if by_learning => Some(entry(1)),
            () if by_pattern => Some(entry(2)),
            () => {
                if flood & 1 == 1 {
                    expected.copy(usize::from(flood >> 1 & 1), CopyKind::Unknown, len);
                }
                None
            }
        };
        let Some(port) = port else {
            expected.count(Count::Passed, 1);
            return expected;
        };
        match state {
            RouterState::Ready if len > largest => {
                expected.verdict = DROP;
                expected.count(Count::TooLarge, 1);
            }
            RouterState::Ready => {
                if expected.redirect(port.router, port.header.0, busy) {
                    expected.count(Count::Steered, 1);
                    expected.count(Count::SteeredBytes, len);
                }
            }
            RouterState::Paused | RouterState::Down => {
                expected.verdict = DROP;
                expected.count(
                    if state == RouterState::Paused { Count::RouterPaused } else { Count::RouterDown },
                    1,
                );
            }
        }
        expected
    }

    fn test_run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        let program = self.steering.object().progs_mut().find(|program| program.name() == "steer").unwrap();
        let input =
            ProgramInput { data_in: Some(frame), data_out: Some(&mut out), repeat: 1, ..Default::default() };
        let output = program
            .test_run(input)
            .unwrap_or_else(|error| panic!("test-run of {} bytes: {error}", frame.len()));
        (output.return_value, output.data.expect("asked for").to_vec())
    }
}
