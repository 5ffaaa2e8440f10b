//! Routers come and go: their sockets are connected when they appear, again when they are replaced, and handed to
//! the workers.
//!
//! A netio folder is watched by inotify. A router that restarts makes a new socket file while the old process may
//! still hold the old socket: a connected socket then goes on sending to the old one. So files are told apart by
//! inode.

use crate::iou::InstanceId;
use crate::iou::socket::{ConnectError, Folder, connect_router};
use crate::plan::Plan;
use crate::worker::{Order, Orders};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A socket file is there a moment before its socket can be connected: it is tried again after 1 ms, 2 ms, ...
/// up to this.
const LAST_RETRY: Duration = Duration::from_millis(64);

/// What happened in a folder is read in portions of so many events.
const EVENTS: usize = 1024;

/// The routers' sockets.
pub(super) struct Connections {
    folders: Vec<Watched>,
    routers: Vec<Router>,
    retries: Vec<Retry>,
}

struct Watched {
    folder: Folder,
    inotify: OwnedFd,
    /// By file name.
    routers: HashMap<Vec<u8>, usize>,
}

struct Router {
    lab: usize,
    id: InstanceId,
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
    /// Watches the netio folders.
    pub(super) fn new(plan: &Plan, folders: Vec<Folder>) -> io::Result<Self> {
        let routers: Vec<Router> = plan
            .routers
            .iter()
            .map(|router| Router {
                lab: router.lab,
                id: router.id,
                connected: None,
                connection: 0,
                renewed: false,
                reported: false,
            })
            .collect();
        let mut watched = Vec::new();
        for (lab, folder) in folders.into_iter().enumerate() {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            // ATTRIB: a router that changes its socket's mode after bind is tried again then.
            let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
            inotify::add_watch(&inotify, folder.path(), events)?;
            let names = routers.iter().enumerate().filter(|(_, router)| router.lab == lab);
            let routers = names.map(|(index, router)| (router.id.to_string().into_bytes(), index)).collect();
            watched.push(Watched { folder, inotify, routers });
        }
        Ok(Self { folders: watched, routers, retries: Vec::new() })
    }

    /// What to wait on, one a folder.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.folders.iter().map(|watched| watched.inotify.as_fd())
    }

    /// Connects every router that is there.
    pub(super) fn connect_all(&mut self, orders: &[&Orders]) {
        for router in 0..self.routers.len() {
            self.check(router, Duration::from_millis(1), orders);
        }
    }

    /// Reads what happened in the folders.
    pub(super) fn follow_folders(&mut self, orders: &[&Orders]) {
        let mut seen = Vec::new();
        let mut overflow = false;
        for watched in &self.folders {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&watched.inotify, &mut buffer);
            // Whoever may make files here can make them faster than they are read: what is left waits for the next turn.
            for _ in 0..EVENTS {
                let Ok(event) = reader.next() else { break };
                let events = event.events();
                overflow |= events.contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                let name = event.file_name().map(|name| name.to_bytes());
                if let Some(router) = name.and_then(|name| watched.routers.get(name)) {
                    let new = inotify::ReadFlags::CREATE | inotify::ReadFlags::MOVED_TO;
                    self.routers[*router].renewed |= events.intersects(new);
                    seen.push(*router);
                }
            }
        }
        if overflow {
            seen = (0..self.routers.len()).collect();
            self.routers.iter_mut().for_each(|router| router.renewed = true);
        }
        seen.sort_unstable();
        seen.dedup();
        for router in seen {
            self.check(router, Duration::from_millis(1), orders);
        }
    }

    /// A worker found a router's socket gone.
    pub(super) fn gone(&mut self, router: usize, connection: u64, orders: &[&Orders]) {
        if self.routers[router].connection != connection {
            return; // it is back already, and connected
        }
        self.routers[router].connected = None;
        tracing::info!("router {} is gone", self.routers[router].id);
        // Other workers may hold sockets to it that they have not tried; and a new file may be there already.
        for order in orders {
            order.give(Order::Router { router, socket: None });
        }
        self.check(router, Duration::from_millis(1), orders);
    }

    /// How long until a retry is due.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.retries.iter().map(|retry| retry.due.saturating_duration_since(Instant::now())).min()
    }

    /// Tries again what is due; with `sweep`, every router whose socket file is another than the connected one.
    pub(super) fn retry(&mut self, sweep: bool, orders: &[&Orders]) {
        let now = Instant::now();
        let due = self.retries.extract_if(.., |retry| retry.due <= now).collect::<Vec<_>>();
        for Retry { router, delay, .. } in due {
            self.check(router, delay * 2, orders);
        }
        if sweep {
            for router in 0..self.routers.len() {
                self.check(router, LAST_RETRY, orders);
            }
        }
    }

    /// Connects a router if its socket file is another than the one it is connected to. If that cannot be
    /// connected, it is tried again after `delay`.
    fn check(&mut self, router: usize, delay: Duration, orders: &[&Orders]) {
        let Router { lab, id, connected, renewed, .. } = self.routers[router];
        let folder = &self.folders[lab].folder;
        let inode = folder.inode(id);
        if inode.is_none() || inode == connected && !renewed {
            return;
        }
        let sockets: Result<Vec<_>, _> = orders.iter().map(|_| connect_router(folder, id)).collect();
        match sockets {
            Ok(sockets) if sockets.windows(2).all(|pair| pair[0].inode == pair[1].inode) => {
                let inode = sockets.first().map(|socket| socket.inode);
                let connection = self.routers[router].connection + 1;
                for (order, socket) in orders.iter().zip(sockets) {
                    order.give(Order::Router { router, socket: Some((socket.fd, connection)) });
                }
                let again = connected.is_some();
                tracing::info!("router {id} is {}", if again { "replaced" } else { "there" });
                self.routers[router].connected = inode;
                self.routers[router].connection = connection;
                self.routers[router].renewed = false;
                self.routers[router].reported = false;
            }
            // Replaced between one worker's socket and the next.
            Ok(_) => self.try_later(router, delay),
            Err(ConnectError::Absent | ConnectError::Refused) => self.try_later(router, delay),
            Err(ConnectError::Other(error)) => {
                if !std::mem::replace(&mut self.routers[router].reported, true) {
                    tracing::warn!("router {id} cannot be reached: {error}");
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
