//! One send to a router's socket, and what became of it.

use super::batch::BATCH;
use super::pool::ChunkCache;
use super::router_queue::{Datagram, Origin};
use crate::sys::mmsg::{Sender, Sent};
use af_xdp::{CHUNK_SIZE, Fragment, Umem};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::BorrowedFd;

/// A datagram for one of many, or for one beside the NIC: its chunks are needed further. Its header is in the first of its
/// `parts`.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) parts: &'a [&'a [u8]],
    /// When its frame arrived: `CLOCK_MONOTONIC`, ns.
    pub(super) time: u64,
    pub(super) origin: Origin,
}

impl Shared<'_> {
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// What became of a send.
pub(super) struct Progress {
    /// Datagrams, or chunks of them, that the kernel took.
    pub(super) sent: usize,
    /// The error it gave unless that was a full queue. When it took some, the error of the next is hidden: the rest goes to
    /// the backlog, and the error shows when that is tried.
    pub(super) refused: Option<Errno>,
}

impl Progress {
    /// Nothing was tried.
    pub(super) const NONE: Self = Self { sent: 0, refused: None };

    pub(super) fn of(result: Result<usize, Errno>) -> Self {
        match result {
            Ok(sent) => Self { sent, refused: None },
            Err(Errno::AGAIN) => Self::NONE,
            Err(errno) => Self { sent: 0, refused: Some(errno) },
        }
    }
}

/// Copies `parts`, one after the other, into `chunks` chunks, each of which goes to `each` as a fragment of one frame.
/// False if there were too few of them.
pub(super) fn copy(
    parts: &[&[u8]],
    chunks: usize,
    cache: &mut ChunkCache,
    mut each: impl FnMut(Fragment),
) -> bool {
    let mut rest = parts.iter().copied();
    let mut part = rest.next().unwrap_or_default();
    for n in 1..=chunks {
        let Some(mut frame) = cache.take() else { return false };
        let chunk = cache.umem().chunk_mut(&mut frame);
        let mut len = 0;
        while len < CHUNK_SIZE {
            if part.is_empty() {
                let Some(next) = rest.next() else { break };
                part = next;
            }
            let (here, after) = part.split_at(part.len().min(CHUNK_SIZE - len));
            chunk[len..len + here.len()].copy_from_slice(here);
            (len, part) = (len + here.len(), after);
        }
        let fragment = Fragment::new(frame, 0, len);
        each(if n < chunks { fragment.continued() } else { fragment });
    }
    true
}

/// Sends as much of a run as the router's queue takes, in chunks.
pub(super) fn send_all(
    sender: &mut Sender,
    socket: BorrowedFd<'_>,
    run: &[Datagram],
    umem: &Umem,
) -> Progress {
    if let [one] = run {
        return Progress::of(send_one(socket, umem.data(&one.fragment)).map(|()| 1));
    }
    let mut sent = 0;
    while sent < run.len() {
        let parts = run[sent..].iter().map(|datagram| datagram.part(umem));
        match sender.send(socket, BATCH, parts) {
            Ok(Sent { parts, all }) => {
                sent += parts;
                if !all || parts == 0 {
                    break;
                }
            }
            Err(errno) => return Progress { sent, ..Progress::of(Err(errno)) },
        }
    }
    Progress { sent, refused: None }
}

pub(super) fn send_one(socket: BorrowedFd<'_>, datagram: &[u8]) -> Result<(), Errno> {
    rustix::net::send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(|_| ())
}
