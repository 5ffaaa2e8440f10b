//! The netio folder and the Unix datagram sockets in it: ours, bound under the pseudo ids, and those of the routers.
//! The folder of their L1 keepalives is another such one.
//!
//! The folder belongs to the IOU user, who can put anything there, while we are often root: everything but `bind`
//! and `connect` goes through the folder's descriptor, follows no link, and looks at what it found before it
//! changes it.

use super::InstanceId;
use super::lock::{self, Holder, Lock};
use crate::privileges::{self, Role};
use crate::sys;
use crossbeam::channel;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, inotify};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, Uid};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// `net.unix.max_dgram_qlen` for pseudo sockets: each queues one datagram more. The kernel's default is 10, which
/// fifty routers fill within one scheduling delay.
const QUEUE: u32 = 4096;

/// Bytes that may wait in one router's queue: more than a queue of the usual 512 datagrams of one chunk (4 kB, twice
/// that with the kernel's bookkeeping) holds. With the default of 212,992 the 94th full frame blocks.
const SEND_BUFFER: usize = 8 << 20;

/// The longest path in a `sockaddr_un`, without the NUL.
const LONGEST_PATH: usize = 107;

/// How long an id may be in use before that is believed: a process killed just now lets go of its locks and sockets
/// some time after the `kill` (up to 62 ms were measured).
const PATIENCE: Duration = Duration::from_secs(1);

/// What [`Error::System`] says if a socket was bound, but cannot be given to the user.
const HAND_OVER: &str = "hand over to the IOU user";

/// How often to look in that time.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A folder of sockets, `/tmp/netio<uid>` or `/tmp/netl1<uid>`, held open.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    uid: Uid,
    dir: Arc<OwnedFd>,
    /// What stands in front of the id in a socket's name: `L1` for keepalives, nothing for frames.
    prefix: &'static str,
}

/// What can be said of an instance id from outside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IdState {
    /// Nobody has its lock and nothing answers at its socket.
    Free,
    /// A process holds its lock.
    Locked(Holder),
    /// Nobody has its lock, but a process reads its socket: which one, if that can be found.
    Answers(Option<Holder>),
    /// It cannot be told, because of this.
    Unknown(String),
}

/// Why the netio folder or a pseudo socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `SUDO_UID` is no number.
    #[error("SUDO_UID is \"{0}\", which is no user id: give the user who runs the routers with --uid")]
    SudoUid(String),
    /// Something else has the folder's name.
    #[error("the netio folder {} is {what} and not a folder: remove it, or name another with --netio-dir", path.display())]
    NotAFolder {
        /// The folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The folder belongs to neither the IOU user nor root.
    #[error(
        "the netio folder {} belongs to user {owner}, not to user {uid}: if {owner} runs the routers, give --uid {owner}{}",
        path.display(), also(others)
    )]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        uid: u32,
        /// The other folders there are.
        others: Vec<OtherFolder>,
    },
    /// Other users may change what is in the folder.
    #[error(
        "the netio folder {} is writable for {whom}, who could put sockets of their own in the place of routers': \
         `chmod go-w {}`",
        path.display(), path.display()
    )]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// For whom.
        whom: String,
    },
    /// The folder can be neither opened nor made.
    #[error("cannot {action} the netio folder {}: {source}{}", path.display(), also(others))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
        /// The other folders there are.
        others: Vec<OtherFolder>,
    },
    /// The folder of L1 keepalives is none that can be trusted, or cannot be opened.
    #[error("L1 keepalives are not answered: {} {why}", path.display())]
    Keepalives {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The lock of a pseudo id cannot be taken.
    #[error("pseudo id {id}: {source}")]
    Lock {
        /// The id.
        id: InstanceId,
        /// Why.
        source: lock::Error,
    },
    /// A process without the lock reads the socket.
    #[error(
        "pseudo id {id}: {} answers at {} without a lock: end it, or choose another pseudo id with -p",
        who(holder), path.display()
    )]
    Answers {
        /// The id.
        id: InstanceId,
        /// The socket.
        path: PathBuf,
        /// The process, if it can be found.
        holder: Option<Holder>,
    },
    /// Something else has the socket's name.
    #[error("pseudo id {id}: {} is no socket: look what it is, and move it away", path.display())]
    NotASocket {
        /// The id.
        id: InstanceId,
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("pseudo id {id}: cannot {action} {}: {source}{}", path.display(), hint(source))]
    System {
        /// The id.
        id: InstanceId,
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No sockets can be made.
    #[error("cannot make {count} sockets: {source}{}", hint(source))]
    Sockets {
        /// How many are needed.
        count: usize,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// True if the folder is just not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a router cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It has no socket: it does not run.
    #[error("the router has no socket")]
    Absent,
    /// Its socket is there but nobody reads it: it was killed, or is about to start.
    #[error("nobody reads the router's socket")]
    Refused,
    /// Somebody else put it there.
    #[error("its socket belongs to user {0}, who is neither the routers' user nor root: remove it")]
    Foreign(u32),
    /// The system refuses.
    #[error("cannot connect to the router's socket: {0}")]
    Other(io::Error),
}

/// Another netio folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OtherFolder {
    /// Its path.
    pub path: PathBuf,
    /// The uid in its name.
    pub uid: u32,
    /// How many instances have a socket in it.
    pub sockets: usize,
}

/// The pseudo sockets of a lab.
#[derive(Debug)]
pub struct Bound {
    /// One an id, in the order asked for.
    pub sockets: Vec<PseudoSocket>,
    /// Set if their queues are short.
    pub warning: Option<ShortQueue>,
}

/// A warning: pseudo sockets queue fewer datagrams than they should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShortQueue {
    /// Datagrams that one queues.
    pub datagrams: u32,
    /// Why.
    pub reason: String,
}

/// A bound pseudo socket with its lock. Dropping it removes the socket file, unless that is another's by now, and
/// lets go of the lock.
#[derive(Debug)]
pub struct PseudoSocket {
    /// The instance id that it stands for.
    pub id: InstanceId,
    /// The socket: datagrams, non-blocking, `SO_TIMESTAMPNS` on.
    pub fd: OwnedFd,
    /// Its file.
    pub path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    folder: Folder,
    /// Let go after the file is removed. For keepalives there is none: the one for frames is ours already.
    lock: Option<Lock>,
}

/// A socket connected to a router's.
#[derive(Debug)]
pub struct RouterSocket {
    /// The socket: datagrams, non-blocking, not bound.
    pub fd: OwnedFd,
    /// The inode of the router's socket file. While [`Folder::inode`] gives another, a new process stands under the
    /// router's id and this socket still leads to the old one.
    pub inode: u64,
}

/// The user whose netio folder is meant: `option` (from `--uid`), else `SUDO_UID`, else `real`, the real uid.
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

/// The folder that IOU uses when user `uid` runs it.
#[must_use]
pub fn default_path(uid: u32) -> PathBuf {
    format!("/tmp/netio{uid}").into()
}

/// The folder of L1 keepalives that goes with the netio folder `netio` of user `uid`: IOU makes both names of the uid.
#[must_use]
pub fn keepalive_path(netio: &Path, uid: u32) -> PathBuf {
    let name = netio.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("netio"));
    name.map_or_else(
        || format!("/tmp/netl1{uid}").into(),
        |rest| netio.with_file_name(format!("netl1{rest}")),
    )
}

/// The netio folders in `base` (`/tmp`) other than `path`, ascending.
#[must_use]
pub fn other_folders(base: &Path, path: &Path) -> Vec<OtherFolder> {
    let Ok(entries) = base.read_dir() else { return Vec::new() };
    let mut folders: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let uid = entry.file_name().to_str()?.strip_prefix("netio")?.parse().ok()?;
            // Not following links: a link to a netio folder is refused anyway.
            let is_folder = entry.file_type().ok()?.is_dir() && entry.path() != path;
            is_folder.then(|| OtherFolder { sockets: instances(&entry.path()), path: entry.path(), uid })
        })
        .collect();
    folders.sort();
    folders
}

/// How many instances have a socket in the folder.
fn instances(folder: &Path) -> usize {
    use std::os::unix::fs::FileTypeExt;
    let Ok(entries) = folder.read_dir() else { return 0 };
    let is_instance = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let id = InstanceId::new(entry.file_name().to_str()?.parse().ok()?);
        (id.is_some() && entry.file_type().ok()?.is_socket()).then_some(())
    };
    entries.filter_map(is_instance).count()
}

impl Folder {
    /// Opens the netio folder `path` of user `uid`, and makes it if there is none.
    ///
    /// # Errors
    /// If it is a symbolic link or no folder, belongs to another user than `uid` and root, lets other users replace
    /// what is in it, or cannot be opened or made.
    pub fn open(path: &Path, uid: u32) -> Result<Self, Error> {
        Self::open_or_make(path, uid, true)
    }

    /// Opens the folder that has this one's path now; if there is none, `make`s it.
    ///
    /// # Errors
    /// As [`Folder::open`]; [`Error::is_absent`] if there is none and it is not to be made.
    pub fn again(&self, make: bool) -> Result<Self, Error> {
        Self::open_or_make(&self.path, self.uid(), make)
    }

    fn open_or_make(path: &Path, uid: u32, make: bool) -> Result<Self, Error> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // Without a slash at the end, which would follow a link.
        let path: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
        let others = || other_folders(base(&path), &path);
        let fail = |action| {
            let (path, others) = (path.clone(), others());
            move |source: Errno| Error::Folder { path, action, source: source.into(), others }
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
                Error::NotAFolder { path: path.clone(), what }
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
            return Err(Error::ForeignFolder { owner, uid: uid.as_raw(), others: others(), path });
        } else if let Some(whom) = open_to(&stat) {
            return Err(Error::OpenFolder { path, whom });
        }
        Ok(Self { path, uid, dir: Arc::new(dir), prefix: "" })
    }

    /// Opens the folder `path` of the L1 keepalives of user `uid`. `None` if there is none: the routers do not use them.
    ///
    /// # Errors
    /// [`Error::Keepalives`] if it is no folder or another user's, or cannot be opened.
    pub fn open_keepalives(path: &Path, uid: u32) -> Result<Option<Self>, Error> {
        let fail = |why: String| Error::Keepalives { path: path.to_owned(), why };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(fail("is no folder, or a symbolic link".into())),
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

    /// Whether what has this owner may be a router of this folder's user.
    fn is_own(&self, owner: u32) -> bool {
        [self.uid.as_raw(), 0].contains(&owner)
    }

    /// True while its path leads to it.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let named = fs::statat(fs::CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        named.is_ok_and(|named| fs::fstat(&self.dir).is_ok_and(|own| key(&own) == key(&named)))
    }

    /// The name of an instance's socket.
    fn name(&self, id: InstanceId) -> String {
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

    /// If no instance has a socket in the folder, a line that says so and names the folders that do exist: most
    /// often the routers are another user's.
    #[must_use]
    pub fn empty_notice(&self) -> Option<String> {
        let path = self.path.display();
        let others = other_folders(base(&self.path), &self.path);
        let none = format!(
            "no router has a socket in the netio folder {path} (user {}) yet{}",
            self.uid(),
            also(&others)
        );
        (instances(&self.path) == 0).then_some(none)
    }

    /// Has `inotify` tell of `events` in the folder; returns the number of the watch.
    ///
    /// # Errors
    /// What `inotify_add_watch` says.
    pub fn watch(&self, inotify: BorrowedFd<'_>, events: inotify::WatchFlags) -> io::Result<i32> {
        // Through the descriptor: the path may lead to another folder by now.
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

    /// [`Folder::state`] as a probe for [`infer`](crate::netmap::infer::infer), which believes that ids are in use
    /// only when they still are a second after the first one was found so.
    pub fn probe(&self) -> impl FnMut(InstanceId) -> IdState {
        let mut patience = Patience::default();
        move |id| loop {
            match self.state(id) {
                IdState::Locked(_) | IdState::Answers(_) if patience.wait() => {}
                state => return state,
            }
        }
    }

    fn stat(&self, id: InstanceId) -> Result<Stat, Errno> {
        fs::statat(&self.dir, self.name(id), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The address for `bind` and `connect`: the plain path, so that `ss -x` shows it, or where that is too long the
    /// way through our descriptor of the folder.
    fn address(&self, id: InstanceId) -> Result<SocketAddrUnix, Errno> {
        let path = self.socket(id);
        if path.as_os_str().len() <= LONGEST_PATH {
            return SocketAddrUnix::new(path);
        }
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{}", self.dir.as_raw_fd(), self.name(id)))
    }

    /// True if a process reads the socket of `id`.
    fn try_connect(&self, id: InstanceId) -> Result<bool, Errno> {
        let socket = datagram_socket()?;
        match net::connect(&socket, &self.address(id)?) {
            // Not permitted: it talks to one peer alone. Wrong type: it takes connections. Both are alive.
            Ok(()) | Err(Errno::PERM | Errno::PROTOTYPE) => Ok(true),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// The process that reads the socket of `id`, as far as `/proc` tells: it shows the sockets of this network
    /// namespace and the descriptors of processes that we may look into.
    fn reader(&self, id: InstanceId) -> Option<Holder> {
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

/// The process that has a descriptor whose link in `/proc/PID/fd` reads `target`.
fn process_with(target: &str) -> Option<Holder> {
    let processes = Path::new("/proc").read_dir().ok()?;
    let mut pids = processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let Ok(mut fds) = Path::new(&format!("/proc/{pid}/fd")).read_dir() else { return false };
        fds.any(|fd| fd.and_then(|fd| fd.path().read_link()).is_ok_and(|link| link.as_os_str() == target))
    };
    pids.find(has).map(Holder::new)
}

/// True if a process reads the socket of `id`; false also if that cannot be told.
#[must_use]
pub fn answers(folder: &Folder, id: InstanceId) -> bool {
    folder.try_connect(id).unwrap_or(false)
}

/// Binds a pseudo socket for each of `ids`: takes its lock, replaces what a killed run left, refuses what is in use.
///
/// An id that is in use is given a second to become free, all together, so that starting again right after a kill
/// works. The process' limit of open files is raised as far as allowed: every id takes two.
///
/// # Errors
/// If one of the ids is in use or the system refuses. Then none is bound.
pub fn bind_pseudo(folder: &Folder, ids: &[InstanceId]) -> Result<Bound, Error> {
    raise_file_limit();
    let (fds, warning) = make_sockets(ids.len())?;
    let mut patience = Patience::default();
    let mut sockets = Vec::with_capacity(ids.len());
    for (&id, fd) in ids.iter().zip(fds) {
        let (lock, file) = loop {
            match bind(folder, id, fd.as_fd()) {
                Err(Error::Answers { .. } | Error::Lock { source: lock::Error::Held { .. }, .. })
                    if patience.wait() => {}
                result => break result?,
            }
        };
        let path = folder.socket(id);
        sockets.push(PseudoSocket { id, fd, path, file, folder: folder.clone(), lock: Some(lock) });
    }
    Ok(Bound { sockets, warning })
}

/// Makes `count` sockets to bind under pseudo ids.
///
/// # Errors
/// [`Error::Sockets`].
pub fn make_sockets(count: usize) -> Result<(Vec<OwnedFd>, Option<ShortQueue>), Error> {
    deep_sockets(count).map_err(|source| Error::Sockets { count, source })
}

/// Takes the lock of `id` and binds `socket`. Returns with the lock the device and inode of the socket file.
fn bind(folder: &Folder, id: InstanceId, socket: BorrowedFd<'_>) -> Result<(Lock, (u64, u64)), Error> {
    let lock = take_lock(folder, id)?;
    Ok((lock, put_in_place(folder, id, socket)?))
}

fn take_lock(folder: &Folder, id: InstanceId) -> Result<Lock, Error> {
    let lock = Lock::take_in(&folder.dir, &folder.socket(id), folder.name(id).into(), folder.uid);
    lock.map_err(|source| Error::Lock { id, source })
}

/// Binds the socket on which routers' L1 keepalives for pseudo id `id` arrive, whose lock in the netio folder is ours.
///
/// # Errors
/// As [`bind_pseudo`], without patience.
pub fn bind_keepalives(folder: &Folder, id: InstanceId) -> Result<PseudoSocket, Error> {
    let path = folder.socket(id);
    let fail =
        |source: Errno| Error::System { id, path: path.clone(), action: "make", source: source.into() };
    let fd = datagram_socket().map_err(fail)?;
    let file = put_in_place(folder, id, fd.as_fd())?;
    Ok(PseudoSocket { id, fd, path, file, folder: folder.clone(), lock: None })
}

/// Binds `socket`, whose id nobody else may use. Returns device and inode of the socket file.
fn put_in_place(folder: &Folder, id: InstanceId, socket: BorrowedFd<'_>) -> Result<(u64, u64), Error> {
    let path = || folder.socket(id);
    let name = folder.name(id);
    let fail = |action| {
        move |source: Errno| Error::System { id, path: path(), action, source: io::Error::from(source) }
    };
    match folder.stat(id) {
        Ok(stat) if !is_socket(&stat) => return Err(Error::NotASocket { id, path: path() }),
        Ok(_) => {
            if folder.try_connect(id).map_err(fail("connect to"))? {
                return Err(Error::Answers { id, path: path(), holder: folder.reader(id) });
            }
            match fs::unlinkat(&folder.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => return Err(fail("remove the stale")(source)),
            }
        }
        Err(Errno::NOENT) => {}
        Err(source) => return Err(fail("find")(source)),
    }

    // The file gets the socket's mode less the umask: so it never is open to others, not for a moment.
    fs::fchmod(socket, Mode::RUSR | Mode::WUSR).map_err(fail("set the mode of"))?;
    net::bind(socket, &folder.address(id).map_err(fail("name"))?).map_err(fail("bind"))?;
    hand_over(folder, &name).map_err(|source| {
        let _ = fs::unlinkat(&folder.dir, &name, AtFlags::empty());
        fail(HAND_OVER)(source)
    })
}

/// Gives the socket file just bound to the IOU user, whose routers write to it. Returns its device and inode.
fn hand_over(folder: &Folder, name: &str) -> Result<(u64, u64), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(&folder.dir, name, flags, Mode::empty())?;
    let stat = fs::fstat(&file)?;
    // What is no socket, or has a second name, was put in its place since.
    if !is_socket(&stat) || stat.st_nlink != 1 {
        return Err(Errno::EXIST);
    }
    if stat.st_uid != folder.uid.as_raw() {
        fs::chownat(&file, "", Some(folder.uid), None, AtFlags::EMPTY_PATH)?;
    }
    Ok(key(&stat))
}

impl PseudoSocket {
    /// True while the socket file is still the one that was bound.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.folder.stat(self.id).is_ok_and(|stat| key(&stat) == self.file)
    }

    /// Sends `datagram` to the socket of router `to` in the same folder, without waiting. False if it has none or its
    /// queue is full.
    ///
    /// # Errors
    /// What the system says beside that.
    pub fn send_to(&self, to: InstanceId, datagram: &[u8]) -> Result<bool, Errno> {
        // The very file that was looked at: not what its user has put in its place since.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(&self.folder.dir, self.folder.name(to), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(false),
            file => file?,
        };
        let stat = fs::fstat(&file)?;
        if !is_socket(&stat) || !self.folder.is_own(stat.st_uid) {
            return Ok(false);
        }
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let flags = net::SendFlags::DONTWAIT | net::SendFlags::NOSIGNAL;
        match net::sendto(&self.fd, datagram, flags, &address) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// True while `folder`, which is the lab's now, has the socket file that was bound and its lock file.
    #[must_use]
    pub fn is_whole(&self, folder: &Folder) -> bool {
        folder.stat(self.id).is_ok_and(|stat| key(&stat) == self.file) && self.has_lock(folder)
    }

    fn has_lock(&self, folder: &Folder) -> bool {
        self.lock.as_ref().is_none_or(|lock| lock.is_in(folder.dir.as_fd()))
    }

    /// Takes the lock in `folder` again if its file is gone, and binds one of the `fresh` sockets if the socket's file
    /// is. True if it has another socket now, from which alone is to be read from now on.
    ///
    /// # Errors
    /// As [`bind_pseudo`], but at once. What has been got by then is kept: try again.
    pub fn restore(&mut self, folder: &Folder, fresh: &mut Vec<OwnedFd>) -> Result<bool, Error> {
        if !self.has_lock(folder) {
            self.lock = Some(take_lock(folder, self.id)?);
        }
        if folder.stat(self.id).is_ok_and(|stat| key(&stat) == self.file) {
            return Ok(false);
        }
        let socket = match fresh.pop() {
            Some(socket) => socket,
            None => make_sockets(1)?.0.remove(0),
        };
        match put_in_place(folder, self.id, socket.as_fd()) {
            Ok(file) => {
                (self.fd, self.file, self.folder) = (socket, file, folder.clone());
                Ok(true)
            }
            Err(error) => {
                // One that was bound already is of no more use.
                if !matches!(error, Error::System { action: HAND_OVER, .. }) {
                    fresh.push(socket);
                }
                Err(error)
            }
        }
    }
}

impl Drop for PseudoSocket {
    fn drop(&mut self) {
        if self.is_in_place() {
            // If the rights are gone by now the file stays, and the next run replaces it.
            let _ = fs::unlinkat(&self.folder.dir, self.folder.name(self.id), AtFlags::empty());
        }
    }
}

/// A socket connected to that of router `id`, with room for as much as any queue of the router's takes.
///
/// # Errors
/// [`ConnectError::Absent`] and [`ConnectError::Refused`] if the router does not run; try again when the folder
/// changes.
pub fn connect_router(folder: &Folder, id: InstanceId) -> Result<RouterSocket, ConnectError> {
    let fail = |source| match source {
        Errno::NOENT => ConnectError::Absent,
        Errno::CONNREFUSED => ConnectError::Refused,
        other => ConnectError::Other(other.into()),
    };
    loop {
        let before = folder.stat(id).map_err(fail)?;
        // In a folder with the sticky bit others may make sockets, though not replace any.
        if !folder.is_own(before.st_uid) {
            return Err(ConnectError::Foreign(before.st_uid));
        }
        let fd = datagram_socket().map_err(fail)?;
        if sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER).is_err() {
            // Without CAP_NET_ADMIN: as much as net.core.wmem_max allows.
            sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER).map_err(fail)?;
        }
        net::connect(&fd, &folder.address(id).map_err(fail)?).map_err(fail)?;
        // A router that restarts replaces the file: only if it is the same now, it is the one we reached.
        if folder.stat(id).is_ok_and(|after| key(&after) == key(&before)) {
            return Ok(RouterSocket { fd, inode: before.st_ino });
        }
    }
}

/// Waits for ids in use to become free, for [`PATIENCE`] from the first time.
#[derive(Default)]
struct Patience {
    end: Option<Instant>,
}

impl Patience {
    /// Waits a little, or returns false if it is over.
    fn wait(&mut self) -> bool {
        let end = *self.end.get_or_insert_with(|| Instant::now() + PATIENCE);
        let left = Instant::now() < end;
        if left {
            thread::sleep(LOOK_AGAIN);
        }
        left
    }
}

fn datagram_socket() -> Result<OwnedFd, Errno> {
    net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
}

fn pseudo_sockets(count: usize) -> io::Result<Vec<OwnedFd>> {
    let socket = |_| {
        let socket = datagram_socket()?;
        sys::unix::stamp_arrivals(socket.as_fd())?;
        Ok(socket)
    };
    (0..count).map(socket).collect()
}

/// Where the queue length of sockets to be made is set; each thread is shown its own network namespace's.
const SETTING: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// Makes `count` sockets with deep queues, or, where that is not permitted, with those the system gives, and says so.
///
/// A socket's queue is as deep as `max_dgram_qlen` of the network namespace in which it is made, and works from any
/// other. So a thread makes them in a namespace of its own; the host's setting stays as it is.
fn deep_sockets(count: usize) -> io::Result<(Vec<OwnedFd>, Option<ShortQueue>)> {
    let made = socket_maker().and_then(|maker| {
        let (answer, answers) = channel::bounded(1);
        let ended = |_| "the thread that makes them ended".to_owned();
        maker.send((count, answer)).map_err(|_| ended(channel::RecvError))?;
        answers.recv().map_err(ended)
    });
    match made {
        Ok(sockets) => Ok((sockets?, None)),
        Err(reason) => {
            let setting = std::fs::read_to_string(SETTING).ok().and_then(|s| s.trim().parse::<u32>().ok());
            let warning = ShortQueue { datagrams: setting.unwrap_or(10) + 1, reason };
            Ok((pseudo_sockets(count)?, Some(warning)))
        }
    }
}

/// How many sockets, and where to.
type SocketOrder = (usize, channel::Sender<io::Result<Vec<OwnedFd>>>);

/// The thread that makes deep sockets, one a process. Its namespace takes CAP_SYS_ADMIN, which is given up when all is
/// up; so it is started then, and stays there, without any capability, for sockets that are made again later.
fn socket_maker() -> Result<channel::Sender<SocketOrder>, String> {
    static MAKER: OnceLock<Result<channel::Sender<SocketOrder>, String>> = OnceLock::new();
    let start = || {
        let (orders, received) = channel::unbounded::<SocketOrder>();
        let (ready, settled) = channel::bounded(1);
        let make = move || {
            let prepared = leave_for_deep_queues();
            let in_vain = prepared.is_err();
            let _ = ready.send(prepared);
            if in_vain {
                return;
            }
            for (count, answer) in received {
                let _ = answer.send(pseudo_sockets(count));
            }
        };
        let thread = thread::Builder::new().name("pseudo-sockets".to_owned());
        thread.spawn(make).map_err(|error| error.to_string())?;
        settled.recv().map_err(|error| error.to_string())??;
        Ok(orders)
    };
    MAKER.get_or_init(start).clone()
}

/// Takes the calling thread into a network namespace whose sockets get deep queues, and its other rights away.
fn leave_for_deep_queues() -> Result<(), String> {
    sys::unix::leave_network().map_err(|error| error.to_string())?;
    std::fs::write(SETTING, QUEUE.to_string()).map_err(|error| error.to_string())?;
    privileges::confine(Role::SocketMaker).map_err(|error| error.to_string())
}

/// Raises this process' limit of open files as far as it may; usual are 1024 to begin with, and 524,288 allowed.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // If it fails, opening too many says what is missing.
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// Who besides its owner, root, and the members of this process's own group may remove and replace what is in a folder.
/// With the sticky bit nobody may.
fn open_to(folder: &Stat) -> Option<String> {
    let mode = Mode::from_raw_mode(folder.st_mode);
    let group = folder.st_gid;
    if mode.contains(Mode::SVTX) {
        None
    } else if mode.contains(Mode::WOTH) {
        Some("every user".to_owned())
    } else {
        let foreign = mode.contains(Mode::WGRP) && group != rustix::process::getegid().as_raw();
        foreign.then(|| format!("group {group}"))
    }
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Where netio folders stand beside `path`.
fn base(path: &Path) -> &Path {
    let is_netio = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"netio"));
    path.parent().filter(|_| is_netio).unwrap_or(Path::new("/tmp"))
}

fn also(others: &[OtherFolder]) -> String {
    let one = |OtherFolder { path, uid, sockets }: &OtherFolder| {
        format!("{} ({sockets} sockets; --uid {uid})", path.display())
    };
    match others {
        [] => String::new(),
        others => format!("; other netio folders: {}", others.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

fn who(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or_else(|| "a program".to_owned(), Holder::to_string)
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user of this netio folder, or as root",
        io::ErrorKind::AddrInUse => "; another program bound it just now: end that, and start again",
        _ if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "; raise the limit with ulimit -Hn"
        }
        _ => "",
    }
}

impl fmt::Display for IdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Locked(holder) => write!(f, "its lock is held by {holder}"),
            Self::Answers(holder) => write!(f, "{} answers at its socket", who(holder)),
            Self::Unknown(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for ShortQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { datagrams, reason } = self;
        write!(
            f,
            "pseudo sockets queue {datagrams} datagrams instead of {}, so bursts from routers may be lost or hold them \
             up: no network namespace of their own ({reason}); run as root, or set net.unix.max_dgram_qlen to {QUEUE}",
            QUEUE + 1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn id(n: u16) -> InstanceId {
        InstanceId::new(n).unwrap()
    }

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// Whether this test may do what the product does as root; with less, the tests check what is done then.
    fn may_administer() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
        let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
        [0, 12, 21].iter().all(|capability| effective >> capability & 1 == 1) // CHOWN, NET_ADMIN, SYS_ADMIN
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(&base.path().join(format!("netio{}", me())), me()).unwrap();
        (base, folder)
    }

    fn bind_one(folder: &Folder, n: u16) -> Result<PseudoSocket, Error> {
        bind_pseudo(folder, &[id(n)]).map(|mut bound| bound.sockets.remove(0))
    }

    #[test]
    fn whose_folder() {
        let sudo = |name: &str| (name == "SUDO_UID").then(|| OsString::from("1000"));
        assert_eq!(default_uid(Some(7), sudo, 0).unwrap(), 7);
        assert_eq!(default_uid(None, sudo, 0).unwrap(), 1000);
        assert_eq!(default_uid(None, |_| None, 5).unwrap(), 5);
        assert_eq!(default_uid(Some(7), |_| Some("x".into()), 0).unwrap(), 7);
        assert!(default_uid(None, |_| Some("x".into()), 0).unwrap_err().to_string().contains("\"x\""));
        assert_eq!(default_path(1000), Path::new("/tmp/netio1000"));
    }

    #[test]
    fn a_folder_is_made_for_its_user() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netio1000");
        let opened = Folder::open(&path, 1000);
        if may_administer() {
            let metadata = path.metadata().unwrap();
            assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (0o755, 1000));
            assert_eq!(opened.unwrap().socket(id(5)), path.join("5"));
            Folder::open(&path, 1000).unwrap();
        } else if me() != 1000 {
            assert!(opened.unwrap_err().to_string().contains("cannot hand over"));
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_link_or_a_file_is_no_folder() {
        let base = tempfile::tempdir().unwrap();
        let (real, link, file) =
            (base.path().join("real"), base.path().join("netio1"), base.path().join("netio2"));
        std::fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        for spelling in [link.clone(), link.join(""), link.join(".")] {
            let said = Folder::open(&spelling, me()).unwrap_err().to_string();
            assert!(said.contains("is a symbolic link"), "{spelling:?}: {said}");
        }
        assert!(Folder::open(&file, me()).unwrap_err().to_string().contains("is a file and not a folder"));
        let said = Folder::open(&base.path().join("none/netio1"), me()).unwrap_err().to_string();
        assert!(said.contains("cannot make the netio folder"), "{said}");
    }

    #[test]
    fn another_users_folder_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netio77");
        std::fs::create_dir(&path).unwrap();
        // Of this user, asked for another; root's are taken by everyone, so give it away first.
        let owner = if may_administer() { 4242 } else { me() };
        if may_administer() {
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
        }
        let said = Folder::open(&path, 77).unwrap_err().to_string();
        assert!(said.contains(&format!("belongs to user {owner}, not to user 77")), "{said}");
        assert!(said.contains(&format!("--uid {owner}")), "{said}");
    }

    #[test]
    fn an_empty_folder_names_the_others() {
        let (base, folder) = folder();
        let other = base.path().join("netio424242");
        std::fs::create_dir(&other).unwrap();
        std::fs::create_dir(base.path().join("netiox")).unwrap();
        std::fs::write(base.path().join("netio5"), "").unwrap();
        let sockets = ["1", "2", "x"].map(|name| UnixDatagram::bind(other.join(name)).unwrap());
        std::fs::write(other.join("3"), "").unwrap();

        let found = other_folders(base.path(), folder.path());
        assert_eq!(found, [OtherFolder { path: other.clone(), uid: 424_242, sockets: 2 }]);
        let said = folder.empty_notice().unwrap();
        assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
        assert!(said.contains(&format!("{} (2 sockets; --uid 424242)", other.display())), "{said}");
        let _router = UnixDatagram::bind(folder.socket(id(1))).unwrap();
        assert_eq!(folder.empty_notice(), None);
        drop(sockets);
    }

    #[test]
    fn a_pseudo_socket_is_the_users_alone() {
        let (_base, folder) = folder();
        let folder = if may_administer() {
            std::os::unix::fs::chown(folder.path(), Some(1000), None).unwrap();
            Folder::open(folder.path(), 1000).unwrap()
        } else {
            folder
        };
        let socket = bind_one(&folder, 513).unwrap();
        let metadata = socket.path.symlink_metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(metadata.uid(), folder.uid());
        let lock = folder.path().join("513.lck");
        assert_eq!(lock.metadata().unwrap().uid(), folder.uid());

        let router = UnixDatagram::unbound().unwrap();
        router.send_to(b"frame", folder.socket(id(513))).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&socket.fd, &mut buffer).unwrap(), 5);
        assert_eq!(rustix::io::read(&socket.fd, &mut buffer), Err(Errno::AGAIN));
        assert!(rustix::io::fcntl_getfd(&socket.fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));

        drop(socket);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing stays behind");
    }

    #[test]
    fn arrivals_are_stamped() {
        let (_base, folder) = folder();
        let socket = bind_one(&folder, 513).unwrap();
        assert!(sys::unix::stamps_arrivals(socket.fd.as_fd()));
    }

    /// How many datagrams the socket takes until its queue is full.
    fn depth(folder: &Folder, n: u16) -> u32 {
        let router = connect_router(folder, id(n)).unwrap();
        (0..).find(|_| net::send(&router.fd, b"x", net::SendFlags::empty()) == Err(Errno::AGAIN)).unwrap()
    }

    #[test]
    fn the_queue_is_deep() {
        let (_base, folder) = folder();
        let before = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
        let bound = bind_pseudo(&folder, &[id(513), id(514)]).unwrap();
        let depth = depth(&folder, 514);
        match &bound.warning {
            None => assert_eq!(depth, 4097),
            Some(warning) => {
                assert!(!may_administer(), "{warning}");
                assert_eq!(depth, warning.datagrams);
                assert!(warning.to_string().contains("net.unix.max_dgram_qlen"), "{warning}");
                eprintln!("checked without the rights for deep queues: {warning}");
            }
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap(), before);
    }

    /// On a tmpfs: ext4 is slow (to 2 ms a file) to make files where some were removed within the last five seconds.
    #[test]
    fn a_thousand_sockets_take_no_time() {
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open(&base.path().join("netio1"), me()).unwrap();
        let ids: Vec<_> = (1..=1000).map(id).collect();
        let start = Instant::now();
        let bound = bind_pseudo(&folder, &ids).unwrap();
        let took = start.elapsed();
        assert_eq!(bound.sockets.len(), 1000);
        assert!(took < Duration::from_millis(300), "{took:?}");
        drop(bound);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let (_base, folder) = folder();
        drop(UnixDatagram::bind(folder.socket(id(513))).unwrap());
        std::fs::write(folder.path().join("513.lck"), "4194305\n").unwrap();
        assert_eq!(folder.state(id(513)), IdState::Free);
        let start = Instant::now();
        let socket = bind_one(&folder, 513).unwrap();
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        assert!(answers(&folder, id(513)));
        drop(socket);
        assert!(!answers(&folder, id(513)));
    }

    #[test]
    fn a_router_without_a_lock_is_left_alone() {
        let (_base, folder) = folder();
        let router = UnixDatagram::bind(folder.socket(id(7))).unwrap();
        let this = Some(Holder::new(std::process::id()));
        assert_eq!(folder.state(id(7)), IdState::Answers(this.clone()));
        let start = Instant::now();
        let error = bind_pseudo(&folder, &[id(6), id(7)]).unwrap_err();
        assert!(start.elapsed() >= PATIENCE, "{:?}", start.elapsed());
        assert!(matches!(&error, Error::Answers { holder, .. } if *holder == this), "{error}");
        assert!(error.to_string().contains("pseudo id 7: this process"), "{error}");
        // Neither is anything of the other id left, nor was the router's socket touched.
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        UnixDatagram::unbound().unwrap().send_to(b"x", folder.socket(id(7))).unwrap();
        assert_eq!(router.recv(&mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn an_id_that_becomes_free_is_waited_for() {
        let (_base, folder) = folder();
        let router = UnixDatagram::bind(folder.socket(id(7))).unwrap();
        let dying = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(router);
        });
        assert_eq!(folder.probe()(id(7)), IdState::Free);
        dying.join().unwrap();
        bind_one(&folder, 7).unwrap();
    }

    #[test]
    fn an_id_is_bound_once() {
        let (_base, folder) = folder();
        let _socket = bind_one(&folder, 513).unwrap();
        let this = Holder::new(std::process::id());
        assert_eq!(folder.state(id(513)), IdState::Locked(this));
        let said = bind_one(&folder, 513).unwrap_err().to_string();
        assert!(said.starts_with("pseudo id 513: ") && said.contains("is held by this process"), "{said}");
        assert!(answers(&folder, id(513)), "the first is still there");
    }

    #[test]
    fn other_things_in_place_of_a_socket() {
        let (_base, folder) = folder();
        std::fs::write(folder.socket(id(1)), "text").unwrap();
        assert!(matches!(folder.state(id(1)), IdState::Unknown(_)));
        assert!(bind_one(&folder, 1).unwrap_err().to_string().contains("is no socket"));
        assert_eq!(std::fs::read_to_string(folder.socket(id(1))).unwrap(), "text");

        let router = UnixDatagram::bind(folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", folder.socket(id(2))).unwrap();
        assert!(matches!(folder.state(id(2)), IdState::Unknown(_)));
        assert!(bind_one(&folder, 2).is_err());
        drop(router);

        let _listener = UnixListener::bind(folder.socket(id(3))).unwrap();
        assert!(matches!(folder.state(id(3)), IdState::Answers(_)));
    }

    #[test]
    fn a_socket_that_another_put_in_place_stays() {
        let (_base, folder) = folder();
        let socket = bind_one(&folder, 513).unwrap();
        assert!(socket.is_in_place());
        std::fs::remove_file(&socket.path).unwrap();
        let _other = UnixDatagram::bind(&socket.path).unwrap();
        assert!(!socket.is_in_place());
        drop(socket);
        assert!(answers(&folder, id(513)));
    }

    #[test]
    fn routers_come_and_go() {
        let (_base, folder) = folder();
        let connect = || connect_router(&folder, id(1));
        assert!(matches!(connect(), Err(ConnectError::Absent)));
        let old = UnixDatagram::bind(folder.socket(id(1))).unwrap();
        let to_old = connect().unwrap();
        assert_eq!(Some(to_old.inode), folder.inode(id(1)));
        net::send(&to_old.fd, b"1", net::SendFlags::empty()).unwrap();
        assert_eq!(old.recv(&mut [0; 4]).unwrap(), 1);

        // It restarts while the old process hangs.
        std::fs::remove_file(folder.socket(id(1))).unwrap();
        assert_eq!(folder.inode(id(1)), None);
        let new = UnixDatagram::bind(folder.socket(id(1))).unwrap();
        assert_ne!(Some(to_old.inode), folder.inode(id(1)));
        let to_new = connect().unwrap();
        net::send(&to_new.fd, b"22", net::SendFlags::empty()).unwrap();
        assert_eq!(new.recv(&mut [0; 4]).unwrap(), 2);

        drop(new);
        assert!(matches!(connect(), Err(ConnectError::Refused)));
        assert_eq!(net::send(&to_new.fd, b"3", net::SendFlags::empty()), Err(Errno::CONNREFUSED));
    }

    #[test]
    fn the_way_to_a_router_has_room() {
        let (_base, folder) = folder();
        let _router = UnixDatagram::bind(folder.socket(id(1))).unwrap();
        let socket = connect_router(&folder, id(1)).unwrap();
        let allowed = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap().trim().parse().unwrap();
        let expected = if may_administer() { SEND_BUFFER } else { SEND_BUFFER.min(allowed) };
        // The kernel doubles what it is given, for its bookkeeping (socket(7)).
        assert_eq!(sockopt::socket_send_buffer_size(&socket.fd).unwrap(), 2 * expected);
    }

    #[test]
    fn keepalives_have_a_folder_of_their_own() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netl15");
        assert_eq!(keepalive_path(&base.path().join("netio5"), 7), path);
        assert_eq!(keepalive_path(Path::new("/srv/sockets"), 7), Path::new("/tmp/netl17"));
        assert!(Folder::open_keepalives(&path, me()).unwrap().is_none());
        assert!(!path.exists(), "it is not made");

        std::fs::create_dir(&path).unwrap();
        let folder = Folder::open_keepalives(&path, me()).unwrap().unwrap();
        drop(UnixDatagram::bind(path.join("L1513")).unwrap());
        let socket = bind_keepalives(&folder, id(513)).unwrap();
        assert!(matches!(bind_keepalives(&folder, id(513)), Err(Error::Answers { .. })));
        assert_eq!(path.join("L1513").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        UnixDatagram::unbound().unwrap().send_to(b"12345678", path.join("L1513")).unwrap();
        assert_eq!(rustix::io::read(&socket.fd, &mut [0; 16]).unwrap(), 8);

        assert_eq!(socket.send_to(id(1), b"12345678"), Ok(false));
        let router = UnixDatagram::bind(path.join("L11")).unwrap();
        assert_eq!(socket.send_to(id(1), b"12345678"), Ok(true));
        let (length, from) = router.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((length, from.as_pathname()), (8, Some(path.join("L1513").as_path())));
        // Neither through a link nor to what is no socket.
        symlink("L11", path.join("L12")).unwrap();
        assert!(!socket.send_to(id(2), b"12345678").is_ok_and(|sent| sent));
        std::fs::write(path.join("L13"), "text").unwrap();
        assert_eq!(socket.send_to(id(3), b"12345678"), Ok(false));
        drop(router);
        assert_eq!(socket.send_to(id(1), b"12345678"), Ok(false));

        assert!(socket.is_in_place() && folder.is_in_place());
        std::fs::rename(&path, base.path().join("away")).unwrap();
        assert!(!folder.is_in_place());
        std::fs::rename(base.path().join("away"), &path).unwrap();
        drop(socket);
        assert!(!path.join("L1513").exists());

        let link = base.path().join("netl16");
        symlink(&path, &link).unwrap();
        let said = Folder::open_keepalives(&link, me()).unwrap_err().to_string();
        assert!(said.contains("is no folder, or a symbolic link"), "{said}");
        if may_administer() {
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            let said = Folder::open_keepalives(&path, 77).unwrap_err().to_string();
            assert!(said.contains("belongs to user 4242, not to user 77"), "{said}");
        }
    }

    #[test]
    fn a_long_path_works_too() {
        let base = tempfile::tempdir().unwrap();
        let mut path = base.path().to_owned();
        for _ in 0..3 {
            path.push("x".repeat(100));
            std::fs::create_dir(&path).unwrap();
        }
        let folder = Folder::open(&path.join("netio1"), me()).unwrap();
        assert!(folder.socket(id(1)).as_os_str().len() > 300);
        let socket = bind_one(&folder, 513).unwrap();
        assert!(socket.is_in_place());
        let to_us = connect_router(&folder, id(513)).unwrap();
        net::send(&to_us.fd, b"frame", net::SendFlags::empty()).unwrap();
        assert_eq!(rustix::io::read(&socket.fd, &mut [0; 16]).unwrap(), 5);
        assert!(matches!(folder.state(id(513)), IdState::Locked(_)));
        drop(socket);
        assert_eq!(folder.state(id(513)), IdState::Free);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
