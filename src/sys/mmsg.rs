//! Many datagrams per system call: `recvmmsg` straight into UMEM chunks, `sendmmsg` from wherever they lie.
//!
//! All arrays are made once; a call touches only the entries it uses.

use af_xdp::{CHUNK_SIZE, Chunk, Fragment, Umem};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Bytes of one control message with a `struct timespec`: `CMSG_SPACE(16)` on 64-bit machines.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

/// Of so many datagrams that are read together, the kernel tells when the first came: each answer costs a fiftieth of its
/// time for the read.
const TIMED: usize = 8;

/// Chunks that the largest datagram takes.
pub const CHUNKS: usize = 4;

/// Bytes of `sockaddr_un` in front of the path: the address family.
const FAMILY: usize = std::mem::offset_of!(libc::sockaddr_un, sun_path);

/// Bytes of a sender's address.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name([u8; size_of::<libc::sockaddr_un>()]);

/// Reads datagrams into UMEM chunks: into one each, or into [`CHUNKS`] once it is [made larger](Self::enlarge).
pub struct Receiver {
    umem: Arc<Umem>,
    /// The first chunk of each message.
    frames: Vec<Chunk>,
    /// The others, one message after the other; none as long as datagrams take one chunk.
    others: Vec<[Chunk; CHUNKS - 1]>,
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

/// Too few fresh chunks for those that a datagram takes along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooFew;

/// What is known of a received datagram beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Length in bytes, as far as it fitted.
    pub len: usize,
    /// It was longer than the chunks for it.
    pub truncated: bool,
    /// When it was put into the queue, or one a little before it: `CLOCK_REALTIME`, ns; 0 if the kernel did not say.
    pub time: u64,
}

impl Receiver {
    /// A receiver that reads one datagram into each of `frames`, `offset` bytes into the chunk.
    pub fn new(umem: Arc<Umem>, mut frames: Vec<Chunk>, offset: usize) -> Self {
        let vectors: Box<[_]> = frames.iter_mut().map(|frame| vector(&umem, frame, offset)).collect();
        let controls = vec![Control([0; 32]); frames.len().div_ceil(TIMED)].into_boxed_slice();
        let names = vec![Name([0; _]); frames.len()].into_boxed_slice();
        let messages = messages(&vectors, 1, &controls, &names);
        Self { umem, frames, others: Vec::new(), offset, messages, vectors, controls, names, received: 0 }
    }

    /// From now on a datagram may take [`CHUNKS`] chunks: those it was made with, and as many times `others`. What
    /// was received before is forgotten.
    pub fn enlarge(&mut self, mut others: Vec<[Chunk; CHUNKS - 1]>) {
        assert_eq!(others.len(), self.frames.len(), "chunks for each message");
        self.vectors = (self.frames.iter_mut().zip(&mut others))
            .flat_map(|(first, others)| {
                let others = others.each_mut().map(|frame| vector(&self.umem, frame, 0));
                std::iter::once(vector(&self.umem, first, self.offset)).chain(others)
            })
            .collect();
        self.messages = messages(&self.vectors, CHUNKS, &self.controls, &self.names);
        self.others = others;
        self.received = 0;
    }

    /// True once datagrams may take more than one chunk.
    #[must_use]
    pub fn is_large(&self) -> bool {
        !self.others.is_empty()
    }

    /// The bytes that fit into a datagram's first chunk.
    #[must_use]
    pub const fn first_room(&self) -> usize {
        CHUNK_SIZE - self.offset
    }

    /// Reads up to `most` datagrams, and no more than there are frames, without waiting; returns how many.
    ///
    /// # Errors
    /// What `recvmmsg` says; `EAGAIN` when nothing waits.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
        for message in &mut self.messages[..self.received] {
            message.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
        }
        for message in self.messages[..self.received].iter_mut().step_by(TIMED) {
            message.msg_hdr.msg_controllen = size_of::<Control>();
        }
        self.received = 0;
        // SAFETY: every header points to its iovecs, a name and a control buffer or none, all alive and as many and long as
        // said; the iovecs point into chunks whose tokens `self.frames` and `self.others` hold, so nothing else refers to
        // them.
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

    /// The bytes of datagram `n` in its first chunk, and those in the others, empty slices where there are none.
    #[must_use]
    pub fn parts_mut(&mut self, n: usize) -> (&mut [u8], [&[u8]; CHUNKS - 1]) {
        let len = self.received(n).len;
        let room = self.first_room();
        let mut rest = len.saturating_sub(room);
        let others = match self.others.get(n) {
            None => [&[][..]; CHUNKS - 1],
            Some(frames) => frames.each_ref().map(|frame| {
                let here = rest.min(CHUNK_SIZE);
                rest -= here;
                &self.umem.chunk(frame)[..here]
            }),
        };
        (&mut self.umem.chunk_mut(&mut self.frames[n])[self.offset..][..len.min(room)], others)
    }

    /// Takes datagram `n`'s frame out, the first if it has several, and puts `fresh` in its place for the next call.
    pub fn replace(&mut self, n: usize, mut fresh: Chunk) -> Chunk {
        // A large receiver has CHUNKS iovecs a message; that of a single-chunk one is the common case.
        let at = if self.others.is_empty() { n } else { n * CHUNKS };
        self.vectors[at] = vector(&self.umem, &mut fresh, self.offset);
        std::mem::replace(&mut self.frames[n], fresh)
    }

    /// Moves the chunks of datagram `n` to `fragments`, as fragments of one frame, and puts some of `fresh` in their place.
    ///
    /// # Errors
    /// Nothing is done if there are too few `fresh` ones.
    pub fn take_parts(
        &mut self,
        n: usize,
        fresh: &mut Vec<Chunk>,
        fragments: &mut Vec<Fragment>,
    ) -> Result<(), TooFew> {
        let len = self.received(n).len;
        let mut rest = len.saturating_sub(self.first_room());
        if fresh.len() < 1 + rest.div_ceil(CHUNK_SIZE) {
            return Err(TooFew);
        }
        let Some(first) = fresh.pop() else { return Err(TooFew) };
        let first = Fragment::new(self.replace(n, first), self.offset, len - rest);
        fragments.push(if rest > 0 { first.continued() } else { first });
        for k in 0..CHUNKS - 1 {
            if rest == 0 {
                break;
            }
            let Some(mut frame) = fresh.pop() else { return Err(TooFew) };
            self.vectors[n * CHUNKS + 1 + k] = vector(&self.umem, &mut frame, 0);
            let here = rest.min(CHUNK_SIZE);
            rest -= here;
            let fragment = Fragment::new(std::mem::replace(&mut self.others[n][k], frame), 0, here);
            fragments.push(if rest > 0 { fragment.continued() } else { fragment });
        }
        Ok(())
    }

    /// Gives all chunks back.
    pub fn into_chunks(self) -> impl Iterator<Item = Chunk> {
        self.frames.into_iter().chain(self.others.into_iter().flatten())
    }

    fn time(&self, n: usize) -> u64 {
        let n = n - n % TIMED;
        let message = &self.messages[n];
        if message.msg_hdr.msg_controllen < size_of::<Control>() {
            return 0;
        }
        let control = &self.controls[n / TIMED].0;
        let word = |at: usize| i64::from_ne_bytes(std::array::from_fn(|n| control[at + n]));
        let half = |at: usize| i32::from_ne_bytes(std::array::from_fn(|n| control[at + n]));
        // struct cmsghdr { size_t len; int level; int type; } and struct timespec { s64 seconds, nanoseconds; }
        if (half(8), half(12)) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            return 0;
        }
        (word(16) as u64).wrapping_mul(1_000_000_000).wrapping_add(word(24) as u64)
    }
}

fn vector(umem: &Umem, frame: &mut Chunk, offset: usize) -> libc::iovec {
    let room = &mut umem.chunk_mut(frame)[offset..];
    debug_assert_eq!(room.len(), CHUNK_SIZE - offset);
    libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }
}

/// Headers of messages that have `each` of `vectors`, a name, and a control buffer if they are [`TIMED`].
fn messages(
    vectors: &[libc::iovec],
    each: usize,
    controls: &[Control],
    names: &[Name],
) -> Box<[libc::mmsghdr]> {
    let control = |n: usize| controls.get(n / TIMED).filter(|_| n.is_multiple_of(TIMED));
    let parts = vectors.chunks(each).zip(names).enumerate();
    parts.map(|(n, (vectors, name))| message(vectors, control(n), name)).collect()
}

fn message(vectors: &[libc::iovec], control: Option<&Control>, name: &Name) -> libc::mmsghdr {
    // SAFETY: msghdr is integers and pointers; all zero is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = vectors.as_ptr().cast_mut();
    header.msg_iovlen = vectors.len();
    if let Some(control) = control {
        header.msg_control = std::ptr::from_ref(control).cast_mut().cast();
        header.msg_controllen = size_of::<Control>();
    }
    header.msg_name = std::ptr::from_ref(name).cast_mut().cast();
    header.msg_namelen = size_of::<Name>() as libc::socklen_t;
    libc::mmsghdr { msg_hdr: header, msg_len: 0 }
}

/// Sends datagrams, many per call.
pub struct Sender {
    messages: Box<[libc::mmsghdr]>,
    /// The parts of all messages, in a row.
    vectors: Box<[libc::iovec]>,
}

/// What became of datagrams that were to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Parts of the datagrams that were sent.
    pub parts: usize,
    /// That is all that was tried.
    pub all: bool,
}

// SAFETY: between calls the pointers in the arrays are dead values; nothing is tied to a thread.
unsafe impl Send for Sender {}

impl Sender {
    /// A sender of up to `max` datagrams per call.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let vectors = vec![nothing; max * CHUNKS].into_boxed_slice();
        // SAFETY: as in `message`.
        let message = || unsafe { MaybeUninit::zeroed().assume_init() };
        let messages = (0..max).map(|_| libc::mmsghdr { msg_hdr: message(), msg_len: 0 }).collect();
        Self { messages, vectors }
    }

    /// How many datagrams a call can take.
    #[must_use]
    pub fn max(&self) -> usize {
        self.messages.len()
    }

    /// Sends up to `most` of the datagrams whose parts are `parts`, each with whether its datagram goes on in the next:
    /// as many as the receiver's queue takes.
    ///
    /// # Errors
    /// What the first one met; a later one's error comes from the next call.
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        most: usize,
        parts: impl Iterator<Item = (&'a [u8], bool)>,
    ) -> Result<Sent, Errno> {
        let most = most.min(self.max());
        // Datagrams, their parts, and those with the parts of one that has not come to its end.
        let (mut count, mut whole, mut used) = (0, 0, 0);
        for (part, goes_on) in parts.take(self.vectors.len()) {
            self.vectors[used] = source(part);
            used += 1;
            if goes_on {
                continue;
            }
            let vectors = &mut self.vectors[whole..used];
            let header = &mut self.messages[count].msg_hdr;
            (header.msg_iov, header.msg_iovlen) = (vectors.as_mut_ptr(), vectors.len());
            (count, whole) = (count + 1, used);
            if count == most {
                break;
            }
        }
        // The parts are borrowed for 'a, which outlives this call: the pointers are good until it returns.
        let sent = self.call(fd, 0, count)?;
        let parts = if whole == count {
            sent
        } else {
            self.messages[..sent].iter().map(|message| message.msg_hdr.msg_iovlen).sum()
        };
        Ok(Sent { parts, all: sent == count })
    }

    /// Loads frames that are then sent to several receivers, each time behind another header.
    pub fn load<'s, 'a>(&'s mut self, frames: impl Iterator<Item = &'a [u8]>) -> Loaded<'s, 'a> {
        let mut count = 0;
        let (pairs, _) = self.vectors.as_chunks_mut::<2>();
        for (frame, (message, pair)) in frames.zip(self.messages.iter_mut().zip(pairs)) {
            pair[1] = source(frame);
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (pair.as_mut_ptr(), 2);
            count += 1;
        }
        Loaded { sender: self, count, frames: std::marker::PhantomData }
    }

    fn call(&mut self, fd: BorrowedFd<'_>, from: usize, to: usize) -> Result<usize, Errno> {
        let messages = &mut self.messages[from..to];
        // SAFETY: each header points to iovecs in `self.vectors` that the callers have just set to slices which outlive
        // this call. The kernel only reads them.
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
        let (pairs, _) = self.sender.vectors.as_chunks_mut::<2>();
        for pair in &mut pairs[from..self.count] {
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
        let parts = datagrams.iter().map(|datagram| (datagram.as_slice(), false));
        assert_eq!(sender.send(a.as_fd(), 8, parts), Ok(Sent { parts: 4, all: true }));
        let mut receiver = receiver(8);
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(4));
        for (n, sent) in datagrams.iter().enumerate() {
            let len = receiver.received(n).len;
            assert_eq!(&receiver.bytes_mut(n)[..len], sent.as_slice());
            assert!(!receiver.received(n).truncated);
        }
        assert_eq!(receiver.receive(b.as_fd(), 64), Err(Errno::AGAIN));
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    #[test]
    fn datagrams_of_several_chunks_go_through_whole() {
        let (a, b) = datagram_pair();
        let (umem, mut free) = Umem::new(64).unwrap();
        let umem = Arc::new(umem);
        let mut receiver = Receiver::new(umem.clone(), free.split_off(60), 56);
        receiver.enlarge((0..4).map(|_| std::array::from_fn(|_| free.pop().unwrap())).collect());
        assert!(receiver.is_large());
        let most = 4 * CHUNK_SIZE - 56;
        let mut sender = Sender::new(8);
        for lengths in [[60, 4040, 4041, 8136], [8137, 12232, 12233, most], [most + 1, 0, 9022, 61]] {
            let sent = lengths.map(bytes);
            // Cut as no kernel would cut it.
            let parts = sent.iter().flat_map(|datagram| {
                let (one, other) = datagram.split_at(datagram.len() / 3);
                [(one, true), (other, false)]
            });
            assert_eq!(sender.send(a.as_fd(), 8, parts), Ok(Sent { parts: 8, all: true }));
            assert_eq!(receiver.receive(b.as_fd(), 64), Ok(4));
            for (n, sent) in sent.iter().enumerate() {
                assert_eq!(receiver.received(n).truncated, sent.len() > most);
                let sent = &sent[..sent.len().min(most)];
                let (first, others) = receiver.parts_mut(n);
                assert_eq!([&[&*first], &others[..]].concat().concat(), sent);
                let mut fragments = Vec::new();
                receiver.take_parts(n, &mut free, &mut fragments).unwrap();
                let (last, before) = fragments.split_last().unwrap();
                assert!(!last.continues() && before.iter().all(Fragment::continues));
                let got: Vec<&[u8]> = fragments.iter().map(|fragment| umem.data(fragment)).collect();
                assert_eq!(got.concat(), sent);
                free.extend(fragments.into_iter().map(Fragment::into_chunk));
            }
        }
        assert_eq!(free.len() + receiver.into_chunks().count(), 64);
    }

    #[test]
    fn without_fresh_chunks_a_large_datagram_stays_where_it_is() {
        let (a, b) = datagram_pair();
        let (umem, mut free) = Umem::new(7).unwrap();
        let mut receiver = Receiver::new(Arc::new(umem), free.split_off(6), 56);
        receiver.enlarge(vec![std::array::from_fn(|_| free.pop().unwrap())]);
        rustix::net::send(&a, &bytes(15_000), rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
        let mut fragments = Vec::new();
        assert_eq!(receiver.take_parts(0, &mut free, &mut fragments), Err(TooFew));
        assert_eq!((free.len(), fragments.len()), (3, 0));
        // It may be read over.
        rustix::net::send(&a, &bytes(12_000), rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
        receiver.take_parts(0, &mut free, &mut fragments).unwrap();
        assert_eq!((free.len(), fragments.len()), (0, 3));
    }

    #[test]
    fn a_full_receiver_takes_whole_datagrams_and_the_rest_is_told() {
        let (a, b) = datagram_pair();
        let mut sender = Sender::new(64);
        let data = bytes(9000);
        let parts = |count: usize| {
            let data = &data;
            (0..count).flat_map(move |_| [(&data[..4000], true), (&data[4000..], false)])
        };
        // Not more than asked for, and none that has no end.
        assert_eq!(sender.send(a.as_fd(), 2, parts(5)), Ok(Sent { parts: 4, all: true }));
        assert_eq!(sender.send(a.as_fd(), 9, parts(2).take(3)), Ok(Sent { parts: 2, all: true }));
        let Ok(Sent { parts: sent, all: false }) = sender.send(a.as_fd(), 64, parts(64)) else {
            panic!("a queue of 64 datagrams")
        };
        assert!(sent > 0 && sent % 2 == 0, "{sent}");
        assert_eq!(sender.send(a.as_fd(), 64, parts(64)), Err(Errno::AGAIN));
        let mut buffer = vec![0; 20_000];
        for _ in 0..3 + sent / 2 {
            let (len, _) = rustix::net::recv(&b, &mut buffer[..], rustix::net::RecvFlags::DONTWAIT).unwrap();
            assert!(buffer[..len] == data);
        }
    }

    #[test]
    fn what_is_too_long_is_marked() {
        let (a, b) = datagram_pair();
        rustix::net::send(&a, &[7; 5000], rustix::net::SendFlags::empty()).unwrap();
        let mut receiver = receiver(2);
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
        assert!(receiver.received(0).truncated);
        assert_eq!(receiver.received(0).len, CHUNK_SIZE - 56);
    }

    #[test]
    fn the_time_of_arrival_is_read_every_time() {
        let (a, b) = datagram_pair();
        let mut receiver = receiver(20);
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
        let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        for _ in 0..3 {
            let before = now();
            rustix::net::send(&a, b"after", rustix::net::SendFlags::empty()).unwrap();
            let after = now();
            assert_eq!(receiver.receive(b.as_fd(), 64), Ok(1));
            let time = receiver.received(0).time;
            assert!((before..=after).contains(&time), "{before} <= {time} <= {after}");
        }
        // No datagram seems younger than it is, and those that are not asked are as old as one of a few before.
        let sent: Vec<u64> = (0..20)
            .map(|_| {
                rustix::net::send(&a, b"many", rustix::net::SendFlags::empty()).unwrap();
                now()
            })
            .collect();
        assert_eq!(receiver.receive(b.as_fd(), 64), Ok(20));
        for (n, sent) in sent.iter().enumerate() {
            let time = receiver.received(n).time;
            assert!(time == receiver.received(n / TIMED * TIMED).time && time <= *sent, "datagram {n}");
        }
        assert!(receiver.received(0).time < receiver.received(TIMED).time);
        assert!(receiver.received(TIMED).time < receiver.received(2 * TIMED).time);
    }

    #[test]
    fn who_sent_it_is_told_every_time() {
        use std::os::unix::net::UnixDatagram;
        let directory = tempfile::tempdir().unwrap();
        let ours = UnixDatagram::bind(directory.path().join("513")).unwrap();
        let long = directory.path().join("1".repeat(106 - directory.path().as_os_str().len()));
        let mut receiver = receiver(4);
        for _ in 0..2 {
            for path in [directory.path().join("1"), directory.path().join("1023"), long.clone()] {
                let _ = std::fs::remove_file(&path);
                let router = UnixDatagram::bind(&path).unwrap();
                router.send_to(b"x", directory.path().join("513")).unwrap();
                UnixDatagram::unbound().unwrap().send_to(b"y", directory.path().join("513")).unwrap();
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
