//! Why sockets could not be opened.

use crate::config::{Config, CopyMode};
use rustix::io::Errno;
use std::io;

/// Why sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A capability is missing, or kernel lockdown forbids it.
    #[error(
        "AF_XDP needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN, and kernel lockdown must allow it: {0}"
    )]
    Permission(io::Error),
    /// The limit on locked memory is too low for the UMEM.
    #[error(
        "the kernel refuses to pin {bytes} bytes for AF_XDP: {source}. Raise the limit (ulimit -l unlimited) or grant CAP_IPC_LOCK"
    )]
    Memlock {
        /// Size of the UMEM in bytes.
        bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another program has AF_XDP sockets on a queue.
    #[error("queue {queue} already has an AF_XDP socket of another program; `ss --xdp --processes` names it")]
    Busy {
        /// The queue.
        queue: u32,
    },
    /// The driver cannot do zero-copy.
    #[error("queue {queue} cannot do zero-copy: {source}")]
    ZeroCopy {
        /// The queue.
        queue: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// There are too few chunks to fill the fill rings.
    #[error("the UMEM has too few chunks: {needed} more are needed")]
    Chunks {
        /// How many are missing.
        needed: usize,
    },
    /// Any other failure.
    #[error("{step} on queue {queue}: {source}")]
    Step {
        /// The step that failed.
        step: &'static str,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn bind(config: &Config, queue: u32, errno: Errno) -> Self {
        match errno {
            Errno::OPNOTSUPP | Errno::INVAL if config.copy_mode == CopyMode::ZeroCopy => {
                Self::ZeroCopy { queue, source: errno.into() }
            }
            _ => Self::step("bind", queue, errno),
        }
    }

    pub(crate) fn mapping(queue: u32, source: io::Error) -> Self {
        Self::Step { step: "mapping a ring", queue, source }
    }

    pub(crate) fn step(step: &'static str, queue: u32, errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Permission(errno.into()),
            Errno::BUSY => Self::Busy { queue },
            _ => Self::Step { step, queue, source: errno.into() },
        }
    }
}
