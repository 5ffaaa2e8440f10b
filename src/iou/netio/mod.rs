//! The directories that routers have their sockets in: the netio directory, and that of their L1 keepalives.
//!
//! The directory belongs to the IOU user, who can put anything there, while we are often root: everything but `bind`
//! goes through the directory's descriptor, follows no link, and looks at what it found before it uses or changes it.

mod error;
mod paths;
mod state;

pub use error::Error;
pub use paths::{OtherDirectory, default_path, default_uid, keepalive_path, other_directories};
pub use state::IdState;
#[cfg(test)]
pub(super) use state::PATIENCE;
use state::process_with;
pub(super) use state::{Patience, who};

use super::InstanceId;
use super::lock::{self, Holder};
use super::queue::datagram_socket;
use paths::{also, base, instances};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, inotify};
use rustix::io::Errno;
use rustix::net::{self, SocketAddrUnix};
use rustix::process::Uid;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The longest path in a `sockaddr_un`, without the NUL.
const LONGEST_PATH: usize = 107;

/// A directory of sockets, `/tmp/netio<uid>` or `/tmp/netl1<uid>`, held open.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    pub(super) uid: Uid,
    pub(super) dir: Arc<OwnedFd>,
    /// What stands in front of the id in a socket's name: `L1` for keepalives, nothing for frames.
    prefix: &'static str,
}

impl Directory {
    /// Opens the netio directory `path` of user `uid`, and makes it if there is none.
    ///
    /// # Errors
    /// If it is a symbolic link or no directory, belongs to another user than `uid` and root, lets other users replace
    /// what is in it, or cannot be opened or made.
    pub fn open(path: &Path, uid: u32) -> Result<Self, Error> {
        Self::open_or_make(path, uid, true)
    }

    /// Opens the directory that has this one's path now; if there is none, `make`s it.
    ///
    /// # Errors
    /// As [`Directory::open`]; [`Error::is_absent`] if there is none and it is not to be made.
    pub fn again(&self, make: bool) -> Result<Self, Error> {
        Self::open_or_make(&self.path, self.uid(), make)
    }

    fn open_or_make(path: &Path, uid: u32, make: bool) -> Result<Self, Error> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // Without a slash at the end, which would follow a link.
        let path: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
        let others = || other_directories(base(&path), &path);
        let fail = |action| {
            let (path, others) = (path.clone(), others());
            move |source: Errno| Error::Directory { path, action, source: source.into(), others }
        };

        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        let made = match if make { fs::mkdir(&path, mode) } else { Err(Errno::EXIST) } {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(other) => return Err(fail("make")(other)),
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::open(&path, flags, Mode::empty()).map_err(|source| match source {
            Errno::NOTDIR | Errno::LOOP => {
                let what = if path.is_symlink() { "a symbolic link" } else { "a file" };
                Error::NotADirectory { path: path.clone(), what }
            }
            other => fail("open")(other),
        })?;
        let stat = fs::fstat(&dir).map_err(fail("open"))?;
        let owner = stat.st_uid;
        let uid = Uid::from_raw(uid);
        if made && owner == rustix::process::geteuid().as_raw() {
            // The mode in spite of any umask: routers of the user must get in.
            let given = fs::fchmod(&dir, mode).and_then(|()| {
                if owner == uid.as_raw() { Ok(()) } else { fs::fchown(&dir, Some(uid), None) }
            });
            given.map_err(|source| {
                let _ = fs::rmdir(&path);
                fail("hand over")(source)
            })?;
        } else if ![uid.as_raw(), 0].contains(&owner) {
            return Err(Error::ForeignDirectory { owner, uid: uid.as_raw(), others: others(), path });
        } else if let Some(whom) = open_to(&stat) {
            return Err(Error::WritableDirectory { path, whom });
        }
        Ok(Self { path, uid, dir: Arc::new(dir), prefix: "" })
    }

    /// Opens the directory `path` of the L1 keepalives of user `uid`. `None` if there is none: the routers do not use them.
    ///
    /// # Errors
    /// [`Error::Keepalives`] if it is no directory or another user's, or cannot be opened.
    pub fn open_keepalives(path: &Path, uid: u32) -> Result<Option<Self>, Error> {
        let fail = |why: String| Error::Keepalives { path: path.to_owned(), why };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(fail("is no directory, or a symbolic link".into()));
            }
            Err(other) => return Err(fail(format!("cannot be opened: {other}"))),
        };
        let stat = fs::fstat(&dir).map_err(|error| fail(format!("cannot be opened: {error}")))?;
        let owner = stat.st_uid;
        if ![uid, 0].contains(&owner) {
            return Err(fail(format!("belongs to user {owner}, not to user {uid}")));
        }
        if let Some(whom) = open_to(&stat) {
            return Err(fail(format!("is writable for {whom}: `chmod go-w {}`", path.display())));
        }
        Ok(Some(Self { path: path.to_owned(), uid: Uid::from_raw(uid), dir: Arc::new(dir), prefix: "L1" }))
    }

    /// Whether what has this owner may be a router of this directory's user.
    pub(super) fn is_own(&self, owner: u32) -> bool {
        [self.uid.as_raw(), 0].contains(&owner)
    }

    /// True while its path leads to it.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let named = fs::statat(fs::CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        named.is_ok_and(|named| fs::fstat(&self.dir).is_ok_and(|own| key(&own) == key(&named)))
    }

    /// The name of an instance's socket.
    pub(super) fn name(&self, id: InstanceId) -> String {
        format!("{}{id}", self.prefix)
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The IOU user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The path of an instance's socket.
    #[must_use]
    pub fn socket(&self, id: InstanceId) -> PathBuf {
        self.path.join(self.name(id))
    }

    /// If no instance has a socket in the directory, a line that says so and names the directories that do exist: most
    /// often the routers are another user's.
    #[must_use]
    pub fn empty_notice(&self) -> Option<String> {
        let path = self.path.display();
        let others = other_directories(base(&self.path), &self.path);
        let none = format!(
            "no router has a socket in the netio directory {path} (user {}) yet{}",
            self.uid(),
            also(&others)
        );
        (instances(&self.path) == 0).then_some(none)
    }

    /// Has `inotify` tell of `events` in the directory; returns the number of the watch.
    ///
    /// # Errors
    /// What `inotify_add_watch` says.
    pub fn watch(&self, inotify: BorrowedFd<'_>, events: inotify::WatchFlags) -> io::Result<i32> {
        // Through the descriptor: the path may lead to another directory by now.
        let path = format!("/proc/self/fd/{}", self.dir.as_raw_fd());
        Ok(inotify::add_watch(inotify, path, events)?)
    }

    /// The inode of the socket file of `id`, or `None` if there is none.
    #[must_use]
    pub fn inode(&self, id: InstanceId) -> Option<u64> {
        self.stat(id).ok().map(|stat| stat.st_ino)
    }

    /// Whether `id` is in use just now.
    #[must_use]
    pub fn state(&self, id: InstanceId) -> IdState {
        let unknown = |action: &str, e: &dyn fmt::Display| {
            IdState::Unknown(format!("cannot {action} {}: {e}", self.socket(id).display()))
        };
        match lock::holder_in(self.dir.as_fd(), id.to_string().into()) {
            Ok(Some(holder)) => return IdState::Locked(holder),
            Ok(None) => {}
            Err(source) => return unknown("read the lock of", &source),
        }
        match self.stat(id) {
            Ok(stat) if !is_socket(&stat) => return unknown("use", &"it is no socket"),
            Ok(_) => {}
            Err(Errno::NOENT) => return IdState::Free,
            Err(source) => return unknown("find", &source),
        }
        match self.try_connect(id) {
            Ok(true) => IdState::Answers(self.reader(id)),
            Ok(false) => IdState::Free,
            Err(source) => unknown("connect to", &source),
        }
    }

    /// [`Directory::state`] as a probe for inference of pseudo ids: an id is reported as in use only if it still is a
    /// second after the first one was found so.
    pub fn probe(&self) -> impl FnMut(InstanceId) -> IdState {
        let mut patience = Patience::default();
        move |id| loop {
            match self.state(id) {
                IdState::Locked(_) | IdState::Answers(_) if patience.wait() => {}
                state => return state,
            }
        }
    }

    pub(super) fn stat(&self, id: InstanceId) -> Result<Stat, Errno> {
        fs::statat(&self.dir, self.name(id), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The file of `id`, whatever it is: a link is not followed, and what its user puts in its place later is another.
    pub(super) fn file(&self, id: InstanceId) -> Result<File, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.dir, self.name(id), flags, Mode::empty())?;
        Ok(File { stat: fs::fstat(&fd)?, fd })
    }

    /// The address for `bind`: the plain path, so that `ss -x` shows it, or, where that is too long, one through our
    /// descriptor of the directory.
    pub(super) fn address(&self, id: InstanceId) -> Result<SocketAddrUnix, Errno> {
        let path = self.socket(id);
        if path.as_os_str().len() <= LONGEST_PATH {
            return SocketAddrUnix::new(path);
        }
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{}", self.dir.as_raw_fd(), self.name(id)))
    }

    /// True if a process reads the socket of `id`.
    pub(super) fn try_connect(&self, id: InstanceId) -> Result<bool, Errno> {
        let socket = datagram_socket()?;
        match self.file(id).and_then(|file| net::connect(&socket, &file.address()?)) {
            // Not permitted: it talks to one peer alone. Wrong type: it takes connections. Both are alive.
            Ok(()) | Err(Errno::PERM | Errno::PROTOTYPE) => Ok(true),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// The process that reads the socket of `id`, as far as `/proc` tells: it shows the sockets of this network
    /// namespace and the descriptors of processes that we may look into.
    pub(super) fn reader(&self, id: InstanceId) -> Option<Holder> {
        let file = key(&self.stat(id).ok()?);
        let name = self.name(id);
        let table = std::fs::read("/proc/net/unix").ok()?;
        let table = String::from_utf8_lossy(&table);
        let inode = table.lines().rev().find_map(|line| {
            // Num RefCount Protocol Flags Type St Inode Path
            let mut fields = line.split_ascii_whitespace();
            let inode = fields.nth(6)?;
            let path = Path::new(fields.next()?);
            let here = path.file_name()? == name.as_str();
            let same = || fs::statat(fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| key(&s) == file);
            (here && same()).then_some(inode)
        });
        // If several had this path, the last one bound: a process that lost its file to another may still be there.
        process_with(&format!("socket:[{}]", inode?))
    }
}

/// True if a process reads the socket of `id`; false also if that cannot be told.
#[must_use]
pub fn answers(directory: &Directory, id: InstanceId) -> bool {
    directory.try_connect(id).unwrap_or(false)
}

/// A file in a directory, held.
pub(super) struct File {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl File {
    /// Where a socket of that file is, and no other.
    pub(super) fn address(&self) -> Result<SocketAddrUnix, Errno> {
        SocketAddrUnix::new(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// Who besides its owner, root, and the members of this process's own group may remove and replace what is in a directory.
/// With the sticky bit none may.
fn open_to(directory: &Stat) -> Option<String> {
    let mode = Mode::from_raw_mode(directory.st_mode);
    let group = directory.st_gid;
    if mode.contains(Mode::SVTX) {
        None
    } else if mode.contains(Mode::WOTH) {
        Some("every user".to_owned())
    } else {
        let foreign = mode.contains(Mode::WGRP) && group != rustix::process::getegid().as_raw();
        foreign.then(|| format!("group {group}"))
    }
}

pub(super) fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

pub(super) fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{directory, id, may_administer, me};
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn uid_of_the_netio_directory() {
        let sudo = |name: &str| (name == "SUDO_UID").then(|| OsString::from("1000"));
        assert_eq!(default_uid(Some(7), sudo, 0).unwrap(), 7);
        assert_eq!(default_uid(None, sudo, 0).unwrap(), 1000);
        assert_eq!(default_uid(None, |_| None, 5).unwrap(), 5);
        assert_eq!(default_uid(Some(7), |_| Some("x".into()), 0).unwrap(), 7);
        assert!(default_uid(None, |_| Some("x".into()), 0).unwrap_err().to_string().contains("\"x\""));
        assert_eq!(default_path(1000), Path::new("/tmp/netio1000"));
    }

    #[test]
    fn a_netio_directory_is_made_for_its_user() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netio1000");
        let opened = Directory::open(&path, 1000);
        if may_administer() {
            let metadata = path.metadata().unwrap();
            assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (0o755, 1000));
            assert_eq!(opened.unwrap().socket(id(5)), path.join("5"));
            Directory::open(&path, 1000).unwrap();
        } else if me() != 1000 {
            assert!(opened.unwrap_err().to_string().contains("cannot hand over"));
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_link_or_a_file_is_no_netio_directory() {
        let base = tempfile::tempdir().unwrap();
        let (real, link, file) =
            (base.path().join("real"), base.path().join("netio1"), base.path().join("netio2"));
        std::fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        for spelling in [link.clone(), link.join(""), link.join(".")] {
            let said = Directory::open(&spelling, me()).unwrap_err().to_string();
            assert!(said.contains("is a symbolic link"), "{spelling:?}: {said}");
        }
        assert!(
            Directory::open(&file, me()).unwrap_err().to_string().contains("is a file and not a directory")
        );
        let said = Directory::open(&base.path().join("none/netio1"), me()).unwrap_err().to_string();
        assert!(said.contains("cannot make the netio directory"), "{said}");
    }

    #[test]
    fn another_users_netio_directory_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netio77");
        std::fs::create_dir(&path).unwrap();
        // Of this user, asked for another; root's are taken by everyone, so give it away first.
        let owner = if may_administer() { 4242 } else { me() };
        if may_administer() {
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
        }
        let said = Directory::open(&path, 77).unwrap_err().to_string();
        assert!(said.contains(&format!("belongs to user {owner}, not to user 77")), "{said}");
        assert!(said.contains(&format!("--uid {owner}")), "{said}");
    }

    #[test]
    fn an_empty_netio_directory_names_the_others() {
        let (base, directory) = directory();
        let other = base.path().join("netio424242");
        std::fs::create_dir(&other).unwrap();
        std::fs::create_dir(base.path().join("netiox")).unwrap();
        std::fs::write(base.path().join("netio5"), "").unwrap();
        let sockets = ["1", "2", "x"].map(|name| UnixDatagram::bind(other.join(name)).unwrap());
        std::fs::write(other.join("3"), "").unwrap();

        let found = other_directories(base.path(), directory.path());
        assert_eq!(found, [OtherDirectory { path: other.clone(), uid: 424_242, sockets: 2 }]);
        let said = directory.empty_notice().unwrap();
        assert!(said.contains(directory.path().to_str().unwrap()), "{said}");
        assert!(said.contains(&format!("{} (2 sockets; --uid 424242)", other.display())), "{said}");
        let _router = UnixDatagram::bind(directory.socket(id(1))).unwrap();
        assert_eq!(directory.empty_notice(), None);
        drop(sockets);
    }
}
