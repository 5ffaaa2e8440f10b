//! Standard output and standard error, for which no thread waits: a terminal may be held by ^S or gone, a pipe not read or
//! closed, a disk full. One thread per stream writes what the others hand over. What does not fit into its queue is
//! dropped, and the log says how much that was as soon as it takes lines again.
//!
//! Until [`start`] each thread writes itself.

use crate::privileges::{self, Role};
use crossbeam::channel;
use rustix::io::Errno;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Bytes that wait to be written at most: some two thousand lines.
const ROOM: usize = 256 << 10;
/// At the end a reader that reads nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is printed stands behind what was logged before, if that is read within this time.
const IN_ORDER: Duration = Duration::from_millis(300);
/// Bytes written at once: a serial console at 9600 baud takes half a second, within any reader's patience.
const PIECE: usize = 512;
/// How often a thread that waits looks again.
const LOOK: Duration = Duration::from_millis(1);
/// How long until a descriptor that another process has set to "do not block" is tried again.
const AGAIN: Duration = Duration::from_millis(50);

static LOG: OnceLock<Outlet> = OnceLock::new();
static OUT: OnceLock<Outlet> = OnceLock::new();

/// From now on threads write. `missing` is the line that says how many log lines could not be written. Call it after
/// [`privileges::drop_privileges`], which needs the process to have one thread.
///
/// # Errors
/// What the system says, or the [confinement](privileges::confine) of a thread.
pub fn start(missing: fn(u64) -> String) -> io::Result<()> {
    let log = Outlet::start("log", io::stderr().as_fd().try_clone_to_owned()?, missing, || {})?;
    let first_the_log = || finish_one(&LOG, IN_ORDER);
    let out = Outlet::start(
        "output",
        io::stdout().as_fd().try_clone_to_owned()?,
        |_| String::new(),
        first_the_log,
    )?;
    let _ = (LOG.set(log), OUT.set(out));
    Ok(())
}

/// Writes `text` to standard error.
pub fn log(text: &str) {
    match LOG.get() {
        Some(log) => log.put(text.as_bytes()),
        // There is no other place to report that it cannot be written.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Writes `text` to standard output.
pub fn print(text: &str) {
    match OUT.get() {
        Some(out) => out.put(text.as_bytes()),
        None => drop(io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())),
    }
}

/// Waits until all is written, or nothing has been read for a second.
pub fn finish() {
    finish_one(&LOG, PATIENCE);
    finish_one(&OUT, PATIENCE);
}

fn finish_one(outlet: &OnceLock<Outlet>, patience: Duration) {
    if let Some(outlet) = outlet.get() {
        outlet.finish(patience);
    }
}

/// [Finishes](finish) when it is dropped, also by a panic.
#[derive(Debug)]
pub struct Finish;

impl Drop for Finish {
    fn drop(&mut self) {
        finish();
    }
}

/// A writer that hands what is written to [`log`].
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        log(&String::from_utf8_lossy(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Something to write.
struct Text {
    /// How many before it did not fit.
    missing: u64,
    bytes: Vec<u8>,
}

/// A descriptor with the thread that writes to it.
struct Outlet {
    texts: channel::Sender<Text>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes handed over and not yet written or dropped.
    waiting: AtomicUsize,
    /// Texts that did not fit and that no later one counts yet.
    missing: AtomicU64,
}

impl Outlet {
    /// Starts the thread. `missing` says that so many texts are missing, `before` is done before each is written.
    fn start(name: &'static str, fd: OwnedFd, missing: fn(u64) -> String, before: fn()) -> io::Result<Self> {
        let (texts, received) = channel::unbounded::<Text>();
        let (ready, confined) = channel::bounded(1);
        let state = Arc::<State>::default();
        let mut writer = Writer { fd, missing, state: state.clone(), lost: 0, torn: false };
        let write = move || {
            let result = privileges::confine(Role::Output);
            let in_vain = result.is_err();
            let _ = ready.send(result);
            if in_vain {
                return;
            }
            for text in &received {
                before();
                writer.lost += text.missing;
                writer.write(&text.bytes);
                if received.is_empty() {
                    // Nothing later tells of these.
                    writer.lost += writer.state.missing.swap(0, Ordering::Relaxed);
                    writer.tell();
                }
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(write)?;
        confined.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Self { texts, state })
    }

    /// Hands `bytes` over, if they fit into the queue. Never waits.
    fn put(&self, bytes: &[u8]) {
        let State { waiting, missing } = &*self.state;
        let before = waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        // What is larger than the queue passes alone.
        if before > 0 && before + bytes.len() > ROOM {
            waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            missing.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let text = Text { missing: missing.swap(0, Ordering::Relaxed), bytes: bytes.to_vec() };
        let _ = self.texts.send(text);
    }

    /// Waits until all is written, but no longer than `patience` in which nothing is.
    fn finish(&self, patience: Duration) {
        let mut before = usize::MAX;
        let mut since = Instant::now();
        loop {
            let waiting = self.state.waiting.load(Ordering::Acquire);
            if waiting == 0 {
                return;
            }
            if waiting < before {
                since = Instant::now();
            } else if since.elapsed() > patience {
                return;
            }
            before = waiting;
            std::thread::sleep(LOOK);
        }
    }
}

/// The thread's side.
struct Writer {
    fd: OwnedFd,
    missing: fn(u64) -> String,
    state: Arc<State>,
    /// Texts that could not be written, of which nothing tells yet.
    lost: u64,
    /// What was written last ends in the midst of a line.
    torn: bool,
}

impl Writer {
    /// Writes `text`, after a word on what is missing before it.
    fn write(&mut self, text: &[u8]) {
        self.tell();
        let rest = self.pass(text, |state, written| {
            state.waiting.fetch_sub(written, Ordering::Release);
        });
        if rest > 0 {
            self.lost += 1;
            self.state.waiting.fetch_sub(rest, Ordering::Release);
        }
    }

    /// Says what is missing, if anything is.
    fn tell(&mut self) {
        if self.lost > 0 {
            let note = (self.missing)(self.lost);
            if self.pass(note.as_bytes(), |_, _| {}) == 0 {
                self.lost = 0;
            }
        }
    }

    /// Writes `text` on a line of its own, and tells `taken` of each part. Returns how many bytes of it cannot be written.
    fn pass(&mut self, text: &[u8], taken: fn(&State, usize)) -> usize {
        let mut rest = text;
        while !rest.is_empty() {
            // After a text of which a part alone was written.
            let newline = self.torn && rest.len() == text.len();
            match rustix::io::write(&self.fd, if newline { b"\n" } else { &rest[..rest.len().min(PIECE)] }) {
                Ok(_) if newline => self.torn = false,
                Ok(written) => {
                    taken(&self.state, written);
                    self.torn = rest[..written].last().map_or(self.torn, |last| *last != b'\n');
                    rest = &rest[written..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => std::thread::sleep(AGAIN),
                Err(_) => break,
            }
        }
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::Read;

    fn note(lines: u64) -> String {
        format!("{lines} missing\n")
    }

    fn writer(fd: OwnedFd) -> Writer {
        Writer { fd, missing: note, state: Arc::default(), lost: 0, torn: false }
    }

    /// What can be read at once.
    fn read(pipe: &OwnedFd) -> String {
        let mut bytes = [0; 1 << 16];
        let read = rustix::io::read(pipe, &mut bytes).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    #[test]
    fn output_that_a_full_disk_did_not_take_is_counted_when_it_takes_some_again() {
        let full = || OwnedFd::from(File::options().write(true).open("/dev/full").unwrap());
        let mut writer = writer(full());
        for text in ["one\n", "two\n"] {
            writer.state.waiting.fetch_add(text.len(), Ordering::Relaxed);
            writer.write(text.as_bytes());
        }
        assert_eq!((writer.lost, writer.state.waiting.load(Ordering::Relaxed)), (2, 0));
        let (reader, pipe) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        writer.fd = pipe;
        for text in ["three\n", "four\n"] {
            writer.state.waiting.fetch_add(text.len(), Ordering::Relaxed);
            writer.write(text.as_bytes());
        }
        assert_eq!(read(&reader), "2 missing\nthree\nfour\n");
        assert_eq!((writer.lost, writer.state.waiting.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn after_half_a_line_the_next_one_begins_anew() {
        let (reader, pipe) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut writer = writer(pipe);
        writer.state.waiting.store(100, Ordering::Relaxed);
        writer.write(b"half a li");
        writer.tell();
        writer.lost = 1;
        writer.write(b"whole\n");
        assert_eq!(read(&reader), "half a li\n1 missing\nwhole\n");
    }

    /// Promise `log-dropped`.
    #[test]
    fn output_is_handed_over_without_waiting_and_the_end_waits_a_bounded_time() {
        let (reader, pipe) = pipe_with(PipeFlags::empty()).unwrap();
        // Confined as in the program: the thread alone is.
        let outlet = Outlet::start("log", pipe, note, || {}).unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let start = Instant::now();
        // The pipe has room for 64 KiB, the outlet for four times as much.
        let lines = 10 * ROOM / line.len();
        (0..lines).for_each(|_| outlet.put(&line));
        let taken = start.elapsed();
        assert!(taken < PATIENCE, "{taken:?}");
        assert!(outlet.state.waiting.load(Ordering::Relaxed) <= ROOM);
        outlet.finish(Duration::from_millis(50));
        assert!(outlet.state.waiting.load(Ordering::Relaxed) > ROOM / 2);

        // It is read again: everything that was kept comes, and how much was not.
        let mut reader = File::from(reader);
        // There may have been some room in between, and then a word on what had been lost by then.
        let count = |said: &str| -> (usize, usize) {
            let notes = said.lines().filter_map(|line| line.strip_suffix(" missing"));
            let missing = notes.clone().map(|missing| missing.parse::<usize>().unwrap()).sum();
            (said.lines().count() - notes.count(), missing)
        };
        let read = std::thread::spawn(move || {
            let mut said = String::new();
            let mut bytes = [0; 4096];
            while !said.ends_with('\n') || count(&said).0 + count(&said).1 < lines {
                let read = reader.read(&mut bytes).unwrap();
                said.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            count(&said)
        });
        outlet.finish(Duration::from_secs(10));
        assert_eq!(outlet.state.waiting.load(Ordering::Relaxed), 0);
        let (kept, missing) = read.join().unwrap();
        assert_eq!(kept + missing, lines);
        assert!((ROOM / line.len()..lines).contains(&kept), "{kept}");
    }

    #[test]
    fn a_descriptor_that_does_not_block_loses_nothing() {
        let (reader, pipe) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let outlet = Outlet::start("log", pipe, note, || {}).unwrap();
        let text = b"0123456789\n".repeat(20_000);
        outlet.put(&text);
        let mut length = 0;
        while length < text.len() {
            length += read(&reader).len();
        }
        outlet.finish(PATIENCE);
        assert_eq!((length, outlet.state.waiting.load(Ordering::Relaxed)), (text.len(), 0));
    }

    /// Promise `log-blocked`.
    #[test]
    fn output_waits_for_a_slow_reader() {
        let (reader, pipe) = pipe_with(PipeFlags::empty()).unwrap();
        let outlet = Outlet::start("log", pipe, note, || {}).unwrap();
        outlet.put(&b"0123456789\n".repeat(20_000));
        let slow = std::thread::spawn(move || {
            let mut bytes = [0; 1 << 14];
            let mut length = 0;
            while length < 220_000 {
                std::thread::sleep(Duration::from_millis(20));
                length += rustix::io::read(&reader, &mut bytes).unwrap();
            }
        });
        // Longer than its patience in all.
        outlet.finish(Duration::from_millis(200));
        assert_eq!(outlet.state.waiting.load(Ordering::Relaxed), 0);
        slow.join().unwrap();
    }
}
