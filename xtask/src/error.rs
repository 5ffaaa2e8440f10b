use std::io;
use std::process::ExitStatus;

/// Why a task could not be done.
#[derive(thiserror::Error, Debug)]
pub(crate) enum Error {
    /// A namespace, a process or a raw socket.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// A program of the system is not installed.
    #[error("cannot run `{program}`: {source}")]
    Start { program: String, source: io::Error },
    /// A program of the system failed.
    #[error("`{command}` failed ({status}), its output is above")]
    Command { command: String, status: ExitStatus },
    /// Packages are missing where there is no apt to install them with: the command that does.
    #[error(
        "packages are missing, and only apt is used from here. Install them by\n  {0}\nand run this again"
    )]
    OtherDistribution(String),
    /// apt knows none of the names.
    #[error("apt knows no package {0}, also after `apt-get update`")]
    NoCandidate(String),
    /// Not root, and no way to become root.
    #[error("{0} needs root: there is no sudo here, so run it as root")]
    NoRoot(&'static str),
    /// No test has the name asked for.
    #[error("no test ran: none has {0:?} in its name")]
    NoSuchTest(String),
    /// There is no such target in fuzz/fuzz_targets.
    #[error("no fuzz target is named {0:?}: there are {1}")]
    NoSuchTarget(String, String),
    /// The package is faulty.
    #[error("{0}")]
    Package(String),
    /// Instructions cannot be counted, or the committed numbers cannot be read.
    #[error("{0}")]
    Instructions(String),
    /// Words cannot be looked for.
    #[error("{0}")]
    Words(String),
    /// A virtual machine cannot be made.
    #[error("{0}")]
    Vm(String),
    /// What stands in the way of a bare machine.
    #[error("{0}")]
    Bare(String),
    /// ^C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// The result of a task or of a part of one.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Adds to an error of the system what was tried.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}
