//! Follows the NETMAP: reloads it when it changes or when asked to, in a thread of its own, because names of hosts and ids
//! in use take their time. A file that is faulty, or asks for what the system refuses, is refused whole.

use super::labs::{self, Planned, Request, Signature};
use super::pseudos;
use crate::iou::InstanceId;
use crate::iou::netio::{Directory, IdState};
use crate::iou::socket::{self, PseudoSocket};
use crate::netmap::ranges;
use crate::plan::follow::Changes;
use crate::plan::{self, Plan};
use crate::privileges;
use crate::worker;
use crossbeam::channel;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after its last change the file is read: editors write in several steps.
const SETTLED: Duration = Duration::from_millis(200);
/// How long until a file is read again that was refused because of what may pass.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an id must have been free before it is taken for one of ours, where it only looks like that: it may be that of
/// a router, which needs it free when it starts again.
const FREE: Duration = Duration::from_secs(5);

/// Why a changed NETMAP is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The file, or what it asks for.
    #[error(transparent)]
    Lab(#[from] labs::Error),
    /// What cannot be numbered.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// A new pseudo id.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// More than the BPF maps have entries for.
    #[error("{nic}: {ports} router interfaces, there is capacity for {room}: start iou-fast again")]
    Room {
        /// The NIC.
        nic: String,
        /// Interfaces asked for.
        ports: usize,
        /// Interfaces that there is capacity for.
        room: usize,
    },
}

/// A plan that is ready to be used.
pub(super) struct Next {
    /// It follows the running one.
    pub(super) plan: Plan,
    /// The new pseudo sockets, by index in the plan.
    pub(super) sockets: Vec<(usize, PseudoSocket)>,
    /// What is different.
    pub(super) changes: Changes,
    warnings: Vec<String>,
    left_alone: Vec<InstanceId>,
}

/// The file and the watch on it.
pub(super) struct Watch {
    request: Arc<Request>,
    directory: PathBuf,
    name: OsString,
    /// Readable when something happens in the file's directory; `None` where that cannot be had: then the sweep finds it.
    inotify: Option<OwnedFd>,
    watched: bool,
    /// The state of the file that was read last.
    seen: Option<Signature>,
    /// Another state, which the last sweep found.
    found: Option<Signature>,
    due: Option<Instant>,
    asked: bool,
    /// What is due is a changed file, or one that was asked for; not another try of the same.
    news: bool,
    /// That is so of what is being read.
    reading_news: bool,
    reading: Option<channel::Receiver<Result<Next, Refusal>>>,
    /// What came of the last reload, for the status.
    result: Option<String>,
    /// Why the last reload failed; reported.
    refused: Option<String>,
    warnings: Vec<String>,
    /// Ids that were in use at the start already, probably by routers.
    left_alone: Vec<InstanceId>,
    /// Ids that came into the file while they were in use, and since when they are free.
    wanted: Vec<(InstanceId, Option<Instant>)>,
}

impl Watch {
    /// Watches the file of `request`, whose state `seen` was read, with these warnings, and ids `left_alone`.
    pub(super) fn new(
        request: Request,
        seen: Option<Signature>,
        warnings: Vec<String>,
        left_alone: Vec<InstanceId>,
    ) -> Self {
        let file = std::path::absolute(&request.file).unwrap_or_else(|_| request.file.clone());
        let mut watch = Self {
            directory: file.parent().unwrap_or(Path::new("/")).to_owned(),
            name: file.file_name().unwrap_or_default().to_owned(),
            request: Arc::new(request),
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(),
            watched: false,
            seen,
            found: None,
            due: None,
            asked: false,
            news: false,
            reading_news: false,
            reading: None,
            result: None,
            refused: None,
            warnings,
            left_alone,
            wanted: Vec::new(),
        };
        if let Err(error) = watch.watch() {
            let file = watch.request.file.display();
            tracing::warn!(lab = %watch.request.name(), "{file} cannot be watched, its changes are found late: {error}");
        }
        watch
    }

    fn watch(&mut self) -> io::Result<()> {
        let Some(inotify) = &self.inotify else { return Ok(()) };
        let events =
            WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        inotify::add_watch(inotify, &self.directory, events)?;
        self.watched = true;
        Ok(())
    }

    /// What to wait on.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Reads what happened in the file's directory.
    pub(super) fn follow_directory(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if lost || event.file_name().is_some_and(|name| name.to_bytes() == self.name.as_encoded_bytes()) {
                (self.news, self.due) = (true, Some(Instant::now() + SETTLED));
            }
            self.watched &= !event.events().contains(ReadFlags::IGNORED);
        }
    }

    /// Reads the file again at once.
    pub(super) fn ask(&mut self) {
        (self.asked, self.news, self.due) = (true, true, Some(Instant::now()));
    }

    /// The NETMAP is being reloaded, because it has changed or was asked for.
    pub(super) fn is_reloading(&self) -> bool {
        self.reading.is_some() && self.reading_news
    }

    /// What came of the last reload; `None` before the first.
    pub(super) fn result(&self) -> Option<&str> {
        self.result.as_deref()
    }

    fn failed(&mut self, why: &str) {
        let why = why.lines().next().unwrap_or_default();
        self.result = Some(format!("NETMAP reload failed; keeping the current topology: {why}"));
    }

    /// What was read cannot be used just now.
    pub(super) fn not_followed(&mut self, what: &str, why: &io::Error) {
        tracing::error!(
            lab = %self.request.name(),
            "NETMAP reload failed; keeping the current topology; retrying: {what}: {why}"
        );
        self.failed(&format!("{what}: {why}"));
        self.ask_later();
    }

    /// Reads the file again in a while: the reason may pass.
    fn ask_later(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// These ids look like pseudo ids and are in use: they are taken when they have been free for a while.
    fn want(&mut self, ids: Vec<InstanceId>) {
        let before = std::mem::take(&mut self.wanted);
        let known = |id| before.iter().find(|(other, _)| *other == id).copied();
        let ids = || ids.iter().copied().filter(|id| !self.left_alone.contains(id));
        self.wanted = ids().map(|id| known(id).unwrap_or((id, None))).collect();
        let new: Vec<_> = ids().filter(|id| known(*id).is_none()).collect();
        if !new.is_empty() {
            let (ids, seconds) = (ranges(&new), FREE.as_secs());
            tracing::info!(
                lab = %self.request.name(),
                "{ids}: in use; taken when no process has used it for {seconds} seconds"
            );
        }
    }

    /// Reads the file again when an id that is wanted has been free in `directory` for a while.
    fn follow_wanted(&mut self, directory: Option<&Directory>) {
        let now = Instant::now();
        for (id, free) in &mut self.wanted {
            let is_free = directory.is_some_and(|directory| directory.state(*id) == IdState::Free);
            *free = is_free.then(|| free.unwrap_or(now));
            if free.is_some_and(|since| now - since >= FREE) {
                *free = None;
                self.due.get_or_insert(now);
            }
        }
    }

    /// Looks at the file itself, once a second: a link may lead to it, or a mount cover it, and then its directory tells
    /// nothing. And at ids in the netio `directory` that are waited for.
    pub(super) fn sweep(&mut self, directory: Option<&Directory>) {
        self.follow_wanted(directory);
        if !self.watched {
            // The directory may be there again.
            let _ = self.watch();
        }
        let now = Signature::of(&self.request.file);
        if now == self.seen || self.due.is_some() {
            self.found = None;
        } else if now.is_some() && now == self.found {
            // It has not changed since the last sweep: whoever writes it is done.
            (self.news, self.due) = (true, Some(Instant::now()));
        } else {
            self.found = now;
        }
    }

    /// How long until there is something to do.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let due = self.due.filter(|_| self.reading.is_none())?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Begins to read the file if it is due: what it says is to follow `plan`, in these directories, with as many ports on
    /// each LAN as there is capacity for. Wakes `wake` at the end. While a directory is away, it waits for that.
    pub(super) fn read(
        &mut self,
        plan: &Arc<Plan>,
        circumstances: impl FnOnce() -> (Vec<Directory>, Vec<usize>),
        wake: &Arc<OwnedFd>,
    ) {
        if self.due_in() != Some(Duration::ZERO) {
            return;
        }
        let (directories, rooms) = circumstances();
        if !directories.iter().all(Directory::is_in_place) {
            // New sockets have no place just now. A file that could not be followed would be read only when it changes again.
            self.due = Some(Instant::now() + SETTLED);
            return;
        }
        self.due = None;
        self.seen = Signature::of(&self.request.file);
        let (send, receive) = channel::bounded(1);
        let (request, plan, wake) = (self.request.clone(), plan.clone(), wake.clone());
        let read = move || {
            if let Err(error) = privileges::drop_capability() {
                return tracing::error!(lab = %request.name(), "{error}");
            }
            let _ = send.send(next(&request, &plan, &directories, &rooms));
            worker::wake(&wake);
        };
        match std::thread::Builder::new().name("netmap".to_owned()).spawn(read) {
            Ok(_) => {
                self.reading_news = std::mem::take(&mut self.news);
                self.reading = Some(receive);
            }
            Err(error) => {
                tracing::error!(
                    lab = %self.request.name(),
                    "NETMAP reload delayed; retrying: {error}"
                );
                self.due = Some(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// What was read, if that is done and something is to be followed.
    pub(super) fn next(&mut self) -> Option<Next> {
        let result = match self.reading.as_ref()?.try_recv() {
            Ok(result) => result,
            Err(channel::TryRecvError::Empty) => return None,
            Err(channel::TryRecvError::Disconnected) => {
                self.reading = None;
                tracing::error!(
                    lab = %self.request.name(),
                    "NETMAP reload failed; keeping the current topology: the thread that reads it has ended"
                );
                self.failed("the thread that reads it has ended");
                return None;
            }
        };
        self.reading = None;
        let (asked, request) = (std::mem::take(&mut self.asked), self.request.clone());
        let next = match result {
            Ok(next) => next,
            Err(why) => {
                if let Refusal::Lab(labs::Error::Pseudo(error)) = &why {
                    self.want(error.in_use());
                }
                let (passing, why) = (matches!(why, Refusal::Socket(_)), why.to_string());
                if self.refused.as_ref() != Some(&why) || asked {
                    let retrying = if passing { "; retrying every few seconds" } else { "" };
                    tracing::error!(
                        lab = %request.name(),
                        "NETMAP reload failed; keeping the current topology{retrying}: {why}"
                    );
                }
                self.failed(&why);
                self.refused = Some(why);
                if passing {
                    self.ask_later();
                }
                return None;
            }
        };
        self.refused = None;
        self.result = Some(format!("NETMAP reloaded: {}", next.changes));
        self.want(next.left_alone.clone());
        for warning in next.warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::info!(lab = %request.name(), "{warning}");
        }
        self.warnings.clone_from(&next.warnings);
        if !next.changes.is_empty() || asked {
            tracing::info!(lab = %request.name(), "NETMAP reloaded: {}", next.changes);
        }
        Some(next)
    }
}

/// Reads the file, and gets everything for going over to what it says.
fn next(
    request: &Request,
    before: &Plan,
    directories: &[Directory],
    rooms: &[usize],
) -> Result<Next, Refusal> {
    let netmap = labs::read(&request.file).map_err(labs::Error::from)?;
    let ours: Vec<InstanceId> =
        before.pseudos.iter().filter(|pseudo| pseudo.live).map(|pseudo| pseudo.id).collect();
    let mut warnings = Vec::new();
    let Planned { plan, left_alone } = request.plan(netmap, &directories[0], &ours, &mut warnings)?;
    let plan = plan.following(before)?;
    for (lan, room) in plan.lans.iter().zip(rooms) {
        if lan.ports.len() > *room {
            return Err(Refusal::Room { nic: lan.nic.clone(), ports: lan.ports.len(), room: *room });
        }
    }
    let sockets = pseudos::bind(&plan, Some(before), directories)?;
    let changes = plan.changes(before);
    Ok(Next { plan, sockets, changes, warnings, left_alone })
}
