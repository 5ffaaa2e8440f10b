//! What is asked for: labs, and which pseudo endpoints are bound to which NIC.

use crate::iou::{Endpoint, InstanceId};
use crate::netmap::Netmap;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A lab as it is asked for.
#[derive(Debug)]
pub struct LabRequest {
    /// The wiring.
    pub netmap: Netmap,
    /// The file it came from, for messages.
    pub file: PathBuf,
    /// Where the routers' sockets are.
    pub netio: PathBuf,
    /// The user who runs the routers.
    pub uid: u32,
    /// Instances that stand for this program.
    pub pseudo: Vec<InstanceId>,
    /// Ends that are on another host: index of the segment, index within it.
    pub remote: HashSet<(usize, usize)>,
}

/// Pseudo endpoints that are to be bound to a NIC: `eth0`, or `eth1=513:0/1,514`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// Name of the NIC.
    pub nic: String,
    /// Which ones; `None`: all that no other binding names.
    pub choice: Option<Vec<Choice>>,
}

/// Pseudo endpoints by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// All of an instance.
    Instance(InstanceId),
    /// One endpoint.
    Endpoint(Endpoint),
}

impl Choice {
    pub(super) fn includes(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Instance(id) => endpoint.id == id,
            Self::Endpoint(one) => endpoint == one,
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => id.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return text.parse().map(Self::Endpoint);
        }
        text.parse().ok().and_then(InstanceId::new).map(Self::Instance).ok_or_else(|| {
            format!("\"{text}\" is neither a pseudo id (1-1024) nor an endpoint ID:BAY/UNIT such as 513:0/1")
        })
    }
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (nic, choice) = match text.split_once('=') {
            None => (text, None),
            Some((_, "")) => return Err(format!("\"{text}\": an endpoint is missing after =")),
            Some((nic, choices)) => {
                (nic, Some(choices.split(',').map(str::parse).collect::<Result<_, _>>()?))
            }
        };
        // IFNAMSIZ is 16 with the final NUL.
        if nic.is_empty() || nic.len() > 15 || nic.contains(['/', ' ']) {
            return Err(format!("\"{nic}\" is no name of a NIC"));
        }
        Ok(Self { nic: nic.to_string(), choice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_bindings_say_why() {
        for (text, why) in [
            ("", "no name"),
            ("=513", "no name"),
            ("eth0=", "missing"),
            ("eth0=x", "neither"),
            ("eth0=2000", "neither"),
            ("eth0=513:0", "BAY/UNIT"),
            ("a-very-long-name0", "no name"),
        ] {
            let error = text.parse::<Binding>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
