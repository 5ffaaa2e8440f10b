//! What a killed iou-fast left on interfaces of this network namespace.

use super::lock::{self, NicLock};
use super::offload::Offloads;
use super::{Error, Nic};
use crate::sys::device::DeviceSocket;
use std::path::Path;

/// An interface of which there was a record that no process held.
#[derive(Debug)]
pub struct Left {
    /// The interface, by name.
    pub interface: String,
    /// The offloads that were turned on again, by their names in ethtool; or why that failed, and the record stays.
    pub outcome: Result<Vec<String>, Error>,
}

/// Turns on again what is recorded in `state_dir` of interfaces of this network namespace that no process holds, and
/// removes their locks.
///
/// # Errors
/// [`Error::Socket`]; [`Error::StateDir`] and [`Error::StateDirUnsafe`] where the directory cannot be used.
pub fn put_back(state_dir: &Path) -> Result<Vec<Left>, Error> {
    let namespace = DeviceSocket::open().and_then(|socket| socket.namespace()).map_err(Error::Socket)?;
    let mut left = Vec::new();
    for index in lock::seen(state_dir, namespace)? {
        // Held: another iou-fast has started and taken the record over, or still runs.
        let Ok(Some(lock)) = NicLock::take_left(state_dir, namespace, index) else { continue };
        match Nic::at(index) {
            Ok(nic) => left.push(Left { outcome: Offloads::put_back(&nic, &lock), interface: nic.name }),
            // There is no interface to give anything back to.
            Err(Error::Gone { .. }) => drop(lock.remove_record()),
            Err(error) => left.push(Left { interface: format!("interface {index}"), outcome: Err(error) }),
        }
    }
    Ok(left)
}
