//! Unix datagram sockets whose queues are deep enough for what routers send between two looks.

use crate::privileges::{self, Role};
use crate::sys;
use crossbeam::channel;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::thread;

/// `net.unix.max_dgram_qlen` for pseudo sockets: each queues one datagram more. The kernel's default is 10, which
/// fifty routers fill within one scheduling delay.
const QUEUE: u32 = 4096;

/// Where the queue length of sockets to be made is set; each thread is shown its own network namespace's.
const SETTING: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// A warning: pseudo sockets queue fewer datagrams than they should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShortQueue {
    /// Datagrams that one queues.
    pub datagrams: u32,
    /// Why.
    pub reason: String,
}

/// Makes `count` sockets with deep queues, or, where that is not permitted, with those the system gives, and says so.
///
/// A socket's queue is as deep as `max_dgram_qlen` of the network namespace in which it is made, and works from any
/// other. So a thread makes them in a namespace of its own; the host's setting stays as it is.
pub(super) fn deep_sockets(count: usize) -> io::Result<(Vec<OwnedFd>, Option<ShortQueue>)> {
    let made = socket_maker().and_then(|maker| {
        let (answer, answers) = channel::bounded(1);
        let ended = |_| "the thread that makes them ended".to_owned();
        maker.send((count, answer)).map_err(|_| ended(channel::RecvError))?;
        answers.recv().map_err(ended)
    });
    match made {
        Ok(sockets) => Ok((sockets?, None)),
        Err(reason) => {
            let setting = std::fs::read_to_string(SETTING).ok().and_then(|s| s.trim().parse::<u32>().ok());
            let warning = ShortQueue { datagrams: setting.unwrap_or(10) + 1, reason };
            Ok((pseudo_sockets(count)?, Some(warning)))
        }
    }
}

fn pseudo_sockets(count: usize) -> io::Result<Vec<OwnedFd>> {
    let socket = |_| {
        let socket = datagram_socket()?;
        sys::unix::stamp_arrivals(socket.as_fd())?;
        Ok(socket)
    };
    (0..count).map(socket).collect()
}

/// How many sockets, and where to.
type SocketOrder = (usize, channel::Sender<io::Result<Vec<OwnedFd>>>);

/// The thread that makes deep sockets, one per process. Its namespace takes CAP_SYS_ADMIN, which is given up when all is
/// up; so it is started then, and stays there, without any capability, for sockets that are made again later.
fn socket_maker() -> Result<channel::Sender<SocketOrder>, String> {
    static MAKER: OnceLock<Result<channel::Sender<SocketOrder>, String>> = OnceLock::new();
    let start = || {
        let (orders, received) = channel::unbounded::<SocketOrder>();
        let (ready, settled) = channel::bounded(1);
        let make = move || {
            let prepared = leave_for_deep_queues();
            let in_vain = prepared.is_err();
            let _ = ready.send(prepared);
            if in_vain {
                return;
            }
            for (count, answer) in received {
                let _ = answer.send(pseudo_sockets(count));
            }
        };
        let thread = thread::Builder::new().name("pseudo-sockets".to_owned());
        thread.spawn(make).map_err(|error| error.to_string())?;
        settled.recv().map_err(|error| error.to_string())??;
        Ok(orders)
    };
    MAKER.get_or_init(start).clone()
}

/// Takes the calling thread into a network namespace whose sockets get deep queues, and its other rights away.
fn leave_for_deep_queues() -> Result<(), String> {
    sys::unix::leave_network().map_err(|error| error.to_string())?;
    std::fs::write(SETTING, QUEUE.to_string()).map_err(|error| error.to_string())?;
    privileges::confine(Role::SocketMaker).map_err(|error| error.to_string())
}

pub(super) fn datagram_socket() -> Result<OwnedFd, Errno> {
    net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
}

impl fmt::Display for ShortQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { datagrams, reason } = self;
        write!(
            f,
            "pseudo sockets queue {datagrams} datagrams instead of {}, so bursts from routers may be lost or hold them \
             up: no network namespace of their own ({reason}); run as root, or set net.unix.max_dgram_qlen to {QUEUE}",
            QUEUE + 1
        )
    }
}
