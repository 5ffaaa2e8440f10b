//! One iou-fast a NIC: the lock that says so, and the directory of locks and records.

use super::{Error, Nic};
use crate::privileges::as_invoking_user;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
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
    directory_of(own.as_raw(), |name| std::env::var_os(name))
}

fn directory_of(uid: u32, environment: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    if uid == 0 {
        return STATE_DIR.into();
    }
    // systemd.exec(5): several directories are separated by colons; and it is made for this service alone.
    let service =
        environment("RUNTIME_DIRECTORY").filter(|directory| !directory.as_encoded_bytes().contains(&b':'));
    let session = || environment("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    let session = || session().map_or_else(|| format!("/run/user/{uid}").into(), PathBuf::from);
    service.map_or_else(|| session().join("iou-fast"), PathBuf::from)
}

/// A killed process keeps its locks until the kernel has taken it down, seen to last up to 62 ms; so long may a
/// lock be held before its holder counts as alive.
const PATIENCE: Duration = Duration::from_secs(1);
/// As long as that again may [a guard](crate::guard) have it: the drivers of some NICs take seconds to change offloads,
/// and who starts again should not hear of it.
const PATIENCE_WITH_GUARD: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// The second line of a lock that a guard has.
const GUARD: &str = "guard\n";

/// A NIC that no other iou-fast process uses, until this and all clones are dropped.
///
/// The lock is a file in `/run/iou-fast` that holds the pid. Its name is made of the number of the network
/// namespace and that of the NIC in it, which neither a renaming nor a second namespace with the same names
/// confuses. It is locked by `flock`: this, unlike the `fcntl` locks of IOU, also keeps two holders within one
/// process apart. A file left behind by a killed process is not locked, and is taken.
#[derive(Clone, Debug)]
pub struct NicLock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: OwnedFd,
    path: PathBuf,
    stem: String,
    _lock: OwnedFd,
}

impl NicLock {
    /// Takes `nic` for this process, with the lock in [`STATE_DIR`]. Waits up to a second for a process that is
    /// just ending.
    ///
    /// # Errors
    /// [`Error::Held`] names the process that has it. [`Error::StateDir`] and [`Error::StateDirUnsafe`] where the
    /// directory cannot be used.
    pub fn take(nic: &Nic) -> Result<Self, Error> {
        Self::take_in(nic, Path::new(STATE_DIR))
    }

    /// As [`take`](Self::take), with the lock in directory `path`, which is made where it is missing (its parents
    /// are not).
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn take_in(nic: &Nic, path: &Path) -> Result<Self, Error> {
        Self::take_within(nic, path, PATIENCE)
    }

    /// As [`take_in`](Self::take_in), waiting for `patience`.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn take_within(nic: &Nic, path: &Path, patience: Duration) -> Result<Self, Error> {
        as_invoking_user(|| Self::take_as_invoking_user(nic, path, patience))
    }

    fn take_as_invoking_user(nic: &Nic, path: &Path, patience: Duration) -> Result<Self, Error> {
        let directory = open_directory(path)?;
        let stem = stem(nic.namespace, nic.index);
        let start = Instant::now();
        loop {
            let busy = match try_lock(&directory, path, &stem, "")? {
                Lock::Ours(lock) => return Ok(Self::new(directory, path, stem, lock)),
                Lock::Others(lock) => lock,
            };
            let with_guard = if patience.is_zero() { patience } else { patience + PATIENCE_WITH_GUARD };
            let waited = start.elapsed();
            if waited >= patience && (waited >= with_guard || !has_guard(&busy)) {
                return Err(Error::Held { name: nic.name.clone(), pid: read_pid(&busy) });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The lock, if it is free, of NIC number `index` in network namespace `namespace`, in directory `path`: for
    /// [a guard](crate::guard), which does not keep it for long. `None` where a process has it.
    pub(crate) fn take_left(path: &Path, namespace: u64, index: u32) -> Result<Option<Self>, Error> {
        as_invoking_user(|| {
            let (directory, stem) = (open_existing(path)?, stem(namespace, index));
            Ok(match try_lock(&directory, path, &stem, GUARD)? {
                Lock::Ours(lock) => Some(Self::new(directory, path, stem, lock)),
                Lock::Others(_) => None,
            })
        })
    }

    fn new(directory: OwnedFd, path: &Path, stem: String, lock: OwnedFd) -> Self {
        Self(Arc::new(Inner { directory, path: path.to_owned(), stem, _lock: lock }))
    }

    /// Writes the record that lies beside the lock, whole or not at all, and onto the disk if there is one.
    pub(super) fn write_record(&self, contents: &[u8]) -> Result<(), Error> {
        let (directory, record) = (&self.0.directory, self.record_name());
        let draft = draft_of(&record);
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
        as_invoking_user(write).map_err(|source| self.record_error("write", source))
    }

    /// The record that lies beside the lock; `None` if there is none.
    pub(super) fn read_record(&self) -> Result<Option<Vec<u8>>, Error> {
        as_invoking_user(|| self.read_as_invoking_user())
    }

    fn read_as_invoking_user(&self) -> Result<Option<Vec<u8>>, Error> {
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
    pub(crate) fn remove_record(&self) -> Result<(), Error> {
        let directory = &self.0.directory;
        match as_invoking_user(|| rustix::fs::unlinkat(directory, self.record_name(), AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(self.record_error("remove", source)),
        }
    }

    /// Removes a record that was being written when its writer was killed.
    pub(super) fn remove_draft(&self) {
        let draft = draft_of(&self.record_name());
        let _ = as_invoking_user(|| rustix::fs::unlinkat(&self.0.directory, draft, AtFlags::empty()));
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
        let _ = as_invoking_user(|| rustix::fs::unlinkat(&self.directory, lock, AtFlags::empty()));
    }
}

/// A lock file.
enum Lock {
    Ours(OwnedFd),
    Others(OwnedFd),
}

/// Locks the file of `stem` if no process has, and writes into it our pid and then `mark`.
fn try_lock(directory: &OwnedFd, path: &Path, stem: &str, mark: &str) -> Result<Lock, Error> {
    let file = lock_name(stem);
    let fail = |what| {
        let path = path.join(&file);
        move |source| Error::StateDir { path, what, source }
    };
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(directory, &file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(fail("open the lock file"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Lock::Others(lock)),
            Err(source) => return Err(fail("lock")(source)),
        }
        // Its last holder may have removed the file between our two calls. We then have a lock that no other
        // process can see.
        if !is_the_file(directory, &file, &lock).map_err(fail("examine the lock file"))? {
            continue;
        }
        let text = format!("{}\n{mark}", std::process::id());
        rustix::io::pwrite(&lock, text.as_bytes(), 0).map_err(fail("write the lock file"))?;
        rustix::fs::ftruncate(&lock, text.len() as u64).map_err(fail("write the lock file"))?;
        return Ok(Lock::Ours(lock));
    }
}

fn stem(namespace: u64, index: u32) -> String {
    format!("net{namespace}-if{index}")
}

fn draft_of(record: &str) -> String {
    format!("{record}.new")
}

fn lock_name(stem: &str) -> String {
    format!("{stem}.lock")
}

/// The NICs of network namespace `namespace` of which there is a lock or a record in directory `path`, by their numbers.
pub(crate) fn seen(path: &Path, namespace: u64) -> Result<BTreeSet<u32>, Error> {
    let fail = |source| Error::StateDir { path: path.to_owned(), what: "read this directory", source };
    as_invoking_user(|| {
        let names = rustix::fs::Dir::read_from(open_existing(path)?).map_err(fail)?;
        let name = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok().and_then(parse_name);
        let nics = names.filter_map(|entry| entry.ok().and_then(name));
        Ok(nics.filter(|(of, _)| *of == namespace).map(|(_, index)| index).collect())
    })
}

/// Namespace and number of the NIC that a file is of.
fn parse_name(name: &str) -> Option<(u64, u32)> {
    let (namespace, rest) = name.strip_prefix("net")?.split_once("-if")?;
    let (index, kind) = rest.split_once('.')?;
    let ours = ["lock", "offloads.json", "offloads.json.new"].contains(&kind);
    Some((namespace.parse().ok()?, index.parse().ok()?)).filter(|_| ours)
}

/// Opens the directory, makes it if need be, and makes sure that only its owner, this process's user, can put files
/// there.
fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |what| move |source| Error::StateDir { path: path.to_owned(), what, source };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(fail("make this directory")(source)),
    }
    open_existing(path)
}

/// As [`open_directory`], without making it.
fn open_existing(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |what| move |source| Error::StateDir { path: path.to_owned(), what, source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(fail("open this directory"))?;
    let status = rustix::fs::fstat(&directory).map_err(fail("examine this directory"))?;
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
    parse_pid(&read_lock(lock))
}

/// Whether a guard says that it has locked this file.
fn has_guard(lock: &OwnedFd) -> bool {
    let text = read_lock(lock);
    text.split_inclusive(|byte| *byte == b'\n').nth(1) == Some(GUARD.as_bytes())
}

fn read_lock(lock: &OwnedFd) -> Vec<u8> {
    let mut text = [0; 32];
    let length = rustix::io::pread(lock, &mut text, 0).unwrap_or(0);
    text[..length].to_vec()
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
    fn files_of_nics_are_known_by_their_names() {
        assert_eq!(parse_name("net4026-if17.lock"), Some((4026, 17)));
        assert_eq!(parse_name("net1-if2.offloads.json"), Some((1, 2)));
        assert_eq!(parse_name("net1-if2.offloads.json.new"), Some((1, 2)));
        for strange in [
            "net1-if2",
            "net1-if2.json",
            "net1-if.lock",
            "net-if2.lock",
            "net1-if-2.lock",
            "..",
            "xnet1-if2.lock",
        ] {
            assert_eq!(parse_name(strange), None, "{strange}");
        }
    }

    /// Locks are kept apart by open files, so that two holders in one process stand for two processes.
    ///
    /// Promise `guard`.
    #[test]
    fn guard_takes_locks_that_are_free_and_is_waited_for() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        assert!(seen(&path, 7).is_err() && !path.exists(), "a guard makes no directory");
        let directory = open_directory(&path).unwrap();
        let take = |mark| match try_lock(&directory, &path, &stem(7, 3), mark).unwrap() {
            Lock::Ours(lock) => Ok(lock),
            Lock::Others(lock) => Err(lock),
        };
        // A new start has it: a guard leaves it alone, and says nothing in it.
        let held = take("").unwrap();
        assert!(NicLock::take_left(&path, 7, 3).unwrap().is_none());
        assert!(!has_guard(&held));
        assert_eq!(read_pid(&held), Some(std::process::id()));
        assert_eq!(seen(&path, 7).unwrap(), [3].into());
        assert!(seen(&path, 8).unwrap().is_empty(), "another network namespace");
        drop(held);
        // Killed, it leaves the file. Now the guard has it, and who comes sees that it need only wait.
        let guard = NicLock::take_left(&path, 7, 3).unwrap().unwrap();
        let theirs = take("").unwrap_err();
        assert!(has_guard(&theirs));
        assert_eq!(read_pid(&theirs), Some(std::process::id()));
        drop(guard);
        assert!(seen(&path, 7).unwrap().is_empty(), "no file is left");
        // Not the file that the guard has removed.
        let next = take("").unwrap();
        assert!(!has_guard(&next));
        assert!(is_the_file(&directory, "net7-if3.lock", &next).unwrap());
    }

    #[test]
    fn state_directory_of_each_user_is_another() {
        let of = |uid, set: &'static [(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            directory_of(uid, value).display().to_string()
        };
        assert_eq!(of(0, &[("XDG_RUNTIME_DIR", "/tmp/trap"), ("RUNTIME_DIRECTORY", "/tmp/trap")]), STATE_DIR);
        assert_eq!(of(1000, &[("XDG_RUNTIME_DIR", "/run/user/1000")]), "/run/user/1000/iou-fast");
        assert_eq!(of(1000, &[("RUNTIME_DIRECTORY", "/run/iou-fast"), ("XDG_RUNTIME_DIR", "/x")]), STATE_DIR);
        assert_eq!(of(1000, &[]), "/run/user/1000/iou-fast");
    }

    #[test]
    fn state_directory_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        open_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        open_directory(&path).unwrap();
    }

    #[test]
    fn state_directory_that_others_could_tamper_with_is_refused() {
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
        assert!(error.contains("no/such: cannot make this directory"), "{error}");
    }
}
