//! What the kernel tells about a network interface by `ioctl` (`netdevice(7)`).
//!
//! Not from `/sys/class/net`: a mounted sysfs may show another network namespace than the thread's own.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A socket for `ioctl` alone. It stays in the network namespace in which it was opened, wherever the threads
/// that use it later go.
#[derive(Debug)]
pub struct DeviceSocket(OwnedFd);

impl DeviceSocket {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn open() -> Result<Self, Errno> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).map(Self)
    }

    /// The number of the interface called `name`, or known by it as an alternative name.
    ///
    /// # Errors
    /// `ENODEV`: there is none.
    pub fn index(&self, name: &str) -> Result<u32, Errno> {
        rustix::net::netdevice::name_to_index(&self.0, name)
    }

    /// The present name of interface number `index`.
    ///
    /// # Errors
    /// `ENODEV` or `ENXIO`: there is none.
    pub fn name(&self, index: u32) -> Result<String, Errno> {
        rustix::net::netdevice::index_to_name(&self.0, index)
    }

    /// The interface's flags, `IFF_UP`, `IFF_RUNNING` and so on.
    ///
    /// # Errors
    /// `ENODEV`: no such interface.
    pub fn flags(&self, name: &str) -> Result<u16, Errno> {
        let request = self.ask(name, libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel filled in `ifru_flags`; any bits are a valid integer.
        Ok(unsafe { request.ifr_ifru.ifru_flags }.cast_unsigned())
    }

    /// The interface's MTU in bytes: the largest frame without its Ethernet header.
    ///
    /// # Errors
    /// `ENODEV`: no such interface.
    pub fn mtu(&self, name: &str) -> Result<u32, Errno> {
        let request = self.ask(name, libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU succeeded, so the kernel filled in `ifru_mtu`; any bits are a valid integer.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
    }

    /// The interface's hardware type (`ARPHRD_ETHER` and so on) and the first six bytes of its address.
    ///
    /// # Errors
    /// `ENODEV`: no such interface.
    pub fn hardware_address(&self, name: &str) -> Result<(u16, [u8; 6]), Errno> {
        let request = self.ask(name, libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR succeeded, so the kernel filled in `ifru_hwaddr`; any bits are valid integers.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from.cast_unsigned();
        }
        Ok((address.sa_family, mac))
    }

    /// The number of the socket's network namespace. Unlike the inode number of `/proc/self/ns/net` the kernel
    /// never gives it to a second namespace until the next boot.
    ///
    /// # Errors
    /// `ENOPROTOOPT`: a kernel before 5.14.
    pub fn namespace(&self) -> Result<u64, Errno> {
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals, and `length` is the size of the first.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        check(result).map(|()| cookie)
    }

    /// Calls `ioctl(request)` with an `ifreq` that holds `name` and `argument`.
    ///
    /// # Safety
    /// What `request` makes the kernel read or write behind `argument` must be valid for it.
    pub(super) unsafe fn ioctl(
        &self,
        name: &str,
        request: libc::c_ulong,
        argument: libc::__c_anonymous_ifr_ifru,
    ) -> Result<libc::ifreq, Errno> {
        let mut ifreq = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: argument };
        if name.len() >= libc::IFNAMSIZ {
            return Err(Errno::NODEV);
        }
        for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: `ifreq` is live and of the type that interface requests take, its name ends in a zero; the
        // caller answers for what its argument points to.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &raw mut ifreq) })?;
        Ok(ifreq)
    }

    /// A request that takes nothing but the name.
    fn ask(&self, name: &str, request: libc::c_ulong) -> Result<libc::ifreq, Errno> {
        // SAFETY: the callers' requests (SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR) follow no pointer.
        unsafe { self.ioctl(name, request, libc::__c_anonymous_ifr_ifru { ifru_map: NO_MAP }) }
    }
}

/// All bytes of the request's argument as zero.
const NO_MAP: libc::__c_anonymous_ifru_map =
    libc::__c_anonymous_ifru_map { mem_start: 0, mem_end: 0, base_addr: 0, irq: 0, dma: 0, port: 0 };

/// The names of all interfaces in the calling thread's network namespace, in the kernel's order.
#[must_use]
pub fn interface_names() -> Vec<String> {
    // SAFETY: no arguments; the result is null or a list of ours until it is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Vec::new();
    }
    let mut names = Vec::new();
    let mut entry = list;
    // SAFETY: the list ends with an entry of index 0, and is not read beyond; names in it are C strings that
    // live until the list is freed, once, after its last use.
    unsafe {
        while (*entry).if_index != 0 {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

/// Turns the -1 of a C call into its errno.
pub(super) fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
