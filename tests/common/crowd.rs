//! Many routers at once: router n is `n:0/0` opposite pseudo instance 512 + n, interface 0/0, and numbered frames
//! to and from each.

use super::{BROADCAST, Scene, header, is_test_frame, plain, router_mac};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testbed::{Process, Router, Station, wait_until};

/// A crowd's reader sleeps until something comes; this often it looks who hangs and who reads again.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Source address of the station on the wire.
pub const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// What the kernel's queues between the two namespaces hold for sure.
const BURST: usize = 32;
/// A pause after each burst: 80,000 frames a second at most.
const PACE: Duration = Duration::from_micros(400);

/// The NETMAP of routers 1 to `routers`.
pub fn classroom(routers: u16) -> String {
    (1..=routers).map(|n| format!("{n}:0/0 {}:0/0\n", 512 + n)).collect()
}

/// The `-p` that goes with it.
pub fn pseudo_ids(routers: u16) -> String {
    format!("513-{}", 512 + routers)
}

/// Frame `seq` from the wire to router `id`.
pub fn to_router(id: u16, seq: u64) -> Vec<u8> {
    plain(router_mac(id, 0, 0), STATION, 64, seq)
}

/// Frame `seq` from the wire to everybody.
pub fn to_all(seq: u64) -> Vec<u8> {
    plain(BROADCAST, STATION, 64, seq)
}

/// Sends frame `seq` from router `id` to the station.
pub fn from_router(router: &Router, id: u16, seq: u64) {
    let bytes = plain(STATION, router_mac(id, 0, 0), 64, seq);
    router.send(512 + id, header(512 + id, 0, id, 0), &bytes).unwrap();
}

/// Sends `frames` no faster than the kernel's own queues take them.
pub fn send_paced(station: &Station, frames: &[Vec<u8>]) {
    for burst in frames.chunks(BURST) {
        station.send_batch(burst).unwrap();
        std::thread::sleep(PACE);
    }
}

/// The number of a test's frame; `None` for what the kernel has to say. Panics if it is not whole.
pub fn number(frame: &[u8]) -> Option<u64> {
    is_test_frame(frame).then(|| testbed::frame::check(frame).unwrap().seq)
}

/// Frames that got lost between the two namespaces, before iou-fast could see them.
pub fn lost_on_the_wire(scene: &Scene) -> u64 {
    let paths = ["/sys/class/net/eth0/statistics/tx_dropped"];
    let text = scene.wire.run("cat", paths).unwrap().stdout;
    String::from_utf8(text).unwrap().split_whitespace().map(|number| number.parse::<u64>().unwrap()).sum()
}

/// No single frame may take longer, however busy the machine.
pub const WAIT: Duration = Duration::from_secs(5);

/// Sends a frame to each of `ids` every millisecond while `meanwhile` runs; returns how many each was sent.
pub fn while_frames_flow<T>(
    station: &Station,
    ids: std::ops::RangeInclusive<u16>,
    meanwhile: impl FnOnce() -> T,
) -> (u64, T) {
    let (end, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Relaxed) {
                let seq = sent.fetch_add(1, Relaxed);
                let frames: Vec<_> = ids.clone().map(|id| to_router(id, seq)).collect();
                station.send_batch(&frames).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        // Also when it panics: the sender must end for the scope to.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        end.store(true, Relaxed);
        result
    });
    (sent.into_inner(), result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Waits until frames reach router `id`, and reads those that were on their way.
pub fn wait_until_connected(station: &Station, router: &mut Router, id: u16) {
    let reached = wait_until(WAIT, || {
        station.send(&to_router(id, u64::MAX)).unwrap();
        router.recv_where(Duration::from_millis(5), |_, frame| number(frame).is_some()).is_some()
    });
    assert!(reached, "router {id} gets nothing");
    while router.recv(Duration::from_millis(100)).is_some() {}
}

/// The same for all of a crowd; returns how many frames each has got by then.
pub fn wait_until_all_connected(station: &Station, crowd: &Crowd, routers: u16) -> Vec<usize> {
    let reached = wait_until(WAIT, || {
        for id in (1..=routers).filter(|id| crowd.count(*id) == 0) {
            station.send(&to_router(id, u64::MAX)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
        (1..=routers).all(|id| crowd.count(id) > 0)
    });
    assert!(reached, "not every router gets frames");
    std::thread::sleep(Duration::from_millis(100));
    (1..=routers).map(|id| crowd.numbers(id).len()).collect()
}

/// The middle one.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The share of one CPU that a process used over the next `time`.
pub fn cpu_share(process: &Process, time: Duration) -> f64 {
    let start = Instant::now();
    let before: u64 = thread_times(process).iter().map(|(_, ns)| ns).sum();
    std::thread::sleep(time);
    let after: u64 = thread_times(process).iter().map(|(_, ns)| ns).sum();
    (after - before) as f64 / start.elapsed().as_nanos() as f64
}

/// Name and CPU time (ns) of each thread.
pub fn thread_times(process: &Process) -> Vec<(String, u64)> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let mut times = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap() {
        let task = task.unwrap().path();
        let time = read(task.join("schedstat"));
        let time = time.split_whitespace().next().unwrap().parse().unwrap();
        times.push((read(task.join("comm")).trim().to_string(), time));
    }
    times.sort();
    times
}

/// How long all threads of a process together have waited for a CPU, ns.
pub fn waiting_time(process: &Process) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).into_iter().flatten().flatten();
    let wait = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    tasks.filter_map(wait).sum()
}

/// A broadcast or multicast frame or one for the router, its number, and when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    /// When.
    pub at: Instant,
    /// Its number.
    pub seq: u64,
    /// To everybody.
    pub bum: bool,
}

/// What a router of a crowd is doing and has got.
#[derive(Default)]
struct Member {
    stopped: AtomicBool,
    count: AtomicU64,
    got: Mutex<Vec<Got>>,
}

/// Routers 1 to n, which a thread reads.
pub struct Crowd {
    members: Arc<Vec<Member>>,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<Vec<Router>>>,
    thread: i32,
}

impl Crowd {
    /// Reads `routers`, of which the first has id 1, and so on.
    pub fn read(mut routers: Vec<Router>) -> Self {
        let members: Arc<Vec<Member>> = Arc::new(routers.iter().map(|_| Member::default()).collect());
        let end = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (members.clone(), end.clone());
        let (tell, told) = std::sync::mpsc::channel();
        let read = move || {
            tell.send(rustix::thread::gettid().as_raw_pid()).unwrap();
            while !ended.load(Relaxed) {
                let reads = |n: &usize| !shared[*n].stopped.load(Relaxed);
                let reading: Vec<usize> = (0..routers.len()).filter(reads).collect();
                let mut polled: Vec<PollFd<'_>> =
                    reading.iter().map(|n| PollFd::new(&routers[*n], PollFlags::IN)).collect();
                // A signal is no event.
                let _ = poll(&mut polled, Some(&LOOK));
                let ready: Vec<usize> = reading
                    .into_iter()
                    .zip(&polled)
                    .filter_map(|(n, polled)| polled.revents().contains(PollFlags::IN).then_some(n))
                    .collect();
                for n in ready.into_iter().filter(reads) {
                    shared[n].read(&mut routers[n]);
                }
            }
            routers
        };
        let reader = std::thread::spawn(read);
        Self { members, end, reader: Some(reader), thread: told.recv().unwrap() }
    }

    /// Id of the thread that reads.
    pub fn thread(&self) -> i32 {
        self.thread
    }

    /// Starts routers 1 to `routers` and reads them.
    pub fn new(scene: &Scene, routers: u16) -> Self {
        Self::read((1..=routers).map(|id| Router::new(&scene.netio(), id).unwrap()).collect())
    }

    /// Router `id` hangs from now on: it reads nothing.
    pub fn hang(&self, id: u16) {
        self.member(id).stopped.store(true, Relaxed);
    }

    /// It reads again.
    pub fn resume(&self, id: u16) {
        self.member(id).stopped.store(false, Relaxed);
    }

    /// What router `id` has got so far.
    pub fn got(&self, id: u16) -> Vec<Got> {
        self.member(id).got.lock().unwrap().clone()
    }

    /// The numbers of the frames to router `id` alone.
    pub fn numbers(&self, id: u16) -> Vec<u64> {
        self.got(id).iter().filter(|got| !got.bum).map(|got| got.seq).collect()
    }

    /// How many frames router `id` has got so far.
    pub fn count(&self, id: u16) -> u64 {
        self.member(id).count.load(Relaxed)
    }

    /// Waits until router `id` has got `count` frames; false if that takes more than 10 s.
    pub fn wait(&self, id: u16, count: u64) -> bool {
        wait_until(super::SOON, || self.count(id) >= count)
    }

    /// Sends `frames` to routers of this crowd as fast as those that read can: however slow the machine is just now,
    /// no ring of iou-fast's overflows.
    pub fn send(&self, station: &Station, frames: &[Vec<u8>]) {
        /// Frames on their way; an RX ring takes 2048, and some are for routers that do not read.
        const ON_THEIR_WAY: u64 = 256;
        let reads = |member: &&Member| !member.stopped.load(Relaxed);
        let counted =
            || self.members.iter().filter(reads).map(|member| member.count.load(Relaxed)).sum::<u64>();
        let (before, mut sent) = (counted(), 0);
        for burst in frames.chunks(BURST) {
            send_paced(station, burst);
            let to_reader = |frame: &&Vec<u8>| {
                let id = usize::from(u16::from_be_bytes([frame[3], frame[4]]));
                self.members.get(id - 1).is_some_and(|member| reads(&member))
            };
            sent += burst.iter().filter(to_reader).count() as u64;
            // If it never happens, some are lost, and the test will see which.
            let _ = wait_until(super::SOON, || before + sent <= counted() + ON_THEIR_WAY);
        }
    }

    /// Ends the reading and gives the routers back.
    pub fn routers(mut self) -> Vec<Router> {
        self.end.store(true, Relaxed);
        self.reader.take().unwrap().join().unwrap()
    }

    fn member(&self, id: u16) -> &Member {
        &self.members[usize::from(id) - 1]
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(reader) = self.reader.take() {
            // A panic of its own has been printed.
            let _ = reader.join();
        }
    }
}

impl Member {
    /// Takes what waits.
    fn read(&self, router: &mut Router) {
        // A bounded share, so that none is kept waiting.
        for _ in 0..32 {
            let Some((_, frame)) = router.recv(Duration::ZERO) else { break };
            if let Some(seq) = number(&frame) {
                let got = Got { at: Instant::now(), seq, bum: frame[0] & 1 == 1 };
                self.got.lock().unwrap().push(got);
                self.count.fetch_add(1, Relaxed);
            }
        }
    }
}
