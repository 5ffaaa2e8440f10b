//! The floor: the kernel calls that no forwarder can avoid, and nothing else.

use super::ready;
use super::traffic::Pacer;
use crate::Result;
use crate::board::{Board, Word};
use crate::lab::Lab;
use crate::sys::{UmemBatch, exact_timers};
use af_xdp::{Chunk, Config, CopyMode, Fragment, Kick, Sockets, Umem};
use iou_fast::iou::header;
use iou_fast::nic::Nic;
use iou_fast::nic::attach::{XdpModeChoice, attach};
use iou_fast::steer::{self, Steering};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// Datagrams read at a time, as the forwarder does.
const BATCH: usize = 64;
/// Places in each ring.
const RING: u32 = 2048;

/// A connected `send` of a ready datagram; when there is no room, `poll`.
///
/// The forwarder's XDP program is attached, and passes everything on: what the generator sends costs its CPU about as
/// much as with the forwarder, so the sink has about as much of it left.
pub(super) fn to_routers(board: &Board, lab: &Lab, interface: &str, len: usize) -> Result<()> {
    let options =
        steer::Options { workers: 1, queues: 1, exclusive: false, dynamic_entries: 1, static_entries: 1 };
    let steering = Steering::load(&options)?;
    let _attached = attach(steering.program()?.as_fd(), &Nic::find(interface)?, XdpModeChoice::Auto)?;
    let mut routers = Vec::new();
    for id in lab.ids() {
        let socket = UnixDatagram::unbound()?;
        socket.connect(lab.socket(id))?;
        routers.push((socket, lab.to_router(id, len)));
    }
    let (mut pacer, mut turn) = (Pacer::new(true), 0);
    exact_timers()?;
    ready();
    loop {
        for _ in 0..pacer.burst(board.get(Word::WireRate)) {
            let (socket, datagram) = &routers[turn];
            while let Err(errno) = send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                if errno != Errno::AGAIN {
                    return Err(errno.into());
                }
                poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
            }
            turn = (turn + 1) % routers.len();
        }
    }
}

/// `recvmmsg` into UMEM, and AF_XDP from there.
pub(super) fn to_nic(lab: &Lab, interface: &str) -> Result<()> {
    let (umem, mut free) = Umem::new(4 * RING)?;
    let umem = Arc::new(umem);
    let config = Config::new(Nic::find(interface)?.index())
        .ring_size(RING)
        .copy_mode(CopyMode::Copy)
        .busy_timeout(std::time::Duration::from_secs(1));
    let mut sockets = Sockets::open(&umem, &mut free, &config)?;
    let mut queue = sockets.queues.pop().ok_or("no queue")?;
    let mut tx = queue.sockets.pop().and_then(|socket| socket.tx).ok_or("no socket")?;

    // A queue as deep as the forwarder's; the bench's own network namespace says how deep.
    let depth = "/proc/sys/net/unix/max_dgram_qlen";
    let before = std::fs::read_to_string(depth)?;
    std::fs::write(depth, "4096")?;
    let path = lab.socket(lab.pseudo(1).id.get());
    let _ = std::fs::remove_file(&path);
    let pseudo = UnixDatagram::bind(&path)?;
    std::fs::write(depth, before.trim())?;

    let mut frames: Vec<Chunk> = free.split_off(free.len() - BATCH);
    let mut batch = UmemBatch::new(&umem, &mut frames);
    ready();
    loop {
        let count = batch.receive(pseudo.as_fd())?;
        while free.len() < count {
            queue.completion.reap(&mut free);
        }
        for (n, slot) in frames.iter_mut().enumerate().take(count) {
            let Some(mut fresh) = free.pop() else { break };
            batch.replace(n, &umem, &mut fresh);
            let frame = std::mem::replace(slot, fresh);
            let fragment = Fragment::new(frame, header::LEN, batch.length(n) - header::LEN);
            if let Err(full) = tx.push(fragment) {
                free.push(full.0.into_chunk());
            }
        }
        tx.publish();
        while tx.kick()? != Kick::Taken {
            queue.completion.reap(&mut free);
        }
        queue.completion.reap(&mut free);
    }
}
