//! The 8-byte header in front of every frame.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | destination instance id, big-endian |
//! | 2 | 2 | source instance id, big-endian |
//! | 4 | 1 | destination interface |
//! | 5 | 1 | source interface |
//! | 6 | 1 | message type |
//! | 7 | 1 | channel |

use super::{Endpoint, InstanceId, Interface};

/// Length of the header in bytes.
pub const LEN: usize = 8;

/// Message type of a frame.
pub const TYPE_DATA: u8 = 1;
/// Message type of an L1 keepalive.
pub const TYPE_KEEPALIVE: u8 = 3;

mod field {
    use std::ops::Range;
    pub(super) const DESTINATION_ID: Range<usize> = 0..2;
    pub(super) const SOURCE_ID: Range<usize> = 2..4;
    pub(super) const DESTINATION_INTERFACE: usize = 4;
    pub(super) const SOURCE_INTERFACE: usize = 5;
    pub(super) const TYPE: usize = 6;
}

/// A header as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header(pub [u8; LEN]);

impl Header {
    /// The header of a data frame from `source` to `destination`.
    #[must_use]
    pub const fn data(destination: Endpoint, source: Endpoint) -> Self {
        let d = destination.id.get().to_be_bytes();
        let s = source.id.get().to_be_bytes();
        Self([d[0], d[1], s[0], s[1], destination.interface.0, source.interface.0, TYPE_DATA, 0])
    }

    /// An L1 keepalive between the same endpoints: the header is all there is of it.
    #[must_use]
    pub const fn keepalive(self) -> Self {
        let [a, b, c, d, e, f, _, _] = self.0;
        Self([a, b, c, d, e, f, TYPE_KEEPALIVE, 0])
    }

    /// The first eight bytes of `datagram`, or `None` if it is shorter.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        datagram.first_chunk().copied().map(Self)
    }

    /// The bytes as one number in the machine's byte order: two headers are equal if and only if these are.
    #[must_use]
    pub const fn word(self) -> u64 {
        u64::from_ne_bytes(self.0)
    }

    /// Destination instance id, as it stands there: any number.
    #[must_use]
    pub fn destination_id(&self) -> u16 {
        self.id(field::DESTINATION_ID)
    }

    /// Source instance id, as it stands there: any number.
    #[must_use]
    pub fn source_id(&self) -> u16 {
        self.id(field::SOURCE_ID)
    }

    /// The interface that is to receive the frame.
    #[must_use]
    pub const fn destination_interface(&self) -> Interface {
        Interface(self.0[field::DESTINATION_INTERFACE])
    }

    /// The interface that sent the frame.
    #[must_use]
    pub const fn source_interface(&self) -> Interface {
        Interface(self.0[field::SOURCE_INTERFACE])
    }

    /// Message type: 1 data, 0 free, 3 L1 keepalive.
    #[must_use]
    pub const fn message_type(&self) -> u8 {
        self.0[field::TYPE]
    }

    /// The endpoint the frame is for, or `None` if its id is out of range.
    #[must_use]
    pub fn destination(&self) -> Option<Endpoint> {
        let id = InstanceId::new(self.destination_id())?;
        Some(Endpoint { id, interface: self.destination_interface() })
    }

    /// The endpoint that sent the frame, or `None` if its id is out of range.
    #[must_use]
    pub fn source(&self) -> Option<Endpoint> {
        let id = InstanceId::new(self.source_id())?;
        Some(Endpoint { id, interface: self.source_interface() })
    }

    fn id(&self, at: std::ops::Range<usize>) -> u16 {
        self.0[at].iter().fold(0, |n, b| n << 8 | u16::from(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(id: u16, bay: u8, unit: u8) -> Endpoint {
        Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface::new(bay, unit).unwrap() }
    }

    /// The capture published with the original article, NETMAP `1:0/1 501:0/0`.
    #[test]
    fn published_capture() {
        let header = Header::data(endpoint(501, 0, 0), endpoint(1, 0, 1));
        assert_eq!(header.0, [0x01, 0xf5, 0x00, 0x01, 0x00, 0x10, 0x01, 0x00]);
    }

    #[test]
    fn a_keepalive_is_a_header_of_type_3() {
        let header = Header::data(endpoint(1, 0, 1), endpoint(501, 0, 0)).keepalive();
        assert_eq!(header.0, [0x00, 0x01, 0x01, 0xf5, 0x10, 0x00, 3, 0]);
    }

    #[test]
    fn a_short_datagram_has_no_header() {
        assert_eq!(Header::read(&[0; 7]), None);
        assert!(Header::read(&[0; 8]).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(d in 1u16..=1024, s in 1u16..=1024, di: u8, si: u8, tail: Vec<u8>) {
            let destination = Endpoint { id: InstanceId::new(d).unwrap(), interface: Interface(di) };
            let source = Endpoint { id: InstanceId::new(s).unwrap(), interface: Interface(si) };
            let mut datagram = Header::data(destination, source).0.to_vec();
            datagram.extend(tail);
            let header = Header::read(&datagram).unwrap();
            prop_assert_eq!(header.destination(), Some(destination));
            prop_assert_eq!(header.source(), Some(source));
            prop_assert_eq!(header.message_type(), TYPE_DATA);
            prop_assert_eq!(header.0[7], 0);
            prop_assert_eq!(header.destination_interface().bay() + header.destination_interface().unit() * 16, di);
        }

        #[test]
        fn any_bytes_can_be_read(bytes: [u8; 8]) {
            let header = Header::read(&bytes).unwrap();
            prop_assert_eq!(header.destination().is_some(), (1..=1024).contains(&header.destination_id()));
            prop_assert_eq!(header.word().to_ne_bytes(), bytes);
        }
    }
}
