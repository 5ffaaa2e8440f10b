use crate::command::require_root;
use crate::error::{Context, Result};
use crate::sys;
use crate::wait::readable;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketAddrUnix, sendto};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Header and frame.
pub type Datagram = ([u8; 8], Vec<u8>);

/// How long [`Router::send`] waits while the queue is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a [`Router`].
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// `net.unix.max_dgram_qlen` when it makes its socket: its queue holds one datagram more. 10 is the kernel's
    /// default and what routers have outside the first namespace of a systemd machine.
    pub max_dgram_qlen: u32,
    /// Takes the lock file as a router does. The lock ends as soon as this process closes any descriptor of that file,
    /// so read the file in another process only.
    pub lock: bool,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self { max_dgram_qlen: 10, lock: false }
    }
}

/// The socket side of an IOU router without a router behind it: a test decides what it sends and reads what it receives.
///
/// A router that is not read is one that hangs: its queue fills. Dropping it stands for an exit: its files are removed
/// unless a successor has replaced them.
#[derive(Debug)]
pub struct Router {
    socket: UnixDatagram,
    path: PathBuf,
    inode: u64,
    lock: Option<(File, PathBuf)>,
    buffer: Vec<u8>,
    receives: bool,
}

impl Router {
    /// Router `id` in `directory`, with the defaults of [`RouterOptions`].
    ///
    /// # Errors
    /// As [`Router::with`].
    pub fn new(directory: &Path, id: u16) -> Result<Self> {
        Self::with(directory, id, &RouterOptions::default())
    }

    /// Router `id` in `directory`. A socket file that is there already is replaced, as when a router restarts.
    ///
    /// # Errors
    /// Without root (which the queue's depth needs), if the directory cannot be written or another process holds the lock.
    pub fn with(directory: &Path, id: u16, options: &RouterOptions) -> Result<Self> {
        require_root()?;
        let path = directory.join(id.to_string());
        let lock = if options.lock { Some(lock(directory.join(format!("{id}.lck")))?) } else { None };
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => bind(&path, options.max_dgram_qlen),
        }
        .and_then(|socket| {
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            let inode = fs::metadata(&path)?.ino();
            let buffer = vec![0; 1 << 17];
            Ok(Self { socket, inode, lock, buffer, path: path.clone(), receives: true })
        })
        .context(|| format!("cannot make the socket of router {id}, {}", path.display()))
    }

    /// Sends a datagram to the socket of `pseudo` in the same directory, by path as routers do. Sleeps while its queue is
    /// full, 5 s at most.
    ///
    /// # Errors
    /// If there is no such socket, no process has it open, or its queue is full for 5 s.
    pub fn send(&self, pseudo: u16, header: [u8; 8], frame: &[u8]) -> Result<()> {
        self.send_raw(pseudo, &[&header[..], frame].concat())
            .context(|| format!("{} cannot send to {pseudo}", self.path.display()))
    }

    /// Sends any bytes as a datagram, valid or not.
    ///
    /// # Errors
    /// The system's error, `WouldBlock` if the queue was full for 5 s.
    pub fn send_raw(&self, pseudo: u16, datagram: &[u8]) -> io::Result<()> {
        let path = self.path.with_file_name(pseudo.to_string());
        loop {
            match self.socket.send_to(datagram, &path) {
                // A sleep with a time limit, which the kernel ends for reasons of its own too.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Sends any bytes as a datagram without waiting; false if the queue is full or no process has the socket open.
    ///
    /// # Errors
    /// Any other error of the system.
    pub fn try_send(&self, pseudo: u16, datagram: &[u8]) -> io::Result<bool> {
        let to = SocketAddrUnix::new(self.path.with_file_name(pseudo.to_string()))?;
        match sendto(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes no more datagrams: a sender gets an error from now on. Datagrams in the queue can still be read.
    ///
    /// # Errors
    /// The system's error.
    pub fn stop_receiving(&mut self) -> io::Result<()> {
        self.receives = false;
        self.socket.shutdown(Shutdown::Read)
    }

    /// The next datagram, or `None` if none comes within `timeout`.
    ///
    /// # Panics
    /// If the datagram is shorter than a header, because iou-fast must not send such a one.
    pub fn recv(&mut self, timeout: Duration) -> Option<Datagram> {
        if !readable(&self.socket, Instant::now() + timeout) {
            return None;
        }
        let len = self.socket.recv(&mut self.buffer).expect("a router's socket can be read");
        if len == 0 && !self.receives {
            return None;
        }
        let datagram = &self.buffer[..len];
        let header = *datagram.first_chunk().unwrap_or_else(|| panic!("a datagram of {len} bytes"));
        Some((header, datagram[8..].to_vec()))
    }

    /// The next datagram that `wanted` accepts; others before it are discarded.
    pub fn recv_where(
        &mut self,
        timeout: Duration,
        wanted: impl Fn(&[u8; 8], &[u8]) -> bool,
    ) -> Option<Datagram> {
        let end = Instant::now() + timeout;
        loop {
            let (header, frame) = self.recv(end.saturating_duration_since(Instant::now()))?;
            if wanted(&header, &frame) {
                return Some((header, frame));
            }
        }
    }

    /// Discards the datagrams that have arrived so far and returns their number.
    pub fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.recv(Duration::ZERO)).count()
    }

    /// The path of its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends as a killed router does: its files stay behind, and no process has its socket open.
    pub fn crash(mut self) {
        self.lock = None;
        self.inode = 0;
    }
}

impl AsFd for Router {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some((_, path)) = &self.lock {
            // Before the file is closed, because that releases the lock.
            let _ = fs::remove_file(path);
        }
    }
}

/// A socket whose queue holds `qlen` + 1 datagrams. The kernel reads the depth from the network namespace in which a socket
/// is made. Paths of sockets are independent of network namespaces.
fn bind(path: &Path, qlen: u32) -> io::Result<UnixDatagram> {
    let on_thread = || {
        sys::unshare_network()?;
        fs::write("/proc/sys/net/unix/max_dgram_qlen", qlen.to_string())?;
        UnixDatagram::bind(path)
    };
    std::thread::scope(|scope| scope.spawn(on_thread).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The lock file as IOU keeps it: locked over its whole length, holding the pid.
fn lock(path: PathBuf) -> Result<(File, PathBuf)> {
    let take = || {
        let mut file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok::<_, io::Error>(file)
    };
    let file = take().context(|| format!("cannot lock {}", path.display()))?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 8] = [2, 1, 0, 1, 0, 0, 1, 0];
    const SOON: Duration = Duration::from_secs(2);

    #[test]
    fn header_and_frame_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let (one, mut two) = (Router::new(dir.path(), 1).unwrap(), Router::new(dir.path(), 2).unwrap());
        one.send(2, HEADER, b"frame").unwrap();
        one.send(2, HEADER, b"other").unwrap();
        one.send(2, HEADER, b"third").unwrap();
        assert_eq!(two.recv(SOON), Some((HEADER, b"frame".to_vec())));
        assert_eq!(two.recv_where(SOON, |_, frame| frame == b"third").unwrap().1, b"third");
        assert_eq!(two.recv(Duration::from_millis(10)), None);
        assert!(one.send(3, HEADER, b"").unwrap_err().to_string().contains("to 3"));
    }

    #[test]
    fn a_router_that_stopped_receiving_can_be_drained() {
        let dir = tempfile::tempdir().unwrap();
        let (one, mut two) = (Router::new(dir.path(), 1).unwrap(), Router::new(dir.path(), 2).unwrap());
        assert!(one.try_send(2, &HEADER).unwrap());
        two.stop_receiving().unwrap();
        assert!(one.try_send(2, &HEADER).is_err());
        assert_eq!((two.drain(), two.drain()), (1, 0));
        drop(two);
        assert!(!one.try_send(2, &HEADER).unwrap());
        let full = (0..1000).take_while(|_| one.try_send(1, &HEADER).unwrap()).count();
        assert!((11..1000).contains(&full), "{full}");
    }

    #[test]
    fn the_queue_is_as_deep_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let before = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
        for (id, qlen) in [(1, 10), (2, 300)] {
            let options = RouterOptions { max_dgram_qlen: qlen, lock: false };
            let mut router = Router::with(dir.path(), id, &options).unwrap();
            // One sender per datagram, because a sender's own buffer holds some 280 datagrams.
            let send = || {
                let sender = UnixDatagram::unbound()?;
                sender.set_nonblocking(true)?;
                sender.send_to(&HEADER, router.path())
            };
            let taken = (0..1000).take_while(|_| send().is_ok()).count();
            assert_eq!(taken, qlen as usize + 1);
            assert_eq!(router.drain(), taken);
        }
        assert_eq!(fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap(), before);
    }

    #[test]
    fn a_successor_replaces_it_and_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, old) = (Router::new(dir.path(), 9).unwrap(), Router::new(dir.path(), 1).unwrap());
        let mut new = Router::new(dir.path(), 1).unwrap();
        drop(old);
        sender.send(1, HEADER, b"new").unwrap();
        assert_eq!(new.recv(SOON).unwrap().1, b"new");
        let path = new.path().to_owned();
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn a_crashed_router_leaves_its_files_behind() {
        let dir = tempfile::tempdir().unwrap();
        let options = RouterOptions { lock: true, ..RouterOptions::default() };
        let router = Router::with(dir.path(), 5, &options).unwrap();
        let lock = dir.path().join("5.lck");
        // Only another process sees the lock, and closing the file in this one would release it.
        let holder = crate::run("cat", [&lock]).unwrap().stdout;
        assert_eq!(String::from_utf8(holder).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        let take_lock =
            "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)";
        let free = |held: &str| crate::run("python3", ["-c", held, lock.to_str().unwrap()]).is_ok();
        assert!(!free(take_lock));
        router.crash();
        assert!(lock.exists() && dir.path().join("5").exists());
        assert!(free(take_lock));
        let again = Router::with(dir.path(), 5, &options).unwrap();
        drop(again);
        assert!(!lock.exists() && !dir.path().join("5").exists());
    }
}
