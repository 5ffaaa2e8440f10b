//! How IOU talks: instance ids and interfaces, the 8-byte header, the MAC addresses that routers use,
//! and the sockets and lock files of a netio directory.
//!
//! `docs/iou-protocol.md` is the account of the protocol; the modules here are its code.

pub mod header;
pub mod lock;
pub mod mac;
pub mod netio;
pub mod queue;
pub mod socket;
#[cfg(test)]
mod testing;

use std::fmt;
use std::str::FromStr;

/// The number of a router, or of a pseudo instance that stands for a forwarder: 1 to 1024.
///
/// It names the socket file in the netio directory and travels in the datagram header, two bytes, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u16);

impl InstanceId {
    /// The smallest id.
    pub const MIN: u16 = 1;
    /// The largest id: IOU itself stops at 1023, iouyap and its NETMAP files use 1024 too.
    pub const MAX: u16 = 1024;

    /// The id `n`, or `None` outside 1..=1024.
    #[must_use]
    pub const fn new(n: u16) -> Option<Self> {
        if n >= Self::MIN && n <= Self::MAX { Some(Self(n)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A router's interface as one byte, `bay + unit * 16`: low nibble bay (major), high nibble unit (minor).
///
/// `Ethernet0/1` is bay 0 unit 1: `0x10`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(pub u8);

impl Interface {
    /// The interface `bay/unit`, or `None` if either is above 15.
    #[must_use]
    pub const fn new(bay: u8, unit: u8) -> Option<Self> {
        if bay < 16 && unit < 16 { Some(Self(bay | unit << 4)) } else { None }
    }

    /// The bay (major number), 0 to 15.
    #[must_use]
    pub const fn bay(self) -> u8 {
        self.0 & 0x0f
    }

    /// The unit (minor number), 0 to 15.
    #[must_use]
    pub const fn unit(self) -> u8 {
        self.0 >> 4
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bay(), self.unit())
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One end of a NETMAP line, without its host: an instance and one of its interfaces, written `ID:BAY/UNIT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The instance.
    pub id: InstanceId,
    /// The interface.
    pub interface: Interface,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.interface)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `ID:BAY/UNIT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (id, interface) = text.split_once(':')?;
            let (bay, unit) = interface.split_once('/')?;
            let id = InstanceId::new(id.parse().ok()?)?;
            let interface = Interface::new(bay.parse().ok()?, unit.parse().ok()?)?;
            Some(Self { id, interface })
        };
        parse().ok_or_else(|| format!("\"{text}\" is no endpoint ID:BAY/UNIT, such as 513:0/1"))
    }
}
