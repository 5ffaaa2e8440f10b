//! The options of a descriptor.

use crate::chunk::MORE;
use rustix::net::xdp::XdpDescOptions;

/// [`MORE`] if the frame continues in the next descriptor.
pub(crate) fn more(options: XdpDescOptions) -> u16 {
    const { assert!(XdpDescOptions::XDP_PKT_CONTD.bits() == 1) };
    (options.bits() as u16 & 1) * MORE
}
