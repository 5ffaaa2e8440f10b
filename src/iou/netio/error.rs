//! Why a directory of sockets cannot be used.

use super::paths::{OtherDirectory, also};
use std::io;
use std::path::PathBuf;

/// Why a netio directory, or one of keepalives, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `SUDO_UID` is no number.
    #[error("SUDO_UID is \"{0}\", which is no user id: give the user who runs the routers with --uid")]
    SudoUid(String),
    /// Something else has the directory's name.
    #[error("the netio directory {} is {what} and not a directory: remove it, or name another with --netio-dir", path.display())]
    NotADirectory {
        /// The directory.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The directory belongs to neither the IOU user nor root.
    #[error(
        "the netio directory {} belongs to user {owner}, not to user {uid}: if {owner} runs the routers, give --uid {owner}{}",
        path.display(), also(others)
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        uid: u32,
        /// The other directories there are.
        others: Vec<OtherDirectory>,
    },
    /// Other users may change what is in the directory.
    #[error(
        "the netio directory {} is writable for {whom}, who could put sockets of their own in the place of routers': \
         `chmod go-w {}`",
        path.display(), path.display()
    )]
    WritableDirectory {
        /// The directory.
        path: PathBuf,
        /// For whom.
        whom: String,
    },
    /// The directory can be neither opened nor made.
    #[error("cannot {action} the netio directory {}: {source}{}", path.display(), also(others))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
        /// The other directories there are.
        others: Vec<OtherDirectory>,
    },
    /// The directory of L1 keepalives is none that can be trusted, or cannot be opened.
    #[error("L1 keepalives are not answered: {} {why}", path.display())]
    Keepalives {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// True if the directory is just not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Directory { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
