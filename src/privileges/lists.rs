//! Every capability that is kept and every system call that is let through, with its reason. What is not here is not
//! had: a capability is dropped for good, and a system call ends the process with a line that names it
//! ([`sys::violation`](crate::sys::violation)), or is refused where libraries can live with that ([`REFUSED`]).
//!
//! Who needs another: `strace -f` shows what a new piece of code calls; put it here with the reason, as narrow as it
//! goes, and say so in `docs/security.md` if it is a capability.

use super::Role;
use libc::{self as c, c_long as Number};
use rustix::thread::CapabilitySet as Set;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// What the control thread keeps while routers run, to take a NIC again that was removed, and to make sockets.
pub const RUNNING: Set = Set::NET_ADMIN // attach XDP, offloads, send buffers beyond net.core.wmem_max
    .union(Set::NET_RAW) // AF_XDP sockets, the AF_PACKET socket that keeps a NIC promiscuous
    .union(Set::BPF) // attach the program, where unprivileged BPF is off
    .union(Set::IPC_LOCK); // register memory for frames beyond RLIMIT_MEMLOCK, 8 MB as a rule

/// What the guard keeps: it does nothing but turn offloads on again.
pub const GUARDING: Set = Set::NET_ADMIN;

/// What start-up needs besides: given up before the first router is told `ready`.
pub const STARTUP: Set = RUNNING
    // Load the program: without it the verifier also follows what a CPU might guess, where the loops of the program have
    // no end, and has the JIT put barriers in the path of every frame.
    .union(Set::PERFMON)
    .union(Set::SYS_ADMIN) // the network namespace in which pseudo sockets are made; whose program is on a NIC
    .union(Set::SYS_PTRACE); // which process holds a NIC or a socket that we want

/// Only to act for the routers' user: gone before the first of his files is touched.
pub const DROP_PRIVILEGES: Set = CHANGE_USER.union(Set::SETPCAP); // empty the bounding set, set the secure bits

/// Of [`DROP_PRIVILEGES`], what changing to another user takes.
pub(super) const CHANGE_USER: Set = Set::SETUID.union(Set::SETGID);

/// Memory, locks, time, ending, and telling why: what any thread does.
const EVERY: &[Number] = &[
    // Memory; mmap and mprotect are refused what could be executed, see REFUSED.
    c::SYS_brk,
    c::SYS_mmap,
    c::SYS_mprotect,
    c::SYS_munmap,
    c::SYS_mremap,
    c::SYS_madvise,
    c::SYS_getrandom,
    // Locks, time, waiting.
    c::SYS_futex,
    c::SYS_sched_yield,
    c::SYS_clock_gettime,
    c::SYS_gettimeofday,
    c::SYS_nanosleep,
    c::SYS_clock_nanosleep,
    c::SYS_restart_syscall,
    // The C library asks how many CPUs there are when it makes a memory pool.
    c::SYS_sched_getaffinity,
    // Eventfds, the log, and, in the handler of a signal, the socket that tells of it.
    c::SYS_read,
    c::SYS_write,
    c::SYS_writev,
    c::SYS_sendto,
    c::SYS_close,
    // Is there room on standard error for a thread's last words?
    c::SYS_ppoll,
    // Threads that end, panic, or get a signal.
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_rt_sigreturn,
    c::SYS_rt_sigprocmask,
    c::SYS_sigaltstack,
    c::SYS_getpid,
    c::SYS_gettid,
];

/// What moves frames.
const WORKER: &[Number] = &[
    c::SYS_recvfrom, // wakes the kernel's side of a fill ring
    c::SYS_sendmmsg,
    c::SYS_recvmmsg,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_epoll_pwait2,
    c::SYS_getsockopt, // what the rings dropped, for the summary
];
/// Numbers that only older architectures have.
#[cfg(target_arch = "x86_64")]
const WORKER_OLD: &[Number] = &[c::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const WORKER_OLD: &[Number] = &[];

/// What makes a socket.
const SOCKET_MAKER: &[Number] = &[c::SYS_setsockopt];

/// What looks after everything and recovers it.
const CONTROL: &[Number] = &[
    // Waiting for news.
    c::SYS_epoll_create1,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_epoll_pwait2,
    c::SYS_eventfd2,
    c::SYS_inotify_init1,
    c::SYS_inotify_add_watch,
    c::SYS_inotify_rm_watch,
    // Files: netio directories and NETMAP with the rights of the routers' user, /run/iou-fast with the starter's.
    c::SYS_openat,
    c::SYS_lseek,
    c::SYS_pread64,
    c::SYS_pwrite64,
    c::SYS_readv,
    c::SYS_fstat,
    c::SYS_newfstatat,
    c::SYS_statx,
    c::SYS_faccessat,
    c::SYS_faccessat2,
    c::SYS_readlinkat,
    c::SYS_getdents64,
    c::SYS_getcwd,
    c::SYS_flock,
    c::SYS_dup,
    c::SYS_fsync,
    c::SYS_ftruncate,
    c::SYS_fchmod,
    c::SYS_fchown,
    c::SYS_fchownat,
    c::SYS_mkdirat,
    c::SYS_unlinkat,
    c::SYS_renameat,
    c::SYS_renameat2,
    c::SYS_umask,
    // Whose rights: the kernel lets a thread only change among ids that are its own.
    c::SYS_setfsuid,
    c::SYS_setfsgid,
    c::SYS_getuid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_getegid,
    c::SYS_getresuid,
    c::SYS_getresgid,
    // Sockets: of which kinds, see `control_rules`.
    c::SYS_socketpair,
    c::SYS_bind,
    c::SYS_connect,
    c::SYS_setsockopt,
    c::SYS_getsockopt,
    c::SYS_getsockname,
    c::SYS_getpeername,
    c::SYS_sendmsg,
    c::SYS_sendmmsg,
    c::SYS_recvfrom,
    c::SYS_recvmsg,
    c::SYS_recvmmsg,
    // A thread more: a worker, or one that looks a name up. What they start with, and how they are confined further.
    c::SYS_clone3,
    c::SYS_rseq,
    c::SYS_set_robust_list,
    c::SYS_set_tid_address,
    c::SYS_rt_sigaction,
    c::SYS_sched_setaffinity,
    c::SYS_capget,
    c::SYS_capset,
    c::SYS_seccomp,
    // What kind of system, and how many files: for messages and limits.
    c::SYS_uname,
    c::SYS_sysinfo,
    c::SYS_prlimit64,
    // The guard, when it has ended.
    c::SYS_wait4,
];
#[cfg(target_arch = "x86_64")]
const CONTROL_OLD: &[Number] = &[
    c::SYS_poll,
    c::SYS_epoll_wait,
    c::SYS_open,
    c::SYS_stat,
    c::SYS_lstat,
    c::SYS_access,
    c::SYS_readlink,
    c::SYS_mkdir,
    c::SYS_rmdir,
    c::SYS_unlink,
    c::SYS_rename,
    c::SYS_chmod,
    c::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const CONTROL_OLD: &[Number] = &[];

/// What puts offloads back after a kill.
const GUARD: &[Number] = &[
    // Waiting for the end of the process that it guards.
    c::SYS_ppoll,
    // Locks and records in the state directory.
    c::SYS_openat,
    c::SYS_fstat,
    c::SYS_newfstatat,
    c::SYS_statx,
    c::SYS_getdents64,
    c::SYS_lseek,
    c::SYS_flock,
    c::SYS_pread64,
    c::SYS_pwrite64,
    c::SYS_ftruncate,
    c::SYS_unlinkat,
    c::SYS_setfsuid,
    c::SYS_setfsgid,
    c::SYS_getuid,
    c::SYS_geteuid,
    c::SYS_getegid,
    c::SYS_getresuid,
    c::SYS_getresgid,
    // Which network namespace is this?
    c::SYS_getsockopt,
];
#[cfg(target_arch = "x86_64")]
const GUARD_OLD: &[Number] = &[c::SYS_poll, c::SYS_open, c::SYS_stat, c::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const GUARD_OLD: &[Number] = &[];

/// Kinds of sockets: routers; NICs; frames; promiscuous mode; the addresses of hosts in a NETMAP.
const FAMILIES: &[i32] = &[c::AF_UNIX, c::AF_NETLINK, c::AF_XDP, c::AF_PACKET, c::AF_INET, c::AF_INET6];

/// Locks of instance ids, further descriptors for the same thing.
const FCNTLS: &[i32] =
    &[c::F_GETFD, c::F_SETFD, c::F_GETFL, c::F_SETFL, c::F_DUPFD_CLOEXEC, c::F_GETLK, c::F_SETLK];

/// Questions about NICs and their offloads (src/sys/device.rs, src/sys/ethtool.rs).
const IOCTLS: &[u64] = &[
    c::SIOCETHTOOL,
    c::SIOCGIFINDEX,
    c::SIOCGIFNAME,
    c::SIOCGIFFLAGS,
    c::SIOCGIFMTU,
    c::SIOCGIFHWADDR,
    c::FIONREAD, // the C library's resolver
    c::TCGETS,   // is it a terminal?
];

/// `bpf` on descriptors: tables that a worker learns into.
const BPF_ELEMENTS: &[u32] =
    &[libbpf_sys::BPF_MAP_LOOKUP_ELEM, libbpf_sys::BPF_MAP_UPDATE_ELEM, libbpf_sys::BPF_MAP_DELETE_ELEM];

/// `bpf` for a NIC taken again: attach, and say who is there already. The program and its maps stay: nothing is made,
/// loaded, pinned or traced.
const BPF_CONTROL: &[u32] = &[
    libbpf_sys::BPF_MAP_GET_NEXT_KEY,
    libbpf_sys::BPF_MAP_GET_FD_BY_ID,
    libbpf_sys::BPF_BTF_GET_FD_BY_ID,
    libbpf_sys::BPF_OBJ_GET_INFO_BY_FD,
    libbpf_sys::BPF_LINK_CREATE,
    libbpf_sys::BPF_LINK_UPDATE,
    libbpf_sys::BPF_LINK_DETACH,
    libbpf_sys::BPF_LINK_GET_NEXT_ID,
    libbpf_sys::BPF_LINK_GET_FD_BY_ID,
    libbpf_sys::BPF_PROG_GET_NEXT_ID,
    libbpf_sys::BPF_PROG_GET_FD_BY_ID,
];

/// A thread's own matters: its name, how exactly it is woken, dropping its rights.
const PRCTLS: &[i32] = &[
    c::PR_SET_NAME,
    c::PR_GET_NAME,
    c::PR_SET_TIMERSLACK,
    c::PR_SET_NO_NEW_PRIVS,
    c::PR_SET_VMA, // the C library names its memory
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters of `role`, compiled, in the order to install them: with the last one, installing another may be over.
/// All of them apply, and of their verdicts the strictest.
pub(super) fn filters(role: Role) -> Result<Vec<BpfProgram>, Error> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed = Rules::new();
    let mut refused = Rules::new();
    every_rules(&mut allowed)?;
    let executable = condition(2, Is::MaskedEq(c::PROT_EXEC as u64), c::PROT_EXEC as u64)?;
    for call in [c::SYS_mmap, c::SYS_mprotect] {
        refused.insert(call, vec![SeccompRule::new(vec![executable.clone()])?]);
    }
    match role {
        Role::Worker => {
            allow(&mut allowed, WORKER);
            allow(&mut allowed, WORKER_OLD);
            one_of(&mut allowed, c::SYS_bpf, 0, BPF_ELEMENTS.iter().map(|n| u64::from(*n)))?;
        }
        Role::SocketMaker => {
            allow(&mut allowed, SOCKET_MAKER);
            one_of(&mut allowed, c::SYS_socket, 0, [c::AF_UNIX as u64])?;
        }
        Role::Output => {}
        Role::Control => control_rules(&mut allowed)?,
        Role::Guard => {
            allow(&mut allowed, GUARD);
            allow(&mut allowed, GUARD_OLD);
            one_of(&mut allowed, c::SYS_socket, 0, [c::AF_UNIX as u64])?;
            one_of(&mut allowed, c::SYS_ioctl, 1, IOCTLS.iter().copied())?;
            // Is what is to be listed open for reading?
            one_of(&mut allowed, c::SYS_fcntl, 1, [c::F_GETFD as u64, c::F_GETFL as u64])?;
        }
    }
    for call in REFUSED {
        if !allowed.contains_key(call) || *call == c::SYS_clone3 {
            allowed.insert(*call, Vec::new());
            refused.insert(*call, Vec::new());
        }
    }
    let no_such_call = SeccompAction::Errno(c::ENOSYS as u32);
    let allow = SeccompFilter::new(allowed, SeccompAction::Trap, SeccompAction::Allow, machine)?;
    let refuse = SeccompFilter::new(refused, SeccompAction::Allow, no_such_call, machine)?;
    Ok(vec![refuse.try_into()?, allow.try_into()?])
}

/// What libraries try and can do without. They get ENOSYS, and go another way.
const REFUSED: &[Number] = &[
    // The flags of a new thread are in memory, where no filter sees them: `clone` it is.
    c::SYS_clone3,
    // Some versions of the C library look into /sys for CPUs, which EVERY thread's sched_getaffinity tells as well.
    c::SYS_openat,
];

fn every_rules(rules: &mut Rules) -> Result<(), Error> {
    allow(rules, EVERY);
    one_of(rules, c::SYS_prctl, 0, PRCTLS.iter().map(|n| *n as u64))?;
    // Debug builds make sure that what they close is open.
    one_of(rules, c::SYS_fcntl, 1, [c::F_GETFD as u64])?;
    // `abort` sends itself a signal; no other process gets one.
    one_of(rules, c::SYS_tgkill, 0, [u64::from(std::process::id())])
}

fn control_rules(rules: &mut Rules) -> Result<(), Error> {
    allow(rules, CONTROL);
    allow(rules, CONTROL_OLD);
    one_of(rules, c::SYS_socket, 0, FAMILIES.iter().map(|n| *n as u64))?;
    one_of(rules, c::SYS_fcntl, 1, FCNTLS.iter().map(|n| *n as u64))?;
    one_of(rules, c::SYS_ioctl, 1, IOCTLS.iter().copied())?;
    let commands = BPF_ELEMENTS.iter().chain(BPF_CONTROL);
    one_of(rules, c::SYS_bpf, 0, commands.map(|n| u64::from(*n)))?;
    // Threads, no processes.
    let thread = condition(0, Is::MaskedEq(c::CLONE_THREAD as u64), c::CLONE_THREAD as u64)?;
    rules.insert(c::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    Ok(())
}

fn allow(rules: &mut Rules, calls: &[Number]) {
    rules.extend(calls.iter().map(|call| (*call, Vec::new())));
}

/// `call` is let through where its argument is one of `values`.
fn one_of(
    rules: &mut Rules,
    call: Number,
    argument: u8,
    values: impl IntoIterator<Item = u64>,
) -> Result<(), Error> {
    let rule = |value| Ok(SeccompRule::new(vec![condition(argument, Is::Eq, value)?])?);
    let list = values.into_iter().map(rule).collect::<Result<Vec<_>, Error>>()?;
    rules.insert(call, list);
    Ok(())
}

fn condition(argument: u8, is: Is, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, Length::Dword, is, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_filters_that_compile() {
        for role in [Role::Control, Role::Worker, Role::SocketMaker, Role::Output, Role::Guard] {
            let filters = filters(role).unwrap();
            assert_eq!(filters.len(), 2);
            assert!(filters.iter().all(|filter| filter.len() > 8), "{role:?}");
        }
    }

    #[test]
    fn no_role_may_execute_trace_or_change_identity() {
        let never = [
            c::SYS_execve,
            c::SYS_execveat,
            c::SYS_ptrace,
            c::SYS_process_vm_writev,
            c::SYS_setuid,
            c::SYS_setresuid,
            c::SYS_setgroups,
            c::SYS_unshare,
            c::SYS_setns,
            c::SYS_mount,
            c::SYS_kill,
            c::SYS_io_uring_setup,
            c::SYS_symlinkat,
            c::SYS_linkat,
            c::SYS_mknodat,
        ];
        let lists =
            [EVERY, WORKER, WORKER_OLD, SOCKET_MAKER, CONTROL, CONTROL_OLD, GUARD, GUARD_OLD, REFUSED];
        for call in lists.concat() {
            assert!(!never.contains(&call), "{call}");
        }
    }

    #[test]
    fn what_runs_on_is_less_than_what_starts() {
        assert!(STARTUP.contains(RUNNING) && RUNNING.contains(GUARDING));
        assert!(!RUNNING.intersects(Set::SYS_ADMIN | Set::SYS_PTRACE | DROP_PRIVILEGES));
        assert!(!STARTUP.intersects(Set::DAC_OVERRIDE | Set::DAC_READ_SEARCH | Set::FOWNER | Set::CHOWN));
    }
}
