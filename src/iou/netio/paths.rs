//! Where netio directories are: of which user, which others there are, and the directory of keepalives beside one.

use super::Error;
use crate::iou::InstanceId;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Another netio directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OtherDirectory {
    /// Its path.
    pub path: PathBuf,
    /// The uid in its name.
    pub uid: u32,
    /// How many instances have a socket in it.
    pub sockets: usize,
}

/// The user whose netio directory is meant: `option` (from `--uid`), else `SUDO_UID`, else `real`, the real uid.
///
/// # Errors
/// If `SUDO_UID` decides and is no number.
pub fn default_uid(
    option: Option<u32>,
    environment: impl Fn(&str) -> Option<OsString>,
    real: u32,
) -> Result<u32, Error> {
    match (option, environment("SUDO_UID")) {
        (Some(uid), _) => Ok(uid),
        (None, Some(text)) => {
            let uid = text.to_str().and_then(|t| t.parse().ok());
            uid.ok_or_else(|| Error::SudoUid(text.to_string_lossy().escape_debug().to_string()))
        }
        (None, None) => Ok(real),
    }
}

/// The directory that IOU uses when user `uid` runs it.
#[must_use]
pub fn default_path(uid: u32) -> PathBuf {
    format!("/tmp/netio{uid}").into()
}

/// The directory of L1 keepalives that goes with the netio directory `netio` of user `uid`: IOU makes both names of the uid.
#[must_use]
pub fn keepalive_path(netio: &Path, uid: u32) -> PathBuf {
    let name = netio.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("netio"));
    name.map_or_else(
        || format!("/tmp/netl1{uid}").into(),
        |rest| netio.with_file_name(format!("netl1{rest}")),
    )
}

/// The netio directories in `base` (`/tmp`) other than `path`, ascending.
#[must_use]
pub fn other_directories(base: &Path, path: &Path) -> Vec<OtherDirectory> {
    let Ok(entries) = base.read_dir() else { return Vec::new() };
    let mut directories: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let uid = entry.file_name().to_str()?.strip_prefix("netio")?.parse().ok()?;
            // Not following links: a link to a netio directory is refused anyway.
            let is_directory = entry.file_type().ok()?.is_dir() && entry.path() != path;
            is_directory.then(|| OtherDirectory {
                sockets: instances(&entry.path()),
                path: entry.path(),
                uid,
            })
        })
        .collect();
    directories.sort();
    directories
}

/// How many instances have a socket in the directory.
pub(super) fn instances(directory: &Path) -> usize {
    use std::os::unix::fs::FileTypeExt;
    let Ok(entries) = directory.read_dir() else { return 0 };
    let is_instance = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let id = InstanceId::new(entry.file_name().to_str()?.parse().ok()?);
        (id.is_some() && entry.file_type().ok()?.is_socket()).then_some(())
    };
    entries.filter_map(is_instance).count()
}

/// Where netio directories stand beside `path`.
pub(super) fn base(path: &Path) -> &Path {
    let is_netio = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"netio"));
    path.parent().filter(|_| is_netio).unwrap_or(Path::new("/tmp"))
}

pub(super) fn also(others: &[OtherDirectory]) -> String {
    let one = |OtherDirectory { path, uid, sockets }: &OtherDirectory| {
        format!("{} ({sockets} sockets; --uid {uid})", path.display())
    };
    match others {
        [] => String::new(),
        others => {
            format!("; other netio directories: {}", others.iter().map(one).collect::<Vec<_>>().join(", "))
        }
    }
}
