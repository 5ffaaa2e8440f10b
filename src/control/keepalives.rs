//! L1 keepalives: a router's interface follows the carrier of its NIC.
//!
//! A router started with `-l` sends one a second for each interface that is up, and takes an interface down some ten
//! seconds after the last that it received. So none is answered: each bridged interface is sent one a second
//! as long as its NIC has carrier. Otherwise an interface that went down would never come up again, because it is silent itself.
//!
//! Who uses them is told by the directory: `/tmp/netl1<uid>` is there, and in it a socket of the router's.

use crate::iou::InstanceId;
use crate::iou::header;
use crate::iou::netio::{Directory, keepalive_path};
use crate::iou::socket::{PseudoSocket, bind_keepalives};
use crate::lan::Lan;
use crate::plan::Plan;
use crate::worker;
use rustix::io::Errno;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often each interface gets one.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the routers' datagrams are read while they send: also where queues are short no router waits long for capacity.
const READ: Duration = Duration::from_millis(100);
/// Routers that were silent for so long need not be read as often.
const SILENT: Duration = Duration::from_secs(15);
/// Datagrams read from one socket at a time.
const READ_MOST: usize = 512;

/// The keepalives of all labs.
pub(super) struct Keepalives {
    labs: Vec<Lab>,
    /// Which LANs had carrier when they were last sent.
    up: Vec<bool>,
    next: Instant,
    next_read: Instant,
}

/// Those of one lab.
struct Lab {
    /// Its name, for the log.
    name: String,
    path: PathBuf,
    uid: u32,
    directory: Option<Directory>,
    sockets: HashMap<InstanceId, PseudoSocket>,
    heard: Option<Instant>,
    /// What stood in the way last, so that it is said once.
    said: String,
    /// Why some could not be sent; said.
    unsent: String,
    /// A descriptor that is given up where there are no others: sending takes one for a moment, and interfaces would go
    /// down without it.
    spare: Option<OwnedFd>,
}

impl Keepalives {
    /// For the labs of `plan`, in `directory` if that is given. The lab is called `name`.
    pub(super) fn new(plan: &Plan, directory: Option<&Path>, name: &str) -> Self {
        let path = |lab: &crate::plan::Lab| {
            directory.map_or_else(|| keepalive_path(&lab.netio, lab.uid), Path::to_path_buf)
        };
        let labs = plan.labs.iter().map(|lab| Lab {
            name: name.to_owned(),
            path: path(lab),
            uid: lab.uid,
            directory: None,
            sockets: HashMap::new(),
            heard: None,
            said: String::new(),
            unsent: String::new(),
            spare: None,
        });
        let now = Instant::now();
        Self { labs: labs.collect(), up: Vec::new(), next: now, next_read: now }
    }

    /// How long until [`turn`](Self::turn) is due.
    pub(super) fn due(&self) -> Duration {
        self.next.min(self.next_read).saturating_duration_since(Instant::now())
    }

    /// Reads what routers sent, and sends what is due; at once when a NIC got its carrier back.
    pub(super) fn turn(&mut self, plan: &Plan, lans: &[Arc<Lan>]) {
        let now = Instant::now();
        if now >= self.next_read {
            let mut wait = PERIOD;
            for lab in &mut self.labs {
                lab.read(now);
                if lab.heard.is_some_and(|heard| now.duration_since(heard) < SILENT) {
                    wait = READ;
                }
            }
            self.next_read = now + wait;
        }
        let up: Vec<bool> = lans.iter().map(|lan| lan.up.load(Relaxed)).collect();
        let risen = up.iter().enumerate().any(|(n, up)| *up && self.up.get(n) == Some(&false));
        self.up = up;
        if risen || now >= self.next {
            // In step with the clock, not with how long this takes.
            let late = risen || now >= self.next + PERIOD;
            self.next = if late { now } else { self.next } + PERIOD;
            for (index, lab) in self.labs.iter_mut().enumerate() {
                lab.follow(plan, index);
                lab.send(plan, index, &self.up);
            }
        }
    }
}

/// A descriptor for nothing, if there is one left.
fn spare() -> Option<OwnedFd> {
    Arc::into_inner(worker::eventfd().ok()?)
}

impl Lab {
    /// Opens the directory when it appears, and binds a socket in it for each pseudo instance.
    fn follow(&mut self, plan: &Plan, index: usize) {
        if self.directory.as_ref().is_some_and(|directory| !directory.is_in_place()) {
            self.sockets.clear();
            self.directory = None;
        }
        if self.directory.is_none() {
            match Directory::open_keepalives(&self.path, self.uid) {
                Ok(directory) => self.directory = directory,
                Err(error) => self.say(error.to_string()),
            }
        }
        let Some(directory) = &self.directory else { return };
        if self.spare.is_none() {
            self.spare = spare();
        }
        let pseudos = || plan.pseudos.iter().filter(|pseudo| pseudo.lab == index && pseudo.live);
        let ids = || pseudos().map(|pseudo| pseudo.id);
        self.sockets.retain(|id, socket| socket.is_in_place() && ids().any(|other| other == *id));
        let mut failed = None;
        for id in ids() {
            let Entry::Vacant(place) = self.sockets.entry(id) else { continue };
            match bind_keepalives(directory, id) {
                Ok(socket) => {
                    place.insert(socket);
                }
                Err(error) => failed = Some(error.to_string()),
            }
        }
        match failed {
            Some(error) => self.say(format!("L1 keepalives: {error}")),
            None => self.said.clear(),
        }
    }

    fn say(&mut self, error: String) {
        if self.said != error {
            tracing::warn!(lab = %self.name, "{error}");
            self.said = error;
        }
    }

    /// One to each interface whose NIC is among those that are `up`.
    fn send(&mut self, plan: &Plan, index: usize, up: &[bool]) {
        let (mut unsent, mut first) = (0, None);
        for port in plan.ports.iter().filter(|port| port.live && plan.routers[port.router].lab == index) {
            let link = &plan.links[port.link];
            let Some(socket) = self.sockets.get(&plan.pseudos[link.pseudo].id) else { continue };
            if up.get(link.lan.index()) != Some(&true) {
                continue;
            }
            let send = || socket.send_to(plan.routers[port.router].id, &port.to_router.keepalive().0);
            let mut sent = send();
            if sent == Err(Errno::MFILE) && self.spare.take().is_some() {
                sent = send();
                self.spare = spare();
            }
            if let Err(error) = sent {
                unsent += 1;
                first.get_or_insert_with(|| format!("{}: {error}", port.endpoint));
            }
        }
        let Some(first) = first else { return self.unsent.clear() };
        if self.unsent != first {
            let others = if unsent > 1 { format!(" ({} others neither)", unsent - 1) } else { String::new() };
            tracing::error!(
                lab = %self.name,
                "no L1 keepalive can be sent to {first}{others}: such an interface goes down; retrying each second"
            );
            self.unsent = first;
        }
    }

    /// Takes in what the routers sent. There is nothing in it that the NETMAP does not say.
    fn read(&mut self, now: Instant) {
        let mut datagram = [0; header::LEN];
        let mut any = false;
        for socket in self.sockets.values() {
            let read =
                || rustix::net::recv(&socket.fd, &mut datagram, rustix::net::RecvFlags::DONTWAIT).is_ok();
            any |= std::iter::repeat_with(read).take(READ_MOST).take_while(|read| *read).count() > 0;
        }
        if any && self.heard.replace(now).is_none() {
            tracing::info!(
                lab = %self.name,
                "{}: routers use L1 keepalives: their interfaces follow the carrier of their NICs",
                self.path.display()
            );
        }
    }
}
