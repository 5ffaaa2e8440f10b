//! The simulated router itself: one smoltcp interface, which answers ARP, neighbour solicitations and pings.

use crate::ether::Mac;
use crate::iou::header;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::icmp;
use smoltcp::time::Instant as Ticks;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpCidr, Ipv6Cidr};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Identifier of the echo requests that a simulated router sends.
const IDENT: u16 = 0x1050;

/// Frames kept while the address of the host that gets the answer is being resolved.
const HELD: usize = 4;

/// How long they are kept.
const HOLD: Duration = Duration::from_secs(1);

/// Frames on their way out, each with room for the IOU header in front. Kept from call to call, so that nothing is
/// allocated once it has grown.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Calls `send` with each datagram: eight bytes for the header, then the frame.
    pub(super) fn each(&mut self, mut send: impl FnMut(&mut [u8])) {
        let mut start = 0;
        for &end in &self.ends {
            send(&mut self.bytes[start..end]);
            start = end;
        }
    }

    fn push<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len() + header::LEN;
        self.bytes.resize(start + length, 0);
        self.ends.push(start + length);
        fill(&mut self.bytes[start..])
    }

    fn last(&self) -> Option<&[u8]> {
        let start = self.ends.len().checked_sub(2).map_or(0, |n| self.ends[n]);
        self.bytes.get(start + header::LEN..)
    }
}

/// The device smoltcp sees during one call: at most one frame in, any number out.
struct Wire<'a> {
    frame: Option<&'a [u8]>,
    out: &'a mut Outbox,
    mtu: u16,
}

struct Received<'a>(&'a [u8]);
struct Sending<'a>(&'a mut Outbox);

impl Device for Wire<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sending<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Ticks) -> Option<(Received<'_>, Sending<'_>)> {
        Some((Received(self.frame.take()?), Sending(self.out)))
    }

    fn transmit(&mut self, _: Ticks) -> Option<Sending<'_>> {
        Some(Sending(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + 14;
        capabilities
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.push(length, f)
    }
}

/// One interface of a simulated router with its addresses.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    pinger: Option<SocketHandle>,
    mtu: u16,
    epoch: Instant,
    /// Added to the time smoltcp is told, see [`Stack::frame`].
    skew: Duration,
    held: VecDeque<(Instant, Vec<u8>)>,
    pongs: u64,
}

impl Stack {
    /// An interface with address `mac`, the given `addresses` and the link-local one made of `mac`.
    ///
    /// smoltcp accepts the all-nodes and the solicited-node groups of its addresses by itself.
    pub(super) fn new(mac: Mac, addresses: [IpCidr; 2], mtu: u16, now: Instant) -> Self {
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed =
            u64::from_be_bytes([0, 0, mac.0[0], mac.0[1], mac.0[2], mac.0[3], mac.0[4], mac.0[5]]);
        let mut wire = Wire { frame: None, out: &mut Outbox::default(), mtu };
        let mut interface = Interface::new(config, &mut wire, Ticks::ZERO);
        interface.update_ip_addrs(|own| {
            own.extend(addresses);
            // Linux asks from its own link-local address; without one of ours the answer would have no route.
            own.extend([IpCidr::Ipv6(Ipv6Cidr::new(link_local(mac), 64))]);
        });
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            pinger: None,
            mtu,
            epoch: now,
            skew: Duration::ZERO,
            held: VecDeque::new(),
            pongs: 0,
        }
    }

    fn ticks(&self, now: Instant) -> Ticks {
        Ticks::ZERO + (now.saturating_duration_since(self.epoch) + self.skew).into()
    }

    /// Takes a frame from the cable; what it answers goes to `out`.
    ///
    /// A host may know this router's address from before it restarted, and ping without asking. Then smoltcp asks for
    /// the host's address, forgets the ping, and asks for no other host for a second. Routers keep such packets:
    /// so the frame is kept until the answer comes, and smoltcp's second of silence is skipped.
    pub(super) fn frame(&mut self, frame: &[u8], now: Instant, out: &mut Outbox) {
        if self.ingress(frame, now, out) && self.held.len() < HELD {
            self.held.push_back((now, frame.to_vec()));
            self.skew += Duration::from_secs(1);
        }
        if !self.held.is_empty() {
            self.held.retain(|(since, _)| now.duration_since(*since) < HOLD);
            if resolution(frame) == Some(Resolution::Answer) {
                for (since, frame) in std::mem::take(&mut self.held) {
                    if self.ingress(&frame, now, out) {
                        self.held.push_back((since, frame));
                    }
                }
            }
        }
        self.egress(now, out);
    }

    /// Hands `frame` to smoltcp. Returns true if all it had to say was the question for a host's address.
    fn ingress(&mut self, frame: &[u8], now: Instant, out: &mut Outbox) -> bool {
        let before = out.ends.len();
        let ticks = self.ticks(now);
        let mut wire = Wire { frame: Some(frame), out, mtu: self.mtu };
        self.interface.poll_ingress_single(ticks, &mut wire, &mut self.sockets);
        out.ends.len() > before && out.last().and_then(resolution) == Some(Resolution::Question)
    }

    /// Lets smoltcp do what is due: [`Stack::deadline`] says when.
    pub(super) fn egress(&mut self, now: Instant, out: &mut Outbox) {
        let Some(pinger) = self.pinger else { return };
        let ticks = self.ticks(now);
        let mut wire = Wire { frame: None, out, mtu: self.mtu };
        self.interface.poll_egress(ticks, &mut wire, &mut self.sockets);
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(pinger);
        while socket.recv().is_ok() {
            self.pongs += 1;
        }
    }

    /// When [`Stack::egress`] is due without a frame from the cable; `None`: never.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        self.pinger?;
        let ticks = self.ticks(now);
        self.interface.poll_delay(ticks, &self.sockets).map(|delay| now + delay.into())
    }

    /// Queues one echo request to `target`. Returns false if the queue is full.
    pub(super) fn ping(&mut self, target: IpAddr, sequence: u16) -> bool {
        let sockets = &mut self.sockets;
        let pinger = *self.pinger.get_or_insert_with(|| {
            let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 1024]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            socket.bind(icmp::Endpoint::Ident(IDENT)).expect("a new socket is not bound");
            sockets.add(socket)
        });
        let checksums = ChecksumCapabilities::default();
        let data = b"a simulated router";
        let socket = sockets.get_mut::<icmp::Socket<'_>>(pinger);
        match target {
            IpAddr::V4(_) => {
                let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: sequence, data };
                let Ok(packet) = socket.send(request.buffer_len(), target.into()) else { return false };
                request.emit(&mut Icmpv4Packet::new_unchecked(packet), &checksums);
            }
            IpAddr::V6(to) => {
                let from = self.interface.get_source_address_ipv6(&to);
                let request = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no: sequence, data };
                let Ok(packet) = socket.send(request.buffer_len(), target.into()) else { return false };
                request.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(packet), &checksums);
            }
        }
        true
    }

    /// Echo replies received.
    pub(super) fn pongs(&self) -> u64 {
        self.pongs
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resolution {
    Question,
    Answer,
}

/// Whether `frame` asks for or tells a host's address (ARP, neighbour discovery).
fn resolution(frame: &[u8]) -> Option<Resolution> {
    let at = |offset: usize| frame.get(offset).copied();
    match (at(12)?, at(13)?) {
        // ARP: the operation.
        (0x08, 0x06) => match at(21)? {
            1 => Some(Resolution::Question),
            2 => Some(Resolution::Answer),
            _ => None,
        },
        // IPv6: next header ICMPv6, then its type.
        (0x86, 0xdd) if at(20)? == 58 => match at(54)? {
            135 => Some(Resolution::Question),
            136 => Some(Resolution::Answer),
            _ => None,
        },
        _ => None,
    }
}

/// The link-local address with the modified EUI-64 of `mac`, RFC 4291 appendix A.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

    const MAC: Mac = Mac([0xaa, 0xbb, 0xcc, 0, 1, 0]);
    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn stack(now: Instant) -> Stack {
        let v4 = Ipv4Cidr::new(Ipv4Address::new(10, 10, 0, 2), 16);
        let v6 = Ipv6Cidr::new("fd00:10::1".parse().unwrap(), 64);
        Stack::new(MAC, [v4.into(), v6.into()], 1500, now)
    }

    fn frames(out: &mut Outbox) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        out.each(|datagram| frames.push(datagram[header::LEN..].to_vec()));
        out.clear();
        frames
    }

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&MAC.0[..], &HOST, &kind.to_be_bytes(), payload].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Operation 1 asks for the router's address, 2 tells the host's, 10.10.255.9.
    fn arp(operation: u8) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        ethernet(0x0806, &[&head[..], &HOST, &[10, 10, 255, 9], &MAC.0, &[10, 10, 0, 2]].concat())
    }

    fn echo_request() -> Vec<u8> {
        let icmp = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"data" };
        let ip = smoltcp::wire::Ipv4Repr {
            src_addr: Ipv4Address::new(10, 10, 255, 9),
            dst_addr: Ipv4Address::new(10, 10, 0, 2),
            next_header: smoltcp::wire::IpProtocol::Icmp,
            payload_len: icmp.buffer_len(),
            hop_limit: 64,
        };
        let mut packet = vec![0; ip.buffer_len() + icmp.buffer_len()];
        ip.emit(&mut smoltcp::wire::Ipv4Packet::new_unchecked(&mut packet), &ChecksumCapabilities::default());
        let payload = &mut packet[ip.buffer_len()..];
        icmp.emit(&mut Icmpv4Packet::new_unchecked(payload), &ChecksumCapabilities::default());
        ethernet(0x0800, &packet)
    }

    #[test]
    fn arp_is_answered_and_padding_ignored() {
        let now = Instant::now();
        let (mut stack, mut out) = (stack(now), Outbox::default());
        stack.frame(&arp(1), now, &mut out);
        stack.frame(&echo_request(), now, &mut out);
        let [reply, pong] = &frames(&mut out)[..] else { panic!("one answer each") };
        assert_eq!(reply[..14], [&HOST[..], &MAC.0, &[8, 6]].concat());
        assert_eq!((reply[21], &reply[22..28]), (2, &MAC.0[..]));
        assert_eq!(pong.len(), 14 + 20 + 8 + 4);
        assert_eq!((pong[34], &pong[42..]), (0, &b"data"[..]));
    }

    #[test]
    fn a_ping_from_an_unknown_host_is_answered_once_it_is_resolved() {
        let now = Instant::now();
        let (mut stack, mut out) = (stack(now), Outbox::default());
        stack.frame(&echo_request(), now, &mut out);
        let [question] = &frames(&mut out)[..] else { panic!("one question") };
        assert_eq!(question[..6], [0xff; 6]);
        assert!(resolution(question) == Some(Resolution::Question));
        stack.frame(&arp(2), now + Duration::from_millis(300), &mut out);
        let [pong] = &frames(&mut out)[..] else { panic!("one answer") };
        assert_eq!((pong[34], &pong[42..]), (0, &b"data"[..]));
        // Answered once only.
        stack.frame(&arp(2), now + Duration::from_millis(400), &mut out);
        assert!(frames(&mut out).is_empty());
        // Known from now on, also after a long silence.
        stack.frame(&echo_request(), now + Duration::from_secs(90), &mut out);
        assert_eq!(frames(&mut out)[0][34..], pong[34..]);
    }

    #[test]
    fn an_old_question_is_not_answered() {
        let now = Instant::now();
        let (mut stack, mut out) = (stack(now), Outbox::default());
        stack.frame(&echo_request(), now, &mut out);
        out.clear();
        stack.frame(&arp(2), now + HOLD, &mut out);
        assert!(frames(&mut out).is_empty());
    }

    #[test]
    fn strange_frames_are_dropped() {
        let now = Instant::now();
        let (mut stack, mut out) = (stack(now), Outbox::default());
        let request = arp(1);
        for length in 14..42 {
            stack.frame(&request[..length], now, &mut out);
        }
        let tagged = [&request[..12], &[0x81, 0, 0, 5], &request[12..]].concat();
        stack.frame(&tagged, now, &mut out);
        let mut foreign = request.clone();
        foreign[..6].copy_from_slice(&[0xaa, 0xbb, 0xcc, 0, 2, 0]);
        stack.frame(&foreign, now, &mut out);
        assert!(frames(&mut out).is_empty());
    }
}
