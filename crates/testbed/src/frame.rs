//! Frames that can be told apart and checked for completeness when they arrive.
//!
//! The payload is `IOUF`, a sequence number, the frame's length, and then bytes that depend on the number and
//! their offset. A frame that is too short for that holds as much of it as fits.

/// IEEE 802 local experimental EtherType 1: no host answers it.
pub const ETHERTYPE: u16 = 0x88b5;

/// Bytes of the smallest frame on a wire, without FCS: a shorter one may arrive padded with zeros.
pub const MIN: usize = 60;

const MAGIC: &[u8; 4] = b"IOUF";

/// Magic, sequence number, length.
const HEAD: usize = 4 + 8 + 4;

/// A VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Tag protocol: 0x8100 for a customer tag, 0x88a8 for a service tag.
    pub tpid: u16,
    /// Priority, DEI and VLAN id.
    pub tci: u16,
}

impl Tag {
    /// An 802.1Q tag with a VLAN id, priority 0.
    #[must_use]
    pub const fn vlan(id: u16) -> Self {
        Self { tpid: 0x8100, tci: id }
    }

    /// Any tag.
    #[must_use]
    pub const fn new(tpid: u16, tci: u16) -> Self {
        Self { tpid, tci }
    }
}

impl From<u16> for Tag {
    fn from(id: u16) -> Self {
        Self::vlan(id)
    }
}

impl From<(u16, u16)> for Tag {
    fn from((tpid, tci): (u16, u16)) -> Self {
        Self { tpid, tci }
    }
}

/// A frame of `len` bytes with the number `seq` in it. `len` includes addresses and tags but no FCS; the outer tag comes
/// first.
///
/// # Panics
/// If addresses, tags and EtherType do not fit into `len`.
pub fn frame(
    dst: [u8; 6],
    src: [u8; 6],
    tags: &[impl Into<Tag> + Copy],
    ethertype: u16,
    len: usize,
    seq: u64,
) -> Vec<u8> {
    let mut frame = [dst, src].concat();
    for tag in tags {
        let tag: Tag = (*tag).into();
        frame.extend(tag.tpid.to_be_bytes());
        frame.extend(tag.tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    let header = frame.len();
    assert!(len >= header, "a frame with {} tags has at least {header} bytes, not {len}", tags.len());
    frame.extend(MAGIC);
    frame.extend(seq.to_be_bytes());
    frame.extend((len as u32).to_be_bytes());
    frame.extend((HEAD..).map(|at| pattern(seq, at)).take(len.saturating_sub(frame.len())));
    frame.truncate(len);
    frame
}

/// The payload's byte at `at`, a hash of the offset and the number: a byte that is missing, doubled or taken from
/// another frame shows.
fn pattern(seq: u64, at: usize) -> u8 {
    let mixed = (at as u64 ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed.to_be_bytes()[0]
}

/// What [`check`] finds in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The number given to [`frame`].
    pub seq: u64,
    /// Destination address.
    pub dst: [u8; 6],
    /// Source address.
    pub src: [u8; 6],
    /// Tags, outer first.
    pub tags: Vec<Tag>,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Its length when it was made.
    pub len: usize,
}

/// Reads a frame made by [`frame`] and checks that every byte of it is there. Zeros up to [`MIN`] may follow.
///
/// # Errors
/// What is wrong with it: it is no such frame (or was made too short to tell), or was cut, lengthened or changed.
pub fn check(received: &[u8]) -> Result<Seen, String> {
    let array = |at: usize| received.get(at..at + 6).and_then(|b| <[u8; 6]>::try_from(b).ok());
    let word = |at: usize| received.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let short = || format!("{} bytes are no whole header", received.len());
    let (dst, src) = (array(0).ok_or_else(short)?, array(6).ok_or_else(short)?);
    let (mut tags, mut at) = (Vec::new(), 12);
    let ethertype = loop {
        match word(at).ok_or_else(short)? {
            tpid @ (0x8100 | 0x88a8 | 0x9100) => {
                tags.push(Tag { tpid, tci: word(at + 2).ok_or_else(short)? });
                at += 4;
            }
            ethertype => break ethertype,
        }
    };
    let payload = &received[at + 2..];
    let head = payload.get(..HEAD).filter(|head| head.starts_with(MAGIC));
    let head = head.ok_or_else(|| format!("not one of our frames: {}", hex(received)))?;
    let seq = u64::from_be_bytes(head[4..12].try_into().map_err(|_| short())?);
    let len = u32::from_be_bytes(head[12..16].try_into().map_err(|_| short())?) as usize;
    same(&frame(dst, src, &tags, ethertype, len.clamp(at + 2, 1 << 17), seq), received)
        .map_err(|e| format!("frame {seq}: {e}"))?;
    Ok(Seen { seq, dst, src, tags, ethertype, len })
}

/// Checks that a frame arrived as it was sent, except for zeros that pad a short one to [`MIN`].
///
/// # Errors
/// Both lengths and the first difference.
pub fn same(sent: &[u8], received: &[u8]) -> Result<(), String> {
    let padded = sent.len() < MIN && received.len() == MIN;
    let differs = sent.iter().zip(received).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let around = |bytes: &[u8]| hex(&bytes[at..bytes.len().min(at + 16)]);
        return Err(format!(
            "differs at byte {at}: sent {} bytes, {} ..., received {} bytes, {} ...",
            sent.len(),
            around(sent),
            received.len(),
            around(received)
        ));
    }
    if received.len() != sent.len() && !padded {
        return Err(format!("sent {} bytes, received {}", sent.len(), received.len()));
    }
    if padded && received[sent.len()..].iter().any(|b| *b != 0) {
        return Err(format!("padded with something else than zeros: {}", hex(&received[sent.len()..])));
    }
    Ok(())
}

/// Bytes as a network engineer reads them, at most 64.
fn hex(bytes: &[u8]) -> String {
    let text: Vec<_> = bytes.iter().take(64).map(|b| format!("{b:02x}")).collect();
    text.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    #[test]
    fn layout() {
        let f = frame(A, B, &[(0x88a8, 5), (0x8100, 0x2006)], 0x0800, 64, 0x0102);
        assert_eq!(f[..6], A);
        assert_eq!(f[6..12], B);
        assert_eq!(f[12..24], [0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 6, 8, 0, b'I', b'O']);
        assert_eq!(f.len(), 64);
        let seen = check(&f).unwrap();
        let tags = vec![Tag::new(0x88a8, 5), Tag::new(0x8100, 0x2006)];
        assert_eq!(seen, Seen { seq: 0x0102, dst: A, src: B, tags, ethertype: 0x0800, len: 64 });
    }

    #[test]
    fn any_length_can_be_made_and_compared() {
        for len in 14..200 {
            let f = frame(A, B, &[] as &[Tag], ETHERTYPE, len, 7);
            assert_eq!(f.len(), len);
            same(&f, &f).unwrap();
            assert_eq!(check(&f).is_ok(), len >= 14 + HEAD, "{len}");
        }
    }

    #[test]
    fn padding_with_zeros_to_the_smallest_frame_is_allowed() {
        let f = frame(A, B, &[9_u16], ETHERTYPE, 40, 7);
        let mut padded = f.clone();
        padded.resize(MIN, 0);
        assert_eq!(check(&padded).unwrap().len, 40);
        padded[59] = 1;
        assert!(check(&padded).is_err());
        padded.truncate(59);
        assert!(check(&padded).is_err());
        let mut long = frame(A, B, &[9_u16], ETHERTYPE, 60, 7);
        long.push(0);
        assert!(check(&long).is_err());
    }

    #[test]
    fn every_kind_of_damage_shows() {
        let whole = frame(A, B, &[10_u16], ETHERTYPE, 300, 99);
        assert!(check(&whole[..299]).is_err());
        assert!(check(&whole[..20]).is_err());
        assert!(check(&whole[..13]).is_err());
        assert!(check(&[]).is_err());
        for at in 18..300 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(check(&changed).is_err(), "byte {at}");
        }
        let mut shifted = whole.clone();
        shifted.remove(100);
        shifted.push(0);
        assert!(check(&shifted).is_err());
        let other = frame(A, B, &[10_u16], ETHERTYPE, 300, 100);
        let mixed = [&whole[..200], &other[200..]].concat();
        assert!(check(&mixed).unwrap_err().contains("frame 99"));
    }
}
