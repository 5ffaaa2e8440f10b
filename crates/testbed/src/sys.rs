//! The system calls for which no library has a safe wrapper: packet sockets, and what must happen between fork and
//! exec. The only `unsafe` code of this crate.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A result of -1 as the error behind it.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has the kernel kill the child when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: system calls without pointers.
        let orphaned = unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // A shell that runs tests in its background has them ignore these signals, and a shell cannot undo that.
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::signal(libc::SIGQUIT, libc::SIG_DFL);
            libc::getppid().cast_unsigned() != parent
        };
        // The parent may have ended before the request was in place.
        if orphaned { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: `prepare` runs between fork and exec: it only makes async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Stops one thread of another process and waits until it has stopped. The calling thread becomes its tracer.
pub(crate) fn hold_thread(thread: i32) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no address or data; `status` is a live local.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut status = 0;
        check(libc::waitpid(thread, &raw mut status, libc::__WALL))?;
    }
    Ok(())
}

/// Resumes a thread that [`hold_thread`] has stopped.
pub(crate) fn release_thread(thread: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the request takes no address or data. It fails only if the thread has ended.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, none, none) };
}

/// Gives a thread real-time priority, or makes it an ordinary one again.
pub(crate) fn set_first(thread: i32, first: bool) -> io::Result<()> {
    let (policy, priority) = if first { (libc::SCHED_FIFO, 10) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters outlive the call, which reads them.
    check(unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) })?;
    Ok(())
}

/// Moves the calling thread into a new network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointers; CLONE_NEWNET changes nothing but the thread's network namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Moves the calling thread into a new mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no pointers; CLONE_NEWNS changes the thread's mount namespace and gives it a copy of the working directory
    // and the umask that the process's threads share.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    Ok(())
}

/// Clock ticks per second in `/proc/<pid>/stat`.
pub(crate) fn clock_ticks() -> u64 {
    // SAFETY: no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` bytes, which the kernel only reads.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const *value).cast(), len) })?;
    Ok(())
}

/// A packet socket of the calling thread's namespace on one interface, for all frames that arrive there but none that
/// leave, with the tag that the kernel takes out of a frame reported beside it.
pub(crate) fn packet_socket(
    interface: u32,
    receive_buffer: libc::c_int,
    ethertype: Option<u16>,
) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    // With protocol 0 it receives no frame of another interface before `bind`.
    // SAFETY: no pointers; the descriptor is new and has no other owner.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &receive_buffer)?;
    set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
    set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.unwrap_or(libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: `address` is a sockaddr_ll of the length given.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    })?;
    Ok(socket)
}

/// Has the interface receive frames for other addresses too, until the socket is closed.
pub(crate) fn set_promiscuous(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: interface.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
}

/// How many frames the kernel has dropped at the socket's full buffer since the last call.
pub(crate) fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // struct tpacket_stats { tp_packets, tp_drops }
    let mut stats = [0_u32; 2];
    let mut len = size_of::<[u32; 2]>() as libc::socklen_t;
    // SAFETY: `stats` holds the `len` bytes that the kernel may write.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    })?;
    Ok(stats[1])
}

/// A frame's length and the (TPID, TCI) that the kernel took out of it.
pub(crate) type Received = (usize, Option<(u16, u16)>);

/// Receives a frame if one is waiting.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    const CONTROL: usize = 128;
    #[repr(align(8))]
    struct Control([MaybeUninit<u8>; CONTROL]);
    let mut control = Control([MaybeUninit::uninit(); CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    // SAFETY: the message points to `buffer` and `control` with their true lengths, and both outlive the call.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::other("a frame larger than the receive buffer"));
    }
    // SAFETY: the CMSG functions walk the headers that the kernel has written into `control`, which is aligned for
    // them; a PACKET_AUXDATA message holds a tpacket_auxdata, read unaligned.
    let aux = unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        loop {
            let Some(h) = header.as_ref() else { return Ok((len, None)) };
            if h.cmsg_level == libc::SOL_PACKET && h.cmsg_type == libc::PACKET_AUXDATA {
                break libc::CMSG_DATA(h).cast::<libc::tpacket_auxdata>().read_unaligned();
            }
            header = libc::CMSG_NXTHDR(&raw const message, h);
        }
    };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return Ok((len, None));
    }
    let known = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Ok((len, Some((if known { aux.tp_vlan_tpid } else { 0x8100 }, aux.tp_vlan_tci))))
}

/// Hands frames to the socket and returns how many it took.
pub(crate) fn send_packets<F: AsRef<[u8]>>(socket: BorrowedFd<'_>, frames: &[F]) -> io::Result<usize> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|f| libc::iovec { iov_base: f.as_ref().as_ptr().cast_mut().cast(), iov_len: f.as_ref().len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    // SAFETY: every message points to one part and every part to one frame, which live until the call returns; the
    // kernel only reads the frames.
    let sent = check(unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0)
    })?;
    Ok(sent.cast_unsigned() as usize)
}
