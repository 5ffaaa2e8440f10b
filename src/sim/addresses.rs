//! Which IP addresses the simulated routers have.

use super::Error;
use crate::iou::InstanceId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network with its prefix length, written `10.10.0.0/16` or `fd00:10::/64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network<A> {
    /// The first address.
    pub base: A,
    /// Bits that all addresses share.
    pub prefix: u8,
}

/// Parses `ADDRESS/PREFIX`; `bits` is the address length.
fn parse<A: FromStr>(text: &str, bits: u8) -> Option<Network<A>> {
    let (base, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=bits).contains(prefix))?;
    Some(Network { base: base.parse().ok()?, prefix })
}

impl FromStr for Network<Ipv4Addr> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network: Self = parse(text, 32).ok_or("not an IPv4 network such as 10.10.0.0/16")?;
        let host = u32::MAX.checked_shr(network.prefix.into()).unwrap_or(0);
        if u32::from(network.base) & host != 0 {
            return Err("the address must be the first of its network");
        }
        Ok(network)
    }
}

impl FromStr for Network<Ipv6Addr> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network: Self = parse(text, 128).ok_or("not an IPv6 network such as fd00:10::/64")?;
        let host = u128::MAX.checked_shr(network.prefix.into()).unwrap_or(0);
        if u128::from(network.base) & host != 0 {
            return Err("the address must be the first of its network");
        }
        Ok(network)
    }
}

/// The networks the simulated routers live in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// IPv4.
    pub v4: Network<Ipv4Addr>,
    /// IPv6.
    pub v6: Network<Ipv6Addr>,
}

impl Addresses {
    /// The IPv4 address of router `id`: `base + (id / 250) * 256 + id % 250 + 1`, so that the last byte is never 0
    /// or 255 and 251 to 254 stay free for others.
    ///
    /// # Errors
    /// [`Error::Address`] if the network is too small.
    pub fn v4(&self, id: InstanceId) -> Result<Ipv4Addr, Error> {
        let n = u32::from(id.get());
        let offset = n / 250 * 256 + n % 250 + 1;
        let last = u32::MAX.checked_shr(self.v4.prefix.into()).unwrap_or(0);
        if offset >= last {
            return Err(Error::Address { id, network: format!("{}/{}", self.v4.base, self.v4.prefix) });
        }
        Ok(Ipv4Addr::from(u32::from(self.v4.base) + offset))
    }

    /// The IPv6 address of router `id`: `base + id`.
    ///
    /// # Errors
    /// [`Error::Address`] if the network is too small.
    pub fn v6(&self, id: InstanceId) -> Result<Ipv6Addr, Error> {
        let offset = u128::from(id.get());
        if offset > u128::MAX.checked_shr(self.v6.prefix.into()).unwrap_or(0) {
            return Err(Error::Address { id, network: format!("{}/{}", self.v6.base, self.v6.prefix) });
        }
        Ok(Ipv6Addr::from(u128::from(self.v6.base) + offset))
    }

    /// Both addresses of router `id`, IPv4 first.
    ///
    /// # Errors
    /// [`Error::Address`] if a network is too small.
    pub fn both(&self, id: InstanceId) -> Result<[IpAddr; 2], Error> {
        Ok([self.v4(id)?.into(), self.v6(id)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses { v4: "10.10.0.0/16".parse().unwrap(), v6: "fd00:10::/64".parse().unwrap() }
    }

    #[test]
    fn addresses_of_routers() {
        let shown = [1, 249, 250, 1024].map(|id| {
            let [v4, v6] = addresses().both(InstanceId::new(id).unwrap()).unwrap();
            format!("{v4} {v6}")
        });
        let wanted = [
            "10.10.0.2 fd00:10::1",
            "10.10.0.250 fd00:10::f9",
            "10.10.1.1 fd00:10::fa",
            "10.10.4.25 fd00:10::400",
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn networks_too_small_or_misspelt() {
        let small = Addresses { v4: "10.0.0.0/24".parse().unwrap(), v6: "fd00::/120".parse().unwrap() };
        assert!(small.v4(InstanceId::new(249).unwrap()).is_ok());
        assert!(small.v4(InstanceId::new(250).unwrap()).is_err());
        assert!(small.v6(InstanceId::new(255).unwrap()).is_ok());
        assert!(small.v6(InstanceId::new(256).unwrap()).is_err());
        for text in ["10.10.0.0", "10.10.0.1/16", "10.10.0.0/33", "10.10.0.0/0", "x/16"] {
            assert!(text.parse::<Network<Ipv4Addr>>().is_err(), "{text}");
        }
        assert!("fd00::1/64".parse::<Network<Ipv6Addr>>().is_err());
    }
}
