//! Puts the XDP program on a NIC, natively in its driver where that can be, and takes it off again.

use super::{Error, Nic};
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, ProgInfoIter};
use libbpf_rs::{Xdp, XdpFlags};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The links of a killed process stay on the NIC until the kernel has taken it down: 62 ms were seen.
pub const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpModeChoice {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    /// Native or not at all.
    Native,
    /// Generic, whatever the driver can.
    Generic,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel has made an `skb` of the frame.
    Native,
    /// In the kernel's receive path, with any driver, at the cost of a copy.
    Generic,
}

impl XdpMode {
    const fn flags(self) -> u32 {
        match self {
            Self::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            Self::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// An XDP program on a NIC. It goes when `link` is closed, at the latest with the process.
#[derive(Debug)]
pub struct Attachment {
    /// The `bpf_link`.
    pub link: OwnedFd,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Chunks that a frame may take in zero-copy mode. `None`: the driver has no such mode, or the kernel is older than
    /// 6.6 and does not say.
    pub zero_copy_chunks: Option<u32>,
}

/// How many chunks a frame may take in zero-copy mode.
fn zero_copy_chunks(program: BorrowedFd<'_>, nic: &Nic) -> Option<u32> {
    /// `NETDEV_XDP_ACT_XSK_ZEROCOPY` in include/uapi/linux/netdev.h.
    const ZERO_COPY: u64 = 8;
    let found = Xdp::new(program).query(nic.index().cast_signed(), XdpFlags::NONE).ok()?;
    (found.feature_flags & ZERO_COPY != 0).then_some(found.xdp_zc_max_segs)
}

impl Attachment {
    /// Whether the program is still on `nic`: it was not detached, and the NIC was not removed.
    #[must_use]
    pub fn is_on(&self, nic: &Nic) -> bool {
        // What cannot be read is not acted upon.
        crate::sys::xdp_attach::linked_to(self.link.as_fd()).map_or(true, |index| index == nic.index())
    }
}

/// Attaches `program` to `nic`. Call it in the network namespace of the NIC.
///
/// Some NICs lose carrier for two seconds here. [`XdpModeChoice::Auto`] warns loudly when it has to take generic
/// mode; the caller then quiets the offloads for that.
///
/// # Errors
/// [`Error::Occupied`] when a program is there already, and stays for a second. [`Error::Attach`] with an
/// explanation where there is one. [`Error::OtherNamespace`].
pub fn attach(program: BorrowedFd<'_>, nic: &Nic, choice: XdpModeChoice) -> Result<Attachment, Error> {
    attach_within(program, nic, choice, PATIENCE)
}

/// As [`attach`], waiting for `patience` only for a program that is there already to go.
///
/// # Errors
/// As for [`attach`].
pub fn attach_within(
    program: BorrowedFd<'_>,
    nic: &Nic,
    choice: XdpModeChoice,
    patience: Duration,
) -> Result<Attachment, Error> {
    nic.require_own_namespace()?;
    let first = if choice == XdpModeChoice::Generic { XdpMode::Generic } else { XdpMode::Native };
    let refused = match attach_in(program, nic, first, patience) {
        Err(Error::Attach { source, hint, .. })
            if choice == XdpModeChoice::Auto && worth_a_generic_try(source) =>
        {
            format!("{source}: {hint}")
        }
        other => return other,
    };
    tracing::warn!(
        nic = %nic.name(),
        "its driver {} takes no native XDP program ({refused}); using generic mode, which costs a copy and much of the \
         speed",
        nic.driver()
    );
    attach_in(program, nic, XdpMode::Generic, patience)
}

fn attach_in(
    program: BorrowedFd<'_>,
    nic: &Nic,
    mode: XdpMode,
    patience: Duration,
) -> Result<Attachment, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let source = match crate::sys::xdp_attach::link_xdp(program, nic.index(), mode.flags()) {
            Ok(link) => {
                return Ok(Attachment { link, mode, zero_copy_chunks: zero_copy_chunks(program, nic) });
            }
            Err(errno) => errno,
        };
        let occupied = matches!(source, Errno::BUSY | Errno::EXIST);
        if occupied && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
            continue;
        }
        let name = nic.name().to_owned();
        // Some drivers say EBUSY for reasons of their own.
        if let Some(attached) = occupied.then(|| AttachedProgram::of(program, nic)).flatten() {
            return Err(Error::Occupied { name, attached: Box::new(attached) });
        }
        let hint = explain(source, mode, nic.driver(), nic.mtu());
        return Err(Error::Attach { name, mode, source, hint });
    }
}

/// Whether generic mode could succeed where native mode failed so. Without rights, or without the NIC, it cannot.
fn worth_a_generic_try(errno: Errno) -> bool {
    !matches!(errno, Errno::PERM | Errno::ACCESS | Errno::NODEV | Errno::BADF | Errno::NOSYS)
}

/// What a refusal means, in the words of who has to do something about it.
fn explain(errno: Errno, mode: XdpMode, driver: &str, mtu: u32) -> String {
    let generic = if mode == XdpMode::Native { "; or try `--xdp-mode generic`" } else { "" };
    let text = match errno {
        Errno::PERM | Errno::ACCESS => {
            return "run as root (CAP_NET_ADMIN and CAP_BPF); in a container or under kernel lockdown the host \
                    must allow BPF"
                .into();
        }
        Errno::NODEV => return "the NIC is gone".into(),
        // veth_xdp_set() in the kernel's drivers/net/veth.c.
        Errno::NOSPC if driver == "veth" => {
            "the peer has more TX queues than this end has RX queues: create the pair with as many, `ip link add \
             ... numrxqueues N type veth peer ... numtxqueues N`, or reduce them, `ethtool -L PEER tx N`"
        }
        Errno::INVAL | Errno::RANGE => {
            return format!(
                "its MTU of {mtu} may be too large for XDP in driver {driver}, try `ip link set dev ... mtu 1500`; \
                 or an offload (`ethtool -K ... lro off`) or the ring size (`ethtool -G`) is in the way, `dmesg` may \
                 say which{generic}"
            );
        }
        Errno::OPNOTSUPP if mode == XdpMode::Native => {
            "the driver has no native XDP; try `--xdp-mode generic`"
        }
        Errno::NOMEM | Errno::NOSPC => {
            return format!(
                "no memory or no queues left for XDP in driver {driver}: many drivers need a spare TX queue for \
                 each CPU, try fewer channels, `ethtool -L ... combined N`{generic}"
            );
        }
        _ => return format!("`dmesg` may say why{generic}"),
    };
    text.into()
}

/// The XDP program that is on a NIC already, as far as the kernel tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The NIC.
    interface: String,
    /// The kernel's number for the program.
    id: u32,
    /// Its name, empty where it has none.
    name: String,
    /// The flag word of `ip link` that removes it where no link holds it: `xdpdrv`, `xdpgeneric`, `xdpoffload`.
    place: &'static str,
    /// The `bpf_link` that holds it; without one it was put there by `ip link` or a like of it.
    link: Option<u32>,
    /// A process that has this link open, and what it is called.
    process: Option<(u32, String)>,
    /// Who loaded it, and which processes of his are called iou-fast. `None` where the kernel tells nothing about it.
    owner: Option<(u32, Vec<u32>)>,
}

/// The name of iou-fast's own XDP program.
const OWN: &str = "steer";

impl AttachedProgram {
    /// `None` where the kernel shows no program.
    fn of(program: BorrowedFd<'_>, nic: &Nic) -> Option<Self> {
        let found = Xdp::new(program).query(nic.index().cast_signed(), XdpFlags::NONE).ok()?;
        let (id, place) = match (found.drv_prog_id, found.skb_prog_id, found.hw_prog_id) {
            (0, 0, 0) => return None,
            (0, 0, hardware) => (hardware, "xdpoffload"),
            (0, generic, _) => (generic, "xdpgeneric"),
            (native, _, _) => (native, "xdpdrv"),
        };
        let mut attached = Self { interface: nic.name().to_owned(), id, place, ..Self::default() };
        if let Some(info) = ProgInfoIter::default().find(|info| info.id == attached.id) {
            attached.name = info.name.to_string_lossy().into_owned();
            attached.owner = Some((info.created_by_uid, Vec::new()));
        }
        let holds_it = |link: &libbpf_rs::query::LinkInfo| {
            link.prog_id == attached.id
                && matches!(&link.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == nic.index())
        };
        attached.link = LinkInfoIter::default().find(holds_it).map(|link| link.id);
        attached.process = crate::privileges::as_invoking_user(|| attached.link.and_then(link_holder));
        if let Some((uid, pids)) = &mut attached.owner {
            *pids = processes(env!("CARGO_PKG_NAME"), *uid);
        }
        Some(attached)
    }
}

impl fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, id, name, place, link, process, owner } = self;
        write!(f, "has an XDP program already, and a NIC takes one only: ")?;
        if name.is_empty() {
            write!(f, "id {id}")?;
        } else {
            write!(f, "{name:?}, id {id}")?;
        }
        match (link, process, owner) {
            (Some(_), Some((pid, command)), _) => {
                write!(f, ", held by pid {pid} ({command}): end that process")
            }
            // Whose descriptors only he and root may see.
            (Some(_), None, Some((uid, pids))) if name == OWN => {
                let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                let pids =
                    if pids.is_empty() { String::new() } else { format!(" (pid {})", pids.join(" or ")) };
                write!(
                    f,
                    ", held by iou-fast of user {uid}{pids}: one process at a time can use a NIC; have that one \
                     ended, or serve all routers of this NIC from it"
                )
            }
            (Some(link), None, _) => write!(f, ": `bpftool link detach id {link}` removes it"),
            (None, _, Some(_)) => write!(f, ": `ip link set dev {interface} {place} off` removes it"),
            // Then no link is shown either. One keeps `ip` from removing it.
            (None, _, None) => write!(
                f,
                ": `ip link set dev {interface} {place} off` removes it, unless a process holds it: as root, `bpftool prog \
                 show id {id}` tells who loaded it"
            ),
        }
    }
}

/// The processes called `name` of the user with this real id, as far as they are seen.
fn processes(name: &str, uid: u32) -> Vec<u32> {
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && is_process(&status(*pid), name, uid)).collect()
}

/// Whether this `/proc/PID/status` is that of a process called `name` of the user with this real id.
fn is_process(status: &str, name: &str, uid: u32) -> bool {
    let field = |key: &str| {
        status.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next())
    };
    field("Name:") == Some(name) && field("Uid:").and_then(|real| real.parse().ok()) == Some(uid)
}

/// A process that has BPF link `id` open, and its name. Looks through the descriptors of all processes; only what
/// is in this pid namespace is seen, and as root.
fn link_holder(id: u32) -> Option<(u32, String)> {
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fdinfo")) else { continue };
        let has_link = descriptors
            .flatten()
            .filter_map(|descriptor| std::fs::read_to_string(descriptor.path()).ok())
            .any(|info| is_link(&info, id));
        if has_link {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, command.trim_end().to_owned()));
        }
    }
    None
}

/// Whether this `/proc/PID/fdinfo/FD` is that of BPF link `id`.
fn is_link(info: &str, id: u32) -> bool {
    info.lines()
        .any(|line| line.strip_prefix("link_id:").is_some_and(|number| number.trim().parse() == Ok(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        let native = |errno, driver| explain(errno, XdpMode::Native, driver, 9000);
        assert!(
            native(Errno::NOSPC, "veth").contains("the peer has more TX queues than this end has RX queues")
        );
        assert!(native(Errno::RANGE, "veth").contains("MTU of 9000"));
        assert!(native(Errno::INVAL, "ixgbe").contains("MTU of 9000"));
        assert!(native(Errno::NOMEM, "ixgbe").contains("ethtool -L"));
        assert!(native(Errno::PERM, "ixgbe").contains("root"));
        // Every refusal of native mode that generic mode may get around says so.
        for errno in [Errno::RANGE, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOMEM, Errno::IO] {
            assert!(native(errno, "ixgbe").contains("--xdp-mode generic"), "{errno}");
            assert!(worth_a_generic_try(errno));
            assert!(!explain(errno, XdpMode::Generic, "ixgbe", 1500).contains("--xdp-mode"), "{errno}");
        }
        assert!(!worth_a_generic_try(Errno::PERM));
    }

    #[test]
    fn attached_program_is_named_with_the_command_that_removes_it() {
        let ip = AttachedProgram {
            interface: "eth0".into(),
            id: 7,
            name: "filter".into(),
            place: "xdpgeneric",
            owner: Some((0, Vec::new())),
            ..AttachedProgram::default()
        };
        let text = ip.to_string();
        assert!(
            text.contains("\"filter\", id 7") && text.contains("`ip link set dev eth0 xdpgeneric off`"),
            "{text}"
        );
        let pinned = AttachedProgram { link: Some(3), ..ip.clone() };
        assert!(pinned.to_string().contains("`bpftool link detach id 3`"));
        let ours = AttachedProgram { name: OWN.into(), owner: Some((61000, vec![12, 34])), ..pinned.clone() };
        let text = ours.to_string();
        assert!(
            text.contains("held by iou-fast of user 61000 (pid 12 or 34)") && !text.contains("`"),
            "{text}"
        );
        let unseen = AttachedProgram { owner: Some((61000, vec![])), ..ours };
        assert!(unseen.to_string().contains("held by iou-fast of user 61000: "));
        let held = AttachedProgram { process: Some((1234, "iou-fast".into())), ..pinned };
        assert!(held.to_string().contains("held by pid 1234 (iou-fast)"));
        // Without the right to ask: it may well be held by a link, and then `ip` does not remove it.
        let unknown = AttachedProgram { owner: None, name: String::new(), ..ip };
        let text = unknown.to_string();
        assert!(
            text.contains("off` removes it, unless a process holds it") && text.contains("show id 7`"),
            "{text}"
        );
    }

    #[test]
    fn processes_are_told_apart_by_name_and_real_user() {
        let status = "Name:\tiou-fast\nUmask:\t0022\nUid:\t61000\t0\t0\t0\n";
        assert!(is_process(status, "iou-fast", 61000));
        assert!(!is_process(status, "iou-fast", 0) && !is_process(status, "iou", 61000));
        assert!(!is_process("", "iou-fast", 0));
    }

    #[test]
    fn descriptors_are_told_apart_by_their_link() {
        let info = "pos:\t0\nflags:\t02000002\nlink_type:\txdp\nlink_id:\t12\nprog_id:\t7\nifindex:\t2\n";
        assert!(is_link(info, 12));
        assert!(!is_link(info, 1));
        assert!(!is_link("pos:\t0\nino:\t12\n", 12));
    }
}
