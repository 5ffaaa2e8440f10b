use std::io;

/// Why there is no lab.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// A namespace, a process or a raw socket.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done, and to what.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Not root.
    #[error("this needs root, for network namespaces and XDP: run it with sudo")]
    NoRoot,
    /// A lab of `--keep` is in the way.
    #[error("a lab is up already: `iou-fast lab --down` takes it down")]
    AlreadyUp,
    /// ^C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// The result of a lab or of a part of one.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when the system refuses it.
pub(super) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}
