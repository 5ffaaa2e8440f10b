//! `bpf_link_create` for XDP: libbpf-rs cannot choose between native and generic mode.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Attaches `program` to interface number `index` of the calling thread's network namespace, by a link that
/// detaches it when its last descriptor is closed. `flags` is one of `XDP_FLAGS_DRV_MODE` and
/// `XDP_FLAGS_SKB_MODE`.
///
/// # Errors
/// Whatever the kernel or the driver says; [`crate::nic::attach`] explains it.
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
    // SAFETY: a successful call returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
