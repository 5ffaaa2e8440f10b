use std::process::ExitStatus;
use std::time::Duration;
use std::{fmt, io, path::PathBuf};

/// What can go wrong while a test bed is built or used.
///
/// Its `Debug` form is the message itself, so that `unwrap()` in a test reads well.
#[derive(thiserror::Error)]
pub enum Error {
    /// The process is not root.
    #[error(
        "this needs root, for network namespaces and raw sockets: run `cargo xtask test`, or the command with `sudo -E`"
    )]
    NotRoot,
    /// A program could not be started.
    #[error("cannot start `{command}`: {source}; is its package installed?")]
    Start {
        /// The command line.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed, {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to both streams.
        output: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The step that failed, and its object.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A process did not do the expected thing in time.
    #[error("{what} did not happen within {timeout:?}\n{dump}")]
    Timeout {
        /// The expected thing.
        what: String,
        /// How long the wait was.
        timeout: Duration,
        /// The process and all its output.
        dump: String,
    },
    /// A process ended before it did the expected thing.
    #[error("the process ended before {what}\n{dump}")]
    Ended {
        /// The expected thing.
        what: String,
        /// The process and all its output.
        dump: String,
    },
    /// A program of this workspace was not built.
    #[error("there is no {}: build it first, `cargo build`, with --release if it belongs into `release`", .0.display())]
    NotBuilt(PathBuf),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when the system refuses it.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}
