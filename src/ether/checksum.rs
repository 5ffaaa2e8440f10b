//! Completes TCP and UDP checksums that their sender left to a NIC which is none.
//!
//! A kernel whose device offers checksum offload (a veth pair, virtio between two machines of one host) writes only
//! the sum of the pseudo-header into a segment's checksum field and trusts the device to add the rest
//! (`CHECKSUM_PARTIAL`, Documentation/networking/checksum-offloads.rst). Such a frame never meets a device that does;
//! a router would drop it.
//!
//! A field that holds the pseudo-header's sum is thus unfinished, unless the segment happens to be right as it is: then
//! it is left alone. So no valid packet is ever changed. What else is wrong stays wrong.

use std::ops::Range;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A checksum to be completed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// Where the field begins in the frame.
    field: usize,
    /// What belongs there.
    checksum: u16,
}

/// The unfinished checksum of `frame`, an Ethernet frame with up to two VLAN tags around IPv4 or IPv6, if it has one.
///
/// Fragments have none (a kernel completes before it cuts), nor has what lies behind IPv6 extension headers or in a
/// tunnel, as far as this looks.
#[inline]
#[must_use]
pub fn unfinished(frame: &[u8]) -> Option<Unfinished> {
    unfinished_in(frame, &[])
}

/// As [`unfinished`], for a frame that lies in several parts: `frame`, which has the headers, and the `rest`.
#[inline]
fn unfinished_in(frame: &[u8], rest: &[&[u8]]) -> Option<Unfinished> {
    let mut at = 14;
    let mut ethertype = word(frame, 12)?;
    while matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) && at < 22 {
        ethertype = word(frame, at + 2)?;
        at += 4;
    }
    let (addresses, protocol, segment) = match ethertype {
        IPV4 => {
            let header: &[u8; 20] = frame.get(at..)?.first_chunk()?;
            let begin = at + usize::from(header[0] & 15) * 4;
            let end = at + usize::from(u16::from_be_bytes([header[2], header[3]]));
            // Neither offset nor "more fragments": not a piece.
            let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            if !whole || header[0] < 0x45 || header[0] > 0x4f {
                return None;
            }
            (sum(&header[12..20]), header[9], begin..end)
        }
        IPV6 => {
            let header: &[u8; 40] = frame.get(at..)?.first_chunk()?;
            let end = at + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (sum(&header[8..40]), header[6], at + 40..end)
        }
        _ => return None,
    };
    // Where the field is, and the shortest segment.
    let (offset, shortest) = match protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        _ => return None,
    };
    let len = frame.len() + rest.iter().map(|part| part.len()).sum::<usize>();
    if segment.end > len || segment.len() < shortest {
        return None;
    }
    let field = segment.start + offset;
    let pseudo_header = fold(addresses + u64::from(protocol) + segment.len() as u64);
    if word(frame, field) != Some(pseudo_header) {
        return None;
    }
    let sum = sum_in(frame, rest, segment);
    finish(sum, pseudo_header, protocol).map(|checksum| Unfinished { field, checksum })
}

/// The folded sum of a segment that begins in `frame` and may end in one of the parts of the `rest`.
#[cold]
fn sum_in(frame: &[u8], rest: &[&[u8]], segment: Range<usize>) -> u16 {
    let here = segment.end.min(frame.len());
    let (mut total, mut left) = (u64::from(fold(sum(&frame[segment.start..here]))), segment.end - here);
    let mut odd = (here - segment.start) % 2 == 1;
    for part in rest {
        let part = &part[..left.min(part.len())];
        let sum = fold(sum(part));
        // Behind an odd number of bytes every byte is the other half of its word (RFC 1071, byte order independence).
        total += u64::from(if odd { sum.swap_bytes() } else { sum });
        odd ^= part.len() % 2 == 1;
        left -= part.len();
    }
    fold(total)
}

/// The checksum of a segment of this sum, whose field holds the sum of the pseudo-header. `None` if the
/// segment is right as it is, by one chance in 65536.
#[cold]
fn finish(sum: u16, pseudo_header: u16, protocol: u8) -> Option<u16> {
    if fold(u64::from(pseudo_header) + u64::from(sum)) == 0xffff {
        return None;
    }
    // UDP's checksum of zero means that there is none.
    Some(if protocol == UDP && sum == 0xffff { 0xffff } else { !sum })
}

impl Unfinished {
    /// Completes the checksum in `frame`, in which it was found.
    ///
    /// # Panics
    /// If it was found in a longer frame.
    pub fn complete(&self, frame: &mut [u8]) {
        frame[self.field..self.field + 2].copy_from_slice(&self.checksum.to_be_bytes());
    }
}

/// Completes the checksum of `frame` if it is [`unfinished`].
#[inline]
pub fn complete(frame: &mut [u8]) {
    if let Some(unfinished) = unfinished(frame) {
        unfinished.complete(frame);
    }
}

/// Completes the checksum of a frame that lies in several parts, the headers in the `first` of them.
pub fn complete_in(first: &mut [u8], rest: &[&[u8]]) {
    if let Some(unfinished) = unfinished_in(first, rest) {
        unfinished.complete(first);
    }
}

#[inline]
fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The sum of 16-bit words, not yet folded; a last odd byte is a word's first (RFC 1071).
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// Adds the carries: 16 bits of one's complement. Zero only for a sum of zero.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a kernel would send, checksum as given by `checksum(sum of the pseudo-header, sum of the rest)`.
    #[derive(Clone, Debug)]
    struct Packet {
        tags: usize,
        v6: bool,
        udp: bool,
        addresses: [u8; 32],
        /// 32-bit words.
        options: u8,
        payload: Vec<u8>,
        padding: usize,
    }

    impl Packet {
        /// The frame with a checksum of zero, where the field is, the sum of the pseudo-header, that of the segment.
        fn frame(&self) -> (Vec<u8>, usize, u16, u16) {
            let mut frame = vec![2; 12];
            for tpid in &[[0x88, 0xa8], [0x81, 0]][2 - self.tags..] {
                frame.extend(tpid);
                frame.extend([0x20, 7]);
            }
            let protocol = if self.udp { UDP } else { TCP };
            let header = if self.udp { 8 } else { 20 };
            let len = (header + self.payload.len()) as u16;
            let addresses = &self.addresses[..if self.v6 { 32 } else { 8 }];
            if self.v6 {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(len.to_be_bytes());
                frame.extend([protocol, 64]);
            } else {
                frame.extend([8, 0, 0x45 + self.options, 0]);
                frame.extend((len + 20 + 4 * u16::from(self.options)).to_be_bytes());
                frame.extend([1, 2, 0x40, 0, 64, protocol, 3, 4]);
            }
            frame.extend(addresses);
            if !self.v6 {
                frame.resize(frame.len() + 4 * usize::from(self.options), 1);
            }
            let start = frame.len();
            frame.extend([0x12, 0x34, 0x56, 0x78]);
            if self.udp {
                frame.extend(len.to_be_bytes());
            } else {
                frame.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 1, 0]);
            }
            let field = frame.len();
            frame.extend([0, 0]);
            frame.resize(start + header, 0);
            frame.extend(&self.payload);
            // Word by word, as RFC 1071 writes it.
            let slow = |bytes: &[u8]| {
                bytes.chunks(2).fold(0u32, |sum, word| {
                    let sum = sum + (u32::from(word[0]) << 8) + u32::from(*word.get(1).unwrap_or(&0));
                    (sum & 0xffff) + (sum >> 16)
                }) as u16
            };
            let pseudo = slow(&[addresses, &[0, protocol], &len.to_be_bytes()].concat());
            let segment = slow(&frame[start..]);
            frame.resize(frame.len() + self.padding, 0xaa);
            (frame, field, pseudo, segment)
        }

        fn with(&self, checksum: impl Fn(u16, u16) -> u16) -> Vec<u8> {
            let (mut frame, field, pseudo, segment) = self.frame();
            frame[field..field + 2].copy_from_slice(&checksum(pseudo, segment).to_be_bytes());
            frame
        }

        fn valid(&self) -> Vec<u8> {
            self.with(|pseudo, segment| {
                let sum = u32::from(pseudo) + u32::from(segment);
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                if self.udp && sum == 0 { 0xffff } else { sum }
            })
        }
    }

    fn packets() -> impl Strategy<Value = Packet> {
        let payload = prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..1600);
        let kind = (0usize..3, any::<bool>(), any::<bool>(), 0u8..11);
        (kind, any::<[u8; 32]>(), payload, 0usize..20).prop_map(
            |((tags, v6, udp, options), addresses, payload, padding)| Packet {
                tags,
                v6,
                udp,
                addresses,
                options,
                payload,
                padding,
            },
        )
    }

    fn completed(frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        complete(&mut frame);
        frame
    }

    proptest! {
        #[test]
        fn what_is_unfinished_becomes_valid(packet in packets()) {
            let unfinished = packet.with(|pseudo, _| pseudo);
            prop_assert_eq!(completed(&unfinished), packet.valid());
        }

        /// However a large frame is cut, if the headers are in its first part.
        #[test]
        fn in_several_parts_too(packet in packets(), cuts in prop::array::uniform3(any::<prop::sample::Index>())) {
            let (mut frame, field, ..) = packet.frame();
            frame.copy_from_slice(&packet.with(|pseudo, _| pseudo));
            let (first, rest) = frame.split_at_mut(field + 2 + cuts[0].index(packet.payload.len() + 1).min(20));
            let (a, rest) = rest.split_at(cuts[1].index(rest.len() + 1));
            let (b, c) = rest.split_at(cuts[2].index(rest.len() + 1));
            complete_in(first, &[a, b, c]);
            prop_assert_eq!(frame, packet.valid());
        }

        /// Promise `checksums`.
        #[test]
        fn no_valid_packet_is_changed(packet in packets()) {
            let valid = packet.valid();
            prop_assert_eq!(completed(&valid), valid);
        }

        /// The one chance in 65536: its last two bytes make a packet valid whose checksum is the pseudo-header's sum.
        #[test]
        fn not_even_one_that_looks_unfinished(packet in packets()) {
            let mut packet = packet;
            let even = packet.payload.len() & !1;
            packet.payload.truncate(even);
            packet.payload.extend([0, 0]);
            let (_, _, pseudo, segment) = packet.frame();
            // pseudo + segment + last + pseudo = 0xffff in one's complement.
            let mut last = 0xffff_u32 * 3 - 2 * u32::from(pseudo) - u32::from(segment);
            while last > 0xffff { last = (last & 0xffff) + (last >> 16); }
            let end = packet.payload.len();
            packet.payload[end - 2..].copy_from_slice(&(last as u16).to_be_bytes());
            let frame = packet.with(|pseudo, _| pseudo);
            prop_assert_eq!(unfinished(&frame), None);
            prop_assert_eq!(completed(&frame), frame);
        }

        #[test]
        fn udp_without_a_checksum_stays_so(packet in packets()) {
            let frame = packet.with(|_, _| 0);
            prop_assert_eq!(completed(&frame), frame);
        }

        /// A wrong checksum is the router's to judge.
        #[test]
        fn nothing_else_is_mended(packet in packets(), wrong: u16) {
            let (_, _, pseudo, _) = packet.frame();
            prop_assume!(wrong != pseudo);
            let frame = packet.with(|_, _| wrong);
            prop_assert_eq!(completed(&frame), frame);
        }

        #[test]
        fn a_frame_cut_anywhere_is_left_alone(packet in packets(), cut: prop::sample::Index) {
            let packet = Packet { padding: 0, ..packet };
            let frame = packet.with(|pseudo, _| pseudo);
            let cut = &frame[..cut.index(frame.len())];
            prop_assert_eq!(completed(cut), cut);
        }

        #[test]
        fn any_bytes_will_do(frame in prop::collection::vec(any::<u8>(), 0..200), ethertype in prop_oneof![Just(IPV4), Just(IPV6), Just(0x8100)]) {
            let mut frame = frame;
            if let Some(bytes) = frame.get_mut(12..14) { bytes.copy_from_slice(&ethertype.to_be_bytes()); }
            let before = frame.clone();
            complete(&mut frame);
            prop_assert_eq!(frame.len(), before.len());
            prop_assert!(frame.iter().zip(&before).filter(|(a, b)| a != b).count() <= 2);
        }
    }

    #[test]
    fn fragments_are_left_alone() {
        let packet = Packet {
            tags: 0,
            v6: false,
            udp: true,
            addresses: [10; 32],
            options: 0,
            payload: vec![1; 100],
            padding: 0,
        };
        for fragment in [[0x20, 0], [0, 1], [0x20, 100]] {
            let mut frame = packet.with(|pseudo, _| pseudo);
            assert!(unfinished(&frame).is_some());
            frame[20..22].copy_from_slice(&fragment);
            assert_eq!(unfinished(&frame), None);
        }
    }
}
