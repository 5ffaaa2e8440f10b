//! Empties a datagram socket as fast as the kernel allows, for receivers that only count.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams read by one call.
const BATCH: usize = 64;

/// Reads the heads of whole batches of datagrams with `recvmmsg`.
///
/// Only `HEAD` bytes of each are copied; with `MSG_TRUNC` the kernel still says how long it was.
#[derive(Debug)]
pub struct Drain<const HEAD: usize> {
    heads: Box<[[u8; HEAD]; BATCH]>,
    lengths: [usize; BATCH],
    count: usize,
}

impl<const HEAD: usize> Default for Drain<HEAD> {
    fn default() -> Self {
        Self { heads: Box::new([[0; HEAD]; BATCH]), lengths: [0; BATCH], count: 0 }
    }
}

impl<const HEAD: usize> Drain<HEAD> {
    /// Reads what is queued, at most 64 datagrams, without waiting. Returns whether more may be there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is queued, otherwise what `recvmmsg` says. [`Drain::batch`] is then empty.
    pub fn recv(&mut self, socket: impl AsFd) -> io::Result<bool> {
        self.count = 0;
        let mut vectors = self
            .heads
            .each_mut()
            .map(|head| libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: HEAD });
        // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers with zero lengths.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for (message, vector) in messages.iter_mut().zip(&mut vectors) {
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every message points at one live iovec, which points at HEAD bytes that this object owns and
        // nothing else touches during the call; no name or control buffers; no timeout.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages[..self.count]) {
            *length = message.msg_len as usize;
        }
        Ok(self.count == BATCH)
    }

    /// The datagrams of the last read: the first bytes of each, at most `HEAD`, and its full length.
    pub fn batch(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let lengths = &self.lengths[..self.count];
        self.heads.iter().zip(lengths).map(|(head, &length)| (&head[..length.min(HEAD)], length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn heads_and_full_lengths() {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let mut drain = Drain::<4>::default();
        assert_eq!(drain.recv(&receiver).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.send(&[1, 2]).unwrap();
        sender.send(&[3; 1500]).unwrap();
        assert!(!drain.recv(&receiver).unwrap());
        assert_eq!(drain.batch().collect::<Vec<_>>(), [(&[1, 2][..], 2), (&[3, 3, 3, 3][..], 1500)]);
        assert!(drain.recv(&receiver).is_err());
        assert_eq!(drain.batch().count(), 0);
    }
}
