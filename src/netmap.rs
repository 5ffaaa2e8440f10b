//! The NETMAP file.

use crate::iou::{Endpoint, InstanceId, Interface};
use std::path::Path;

/// A NETMAP.
#[derive(Debug)]
pub struct Netmap {
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// One line.
#[derive(Debug)]
pub struct Segment {
    /// Line number, from 1.
    pub line: u32,
    /// Its endpoints.
    pub ends: Vec<End>,
}

/// One endpoint of a line.
#[derive(Debug)]
pub struct End {
    /// Id and interface.
    pub endpoint: Endpoint,
    /// What follows `@`.
    pub host: Option<Box<str>>,
    /// Column, from 1.
    pub column: u32,
}

/// Why a NETMAP cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Netmap {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(|e| Error(format!("{}: {e}", path.display())))?;
        Self::parse(&text, path)
    }

    /// Parses `ID:BAY/UNIT ...` lines.
    ///
    /// # Errors
    /// A word is not an endpoint.
    pub fn parse(text: &[u8], file: &Path) -> Result<Self, Error> {
        let mut segments = Vec::new();
        for (line, text) in (1..).zip(String::from_utf8_lossy(text).lines()) {
            let mut ends = Vec::new();
            for word in text.split('#').next().unwrap_or_default().split_whitespace() {
                let (bare, host) = word.split_once('@').map_or((word, None), |(a, b)| (a, Some(b.into())));
                let endpoint = endpoint(bare)
                    .ok_or_else(|| Error(format!("{}:{line}: `{word}` is no endpoint", file.display())))?;
                ends.push(End { endpoint, host, column: 1 });
            }
            if !ends.is_empty() {
                segments.push(Segment { line, ends });
            }
        }
        Ok(Self { segments })
    }
}

fn endpoint(word: &str) -> Option<Endpoint> {
    let (id, interface) = word.split_once(':')?;
    let (bay, unit) = interface.split_once('/')?;
    let interface = Interface::new(bay.parse().ok()?, unit.parse().ok()?)?;
    Some(Endpoint { id: InstanceId::new(id.parse().ok()?)?, interface })
}
