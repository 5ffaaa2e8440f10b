//! The four rings with a test as the kernel.

use crate::chunk::{Chunk, Fragment};
use crate::completion::Completion;
use crate::fill::Fill;
use crate::rx::Rx;
use crate::simulated::{Kernel, rings_from};
use crate::tx::Tx;
use crate::umem::Umem;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use std::sync::Arc;

/// Where the indices of the rings begin: they wrap soon.
pub(crate) const START: u32 = u32::MAX - 5;

/// The user's side of the rings.
pub(crate) struct User {
    pub(crate) fill: Fill,
    pub(crate) completion: Completion,
    pub(crate) rx: Rx,
    pub(crate) tx: Tx,
    pub(crate) free: Vec<Chunk>,
    pub(crate) held: Vec<Fragment>,
}

/// Rings of `size` slots over a UMEM of so many chunks.
pub(crate) fn both_sides(chunks: u32, size: u32) -> (Arc<Umem>, User, Kernel) {
    let (umem, free) = Umem::new(chunks).unwrap();
    let umem = Arc::new(umem);
    let (fill, completion, rx, tx, kernel) = rings_from(&umem, size, START).unwrap();
    (umem, User { fill, completion, rx, tx, free, held: Vec::new() }, kernel)
}

pub(crate) fn descriptor(addr: u64, len: u32, continues: bool) -> XdpDesc {
    let options = if continues { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
    XdpDesc { addr, len, options }
}
