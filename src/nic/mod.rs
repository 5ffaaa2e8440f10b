//! Everything about one NIC except its rings: finding it, locking it for this process alone, its offloads, promiscuous
//! mode, the XDP program on it, its link, and the state machine of what becomes of it.
//!
//! All of it goes through sockets (`ioctl`, netlink), never `/sys/class/net`, which may show another network
//! namespace. What is done to a NIC is undone when the value that stands for it is dropped. Take and drop in
//! this order, because drivers refuse to turn some offloads back on under an XDP program:
//! [`NicLock`](lock::NicLock), [`Offloads`](offload::Offloads), [`Promiscuous`](promisc::Promiscuous),
//! [`Attachment`](attach::Attachment); and back.

pub mod attach;
pub(crate) mod device;
pub(crate) mod flap_damping;
pub mod kernel;
pub mod left;
pub mod links;
pub mod lock;
pub mod lower;
mod merging;
pub mod offload;
pub mod promisc;
pub(crate) mod state;
pub mod watch;

use crate::ether::Mac;
use crate::sys::device::{DeviceSocket, interface_names};
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;

/// What may go wrong with a NIC.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name given is no interface of this network namespace.
    #[error("no network interface {name:?} here; there are: {}", present.join(", "))]
    NoSuchInterface {
        /// The name given.
        name: String,
        /// The interfaces that exist.
        present: Vec<String>,
    },
    /// The interface carries something else than Ethernet frames.
    #[error(
        "{name} is not an Ethernet interface but {} (hardware type {hardware}): routers can be bridged to \
         Ethernet only",
        hardware_name(*hardware)
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// Its `ARPHRD_` number.
        hardware: u16,
    },
    /// The kernel did not say what was asked of it.
    #[error("{name}: cannot read its {what}: {source}")]
    Query {
        /// The interface.
        name: String,
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// The interface was there and was removed, or moved to another network namespace.
    #[error("{name} is gone: it was removed or moved to another network namespace")]
    Gone {
        /// The interface.
        name: String,
    },
    /// The thread left the network namespace in which the interface was found.
    #[error("{name} is in another network namespace than this thread")]
    OtherNamespace {
        /// The interface.
        name: String,
    },
    /// No socket to ask the kernel with.
    #[error("cannot open a socket to ask about network interfaces: {0}")]
    Socket(#[source] Errno),
    /// Promiscuous mode was refused.
    #[error("{name}: cannot make it promiscuous: {source}{}", privilege_hint(*source))]
    Promiscuous {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// No subscription to link changes.
    #[error("cannot watch network interfaces through netlink: {0}")]
    Watch(#[source] Errno),
    /// The kernel is older than this program needs.
    #[error("this is Linux {found}: version {major}.{minor} or newer is needed; boot a newer kernel")]
    KernelTooOld {
        /// What `uname -r` says.
        found: String,
        /// Major version needed.
        major: u32,
        /// Minor version needed.
        minor: u32,
    },
    /// Another process uses the NIC.
    #[error(
        "{name} is held by iou-fast, {}: one process at a time can use a NIC; end that one, or serve \
         all routers of this NIC from it",
        holder(*pid)
    )]
    Held {
        /// The interface.
        name: String,
        /// The holder's process id in its own pid namespace, where it could be read.
        pid: Option<u32>,
    },
    /// The directory for locks and records cannot be used.
    #[error("{}: cannot {what}: {source}; it holds the locks of NICs in use: run as root, or name a directory of your own with --state-dir", path.display())]
    StateDir {
        /// The directory or the file in it.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// The directory for locks and records could be tampered with.
    #[error(
        "{}: it must be a directory that belongs to the user who runs iou-fast (uid {uid}) and that no other user may \
         write to; remove it or correct it by chown and chmod 0700",
        path.display()
    )]
    StateDirUnsafe {
        /// The directory.
        path: PathBuf,
        /// The user it should belong to.
        uid: u32,
    },
    /// The offload features were not to be changed.
    #[error("{name}: cannot change its offloads ({features}): {source}{}", privilege_hint(*source))]
    Offload {
        /// The interface.
        name: String,
        /// The features, separated by blanks.
        features: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// An XDP program is on the NIC already.
    #[error("{name} {attached}")]
    Occupied {
        /// The interface.
        name: String,
        /// The program and how to remove it.
        attached: Box<attach::AttachedProgram>,
    },
    /// Zero-copy and the generic mode exclude each other.
    #[error("{0}: zero-copy needs native XDP, which this NIC's driver does not have")]
    ZeroCopyGeneric(String),
    /// The XDP program was refused.
    #[error("{name}: cannot attach the XDP program in {mode} mode: {source}: {hint}")]
    Attach {
        /// The interface.
        name: String,
        /// The mode tried last.
        mode: attach::XdpMode,
        /// The kernel's answer.
        source: Errno,
        /// What it means and what to try.
        hint: String,
    },
}

/// A NIC, or whatever else the kernel shows as an Ethernet interface.
#[derive(Clone, Debug)]
pub struct Nic {
    /// In the NIC's network namespace, whatever the calling thread does later.
    socket: Arc<DeviceSocket>,
    name: String,
    index: u32,
    mac: Mac,
    found: LinkState,
    rx_queues: u32,
    tx_queues: u32,
    driver: String,
    namespace: u64,
}

/// Whether a NIC can carry frames now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Set up by the administrator: `ip link set dev eth0 up`.
    pub up: bool,
    /// The other end is there: cable, switch port, peer of a veth.
    pub carrier: bool,
    /// Bytes a frame may hold behind its Ethernet header (14 bytes, 18 or 22 with tags).
    pub mtu: u32,
}

impl Nic {
    /// The Ethernet interface called `name`, or known by it as an alternative name, in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// [`Error::NoSuchInterface`], [`Error::NotEthernet`], [`Error::Query`].
    pub fn find(name: &str) -> Result<Self, Error> {
        let socket = DeviceSocket::open().map_err(Error::Socket)?;
        let missing = || Error::NoSuchInterface { name: name.to_owned(), present: interface_names() };
        // The kernel takes `eth0:1`, an alias address of old, for eth0: no name that we were given.
        if name.contains(':') {
            return Err(missing());
        }
        let index = socket.index(name).map_err(|_| missing())?;
        let name = socket.name(index).map_err(|_| missing())?;
        Self::known(socket, index, name)
    }

    /// The Ethernet interface number `index` of the calling thread's network namespace, whatever it is called now.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::NotEthernet`], [`Error::Query`].
    pub(crate) fn at(index: u32) -> Result<Self, Error> {
        let socket = DeviceSocket::open().map_err(Error::Socket)?;
        let gone = |_| Error::Gone { name: format!("interface {index}") };
        let name = socket.name(index).map_err(gone)?;
        Self::known(socket, index, name)
    }

    fn known(socket: DeviceSocket, index: u32, name: String) -> Result<Self, Error> {
        let query = |what| {
            let name = name.clone();
            move |source| Error::Query { name, what, source }
        };
        let (hardware, mac) = socket.hardware_address(&name).map_err(query("address"))?;
        if hardware != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet { name, hardware });
        }
        Ok(Self {
            index,
            mac: Mac(mac),
            found: link_state(&socket, &name).map_err(query("state"))?,
            // What has no queues to speak of has one.
            rx_queues: socket.rx_queues(&name).unwrap_or(1).max(1),
            tx_queues: socket.tx_queues(&name).unwrap_or(1).max(1),
            driver: socket.driver(&name).unwrap_or_default(),
            namespace: socket.namespace().map_err(query("network namespace"))?,
            name,
            socket: Arc::new(socket),
        })
    }

    /// The name under which it was found; not an alternative name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number for it, unique within its network namespace.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Its own Ethernet address, as it was when found.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Its MTU in bytes, as it was when found.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.found.mtu
    }

    /// Its state when it was found.
    #[must_use]
    pub const fn state(&self) -> LinkState {
        self.found
    }

    /// The number of its receive queues, 1 or more. Each needs an AF_XDP socket.
    #[must_use]
    pub const fn rx_queues(&self) -> u32 {
        self.rx_queues
    }

    /// The number of its transmit queues, 1 or more, 1 where the driver does not say. The kernel sends nothing, and
    /// does not say so, from an AF_XDP socket on a queue beyond them (`xsk_generic_xmit`).
    #[must_use]
    pub const fn tx_queues(&self) -> u32 {
        self.tx_queues
    }

    /// The numbers of its receive and of its transmit queues now, as [`rx_queues`](Self::rx_queues) and
    /// [`tx_queues`](Self::tx_queues) were when it was found.
    #[must_use]
    pub fn refresh_queues(&self) -> (u32, u32) {
        let Ok(name) = self.name_now() else { return (self.rx_queues, self.tx_queues) };
        let rx = self.socket.rx_queues(&name).unwrap_or(self.rx_queues);
        (rx.max(1), self.socket.tx_queues(&name).unwrap_or(self.tx_queues).max(1))
    }

    /// The most receive queues that it can be given (`ethtool -L`).
    #[must_use]
    pub fn max_rx_queues(&self) -> u32 {
        self.socket.max_rx_queues(&self.name).unwrap_or(0).max(self.rx_queues)
    }

    /// Its driver as `ethtool -i` names it, empty where it has no name: `ixgbe`, `virtio_net`, `veth`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// A warning for the user about kinds of interface that work, but not as a NIC does.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        warning(&self.driver)
    }

    /// Whether it is a VLAN, macvlan or the like of another interface: GRO and LRO are that one's then, whatever it shows.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        matches!(&*self.driver, "802.1Q VLAN Support" | "macvlan" | "ipvlan")
    }

    /// What this NIC receives, with the XDP program in generic mode or not, and cannot turn off itself: each with what
    /// prevents it. Call it in the network namespace of the NIC.
    ///
    /// # Errors
    /// [`Error::Watch`], [`Error::OtherNamespace`].
    pub fn issues(&self, generic: bool) -> Result<Vec<lower::Issue>, Error> {
        lower::issues(self, generic)
    }

    /// Its state now. Follows the NIC when it is renamed.
    ///
    /// # Errors
    /// [`Error::Gone`] once it was removed.
    pub fn refresh_state(&self) -> Result<LinkState, Error> {
        let name = self.name_now()?;
        link_state(&self.socket, &name).map_err(|source| match source {
            Errno::NODEV => self.gone(),
            source => Error::Query { name, what: "state", source },
        })
    }

    /// Its own Ethernet address now.
    #[must_use]
    pub fn refresh_mac(&self) -> Mac {
        let address = self.name_now().ok().and_then(|name| self.socket.hardware_address(&name).ok());
        address.map_or(self.mac, |(_, mac)| Mac(mac))
    }

    /// Its name now, for requests that go by name.
    ///
    /// # Errors
    /// [`Error::Gone`] once it was removed.
    pub fn name_now(&self) -> Result<String, Error> {
        self.socket.name(self.index).map_err(|_| self.gone())
    }

    /// Its name when a removal that is under way has come to its end: `ethtool` requests wait for that (`rtnl_lock`).
    ///
    /// # Errors
    /// [`Error::Gone`] once it was removed.
    pub fn name_after_all(&self) -> Result<String, Error> {
        let _ = self.socket.driver(&self.name_now()?);
        self.name_now()
    }

    fn gone(&self) -> Error {
        Error::Gone { name: self.name.clone() }
    }

    /// Some requests know an interface by its number in the namespace of the calling thread: elsewhere they would
    /// fall on another NIC.
    fn require_own_namespace(&self) -> Result<(), Error> {
        let here = DeviceSocket::open().and_then(|socket| socket.namespace()).map_err(Error::Socket)?;
        if here != self.namespace {
            return Err(Error::OtherNamespace { name: self.name.clone() });
        }
        Ok(())
    }
}

fn link_state(socket: &DeviceSocket, name: &str) -> Result<LinkState, Errno> {
    let flags = i32::from(socket.flags(name)?);
    let up = flags & libc::IFF_UP != 0;
    Ok(LinkState {
        up,
        // The flag follows the carrier up to a second late (net/core/link_watch.c). AF_XDP sends as soon as it is there.
        carrier: up && socket.has_link(name).unwrap_or(flags & libc::IFF_RUNNING != 0),
        mtu: socket.mtu(name)?,
    })
}

fn warning(driver: &str) -> Option<&'static str> {
    Some(match driver {
        "bridge" => {
            "a bridge itself: XDP is generic there, sees no VLAN tags and never what the host sends; add a veth pair to \
             the bridge and use the far end of that"
        }
        "bonding" | "team" => {
            "a bond: XDP runs in front of it only where every member's driver can; else it sees no VLAN tags"
        }
        "vxlan" | "geneve" | "gretap" => {
            "a tunnel: XDP is generic there, behind GRO of the NIC that its packets come by; with `ethtool -K CARD gro \
             off lro off` that makes no frames above the MTU"
        }
        "802.1Q VLAN Support" => {
            "stacked on another interface: XDP is generic there, and addresses of routers may be filtered below it"
        }
        "macvlan" | "ipvlan" => {
            "stacked on another interface: XDP is generic there and sees no VLAN tags, and addresses of routers may be \
             filtered below it"
        }
        "tun" => {
            "a TAP: it serves the program that holds its other side; XDP never sees what the host sends out of it"
        }
        _ => return None,
    })
}

fn hardware_name(hardware: u16) -> &'static str {
    match hardware {
        libc::ARPHRD_LOOPBACK => "the loopback",
        libc::ARPHRD_PPP => "a PPP link",
        libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 | libc::ARPHRD_SIT | libc::ARPHRD_IPGRE => "an IP tunnel",
        libc::ARPHRD_INFINIBAND => "InfiniBand",
        0xfffe => "a device without link-layer addresses, such as a TUN or WireGuard",
        _ => "something else",
    }
}

/// The end of a message about `EPERM`, where the errno alone leaves one guessing.
fn privilege_hint(errno: Errno) -> &'static str {
    if matches!(errno, Errno::PERM | Errno::ACCESS) {
        "; run as root (CAP_NET_ADMIN, CAP_NET_RAW)"
    } else {
        ""
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "process unknown".to_owned(), |pid| format!("pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = Error::Held { name: "eth0".into(), pid: Some(1234) };
        assert!(error.to_string().starts_with("eth0 is held by iou-fast, pid 1234:"));
        let error = Error::NotEthernet { name: "lo".into(), hardware: libc::ARPHRD_LOOPBACK };
        assert!(error.to_string().contains("lo is not an Ethernet interface but the loopback"));
        let present = vec!["lo".to_owned(), "eth0".to_owned()];
        let error = Error::NoSuchInterface { name: "eth9".into(), present };
        assert_eq!(error.to_string(), "no network interface \"eth9\" here; there are: lo, eth0");
        let error = Error::Promiscuous { name: "eth0".into(), source: Errno::PERM };
        assert!(error.to_string().contains("run as root"));
        let error = Error::Promiscuous { name: "eth0".into(), source: Errno::NODEV };
        assert!(!error.to_string().contains("run as root"));
    }

    #[test]
    fn only_odd_interfaces_get_a_warning() {
        assert!(warning("bridge").is_some_and(|text| text.contains("veth")));
        assert_eq!(warning("ixgbe"), None);
        assert_eq!(warning("veth"), None);
        assert_eq!(warning(""), None);
    }
}
