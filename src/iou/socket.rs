//! The Unix datagram sockets in a [directory](super::netio::Directory): ours, bound under the pseudo ids, and those of the routers.

use super::InstanceId;
use super::lock::{self, Holder, Lock};
use super::netio::{Directory, Patience, is_socket, key, who};
use super::queue::{ShortQueue, datagram_socket, deep_sockets};
use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{self, sockopt};
use rustix::process::{Resource, Rlimit};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Bytes that may wait in one router's queue: more than a queue of the usual 512 datagrams of one chunk (4 kB, twice
/// that with the kernel's bookkeeping) holds. With the default of 212,992 the 94th full frame blocks.
const SEND_BUFFER: usize = 8 << 20;

/// What [`Error::System`] says if a socket was bound, but cannot be given to the user.
const HAND_OVER: &str = "hand over to the IOU user";

/// Why a pseudo socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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

/// Why a router cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It has no socket: it does not run.
    #[error("the router has no socket")]
    Absent,
    /// Its socket is there but no process reads it: the router was killed, or is about to start.
    #[error("no process reads the router's socket")]
    Refused,
    /// Another user put it there.
    #[error("its socket belongs to user {0}, who is neither the routers' user nor root: remove it")]
    Foreign(u32),
    /// The system refuses.
    #[error("cannot connect to the router's socket: {0}")]
    Other(io::Error),
}

/// The pseudo sockets of a lab.
#[derive(Debug)]
pub struct Bound {
    /// One per id, in the order asked for.
    pub sockets: Vec<PseudoSocket>,
    /// Set if their queues are short.
    pub warning: Option<ShortQueue>,
}

/// A bound pseudo socket with its lock. Dropping it removes the socket file, unless that is another's by now, and
/// releases the lock.
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
    directory: Directory,
    /// Let go after the file is removed. For keepalives there is none: the one for frames is ours already.
    lock: Option<Lock>,
}

/// A socket connected to a router's.
#[derive(Debug)]
pub struct RouterSocket {
    /// The socket: datagrams, non-blocking, not bound.
    pub fd: OwnedFd,
    /// The inode of the router's socket file. While [`Directory::inode`] gives another, a new process stands under the
    /// router's id and this socket still leads to the old one.
    pub inode: u64,
}

/// Binds a pseudo socket for each of `ids`: takes its lock, replaces what a killed run left, refuses what is in use.
///
/// An id that is in use is given a second to become free, all together, so that starting again right after a kill
/// works. The process' limit of open files is raised as far as allowed: every id takes two.
///
/// # Errors
/// If one of the ids is in use or the system refuses. Then none is bound.
pub fn bind_pseudo(directory: &Directory, ids: &[InstanceId]) -> Result<Bound, Error> {
    raise_file_limit();
    let (fds, warning) = make_sockets(ids.len())?;
    let mut patience = Patience::default();
    let mut sockets = Vec::with_capacity(ids.len());
    for (&id, fd) in ids.iter().zip(fds) {
        let (lock, file) = loop {
            match bind(directory, id, fd.as_fd()) {
                Err(Error::Answers { .. } | Error::Lock { source: lock::Error::Held { .. }, .. })
                    if patience.wait() => {}
                result => break result?,
            }
        };
        let path = directory.socket(id);
        sockets.push(PseudoSocket { id, fd, path, file, directory: directory.clone(), lock: Some(lock) });
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
fn bind(directory: &Directory, id: InstanceId, socket: BorrowedFd<'_>) -> Result<(Lock, (u64, u64)), Error> {
    let lock = take_lock(directory, id)?;
    Ok((lock, put_in_place(directory, id, socket)?))
}

fn take_lock(directory: &Directory, id: InstanceId) -> Result<Lock, Error> {
    let lock = Lock::take_in(&directory.dir, &directory.socket(id), directory.name(id).into(), directory.uid);
    lock.map_err(|source| Error::Lock { id, source })
}

/// Binds the socket on which routers' L1 keepalives for pseudo id `id` arrive, whose lock in the netio directory is ours. Its
/// queue is deep, too: many routers may be behind one id, and wait for room in it.
///
/// # Errors
/// As [`bind_pseudo`], without patience.
pub fn bind_keepalives(directory: &Directory, id: InstanceId) -> Result<PseudoSocket, Error> {
    // Where their queues are short, that is said of those for frames.
    let fd = make_sockets(1)?.0.remove(0);
    let file = put_in_place(directory, id, fd.as_fd())?;
    Ok(PseudoSocket { id, fd, path: directory.socket(id), file, directory: directory.clone(), lock: None })
}

/// Binds `socket`, whose id no other process may use. Returns device and inode of the socket file.
fn put_in_place(directory: &Directory, id: InstanceId, socket: BorrowedFd<'_>) -> Result<(u64, u64), Error> {
    let path = || directory.socket(id);
    let name = directory.name(id);
    let fail = |action| {
        move |source: Errno| Error::System { id, path: path(), action, source: io::Error::from(source) }
    };
    match directory.stat(id) {
        Ok(stat) if !is_socket(&stat) => return Err(Error::NotASocket { id, path: path() }),
        Ok(_) => {
            if directory.try_connect(id).map_err(fail("connect to"))? {
                return Err(Error::Answers { id, path: path(), holder: directory.reader(id) });
            }
            match fs::unlinkat(&directory.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => return Err(fail("remove the stale")(source)),
            }
        }
        Err(Errno::NOENT) => {}
        Err(source) => return Err(fail("find")(source)),
    }

    // The file gets the socket's mode less the umask: so it never is open to others, not for a moment.
    fs::fchmod(socket, Mode::RUSR | Mode::WUSR).map_err(fail("set the mode of"))?;
    net::bind(socket, &directory.address(id).map_err(fail("name"))?).map_err(fail("bind"))?;
    hand_over(directory, id).map_err(|source| {
        let _ = fs::unlinkat(&directory.dir, &name, AtFlags::empty());
        fail(HAND_OVER)(source)
    })
}

/// Gives the socket file just bound to the IOU user, whose routers write to it. Returns its device and inode.
fn hand_over(directory: &Directory, id: InstanceId) -> Result<(u64, u64), Errno> {
    let file = directory.file(id)?;
    // What is no socket, or has a second name, was put in its place since.
    if !is_socket(&file.stat) || file.stat.st_nlink != 1 {
        return Err(Errno::EXIST);
    }
    if file.stat.st_uid != directory.uid.as_raw() {
        fs::chownat(&file.fd, "", Some(directory.uid), None, AtFlags::EMPTY_PATH)?;
    }
    Ok(key(&file.stat))
}

impl PseudoSocket {
    /// True while the socket file is still the one that was bound.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.directory.stat(self.id).is_ok_and(|stat| key(&stat) == self.file)
    }

    /// Sends `datagram` to the socket of router `to` in the same directory, without waiting. False if it has none or its
    /// queue is full.
    ///
    /// # Errors
    /// What the system says beside that.
    pub fn send_to(&self, to: InstanceId, datagram: &[u8]) -> Result<bool, Errno> {
        let file = match self.directory.file(to) {
            Err(Errno::NOENT) => return Ok(false),
            file => file?,
        };
        if !is_socket(&file.stat) || !self.directory.is_own(file.stat.st_uid) {
            return Ok(false);
        }
        let address = file.address()?;
        let flags = net::SendFlags::DONTWAIT | net::SendFlags::NOSIGNAL;
        match net::sendto(&self.fd, datagram, flags, &address) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// True while `directory`, which is the lab's now, has the socket file that was bound and its lock file.
    #[must_use]
    pub fn is_whole(&self, directory: &Directory) -> bool {
        directory.stat(self.id).is_ok_and(|stat| key(&stat) == self.file) && self.has_lock(directory)
    }

    fn has_lock(&self, directory: &Directory) -> bool {
        self.lock.as_ref().is_none_or(|lock| lock.is_in(directory.dir.as_fd()))
    }

    /// Takes the lock in `directory` again if its file is gone, and binds one of the `fresh` sockets if the socket's file
    /// is. True if it has another socket now, from which alone is to be read from now on.
    ///
    /// # Errors
    /// As [`bind_pseudo`], but at once. What has been got by then is kept: try again.
    pub fn restore(&mut self, directory: &Directory, fresh: &mut Vec<OwnedFd>) -> Result<bool, Error> {
        if !self.has_lock(directory) {
            self.lock = Some(take_lock(directory, self.id)?);
        }
        if directory.stat(self.id).is_ok_and(|stat| key(&stat) == self.file) {
            return Ok(false);
        }
        let socket = match fresh.pop() {
            Some(socket) => socket,
            None => make_sockets(1)?.0.remove(0),
        };
        match put_in_place(directory, self.id, socket.as_fd()) {
            Ok(file) => {
                (self.fd, self.file, self.directory) = (socket, file, directory.clone());
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
            let _ = fs::unlinkat(&self.directory.dir, self.directory.name(self.id), AtFlags::empty());
        }
    }
}

/// A socket connected to that of router `id`, with room for as much as any queue of the router's takes.
///
/// # Errors
/// [`ConnectError::Absent`] and [`ConnectError::Refused`] if the router does not run; try again when the directory
/// changes.
pub fn connect_router(directory: &Directory, id: InstanceId) -> Result<RouterSocket, ConnectError> {
    let fail = |source| match source {
        Errno::NOENT => ConnectError::Absent,
        Errno::CONNREFUSED => ConnectError::Refused,
        other => ConnectError::Other(other.into()),
    };
    let file = directory.file(id).map_err(fail)?;
    if !is_socket(&file.stat) {
        return Err(ConnectError::Refused);
    }
    // In a directory with the sticky bit others may make sockets, though not replace any.
    if !directory.is_own(file.stat.st_uid) {
        return Err(ConnectError::Foreign(file.stat.st_uid));
    }
    let fd = datagram_socket().map_err(fail)?;
    if sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER).is_err() {
        // Without CAP_NET_ADMIN: as much as net.core.wmem_max allows.
        sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER).map_err(fail)?;
    }
    net::connect(&fd, &file.address().map_err(fail)?).map_err(fail)?;
    Ok(RouterSocket { fd, inode: file.stat.st_ino })
}

/// Raises this process' limit of open files as far as it may; usual are 1024 to begin with, and 524,288 allowed.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // If it fails, opening too many says what is missing.
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user of this netio directory, or as root",
        io::ErrorKind::AddrInUse => "; another program bound it just now: end that, and start again",
        _ if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "; raise the limit with ulimit -Hn"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::netio::{IdState, PATIENCE, answers, keepalive_path};
    use super::super::testing::{directory, id, may_administer, me};
    use super::*;
    use crate::sys;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::path::Path;
    use std::thread;
    use std::time::{Duration, Instant};

    fn bind_one(directory: &Directory, n: u16) -> Result<PseudoSocket, Error> {
        bind_pseudo(directory, &[id(n)]).map(|mut bound| bound.sockets.remove(0))
    }

    #[test]
    fn a_pseudo_socket_is_the_users_alone() {
        let (_base, directory) = directory();
        let directory = if may_administer() {
            std::os::unix::fs::chown(directory.path(), Some(1000), None).unwrap();
            Directory::open(directory.path(), 1000).unwrap()
        } else {
            directory
        };
        let socket = bind_one(&directory, 513).unwrap();
        let metadata = socket.path.symlink_metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(metadata.uid(), directory.uid());
        let lock = directory.path().join("513.lck");
        assert_eq!(lock.metadata().unwrap().uid(), directory.uid());

        let router = UnixDatagram::unbound().unwrap();
        router.send_to(b"frame", directory.socket(id(513))).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&socket.fd, &mut buffer).unwrap(), 5);
        assert_eq!(rustix::io::read(&socket.fd, &mut buffer), Err(Errno::AGAIN));
        assert!(rustix::io::fcntl_getfd(&socket.fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));

        drop(socket);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing stays behind");
    }

    #[test]
    fn arrivals_are_stamped() {
        let (_base, directory) = directory();
        let socket = bind_one(&directory, 513).unwrap();
        assert!(sys::unix::stamps_arrivals(socket.fd.as_fd()));
    }

    /// How many datagrams the socket takes until its queue is full.
    fn depth(directory: &Directory, n: u16) -> u32 {
        let router = connect_router(directory, id(n)).unwrap();
        (0..).find(|_| net::send(&router.fd, b"x", net::SendFlags::empty()) == Err(Errno::AGAIN)).unwrap()
    }

    #[test]
    fn the_queue_is_deep() {
        let (_base, directory) = directory();
        let before = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
        let bound = bind_pseudo(&directory, &[id(513), id(514)]).unwrap();
        let depth = depth(&directory, 514);
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
        let directory = Directory::open(&base.path().join("netio1"), me()).unwrap();
        let ids: Vec<_> = (1..=1000).map(id).collect();
        let start = Instant::now();
        let bound = bind_pseudo(&directory, &ids).unwrap();
        let took = start.elapsed();
        assert_eq!(bound.sockets.len(), 1000);
        assert!(took < Duration::from_millis(300), "{took:?}");
        drop(bound);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let (_base, directory) = directory();
        drop(UnixDatagram::bind(directory.socket(id(513))).unwrap());
        std::fs::write(directory.path().join("513.lck"), "4194305\n").unwrap();
        assert_eq!(directory.state(id(513)), IdState::Free);
        let start = Instant::now();
        let socket = bind_one(&directory, 513).unwrap();
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        assert!(answers(&directory, id(513)));
        drop(socket);
        assert!(!answers(&directory, id(513)));
    }

    #[test]
    fn a_router_without_a_lock_is_left_alone() {
        let (_base, directory) = directory();
        let router = UnixDatagram::bind(directory.socket(id(7))).unwrap();
        let this = Some(Holder::new(std::process::id()));
        assert_eq!(directory.state(id(7)), IdState::Answers(this.clone()));
        let start = Instant::now();
        let error = bind_pseudo(&directory, &[id(6), id(7)]).unwrap_err();
        assert!(start.elapsed() >= PATIENCE, "{:?}", start.elapsed());
        assert!(matches!(&error, Error::Answers { holder, .. } if *holder == this), "{error}");
        assert!(error.to_string().contains("pseudo id 7: this process"), "{error}");
        // Neither is anything of the other id left, nor was the router's socket touched.
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
        UnixDatagram::unbound().unwrap().send_to(b"x", directory.socket(id(7))).unwrap();
        assert_eq!(router.recv(&mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn an_id_that_becomes_free_is_waited_for() {
        let (_base, directory) = directory();
        let router = UnixDatagram::bind(directory.socket(id(7))).unwrap();
        let dying = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(router);
        });
        assert_eq!(directory.probe()(id(7)), IdState::Free);
        dying.join().unwrap();
        bind_one(&directory, 7).unwrap();
    }

    #[test]
    fn an_id_is_bound_once() {
        let (_base, directory) = directory();
        let _socket = bind_one(&directory, 513).unwrap();
        let this = Holder::new(std::process::id());
        assert_eq!(directory.state(id(513)), IdState::Locked(this));
        let said = bind_one(&directory, 513).unwrap_err().to_string();
        assert!(said.starts_with("pseudo id 513: ") && said.contains("is held by this process"), "{said}");
        assert!(answers(&directory, id(513)), "the first is still there");
    }

    #[test]
    fn other_things_in_place_of_a_socket() {
        let (_base, directory) = directory();
        std::fs::write(directory.socket(id(1)), "text").unwrap();
        assert!(matches!(directory.state(id(1)), IdState::Unknown(_)));
        assert!(bind_one(&directory, 1).unwrap_err().to_string().contains("is no socket"));
        assert_eq!(std::fs::read_to_string(directory.socket(id(1))).unwrap(), "text");

        let router = UnixDatagram::bind(directory.path().join("elsewhere")).unwrap();
        symlink("elsewhere", directory.socket(id(2))).unwrap();
        assert!(matches!(directory.state(id(2)), IdState::Unknown(_)));
        assert!(bind_one(&directory, 2).is_err());
        drop(router);

        let _listener = UnixListener::bind(directory.socket(id(3))).unwrap();
        assert!(matches!(directory.state(id(3)), IdState::Answers(_)));
    }

    #[test]
    fn a_socket_that_another_put_in_place_stays() {
        let (_base, directory) = directory();
        let socket = bind_one(&directory, 513).unwrap();
        assert!(socket.is_in_place());
        std::fs::remove_file(&socket.path).unwrap();
        let _other = UnixDatagram::bind(&socket.path).unwrap();
        assert!(!socket.is_in_place());
        drop(socket);
        assert!(answers(&directory, id(513)));
    }

    #[test]
    fn routers_come_and_go() {
        let (_base, directory) = directory();
        let connect = || connect_router(&directory, id(1));
        assert!(matches!(connect(), Err(ConnectError::Absent)));
        let old = UnixDatagram::bind(directory.socket(id(1))).unwrap();
        let to_old = connect().unwrap();
        assert_eq!(Some(to_old.inode), directory.inode(id(1)));
        net::send(&to_old.fd, b"1", net::SendFlags::empty()).unwrap();
        assert_eq!(old.recv(&mut [0; 4]).unwrap(), 1);

        // It restarts while the old process hangs.
        std::fs::remove_file(directory.socket(id(1))).unwrap();
        assert_eq!(directory.inode(id(1)), None);
        let new = UnixDatagram::bind(directory.socket(id(1))).unwrap();
        assert_ne!(Some(to_old.inode), directory.inode(id(1)));
        let to_new = connect().unwrap();
        net::send(&to_new.fd, b"22", net::SendFlags::empty()).unwrap();
        assert_eq!(new.recv(&mut [0; 4]).unwrap(), 2);

        drop(new);
        assert!(matches!(connect(), Err(ConnectError::Refused)));
        assert_eq!(net::send(&to_new.fd, b"3", net::SendFlags::empty()), Err(Errno::CONNREFUSED));
    }

    #[test]
    fn the_send_buffer_of_a_router_socket_is_deep() {
        let (_base, directory) = directory();
        let _router = UnixDatagram::bind(directory.socket(id(1))).unwrap();
        let socket = connect_router(&directory, id(1)).unwrap();
        let allowed = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap().trim().parse().unwrap();
        let expected = if may_administer() { SEND_BUFFER } else { SEND_BUFFER.min(allowed) };
        // The kernel doubles what it is given, for its bookkeeping (socket(7)).
        assert_eq!(sockopt::socket_send_buffer_size(&socket.fd).unwrap(), 2 * expected);
    }

    #[test]
    fn keepalives_have_a_directory_of_their_own() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("netl15");
        assert_eq!(keepalive_path(&base.path().join("netio5"), 7), path);
        assert_eq!(keepalive_path(Path::new("/srv/sockets"), 7), Path::new("/tmp/netl17"));
        assert!(Directory::open_keepalives(&path, me()).unwrap().is_none());
        assert!(!path.exists(), "it is not made");

        std::fs::create_dir(&path).unwrap();
        let directory = Directory::open_keepalives(&path, me()).unwrap().unwrap();
        drop(UnixDatagram::bind(path.join("L1513")).unwrap());
        let socket = bind_keepalives(&directory, id(513)).unwrap();
        assert!(matches!(bind_keepalives(&directory, id(513)), Err(Error::Answers { .. })));
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

        assert!(socket.is_in_place() && directory.is_in_place());
        std::fs::rename(&path, base.path().join("away")).unwrap();
        assert!(!directory.is_in_place());
        std::fs::rename(base.path().join("away"), &path).unwrap();
        drop(socket);
        assert!(!path.join("L1513").exists());

        let link = base.path().join("netl16");
        symlink(&path, &link).unwrap();
        let said = Directory::open_keepalives(&link, me()).unwrap_err().to_string();
        assert!(said.contains("is no directory, or a symbolic link"), "{said}");
        if may_administer() {
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            let said = Directory::open_keepalives(&path, 77).unwrap_err().to_string();
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
        let directory = Directory::open(&path.join("netio1"), me()).unwrap();
        assert!(directory.socket(id(1)).as_os_str().len() > 300);
        let socket = bind_one(&directory, 513).unwrap();
        assert!(socket.is_in_place());
        let to_us = connect_router(&directory, id(513)).unwrap();
        net::send(&to_us.fd, b"frame", net::SendFlags::empty()).unwrap();
        assert_eq!(rustix::io::read(&socket.fd, &mut [0; 16]).unwrap(), 5);
        assert!(matches!(directory.state(id(513)), IdState::Locked(_)));
        drop(socket);
        assert_eq!(directory.state(id(513)), IdState::Free);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
