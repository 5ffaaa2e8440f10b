//! Ethernet: addresses, and what forwarding needs to see of a frame: two addresses and up to two VLAN tags.

mod address;
pub mod checksum;
pub mod control_frames;

pub use address::{Address, Mac};

/// Bytes of addresses and type.
pub const HEADER: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG: usize = 4;
/// The shortest frame on a wire, in bytes without FCS.
pub const SHORTEST: usize = 60;

/// Whether `tpid` announces a VLAN tag: 802.1Q, 802.1ad, and the 0x9100 of older QinQ switches.
const fn is_tag(tpid: u16) -> bool {
    matches!(tpid, 0x8100 | 0x88a8 | 0x9100)
}

/// No network stacks more MPLS labels.
const MOST_LABELS: usize = 8;

/// Bytes of the MPLS labels in `frame`, behind `tags` bytes of VLAN tags: 4 for each of the stack.
#[must_use]
pub fn labels(frame: &[u8], tags: usize) -> usize {
    let (types, labels) = frame.split_at_checked(HEADER + tags).unwrap_or((frame, &[]));
    // Unicast, and multicast or upstream-assigned (RFC 5332).
    if !matches!(types.last_chunk(), Some([0x88, 0x47 | 0x48])) {
        return 0;
    }
    let (labels, _) = labels.as_chunks::<4>();
    // The S bit marks the bottom of the stack (RFC 3032).
    labels.iter().take(MOST_LABELS).position(|label| label[2] & 1 == 1).map_or(0, |bottom| 4 * (bottom + 1))
}

/// The addresses of a frame, each in the frame's VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Whom it is for.
    pub destination: Address,
    /// Who sent it.
    pub source: Address,
    /// Bytes of its VLAN tags: 0, 4 or 8.
    pub tags: usize,
}

impl View {
    /// Looks at `frame`, or `None` if it is shorter than its addresses and type.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = frame.first_chunk()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
        let word = |at: usize| frame.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let (mut outer_vid, mut inner_vid, mut tags) = (0, 0, 0);
        if word(12).is_some_and(is_tag)
            && let (Some(control), Some(inner)) = (word(14), word(16))
        {
            (outer_vid, tags) = (control & 0x0fff, TAG);
            if is_tag(inner)
                && let (Some(control), Some(_)) = (word(18), word(20))
            {
                (inner_vid, tags) = (control & 0x0fff, 2 * TAG);
            }
        }
        let address = |mac| Address { mac: Mac(mac), outer_vid, inner_vid };
        Some(Self { destination: address([a, b, c, d, e, f]), source: address([g, h, i, j, k, l]), tags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        frame.extend(rest);
        frame
    }

    #[test]
    fn labels_are_counted_to_the_bottom_of_the_stack() {
        let (label, bottom) = ([0, 1, 0, 64], [0, 1, 1, 64]);
        let stack = |rest: &[&[u8]]| {
            let frame = frame(&rest.concat());
            labels(&frame, View::read(&frame).unwrap().tags)
        };
        assert_eq!(stack(&[&[0x88, 0x47], &bottom, &[0x45; 40]]), 4);
        assert_eq!(stack(&[&[0x88, 0x48], &label, &label, &bottom, &bottom]), 12);
        assert_eq!(stack(&[&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x88, 0x47], &label, &bottom]), 8);
        assert_eq!(stack(&[&[8, 0], &bottom, &bottom]), 0);
        assert_eq!(stack(&[&[0x88, 0x47], &label, &label]), 0, "no bottom");
        assert_eq!(stack(&[&[0x88, 0x47], &label.repeat(8), &bottom]), 0, "nor within reason");
        assert_eq!(stack(&[&[0x88, 0x47]]), 0);
        assert_eq!(labels(&[0x88, 0x47], 0), 0);
    }

    #[test]
    fn tags_are_found_where_there_are_any() {
        let vids = |rest: &[u8]| {
            let view = View::read(&frame(rest)).unwrap();
            assert_eq!(view.source.mac, Mac([7, 8, 9, 10, 11, 12]));
            (view.destination.outer_vid, view.destination.inner_vid, view.tags)
        };
        assert_eq!(vids(&[8, 0]), (0, 0, 0));
        assert_eq!(vids(&[0x81, 0, 0xe0, 10, 8, 0]), (10, 0, 4));
        assert_eq!(vids(&[0x88, 0xa8, 0x0f, 0xff, 0x81, 0, 0, 20, 8, 0]), (0xfff, 20, 8));
        assert_eq!(vids(&[0x91, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0]), (1, 2, 8));
        assert_eq!(vids(&[0x81, 0, 0, 10]), (0, 0, 0), "cut before the inner type");
        assert_eq!(vids(&[0x81, 0, 0, 10, 0x81, 0, 0]), (10, 0, 4), "cut inside the inner tag");
        assert_eq!(View::read(&frame(&[8])), None);
    }
}
