//! `bpf_link_create` for XDP: libbpf-rs cannot choose between native and generic mode. And what became of such a link.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Attaches `program` to interface number `index` of the calling thread's network namespace, by a link that
/// detaches it when its last descriptor is closed. `flags` is one of `XDP_FLAGS_DRV_MODE` and
/// `XDP_FLAGS_SKB_MODE`.
///
/// # Errors
/// Whatever the kernel or the driver says; `nic::attach` explains it.
pub fn link_xdp(program: BorrowedFd<'_>, index: u32, flags: u32) -> Result<OwnedFd, Errno> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags,
        ..Default::default()
    };
    // SAFETY: `options` is live, says its own size, and holds no pointer that is not null.
    let result = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            index.cast_signed(),
            libbpf_sys::BPF_XDP,
            &raw const options,
        )
    };
    if result < 0 {
        // libbpf 1.x returns the negative errno.
        return Err(Errno::from_raw_os_error(-result));
    }
    // SAFETY: a successful call returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// The number of the interface that `link`, one of [`link_xdp`], is on; 0 once it is on none, because the interface has
/// gone or the link was detached (`bpftool link detach`).
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub fn linked_to(link: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` is a live bpf_link_info of the size given, without pointers in it that are not null.
    let result =
        unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut size) };
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result));
    }
    // SAFETY: the link is one of `link_xdp`, for which the kernel fills in the union's `xdp`, an integer.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}
