//! From the command line to a plan: the NETMAP is read, pseudo ids are found, hosts looked up.

use crate::iou::netio::{Directory, IdState, default_path, default_uid};
use crate::iou::{Endpoint, InstanceId};
use crate::netmap::infer::{PseudoIds, infer};
use crate::netmap::{Netmap, hosts, ranges};
use crate::plan::{Binding, LabRequest, Plan};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The NETMAP.
    #[error(transparent)]
    Netmap(#[from] crate::netmap::Error),
    /// The pseudo ids.
    #[error(transparent)]
    Pseudo(#[from] crate::netmap::infer::Error),
    /// The netio directory, or the uid it is named after.
    #[error(transparent)]
    Directory(#[from] crate::iou::netio::Error),
    /// Through sudo a caller does not choose a directory where another user's rights are used.
    #[error(
        "{option} with the rights of user {owner}: user {caller}, who called this through sudo, cannot choose where \
         these are used; leave it out, or run this as root without sudo (`sudo -i` first)"
    )]
    SudoDirectory {
        /// The option.
        option: &'static str,
        /// Whose rights are used there.
        owner: u32,
        /// Who called.
        caller: u32,
    },
    /// What is to be connected.
    #[error(transparent)]
    Plan(#[from] crate::plan::Error),
}

/// What a user asks for: a NETMAP, whose routers, and how to read it.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// The NETMAP; else that of the environment, else the one here.
    pub netmap: Option<PathBuf>,
    /// The netio directory, if not the one of `uid`.
    pub netio_dir: Option<PathBuf>,
    /// The directory of L1 keepalives, if not the one beside the netio directory.
    pub netl1_dir: Option<PathBuf>,
    /// The directory of locks and records, if not that of the invoking user.
    pub state_dir: Option<PathBuf>,
    /// The user who runs the routers.
    pub uid: Option<u32>,
    /// The pseudo ids; else they are inferred.
    pub pseudo: Option<PseudoIds>,
    /// NICs, each with its endpoints.
    pub interfaces: Vec<Binding>,
    /// The endpoint that also gets unicast to unknown addresses.
    pub flood_unknown: Option<Endpoint>,
}

/// A plan, and the netio directories of its labs.
pub struct Prepared {
    /// Everything, connected.
    pub plan: Plan,
    /// The directories, one a lab.
    pub directories: Vec<Directory>,
    /// What the user should know of how the request was understood.
    pub warnings: Vec<String>,
    /// To do it again when the NETMAP changes.
    pub request: Request,
    /// The NETMAP file that was read.
    pub seen: Option<Signature>,
    /// Ids that look like pseudo ids, but are in use.
    pub left_alone: Vec<InstanceId>,
}

/// A plan, and what is not in it.
pub struct Planned {
    /// What is to be connected.
    pub plan: Plan,
    /// Ids that look like pseudo ids, but are in use.
    pub left_alone: Vec<InstanceId>,
}

/// What a plan is made of: a NETMAP, and the options that say how to read it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The NETMAP.
    pub file: PathBuf,
    pseudo: Option<PseudoIds>,
    interfaces: Vec<Binding>,
    flood: Option<Endpoint>,
    workers: usize,
}

/// What tells one state of a file from another: device, inode, size and time of its last change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature(u64, u64, u64, i64, i64);

impl Signature {
    /// That of `file`, if there is one.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        let file = file.metadata().ok()?;
        Some(Self(file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    }
}

/// The users on whose behalf a lab is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Users {
    /// The user who runs the routers.
    pub lab: u32,
    /// The caller of sudo, if it was started by that.
    pub caller: Option<u32>,
}

/// The users that `options` and the environment name.
///
/// # Errors
/// [`Error::Directory`] if `SUDO_UID` decides and is no number; [`Error::SudoDirectory`].
pub fn users(options: &LabOptions) -> Result<Users, Error> {
    let own = rustix::process::getuid();
    let lab = default_uid(options.uid, |name| std::env::var_os(name), own.as_raw())?;
    let users = Users { lab, caller: caller() };
    check_directories(options, users)?;
    Ok(users)
}

/// The caller of sudo, if that is how root runs this.
fn caller() -> Option<u32> {
    // Only root can have been called through sudo, whatever the environment says.
    let sudo = std::env::var("SUDO_UID").ok().filter(|_| rustix::process::getuid().is_root());
    sudo.and_then(|uid| uid.parse().ok())
}

/// Refuses a `--state-dir` that another user chose for root.
///
/// # Errors
/// [`Error::SudoDirectory`].
pub fn check_state_dir() -> Result<(), Error> {
    match caller().filter(|caller| *caller != 0) {
        Some(caller) => Err(Error::SudoDirectory { option: "--state-dir", owner: 0, caller }),
        None => Ok(()),
    }
}

/// A caller of `sudo iou-fast` names no directory where another user's rights are used: it would be made, or files in it.
fn check_directories(options: &LabOptions, users: Users) -> Result<(), Error> {
    let Some(caller) = users.caller.filter(|caller| *caller != 0) else { return Ok(()) };
    let named = [
        ("--state-dir", options.state_dir.is_some(), 0),
        ("--netio-dir", options.netio_dir.is_some(), users.lab),
        ("--netl1-dir", options.netl1_dir.is_some(), users.lab),
    ];
    match named.into_iter().find(|(_, given, owner)| *given && *owner != caller) {
        Some((option, _, owner)) => Err(Error::SudoDirectory { option, owner, caller }),
        None => Ok(()),
    }
}

/// Reads the NETMAP of `options` and makes the plan for `workers` workers.
///
/// # Errors
/// See [`Error`].
pub fn prepare(options: &LabOptions, workers: usize) -> Result<Prepared, Error> {
    let request = Request {
        file: netmap_file(options.netmap.as_deref()),
        pseudo: options.pseudo.clone(),
        interfaces: options.interfaces.clone(),
        flood: options.flood_unknown,
        workers,
    };
    let seen = Signature::of(&request.file);
    let netmap = read(&request.file)?;
    let uid = users(options)?.lab;
    let path = options.netio_dir.clone().unwrap_or_else(|| default_path(uid));
    let directory = Directory::open(&path, uid)?;
    if let Some(ids) = &request.pseudo {
        // A typing error, most likely. Later on such an id is one whose lines were taken out.
        ids.check(&netmap, &request.file)?;
    }
    let mut warnings: Vec<String> = directory.empty_notice().into_iter().collect();
    let Planned { plan, left_alone } = request.plan(netmap, &directory, &[], &mut warnings)?;
    Ok(Prepared { plan, directories: vec![directory], warnings, request, seen, left_alone })
}

impl Request {
    /// What the lab is called in the log: the directory of its NETMAP.
    #[must_use]
    pub fn name(&self) -> String {
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        let directory = file.parent().and_then(Path::file_name);
        directory.unwrap_or_else(|| "/".as_ref()).to_string_lossy().into_owned()
    }

    /// Makes the plan of `netmap`, whose routers have their sockets in `directory`. `ours` are pseudo ids that this process
    /// holds already.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn plan(
        &self,
        netmap: Netmap,
        directory: &Directory,
        ours: &[InstanceId],
        warnings: &mut Vec<String>,
    ) -> Result<Planned, Error> {
        let file = &self.file;
        let (pseudo, left_alone) = match &self.pseudo {
            Some(ids) => (ids.0.clone(), Vec::new()),
            None => inferred(&netmap, file, directory, ours, warnings)?,
        };
        let hosts = hosts::classify(&netmap, file, Arc::new(hosts::System), hosts::DEADLINE);
        warnings.extend(hosts.warnings.iter().map(ToString::to_string));
        let remote = hosts.remote.into_keys().collect();
        let (netio, uid) = (directory.path().to_path_buf(), directory.uid());
        let lab = LabRequest { netmap, file: file.clone(), netio, uid, pseudo, remote };
        let plan = Plan::new(&[lab], &self.interfaces, self.workers, self.flood)?;
        warnings.extend(plan.notes.iter().cloned());
        Ok(Planned { plan, left_alone })
    }
}

/// Reads a NETMAP with the rights of who named it. Root's are not lent: faults are shown with the text of their lines.
pub(super) fn read(file: &Path) -> Result<Netmap, crate::netmap::Error> {
    crate::privileges::as_caller(|| Netmap::read(file))
}

fn netmap_file(option: Option<&Path>) -> PathBuf {
    let from_environment =
        || std::env::var_os("NETIO_NETMAP").filter(|name| !name.is_empty()).map(PathBuf::from);
    option.map(Path::to_path_buf).or_else(from_environment).unwrap_or_else(|| PathBuf::from("NETMAP"))
}

/// The pseudo ids, and those that look like it but are in use.
fn inferred(
    netmap: &Netmap,
    file: &Path,
    directory: &Directory,
    ours: &[InstanceId],
    warnings: &mut Vec<String>,
) -> Result<(Vec<InstanceId>, Vec<InstanceId>), Error> {
    let mut probe = directory.probe();
    let probe = |id| if ours.contains(&id) { IdState::Free } else { probe(id) };
    let inferred = infer(netmap, file, probe)?;
    for (id, why) in &inferred.in_use {
        warnings.push(format!("{id} looks like a pseudo id and is left alone: {why}"));
    }
    warnings.push(format!("pseudo ids inferred from {}: {}", file.display(), ranges(&inferred.ids)));
    Ok((inferred.ids, inferred.in_use.into_iter().map(|(id, _)| id).collect()))
}
