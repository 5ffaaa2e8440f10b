//! Pings many addresses at once, from a namespace, through the kernel's own stack there.

use super::error::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, ipproto, socket, sockopt::set_socket_recv_buffer_size_force};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use testbed::Namespace;

/// Between two tries at an address that does not answer. The kernel asks for its MAC address once a second.
const RETRY: Duration = Duration::from_millis(300);

/// How long after the last request an answer still counts.
const GRACE: Duration = Duration::from_secs(1);

/// Room for the answers of a thousand routers that come at once.
const RECEIVE_BUFFER: usize = 4 << 20;

const ECHO_V4: u8 = 8;
const ECHO_V6: u8 = 128;
const REPLY_V4: u8 = 0;
const REPLY_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence number; then the number of the request, which the answer repeats.
const ECHO_LEN: usize = 8 + 4;

/// A request on its way or answered.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    /// Which of the addresses it went to.
    target: usize,
    sent: Instant,
    /// From the request's hand-over to the kernel to the answer's arrival here.
    pub(super) rtt: Option<Duration>,
}

/// Sends echo requests to a list of addresses and gathers the answers.
pub(super) struct Pinger {
    v4: UdpSocket,
    v6: UdpSocket,
    identifier: u16,
    targets: Vec<IpAddr>,
    echoes: Vec<Echo>,
    reached: Vec<bool>,
    duplicates: u64,
}

impl Pinger {
    /// From `namespace` to `targets`.
    pub(super) fn new(namespace: &Namespace, targets: Vec<IpAddr>) -> Result<Self> {
        let open = |family, protocol| -> io::Result<UdpSocket> {
            let raw = socket(family, SocketType::RAW, Some(protocol))?;
            set_socket_recv_buffer_size_force(&raw, RECEIVE_BUFFER)?;
            let raw = UdpSocket::from(raw);
            raw.set_nonblocking(true)?;
            Ok(raw)
        };
        let sockets =
            || Ok((open(AddressFamily::INET, ipproto::ICMP)?, open(AddressFamily::INET6, ipproto::ICMPV6)?));
        let opened: io::Result<_> = namespace.enter(sockets)?;
        let (v4, v6) = opened.context(|| format!("raw ICMP sockets in {}", namespace.name()))?;
        let identifier = std::process::id() as u16;
        let reached = vec![false; targets.len()];
        Ok(Self { v4, v6, identifier, targets, echoes: Vec::new(), reached, duplicates: 0 })
    }

    /// Every address and whether it has answered at all.
    pub(super) fn reached(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        self.targets.iter().copied().zip(self.reached.iter().copied())
    }

    /// How many addresses have answered.
    fn count(&self) -> usize {
        self.reached.iter().filter(|reached| **reached).count()
    }

    /// The requests of [`Pinger::measure`] to addresses that `wanted` accepts.
    pub(super) fn echoes(&self, wanted: impl Fn(IpAddr) -> bool) -> Vec<&Echo> {
        self.echoes.iter().filter(|echo| wanted(self.targets[echo.target])).collect()
    }

    /// How many answers came in [`Pinger::measure`] to a request that had its answer already.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Asks every address until it has answered, one within `pace`; gives up when none has newly answered for
    /// `patience` after it was asked. `watch` is called all the while with the number of those that have answered;
    /// it may end everything with an error.
    pub(super) fn reach(
        &mut self,
        pace: Duration,
        patience: Duration,
        mut watch: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut count = 0;
        let mut news = Instant::now();
        while count < self.targets.len() && news.elapsed() < patience {
            let next_try = Instant::now() + RETRY;
            for target in 0..self.targets.len() {
                if !self.reached[target] {
                    self.send(target);
                    self.receive_until(Instant::now() + pace);
                    watch(self.count())?;
                }
            }
            while self.count() < self.targets.len() && Instant::now() < next_try {
                self.receive_until(next_try.min(Instant::now() + Duration::from_millis(20)));
                watch(self.count())?;
            }
            if self.count() > count {
                (count, news) = (self.count(), Instant::now());
            }
        }
        Ok(())
    }

    /// Asks every address once a round, one within `pace`: `rounds` times, and until `duration` has passed. `watch`
    /// is called with the round.
    pub(super) fn measure(
        &mut self,
        pace: Duration,
        rounds: u32,
        duration: Duration,
        mut watch: impl FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        // What still comes from before must not be taken for an answer to these.
        self.receive_until(Instant::now() + RETRY);
        self.identifier = self.identifier.wrapping_add(1);
        self.echoes.clear();
        self.duplicates = 0;
        let start = Instant::now();
        let mut round = 0;
        while round < rounds || start.elapsed() < duration {
            for target in 0..self.targets.len() {
                self.send(target);
                self.receive_until(Instant::now() + pace);
                watch(round)?;
            }
            round += 1;
        }
        let end = Instant::now() + GRACE;
        while self.echoes.iter().any(|echo| echo.rtt.is_none()) && Instant::now() < end {
            self.receive_until(Instant::now() + Duration::from_millis(10));
            watch(round)?;
        }
        Ok(())
    }

    /// Sends a request. That it cannot be sent, for want of a MAC address say, is the same as no answer.
    fn send(&mut self, target: usize) {
        let address = self.targets[target];
        let (socket, kind) = if address.is_ipv4() { (&self.v4, ECHO_V4) } else { (&self.v6, ECHO_V6) };
        let request = echo_request(kind, self.identifier, self.echoes.len() as u32);
        self.echoes.push(Echo { target, sent: Instant::now(), rtt: None });
        let _ = socket.send_to(&request, SocketAddr::new(address, 0));
    }

    /// Takes answers in until `end`.
    fn receive_until(&mut self, end: Instant) {
        loop {
            self.receive();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut sockets = [PollFd::new(&self.v4, PollFlags::IN), PollFd::new(&self.v6, PollFlags::IN)];
            // Interrupted: the caller's watch looks into that.
            let _ = poll(&mut sockets, Some(&left));
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        for (socket, kind) in [(&self.v4, REPLY_V4), (&self.v6, REPLY_V6)] {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let now = Instant::now();
                // An IPv4 raw socket delivers the IP header too, its length in words in the first byte.
                let skip = if kind == REPLY_V4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
                let number = buffer[..len].get(skip..).and_then(|icmp| reply(icmp, kind, self.identifier));
                let Some(echo) = number.and_then(|number| self.echoes.get_mut(number as usize)) else {
                    continue;
                };
                if from.ip() != self.targets[echo.target] {
                    continue;
                }
                match echo.rtt {
                    None => {
                        echo.rtt = Some(now - echo.sent);
                        self.reached[echo.target] = true;
                    }
                    Some(_) => self.duplicates += 1,
                }
            }
        }
    }
}

/// An echo request with `number` as its data. For IPv6 the kernel fills the checksum in.
fn echo_request(kind: u8, identifier: u16, number: u32) -> [u8; ECHO_LEN] {
    let mut packet = [0; ECHO_LEN];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&(number as u16).to_be_bytes());
    packet[8..].copy_from_slice(&number.to_be_bytes());
    if kind == ECHO_V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The number in an answer to one of our requests.
fn reply(icmp: &[u8], kind: u8, identifier: u16) -> Option<u32> {
    let ours = icmp.len() == ECHO_LEN && icmp[0] == kind && icmp[4..6] == identifier.to_be_bytes();
    let data = icmp.get(8..12)?.try_into().ok()?;
    ours.then(|| u32::from_be_bytes(data))
}

/// The Internet checksum, RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_answer() {
        let mut packet = echo_request(ECHO_V4, 0x1234, 70_000);
        // A sum over a packet with its checksum is zero.
        assert_eq!(checksum(&packet), 0);
        assert_eq!(reply(&packet, REPLY_V4, 0x1234), None);
        packet[0] = REPLY_V4;
        assert_eq!(reply(&packet, REPLY_V4, 0x1234), Some(70_000));
        assert_eq!(reply(&packet, REPLY_V4, 0x1235), None);
        assert_eq!(reply(&packet[..11], REPLY_V4, 0x1234), None);
        assert_eq!(reply(&[], REPLY_V6, 0), None);
    }

    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
