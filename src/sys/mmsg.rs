//! Many datagrams a system call: `recvmmsg` straight into UMEM chunks, `sendmmsg` from wherever they lie.
//!
//! All arrays are made once; a call touches only the entries it uses.

use af_xdp::{CHUNK, Frame, Umem};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Room for one control message with a `struct timespec`: `CMSG_SPACE(16)` on 64-bit machines.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

/// Bytes of `sockaddr_un` in front of the path: the address family.
const FAMILY: usize = std::mem::offset_of!(libc::sockaddr_un, sun_path);

/// Room for a sender's address.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name([u8; size_of::<libc::sockaddr_un>()]);

/// Reads datagrams into UMEM chunks.
pub struct Receiver {
    umem: Arc<Umem>,
    frames: Vec<Frame>,
    offset: usize,
    messages: Box<[libc::mmsghdr]>,
    // What `messages` points to. Never touched but through it and by index; boxed, so it does not move.
    vectors: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    names: Box<[Name]>,
    received: usize,
}

// SAFETY: the raw pointers point into the boxes and the UMEM that the receiver itself keeps alive; nothing in it
// is tied to a thread.
unsafe impl Send for Receiver {}

/// What is known of a received datagram beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Length in bytes, as far as it fitted.
    pub len: usize,
    /// It was longer than the room for it.
    pub truncated: bool,
    /// When it was put into the queue: `CLOCK_REALTIME`, ns; 0 if the kernel did not say.
    pub time: u64,
}

impl Receiver {
    /// A receiver that reads one datagram into each of `frames`, `offset` bytes into the chunk.
    pub fn new(umem: Arc<Umem>, mut frames: Vec<Frame>, offset: usize) -> Self {
        let vectors: Box<[_]> = frames.iter_mut().map(|frame| vector(&umem, frame, offset)).collect();
        let controls = vec![Control([0; 32]); frames.len()].into_boxed_slice();
        let names = vec![Name([0; _]); frames.len()].into_boxed_slice();
        let parts = vectors.iter().zip(&controls).zip(&names);
        let messages = parts.map(|((vector, control), name)| message(vector, control, name)).collect();
        Self { umem, frames, offset, messages, vectors, controls, names, received: 0 }
    }

    /// Reads up to `most` datagrams, and no more than there are frames, without waiting; returns how many.
    ///
    /// # Errors
    /// What `recvmmsg` says; `EAGAIN` when nothing waits.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
        for message in &mut self.messages[..self.received] {
            message.msg_hdr.msg_controllen = size_of::<Control>();
            message.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
        }
        self.received = 0;
        // SAFETY: every header points to one iovec, one control buffer and one name, alive and as long as said; the
        // iovecs point into chunks whose tokens `self.frames` holds, so nobody else refers to them.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len().min(most) as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(last_errno());
        }
        self.received = count as usize;
        Ok(self.received)
    }

    /// What is known of datagram `n` of the last [`receive`](Self::receive).
    #[must_use]
    pub fn received(&self, n: usize) -> Received {
        let message = &self.messages[..self.received][n];
        Received {
            len: message.msg_len as usize,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            time: self.time(n),
        }
    }

    /// The path that the sender of datagram `n` is bound to, as it gave it; empty if it is not bound. An abstract name
    /// begins with a zero byte.
    #[must_use]
    pub fn sender(&self, n: usize) -> &[u8] {
        let len = self.messages[..self.received][n].msg_hdr.msg_namelen as usize;
        // A path that fills its room is counted with a zero byte beyond it.
        let path = self.names[n].0.get(FAMILY..len.min(size_of::<Name>())).unwrap_or_default();
        // The kernel counts the zero byte at a path's end.
        path.strip_suffix(&[0]).filter(|path| path.first() != Some(&0)).unwrap_or(path)
    }

    /// The bytes of datagram `n`, and the rest of its chunk behind them (for padding).
    #[must_use]
    pub fn bytes_mut(&mut self, n: usize) -> &mut [u8] {
        &mut self.umem.chunk_mut(&mut self.frames[n])[self.offset..]
    }

    /// Takes datagram `n`'s frame out and puts `fresh` in its place for the next call.
    pub fn replace(&mut self, n: usize, mut fresh: Frame) -> Frame {
        self.vectors[n] = vector(&self.umem, &mut fresh, self.offset);
        std::mem::replace(&mut self.frames[n], fresh)
    }

    /// Gives all frames back.
    pub fn into_frames(self) -> Vec<Frame> {
        self.frames
    }

    fn time(&self, n: usize) -> u64 {
        let message = &self.messages[n];
        if message.msg_hdr.msg_controllen < size_of::<Control>() {
            return 0;
        }
        let control = &self.controls[n].0;
        let word = |at: usize| i64::from_ne_bytes(std::array::from_fn(|n| control[at + n]));
        let half = |at: usize| i32::from_ne_bytes(std::array::from_fn(|n| control[at + n]));
        // struct cmsghdr { size_t len; int level; int type; } and struct timespec { s64 seconds, nanoseconds; }
        if (half(8), half(12)) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            return 0;
        }
        (word(16) as u64).wrapping_mul(1_000_000_000).wrapping_add(word(24) as u64)
    }
}

fn vector(umem: &Umem, frame: &mut Frame, offset: usize) -> libc::iovec {
    let room = &mut umem.chunk_mut(frame)[offset..];
    debug_assert_eq!(room.len(), CHUNK - offset);
    libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }
}

fn message(vector: &libc::iovec, control: &Control, name: &Name) -> libc::mmsghdr {
    // SAFETY: msghdr is integers and pointers; all zero is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = std::ptr::from_ref(vector).cast_mut();
    header.msg_iovlen = 1;
    header.msg_control = std::ptr::from_ref(control).cast_mut().cast();
    header.msg_controllen = size_of::<Control>();
    header.msg_name = std::ptr::from_ref(name).cast_mut().cast();
    header.msg_namelen = size_of::<Name>() as libc::socklen_t;
    libc::mmsghdr { msg_hdr: header, msg_len: 0 }
}

/// Sends datagrams, many a call.
pub struct Sender {
    messages: Box<[libc::mmsghdr]>,
    /// Two for each message: a header, if it lies apart, and the rest.
    vectors: Box<[[libc::iovec; 2]]>,
}

// SAFETY: between calls the pointers in the arrays are dead values; nothing is tied to a thread.
unsafe impl Send for Sender {}

impl Sender {
    /// A sender of up to `max` datagrams a call.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let vectors = vec![[nothing; 2]; max].into_boxed_slice();
        let messages = vectors
            .iter()
            .map(|pair| {
                // SAFETY: as in `message`.
                let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
                header.msg_iov = pair.as_ptr().cast_mut();
                libc::mmsghdr { msg_hdr: header, msg_len: 0 }
            })
            .collect();
        Self { messages, vectors }
    }

    /// How many datagrams a call can take.
    #[must_use]
    pub fn max(&self) -> usize {
        self.messages.len()
    }

    /// Sends each of `datagrams`, as many as the receiver has room for; returns how many.
    ///
    /// # Errors
    /// What the first one met; a later one's error comes from the next call.
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        datagrams: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, Errno> {
        let mut count = 0;
        for (datagram, (message, pair)) in datagrams.zip(self.messages.iter_mut().zip(&mut self.vectors)) {
            pair[0] = source(datagram);
            message.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        // `datagrams` are borrowed for 'a, which outlives this call: the pointers are good until it returns.
        self.call(fd, 0, count)
    }

    /// Loads frames that are then sent to several receivers, each time behind another header.
    pub fn load<'s, 'a>(&'s mut self, frames: impl Iterator<Item = &'a [u8]>) -> Loaded<'s, 'a> {
        let mut count = 0;
        for (frame, (message, pair)) in frames.zip(self.messages.iter_mut().zip(&mut self.vectors)) {
            pair[1] = source(frame);
            message.msg_hdr.msg_iovlen = 2;
            count += 1;
        }
        Loaded { sender: self, count, frames: std::marker::PhantomData }
    }

    fn call(&mut self, fd: BorrowedFd<'_>, from: usize, to: usize) -> Result<usize, Errno> {
        let messages = &mut self.messages[from..to];
        // SAFETY: each header points to its pair of iovecs, of which it names as many as the callers have just
        // set to slices that outlive this call. The kernel only reads them.
        let count = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if count < 0 { Err(last_errno()) } else { Ok(count as usize) }
    }
}

/// Frames loaded into a [`Sender`].
pub struct Loaded<'s, 'a> {
    sender: &'s mut Sender,
    count: usize,
    frames: std::marker::PhantomData<&'a [u8]>,
}

impl Loaded<'_, '_> {
    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sends the frames from number `from` on, each behind `header`; returns how many.
    ///
    /// # Errors
    /// What the first one met.
    pub fn send(&mut self, fd: BorrowedFd<'_>, header: &[u8], from: usize) -> Result<usize, Errno> {
        for pair in &mut self.sender.vectors[from..self.count] {
            pair[0] = source(header);
        }
        self.sender.call(fd, from, self.count)
    }
}

fn source(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::{AsFd, OwnedFd};

    fn datagram_pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn receiver(frames: usize) -> Receiver {
        let (umem, free) = Umem::new(frames as u32).unwrap();
        Receiver::new(Arc::new(umem), free, 56)
    }

    #[test]
    fn datagrams_arrive_whole_in_their_chunks() {
        let (a, b) = datagram_pair();
        let mut sender = Sender::new(8);
        let datagrams: Vec<Vec<u8>> = (0..4u8).map(|n| vec![n; 100 + usize::from(n)]).collect();
        assert_eq!(sender.send(a.as_fd(), datagrams.iter().map(Vec::as_slice)), Ok(4));
        let mut receiver = receiver(8);
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(4));
        for (n, sent) in datagrams.iter().enumerate() {
            let len = receiver.received(n).len;
            assert_eq!(&receiver.bytes_mut(n)[..len], sent.as_slice());
            assert!(!receiver.received(n).truncated);
        }
        assert_eq!(receiver.receive(b.as_fd(), 64), Err(Errno::AGAIN));
    }

    #[test]
    fn what_is_too_long_is_marked() {
        let (a, b) = datagram_pair();
        rustix::net::send(&a, &[7; 5000], rustix::net::SendFlags::empty()).unwrap();
        let mut receiver = receiver(2);
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
        assert!(receiver.received(0).truncated);
        assert_eq!(receiver.received(0).len, CHUNK - 56);
    }

    #[test]
    fn the_time_of_arrival_is_read_every_time() {
        let (a, b) = datagram_pair();
        let mut receiver = receiver(4);
        rustix::net::send(&a, b"before", rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
        assert_eq!(receiver.received(0).time, 0, "not asked for");
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which is alive.
        let set = unsafe {
            let value = std::ptr::from_ref(&on).cast();
            libc::setsockopt(b.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, value, 4)
        };
        assert_eq!(set, 0);
        for _ in 0..3 {
            let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
            let before = now();
            rustix::net::send(&a, b"after", rustix::net::SendFlags::empty()).unwrap();
            let after = now();
            assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
            let time = receiver.received(0).time;
            assert!((before..=after).contains(&time), "{before} <= {time} <= {after}");
        }
    }

    #[test]
    fn who_sent_it_is_told_every_time() {
        use std::os::unix::net::UnixDatagram;
        let folder = tempfile::tempdir().unwrap();
        let ours = UnixDatagram::bind(folder.path().join("513")).unwrap();
        let long = folder.path().join("1".repeat(106 - folder.path().as_os_str().len()));
        let mut receiver = receiver(4);
        for _ in 0..2 {
            for path in [folder.path().join("1"), folder.path().join("1023"), long.clone()] {
                let _ = std::fs::remove_file(&path);
                let router = UnixDatagram::bind(&path).unwrap();
                router.send_to(b"x", folder.path().join("513")).unwrap();
                UnixDatagram::unbound().unwrap().send_to(b"y", folder.path().join("513")).unwrap();
                assert_eq!(receiver.receive(ours.as_fd(), 64), Ok(2));
                assert_eq!(receiver.sender(0), path.as_os_str().as_encoded_bytes());
                assert_eq!(receiver.sender(1), b"");
            }
        }
    }

    #[test]
    fn loaded_frames_go_out_behind_each_header() {
        let (a, b) = datagram_pair();
        let mut sender = Sender::new(4);
        let frames = [b"one".as_slice(), b"two"];
        let mut loaded = sender.load(frames.iter().copied());
        assert_eq!(loaded.send(a.as_fd(), b"H1", 0), Ok(2));
        assert_eq!(loaded.send(a.as_fd(), b"H2", 1), Ok(1));
        let mut receiver = receiver(4);
        assert_eq!(receiver.receive(b.as_fd(), 1), Ok(1));
        let len = receiver.received(0).len;
        assert_eq!(receiver.bytes_mut(0)[..len], *b"H1one");
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(2));
        let got: Vec<Vec<u8>> = (0..2)
            .map(|n| {
                let len = receiver.received(n).len;
                receiver.bytes_mut(n)[..len].to_vec()
            })
            .collect();
        assert_eq!(got, [b"H1two".to_vec(), b"H2two".to_vec()]);
    }

    #[test]
    fn a_replaced_frame_keeps_its_bytes() {
        let (a, b) = datagram_pair();
        let (umem, mut free) = Umem::new(3).unwrap();
        let umem = Arc::new(umem);
        let fresh = free.pop().unwrap();
        let mut receiver = Receiver::new(umem.clone(), free, 0);
        rustix::net::send(&a, b"first", rustix::net::SendFlags::empty()).unwrap();
        receiver.receive(b.as_fd(), 64).unwrap();
        let mut first = receiver.replace(0, fresh);
        rustix::net::send(&a, b"second", rustix::net::SendFlags::empty()).unwrap();
        receiver.receive(b.as_fd(), 64).unwrap();
        assert_eq!(&umem.chunk_mut(&mut first)[..5], b"first");
        assert_eq!(&receiver.bytes_mut(0)[..6], b"second");
    }
}
