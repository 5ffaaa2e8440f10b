//! What a router counts.

use super::wiring::Refusal;
use std::fmt;
use std::io;
use std::ops::AddAssign;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a router received, sent and dropped since it started. Frames, except where bytes are said.
        ///
        /// Shown as `name=number` pairs on one line.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Counters {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let pairs = [$((stringify!($name), self.$name)),*];
                for (n, (name, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{name}={value}", if n == 0 { "" } else { " " })?;
                }
                Ok(())
            }
        }
    };
}

counters! {
    /// Accepted.
    received,
    /// Bytes of those, without the IOU header.
    received_bytes,
    /// Copies that reached a socket.
    sent,
    /// Bytes of those, without the IOU header.
    sent_bytes,
    /// Dropped: too short for the header and an Ethernet header.
    short,
    /// Dropped: for another id.
    wrong_id,
    /// Dropped: for an interface that is not in NETMAP.
    wrong_interface,
    /// Dropped: from an endpoint that is not on the interface's NETMAP lines.
    wrong_source,
    /// Dropped: not a data message.
    wrong_type,
    /// Accepted, with a VLAN tag, and dropped by the simulated stack, which has no VLANs.
    tagged,
    /// Accepted, but the TAP device was down.
    tap_down,
    /// Accepted, but the interface was down for want of L1 keepalives.
    link_down,
    /// Not sent: no socket file there (ENOENT).
    no_socket,
    /// Not sent: no process reads the socket file (ECONNREFUSED).
    refused,
    /// Not sent: the receiver's queue was full (EAGAIN).
    full,
    /// Not sent: any other error.
    failed,
}

impl Counters {
    /// Counts a datagram of `length` bytes that was accepted or dropped.
    pub(super) fn arrival<T>(&mut self, length: usize, check: Result<T, Refusal>) -> Option<T> {
        let reason = match check {
            Ok(accepted) => {
                self.received += 1;
                self.received_bytes += (length - crate::iou::header::LEN) as u64;
                return Some(accepted);
            }
            Err(Refusal::Short) => &mut self.short,
            Err(Refusal::WrongId) => &mut self.wrong_id,
            Err(Refusal::WrongInterface) => &mut self.wrong_interface,
            Err(Refusal::WrongSource) => &mut self.wrong_source,
            Err(Refusal::WrongType) => &mut self.wrong_type,
        };
        *reason += 1;
        None
    }

    /// Counts a datagram of `length` bytes that was sent or not.
    pub(super) fn departure(&mut self, length: usize, result: io::Result<usize>) {
        match result.map_err(|e| e.kind()) {
            Ok(_) => {
                self.sent += 1;
                self.sent_bytes += (length - crate::iou::header::LEN) as u64;
            }
            Err(io::ErrorKind::NotFound) => self.no_socket += 1,
            Err(io::ErrorKind::ConnectionRefused) => self.refused += 1,
            Err(io::ErrorKind::WouldBlock) => self.full += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// Datagrams dropped because of their header or length.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.short + self.wrong_id + self.wrong_interface + self.wrong_source + self.wrong_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_pairs_that_add_up() {
        let mut total = Counters { received: 1, wrong_id: 2, ..Counters::default() };
        total += Counters { received: 2, failed: 7, ..Counters::default() };
        let line = total.to_string();
        assert!(line.starts_with("received=3 received_bytes=0 sent=0 "), "{line}");
        assert!(line.ends_with(" full=0 failed=7"), "{line}");
        assert_eq!(total.dropped(), 2);
    }
}
