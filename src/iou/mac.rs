//! The MAC addresses that routers make for their interfaces.
//!
//! They follow from the instance id and the interface, so a router is reachable before it has said a
//! word. Addresses that are not derived (HSRP, VRRP, `mac-address` set by hand) are learned: [`crate::fdb`].

use super::Endpoint;
use crate::ether::Mac;

/// Current images: `aa:bb:cc:HH:LL:PP`, HHLL the instance id, PP the interface byte.
#[must_use]
pub const fn current(endpoint: Endpoint) -> Mac {
    let [high, low] = endpoint.id.get().to_be_bytes();
    Mac([0xaa, 0xbb, 0xcc, high, low, endpoint.interface.0])
}

/// Older router images: byte 0 is `((id >> 7) & 6) << 4 | 0x0e`, then the low 24 bits of the uid, the id's low
/// byte, the interface byte.
#[must_use]
pub const fn old(endpoint: Endpoint, uid: u32) -> Mac {
    with_uid(endpoint, uid, 0x0e)
}

/// Some older L2 images: as [`old`], with 2 for E in byte 0's low nibble.
#[must_use]
pub const fn old_l2(endpoint: Endpoint, uid: u32) -> Mac {
    with_uid(endpoint, uid, 0x02)
}

/// All derived addresses of one interface, the current one first.
#[must_use]
pub const fn static_addresses(endpoint: Endpoint, uid: u32) -> [Mac; 3] {
    [current(endpoint), old(endpoint, uid), old_l2(endpoint, uid)]
}

const fn with_uid(endpoint: Endpoint, uid: u32, low_nibble: u8) -> Mac {
    let id = endpoint.id.get();
    let first = (((id >> 7) & 6) << 4) as u8 | low_nibble;
    let [_, a, b, c] = uid.to_be_bytes();
    Mac([first, a, b, c, id.to_be_bytes()[1], endpoint.interface.0])
}

#[cfg(test)]
mod tests {
    use super::super::{InstanceId, Interface};
    use super::*;
    use proptest::prelude::*;

    fn endpoint(id: u16, bay: u8, unit: u8) -> Endpoint {
        Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface::new(bay, unit).unwrap() }
    }

    #[test]
    fn current_images() {
        assert_eq!(current(endpoint(1, 0, 1)).to_string(), "aa:bb:cc:00:01:10");
        assert_eq!(current(endpoint(1023, 3, 2)).to_string(), "aa:bb:cc:03:ff:23");
    }

    #[test]
    fn old_images_spread_the_id_over_the_first_byte() {
        let firsts = [1, 256, 512, 768].map(|id| old(endpoint(id, 0, 0), 1000).0[0]);
        assert_eq!(firsts, [0x0e, 0x2e, 0x4e, 0x6e]);
        let firsts = [1, 256, 512, 768].map(|id| old_l2(endpoint(id, 0, 0), 1000).0[0]);
        assert_eq!(firsts, [0x02, 0x22, 0x42, 0x62]);
        assert_eq!(old(endpoint(300, 1, 0), 1000).to_string(), "2e:00:03:e8:2c:01");
    }

    proptest! {
        /// The BPF program looks a destination up among the static_addresses ones only if its U/L bit is set.
        #[test]
        fn every_derived_address_is_locally_administered_unicast(id in 1u16..=1024, interface: u8, uid: u32) {
            let endpoint = Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface(interface) };
            for mac in static_addresses(endpoint, uid) {
                prop_assert!(!mac.is_multicast());
                prop_assert!(mac.0[0] & 2 != 0);
            }
        }
    }
}
