//! From the command line to a plan: the NETMAP is read, pseudo ids are found, hosts looked up.

use crate::cli::Args;
use crate::iou::InstanceId;
use crate::iou::socket::{Folder, default_path, default_uid};
use crate::netmap::infer::infer;
use crate::netmap::{Netmap, hosts, ranges};
use crate::plan::{LabRequest, Plan};
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
    /// The netio folder, or the uid it is named after.
    #[error(transparent)]
    Socket(#[from] crate::iou::socket::Error),
    /// What is to be connected.
    #[error(transparent)]
    Plan(#[from] crate::plan::Error),
}

/// A plan, and the netio folders of its labs.
pub struct Prepared {
    /// Everything, connected.
    pub plan: Plan,
    /// The folders, one a lab.
    pub folders: Vec<Folder>,
    /// What the user should know of how the request was understood.
    pub remarks: Vec<String>,
}

/// Who has a say in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Users {
    /// The user who runs the routers.
    pub lab: u32,
    /// Who called through sudo, if somebody did.
    pub caller: Option<u32>,
}

/// The users that `args` and the environment name.
///
/// # Errors
/// [`Error::Socket`] if `SUDO_UID` decides and is no number.
pub fn users(args: &Args) -> Result<Users, Error> {
    let own = rustix::process::getuid();
    let lab = default_uid(args.uid, |name| std::env::var_os(name), own.as_raw())?;
    // Only root can have been called through sudo, whatever the environment says.
    let sudo = std::env::var("SUDO_UID").ok().filter(|_| own.is_root());
    Ok(Users { lab, caller: sudo.and_then(|uid| uid.parse().ok()) })
}

/// Reads the NETMAP of `args` and makes the plan for `workers` workers.
///
/// # Errors
/// See [`Error`].
pub fn prepare(args: &Args, workers: usize) -> Result<Prepared, Error> {
    let file = netmap_file(args.netmap.as_deref());
    // Root's rights are not lent: faults are shown with the text of their lines.
    let netmap = crate::privileges::as_caller(|| Netmap::read(&file))?;
    let uid = users(args)?.lab;
    let path = args.netio_dir.clone().unwrap_or_else(|| default_path(uid));
    let folder = Folder::open(&path, uid)?;
    let mut remarks = Vec::new();
    remarks.extend(folder.empty_notice());

    let pseudo = match &args.pseudo {
        Some(ids) => {
            ids.check(&netmap, &file)?;
            ids.0.clone()
        }
        None => inferred(&netmap, &file, &folder, &mut remarks)?,
    };
    let hosts = hosts::classify(&netmap, &file, Arc::new(hosts::System), hosts::DEADLINE);
    remarks.extend(hosts.warnings.iter().map(ToString::to_string));
    let remote = hosts.remote.into_keys().collect();
    let lab = LabRequest { netmap, file, netio: folder.path().to_path_buf(), uid, pseudo, remote };
    let plan = Plan::new(&[lab], &args.interfaces, workers, args.flood_unknown)?;
    remarks.extend(plan.notes.iter().cloned());
    Ok(Prepared { plan, folders: vec![folder], remarks })
}

fn netmap_file(option: Option<&Path>) -> PathBuf {
    let from_environment =
        || std::env::var_os("NETIO_NETMAP").filter(|name| !name.is_empty()).map(PathBuf::from);
    option.map(Path::to_path_buf).or_else(from_environment).unwrap_or_else(|| PathBuf::from("NETMAP"))
}

fn inferred(
    netmap: &Netmap,
    file: &Path,
    folder: &Folder,
    remarks: &mut Vec<String>,
) -> Result<Vec<InstanceId>, Error> {
    let inferred = infer(netmap, file, folder.probe())?;
    for (id, why) in &inferred.in_use {
        remarks.push(format!("{id} looks like a pseudo id and is left alone: {why}"));
    }
    remarks.push(format!("pseudo ids inferred from {}: {}", file.display(), ranges(&inferred.ids)));
    Ok(inferred.ids)
}
