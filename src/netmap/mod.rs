//! The NETMAP file: which router interfaces are wired together, one entry a line.
//!
//! A entry is one or more endpoints separated by blanks or tabs. An endpoint is `ID:BAY/UNIT`, `ID:PORT` (the
//! interface as one byte, 0 to 255) or `ID:SUBID/BAY/UNIT` (the sub id is read and has no meaning here), each with an
//! optional `@host`. `/* */` comments may span lines, `#` comments end with theirs.
//!
//! - [`infer`] tells which ids stand for a forwarder and not for a router,
//! - [`hosts`] tells which endpoints are on this machine.

pub mod hosts;
pub mod infer;
mod parse;

use crate::iou::{Endpoint, InstanceId};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest NETMAP that is read, in bytes: all 262,144 endpoints there are, written at length, need half of it.
const LARGEST: u64 = 16 << 20;

/// What a NETMAP file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Netmap {
    /// The lines, in the order of their lines.
    pub lines: Vec<Line>,
}

/// One line of the file: the endpoints that hear each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The line, from 1.
    pub line: u32,
    /// The endpoints in the order they are written, at least one.
    pub ends: Vec<End>,
}

/// One endpoint as a line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Instance and interface.
    pub endpoint: Endpoint,
    /// The name after `@`, as written.
    pub host: Option<Box<str>>,
    /// Where it starts in its line, in characters from 1; a tab is one.
    pub column: u32,
}

/// Why a NETMAP cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the NETMAP {}: {source}; {}name another with -n FILE or in NETIO_NETMAP", file.display(), rights(source))]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Lines that do not follow the grammar, each once.
    #[error("{0}")]
    Faults(Faults),
}

/// All faulty lines of one file. Displayed one per line, as `FILE:LINE:COLUMN: "TEXT": what is expected`.
#[derive(Debug)]
pub struct Faults {
    /// The file.
    pub file: PathBuf,
    /// The first fault of every faulty line, in the order of the file; at least one.
    pub faults: Vec<Fault>,
}

/// One faulty place in a NETMAP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The offending text, with what cannot be printed escaped, shortened if it is long.
    pub text: String,
    /// What is wrong, or what is expected.
    pub expected: String,
}

/// Whose rights it is read with is not what a user of sudo expects.
fn rights(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "it is read with the rights of the user who runs the routers, and under sudo of who called it: let that \
             user read it, or "
        }
        _ => "",
    }
}

/// Opens a plain file for reading. Nothing else in its place, a FIFO or a terminal, holds us up.
fn open_plain(file: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(opened)
}

impl Netmap {
    /// Reads and parses `file`.
    ///
    /// # Errors
    /// If it cannot be read, is larger than 16 MiB, or does not follow the grammar.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Read { file: file.to_owned(), source };
        let mut text = Vec::new();
        let opened = open_plain(file).map_err(fail)?;
        opened.take(LARGEST + 1).read_to_end(&mut text).map_err(fail)?;
        if text.len() as u64 > LARGEST {
            return Err(fail(io::Error::other("it is larger than 16 MiB, so it cannot be a NETMAP")));
        }
        Self::parse(&text, file)
    }

    /// Parses the bytes of a NETMAP; `file` is the name for messages.
    ///
    /// # Errors
    /// [`Error::Faults`] with every line that does not follow the grammar.
    pub fn parse(text: &[u8], file: &Path) -> Result<Self, Error> {
        parse::parse(text).map_err(|faults| Error::Faults(Faults { file: file.to_owned(), faults }))
    }

    /// Every instance id of the file, ascending.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<InstanceId> {
        self.lines.iter().flat_map(|s| &s.ends).map(|e| e.endpoint.id).collect()
    }
}

impl Line {
    /// True if all endpoints name the same host, or none names one. Names of hosts do not differ in their case.
    #[must_use]
    pub fn hosts_agree(&self) -> bool {
        self.ends.windows(2).all(|pair| match (&pair[0].host, &pair[1].host) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (None, None) => true,
            _ => false,
        })
    }
}

impl fmt::Display for Netmap {
    /// Writes it as a NETMAP file: one entry a line, every endpoint as `ID:BAY/UNIT[@host]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.lines {
            for (i, end) in entry.ends.iter().enumerate() {
                let blank = if i == 0 { "" } else { " " };
                write!(f, "{blank}{end}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        self.host.as_ref().map_or(Ok(()), |host| write!(f, "@{host}"))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Fault { line, column, text, expected }) in self.faults.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{line}:{column}: \"{text}\": {expected}", self.file.display())?;
        }
        Ok(())
    }
}

/// Ascending ids the way `-p` takes them: `20-22,30`.
#[must_use]
pub fn ranges(ids: &[InstanceId]) -> String {
    let runs = ids.chunk_by(|a, b| b.get() == a.get() + 1);
    let runs = runs.map(|run| match run {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}
