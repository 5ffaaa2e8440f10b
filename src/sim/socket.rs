//! A router's socket in the netio directory, as IOU makes it: a lock file, a bound datagram socket with the kernel's
//! own queue length, nothing connected.

use super::Error;
use crate::iou::InstanceId;
use crate::iou::lock::Lock;
use rustix::process::geteuid;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The bound socket `<directory>/<id>` and its lock `<directory>/<id>.lck`. Both files go with it.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
    inode: Option<(u64, u64)>,
    // Declared last: the lock is released when everything else is gone.
    _lock: Lock,
}

impl Socket {
    pub(super) fn bind(directory: &Path, id: InstanceId) -> Result<Self, Error> {
        let path = directory.join(id.to_string());
        let lock = Lock::take(&path, geteuid())?;
        let failed = |source| Error::Bind { path: path.clone(), source };
        // Under the lock a file that is there was left behind by a router that was killed.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let inode = inode(fs::metadata(&path));
        Ok(Self { socket, path, inode, _lock: lock })
    }

    /// The next datagram's length, put into `buffer`; `WouldBlock` when there is none.
    pub(super) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer)
    }

    /// Sends by path, each time anew, as IOU does: whoever is bound there now gets it.
    pub(super) fn send(&self, datagram: &[u8], to: &SocketAddr) -> io::Result<usize> {
        self.socket.send_to_addr(datagram, to)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        unlink_own(&self.path, self.inode);
    }
}

pub(super) fn inode(metadata: io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    metadata.ok().map(|m| (m.dev(), m.ino()))
}

/// Removes `path` unless another file took its place: a restarted router's must stay.
pub(super) fn unlink_own(path: &Path, own: Option<(u64, u64)>) {
    if own.is_some() && inode(fs::metadata(path)) == own {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_and_lock_as_iou_leaves_them() {
        let directory = tempfile::tempdir().unwrap();
        let id = InstanceId::new(7).unwrap();
        let (path, lock) = (directory.path().join("7"), directory.path().join("7.lck"));
        // What a killed router leaves behind.
        drop(UnixDatagram::bind(&path).unwrap());
        fs::write(&lock, "999999999\n and more").unwrap();

        let socket = Socket::bind(directory.path(), id).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
        UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
        drop(socket);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_lock_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let _socket = Socket::bind(directory.path(), InstanceId::new(7).unwrap()).unwrap();
        assert_eq!(fs::metadata(directory.path().join("7.lck")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn files_of_a_successor_stay() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::bind(directory.path(), InstanceId::new(7).unwrap()).unwrap();
        let path = directory.path().join("7");
        fs::remove_file(&path).unwrap();
        let _successor = UnixDatagram::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
