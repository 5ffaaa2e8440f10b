//! What a router reads from NETMAP when it boots, and its check of every header that arrives.

use crate::iou::header::{self, Header, TYPE_DATA};
use crate::iou::{Endpoint, InstanceId, Interface};
use std::collections::BTreeMap;

/// The shortest datagram with a frame in it: the header and an Ethernet header.
pub const SHORTEST: usize = header::LEN + 14;

/// The interfaces of one router and, for each, the endpoints at the other ends of its cables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wiring {
    router: InstanceId,
    interfaces: Vec<(Interface, Vec<Endpoint>)>,
}

/// Why a router drops a datagram without a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Too short for the header and an Ethernet header.
    Short,
    /// The destination id is another's.
    WrongId,
    /// The destination interface is not in NETMAP for this router.
    WrongInterface,
    /// The source id and interface share no NETMAP line with the destination interface.
    WrongSource,
    /// Not a data message.
    WrongType,
}

impl Wiring {
    /// The wiring of `router` in a NETMAP whose lines are `lines`.
    ///
    /// Interfaces come in the order of bay and unit: 0/0, 0/1, 1/0.
    #[must_use]
    pub fn of(router: InstanceId, lines: impl IntoIterator<Item: AsRef<[Endpoint]>>) -> Self {
        let mut interfaces: BTreeMap<(u8, u8), Vec<Endpoint>> = BTreeMap::new();
        for line in lines {
            let line = line.as_ref();
            for own in line.iter().filter(|end| end.id == router) {
                let peers = interfaces.entry((own.interface.bay(), own.interface.unit())).or_default();
                peers.extend(line.iter().filter(|end| *end != own));
            }
        }
        let interfaces = interfaces
            .into_iter()
            .map(|((bay, unit), mut peers)| {
                peers.sort_unstable();
                peers.dedup();
                (Interface(bay | unit << 4), peers)
            })
            .collect();
        Self { router, interfaces }
    }

    /// The router whose wiring this is.
    #[must_use]
    pub fn router(&self) -> InstanceId {
        self.router
    }

    /// Its interfaces by bay and unit, each with the endpoints it sends to (sorted).
    #[must_use]
    pub fn interfaces(&self) -> &[(Interface, Vec<Endpoint>)] {
        &self.interfaces
    }

    /// The index in [`Wiring::interfaces`] of the interface that `datagram` is for. Its first [`SHORTEST`] bytes
    /// are enough.
    ///
    /// # Errors
    /// The first reason to drop it, in the order of [`Refusal`].
    pub fn check(&self, datagram: &[u8]) -> Result<usize, Refusal> {
        if datagram.len() < SHORTEST {
            return Err(Refusal::Short);
        }
        let header = Header::read(datagram).ok_or(Refusal::Short)?;
        if header.destination_id() != self.router.get() {
            return Err(Refusal::WrongId);
        }
        let to = header.destination_interface();
        let index = self.interfaces.iter().position(|(own, _)| *own == to).ok_or(Refusal::WrongInterface)?;
        let source = header.source().ok_or(Refusal::WrongSource)?;
        if self.interfaces[index].1.binary_search(&source).is_err() {
            return Err(Refusal::WrongSource);
        }
        if header.message_type() != TYPE_DATA {
            return Err(Refusal::WrongType);
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{datagram, endpoint};
    use super::*;

    fn wiring() -> Wiring {
        let lines = [
            vec![endpoint(1, 0, 1), endpoint(501, 0, 0)],
            vec![endpoint(2, 0, 0), endpoint(1, 1, 0), endpoint(3, 0, 0)],
            vec![endpoint(1, 0, 0)],
            vec![endpoint(2, 0, 1), endpoint(501, 0, 1)],
        ];
        Wiring::of(InstanceId::new(1).unwrap(), lines)
    }

    #[test]
    fn interfaces_by_bay_and_unit_with_all_other_ends() {
        let wiring = wiring();
        let shown: Vec<_> = wiring.interfaces().iter().map(|(i, peers)| format!("{i} {peers:?}")).collect();
        assert_eq!(shown, ["0/0 []", "0/1 [501:0/0]", "1/0 [2:0/0, 3:0/0]"]);
    }

    #[test]
    fn what_netmap_allows_is_accepted() {
        let wiring = wiring();
        assert_eq!(wiring.check(&datagram(endpoint(1, 0, 1), endpoint(501, 0, 0))), Ok(1));
        assert_eq!(wiring.check(&datagram(endpoint(1, 1, 0), endpoint(3, 0, 0))), Ok(2));
    }

    #[test]
    fn all_four_fields_the_type_and_the_length_count() {
        let wiring = wiring();
        let good = datagram(endpoint(1, 0, 1), endpoint(501, 0, 0));
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            wiring.check(&bad)
        };
        assert_eq!(with(1, 2), Err(Refusal::WrongId));
        assert_eq!(with(0, 1), Err(Refusal::WrongId));
        assert_eq!(with(4, 0x30), Err(Refusal::WrongInterface));
        // On the wrong line: 501:0/0 is not at the other end of 1/0, nor of 0/0, which has no other end.
        assert_eq!(with(4, 0x01), Err(Refusal::WrongSource));
        assert_eq!(with(4, 0x00), Err(Refusal::WrongSource));
        assert_eq!(with(3, 0xf6), Err(Refusal::WrongSource));
        assert_eq!(with(2, 0xff), Err(Refusal::WrongSource));
        assert_eq!(with(5, 0x10), Err(Refusal::WrongSource));
        assert_eq!(with(6, 0), Err(Refusal::WrongType));
        assert_eq!(with(6, 3), Err(Refusal::WrongType));
        assert_eq!(wiring.check(&good[..SHORTEST]), Ok(1));
        assert_eq!(wiring.check(&good[..SHORTEST - 1]), Err(Refusal::Short));
        assert_eq!(wiring.check(&[]), Err(Refusal::Short));
    }
}
