//! The layout that `bpf/steer.h` shares with user space, in Rust. `tests/steer.rs` compares the two through the
//! program's BTF.

use crate::ether::{Address, Mac};
use crate::ids::MAX_ROUTERS;
pub use crate::ids::MAX_WORKERS;
use crate::iou::header::Header;
use crate::sys::mmsg::CHUNKS;
pub use crate::sys::shared::MAX_CREDITS;

/// Bytes in front of a steered frame: the arrival stamp, then the IOU header.
pub const HEAD: usize = 16;
/// Bytes of the arrival stamp.
pub const STAMP: usize = 8;
/// Bytes of a chunk that the kernel fills: its headroom of 256 stays free.
pub const STEER_CHUNK: usize = 4096 - 256;
/// The largest frame, in bytes, that is steered into one chunk, behind [`HEAD`].
pub const MAX_STEERED: usize = STEER_CHUNK - HEAD;
/// The largest frame, in bytes, that is steered where frames may take several chunks: four of them.
pub const MAX_LARGE: usize = CHUNKS * STEER_CHUNK - HEAD;
/// The numbers of routers are below this; it stands for a broadcast or multicast frame in a stamp (`--exclusive`).
pub const STAMP_BUM: u16 = MAX_ROUTERS as u16;
/// Bytes in front of a frame that was copied into a ring buffer.
pub const COPY_HEAD: usize = 16;
/// The largest frame, in bytes, whose copy takes 2 kB of a ring buffer: less the kernel's header of 8 and
/// [`COPY_HEAD`].
pub const COPY_SMALL: usize = 2048 - COPY_HEAD - 8;
/// The largest frame, in bytes, that is copied; above [`COPY_SMALL`] each takes 16 kB.
pub const COPY_LARGE: usize = 16384 - COPY_HEAD - 8;
/// Bytes of a ring buffer for copies, one for each worker of a NIC: 511 frames of up to [`COPY_SMALL`] (the kernel
/// never fills a ring buffer to its last byte).
pub const COPY_RING: u32 = 1 << 20;
/// Bytes of the ring buffer for moved addresses.
pub const MOVES_RING: usize = 1 << 16;

const TIME_BITS: u32 = 48;

/// When a frame arrived, and for which router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp at the start of a steered packet, or `None` if it is too short.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        packet.first_chunk().map(|bytes| Self(u64::from_ne_bytes(*bytes)))
    }

    /// Index of the router, or [`STAMP_BUM`].
    #[must_use]
    pub const fn router(self) -> u16 {
        (self.0 >> TIME_BITS) as u16
    }

    /// Nanoseconds from arrival to `now` (`CLOCK_MONOTONIC`, ns). The stamp holds 48 bits, 78 hours: good for ages.
    #[must_use]
    pub const fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.0) & ((1 << TIME_BITS) - 1)
    }

    /// When it arrived, reckoned from `now`: `CLOCK_MONOTONIC`, ns. 0 for an age that the machine has not reached: an
    /// invalid stamp.
    #[must_use]
    pub const fn time(self, now: u64) -> u64 {
        now.saturating_sub(self.age(now))
    }
}

/// What a router's state byte says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RouterState {
    /// Frames are steered.
    Ready = 0,
    /// Its backlog is at its bound.
    Paused = 1,
    /// It has no socket.
    Down = 2,
}

/// What the XDP program counts, summed over CPUs; frames unless it says bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Count {
    /// Redirected to a ring.
    Steered,
    /// Their bytes, as on the wire.
    SteeredBytes,
    /// Broadcast and multicast frames seen.
    Bum,
    /// Copies of broadcast and multicast frames put into ring buffers.
    BumCopies,
    /// Copies of unknown unicast put into ring buffers.
    UnknownCopies,
    /// Unicast left to the host.
    Passed,
    /// Dropped: the router's backlog is at its bound.
    RouterPaused,
    /// Dropped: the router has no socket.
    RouterDown,
    /// Dropped: too large to steer or to copy.
    TooLarge,
    /// Copies dropped: the ring buffer was full.
    CopyRingFull,
    /// Dropped: the worker has not yet taken what is on its way to it.
    WorkerBusy,
    /// Fault: no AF_XDP ring, or the head did not move.
    NoRing,
    /// Addresses that moved to the wire.
    Moved,
    /// Broadcast and multicast frames redirected to a ring, with `--exclusive`.
    BumSteered,
}

/// Number of counters.
pub const COUNTS: usize = Count::BumSteered as usize + 1;

/// What a copy in a ring buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyKind {
    /// A broadcast or multicast frame, for every port of the LAN.
    Bum,
    /// A unicast frame to an unknown address, for the port that gets those.
    Unknown,
}

/// A frame that was copied into a ring buffer.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// When it arrived: `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// What it is.
    pub kind: CopyKind,
    /// The frame.
    pub frame: &'a [u8],
}

impl<'a> Copied<'a> {
    /// Reads a ring buffer's record, or `None` if it is not one.
    #[must_use]
    pub fn read(record: &'a [u8]) -> Option<Self> {
        let time = u64::from_ne_bytes(*record.first_chunk()?);
        let len = u32::from_ne_bytes(*record.get(8..)?.first_chunk()?) as usize;
        let kind = match u32::from_ne_bytes(*record.get(12..)?.first_chunk()?) {
            0 => CopyKind::Bum,
            _ => CopyKind::Unknown,
        };
        Some(Self { time, kind, frame: record.get(COPY_HEAD..)?.get(..len)? })
    }
}

/// Key of a dynamic entry: `struct address`.
#[must_use]
pub fn address_key(address: &Address) -> [u8; 12] {
    let mut key = [0; 12];
    key[..6].copy_from_slice(&address.mac.0);
    key[6..8].copy_from_slice(&address.outer_vid.to_be_bytes());
    key[8..10].copy_from_slice(&address.inner_vid.to_be_bytes());
    key
}

/// The address in `struct moved`, and whether its entry was static. `None` if `record` is not one.
#[must_use]
pub fn read_moved(record: &[u8]) -> Option<(Address, bool)> {
    let mac = Mac(*record.first_chunk()?);
    let outer_vid = u16::from_be_bytes(*record.get(6..)?.first_chunk()?);
    let inner_vid = u16::from_be_bytes(*record.get(8..)?.first_chunk()?);
    let is_static = u32::from_ne_bytes(*record.get(12..)?.first_chunk()?) != 0;
    Some((Address { mac, outer_vid, inner_vid }, is_static))
}

/// An address as the program compares it: bytes 0-5 as on the wire, 6-7 zero.
#[must_use]
pub fn mac_word(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// What an address is behind, a router's interface: `struct port`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortEntry {
    /// The header that the router wants.
    pub header: Header,
    /// Index of the router in the plan.
    pub router: u16,
    /// The worker that owns the router.
    pub worker: u16,
    /// Index of the port in the plan.
    pub port: u32,
}

impl PortEntry {
    /// The map's value.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.header.0);
        value[8..10].copy_from_slice(&self.router.to_ne_bytes());
        value[10..12].copy_from_slice(&self.worker.to_ne_bytes());
        value[12..].copy_from_slice(&self.port.to_ne_bytes());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_router_and_age_across_its_wrap() {
        let now = (1 << 60) + 500;
        let stamp = Stamp((now - 200) & ((1 << 48) - 1) | 513 << 48);
        assert_eq!(stamp.router(), 513);
        assert_eq!(stamp.age(now), 200);
        assert_eq!(stamp.time(now), now - 200);
        let late = Stamp(((1 << 48) - 10) | 1 << 48);
        assert_eq!(late.age((1 << 48) + 10), 20);
        assert_eq!(Stamp(1001).time(1000), 0, "from the future, on a machine up for less than 78 hours");
    }

    #[test]
    fn a_copy_that_is_shorter_than_it_says_is_none() {
        let mut record = vec![0; COPY_HEAD + 60];
        record[8] = 61;
        assert!(Copied::read(&record).is_none());
        record[8] = 60;
        assert_eq!(Copied::read(&record).map(|copied| copied.frame.len()), Some(60));
    }
}
