//! Who makes frames, and who takes them.

use super::ready;
use crate::Result;
use crate::board::{Board, FLOOD, Word};
use crate::lab::{BROADCAST, Lab, STATION, plain, router_mac};
use crate::sys::{Batch, exact_timers, go_first, packet_socket};
use rustix::event::epoll;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Frames a system call when flooding.
const BURST: usize = 32;
/// A paced sender's bursts follow each other at least this closely.
const BEAT: Duration = Duration::from_micros(50);
/// A paced sender that was held up longer than this does not make up for it.
const DEBT: Duration = Duration::from_millis(10);

/// Says when how many frames are to be sent.
pub(super) struct Pacer {
    rate: u64,
    next: Instant,
    patient: bool,
}

impl Pacer {
    /// A pacer that sleeps between bursts if `patient`, else lets others run without leaving the CPU.
    pub(super) fn new(patient: bool) -> Self {
        Self { rate: 0, next: Instant::now(), patient }
    }

    /// Waits until a burst is due at `rate` (frames per second, or [`FLOOD`]); returns how many frames it has. 0: the
    /// rate is to be looked at again.
    pub(super) fn burst(&mut self, rate: u64) -> usize {
        if rate == FLOOD {
            return BURST;
        }
        if rate == 0 {
            self.rate = 0;
            std::thread::sleep(Duration::from_millis(1));
            return 0;
        }
        let now = Instant::now();
        if self.rate != rate || now > self.next + DEBT {
            (self.rate, self.next) = (rate, now);
        }
        if now < self.next {
            if self.patient {
                std::thread::sleep(self.next - now);
            } else {
                std::thread::yield_now();
            }
            return 0;
        }
        let burst = (BEAT.as_nanos() as u64 * rate / 1_000_000_000).clamp(1, BURST as u64);
        self.next += Duration::from_nanos(burst * 1_000_000_000 / rate);
        burst as usize
    }
}

/// Of what floods beside pings: after those, and before all else.
const PRIORITY: i32 = 5;

/// The traffic beside pings must flow, though they leave its CPU little time.
pub(super) fn go_first_if(first: bool) -> Result<()> {
    if first {
        go_first(PRIORITY)?;
    }
    Ok(())
}

/// [`super::Role::Generator`]
pub(super) fn generate(
    board: &Board,
    interface: &str,
    to: &[u16],
    len: usize,
    (rate, sent): (Word, Word),
    patient: bool,
) -> Result<()> {
    let destinations: Vec<[u8; 6]> =
        if to.is_empty() { vec![BROADCAST] } else { to.iter().map(|id| router_mac(*id)).collect() };
    // A whole number of rounds, and enough for a burst.
    let rounds = BURST.div_ceil(destinations.len());
    let frames = std::iter::repeat_n(&destinations, rounds).flatten().map(|to| plain(*to, STATION, len));
    let mut batch = Batch::new(frames.collect());
    let socket = packet_socket(interface, 0, true)?;
    let (mut pacer, mut at) = (Pacer::new(patient), 0);
    exact_timers()?;
    ready();
    loop {
        let mut left = pacer.burst(board.get(rate));
        while left > 0 {
            match batch.send(socket.as_fd(), at, left, 0) {
                Ok(n) => {
                    at = (at + n) % batch.len();
                    left -= n;
                    board.add(sent, n);
                }
                // The other end of the veth pair has no room.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => left = 0,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// [`super::Role::Routers`]
pub(super) fn send_as_routers(
    board: &Board,
    lab: &Lab,
    len: usize,
    group: bool,
    patient: bool,
) -> Result<()> {
    let to = if group { BROADCAST } else { STATION };
    let mut senders = Vec::new();
    for id in lab.ids() {
        let path: PathBuf = lab.socket(lab.pseudo(id).id.get());
        let datagrams = vec![lab.sent_by(id, to, len); BURST];
        senders.push((UnixDatagram::unbound()?, Batch::to(datagrams, &[&path])));
    }
    let (mut pacer, mut turn) = (Pacer::new(patient), 0);
    exact_timers()?;
    ready();
    loop {
        let mut left = pacer.burst(board.get(Word::RoutersRate));
        while left > 0 {
            // Unless there is one router alone, one frame each.
            let share = if senders.len() == 1 { left } else { 1 };
            let count = senders.len();
            let (socket, batch) = &mut senders[turn % count];
            turn += 1;
            match batch.send(socket.as_fd(), 0, share, 0) {
                Ok(n) => {
                    board.add(Word::RoutersSent, n);
                    left = left.saturating_sub(n);
                }
                // The forwarder comes and goes.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    std::thread::sleep(Duration::from_millis(1));
                    left = 0;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// [`super::Role::Sink`]
pub(super) fn sink(board: &Board, lab: &Lab, ids: &[u16]) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let path = lab.socket(*id);
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
        sockets.push(socket);
    }
    let mut batch = Batch::new(vec![vec![0; 4096]; 64]);
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    ready();
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let socket = &sockets[event.data.u64() as usize];
            while let Ok(count) = batch.receive(socket.as_fd(), libc::MSG_DONTWAIT) {
                // Behind the header, the first bit of the first address.
                let group = (0..count).filter(|n| batch.bytes(*n).get(8).is_some_and(|byte| byte & 1 == 1));
                let group = group.count();
                board.add(Word::Unicast, count - group);
                board.add(Word::Group, group);
            }
        }
    }
}
