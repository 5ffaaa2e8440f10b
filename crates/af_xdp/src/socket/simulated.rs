//! The rings of a socket with a simulated kernel at their other side, in plain memory: what the user's side costs can
//! be measured without a network card. For benchmarks alone: nothing else has a use for it.

use super::{Completion, Fill, Rx, Socket, Tx};
use crate::mapping::Mapping;
use crate::registration::Registration;
use crate::ring::{Consumer, Layout, Producer};
use crate::umem::Umem;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, descriptors: 192 };
/// Where the kernel puts a frame in its chunk: XDP_PACKET_HEADROOM.
const HEADROOM: u64 = 256;

/// The other side of the rings.
#[derive(Debug)]
pub struct Kernel {
    fill: Consumer<u64>,
    completion: Producer<u64>,
    rx: Producer<XdpDesc>,
    tx: Consumer<XdpDesc>,
}

/// The rings of one socket, of `size` places each (a power of two), and their other side. The kernel never asks to be
/// woken: no system call is made.
///
/// # Errors
/// What the system says if it has no memory.
pub fn rings(umem: &Arc<Umem>, size: u32) -> io::Result<(Fill, Completion, Socket, Kernel)> {
    let fd: Arc<OwnedFd> = Arc::new(memfd_create("socket", MemfdFlags::CLOEXEC)?);
    let (fill, kernel_fill) = pair(size)?;
    let (kernel_completion, completion) = pair(size)?;
    let (kernel_rx, rx) = pair(size)?;
    let (tx, kernel_tx) = pair(size)?;
    let kernel = Kernel { fill: kernel_fill, completion: kernel_completion, rx: kernel_rx, tx: kernel_tx };
    let umem = Arc::new(Registration::new(umem, 0));
    let fill = Fill { ring: fill, umem: umem.clone(), fd: fd.clone() };
    let completion = Completion { ring: completion, umem: umem.clone(), faults: 0 };
    let rx = Rx { ring: rx, umem: umem.clone(), fd: fd.clone(), faults: 0 };
    let tx = Tx { ring: tx, umem, fd, zero_copy: false };
    Ok((fill, completion, Socket { rx, tx }, kernel))
}

fn pair<T: Copy>(size: u32) -> io::Result<(Producer<T>, Consumer<T>)> {
    let file = memfd_create("ring", MemfdFlags::CLOEXEC)?;
    let len = LAYOUT.bytes::<T>(size);
    ftruncate(&file, len as u64)?;
    let map = || Mapping::shared(file.as_fd(), len, 0);
    Ok((Producer::new(map()?, LAYOUT, size), Consumer::new(map()?, LAYOUT, size)))
}

impl Kernel {
    /// Receives up to `max` packets of `len` bytes into frames of the fill ring; returns how many.
    pub fn receive(&mut self, max: usize, len: u32) -> usize {
        let mut count = 0;
        while count < max && self.rx.free(1) > 0 {
            let Some(address) = self.fill.pop() else { break };
            let packet = XdpDesc { addr: address + HEADROOM, len, options: XdpDescOptions::empty() };
            if self.rx.push(packet).is_err() {
                break;
            }
            count += 1;
        }
        self.fill.release();
        self.rx.publish();
        count
    }

    /// Sends everything in the TX ring; returns how many packets that was.
    pub fn send(&mut self) -> usize {
        let mut count = 0;
        while self.completion.free(1) > 0 {
            let Some(packet) = self.tx.pop() else { break };
            if self.completion.push(packet.addr).is_err() {
                break;
            }
            count += 1;
        }
        self.tx.release();
        self.completion.publish();
        count
    }
}
