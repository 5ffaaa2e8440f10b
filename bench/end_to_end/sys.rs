//! The system calls for which no library has a safe wrapper: many datagrams a call, packet sockets, memory shared
//! with other processes, scheduling; and the counting allocator. The only `unsafe` code of the bench.

use af_xdp::{Chunk, Umem};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A result of -1 as the error behind it.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Datagrams in memory of their own, sent or received many a call.
pub(crate) struct Batch {
    buffers: Vec<Vec<u8>>,
    messages: Vec<libc::mmsghdr>,
    // What `messages` and `vectors` point to does not move: the vectors' contents are never reallocated.
    _vectors: Vec<libc::iovec>,
    _addresses: Vec<libc::sockaddr_un>,
}

impl Batch {
    /// A batch of `buffers`, to be sent on connected or bound sockets, or received into.
    pub(crate) fn new(buffers: Vec<Vec<u8>>) -> Self {
        Self::to(buffers, &[])
    }

    /// The same, where buffer n goes to the Unix socket `paths[n % paths.len()]`.
    pub(crate) fn to(mut buffers: Vec<Vec<u8>>, paths: &[&Path]) -> Self {
        let mut vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        let mut addresses: Vec<libc::sockaddr_un> = paths.iter().map(|path| address(path)).collect();
        let mut messages = Vec::with_capacity(vectors.len());
        for (n, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            if !addresses.is_empty() {
                let at = n % addresses.len();
                message.msg_hdr.msg_name = (&raw mut addresses[at]).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as u32;
            }
            messages.push(message);
        }
        Self { buffers, messages, _vectors: vectors, _addresses: addresses }
    }

    /// Number of datagrams.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Sends `count` datagrams from number `from` on, at most to the last; returns how many.
    pub(crate) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        from: usize,
        count: usize,
        flags: i32,
    ) -> io::Result<usize> {
        let to = (from + count).min(self.messages.len());
        let messages = &mut self.messages[from..to];
        // SAFETY: each message points to one vector, it to one buffer, and perhaps to an address, all alive in
        // `self`. The kernel only reads them.
        let sent = check(unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                flags | libc::MSG_NOSIGNAL,
            )
        })?;
        Ok(sent as usize)
    }

    /// Receives as many datagrams as there are and the vectors hold; returns how many.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>, flags: i32) -> io::Result<usize> {
        // SAFETY: as in `send`; the kernel writes into the buffers, no longer than the vectors say, and nothing
        // refers to them during the call.
        let received = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len() as u32,
                flags,
                std::ptr::null_mut(),
            )
        })?;
        Ok(received as usize)
    }

    /// The bytes of received datagram `n`.
    pub(crate) fn bytes(&self, n: usize) -> &[u8] {
        &self.buffers[n][..self.messages[n].msg_len as usize]
    }
}

/// `recvmmsg` into UMEM and nothing else: what no forwarder can avoid on the way to the NIC.
pub(crate) struct UmemBatch {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
}

impl UmemBatch {
    /// Room for one datagram in each of `frames`.
    pub(crate) fn new(umem: &Umem, frames: &mut [Chunk]) -> Self {
        let mut vectors: Vec<libc::iovec> = frames.iter_mut().map(|frame| room(umem, frame)).collect();
        let messages = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zeros is a valid mmsghdr.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Self { messages, vectors }
    }

    /// Waits for datagrams; returns how many.
    ///
    /// The frames given to [`UmemBatch::new`] and [`UmemBatch::replace`] must still be the caller's.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: the vectors point into chunks of a UMEM that lives as long as the process, and whose tokens the
        // caller holds: neither the kernel's rings nor anybody else uses them.
        let received = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len() as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        })?;
        Ok(received as usize)
    }

    /// Length of datagram `n`.
    pub(crate) fn length(&self, n: usize) -> usize {
        self.messages[n].msg_len as usize
    }

    /// From now on datagram `n` goes into `frame`.
    pub(crate) fn replace(&mut self, n: usize, umem: &Umem, frame: &mut Chunk) {
        self.vectors[n] = room(umem, frame);
    }
}

fn room(umem: &Umem, frame: &mut Chunk) -> libc::iovec {
    let chunk = umem.chunk_mut(frame);
    libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() }
}

/// # Panics
/// If `path` is too long for a socket.
fn address(path: &Path) -> libc::sockaddr_un {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    assert!(bytes.len() < address.sun_path.len(), "{} is too long for a socket", path.display());
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    address
}

/// A packet socket on an interface of this process's namespace.
///
/// Of what arrives it sees frames of `ethertype` (all: `ETH_P_ALL`, none: 0), never what the host sends.
pub(crate) fn packet_socket(interface: &str, ethertype: u16, bypass_qdisc: bool) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: no pointers but a string that outlives the call; the descriptor is new and belongs to nothing else.
    let (socket, index) = unsafe {
        let fd = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        (OwnedFd::from_raw_fd(fd), libc::if_nametoindex(name.as_ptr()))
    };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut options = vec![libc::PACKET_IGNORE_OUTGOING];
    if bypass_qdisc {
        options.push(libc::PACKET_QDISC_BYPASS);
    }
    for option in options {
        let on: libc::c_int = 1;
        // SAFETY: the option is an int, which the kernel only reads.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), 4)
        })?;
    }
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: `address` is a sockaddr_ll of the length given.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    })?;
    Ok(socket)
}

/// Lets this thread run before all ordinary ones on its CPU as soon as it is woken, and before those that have a lower
/// `priority`.
pub(crate) fn go_first(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters outlive the call, which reads them.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })?;
    Ok(())
}

/// Has timers of this thread fire when they are due, not up to 50 us later.
pub(crate) fn exact_timers() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) })?;
    Ok(())
}

/// Words of memory that several processes share, each on a cache line of its own.
pub(crate) struct Words {
    base: *mut libc::c_void,
    count: usize,
}

// SAFETY: the memory is only ever used as atomics, and stays mapped until the only owner's drop.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

const LINE: usize = 64;

impl Words {
    /// `count` words in the file at `path`, which is made if it is not there.
    pub(crate) fn open(path: &Path, count: usize) -> io::Result<Self> {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len((count * LINE) as u64)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * LINE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base, count }) }
    }

    /// Word `n`.
    pub(crate) fn word(&self, n: usize) -> &AtomicU64 {
        assert!(n < self.count);
        // SAFETY: the word lies in the mapping, aligned, and is used as an atomic by everybody.
        unsafe { self.base.add(n * LINE).cast::<AtomicU64>().as_ref().unwrap_unchecked() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, which nothing uses any more.
        unsafe { libc::munmap(self.base, self.count * LINE) };
    }
}

/// Counts what threads allocate, those apart that asked not to be counted.
pub(crate) struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(true) };
}

impl Counting {
    /// Allocations, reallocations included, so far.
    pub(crate) fn so_far() -> u64 {
        ALLOCATIONS.load(Relaxed)
    }

    /// This thread's do not count.
    pub(crate) fn except_this_thread() {
        COUNTED.set(false);
    }

    fn count() {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
    }
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(old, layout) }
    }
}
