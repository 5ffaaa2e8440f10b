//! Promiscuous mode: a NIC takes in frames for the routers' addresses, not only for its own.

use super::{Error, Nic};
use std::os::fd::OwnedFd;

/// Keeps a NIC promiscuous until it is dropped or the process ends, however it ends: the kernel counts
/// it as a membership of this open socket, beside those of others (`promiscuity` in `ip -d link`).
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    /// Makes `nic` promiscuous. Call it in the network namespace of the NIC.
    ///
    /// # Errors
    /// [`Error::OtherNamespace`]; [`Error::Promiscuous`] without CAP_NET_RAW or when the NIC is gone.
    pub fn join(nic: &Nic) -> Result<Self, Error> {
        nic.require_own_namespace()?;
        let name = || nic.name().to_owned();
        let socket = crate::sys::packet::promiscuous(nic.index())
            .map_err(|source| Error::Promiscuous { name: name(), source })?;
        Ok(Self { _socket: socket })
    }
}
