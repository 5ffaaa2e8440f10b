//! Routers come and go: their sockets are connected when they appear, again when they are replaced, and handed to
//! the workers.
//!
//! A netio directory is watched by inotify; one that is removed or replaced is followed to its successor. A router that
//! restarts makes a new socket file while the old process may still have the old socket: a connected socket then goes on
//! sending to the old one. So files are told apart by inode.

use crate::iou::InstanceId;
use crate::iou::netio::Directory;
use crate::iou::socket::{ConnectError, connect_router};
use crate::plan::Plan;
use crate::worker::{Command, CommandSender, RouterSocket};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A socket file is there a moment before its socket can be connected: it is tried again after 1 ms, 2 ms, ...
/// up to this.
const LAST_RETRY: Duration = Duration::from_millis(64);

/// How long a directory may be gone before it is made again: others, a router for one, may want to make it themselves.
const MAKE_AFTER: Duration = Duration::from_secs(1);
/// While it is gone, this often it is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What a directory's watch tells of. ATTRIB: a router that changes its socket's mode after bind is tried again then.
fn events() -> WatchFlags {
    let files = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ATTRIB;
    files | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR
}

/// No descriptors are left, to this process or to all.
fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|full| errno == Some(full.raw_os_error()))
}
/// What happened in a directory is read in portions of so many events.
const EVENTS: usize = 1024;

/// The routers' sockets.
pub(super) struct Connections {
    directories: Vec<Watched>,
    routers: Vec<Router>,
    retries: Vec<Retry>,
    /// A router could not be connected for want of descriptors: reported once for all.
    exhausted: bool,
    /// That was so in this sweep, too.
    still_exhausted: bool,
}

struct Watched {
    /// The name of its lab.
    name: String,
    directory: Directory,
    inotify: OwnedFd,
    /// The number of the watch on it; `None` if it could not be set: then the sweep finds what changes.
    watch: Option<i32>,
    names: HashMap<Vec<u8>, Name>,
    /// It may no longer be the one of its path.
    doubted: bool,
    /// Since when it is not.
    gone: Option<Instant>,
    /// When to look for its successor.
    next_look: Instant,
    /// What stands in the way; reported.
    trouble: Option<String>,
}

/// Whose a file in a netio directory is.
#[derive(Clone, Copy)]
enum Name {
    Router(usize),
    Ours,
}

struct Router {
    lab: usize,
    id: InstanceId,
    /// The NETMAP has it.
    live: bool,
    /// Inode of the socket file that the workers' sockets are connected to.
    connected: Option<u64>,
    /// Number of that connection: counts up, so that news of an older one are known as such.
    connection: u64,
    /// A new file was made since. It may have the inode number of the one before: ext4 hands a number that became
    /// free out again at once.
    renewed: bool,
    /// An odd error is reported once.
    reported: bool,
}

struct Retry {
    router: usize,
    due: Instant,
    delay: Duration,
}

impl Connections {
    /// Watches the netio directories of the lab called `name`.
    pub(super) fn new(plan: &Plan, directories: Vec<Directory>, name: &str) -> io::Result<Self> {
        let mut watched = Vec::new();
        for directory in directories {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let watch = Some(directory.watch(inotify.as_fd(), events())?);
            let names = HashMap::new();
            let now = Instant::now();
            watched.push(Watched {
                name: name.to_owned(),
                directory,
                inotify,
                watch,
                names,
                doubted: false,
                gone: None,
                next_look: now,
                trouble: None,
            });
        }
        let mut connections = Self {
            directories: watched,
            routers: Vec::new(),
            retries: Vec::new(),
            exhausted: false,
            still_exhausted: false,
        };
        connections.follow_plan(plan);
        Ok(connections)
    }

    /// Goes over to another plan. New routers are connected by [`connect_all`](Self::connect_all); of those that it has no
    /// more the workers know already.
    pub(super) fn follow_plan(&mut self, plan: &Plan) {
        for (index, router) in plan.routers.iter().enumerate() {
            if index == self.routers.len() {
                self.routers.push(Router {
                    lab: router.lab,
                    id: router.id,
                    live: true,
                    connected: None,
                    connection: 0,
                    renewed: false,
                    reported: false,
                });
            }
            let known = &mut self.routers[index];
            known.live = router.live;
            if !router.live {
                (known.connected, known.renewed, known.reported) = (None, false, false);
            }
        }
        self.retries.retain(|retry| self.routers[retry.router].live);
        for (lab, watched) in self.directories.iter_mut().enumerate() {
            watched.names.clear();
            for pseudo in plan.pseudos.iter().filter(|pseudo| pseudo.lab == lab && pseudo.live) {
                let name = pseudo.id.to_string();
                watched.names.insert(format!("{name}.lck").into_bytes(), Name::Ours);
                watched.names.insert(name.into_bytes(), Name::Ours);
            }
            let routers = self.routers.iter().enumerate();
            for (index, router) in routers.filter(|(_, router)| router.lab == lab && router.live) {
                watched.names.insert(router.id.to_string().into_bytes(), Name::Router(index));
            }
        }
    }

    /// How many routers have sockets that we are connected to, and how many the NETMAP has.
    pub(super) fn count(&self) -> (usize, usize) {
        let live = || self.routers.iter().filter(|router| router.live);
        (live().filter(|router| router.connected.is_some()).count(), live().count())
    }

    /// The directory of a lab, if it has one just now.
    pub(super) fn directory(&self, lab: usize) -> Option<&Directory> {
        self.directories.get(lab).filter(|watched| watched.gone.is_none()).map(|watched| &watched.directory)
    }

    /// The directories as they were last.
    pub(super) fn directories(&self) -> Vec<Directory> {
        self.directories.iter().map(|watched| watched.directory.clone()).collect()
    }

    /// What to wait on, one a directory.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.directories.iter().map(|watched| watched.inotify.as_fd())
    }

    /// Connects every router that is there.
    pub(super) fn connect_all(&mut self, commands: &[&CommandSender]) {
        for router in 0..self.routers.len() {
            self.check(router, Duration::from_millis(1), commands);
        }
    }

    /// Reads what happened in the directories. True if something happened to our own files there.
    pub(super) fn follow_directories(&mut self, commands: &[&CommandSender]) -> bool {
        use inotify::ReadFlags as Events;
        let (mut seen, mut ours, mut overflow) = (Vec::new(), false, false);
        for watched in &mut self.directories {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&watched.inotify, &mut buffer);
            // Whoever may make files here can make them faster than they are read: what is left waits for the next turn.
            for _ in 0..EVENTS {
                let Ok(event) = reader.next() else { break };
                let events = event.events();
                overflow |= events.contains(Events::QUEUE_OVERFLOW);
                if Some(event.wd()) != watched.watch {
                    continue; // of a directory before
                }
                watched.doubted |= events.intersects(Events::MOVE_SELF | Events::IGNORED);
                if events.contains(Events::IGNORED) {
                    watched.watch = None;
                }
                match event.file_name().and_then(|name| watched.names.get(name.to_bytes())) {
                    Some(Name::Router(router)) => {
                        self.routers[*router].renewed |= events.intersects(Events::CREATE | Events::MOVED_TO);
                        seen.push(*router);
                    }
                    Some(Name::Ours) => ours = true,
                    None => {}
                }
            }
        }
        if overflow {
            ours = true;
            seen = (0..self.routers.len()).collect();
            self.routers.iter_mut().for_each(|router| router.renewed = true);
            self.directories.iter_mut().for_each(|watched| watched.doubted = true);
        }
        seen.sort_unstable();
        seen.dedup();
        for router in seen {
            self.check(router, Duration::from_millis(1), commands);
        }
        ours
    }

    /// Looks whether the directories are still those of their paths, with `sweep` all of them, and goes over to their
    /// successors. True if there is one. (The kernel tells when a directory is moved, but not that it is removed while we
    /// have it open.)
    pub(super) fn follow_paths(&mut self, sweep: bool, commands: &[&CommandSender]) -> bool {
        let now = Instant::now();
        let mut any = false;
        for lab in 0..self.directories.len() {
            let watched = &mut self.directories[lab];
            let path = watched.directory.path().display().to_string();
            if watched.gone.is_none() {
                let looked = sweep || std::mem::take(&mut watched.doubted);
                if !looked || watched.directory.is_in_place() {
                    if sweep && watched.watch.is_none() {
                        // None could be had before.
                        watched.watch = watched.directory.watch(watched.inotify.as_fd(), events()).ok();
                    }
                    continue;
                }
                tracing::warn!(
                    lab = %watched.name,
                    "the netio directory {path} was taken away: routers that start are not found"
                );
                (watched.gone, watched.next_look) = (Some(now), now);
            }
            if now < watched.next_look {
                continue;
            }
            let make = watched.gone.is_some_and(|gone| now >= gone + MAKE_AFTER);
            let directory = match watched.directory.again(make) {
                Ok(directory) => directory,
                Err(error) => {
                    watched.next_look = now + if error.is_absent() { LOOK } else { MAKE_AFTER };
                    let why = error.to_string();
                    if !error.is_absent() && watched.trouble.as_ref() != Some(&why) {
                        tracing::error!(lab = %watched.name, "{why}; retrying");
                        watched.trouble = Some(why);
                    }
                    continue;
                }
            };
            if let Some(old) = watched.watch.take() {
                // It is gone by itself if the directory is.
                let _ = inotify::remove_watch(&watched.inotify, old);
            }
            watched.watch = match directory.watch(watched.inotify.as_fd(), events()) {
                Ok(watch) => Some(watch),
                Err(error) => {
                    tracing::warn!(
                        lab = %watched.name,
                        "the netio directory {path} cannot be watched, routers are found late: {error}"
                    );
                    None
                }
            };
            watched.directory = directory;
            (watched.gone, watched.trouble, watched.doubted) = (None, None, false);
            tracing::info!(lab = %watched.name, "the netio directory {path} is there again");
            any = true;
            for router in 0..self.routers.len() {
                if self.routers[router].lab == lab {
                    self.routers[router].renewed = true;
                    self.check(router, Duration::from_millis(1), commands);
                }
            }
        }
        any
    }

    /// The name of a router's lab.
    fn lab_of(&self, router: usize) -> &str {
        &self.directories[self.routers[router].lab].name
    }

    /// A worker found a router's socket gone.
    pub(super) fn gone(&mut self, router: usize, connection: u64, commands: &[&CommandSender]) {
        if self.routers[router].connection != connection || !self.routers[router].live {
            return; // it is back already, and connected
        }
        self.routers[router].connected = None;
        tracing::info!(router = %self.routers[router].id, lab = %self.lab_of(router), "disconnected");
        // Other workers may have sockets to it that they have not tried; and a new file may be there already.
        for order in commands {
            order.send(Command::Router { router, socket: None });
        }
        self.check(router, Duration::from_millis(1), commands);
    }

    /// How long until a retry is due.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        let now = Instant::now();
        let retries = self.retries.iter().map(|retry| retry.due);
        let directories =
            self.directories.iter().filter(|watched| watched.gone.is_some()).map(|watched| watched.next_look);
        retries.chain(directories).map(|due| due.saturating_duration_since(now)).min()
    }

    /// Tries again what is due; with `sweep`, every router whose socket file is another than the connected one.
    pub(super) fn retry(&mut self, sweep: bool, commands: &[&CommandSender]) {
        let now = Instant::now();
        let due = self.retries.extract_if(.., |retry| retry.due <= now).collect::<Vec<_>>();
        for Retry { router, delay, .. } in due {
            self.check(router, delay * 2, commands);
        }
        if sweep {
            self.still_exhausted = false;
            for router in 0..self.routers.len() {
                self.check(router, LAST_RETRY, commands);
            }
            if self.exhausted && !self.still_exhausted {
                self.exhausted = false;
                tracing::info!("there are descriptors again: all routers that run are connected");
            }
        }
    }

    /// Connects a router if its socket file is another than the one it is connected to. If that cannot be
    /// connected, it is tried again after `delay`.
    fn check(&mut self, router: usize, delay: Duration, commands: &[&CommandSender]) {
        let Router { lab, id, live, connected, renewed, .. } = self.routers[router];
        let Watched { name: lab, directory, .. } = &self.directories[lab];
        if !live {
            return;
        }
        let inode = directory.inode(id);
        if inode.is_none() || inode == connected && !renewed {
            return;
        }
        let sockets: Result<Vec<_>, _> = commands.iter().map(|_| connect_router(directory, id)).collect();
        match sockets {
            Ok(sockets) if sockets.windows(2).all(|pair| pair[0].inode == pair[1].inode) => {
                let inode = sockets.first().map(|socket| socket.inode);
                let connection = self.routers[router].connection + 1;
                for (order, socket) in commands.iter().zip(sockets) {
                    order.send(Command::Router {
                        router,
                        socket: Some(RouterSocket { fd: socket.fd, connection }),
                    });
                }
                let again = connected.is_some();
                tracing::info!(
                    router = %id,
                    lab = %lab,
                    "{}",
                    if again { "restarted; connected to its new socket" } else { "connected" }
                );
                self.routers[router].connected = inode;
                self.routers[router].connection = connection;
                self.routers[router].renewed = false;
                self.routers[router].reported = false;
            }
            // Replaced between one worker's socket and the next.
            Ok(_) => self.try_later(router, delay),
            Err(ConnectError::Absent | ConnectError::Refused) => self.try_later(router, delay),
            Err(ConnectError::Other(error)) if is_exhaustion(&error) => {
                self.still_exhausted = true;
                if !std::mem::replace(&mut self.exhausted, true) {
                    tracing::error!(
                        router = %id,
                        lab = %lab,
                        "and maybe others cannot be reached: {error}; retrying; raise the limit with prlimit --nofile"
                    );
                }
                self.try_later(router, delay);
            }
            Err(error @ (ConnectError::Foreign(_) | ConnectError::Other(_))) => {
                if !std::mem::replace(&mut self.routers[router].reported, true) {
                    tracing::warn!(router = %id, lab = %lab, "cannot be reached: {error}");
                }
                self.try_later(router, delay);
            }
        }
    }

    fn try_later(&mut self, router: usize, delay: Duration) {
        if delay <= LAST_RETRY && !self.retries.iter().any(|retry| retry.router == router) {
            self.retries.push(Retry { router, due: Instant::now() + delay, delay });
        }
    }
}
