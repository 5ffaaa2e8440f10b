//! What the program is allowed to do, and how it drops the rest.
//!
//! ```text
//!   started as root, or with file capabilities
//!      │ drop_privileges: files are touched with the rights of the lab's user, no new privileges, only STARTUP is kept
//!      ├──► guard, a process: become_invoking_user, confine: GUARDING, files of the state directory, offloads
//!      ▼
//!   everything is brought up ──► workers:       confine: no capability, few system calls
//!      │                    ├──► socket maker:  confine: no capability, fewer still; in a network namespace of its own
//!      │                    └──► log, output:   confine: no capability, what every thread may; before all others
//!      ▼ confine
//!   control: RUNNING, the system calls of recovery
//! ```
//!
//! [`lists`] holds every capability and every system call with its reason. `docs/security.md` is the model.

pub mod lists;

use crate::sys;
use lists::{GUARDING, RUNNING, STARTUP};
use nix::unistd::{Gid, Uid, User, getgrouplist, getresgid, getresuid, setfsgid, setfsuid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use std::ffi::CString;

/// The number of capabilities that a 64-bit set can hold: more than any kernel knows.
const CAPABILITIES: u32 = 64;

/// The group of users that are in no list of users: `nogroup`.
const NOGROUP: u32 = 65534;

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root may act for others.
    #[error(
        "the routers' user is {user}, and user {own} may not act for another: run it as root, or as user {user} with \
         file capabilities"
    )]
    NotThatUser {
        /// The lab's user.
        user: u32,
        /// Who runs this.
        own: u32,
    },
    /// The system refuses.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The filter cannot be made or installed.
    #[error("cannot confine a thread to its system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Looks after everything, and recovers it.
    Control,
    /// Moves frames.
    Worker,
    /// Makes sockets in a network namespace of its own.
    SocketMaker,
    /// Writes the log, or what is printed.
    Output,
    /// Waits in a process of its own to put offloads back.
    Guard,
}

/// A user's id and groups.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// As the system's list of users has it. Who is not in there is in `nogroup` alone.
    fn of(uid: u32) -> Self {
        let uid = Uid::from_raw(uid);
        let listed = User::from_uid(uid).ok().flatten().and_then(|user| {
            let groups = getgrouplist(&CString::new(user.name).ok()?, user.gid).ok()?;
            Some((user.gid, groups))
        });
        let nogroup = Gid::from_raw(NOGROUP);
        let (gid, groups) = listed.unwrap_or((nogroup, vec![nogroup]));
        Self { uid, gid, groups }
    }
}

/// Drops, before anything is touched, what start-up does not need: call it first, while there is one thread.
///
/// From here on files are touched with the rights of `user`, whose routers they are. `caller` is who called through
/// sudo: where that is another, [`as_caller`] reads files with his rights and with those of his groups alone.
///
/// # Errors
/// [`Error::NotThatUser`] for another user without root's rights.
pub fn drop_privileges(user: u32, caller: Option<u32>) -> Result<(), Error> {
    let fail = |action| move |source: Errno| Error::System { action, source: source.into() };
    // Neither by executing a file with capabilities nor otherwise do they come back.
    thread::set_no_new_privs(true).map_err(fail("set no_new_privs"))?;
    // No debugger attaches, and no core file holds frames.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    keep(STARTUP | lists::DROP_PRIVILEGES).map_err(fail("drop capabilities"))?;
    close_bounding_set();
    become_user(user, caller)?;
    keep(STARTUP).map_err(fail("drop capabilities"))
}

/// Nothing that is executed gets capabilities any more, not even as root. Without CAP_SETPCAP, so with file capabilities,
/// only "no new privileges" sees to that.
fn close_bounding_set() {
    for number in 0..CAPABILITIES {
        // Numbers that this kernel does not know are refused.
        let _ = thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
    }
    let _ = thread::clear_ambient_capability_set();
    // Capabilities are what is kept explicitly, and come and go with no user id.
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    let _ = thread::set_capabilities_secure_bits(bits);
}

/// The effective ids become those of the lab's user. The real one stays, so that he can neither signal nor trace us and
/// [`as_invoking_user`] needs no capability; the saved one is that of `caller` for [`as_caller`].
fn become_user(user: u32, caller: Option<u32>) -> Result<(), Error> {
    let fail = |action| move |source: Errno| Error::System { action, source: source.into() };
    let own = rustix::process::geteuid().as_raw();
    let caller = caller.filter(|caller| *caller != user);
    if user == own && caller.is_none() {
        return Ok(());
    }
    if !thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(lists::CHANGE_USER)) {
        return Err(Error::NotThatUser { user, own });
    }
    let user = Account::of(user);
    let caller = caller.map(Account::of);
    let groups = caller.as_ref().map_or(&user.groups, |caller| &caller.groups);
    let groups: Vec<_> = groups.iter().map(|gid| raw_gid(*gid)).collect();
    thread::set_thread_groups(&groups).map_err(fail("take on the groups of the routers' user"))?;
    let saved = caller.as_ref().map(|caller| raw_gid(caller.gid));
    thread::set_thread_res_gid(None::<rustix::process::Gid>, raw_gid(user.gid), saved)
        .map_err(fail("take on the group of the routers' user"))?;
    let saved = caller.as_ref().map(|caller| raw_uid(caller.uid));
    thread::set_thread_res_uid(None::<rustix::process::Uid>, raw_uid(user.uid), saved)
        .map_err(fail("take on the rights of the routers' user"))
}

fn raw_uid(uid: Uid) -> rustix::process::Uid {
    rustix::process::Uid::from_raw(uid.as_raw())
}

fn raw_gid(gid: Gid) -> rustix::process::Gid {
    rustix::process::Gid::from_raw(gid.as_raw())
}

/// For the guard, which has no business with the lab's user: all ids become those of whoever started it.
///
/// # Errors
/// [`Error::System`]: the process must not go on then.
pub fn become_invoking_user() -> Result<(), Error> {
    let fail = |source: Errno| Error::System {
        action: "take off the rights of the routers' user",
        source: source.into(),
    };
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    thread::set_thread_res_gid(gid, gid, gid).map_err(fail)?;
    thread::set_thread_res_uid(uid, uid, uid).map_err(fail)?;
    // A change of ids makes a process dumpable by its user again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(fail)
}

/// Does `work` on files of whoever started this process: locks and records of NICs in `/run/iou-fast`.
pub fn as_invoking_user<T>(work: impl FnOnce() -> T) -> T {
    let ids = getresuid().ok().zip(getresgid().ok());
    let _back = ids.map(|(uids, gids)| FileRights::take(uids.real, gids.real));
    work()
}

/// Does `work` on files that the user named: with the rights of who called through sudo, where that is not the lab's
/// user, whose rights apply otherwise.
pub fn as_caller<T>(work: impl FnOnce() -> T) -> T {
    let ids = getresuid().ok().zip(getresgid().ok());
    let _back = ids
        .filter(|(uids, _)| uids.saved != uids.real)
        .map(|(uids, gids)| FileRights::take(uids.saved, gids.saved));
    work()
}

/// File rights (`fsuid`, `fsgid`) of this thread that go back to the effective ids when this is dropped.
struct FileRights;

impl FileRights {
    fn take(uid: Uid, gid: Gid) -> Self {
        // To ids that are one's own already, which these are, the kernel lets everyone change.
        setfsgid(gid);
        setfsuid(uid);
        Self
    }
}

impl Drop for FileRights {
    fn drop(&mut self) {
        setfsgid(Gid::effective());
        setfsuid(Uid::effective());
    }
}

/// Confines the calling thread, and those that it will start, to what `role` needs.
///
/// # Errors
/// [`Error::Filter`], [`Error::System`]: the thread must not go on then.
pub fn confine(role: Role) -> Result<(), Error> {
    let fail = |action| move |source: Errno| Error::System { action, source: source.into() };
    thread::set_no_new_privs(true).map_err(fail("set no_new_privs"))?;
    let kept = match role {
        Role::Control => RUNNING,
        Role::Guard => GUARDING,
        Role::Worker | Role::SocketMaker | Role::Output => CapabilitySet::empty(),
    };
    keep(kept).map_err(fail("drop capabilities"))?;
    sys::violation::report().map_err(fail("install a signal handler"))?;
    for filter in lists::filters(role)? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// Drops every capability of the calling thread: for one that only looks names up, in libraries of the system whose
/// system calls are not known.
///
/// # Errors
/// [`Error::System`]: the thread must not go on then.
pub fn drop_capability() -> Result<(), Error> {
    let fail = |source: Errno| Error::System { action: "drop capabilities", source: source.into() };
    keep(CapabilitySet::empty()).map_err(fail)
}

/// Keeps those capabilities of `wanted` that the thread has.
fn keep(wanted: CapabilitySet) -> Result<(), Errno> {
    let kept = thread::capabilities(None)?.permitted & wanted;
    let inheritable = CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    const ROLE: &str = "IOU_FAST_TEST_PRIVILEGES";

    /// This test program again with `test` alone, as another process: what a thread gives up is gone for good.
    fn again(test: &str) -> Output {
        command(test).output().unwrap()
    }

    fn command(test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("privileges::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, "1").env("RUST_BACKTRACE", "1");
        command
    }

    fn is_again() -> bool {
        std::env::var_os(ROLE).is_some()
    }

    /// What `work` does in a thread with that name and role.
    fn confined(name: &str, role: Role, work: impl FnOnce() + Send + 'static) -> std::thread::Result<()> {
        let work = move || {
            confine(role).unwrap();
            work();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work).unwrap().join()
    }

    #[test]
    fn a_call_that_is_not_listed_ends_the_process_and_is_named() {
        if is_again() {
            // A socket that leads out; a worker has no use for one.
            let _ = confined("worker 7", Role::Worker, || {
                let _ = std::net::UdpSocket::bind("127.0.0.1:0");
                println!("went on");
            });
            return;
        }
        let output = again("a_call_that_is_not_listed_ends_the_process_and_is_named");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(sys::violation::EXIT), "{said}");
        let line =
            format!("thread \"worker 7\" made system call {}, which is not on its list", libc::SYS_socket);
        assert!(said.contains(&line), "{said}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("went on"));
    }

    /// Promise `log-blocked`.
    #[test]
    fn violation_ends_the_process_also_when_its_line_is_not_read() {
        if is_again() {
            let _ = confined("worker 7", Role::Worker, || drop(std::net::UdpSocket::bind("127.0.0.1:0")));
            return;
        }
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (_reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
        let test = "violation_ends_the_process_also_when_its_line_is_not_read";
        let mut child = command(test).stdout(std::process::Stdio::null()).stderr(writer).spawn().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if std::time::Instant::now() > end => break None,
                None => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        };
        let _ = child.kill();
        assert_eq!(status.and_then(|status| status.code()), Some(sys::violation::EXIT));
    }

    #[test]
    fn no_thread_executes_a_program() {
        if is_again() {
            let _ = confined("control", Role::Control, || {
                let _ = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/echo"));
                println!("went on");
            });
            return;
        }
        let output = again("no_thread_executes_a_program");
        assert_eq!(output.status.code(), Some(sys::violation::EXIT));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("thread \"control\" made system call"), "{said}");
    }

    #[test]
    fn a_confined_worker_that_panics_says_so_and_lets_others_go_on() {
        if is_again() {
            crate::log::report_panics();
            let joined = confined("worker 7", Role::Worker, || {
                let table = std::collections::HashMap::<u64, Vec<u8>>::from([(1, vec![0; 1 << 20])]);
                assert_eq!(table[&1].len(), 3, "a bug in a test");
            });
            assert!(joined.is_err());
            eprintln!("went on");
            return;
        }
        let output = again("a_confined_worker_that_panics_says_so_and_lets_others_go_on");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("thread \"worker 7\" panicked at src/privileges.rs"), "{said}");
        assert!(said.contains("a bug in a test") && said.contains("please report it"), "{said}");
        assert!(said.contains("went on"), "{said}");
    }

    #[test]
    fn memory_of_confined_threads_is_never_executable() {
        if is_again() {
            let joined = confined("worker 7", Role::Worker, || {
                assert!(sys::violation::tests::executable_memory().is_err());
                // A file that the C library may look for: it does not get it, and goes on.
                assert!(std::fs::File::open("/sys/devices/system/cpu/online").is_err());
                eprintln!("went on");
            });
            return joined.unwrap();
        }
        let output = again("memory_of_confined_threads_is_never_executable");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("went on"), "{said}");
    }

    #[test]
    fn who_is_in_no_list_is_in_no_group() {
        let unknown = Account::of(4_111_222_333);
        assert_eq!(unknown.groups, [Gid::from_raw(NOGROUP)]);
        let root = Account::of(0);
        assert_eq!(root.gid.as_raw(), 0);
        assert!(root.groups.contains(&root.gid));
    }
}
