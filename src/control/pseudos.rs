//! Our own sockets in the netio directories: bound at the start, and again when their files are taken away.

use super::routers::Connections;
use crate::iou::netio::Directory;
use crate::iou::socket::{self, PseudoSocket, bind_pseudo, make_sockets};
use crate::plan::Plan;
use crate::worker::{Command, CommandSender};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long after a file went its socket is bound again. Whoever removes a whole directory is not to find new files in it
/// before it is done.
const AFTER: Duration = Duration::from_millis(200);
/// While a socket cannot be bound, this often it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The pseudo sockets, by index in the plan.
pub(super) struct Pseudos {
    /// The name of their lab, for the log.
    name: String,
    held: BTreeMap<usize, Held>,
    /// Sockets made and not yet bound.
    fresh: Vec<OwnedFd>,
    /// When to look whether all are in place.
    due: Option<Instant>,
    /// Why some cannot be bound again; reported.
    trouble: Option<String>,
}

struct Held {
    lab: usize,
    worker: usize,
    socket: PseudoSocket,
    /// The worker reads an older socket.
    untold: bool,
}

/// Binds the pseudo sockets of `plan` that `before` has not: all or none. By index in the plan.
///
/// # Errors
/// If one of the ids is in use, or the system refuses.
pub(super) fn bind(
    plan: &Plan,
    before: Option<&Plan>,
    directories: &[Directory],
) -> Result<Vec<(usize, PseudoSocket)>, socket::Error> {
    let had = |n: usize| before.is_some_and(|plan| plan.pseudos.get(n).is_some_and(|pseudo| pseudo.live));
    let mut sockets = Vec::new();
    for (lab, directory) in directories.iter().enumerate() {
        let new = plan
            .pseudos
            .iter()
            .enumerate()
            .filter(|(n, pseudo)| pseudo.lab == lab && pseudo.live && !had(*n));
        let (numbers, ids): (Vec<_>, Vec<_>) = new.map(|(n, pseudo)| (n, pseudo.id)).unzip();
        if ids.is_empty() {
            continue;
        }
        let bound = bind_pseudo(directory, &ids)?;
        if let Some(warning) = bound.warning {
            tracing::warn!("{warning}");
        }
        sockets.extend(numbers.into_iter().zip(bound.sockets));
    }
    Ok(sockets)
}

impl Pseudos {
    /// Holds `sockets`, which were [bound](bind) for `plan`, the lab called `name`.
    pub(super) fn new(plan: &Plan, sockets: Vec<(usize, PseudoSocket)>, name: &str) -> Self {
        let (held, fresh) = (BTreeMap::new(), Vec::new());
        let mut pseudos = Self { name: name.to_owned(), held, fresh, due: None, trouble: None };
        pseudos.add(plan, sockets);
        pseudos
    }

    fn add(&mut self, plan: &Plan, sockets: Vec<(usize, PseudoSocket)>) {
        for (number, socket) in sockets {
            let pseudo = &plan.pseudos[number];
            let held = Held { lab: pseudo.lab, worker: pseudo.worker, socket, untold: false };
            self.held.insert(number, held);
        }
    }

    /// Goes over to another plan: removes the files of pseudo instances that it has no more, and holds those of
    /// `sockets` as well. Workers may still read what was sent to the former.
    pub(super) fn follow(&mut self, plan: &Plan, sockets: Vec<(usize, PseudoSocket)>) {
        self.held.retain(|number, _| plan.pseudos[*number].live);
        self.add(plan, sockets);
    }

    /// The descriptors of `worker`'s sockets.
    pub(super) fn of_worker(&self, worker: usize) -> io::Result<Vec<(usize, OwnedFd)>> {
        let own = self.held.iter().filter(|(_, held)| held.worker == worker);
        own.map(|(number, held)| Ok((*number, held.socket.fd.try_clone()?))).collect()
    }

    /// Files may have gone.
    pub(super) fn look_soon(&mut self) {
        self.due = Some(Instant::now() + AFTER);
    }

    /// How long until there is something to do.
    pub(super) fn due_in(&self) -> Option<Duration> {
        Some(self.due?.saturating_duration_since(Instant::now()))
    }

    /// If it is due, or `sweep` and nothing else is, binds what has gone again, and tells the workers.
    pub(super) fn restore(&mut self, sweep: bool, connections: &Connections, commands: &[&CommandSender]) {
        match self.due {
            Some(due) if due > Instant::now() => return,
            None if !sweep => return,
            _ => self.due = None,
        }
        let directory = |lab| connections.directory(lab).filter(|directory| directory.is_in_place());
        let gone =
            |held: &Held| directory(held.lab).is_some_and(|directory| !held.socket.is_whole(directory));
        let lost = self.held.values().filter(|held| held.untold || gone(held)).count();
        if lost == 0 {
            if self.held.values().all(|held| directory(held.lab).is_some()) {
                self.all_there();
            }
            return;
        }
        if let Err(why) = self.prepare(lost) {
            return self.report(why.to_string());
        }
        let (mut bound, mut first, mut error) = (0, None, None);
        for (number, held) in &mut self.held {
            let Some(directory) = directory(held.lab) else { continue };
            if !held.untold && held.socket.is_whole(directory) {
                continue;
            }
            let restored = held.socket.restore(directory, &mut self.fresh).map_err(|error| error.to_string());
            let told = restored.and_then(|new| {
                held.untold |= new;
                if held.untold {
                    let socket = held.socket.fd.try_clone().map_err(|error| error.to_string())?;
                    commands[held.worker].send(Command::Pseudo { pseudo: *number, socket });
                    held.untold = false;
                    bound += 1;
                    first.get_or_insert_with(|| held.socket.path.clone());
                }
                Ok(())
            });
            error = error.or(told.err());
        }
        if let Some(path) = first {
            let others = if bound > 1 { format!(" (and {} others)", bound - 1) } else { String::new() };
            tracing::warn!(
                lab = %self.name,
                "{}{others} was taken away: bound again, routers can send again",
                path.display()
            );
        }
        match error {
            Some(why) => self.report(why),
            None => {
                self.fresh.clear();
                self.all_there();
            }
        }
    }

    /// Has at least `count` sockets made.
    fn prepare(&mut self, count: usize) -> Result<(), socket::Error> {
        if self.fresh.len() < count {
            let (sockets, warning) = make_sockets(count - self.fresh.len())?;
            self.fresh.extend(sockets);
            if let Some(warning) = warning.filter(|_| self.trouble.is_none()) {
                tracing::warn!(lab = %self.name, "{warning}");
            }
        }
        Ok(())
    }

    /// Says why a socket cannot be bound, if it is not the same as before, and tries again later.
    fn report(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::error!(lab = %self.name, "{why}; routers cannot send through it meanwhile; retrying");
        }
        self.trouble = Some(why);
        self.due = Some(Instant::now() + AGAIN);
    }

    fn all_there(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(lab = %self.name, "all pseudo sockets are there again");
        }
    }
}
