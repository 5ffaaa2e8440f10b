//! The lock file of an instance id, as IOU makes it: `<socket>.lck`, mode 0600, under a POSIX write lock over the
//! whole file, holding `"<pid>\n"`.
//!
//! A file that a killed process left behind is not locked and is taken over. POSIX locks have a trap: a process that
//! closes *any* descriptor of a file loses its locks on it. Hence the list of what this process holds, and nothing
//! here opens a file on that list.

use crate::sys;
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, Uid};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Device and inode of each lock file that this process holds.
static HELD: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// How often a lock file may vanish while it is being taken. Each time a holder ended just then, so one is rare.
const TRIES: usize = 100;

/// A lock that is held. Dropping it removes the file and releases it, in this order, so that no process can
/// lock a file that no longer has a name.
#[derive(Debug)]
pub struct Lock {
    /// `None` only while it is dropped.
    file: Option<OwnedFd>,
    key: (u64, u64),
    directory: Arc<OwnedFd>,
    name: OsString,
}

/// The process that holds a lock or a socket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Holder {
    /// Its pid, unless it is outside this pid namespace (in another container, or on the container's host).
    pub pid: Option<u32>,
    /// Its command, 15 characters at most (`/proc/PID/comm`), if it can be read.
    pub command: Option<String>,
}

/// Why a lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it, or this process has it already.
    #[error("{} is held by {holder}: end that process, or use another id", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process.
        holder: Holder,
    },
    /// Something else has the lock file's name.
    #[error("{} is {what} and not a lock file: look what it is, and move it away", path.display())]
    Foreign {
        /// The lock file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The system refuses.
    #[error("cannot {action} the lock file {}: {source}{}", path.display(), hint(source))]
    System {
        /// The lock file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of the socket `socket`, so the file `<socket>.lck`, for the user `owner`, whom the file is to
    /// belong to.
    ///
    /// # Errors
    /// If it is held, if something else is in its place, or if the system refuses.
    pub fn take(socket: &Path, owner: Uid) -> Result<Self, Error> {
        let (directory, name) = split(socket);
        let directory =
            fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fail =
            |source: Errno| Error::System { path: lock_file(socket), action: "reach", source: source.into() };
        Self::take_in(&Arc::new(directory.map_err(fail)?), socket, name, owner)
    }

    /// [`Lock::take`] for the socket `name` in `directory`; `socket` is its whole path, for messages.
    pub(super) fn take_in(
        directory: &Arc<OwnedFd>,
        socket: &Path,
        name: OsString,
        owner: Uid,
    ) -> Result<Self, Error> {
        let path = lock_file(socket);
        let name = lock_name(name);
        let fail = |action| {
            let path = path.clone();
            move |source: Errno| Error::System { path, action, source: source.into() }
        };
        let held_by = |holder| Err(Error::Held { path: path.clone(), holder });
        let mut held = held();
        for _ in 0..TRIES {
            let Some((file, stat)) = open(directory.as_fd(), &name, &held, true).map_err(fail("open"))?
            else {
                return held_by(Holder::this_process());
            };
            if let Some(what) = foreign(&stat, owner) {
                return Err(Error::Foreign { path, what });
            }
            match fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // POSIX allows both.
                Err(Errno::ACCESS | Errno::AGAIN) => match holder_of(file.as_fd()).map_err(fail("query"))? {
                    Some(holder) => return held_by(holder),
                    None => continue,
                },
                Err(other) => return Err(fail("lock")(other)),
            }
            // The holder before may have removed the file between our open and our lock.
            match fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if key(&named) == key(&stat) => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(other) => return Err(fail("find")(other)),
            }
            held.push(key(&stat));
            let lock = Self { file: Some(file), key: key(&stat), directory: directory.clone(), name };
            // From here on a failure has to let go again, for which `drop` needs the list.
            drop(held);
            let file = lock.file.as_ref().map_or_else(|| directory.as_fd(), OwnedFd::as_fd);
            fill(file, &stat, owner).map_err(fail("write"))?;
            return Ok(lock);
        }
        Err(fail("take")(Errno::BUSY))
    }
}

impl Lock {
    /// True while the lock file in `directory` is the one that is locked.
    pub(super) fn is_in(&self, directory: BorrowedFd<'_>) -> bool {
        let named = fs::statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        named.is_ok_and(|named| key(&named) == self.key)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut held = held();
        if self.is_in(self.directory.as_fd()) {
            // If the rights are gone by now the file stays, and the next one takes it over.
            let _ = fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
        self.file.take();
        held.retain(|key| *key != self.key);
    }
}

/// The process that holds the lock of the socket `socket`, if one does. Creates nothing, and is safe to ask for locks
/// of this process too.
///
/// # Errors
/// If the lock file cannot be read.
pub fn holder(socket: &Path) -> io::Result<Option<Holder>> {
    let (directory, name) = split(socket);
    match fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(directory) => holder_in(directory.as_fd(), name),
        Err(Errno::NOENT) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// [`holder`] for the socket `name` in `directory`.
pub(super) fn holder_in(directory: BorrowedFd<'_>, name: OsString) -> io::Result<Option<Holder>> {
    let held = held();
    match open(directory, &lock_name(name), &held, false) {
        Ok(Some((file, _))) => Ok(holder_of(file.as_fd())?),
        Ok(None) => Ok(Some(Holder::this_process())),
        Err(Errno::NOENT) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

impl Holder {
    /// The process `pid`, with its command if it can be read.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Self { pid: Some(pid), command: command.map(|c| c.trim_end().escape_debug().to_string()) }
    }

    fn this_process() -> Self {
        Self::new(std::process::id())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.command) {
            (None, _) => f.write_str("a process that cannot be seen from here (in another container?)"),
            (Some(pid), _) if pid == std::process::id() => write!(f, "this process ({pid}) itself"),
            (Some(pid), None) => write!(f, "process {pid}"),
            (Some(pid), Some(command)) => write!(f, "process {pid} ({command})"),
        }
    }
}

fn held() -> MutexGuard<'static, Vec<(u64, u64)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Directory and file name of a socket.
fn split(socket: &Path) -> (&Path, OsString) {
    let directory = socket.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (directory, socket.file_name().unwrap_or_default().to_owned())
}

fn lock_name(mut name: OsString) -> OsString {
    name.push(".lck");
    name
}

fn lock_file(socket: &Path) -> PathBuf {
    lock_name(socket.as_os_str().to_owned()).into()
}

/// Opens the lock file, and creates it if it is to be locked. `None` if this process holds it: then it is not opened.
fn open(
    directory: BorrowedFd<'_>,
    name: &OsString,
    held: &[(u64, u64)],
    to_lock: bool,
) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    // Not blocking: a FIFO in its place must not hold us up.
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mode = Mode::RUSR | Mode::WUSR;
    for _ in 0..TRIES {
        let file = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if held.contains(&key(&named)) => return Ok(None),
            Ok(named) if FileType::from_raw_mode(named.st_mode) == FileType::Socket => {
                return Err(Errno::NXIO);
            }
            Ok(_) => {
                let access = if to_lock { OFlags::RDWR } else { OFlags::RDONLY };
                fs::openat(directory, name, flags | access, Mode::empty())
            }
            Err(Errno::NOENT) if to_lock => {
                fs::openat(directory, name, flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)
            }
            Err(other) => return Err(other),
        };
        match file {
            Ok(file) => {
                let stat = fs::fstat(&file)?;
                if held.contains(&key(&stat)) {
                    // A hard link to our own lock file was put here since we looked. Closing it would release the lock.
                    std::mem::forget(file);
                    return Ok(None);
                }
                return Ok(Some((file, stat)));
            }
            // It came or went since we looked.
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) if to_lock => {}
            Err(other) => return Err(other),
        }
    }
    Err(Errno::BUSY)
}

/// What the file is, if it is nothing that IOU or a forwarder made: we are about to write to it, maybe as root, in a
/// directory where another user can put anything.
fn foreign(stat: &Stat, owner: Uid) -> Option<String> {
    let user = stat.st_uid;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => return Some(format!("no plain file ({other:?})")),
    }
    if stat.st_nlink > 1 {
        return Some("a file with a second name (hard link)".to_owned());
    }
    let ours = [owner.as_raw(), 0, rustix::process::geteuid().as_raw()];
    (!ours.contains(&user)).then(|| format!("a file of another user ({user})"))
}

fn fill(file: BorrowedFd<'_>, stat: &Stat, owner: Uid) -> Result<(), Errno> {
    if stat.st_uid != owner.as_raw() {
        fs::fchown(file, Some(owner), None)?;
    }
    fs::fchmod(file, Mode::RUSR | Mode::WUSR)?;
    fs::ftruncate(file, 0)?;
    let text = format!("{}\n", Pid::as_raw(Some(rustix::process::getpid())));
    rustix::io::pwrite(file, text.as_bytes(), 0)?;
    Ok(())
}

fn holder_of(file: BorrowedFd<'_>) -> Result<Option<Holder>, Errno> {
    let pid = sys::lock::holder(file).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(pid.map(|pid| match u32::try_from(pid) {
        Ok(pid @ 1..) => Holder::new(pid),
        _ => Holder { pid: None, command: None },
    }))
}

fn hint(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::ACCESS | Errno::PERM) => "; run as the user of this netio directory, or as root",
        Some(Errno::LOOP) => "; it is a symbolic link: look where it leads, and remove it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    const ROLE: &str = "IOU_FAST_TEST_LOCK";

    fn me() -> Uid {
        rustix::process::geteuid()
    }

    fn take(socket: &Path) -> Result<Lock, Error> {
        Lock::take(socket, me())
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("513");
        (directory, socket)
    }

    /// In the process that [`other_process`] started: takes the lock and keeps it until standard input ends.
    fn play_the_holder() -> bool {
        let Some(socket) = std::env::var_os(ROLE) else { return false };
        let _lock = take(Path::new(&socket)).unwrap();
        println!("\nheld");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        true
    }

    /// Another process that holds the lock: this test program again, with `test` alone, which has to call
    /// [`play_the_holder`].
    fn other_process(test: &str, socket: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("iou::lock::tests::{test}"), "--exact", "--nocapture"])
            .env(ROLE, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|l| l == "held"), "the other process did not get the lock");
        child
    }

    #[test]
    fn the_file_is_as_iou_makes_it() {
        let (_directory, socket) = directory();
        let lock = take(&socket).unwrap();
        let file = lock_file(&socket);
        assert_eq!(file.file_name().unwrap(), "513.lck");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}\n", std::process::id()));
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(metadata.uid(), me().as_raw());
        drop(lock);
        assert!(!file.exists());
    }

    #[test]
    fn two_processes_contend() {
        if play_the_holder() {
            return;
        }
        let (_directory, socket) = directory();
        let mut other = other_process("two_processes_contend", &socket);

        let seen = holder(&socket).unwrap().unwrap();
        assert_eq!(seen.pid, Some(other.id()));
        let said = take(&socket).unwrap_err().to_string();
        assert!(said.contains(&format!("513.lck is held by process {} (", other.id())), "{said}");
        assert!(said.contains(seen.command.as_deref().unwrap()), "{said}");
        assert!(lock_file(&socket).exists(), "a refused try must not remove it");

        other.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(other.wait().unwrap().success());
        assert_eq!(holder(&socket).unwrap(), None);
        take(&socket).unwrap();
    }

    #[test]
    fn a_killed_process_leaves_a_file_that_is_taken_over() {
        if play_the_holder() {
            return;
        }
        let (_directory, socket) = directory();
        let mut other = other_process("a_killed_process_leaves_a_file_that_is_taken_over", &socket);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(std::fs::read_to_string(lock_file(&socket)).unwrap(), format!("{}\n", other.id()));
        assert_eq!(holder(&socket).unwrap(), None);
        let _lock = take(&socket).unwrap();
        let text = std::fs::read_to_string(lock_file(&socket)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    /// Asking for a lock of this process, or trying to take it twice, must not let it go: another process sees it.
    #[test]
    fn a_lock_survives_questions_about_it() {
        if let Some(socket) = std::env::var_os(ROLE) {
            let pid = holder(Path::new(&socket)).unwrap().and_then(|h| h.pid);
            println!("\nheld by {pid:?}");
            return;
        }
        let (_directory, socket) = directory();
        let _lock = take(&socket).unwrap();
        assert_eq!(holder(&socket).unwrap().unwrap().pid, Some(std::process::id()));
        let said = take(&socket).unwrap_err().to_string();
        assert!(said.contains("held by this process"), "{said}");
        let link = socket.with_file_name("514.lck");
        std::fs::hard_link(lock_file(&socket), &link).unwrap();
        assert_eq!(holder(&socket.with_file_name("514")).unwrap().unwrap().pid, Some(std::process::id()));

        let output = Command::new(std::env::current_exe().unwrap())
            .args(["iou::lock::tests::a_lock_survives_questions_about_it", "--exact", "--nocapture"])
            .env(ROLE, &socket)
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(output.contains(&format!("held by Some({})", std::process::id())), "{output}");
    }

    #[test]
    fn asking_creates_nothing() {
        let (directory, socket) = directory();
        assert_eq!(holder(&socket).unwrap(), None);
        assert_eq!(holder(&directory.path().join("absent/513")).unwrap(), None);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    /// Many threads take and drop the same lock: at no time do two have it, and no one gets stuck.
    #[test]
    fn one_at_a_time() {
        let (_directory, socket) = directory();
        let taken = AtomicBool::new(false);
        let contend = || {
            let mut rounds = 0;
            while rounds < 50 {
                match take(&socket) {
                    Ok(lock) => {
                        assert!(!taken.swap(true, Ordering::SeqCst));
                        thread::yield_now();
                        taken.store(false, Ordering::SeqCst);
                        drop(lock);
                        rounds += 1;
                    }
                    Err(Error::Held { .. }) => thread::sleep(Duration::from_micros(50)),
                    Err(other) => panic!("{other}"),
                }
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(contend))));
    }

    /// The same among processes, where a holder's unlink can fall between another's open and lock.
    #[test]
    fn one_process_at_a_time() {
        let round = |socket: &Path| match take(socket) {
            Ok(lock) => {
                // Whoever holds the lock is alone with this file, so it is always there to be made and removed.
                let alone = socket.with_extension("alone");
                std::fs::File::create_new(&alone).unwrap();
                std::fs::remove_file(&alone).unwrap();
                drop(lock);
                true
            }
            Err(Error::Held { .. }) => false,
            Err(other) => panic!("{other}"),
        };
        if let Some(socket) = std::env::var_os(ROLE) {
            let socket = Path::new(&socket);
            while socket.with_extension("go").exists() {
                round(socket);
            }
            return;
        }
        let (_directory, socket) = directory();
        let go = socket.with_extension("go");
        std::fs::write(&go, "").unwrap();
        let start = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["iou::lock::tests::one_process_at_a_time", "--exact"])
                .env(ROLE, &socket)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let others = [start(), start()];
        let end = std::time::Instant::now() + Duration::from_millis(400);
        let mut won = 0;
        while std::time::Instant::now() < end {
            won += usize::from(round(&socket));
        }
        std::fs::remove_file(&go).unwrap();
        for other in others {
            let output = other.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        assert!(won > 0);
    }

    #[test]
    fn nothing_else_is_taken_for_a_lock_file() {
        let (directory, socket) = directory();
        let file = lock_file(&socket);
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();

        symlink(&victim, &file).unwrap();
        assert!(take(&socket).unwrap_err().to_string().contains("symbolic link"));
        assert!(holder(&socket).is_err());
        std::fs::remove_file(&file).unwrap();

        std::fs::hard_link(&victim, &file).unwrap();
        assert!(take(&socket).unwrap_err().to_string().contains("second name"));
        std::fs::remove_file(&file).unwrap();

        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        assert!(take(&socket).unwrap_err().to_string().contains("no plain file"));
        std::fs::remove_file(&file).unwrap();

        std::fs::create_dir(&file).unwrap();
        assert!(take(&socket).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_file_of_another_user_is_left_alone() {
        let stat = fs::statat(fs::CWD, "/proc/version", AtFlags::empty()).unwrap();
        let mut other = stat;
        other.st_uid = 4242;
        assert!(foreign(&other, Uid::from_raw(1000)).unwrap().contains("another user (4242)"));
        assert_eq!(foreign(&other, Uid::from_raw(4242)), None);
        assert_eq!(foreign(&stat, Uid::from_raw(1000)), None, "a stale file of root's");
    }

    #[test]
    fn a_directory_that_is_not_there() {
        let said = take(Path::new("/proc/none/513")).unwrap_err().to_string();
        assert!(said.contains("/proc/none/513.lck"), "{said}");
    }
}
