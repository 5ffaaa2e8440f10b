//! One iou-fast a network card: the lock that says so, and the folder of locks and records.

use super::{Error, Nic};
use crate::privileges::as_starter;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the locks are, and what must outlive a SIGKILL but not a boot.
pub const STATE_DIR: &str = "/run/iou-fast";

/// Where the locks and records of this process are: [`STATE_DIR`] for root. Another user, who got his rights as file
/// capabilities or from systemd, has them where his sessions or his service keep such things.
#[must_use]
pub fn state_dir() -> PathBuf {
    let own = rustix::process::getuid();
    folder_of(own.as_raw(), |name| std::env::var_os(name))
}

fn folder_of(uid: u32, environment: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    if uid == 0 {
        return STATE_DIR.into();
    }
    // systemd.exec(5): several folders are separated by colons; and it is made for this service alone.
    let service =
        environment("RUNTIME_DIRECTORY").filter(|folder| !folder.as_encoded_bytes().contains(&b':'));
    let session = || environment("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    let session = || session().map_or_else(|| format!("/run/user/{uid}").into(), PathBuf::from);
    service.map_or_else(|| session().join("iou-fast"), PathBuf::from)
}

/// A killed process keeps its locks until the kernel has taken it down, seen to last up to 62 ms; so long may a
/// lock be held before its holder counts as alive.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// A network card that no other iou-fast process uses, until this and all clones are dropped.
///
/// The lock is a file in `/run/iou-fast` that holds the pid. Its name is made of the number of the network
/// namespace and that of the card in it, which neither a renaming nor a second namespace with the same names
/// confuses. It is locked by `flock`: this, unlike the `fcntl` locks of IOU, also keeps two holders within one
/// process apart. A file left behind by a killed process is not locked, and is taken.
#[derive(Clone, Debug)]
pub struct Hold(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: OwnedFd,
    path: PathBuf,
    stem: String,
    _lock: OwnedFd,
}

impl Hold {
    /// Takes `nic` for this process, with the lock in [`STATE_DIR`]. Waits up to a second for a process that is
    /// just ending.
    ///
    /// # Errors
    /// [`Error::Held`] names the process that has it. [`Error::StateDir`] and [`Error::StateDirUnsafe`] where the
    /// folder cannot be used.
    pub fn take(nic: &Nic) -> Result<Self, Error> {
        Self::take_in(nic, Path::new(STATE_DIR))
    }

    /// As [`take`](Self::take), with the lock in folder `path`, which is made where it is missing (its parents
    /// are not).
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn take_in(nic: &Nic, path: &Path) -> Result<Self, Error> {
        as_starter(|| Self::take_as_starter(nic, path))
    }

    fn take_as_starter(nic: &Nic, path: &Path) -> Result<Self, Error> {
        let directory = open_directory(path)?;
        let stem = format!("net{}-if{}", nic.namespace, nic.index);
        let file = lock_name(&stem);
        let fail = |what| {
            let path = path.join(&file);
            move |source| Error::StateDir { path, what, source }
        };

        let deadline = Instant::now() + PATIENCE;
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = rustix::fs::openat(&directory, &file, flags, Mode::RUSR | Mode::WUSR)
                .map_err(fail("open the lock file"))?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Held { name: nic.name.clone(), pid: read_pid(&lock) });
                }
                Err(source) => return Err(fail("lock")(source)),
            }
            // Its last holder may have removed the file between our two calls. We then hold a lock that nobody
            // else can see.
            if !is_the_file(&directory, &file, &lock).map_err(fail("examine the lock file"))? {
                continue;
            }
            let pid = format!("{}\n", std::process::id());
            rustix::io::pwrite(&lock, pid.as_bytes(), 0).map_err(fail("write the lock file"))?;
            rustix::fs::ftruncate(&lock, pid.len() as u64).map_err(fail("write the lock file"))?;
            return Ok(Self(Arc::new(Inner { directory, path: path.to_owned(), stem, _lock: lock })));
        }
    }

    /// Writes the record that lies beside the lock, whole or not at all, and onto the disk if there is one.
    pub(super) fn write_record(&self, contents: &[u8]) -> Result<(), Error> {
        let (directory, record) = (&self.0.directory, self.record_name());
        let draft = format!("{record}.new");
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, &draft, flags, Mode::RUSR | Mode::WUSR)?;
            let mut rest = contents;
            while !rest.is_empty() {
                rest = &rest[rustix::io::write(&file, rest)?..];
            }
            rustix::fs::fsync(&file)?;
            rustix::fs::renameat(directory, &draft, directory, &record)?;
            rustix::fs::fsync(directory)
        };
        as_starter(write).map_err(|source| self.record_error("write", source))
    }

    /// The record that lies beside the lock; `None` if there is none.
    pub(super) fn read_record(&self) -> Result<Option<Vec<u8>>, Error> {
        as_starter(|| self.read_as_starter())
    }

    fn read_as_starter(&self) -> Result<Option<Vec<u8>>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0.directory, self.record_name(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(source) => return Err(self.record_error("read", source)),
        };
        let (mut contents, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match rustix::io::read(&file, &mut piece) {
                Ok(0) => return Ok(Some(contents)),
                Ok(length) => contents.extend_from_slice(&piece[..length]),
                Err(source) => return Err(self.record_error("read", source)),
            }
        }
    }

    /// Removes the record that lies beside the lock; one that is not there is no error.
    pub(super) fn remove_record(&self) -> Result<(), Error> {
        let directory = &self.0.directory;
        match as_starter(|| rustix::fs::unlinkat(directory, self.record_name(), AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(self.record_error("remove", source)),
        }
    }

    /// Where the record that lies beside the lock is.
    pub(super) fn record_path(&self) -> PathBuf {
        self.0.path.join(self.record_name())
    }

    fn record_name(&self) -> String {
        format!("{}.offloads.json", self.0.stem)
    }

    fn record_error(&self, what: &'static str, source: Errno) -> Error {
        Error::StateDir { path: self.record_path(), what, source }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // While still locked: afterwards it might be the next holder's. A file that stays is no lock.
        let lock = lock_name(&self.stem);
        let _ = as_starter(|| rustix::fs::unlinkat(&self.directory, lock, AtFlags::empty()));
    }
}

fn lock_name(stem: &str) -> String {
    format!("{stem}.lock")
}

/// Opens the folder, makes it if need be, and makes sure that only its owner, this process's user, can put files
/// there.
fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |what| move |source| Error::StateDir { path: path.to_owned(), what, source };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(fail("make this folder")(source)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(fail("open this folder"))?;
    let status = rustix::fs::fstat(&directory).map_err(fail("examine this folder"))?;
    let uid = rustix::process::getuid().as_raw();
    let others_may_write = Mode::from_raw_mode(status.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    if status.st_uid != uid || others_may_write {
        return Err(Error::StateDirUnsafe { path: path.to_owned(), uid });
    }
    Ok(directory)
}

/// Whether `file` in `directory` is still the one that `open` is a descriptor of.
fn is_the_file(directory: &OwnedFd, file: &str, open: &OwnedFd) -> Result<bool, Errno> {
    let ours = rustix::fs::fstat(open)?;
    match rustix::fs::statat(directory, file, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_pid(lock: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let length = rustix::io::pread(lock, &mut text, 0).ok()?;
    parse_pid(&text[..length])
}

/// The number on the first line.
pub(crate) fn parse_pid(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.lines().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_pid_is_the_first_line() {
        assert_eq!(parse_pid(b"1234\n"), Some(1234));
        // A shorter pid written over a longer one, before the file is cut.
        assert_eq!(parse_pid(b"12\n45\n"), Some(12));
        assert_eq!(parse_pid(b""), None);
        assert_eq!(parse_pid(b"\n"), None);
    }

    #[test]
    fn every_user_has_a_folder_of_his_own() {
        let of = |uid, set: &'static [(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            folder_of(uid, value).display().to_string()
        };
        assert_eq!(of(0, &[("XDG_RUNTIME_DIR", "/tmp/trap"), ("RUNTIME_DIRECTORY", "/tmp/trap")]), STATE_DIR);
        assert_eq!(of(1000, &[("XDG_RUNTIME_DIR", "/run/user/1000")]), "/run/user/1000/iou-fast");
        assert_eq!(of(1000, &[("RUNTIME_DIRECTORY", "/run/iou-fast"), ("XDG_RUNTIME_DIR", "/x")]), STATE_DIR);
        assert_eq!(of(1000, &[]), "/run/user/1000/iou-fast");
    }

    #[test]
    fn the_folder_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        open_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        open_directory(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_could_tamper_with_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(open_directory(&path), Err(Error::StateDirUnsafe { .. })));

        let link = parent.path().join("link");
        symlink(parent.path(), &link).unwrap();
        assert!(matches!(open_directory(&link), Err(Error::StateDir { .. })));

        let missing = parent.path().join("no/such");
        let error = open_directory(&missing).unwrap_err().to_string();
        assert!(error.contains("no/such: cannot make this folder"), "{error}");
    }
}
